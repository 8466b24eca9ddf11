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

__all__ = ["Array", "Camera", "Canvas", "Look", "film", "random_colour", "random_ground"]

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
N_SHEETS, SHEET_SIZE = 24, 512


class Near(NamedTuple):
    """The N pixels near L things in T frames, thing after thing, in R rows of neighbours.

    What depends on the row alone is best worked out once a row: ``values[row]`` brings it to the pixels.

    Attributes
    ----------
    box
        int (R,): thing and frame of each row, as a position in an array (L, T).
    y, x
        int (R,) and (N,): pixel coordinates.
    row
        int (N,): the row of each pixel.
    where
        int (N,): positions in a flattened channel of the canvas.
    """

    box: Indices
    y: Indices
    x: Indices
    row: Indices
    where: Indices

    def each(self, values: Floats) -> Floats:
        """Bring the values of things and frames (L·T,) to their pixels (N,)."""
        return values[self.box][self.row]


@dataclass(frozen=True)
class Look:
    """Two colours (B, G, R in 0–1) and the pattern they form: plain, stripes, checks or dots.

    Nothing covers more than ``strength`` (0–1) of what is under it.
    """

    colour: Array
    second: Array
    pattern: str
    frequency: float
    strength: float = 1.0

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
        self._levels = pixels.reshape(-1)
        self._channels = np.arange(3)[:, None] * (pixels.size // 3)

    def near(self, starts: Array, ends: Array, reach: Array) -> Near:
        """Return the pixels within ``reach`` (L, T) of the lines between points (L, T, 2), and few more."""
        n_frames, height, width = self.pixels.shape[1:]
        (x, y), (across, down) = (points.reshape(-1, 2).T for points in (starts, ends - starts))
        radius: Array = reach.ravel()
        box, rows = _runs(np.minimum(y, y + down) - radius, np.maximum(y, y + down) + radius, height)
        first = (box % n_frames * height + rows) * width
        down += 1e-9  # never quite level: below it divides
        lean: Array = radius * across / np.hypot(across, down) / np.abs(down)
        x, y, across, down, radius, lean = (values[box] for values in (x, y, across, down, radius, lean))

        def edge(side: int) -> Array:
            # A row ends with the disc about that point of the line whose disc reaches furthest to the side.
            share = np.clip((rows - y) / down + side * lean, 0, 1)
            half2 = radius**2 - (rows - y - share * down) ** 2
            edge: Array = x + share * across + side * np.sqrt(np.maximum(half2, 0))
            return edge

        row, columns = _runs(edge(-1), edge(1), width)
        return Near(box, rows, columns, row, first[row] + columns)

    def lay(self, where: Indices, cover: Floats, look: Look, u: Array, v: Array) -> None:
        """Lay a look over pixels by their cover (N,) in 0–1; ``u``, ``v`` (N,): the look's coordinates."""
        if look.strength < 1:
            cover = np.minimum(cover, np.float32(look.strength))
        colour = look.colour[:, None]
        if look.pattern != "plain":
            colour = np.where(look.is_second(u, v), look.second[:, None], colour)
        where = where + self._channels
        under = self._levels[where]
        change = colour - under
        change *= cover
        under += change
        self._levels[where] = under

    def rods(self, starts: Array, ends: Array, radii: Array, looks: Sequence[Look]) -> None:
        """Paint L rods with round ends, in their order, between points (L, T, 2); ``radii`` (L,) pixels."""
        n_frames = starts.shape[1]
        near = self.near(starts, ends, radii[:, None] + np.full(n_frames, 0.6))
        dx, dy, share, distance2 = _from_rods(near, starts, ends)
        cover = _rim(distance2, radii.repeat(n_frames), near)
        edges = np.searchsorted(near.row, np.searchsorted(near.box, np.arange(len(looks) + 1) * n_frames))
        for look, start, end in zip(looks, edges[:-1], edges[1:], strict=True):
            part = slice(start, end)
            u = v = share[part]
            if look.pattern != "plain":
                u, v = u * np.float32(2), v if look.pattern == "stripes" else dx[part] + dy[near.row[part]]
            self.lay(near.where[part], cover[part], look, u, v)


def _runs(low: Array, high: Array, size: int) -> tuple[Indices, Indices]:
    # The whole numbers from each low to its high, inside the canvas, one run after another, and their runs.
    first = np.maximum(np.ceil(low), 0).astype(np.intp)
    count = np.maximum(np.minimum(np.floor(high), size - 1).astype(np.intp) + 1 - first, 0)
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + (first - (np.cumsum(count) - count))[run]


def _from_rods(near: Near, starts: Array, ends: Array) -> tuple[Floats, Floats, Floats, Floats]:
    # From a rod's start, x (N,) and y (R,); along the rod, 0-1, and from it, squared (N,).
    box, row = near.box, near.row
    x, y = starts.reshape(-1, 2).astype(np.float32).T
    across, down = (ends - starts).reshape(-1, 2).astype(np.float32).T
    dx, dy = near.x.astype(np.float32) - near.each(x), near.y.astype(np.float32) - y[box]
    length2 = near.each(np.maximum(across**2 + down**2, np.float32(1e-6)))
    along = dx * near.each(across)
    along += (dy * down[box])[row]
    share = along / length2
    np.clip(share, 0, 1, out=share)
    # |d - share·axis|² = |d|² + share·(share·|axis|² - 2 d·axis)
    distance2 = share * length2
    distance2 -= along
    distance2 -= along
    distance2 *= share
    distance2 += dx * dx
    distance2 += (dy * dy)[row]
    return dx, dy, share, distance2


def _rim(distance2: Floats, radii: Array, near: Near) -> Floats:
    # 0 half a pixel outside the radius, 1 half a pixel inside, straight in the squared distance between.
    outer, inner = (radii + 0.5) ** 2, np.maximum(radii - 0.5, 0) ** 2
    cover = near.each(outer.astype(np.float32)) - distance2
    cover *= near.each((1 / (outer - inner)).astype(np.float32))
    np.clip(cover, 0, 1, out=cover)
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
    flip_rows, flip_columns = 2 * rng.integers(0, 2, 2) - 1
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
    levels = pixels * np.float32(255 * rng.uniform(0.55, 1.2))
    levels += np.float32(255 * rng.uniform(-0.08, 0.12))
    if rng.random() < 0.25:
        _compress(levels, rng.uniform(6, 30))
    if rng.random() < 0.7:
        _add_grain(rng, levels, rng.uniform(0.5, 9.0))
    np.clip(levels, np.float32(0), np.float32(255), out=levels)
    return np.stack(list(levels.astype(np.uint8)), axis=-1)


def _blurred(pixels: Floats, side: np.float32) -> Floats:
    # Each pixel gives a share to its four neighbours in turn: first along columns, then along rows. All
    # pixels are taken as one long line, which is fast, and those at an edge are then put back.
    for axis, step in ((2, pixels.shape[3]), (3, 1)):
        line = pixels.reshape(-1)
        beside = line[: -2 * step] + line[2 * step :]
        beside *= side
        blurred = pixels * (np.float32(1) - 2 * side)
        blurred.reshape(-1)[step:-step] += beside
        after, before = np.moveaxis(blurred, axis, 0), np.moveaxis(pixels, axis, 0)
        after[0], after[-1] = before[0], before[-1]
        pixels = blurred
    return pixels


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
    coefficients /= steps
    np.rint(coefficients, out=coefficients)
    coefficients *= steps
    blocks[:] = (coefficients @ _cosines()).reshape(3, n_frames, h // 8, w // 8, 8, 8)


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
