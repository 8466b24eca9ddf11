"""Resize and crop frames as OpenCV or torchvision does, to the bit.

OpenCV's 8-bit bilinear resize works in fixed point. `FrameSampler` does the same arithmetic, on the pixels
that the crop needs and no others, so that pixels are equal and not merely close. For networks of torchvision
it does torch's arithmetic instead (``resize_float.py``).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Self

import numpy as np

from c3d_extract.preprocess.axes import Axis, line_pairs, of_needed_lines
from c3d_extract.preprocess.crops import distinct_corners
from c3d_extract.preprocess.resize_float import FloatSampling, float_axis

try:
    from c3d_extract import _kernels
except ImportError:  # there was no C compiler when this was installed
    _kernels = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.preprocess.crops import FrameCrops
    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["FrameSampler", "PlacedCropSampler", "StackedCropSampler", "sampler_for"]

_MAX_CACHED_SIZES = (
    16  # frame sizes whose tables are kept; a hostile stream may change its size at every frame
)


def _make_axis(n_source: int, n_resized: int, lines: NDArray[np.intp], *, is_columns: bool) -> Axis:
    """Return the sampling of some lines of the resized frame."""
    # OpenCV's cv::resize (resize.cpp), INTER_LINEAR, 8 bit: half-pixel centres, float32 fractions, weights
    # rounded to 1/2048 (INTER_RESIZE_COEF_BITS = 11). Beyond the borders it takes a column with the weights 1
    # and 0, but a row twice with the weights as they are, which rounds differently.
    position = ((lines + 0.5) * (n_source / n_resized) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    fraction = position - first.astype(np.float32)
    if is_columns:
        fraction[(first < 0) | (first >= n_source - 1)] = 0
    weight_second = np.rint(fraction * np.float32(2048)).astype(np.int32)
    weight_first = np.rint((np.float32(1) - fraction) * np.float32(2048)).astype(np.int32)
    last = n_source - 1
    return Axis(np.clip(first, 0, last), np.clip(first + 1, 0, last), weight_first, weight_second)


class _CompiledSampling:
    """Samples frames of one size with ``_kernels.c``."""

    def __init__(self, rows: Axis, columns: Axis, shape: tuple[int, ...]) -> None:
        self._rows, self._columns = np.stack(rows).astype(np.int32), np.stack(columns).astype(np.int32)
        self._pixel_strides = shape[2], 1

    def __call__(self, frame: NDArray[np.uint8], crop: NDArray[np.uint8]) -> None:
        if frame.strides[1:] != self._pixel_strides:  # a mirrored or rotated view
            frame = np.ascontiguousarray(frame)
        _kernels.sample(frame, self._rows, self._columns, crop)


class _NumPySampling:
    """The same arithmetic where there was no C compiler, some seven times as slow; not for several threads.

    Arrays are stored column by column in the horizontal pass and row by row in the vertical one, because
    NumPy gathers whole pixels that way several times faster than it gathers channels.
    """

    def __init__(self, rows: Axis, columns: Axis, shape: tuple[int, ...]) -> None:
        n_lines, _, n_channels = shape
        self._n_columns, self._n_rows = len(columns.first), len(rows.first)
        both_rows = np.concatenate([rows.first, rows.second])
        self._lines = np.unique(both_rows)
        self._needs_all_lines = len(self._lines) == n_lines
        self._rows = np.searchsorted(self._lines, both_rows)
        self._columns = np.concatenate([columns.first, columns.second])
        has_three = n_channels == 3
        self._pixel = np.dtype((np.void, 3)) if has_three else np.dtype(np.uint32)
        self._pixel_sums = np.dtype((np.void, 6)) if has_three else np.dtype(np.uint64)
        # A pixel times a weight needs 19 bits. With weights split into 16 * high + low, each product is at
        # most 255 * 128 and fits 16 bits.
        weights = np.concatenate([columns.weight_first, columns.weight_second]).astype(np.int16)[:, None]
        self._high, self._low = weights >> 4, weights & 15
        row_weights = np.concatenate([rows.weight_first, rows.weight_second])[:, None]
        self._row_weights = np.repeat(row_weights, self._n_columns * n_channels, axis=1)
        self._narrow = np.empty((2, len(weights), len(self._lines) * n_channels), np.int16)
        self._wide = np.empty(self._row_weights.shape, np.int32)

    def __call__(self, frame: NDArray[np.uint8], crop: NDArray[np.uint8]) -> None:
        sums = self._vertical(self._horizontal(frame))
        pixels = sums.astype(np.uint8).reshape(*crop.shape[:2], frame.shape[2])
        for channel in range(3):  # four times as fast as [:, :, :3] of four channels
            crop[:, :, channel] = pixels[:, :, channel]

    def _horizontal(self, frame: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Return (p·w + p'·w') >> 4 for each column of the crop, each source row: int16 (columns, values)."""
        if not self._needs_all_lines:
            frame = frame[self._lines]
        pixels = np.ascontiguousarray(frame).view(self._pixel)[:, :, 0].T
        coarse, fine = self._narrow
        np.copyto(coarse, pixels[self._columns].view(np.uint8))
        np.multiply(coarse, self._low, out=fine)
        coarse *= self._high
        sums, rest = coarse[: self._n_columns], fine[: self._n_columns]
        rest += fine[self._n_columns :]
        rest >>= 4
        sums += coarse[self._n_columns :]
        sums += rest
        return sums

    def _vertical(self, sums: NDArray[np.int16]) -> NDArray[np.int32]:
        """Return ((u·w >> 16) + (l·w' >> 16) + 2) >> 2 of upper and lower rows: int32 (rows, values)."""
        np.copyto(self._wide, sums.view(self._pixel_sums).T[self._rows].view(np.int16))
        self._wide *= self._row_weights
        upper, lower = self._wide[: self._n_rows], self._wide[self._n_rows :]
        upper &= -(1 << 16)  # rounds one of them down; the last shift rounds the sum and so the other
        upper += lower
        upper += 2 << 16
        upper >>= 18
        return upper


