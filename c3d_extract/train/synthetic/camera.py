"""What a camera makes of a scene: where each frame looks, and what cheap optics and film leave of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

try:
    from c3d_extract.train.synthetic import _paint
except ImportError:  # there was no C compiler when this was installed
    _paint = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.train.synthetic.canvas import Array, Floats, Indices

__all__ = ["Camera", "film"]


@dataclass(frozen=True)
class Camera:
    """Where each frame looks: a point of the scene goes to ``(point - centre) * zoom + centre + shift``.

    Attributes
    ----------
    shift
        Pixels (T, 2), x and y.
    zoom
        Factor (T,).
    """

    shift: Array
    zoom: Array

    def place(self, points: Array, size: tuple[int, int]) -> Array:
        """Bring points (…, T, 2) of the scene to the frame of ``size`` (height, width)."""
        centre = np.array([size[1] - 1, size[0] - 1]) / 2
        placed: Array = (points - centre) * self.zoom[:, None] + centre + self.shift
        return placed

    @property
    def still(self) -> bool:
        """Whether every frame sees the same."""
        return bool((self.zoom == self.zoom[0]).all() and (self.shift == self.shift[0]).all())

    def view(self, ground: Floats, size: tuple[int, int]) -> Floats:
        """Return the ground as each frame sees it, float32 (3, T, H, W), bilinear, edges mirrored."""
        n_frames = len(self.zoom)
        if self.still:
            top, left = (ground.shape[1] - size[0]) // 2, (ground.shape[2] - size[1]) // 2
            frame = ground[:, top : top + size[0], left : left + size[1]]
            return np.repeat(frame[:, None], n_frames, axis=1)
        rows = _lines(ground.shape[1], size[0], self.zoom, self.shift[:, 1])
        columns = _lines(ground.shape[2], size[1], self.zoom, self.shift[:, 0])
        seen = np.empty((3, n_frames, *size), np.float32)
        if _paint is not None:
            _paint.view(np.ascontiguousarray(ground), *rows, *columns, seen)
            return seen
        for t in range(n_frames):
            lines = _between(ground, rows.first[t], rows.share[t][:, None], axis=1)
            seen[:, t] = _between(lines, columns.first[t], columns.share[t], axis=2)
        return seen


class _Lines(NamedTuple):
    """Source line of each output line (T, n), and how far it lies towards the next."""

    first: Indices
    share: Floats


def _lines(n_ground: int, n_seen: int, zoom: Array, shift: Array) -> _Lines:
    seen = np.arange(n_seen) - (n_seen - 1) / 2
    position = np.abs((seen - shift[:, None]) / zoom[:, None] + (n_ground - 1) / 2)
    position = (n_ground - 1) - np.abs((n_ground - 1) - position)
    position = np.minimum(np.maximum(position, 0), n_ground - 1.001)
    first = position.astype(np.intp)
    return _Lines(first, (position - first).astype(np.float32))


def _between(picture: Floats, first: Indices, share: Floats, *, axis: int) -> Floats:
    lines, change = picture.take(first, axis), picture.take(first + 1, axis)
    change -= lines
    change *= share
    lines += change
    return lines


def film(rng: np.random.Generator, pixels: Floats) -> NDArray[np.uint8]:
    """Return what a cheap camera makes of the scene, uint8 (T, H, W, 3): light, blur, blocks, grain.

    Nothing here knows in which direction time runs.
    """
    if rng.random() < 0.35:
        pixels = _blurred(pixels, np.float32(rng.uniform(0.1, 0.33)))
    gain, offset = np.float32(255 * rng.uniform(0.55, 1.2)), np.float32(255 * rng.uniform(-0.08, 0.12))
    if rng.random() < 0.25:
        pixels = pixels * gain + offset
        gain, offset = np.float32(1), np.float32(0)
        _compress(pixels, rng.uniform(6, 30))
    grain = _random_grain(rng, pixels) if rng.random() < 0.7 else _Grain(np.float32(0), np.zeros(0, np.intp))
    return _exposed(pixels, gain, offset, grain)


def _blurred(pixels: Floats, side: np.float32) -> Floats:
    # Each pixel gives a share to its four neighbours in turn: first along columns, then along rows.
    kept = np.float32(1) - np.float32(2) * side  # to NumPy 1, a plain 2 would make it a float64
    if _paint is not None:
        blurred, shares = np.empty_like(pixels), np.array([kept, side])
        in_planes = (-1, *pixels.shape[2:])
        _paint.blur(pixels.reshape(in_planes), shares, blurred.reshape(in_planes))
        return blurred
    # All pixels are taken as one long line, which is fast, and those at an edge are then put back.
    for axis, step in ((2, pixels.shape[3]), (3, 1)):
        line = pixels.reshape(-1)
        beside = line[: -2 * step] + line[2 * step :]
        beside *= side
        blurred = pixels * kept
        blurred.reshape(-1)[step:-step] += beside
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
    # What strong compression leaves: coefficients of 8x8 blocks, rounded coarser for higher frequencies.
    _, n_frames, height, width = levels.shape
    k, n = np.mgrid[:8, :8]
    steps = (step * (0.5 + 0.25 * (k + n))).astype(np.float32)
    if _paint is not None:
        _paint.compress(levels.reshape(-1, height, width), _cosines(), steps)
        return
    h, w = height // 8 * 8, width // 8 * 8
    cosines = _cosines()
    blocks = levels[:, :, :h, :w].reshape(3, n_frames, h // 8, 8, w // 8, 8).transpose(3, 5, 0, 1, 2, 4)
    coefficients = _product(cosines, _product(cosines, blocks).swapaxes(0, 1))  # (n, k, …)
    of_step = steps.T.reshape(8, 8, *[1] * (blocks.ndim - 2))
    coefficients /= of_step
    np.rint(coefficients, out=coefficients)
    coefficients *= of_step
    blocks[:] = _product(cosines.T, _product(cosines.T, coefficients).swapaxes(0, 1))


def _product(matrix: Floats, blocks: Floats) -> Floats:
    # np.tensordot(matrix, blocks, 1) in the order of _paint.c: the last bit of a library's product depends on
    # the processor, and now and then so would what is rounded.
    first, *rest = matrix.T.reshape(8, 8, *[1] * (blocks.ndim - 1))
    sums: Floats = first * blocks[0]
    for factors, lines in zip(rest, blocks[1:], strict=True):
        sums += factors * lines
    return sums


@cache
def _noise() -> Floats:
    return np.random.default_rng(1412).standard_normal(1 << 21).astype(np.float32)


class _Grain(NamedTuple):
    """Strength in levels, and where in the noise each frame's begins (T,); (0,) where there is none."""

    strength: np.float32
    starts: Indices


