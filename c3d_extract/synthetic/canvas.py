"""The canvas synthetic clips are painted on: windows, rods, grounds, and what a camera adds.

Everything works on a whole clip at a time, float32 (3, T, H, W), B, G, R in 0–1. Positions are in
pixels, x to the right and y down, the centre of the top left pixel at (0, 0). Shapes are painted
through signed distances, whose value in pixels is also the antialiasing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Array", "Camera", "Canvas", "Look", "Window", "film", "random_colour", "random_ground"]

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
N_SHEETS, SHEET_SIZE = 24, 512


class Window(NamedTuple):
    """A box of the same size in every frame, following what is painted.

    Attributes
    ----------
    x, y
        float32 (T, 1, w) and (T, h, 1): pixel coordinates.
    where
        int (T, h, w): positions in a flattened channel of the canvas.
    """

    x: Floats
    y: Floats
    where: NDArray[np.intp]


@dataclass(frozen=True)
class Look:
    """Two colours (B, G, R in 0–1) and the pattern they form: plain, stripes, checks or dots."""

    colour: Array
    second: Array
    pattern: str
    frequency: float

    def is_second(self, u: Array, v: Array) -> NDArray[np.bool_]:
        """Where the second colour shows, at the object's own coordinates, about -1 to 1 across it."""
        k = np.float32(self.frequency * np.pi)
        across: Array = np.sin(k * u)
        if self.pattern == "stripes":
            return np.greater(across, 0)
        product: Array = across * np.sin(k * v)
        return np.greater(product, 0 if self.pattern == "checks" else 0.4)


