from __future__ import annotations

import numpy as np

from c3d_extract.train.synthetic.canvas import Canvas, Texture


def _random_lines(rng: np.random.Generator, n_lines: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines (L, T, 2) in and around 30x40 pixels; half of them a point, level, or upright."""
    starts, ends = rng.uniform(-15, 55, (2, n_lines, n_frames, 2))
    kind = rng.integers(0, 6, (n_lines, n_frames))
    ends[kind == 0] = starts[kind == 0]
    ends[kind == 1, 0], ends[kind == 2, 1] = starts[kind == 1, 0], starts[kind == 2, 1]
    return starts, ends


def _distances(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of each of 30x40 pixels from a line between two points."""
    pixels = np.stack(np.meshgrid(np.arange(40.0), np.arange(30.0)), axis=-1)
    axis = end - start
    along = np.clip((pixels - start) @ axis / max(axis @ axis, 1e-12), 0, 1)
    distances: np.ndarray = np.linalg.norm(pixels - start - along[..., None] * axis, axis=-1)
    return distances


def test_near_a_line_are_the_pixels_within_reach_each_once() -> None:
    rng = np.random.default_rng(1)
    starts, ends = _random_lines(rng, 60, 4)
    reach = rng.uniform(0.3, 9, (60, 4))
    near = Canvas(np.zeros((3, 4, 30, 40), np.float32)).near(starts, ends, reach)
    found = list(zip(near.box[near.run].tolist(), near.place.tolist(), strict=True))
    assert len(found) == len(set(found))
    expected = {
        (4 * line + frame, frame * 1200 + int(pixel))
        for line in range(60)
        for frame in range(4)
        for pixel in np.flatnonzero(_distances(starts[line, frame], ends[line, frame]) <= reach[line, frame])
    }
    assert set(found) == expected


def test_capsules_are_painted_in_their_order_with_soft_rims() -> None:
    rng = np.random.default_rng(2)
    starts, ends = _random_lines(rng, 20, 3)
    radii = rng.uniform(0.45, 6, 20)
    colours = rng.random((20, 2, 3)).astype(np.float32)
    textures = [Texture(one, two, "plain", 1, opacity=float(rng.choice([0.3, 1]))) for one, two in colours]
    painted = Canvas(np.full((3, 3, 30, 40), 0.5, np.float32))
    painted.capsules(starts, ends, radii[:, None] + np.zeros(starts.shape[1]), textures)
    expected = np.full((3, 3, 30, 40), 0.5)
    for line, (radius, texture) in enumerate(zip(radii, textures, strict=True)):
        outer, inner = (radius + 0.5) ** 2, max(radius - 0.5, 0) ** 2
        for frame in range(3):
            squared = _distances(starts[line, frame], ends[line, frame]) ** 2
            coverage = np.clip((outer - squared) / (outer - inner), 0, texture.opacity)
            expected[:, frame] += coverage * (texture.colour[:, None, None] - expected[:, frame])
    # float32 squares of up to 70 pixels are known to a few ten thousandths; a rim spans about a pixel.
    assert np.abs(painted.pixels - expected).max() < 2e-3
