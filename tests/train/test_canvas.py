from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates

from c3d_extract.train.synthetic import SyntheticClips, camera, canvas
from c3d_extract.train.synthetic.camera import Camera, _blurred, _compress, _cosines, _exposed, _Grain, _noise
from c3d_extract.train.synthetic.canvas import Canvas, Look

compiled = pytest.mark.skipif(
    find_spec("c3d_extract.train.synthetic._paint") is None, reason="there was no C compiler"
)


@pytest.fixture(params=[pytest.param("compiled", marks=compiled), "NumPy"])
def brush(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paint with the compiled loops, and as where they could not be compiled."""
    if request.param == "NumPy":
        _without_compiled_loops(monkeypatch)


def _without_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (canvas, camera):
        monkeypatch.setattr(module, "_paint", None)


def _random_lines(rng: np.random.Generator, n_lines: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines (L, T, 2) in and around 30x40 pixels; one in four a point, level, or upright."""
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
    row, place = near.each()
    found = list(zip(near.box[row].tolist(), (near.first[row] + place).tolist(), strict=True))
    assert len(found) == len(set(found))
    expected = {
        (4 * line + frame, frame * 1200 + int(pixel))
        for line in range(60)
        for frame in range(4)
        for pixel in np.flatnonzero(_distances(starts[line, frame], ends[line, frame]) <= reach[line, frame])
    }
    assert set(found) == expected


@pytest.mark.usefixtures("brush")
def test_rods_are_painted_in_their_order_with_soft_rims() -> None:
    rng = np.random.default_rng(2)
    starts, ends = _random_lines(rng, 20, 3)
    radii = rng.uniform(0.45, 6, 20)
    colours = rng.random((20, 2, 3)).astype(np.float32)
    looks = [Look(one, two, "plain", 1, strength=float(rng.choice([0.3, 1]))) for one, two in colours]
    painted = Canvas(np.full((3, 3, 30, 40), 0.5, np.float32))
    painted.rods(starts, ends, radii, looks)
    expected = np.full((3, 3, 30, 40), 0.5)
    for rod, (radius, look) in enumerate(zip(radii, looks, strict=True)):
        outer, inner = (radius + 0.5) ** 2, max(radius - 0.5, 0) ** 2
        for frame in range(3):
            squared = _distances(starts[rod, frame], ends[rod, frame]) ** 2
            cover = np.clip((outer - squared) / (outer - inner), 0, look.strength)
            expected[:, frame] += cover * (look.colour[:, None, None] - expected[:, frame])
    # float32 squares of up to 70 pixels are known to a few ten thousandths; a rim spans about a pixel.
    assert np.abs(painted.pixels - expected).max() < 2e-3


@pytest.mark.usefixtures("brush")
@pytest.mark.parametrize("size", [(2, 9, 7), (1, 1, 5), (3, 2, 2), (1, 5, 1)])
def test_blur_gives_shares_to_neighbours_and_leaves_the_edges(size: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(3).random((3, *size)).astype(np.float32)
    blurred = pixels.astype(float)
    for axis in (2, 3):
        line = np.moveaxis(blurred, axis, 0)
        line[1:-1] = 0.6 * line[1:-1] + 0.2 * (line[:-2] + line[2:])
    assert np.allclose(_blurred(pixels, np.float32(0.2)), blurred, atol=1e-6)  # float32 sums of three


@compiled
@pytest.mark.parametrize("size", [(16, 56, 56), (3, 41, 61), (4, 20, 530)])
def test_a_clip_is_the_same_to_the_bit_with_and_without_compiled_loops(
    size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = SyntheticClips("all", 11, size)
    compiled = [clips.clip(index)[0] for index in range(60)]
    _without_compiled_loops(monkeypatch)
    for index, frames in enumerate(compiled):
        assert np.array_equal(frames, clips.clip(index)[0]), index


@pytest.mark.usefixtures("brush")
def test_a_camera_samples_the_ground_as_scipy_does() -> None:
    rng = np.random.default_rng(4)
    ground = rng.random((3, 50, 60)).astype(np.float32)
    # Shifts alone, further than the ground reaches (mirrored), and zooming, in and out.
    looking = Camera(rng.uniform(-40, 40, (8, 2)), np.array([1, 1, 1, 1, 0.6, 1.7, 1.1, 0.9]))
    seen = looking.view(ground, (30, 40))
    for t in range(8):
        y, x = np.mgrid[:30, :40]
        at = [
            (position - (size - 1) / 2 - shift) / looking.zoom[t] + (whole - 1) / 2
            for position, size, shift, whole in (
                (y, 30, looking.shift[t, 1], 50),
                (x, 40, looking.shift[t, 0], 60),
            )
        ]
        for channel in range(3):
            expected = map_coordinates(ground[channel].astype(float), at, order=1, mode="mirror")
            # The last line is sampled a thousandth before its middle; float32 shares do the rest.
            assert np.abs(seen[channel, t] - expected).max() < 1.1e-3


@pytest.mark.usefixtures("brush")
@pytest.mark.parametrize("size", [(2, 24, 40), (1, 19, 531), (3, 7, 30)])
def test_compression_rounds_the_cosine_transform_of_whole_blocks(size: tuple[int, int, int]) -> None:
    levels = np.random.default_rng(5).uniform(0, 255, (3, *size)).astype(np.float32)
    expected, unsure = levels.astype(float), np.zeros(levels.shape, np.bool_)
    steps = 12 * (0.5 + 0.25 * np.add.outer(np.arange(8), np.arange(8)))
    for y in range(0, size[1] - 7, 8):
        for x in range(0, size[2] - 7, 8):
            block = (..., slice(y, y + 8), slice(x, x + 8))
            counts = dctn(expected[block], axes=(2, 3), norm="ortho") / steps
            unsure[block] = np.abs(counts % 1 - 0.5).min(axis=(2, 3), keepdims=True) < 1e-3
            expected[block] = idctn(np.rint(counts) * steps, axes=(2, 3), norm="ortho")
    _compress(levels, 12.0)
    # Sums of 8 float32 products of up to 255 twice over, there and back; blocks in which one
    # coefficient is a thousandth from being rounded the other way are left out, a few in a hundred.
    assert unsure.mean() < 0.25
    assert np.abs(levels - expected)[~unsure].max(initial=0) < 2e-3


@pytest.mark.usefixtures("brush")
@pytest.mark.parametrize("size", [(3, 20, 33), (1, 1, 1), (1, 840, 900)])
@pytest.mark.parametrize("grainy", [True, False])
def test_film_cuts_off_what_8_bits_do_not_hold(size: tuple[int, int, int], grainy: bool) -> None:
    rng = np.random.default_rng(6)
    pixels = rng.uniform(-0.2, 1.3, (3, *size)).astype(np.float32)
    starts = rng.integers(0, max((1 << 21) - pixels[:, 0].size, 0) + 1, size[0])
    grain = _Grain(np.float32(7), starts if grainy else starts[:0])
    seen = _exposed(pixels, np.float32(240), np.float32(-3), grain)
    expected = pixels.astype(float) * 240 - 3
    for t, start in enumerate(grain.starts):
        noise = np.resize(_noise()[start:], pixels[:, t].size)
        expected[:, t] += 7 * noise.reshape(pixels[:, t].shape)
    expected = np.moveaxis(expected.clip(0, 255), 0, -1)
    sure = np.abs(expected - np.rint(expected)) > 1e-3  # float32 may fall on the other side of a whole number
    sure |= (expected == 0) | (expected == 255)
    assert sure.mean() > 0.9 or seen.size < 10
    assert np.array_equal(seen[sure], expected.astype(np.uint8)[sure])


@compiled
def test_the_compiled_loops_refuse_what_would_read_or_write_outside() -> None:
    from c3d_extract.train.synthetic import _paint

    rng = np.random.default_rng(7)

    def floats(*shape: int) -> np.ndarray:
        return rng.random(shape).astype(np.float32)

    def places(*values: int) -> np.ndarray:
        return np.array(values, np.intp)

    right: dict[str, list[np.ndarray]] = {
        "cover": [floats(2, 7), places(0, 1), places(3, 4), places(0, 5), places(2, 3), *floats(3, 5)],
        "lay": [
            floats(3, 20),
            places(3, 17),
            places(2, 3),
            places(0, 1, 2),
            places(0, 2, 5),
            floats(5),
            np.zeros(5, np.bool_),
            floats(2, 7),
        ],
        "expose": [floats(3, 2, 6), floats(3), floats(40), places(0, 22), np.zeros((2, 6, 3), np.uint8)],
        "view": [
            floats(3, 5, 6),
            places(0, 3)[None],
            floats(1, 2),
            places(0, 2, 4)[None],
            floats(1, 3),
            floats(3, 1, 2, 3),
        ],
        "compress": [floats(2, 9, 10), _cosines(), floats(8, 8)],
        "turn": [floats(2, 5), places(0, 1), places(3, 4), places(0, 5), places(2, 3), *floats(3, 5)],
        "blur": [floats(2, 9, 10), floats(2), floats(2, 9, 10)],
    }
    # Each with one argument that does not fit: by its number.
    wrong: dict[str, list[tuple[int, np.ndarray]]] = {
        "cover": [
            (0, floats(2, 6)),
            (0, floats(1, 7)),
            (1, places(0, -1)),
            (1, places(0, 2)),
            (2, places(3)),
            (4, places(2, 4)),
            (4, places(2, 2)),
            (4, places(2, -1)),
            (5, floats(4)),
            (6, np.zeros(5)),
        ],
        "lay": [
            (0, floats(2, 20)),
            (0, floats(3, 19)),
            (1, places(3, -1)),
            (1, places(3, 18)),
            (2, places(2, 4)),
            (2, places(2, -3)),
            (3, places(0, 1)),
            (3, places(-1, 1, 2)),
            (3, places(0, 1, 3)),
            (4, places(0, -1, 5)),
            (4, places(0, 3, 5)),
            (5, floats(4)),
            (6, np.zeros(4, np.bool_)),
            (7, floats(2, 6)),
            (7, floats(3, 7)),
            (7, floats(0, 7)),
        ],
        "expose": [
            (0, floats(2, 2, 6)),
            (0, floats(3, 2, 5)),
            (1, floats(2)),
            (3, places(0, 23)),
            (3, places(-1, 0)),
            (3, places(0)),
            (4, np.zeros((2, 6, 4), np.uint8)),
            (4, floats(2, 6, 3)),
        ],
        "view": [
            (0, floats(3, 4, 6)),
            (0, floats(3, 5, 5)),
            (0, floats(2, 5, 6)),
            (1, places(-1, 3)[None]),
            (1, places(0, 1, 2)[None]),
            (2, floats(1, 3)),
            (3, places(-1, 2, 4)[None]),
            (4, floats(2, 3)),
            (5, floats(3, 2, 2, 3)),
            (5, floats(3, 1, 2, 4)),
            (5, floats(3, 2, 3)),
        ],
        "compress": [(0, floats(9, 10)), (0, np.zeros((2, 9, 10))), (1, floats(8, 7)), (2, floats(64))],
        "turn": [(0, floats(2, 7)), (1, places(0, 2)), (4, places(2, 4)), (7, floats(4))],
        "blur": [
            (0, floats(9, 10)),
            (0, floats(2, 9, 9)),
            (0, floats(2, 9, 0)),
            (1, floats(3)),
            (2, floats(2, 8, 10)),
            (2, np.zeros((2, 9, 10))),
        ],
    }
    for name, arguments in right.items():
        loop = getattr(_paint, name)
        loop(*arguments)
        for number, value in wrong[name]:
            with pytest.raises(ValueError, match="do not fit together"):
                loop(*arguments[:number], value, *arguments[number + 1 :])
        with pytest.raises(TypeError, match="arrays are needed"):
            loop(*arguments, places())
        with pytest.raises((ValueError, BufferError)):
            loop(arguments[0][..., ::2], *arguments[1:])