class Canvas:
    """A clip being painted; ``pixels`` is float32 (3, T, H, W), B, G, R in 0–1, contiguous."""

    def __init__(self, pixels: Floats) -> None:
        self.pixels = pixels
        self._channels = pixels.reshape(3, -1)

    def window(self, low: Array, high: Array) -> Window:
        """Return the window around boxes from ``low`` to ``high``, (T, 2) each as x, y."""
        size, start = self._boxes(low[None], high[None])
        return self._window(size[0], start[0])

    def _boxes(self, low: Array, high: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        # Sizes (L, 2) and starts (L, T, 2) of the windows of L things; a box beyond the edge is moved inside,
        # where the distances say that nothing of it shows.
        limits = np.array(self.pixels.shape[:1:-1])
        size = np.minimum(np.ceil((high - low).max(axis=1)) + 3, limits).astype(np.intp)
        start = np.minimum(np.maximum(np.floor(low) - 1, 0), (limits - size)[:, None]).astype(np.intp)
        return size, start

    def _window(self, size: NDArray[np.intp], start: NDArray[np.intp]) -> Window:
        _, n_frames, height, width = self.pixels.shape
        columns = (start[:, :1] + np.arange(size[0]))[:, None]
        rows = (start[:, 1:] + np.arange(size[1]))[:, :, None]
        lines = (rows + np.arange(n_frames)[:, None, None] * height) * width
        return Window(columns.astype(np.float32), rows.astype(np.float32), lines + columns)

    def blend(self, window: Window, cover: Floats, look: Look, u: Array, v: Array) -> None:
        """Lay a look over the window by its cover (T, h, w) in 0–1; ``u``, ``v``: the look's coordinates."""
        shown = np.flatnonzero(cover > 0)
        index, share = window.where.ravel()[shown], cover.ravel()[shown]
        second = None if look.pattern == "plain" else look.is_second(u.ravel()[shown], v.ravel()[shown])
        for channel, one, two in zip(self._channels, look.colour, look.second, strict=True):
            under = channel[index]
            colour = one if second is None else np.where(second, np.float32(two), np.float32(one))
            channel[index] = under + share * (colour - under)

    def rods(
        self, starts: Array, ends: Array, radii: Array, looks: Sequence[Look], *, strength: float = 1.0
    ) -> None:
        """Paint L rods with round ends, in their order, between points (L, T, 2); ``radii`` (L,) pixels."""
        reach = (radii + 1.0)[:, None, None]
        size, corner = self._boxes(np.minimum(starts, ends) - reach, np.maximum(starts, ends) + reach)
        axis = (ends - starts).astype(np.float32)[..., None, None]
        length2 = np.maximum((axis**2).sum(axis=2), np.float32(1e-6))
        origin = starts.astype(np.float32)[..., None, None]
        for rod, look in enumerate(looks):
            window = self._window(size[rod], corner[rod])
            dx, dy = window.x - origin[rod, :, 0], window.y - origin[rod, :, 1]
            along = dx * axis[rod, :, 0] + dy * axis[rod, :, 1]
            share = along / length2[rod]
            np.maximum(share, np.float32(0), out=share)
            np.minimum(share, np.float32(1), out=share)
            # |d - share·axis|² = |d|² + share·(share·|axis|² - 2 d·axis)
            distance2 = share * length2[rod]
            distance2 -= along
            distance2 -= along
            distance2 *= share
            distance2 += dx * dx
            distance2 += dy * dy
            cover = _rim(distance2, float(radii[rod]), strength)
            self.blend(
                window, cover, look, share * np.float32(2), share if look.pattern == "stripes" else dx + dy
            )


def _rim(distance2: Floats, radius: float, strength: float) -> Floats:
    # 0 half a pixel outside the radius, 1 half a pixel inside, straight in the squared distance between.
    outer, inner = (radius + 0.5) ** 2, max(radius - 0.5, 0) ** 2
    cover = np.float32(outer) - distance2
    cover *= np.float32(1 / (outer - inner))
    np.maximum(cover, np.float32(0), out=cover)
    np.minimum(cover, np.float32(strength), out=cover)
    return cover


def random_colour(rng: np.random.Generator) -> Floats:
    """Return B, G, R in 0–1: a random brightness with a random, mostly modest tint."""
    tint = rng.standard_normal(3) * (0.03, 0.12, 0.3)[rng.integers(3)]
    colour = rng.uniform(0.05, 0.95) + tint - tint.sum() / 3
    clipped: Floats = np.minimum(np.maximum(colour, 0), 1).astype(np.float32)
    return clipped


@cache
def _sheets() -> Floats:
    # Smooth noise of several grain sizes, made once from a fixed seed: every ground is cut from these.
    rng = np.random.default_rng(20150)
    sheets = []
    for number in range(N_SHEETS):
        falloff = (1.0, 0.7, 0.45)[number % 3]
        octaves = [falloff**k * _smooth_noise(rng, 4 << k) for k in range(7)]
        sheet = np.sum(octaves, axis=0)
        sheets.append((sheet - sheet.mean()) / sheet.std())
    return np.stack(sheets).clip(-2.5, 2.5).astype(np.float32) / np.float32(2.5)


def _smooth_noise(rng: np.random.Generator, cells: int) -> Floats:
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    position = np.linspace(0, cells, SHEET_SIZE, endpoint=False)
    cell = position.astype(np.intp)
    share = (position - cell).astype(np.float32)
    share = share * share * (3 - 2 * share)
    lines = grid[cell] + share[:, None] * (grid[cell + 1] - grid[cell])
    return lines[:, cell] + share * (lines[:, cell + 1] - lines[:, cell])


def _sheet(rng: np.random.Generator, height: int, width: int) -> Floats:
    sheet = _sheets()[rng.integers(N_SHEETS)]
    step = 2 if max(height, width) * 2 <= SHEET_SIZE and rng.random() < 0.5 else 1
    top, left = (int(rng.integers(0, max(SHEET_SIZE - n * step, 0) + 1)) for n in (height, width))
    cut = sheet[top : top + height * step : step, left : left + width * step : step]
    flip_rows, flip_columns = rng.choice([-1, 1], 2)
    cut = cut[::flip_rows, ::flip_columns]
    missing = height - cut.shape[0], width - cut.shape[1]
    return np.pad(cut, ((0, missing[0]), (0, missing[1])), mode="symmetric") if max(missing) > 0 else cut


def random_ground(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return a still picture float32 (3, height, width): textures, lines, patches, a floor and a wall."""
    picture = _texture(rng, height, width)
    if rng.random() < 0.4:
        horizon = int(rng.uniform(0.3, 0.7) * height)
        picture[:, horizon:] = _texture(rng, height - horizon, width)
    for _ in range(rng.integers(0, 5)):
        h, w = (int(n * rng.uniform(0.02, 0.4)) + 1 for n in (height, width))
        y, x = int(rng.uniform(-0.5 * h, height)), int(rng.uniform(-0.5 * w, width))
        patch = picture[:, max(y, 0) : y + h, max(x, 0) : x + w]
        patch += np.float32(rng.uniform(0.3, 1)) * (random_colour(rng)[:, None, None] - patch)
    if rng.random() < 0.3:
        _draw_lines(rng, picture)
    return picture


def _texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    contrast = (0.03, 0.08, 0.2, 0.45)[rng.integers(4)]
    strength = np.float32(contrast) * (0.5 + random_colour(rng))
    picture = random_colour(rng)[:, None, None] + strength[:, None, None] * _sheet(rng, height, width)
    if rng.random() < 0.3:
        tint = (contrast * rng.standard_normal(3)).astype(np.float32)
        picture += tint[:, None, None] * _sheet(rng, height, width)
    return np.minimum(np.maximum(picture, np.float32(0)), np.float32(1))


def _draw_lines(rng: np.random.Generator, picture: Floats) -> None:
    height, width = picture.shape[1:]
    angle = rng.uniform(0, np.pi)
    y, x = np.ogrid[:height, :width]
    period = rng.uniform(0.08, 0.5) * height
    across = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 100)
    on = across % period < period * rng.uniform(0.05, 0.5)
    strength = np.float32(rng.uniform(0.2, 0.9))
    for channel, level in zip(picture, random_colour(rng), strict=True):
        channel[on] += strength * (level - channel[on])


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
        for t in range(n_frames):
            lines = ground[:, rows.first[t]]
            lines += rows.share[t][:, None] * (ground[:, rows.first[t] + 1] - lines)
            frame = lines[:, :, columns.first[t]]
            frame += columns.share[t] * (lines[:, :, columns.first[t] + 1] - frame)
            seen[:, t] = frame
        return seen


class _Lines(NamedTuple):
    """Source line of each output line (T, n), and how far it lies towards the next."""

    first: NDArray[np.intp]
    share: Floats


def _lines(n_ground: int, n_seen: int, zoom: Array, shift: Array) -> _Lines:
    seen = np.arange(n_seen) - (n_seen - 1) / 2
    position = np.abs((seen - shift[:, None]) / zoom[:, None] + (n_ground - 1) / 2)
    position = (n_ground - 1) - np.abs((n_ground - 1) - position)
    position = np.minimum(np.maximum(position, 0), n_ground - 1.001)
    first = position.astype(np.intp)
    return _Lines(first, (position - first).astype(np.float32))


def film(rng: np.random.Generator, pixels: Floats) -> NDArray[np.uint8]:
    """Return what a cheap camera makes of the scene, uint8 (T, H, W, 3): light, blur, blocks, grain.

    Nothing here knows in which direction time runs.
    """
    if rng.random() < 0.35:
        pixels = _blurred(pixels, np.float32(rng.uniform(0.1, 0.33)))
    levels = pixels * np.float32(255 * rng.uniform(0.55, 1.2))
    levels += np.float32(255 * rng.uniform(-0.08, 0.12))
    if rng.random() < 0.25:
        _compress(levels, rng.uniform(6, 30))
    if rng.random() < 0.7:
        _add_grain(rng, levels, rng.uniform(0.5, 9.0))
    np.maximum(levels, np.float32(0), out=levels)
    np.minimum(levels, np.float32(255), out=levels)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 3, 0))


def _blurred(pixels: Floats, side: np.float32) -> Floats:
    # Each pixel gives a share to its four neighbours in turn: first along columns, then along rows.
    middle, share = np.float32(1) - 2 * side, side
    blurred = pixels.copy()
    blurred[:, :, 1:-1] *= middle
    blurred[:, :, 1:-1] += share * (pixels[:, :, :-2] + pixels[:, :, 2:])
    across = blurred.copy()
    across[..., 1:-1] *= middle
    across[..., 1:-1] += share * (blurred[..., :-2] + blurred[..., 2:])
    return across


@cache
def _cosines() -> Floats:
    # The orthonormal 8x8-point DCT-II of JPEG and MPEG, as a matrix on flattened blocks.
    k, n = np.mgrid[:8, :8]
    line = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, np.sqrt(1 / 8), 0.5)
    return np.kron(line, line).astype(np.float32)


def _compress(levels: Floats, step: float) -> None:
    # What strong compression leaves: coefficients of 8x8 blocks, rounded coarser for higher frequencies.
    _, n_frames, height, width = levels.shape
    h, w = height // 8 * 8, width // 8 * 8
    k, n = np.mgrid[:8, :8]
    steps = (step * (0.5 + 0.25 * (k + n))).astype(np.float32).ravel()
    blocks = levels[:, :, :h, :w].reshape(3, n_frames, h // 8, 8, w // 8, 8).transpose(0, 1, 2, 4, 3, 5)
    coefficients = blocks.reshape(-1, 64) @ _cosines().T
    coefficients = np.rint(coefficients / steps) * steps
    blocks = (
        (coefficients @ _cosines()).reshape(3, n_frames, h // 8, w // 8, 8, 8).transpose(0, 1, 2, 4, 3, 5)
    )
    levels[:, :, :h, :w] = blocks.reshape(3, n_frames, h, w)


@cache
def _grain() -> Floats:
    return np.random.default_rng(1412).standard_normal(1 << 21).astype(np.float32)


def _add_grain(rng: np.random.Generator, levels: Floats, strength: float) -> None:
    # Cut from one long run of normal numbers, a fresh place for each frame: drawing anew costs tenfold.
    grain, frame = _grain(), levels[:, 0]
    for t in range(levels.shape[1]):
        start = int(rng.integers(0, max(grain.size - frame.size, 0) + 1))
        cut = grain[start : start + frame.size] if frame.size <= grain.size else np.resize(grain, frame.size)
        levels[:, t] += np.float32(strength) * cut.reshape(frame.shape)
