"""The canvas that synthetic clips are painted on: soft-edged objects, blended over a whole clip at a time.

A clip is float32 (3, T, H, W), B, G, R in 0–1. Positions are in pixels, x to the right and y down, the centre
of the top left pixel at (0, 0). Objects are given by signed distances, whose value in pixels is also the
antialiasing. L objects in T frames are painted by one pass over the pixels near them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Array", "Canvas", "Floats", "Indices", "NearPixels", "Texture", "local_coordinates"]

Array = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class NearPixels(NamedTuple):
    """The N pixels near L objects in T frames, as R horizontal runs of neighbours, object after object.

    Values that depend on the run only are computed once per run: ``values[run]`` expands them to pixels.

    Attributes
    ----------
    y, box
        int (R,): a run's row, and its object and frame as a position in an array (L, T).
    run, x, place
        int (N,): the run of each pixel, its column, and its position in a flattened channel of the canvas.
    edges
        int (L + 1,): where the pixels of each object begin, and the last ones end.
    """

    y: Indices
    box: Indices
    run: Indices
    x: Indices
    place: Indices
    edges: Indices


@dataclass(frozen=True)
class Texture:
    """Two colours (B, G, R in 0–1) and the pattern they form: plain, stripes, checks or dots.

    It covers at most ``opacity`` (0–1) of what is under it.
    """

    colour: Array
    second: Array
    pattern: str
    frequency: float
    opacity: float = 1.0

    def colours(self, u: Array, v: Array) -> Array:
        """Return the colours (3, n), or (3, 1) where it is plain.

        ``u`` and ``v`` (n,) are the object's own coordinates, about -1 to 1 across it.
        """
        if self.pattern == "plain":
            return self.colour[:, None]
        k = np.float32(self.frequency * np.pi)
        wave: Array = np.sin(k * u)
        if self.pattern != "stripes":
            wave = wave * np.sin(k * v)
        is_second = wave > (0.4 if self.pattern == "dots" else 0)
        return np.where(is_second, self.second[:, None], self.colour[:, None])


class Canvas:
    """A clip being painted; ``pixels`` is float32 (3, T, H, W), B, G, R in 0–1, contiguous."""

    def __init__(self, pixels: Floats) -> None:
        self.pixels = pixels

    def near(self, starts: Array, ends: Array, reach: Array) -> NearPixels:
        """Return the pixels within ``reach`` (L, T) of the lines between points (L, T, 2)."""
        n_frames, height, width = self.pixels.shape[1:]
        (x, y), (across, down) = (points.reshape(-1, 2).T for points in (starts, ends - starts))
        radius: Array = reach.ravel()
        top, n_rows = _whole_numbers(
            np.minimum(y, y + down) - radius, np.maximum(y, y + down) + radius, height
        )
        box, below = _runs(n_rows)
        rows = top[box] + below
        down += 1e-9  # never exactly 0: it is a divisor below
        lean: Array = radius * across / np.hypot(across, down) / np.abs(down)
        x, y, across, down, radius, lean = (values[box] for values in (x, y, across, down, radius, lean))

        def edge(side: int) -> Array:
            # A row ends with the disc about that point of the line whose disc reaches furthest to the side:
            # the derivative of x + along·across ± sqrt(radius² - distance²) in ``along`` is 0 there.
            along = np.clip((rows - y) / down + side * lean, 0, 1)
            half2 = radius**2 - (rows - y - along * down) ** 2
            edge: Array = x + along * across + side * np.sqrt(np.maximum(half2, 0))
            return edge

        left, length = _whole_numbers(edge(-1), edge(1), width)
        run, to_the_right = _runs(length)
        columns = left[run] + to_the_right
        place = ((box % n_frames * height + rows) * width)[run] + columns
        edges = np.searchsorted(box[run], np.arange(len(starts) + 1) * n_frames)
        return NearPixels(rows, box, run, columns, place, edges)

    def blend(
        self, near: NearPixels, coverage: Floats, textures: Sequence[Texture], u: Array, v: Array
    ) -> None:
        """Paint L textures in order, with the coverage (N,), 0–1, of N pixels.

        ``u`` and ``v`` (N,) are the coordinates in which a texture has its pattern.
        """
        levels = self.pixels.reshape(-1)
        channels = (np.arange(3) * self.pixels[0].size)[:, None]
        for texture, edges in zip(textures, pairwise(near.edges.tolist()), strict=True):
            own = slice(*edges)
            places = near.place[own] + channels
            blended = levels[places]
            change = texture.colours(u[own], v[own]) - blended
            change *= np.minimum(coverage[own], np.float32(texture.opacity))
            blended += change
            levels[places] = blended

    def capsules(self, starts: Array, ends: Array, radii: Array, textures: Sequence[Texture]) -> None:
        """Paint L lines with round ends, in order, between points (L, T, 2); ``radii`` (L, T) in pixels."""
        near = self.near(starts, ends, radii + 0.6)
        x, y = starts.reshape(-1, 2).astype(np.float32).T
        spans = (ends - starts).reshape(-1, 2).astype(np.float32)
        length2 = np.maximum((spans**2).sum(axis=1), np.float32(1e-6))[near.box]
        dx, dy = near.x.astype(np.float32) - x[near.box][near.run], near.y.astype(np.float32) - y[near.box]
        across, down = spans[near.box].T
        projection, length2 = dx * across[near.run] + (dy * down)[near.run], length2[near.run]
        along = np.clip(projection / length2, 0, 1)
        # |d - along·axis|² = |d|² + along·(along·|axis|² - 2 d·axis)
        distance2 = ((along * length2 - projection) - projection) * along + dx * dx + (dy * dy)[near.run]
        # A rim is 0 half a pixel outside the radius, 1 half a pixel inside, linear in the squared distance.
        radii = radii.ravel()
        outer, inner = (radii + 0.5) ** 2, np.maximum(radii - 0.5, 0) ** 2
        slope = (1 / (outer - inner)).astype(np.float32)[near.box][near.run]
        outer = outer.astype(np.float32)[near.box][near.run]
        coverage = np.clip((outer - distance2) * slope, 0, 1)
        self.blend(near, coverage, textures, along * np.float32(2), dx + dy[near.run])


def local_coordinates(near: NearPixels, centres: Array, angles: Array, radii: Array) -> tuple[Floats, ...]:
    """Return where N pixels are in objects' own coordinates u and v (N,), and the objects' radius (N,).

    The unit is an object's radius; objects are turned by ``angles`` (L, T), in radians. ``centres``
    (L, T, 2) and ``radii`` (L, T) are in pixels.
    """
    values = (centres[..., 0], centres[..., 1], np.cos(angles) / radii, np.sin(angles) / radii, radii)
    x, y, cos, sin, radius = (value.astype(np.float32).ravel()[near.box] for value in values)
    dx, dy = near.x.astype(np.float32) - x[near.run], near.y.astype(np.float32) - y
    u = dx * cos[near.run] + (dy * sin)[near.run]
    return u, (dy * cos)[near.run] - dx * sin[near.run], radius[near.run]


def _whole_numbers(low: Array, high: Array, size: int) -> tuple[Indices, Indices]:
    # The first of the whole numbers from each low to its high, inside the canvas, and how many they are.
    first = np.maximum(np.ceil(low), 0).astype(np.intp)
    return first, np.maximum(np.minimum(np.floor(high), size - 1).astype(np.intp) + 1 - first, 0)


def _runs(count: Indices) -> tuple[Indices, Indices]:
    # For runs of so many members: of each member, which run it is in, and its place there.
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - (np.cumsum(count) - count)[run]
