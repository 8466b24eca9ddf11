"""A camera: its motion, and the artifacts of cheap optics and strong compression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.train.synthetic.canvas import Array, Floats, Indices

__all__ = ["Camera", "camera_shake", "moving_camera", "record"]


@dataclass(frozen=True)
class Camera:
    """Camera motion: a point of the scene is projected to ``(point - centre) * zoom + centre + shift``."""

    shift: Array  # pixels (T, 2), x and y
    zoom: Array  # factor (T,)

    def place(self, points: Array, size: tuple[int, int]) -> Array:
        """Project points (…, T, 2) of the scene to the frame of ``size`` (height, width)."""
        centre = np.array([size[1] - 1, size[0] - 1]) / 2
        placed: Array = (points - centre) * self.zoom[:, None] + centre + self.shift
        return placed

    def view(self, background: Floats, size: tuple[int, int]) -> Floats:
        """Return each frame's view of a background (3, A, B), float32 (3, T, H, W).

        Bilinear; beyond its edges the background is mirrored.
        """
        n_frames = len(self.zoom)
        if (self.zoom == self.zoom[0]).all() and (self.shift == self.shift[0]).all():
            top, left = (background.shape[1] - size[0]) // 2, (background.shape[2] - size[1]) // 2
            frame = background[:, top : top + size[0], left : left + size[1]]
            return np.repeat(frame[:, None], n_frames, axis=1)
        rows, row_weights = _sampling(background.shape[1], size[0], self.zoom, self.shift[:, 1])
        columns, column_weights = _sampling(background.shape[2], size[1], self.zoom, self.shift[:, 0])
        seen = np.empty((3, n_frames, *size), np.float32)
        for t in range(n_frames):
            lines = _interpolated(background, rows[t], row_weights[t][:, None], axis=1)
            seen[:, t] = _interpolated(lines, columns[t], column_weights[t], axis=2)
        return seen


def _sampling(n_lines: int, n_seen: int, zoom: Array, shift: Array) -> tuple[Indices, Floats]:
    # The first of the two source lines of each output line (T, n), and the weight of the second.
    seen = np.arange(n_seen) - (n_seen - 1) / 2
    position = np.abs((seen - shift[:, None]) / zoom[:, None] + (n_lines - 1) / 2)
    position = (n_lines - 1) - np.abs((n_lines - 1) - position)
    position = np.minimum(np.maximum(position, 0), n_lines - 1.001)
    first = position.astype(np.intp)
    return first, (position - first).astype(np.float32)


def _interpolated(picture: Floats, first: Indices, weight: Floats, *, axis: int) -> Floats:
    lines, change = picture.take(first, axis), picture.take(first + 1, axis)
    change -= lines
    change *= weight
    lines += change
    return lines


def camera_shake(n_frames: int, height: int, rng: np.random.Generator) -> Array:
    """Return hand shake (T, 2) in pixels, for 30 % of clips; its time reversal is equally likely."""
    if rng.random() > 0.3:
        return np.zeros((n_frames, 2))
    steps = rng.normal(0, 1, (n_frames, 2)) * rng.uniform(0.002, 0.012) * height
    shake: Array = 0.5 * (steps + np.roll(steps, 1, axis=0))
    return shake


def moving_camera(n_frames: int, height: int, rng: np.random.Generator) -> Camera:
    """Return a camera that may shake, pan (in 3 of 10 clips) and zoom (in 2 of 10); as likely backwards."""
    even = np.arange(n_frames) / (n_frames - 1) - 0.5
    shift, log_zoom = camera_shake(n_frames, height, rng), np.zeros(n_frames)
    if rng.random() < 0.3:
        shift = shift + even[:, None] * rng.normal(0, (0.3, 0.1)) * height
    if rng.random() < 0.2:
        log_zoom = even * rng.uniform(-0.5, 0.5)
    return Camera(shift, np.exp(log_zoom))


def record(rng: np.random.Generator, pixels: Floats) -> NDArray[np.uint8]:
    """Return a cheap camera's recording, uint8 (T, H, W, 3), of a scene (3, T, H, W).

    Shutter, resolution, blur, colour, exposure, compression blocks and noise are drawn at random. None
    depends on the direction of time.
    """
    pixels = _tinted(rng, _softened(rng, _exposed_over_time(rng, pixels)))
    gain, offset = np.float32(255 * rng.uniform(0.55, 1.2)), np.float32(255 * rng.uniform(-0.08, 0.12))
    if rng.random() < 0.25:
        pixels = pixels * gain + offset
        gain, offset = np.float32(1), np.float32(0)
        _compress(pixels, rng.uniform(6, 30))
    if rng.random() >= 0.7:
        return _exposed(pixels, gain, offset)
    # Slices of one long array of normal numbers, at a random offset per frame: ten times as fast as drawing.
    strength = np.float32(rng.uniform(0.5, 9.0))
    n_starts = max(_noise().size - pixels[:, 0].size, 0) + 1
    starts = [int(rng.integers(0, n_starts)) for _ in range(pixels.shape[1])]
    return _exposed(pixels, gain, offset, noise=(strength, starts))


def _exposed_over_time(rng: np.random.Generator, pixels: Floats) -> Floats:
    """Repeat frames in pairs, as at half the frame rate, in 8 % of clips; blur moving things in 15 %."""
    chance, n_frames = rng.random(), pixels.shape[1]
    if chance < 0.08:
        shown = (np.arange(n_frames) + rng.integers(2)) // 2 * 2
        pixels = pixels.take(np.minimum(shown, n_frames - 1), axis=1)
    elif chance < 0.23 and n_frames > 2:
        blurred = pixels.copy()
        blurred[:, 1:-1] += np.float32(0.25) * (pixels[:, :-2] - pixels[:, 1:-1])
        blurred[:, 1:-1] += np.float32(0.25) * (pixels[:, 2:] - pixels[:, 1:-1])
        pixels = blurred
    return pixels


def _softened(rng: np.random.Generator, pixels: Floats) -> Floats:
    """Blur 35 % of clips a little; 12 % have half the resolution."""
    if rng.random() < 0.35:
        pixels = _blurred(pixels, np.float32(rng.uniform(0.1, 0.33)))
    if rng.random() < 0.12:
        pixels = _blurred(pixels, np.float32(0.25))
        rows, columns = (np.arange(n) // 2 * 2 for n in pixels.shape[2:])
        pixels = _blurred(pixels.take(rows, axis=2).take(columns, axis=3), np.float32(0.25))
    return pixels


def _tinted(rng: np.random.Generator, pixels: Floats) -> Floats:
    """Make 10 % of clips grey, and change the gamma of 25 %."""
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(axis=0, keepdims=True), 3, axis=0)
    if rng.random() < 0.25:
        # A polynomial with the ends of x**gamma: powers are slow, and differ between processors.
        bend = np.float32(rng.uniform(-0.6, 0.6))
        pixels = pixels + bend * pixels * (np.float32(1) - pixels)
    return pixels


def _blurred(pixels: Floats, side: np.float32) -> Floats:
    # Each pixel gives a share to its neighbours, along columns and then along rows; edges stay as they are.
    # All pixels, contiguous, are processed as one long line, which is fast; edges are then restored.
    kept = np.float32(1) - np.float32(2) * side  # in NumPy 1, a plain 2 would make it a float64
    for axis, step in ((2, pixels.shape[3]), (3, 1)):
        line = pixels.reshape(-1)
        neighbours = line[: -2 * step] + line[2 * step :]
        neighbours *= side
        blurred = pixels * kept
        blurred.reshape(-1)[step:-step] += neighbours
        after, before = np.moveaxis(blurred, axis, 0), np.moveaxis(pixels, axis, 0)
        after[0], after[-1] = before[0], before[-1]
        pixels = blurred
    return pixels


@cache
def _cosines() -> Floats:
    # The orthonormal 8-point DCT-II of JPEG and MPEG.
    k, n = np.mgrid[:8, :8]
    line = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    cosines: Floats = line.astype(np.float32)
    return cosines


def _compress(levels: Floats, step: float) -> None:
    # Strong compression: coefficients of 8x8 blocks, rounded more coarsely for higher frequencies.
    _, n_frames, height, width = levels.shape
    h, w = height // 8 * 8, width // 8 * 8
    k, n = np.mgrid[:8, :8]
    cosines = _cosines()
    blocks = levels[:, :, :h, :w].reshape(3, n_frames, h // 8, 8, w // 8, 8).transpose(3, 5, 0, 1, 2, 4)
    coefficients = _product(cosines, _product(cosines, blocks).swapaxes(0, 1))  # (n, k, …)
    steps = (step * (0.5 + 0.25 * (k + n))).astype(np.float32).reshape(8, 8, *[1] * (blocks.ndim - 2))
    coefficients /= steps
    np.rint(coefficients, out=coefficients)
    coefficients *= steps
    blocks[:] = _product(cosines.T, _product(cosines.T, coefficients).swapaxes(0, 1))


def _product(matrix: Floats, blocks: Floats) -> Floats:
    # np.tensordot(matrix, blocks, 1), summed from the left: the last bit of a BLAS product depends on the
    # processor, and rarely so would the rounded coefficients.
    first, *rest = matrix.T.reshape(8, 8, *[1] * (blocks.ndim - 1))
    sums: Floats = first * blocks[0]
    for factors, lines in zip(rest, blocks[1:], strict=True):
        sums += factors * lines
    return sums


@cache
def _noise() -> Floats:
    return np.random.default_rng(1412).standard_normal(1 << 21).astype(np.float32)


def _exposed(
    pixels: Floats, gain: np.float32, offset: np.float32, noise: tuple[np.float32, list[int]] | None = None
) -> NDArray[np.uint8]:
    # ``noise``: its strength in levels, and where each frame's begins in the long run.
    n_frames, *size = pixels.shape[1:]
    strength, starts = noise or (np.float32(0), [])
    run, n_levels = _noise(), pixels[:, 0].size
    if run.size < n_levels:
        run = np.resize(run, n_levels)
    seen = np.empty((n_frames, *size, 3), np.uint8)
    for t in range(n_frames):
        levels = pixels[:, t] * gain
        levels += offset
        if starts:
            levels += strength * run[starts[t] : starts[t] + n_levels].reshape(levels.shape)
        np.clip(levels, np.float32(0), np.float32(255), out=levels)
        np.stack(list(levels.astype(np.uint8)), axis=-1, out=seen[t])
    return seen