_Sampling = _CompiledSampling | _NumPySampling | FloatSampling


class FrameSampler:
    """Resizes and crops frames exactly as ``cv2.resize(frame, (171, 128))[8:120, 29:141]`` does.

    Or exactly as torchvision does, for preprocessing whose ``resampling`` says so.

    A `c3d_extract.decode.base.FrameTransform`: pickled or copied, it is its settings alone. Tables that
    depend on the frame size are kept for the last few sizes, so that a stream that changes its size midway
    costs nothing more. One thread at a time may use a sampler.

    Parameters
    ----------
    preprocessing
        Defines the resize and the crop; colour and scale are the network's part.
    """

    compiled = _kernels is not None
    """Whether the inner loop is the compiled one; the pixels are the same."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._axes: dict[tuple[int, int], tuple[Axis, Axis]] = {}
        self._is_float = preprocessing.resampling == "torchvision"
        self._samplings: dict[tuple[int, ...], _Sampling] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[Preprocessing]]:
        return type(self), (self.preprocessing,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of what a call returns: rows, columns, 3."""
        return *self.preprocessing.crop, 3

    def __call__(self, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the crop of ``frame``, uint8 of `shape`, same channel order, 0–255.

        Parameters
        ----------
        frame
            uint8 (H, W, 3), or (H, W, 4) with a fourth byte that is ignored.
        size
            Rows and columns of the whole frame, where ``frame`` holds only the `lines` of it.
        """
        crop = np.empty(self.shape, np.uint8)
        self._sampling(frame.shape, size)(frame, crop)
        return crop

    def lines(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of a frame that its crop needs, ascending.

        They come in pairs (2k, 2k + 1), which share their chroma in most videos.
        """
        rows, columns = self._axes_of(height, width)
        return line_pairs(rows), line_pairs(columns)

    def tables(self, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Return how rows and columns of the crop are sampled, int32 (4, n) each; None for torchvision's way.

        First and second line of a frame of this size, and their weights in 1/2048.
        """
        if self._is_float:
            return None
        rows, columns = self._axes_of(height, width)
        return np.stack(rows).astype(np.int32), np.stack(columns).astype(np.int32)

    def _sampling(self, shape: tuple[int, ...], size: tuple[int, int] | None) -> _Sampling:
        height, width = size or (shape[0], shape[1])
        key = (height, width, *shape)
        sampling = self._samplings.get(key)
        if sampling is None:
            if len(self._samplings) >= _MAX_CACHED_SIZES:
                self._samplings.clear()
            rows, columns = self._axes_of(height, width)
            if size is not None:
                rows, columns = of_needed_lines(rows), of_needed_lines(columns)
            sampling = self._samplings[key] = self._kind(rows, columns, shape)
        return sampling

    @property
    def _kind(self) -> type[_Sampling]:
        if self._is_float:
            return FloatSampling
        return _CompiledSampling if self.compiled else _NumPySampling

    def _axes_of(self, height: int, width: int) -> tuple[Axis, Axis]:
        axes = self._axes.get((height, width))
        if axes is None:
            if len(self._axes) >= _MAX_CACHED_SIZES:
                self._axes.clear()
            axes = self._axes[height, width] = self._new_axes(height, width)
        return axes

    def _new_axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        rows, columns = resized = self.preprocessing.resized(height, width)
        row_lines, column_lines = self._lines_of(resized)
        if self._is_float:
            return float_axis(height, rows, row_lines), float_axis(width, columns, column_lines)
        return (
            _make_axis(height, rows, row_lines, is_columns=False),
            _make_axis(width, columns, column_lines, is_columns=True),
        )

    def _lines_of(self, resized: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of a resized frame that are sampled."""
        (n_rows, n_columns), (top, left) = self.preprocessing.crop, self._corner(resized)
        return np.arange(top, top + n_rows), np.arange(left, left + n_columns)

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Return the first row and column of the crop in a resized frame."""
        return self.preprocessing.offset_in(resized)


class PlacedCropSampler(FrameSampler):
    """Resizes frames as `FrameSampler` does, and returns a crop of another place.

    Parameters
    ----------
    preprocessing
        Defines the resize and the size of the crop.
    place
        Where the crop is, down and across: from 0, the first place that it can have, to below 1.
    """

    def __init__(self, preprocessing: Preprocessing, place: tuple[float, float]) -> None:
        super().__init__(preprocessing)
        self._place = place

    def __reduce__(self) -> tuple[type[Self], tuple[Preprocessing, tuple[float, float]]]:  # type: ignore[override]
        return type(self), (self.preprocessing, self._place)

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        sizes = zip(self._place, resized, self.preprocessing.crop, strict=True)
        top, left = (int(part * (n - n_crop + 1)) for part, n, n_crop in sizes)
        return top, left


class StackedCropSampler(FrameSampler):
    """Resizes frames whose size follows from their aspect ratio; returns their distinct crops, stacked.

    A frame is resized once, and of it those lines alone that a crop needs.

    Parameters
    ----------
    preprocessing
        Defines the resize and the size of a crop.
    n_blocks
        How many of `distinct_corners` are stacked, 5 or 6.
    """

    def __init__(self, preprocessing: Preprocessing, n_blocks: int) -> None:
        super().__init__(preprocessing)
        self._n_blocks = n_blocks

    def __reduce__(self) -> tuple[type[Self], tuple[Preprocessing, int]]:  # type: ignore[override]
        return type(self), (self.preprocessing, self._n_blocks)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of what a call returns: rows of all crops, columns, 3."""
        rows, columns = self.preprocessing.crop
        return self._n_blocks * rows, columns, 3

    def __call__(self, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the crops of ``frame`` below one another, uint8 of `shape`; see `FrameSampler`."""
        height, width = size or frame.shape[:2]
        resized, crop = self.preprocessing.resized(height, width), self.preprocessing.crop
        lines = self._lines_of(resized)
        sampled = np.empty((*map(len, lines), 3), np.uint8)
        self._sampling(frame.shape, size)(frame, sampled)
        stack = np.empty((self._n_blocks, *crop, 3), np.uint8)
        for block, corner in zip(stack, distinct_corners(resized, crop), strict=False):
            top, left = (np.searchsorted(axis, first) for axis, first in zip(lines, corner, strict=True))
            block[:] = sampled[top : top + crop[0], left : left + crop[1]]
        return stack.reshape(self.shape)

    def tables(self, height: int, width: int) -> None:
        """Return None: the lines that are sampled are not yet the result."""
        del height, width

    def _lines_of(self, resized: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        rows, columns = zip(*distinct_corners(resized, self.preprocessing.crop), strict=True)
        lines = [
            np.unique(np.add.outer(firsts, np.arange(n)))
            for firsts, n in zip((rows, columns), self.preprocessing.crop, strict=True)
        ]
        return lines[0], lines[1]


def sampler_for(preprocessing: Preprocessing, crops: FrameCrops | None) -> FrameSampler:
    """Return what makes of a video's frames those that crops are cut from; None: the centre crops."""
    if crops is None:
        return FrameSampler(preprocessing)
    if crops.are_stacked:
        return StackedCropSampler(preprocessing, crops.frame[0] // crops.size[0])
    return FrameSampler(dataclasses.replace(preprocessing, crop=preprocessing.resize))
