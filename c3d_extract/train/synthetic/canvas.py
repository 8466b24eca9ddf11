"""The canvas synthetic clips are painted on, and its brush.

Everything works on a whole clip at a time, float32 (3, T, H, W), B, G, R in 0–1. Positions are in
pixels, x to the right and y down, the centre of the top left pixel at (0, 0). Shapes are painted
through signed distances, whose value in pixels is also the antialiasing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    from c3d_extract.train.synthetic import _paint
except ImportError:  # there was no C compiler when this was installed
    _paint = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Array", "Canvas", "Floats", "Indices", "Look", "turned"]

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class Near(NamedTuple):
    """The pixels near L things in T frames, as R rows of neighbours, thing after thing; N pixels in all.

    Attributes
    ----------
    y, left
        int (R,): pixel coordinates of a row's first pixel.
    first
        int (R,): its position in a flattened channel of the canvas.
    length
        int (R,): how many pixels a row has.
    box
        int (R,): thing and frame of each row, as a position in an array (L, T).
    rows, pixels
        int (L·T + 1,): where the rows and the pixels of each thing and frame begin, and the last ones end.
    """

    y: Indices
    left: Indices
    first: Indices
    length: Indices
    box: Indices
    rows: Indices
    pixels: Indices

    @property
    def n_pixels(self) -> int:
        """N."""
        return int(self.pixels[-1])

    def each(self) -> tuple[Indices, Indices]:
        """Return the row of each pixel, and how far right of its row's first it is (N,).

        What depends on the row alone is best worked out once a row: ``values[row]`` brings it to the pixels.
        """
        return _each(self.length)


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
        self._channels = pixels.reshape(3, -1)

    def near(self, starts: Array, ends: Array, reach: Array) -> Near:
        """Return the pixels within ``reach`` (L, T) of the lines between points (L, T, 2), and few more."""
        n_frames, height, width = self.pixels.shape[1:]
        (x, y), (across, down) = (points.reshape(-1, 2).T for points in (starts, ends - starts))
        radius: Array = reach.ravel()
        top, n_rows = _run(np.minimum(y, y + down) - radius, np.maximum(y, y + down) + radius, height)
        box, below = _each(n_rows)
        rows = top[box] + below
        down += 1e-9  # never quite level: below it divides
        lean: Array = radius * across / np.hypot(across, down) / np.abs(down)
        x, y, across, down, radius, lean = (values[box] for values in (x, y, across, down, radius, lean))

        def edge(side: int) -> Array:
            # A row ends with the disc about that point of the line whose disc reaches furthest to the side.
            share = np.clip((rows - y) / down + side * lean, 0, 1)
            half2 = radius**2 - (rows - y - share * down) ** 2
            edge: Array = x + share * across + side * np.sqrt(np.maximum(half2, 0))
            return edge

        left, length = _run(edge(-1), edge(1), width)
        first = (box % n_frames * height + rows) * width + left
        edges = _edges(n_rows)
        return Near(rows, left, first, length, box, edges, _edges(length)[edges])

    def lay(self, near: Near, cover: Floats, looks: Sequence[Look], u: Array, v: Array) -> None:
        """Lay L looks in their order over N pixels by their cover (N,) in 0–1.

        ``u``, ``v`` (N,) are the coordinates in which a look that is not plain has its pattern.
        """
        n_frames = self.pixels.shape[1]
        of_look = [slice(*edges) for edges in pairwise(near.pixels[::n_frames].tolist())]
        second = np.zeros(len(cover), np.bool_)
        for look, own in zip(looks, of_look, strict=True):
            if look.pattern != "plain":
                second[own] = look.is_second(u[own], v[own])
        if _paint is not None:
            table = np.array([(*look.colour, *look.second, look.strength) for look in looks], np.float32)
            _paint.lay(self._channels, near.first, near.length, near.rows, near.pixels, cover, second, table)
            return
        row, place = near.each()
        where = near.first[row] + place
        for look, own in zip(looks, of_look, strict=True):
            self._lay_one(where[own], np.minimum(cover[own], np.float32(look.strength)), look, second[own])

    def _lay_one(self, where: Indices, cover: Floats, look: Look, second: NDArray[np.bool_]) -> None:
        colour = look.colour[:, None]
        if look.pattern != "plain":
            colour = np.where(second, look.second[:, None], colour)
        levels = self._channels.reshape(-1)
        where = where + np.arange(3)[:, None] * self._channels.shape[1]
        under = levels[where]
        change = colour - under
        change *= cover
        under += change
        levels[where] = under

    def rods(self, starts: Array, ends: Array, radii: Array, looks: Sequence[Look]) -> None:
        """Paint L rods with round ends, in their order, between points (L, T, 2); ``radii`` (L,) pixels."""
        n_frames = starts.shape[1]
        near = self.near(starts, ends, radii[:, None] + np.full(n_frames, 0.6))
        covered = _covered(near, _rods(starts, ends, radii.repeat(n_frames)))
        self.lay(near, covered.cover, looks, covered.share * np.float32(2), covered.slant)


class Turned(NamedTuple):
    """Of N pixels near things: where they are in the things' own coordinates, and the things' radius."""

    u: Floats
    v: Floats
    radius: Floats


def turned(near: Near, centres: Array, angles: Array, radii: Array) -> Turned:
    """Return the coordinates (N,) in units of things of ``radii`` (L, T) turned by ``angles`` (L, T).

    ``centres`` (L, T, 2) and ``radii`` are in pixels, angles in radians.
    """
    turns = [turn / radii for turn in (np.cos(angles), np.sin(angles))]
    things = (
        np.stack([centres[..., 0], centres[..., 1], *turns, radii], axis=-1).astype(np.float32).reshape(-1, 5)
    )
    if _paint is not None:
        found = Turned(*np.empty((3, near.n_pixels), np.float32))
        _paint.turn(things, near.box, near.y, near.left, near.length, *found)
        return found
    row, place = near.each()
    x, y, cos, sin, radius = things[near.box].T
    dx, dy = (near.left[row] + place).astype(np.float32) - x[row], near.y.astype(np.float32) - y
    return Turned(dx * cos[row] + (dy * sin)[row], (dy * cos)[row] - dx * sin[row], radius[row])


def _run(low: Array, high: Array, size: int) -> tuple[Indices, Indices]:
    # The first of the whole numbers from each low to its high, inside the canvas, and how many they are.
    first = np.maximum(np.ceil(low), 0).astype(np.intp)
    return first, np.maximum(np.minimum(np.floor(high), size - 1).astype(np.intp) + 1 - first, 0)


def _each(count: Indices) -> tuple[Indices, Indices]:
    # For runs of so many things: of each thing, which run it is in, and its place there.
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - (np.cumsum(count) - count)[run]


def _edges(count: Indices) -> Indices:
    return np.concatenate([[0], np.cumsum(count)])


def _rods(starts: Array, ends: Array, radii: Array) -> Floats:
    # What `cover` in _paint.c needs of each rod in each frame (L·T, 7). A rim is 0 half a pixel outside the
    # radius and 1 half a pixel inside, straight in the squared distance between.
    spans = (ends - starts).reshape(-1, 2).astype(np.float32)
    length2 = np.maximum((spans**2).sum(axis=1), np.float32(1e-6))
    outer, inner = (radii + 0.5) ** 2, np.maximum(radii - 0.5, 0) ** 2
    return np.column_stack([starts.reshape(-1, 2), spans, length2, outer, 1 / (outer - inner)]).astype(
        np.float32
    )


class _Covered(NamedTuple):
    """Of the N pixels near rods: their cover (0–1), the share along the rod, and x + y from its start."""

    cover: Floats
    share: Floats
    slant: Floats


def _covered(near: Near, rods: Floats) -> _Covered:
    if _paint is not None:
        covered = _Covered(*np.empty((3, near.n_pixels), np.float32))
        _paint.cover(rods, near.box, near.y, near.left, near.length, *covered)
        return covered
    row, place = near.each()
    start_x, start_y, across, down, length2, outer, growth = rods[near.box].T
    dx, dy = (near.left[row] + place).astype(np.float32) - start_x[row], near.y.astype(np.float32) - start_y
    along = dx * across[row] + (dy * down)[row]
    length2 = length2[row]
    share = np.clip(along / length2, 0, 1)
    # |d - share·axis|² = |d|² + share·(share·|axis|² - 2 d·axis)
    distance2 = ((share * length2 - along) - along) * share + dx * dx + (dy * dy)[row]
    cover = np.clip((outer[row] - distance2) * growth[row], 0, 1)
    return _Covered(cover, share, dx + dy[row])
