"""Resize and crop frames as torchvision does with ``antialias=False``, to the bit of torch's own kernel.

torch computes in float32 and torchvision rounds the result to uint8, halves to even. Of torch's two kernels
for a CPU this is the one for several threads (`HelperInterpLinear` in UpSampleKernel.cpp): along rows first,
``fma(first, weight, second * weight)``, which the compiler makes of a sum of two products. The other one, for
a single thread or small frames, sums four products, and so rounds differently where a value lies next to a
half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.preprocess.axes import Axis

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FloatSampling", "float_axis"]

_BLOCK_ROWS = 64  # of the crop at a time, so that what is computed stays in the cache


def float_axis(n_source: int, n_resized: int, lines: NDArray[np.intp]) -> Axis:
    """Return the sampling of some lines of the resized frame."""
    # torch's area_pixel_compute_source_index and guard_index_and_lambda (UpSample.h): a float32 scale, and a
    # position from one fused multiply-add. A product of two float32 is exact in float64.
    scale = np.float64(np.float32(n_source) / np.float32(n_resized))
    target = lines + 0.5
    position = np.maximum((scale * target - 0.5).astype(np.float32), np.float32(0))
    first = np.minimum(position.astype(np.intp), n_source - 1)
    weight_second = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
    second = np.minimum(first + 1, n_source - 1)
    return Axis(first, second, np.float32(1) - weight_second, weight_second)


class _Block(NamedTuple):
    """Some rows of the crop: the source lines that they need, and how they are made of those."""

    rows: slice
    lines: NDArray[np.intp]
    first: NDArray[np.intp]  # places in ``lines``
    second: NDArray[np.intp]
    weight_first: NDArray[np.float64]
    weight_second: NDArray[np.float32]


class FloatSampling:
    """Samples frames of one size; not for several threads.

    Each weighted sum is computed in float64 and rounded to float32 once: that is what a fused multiply-add
    gives, but for sums of more than 53 bits, which need weights below 2^-20.

    Parameters
    ----------
    rows, columns
        From `float_axis`.
    shape
        Shape of the frames: (H, W, 3), or (H, W, 4) with a fourth byte that is ignored.
    """

    def __init__(self, rows: Axis, columns: Axis, shape: tuple[int, ...]) -> None:
        n_channels = shape[2]
        self._columns = columns
        self._pixel = np.dtype((np.void, n_channels))  # NumPy gathers whole pixels faster than channels
        self._column_weights = (
            columns.weight_first.repeat(n_channels).astype(np.float64),
            columns.weight_second.repeat(n_channels),
        )
        n_rows, n_values = len(rows.first), len(columns.first) * n_channels
        starts = range(0, n_rows, _BLOCK_ROWS)
        self._blocks = [_block(rows, slice(i, min(i + _BLOCK_ROWS, n_rows))) for i in starts]
        n_lines = max(_BLOCK_ROWS, *(len(block.lines) for block in self._blocks))
        self._pixels = np.empty((2, n_lines, len(columns.first)), self._pixel)
        self._exact = np.empty((n_lines, n_values))
        self._single = np.empty((3, n_lines, n_values), np.float32)
        self._bytes = np.empty((n_rows, n_values), np.uint8)

    def __call__(self, frame: NDArray[np.uint8], crop: NDArray[np.uint8]) -> None:
        """Write the crop of ``frame``, uint8 (rows, columns, 3)."""
        for block in self._blocks:
            lines = np.ascontiguousarray(frame[block.lines]).view(self._pixel)[:, :, 0]
            sampled = self._vertical(block, self._horizontal(lines))
            np.rint(sampled, out=sampled)
            np.copyto(self._bytes[block.rows], sampled, casting="unsafe")
        pixels = self._bytes.reshape(*crop.shape[:2], -1)
        for channel in range(3):
            crop[:, :, channel] = pixels[:, :, channel]

    def _horizontal(self, lines: NDArray[np.void]) -> NDArray[np.float32]:
        """Return each column of the crop in each of these lines: float32 (lines, values)."""
        n = len(lines)
        first, second = self._pixels[:, :n]
        # With a mode NumPy writes into ``out`` directly; no place is out of bounds.
        lines.take(self._columns.first, axis=1, out=first, mode="clip")
        lines.take(self._columns.second, axis=1, out=second, mode="clip")
        exact, product, sums = self._exact[:n], self._single[0, :n], self._single[1, :n]
        weight_first, weight_second = self._column_weights
        np.multiply(second.view(np.uint8), weight_second, out=product)
        np.multiply(first.view(np.uint8), weight_first, out=exact)
        np.add(exact, product, out=sums, casting="unsafe")
        return sums

    def _vertical(self, block: _Block, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of a block, float32 (rows, values)."""
        n = len(block.first)
        exact, product, line = self._exact[:n], self._single[0, :n], self._single[2, :n]
        sums.take(block.second, axis=0, out=product, mode="clip")
        product *= block.weight_second
        sums.take(block.first, axis=0, out=line, mode="clip")
        np.multiply(line, block.weight_first, out=exact)
        np.add(exact, product, out=line, casting="unsafe")
        return line


def _block(axis: Axis, rows: slice) -> _Block:
    first, second = axis.first[rows], axis.second[rows]
    lines = np.unique(np.concatenate([first, second]))
    return _Block(
        rows,
        lines,
        np.searchsorted(lines, first),
        np.searchsorted(lines, second),
        axis.weight_first[rows, None].astype(np.float64),
        axis.weight_second[rows, None],
    )