def _random_grain(rng: np.random.Generator, pixels: Floats) -> _Grain:
    # Cut from one long run of normal numbers, a fresh place for each frame: drawing anew costs tenfold.
    strength = np.float32(rng.uniform(0.5, 9.0))
    places = max(_noise().size - pixels[:, 0].size, 0) + 1
    return _Grain(strength, np.array([rng.integers(0, places) for _ in range(pixels.shape[1])], np.intp))


def _exposed(pixels: Floats, gain: np.float32, offset: np.float32, grain: _Grain) -> NDArray[np.uint8]:
    _, n_frames, height, width = pixels.shape
    noise = _noise()
    if noise.size < 3 * height * width:
        noise = np.resize(noise, 3 * height * width)
    seen = np.empty((n_frames, height, width, 3), np.uint8)
    if _paint is not None:
        light = np.array([gain, offset, grain.strength])
        _paint.expose(
            pixels.reshape(3, n_frames, -1), light, noise, grain.starts, seen.reshape(n_frames, -1, 3)
        )
        return seen
    for t in range(n_frames):
        levels = pixels[:, t] * gain
        levels += offset
        if grain.starts.size:
            start = grain.starts[t]
            levels += grain.strength * noise[start : start + levels.size].reshape(levels.shape)
        np.clip(levels, np.float32(0), np.float32(255), out=levels)
        np.stack(list(levels.astype(np.uint8)), axis=-1, out=seen[t])
    return seen
