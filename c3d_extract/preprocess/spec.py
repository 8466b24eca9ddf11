"""From decoded frames to the network's input: resize, crop, mean; every constant with its source.

The authors' tool (image_io and video_data_layer of C3D v1.0) resizes each frame with OpenCV's default
bilinear to 171x128, subtracts a mean cube at un-cropped coordinates and crops the centre 112x112 at
integer-divided offsets. OpenCV's 8-bit bilinear works in fixed point; `FrameSampler` does the same
arithmetic, on the pixels the crop needs and no others, so that pixels are equal and not merely near.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from c3d_extract.errors import WeightsError

try:
    from c3d_extract import _kernels
except ImportError:  # there was no C compiler when this was installed
    _kernels = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Colour", "FrameSampler", "Preprocessing", "fit_mean"]

Colour = Literal["bgr", "rgb"]


@dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint wants done to a frame before it sees it.

    Attributes
    ----------
    resize
        Rows and columns that every frame is resized to, aspect ratio not kept (image_io.cpp).
    crop
        Rows and columns of the centre crop, at offsets (resize - crop) // 2: rows 8:120, columns 29:141.
    colour
        Channel order of the input: ``bgr`` for OpenCV's own, as the original.
    std
        Divisor of each channel after the mean, in the order B, G, R; the original has none.
    """

    resize: tuple[int, int] = (128, 171)
    crop: tuple[int, int] = (112, 112)
    colour: Colour = "bgr"
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def offset(self) -> tuple[int, int]:
        """First row and first column of the crop."""
        return (self.resize[0] - self.crop[0]) // 2, (self.resize[1] - self.crop[1]) // 2

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave; WeightsError says what is wrong with it."""
        try:
            made = cls(
                resize=(int(values["resize"][0]), int(values["resize"][1])),
                crop=(int(values["crop"][0]), int(values["crop"][1])),
                colour=values["colour"],
                std=(float(values["std"][0]), float(values["std"][1]), float(values["std"][2])),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise WeightsError(f"not a description of preprocessing: {error!r}") from error
        fits = all(0 < c <= r <= 4096 for c, r in zip(made.crop, made.resize, strict=True))
        if not fits or made.colour not in ("bgr", "rgb") or not all(s > 0 for s in made.std):
            raise WeightsError("preprocessing needs 0 < crop <= resize, colour bgr or rgb, and std above 0")
        return made


class _Axis(NamedTuple):
    """Where one output line samples the source: two source lines and their weights in 1/2048."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight_first: NDArray[np.int32]
    weight_second: NDArray[np.int32]


def _axis(n_source: int, n_resized: int, offset: int, n_cropped: int, *, columns: bool) -> _Axis:
    # OpenCV's cv::resize, INTER_LINEAR, 8 bit: half-pixel centres, float32 fractions, weights rounded to
    # 1/2048 (INTER_RESIZE_COEF_BITS = 11). Beyond the borders it takes a column with the weights 1 and 0,
    # but a row twice with the weights as they are, which rounds otherwise.
    target = np.arange(offset, offset + n_cropped)
    position = ((target + 0.5) * (n_source / n_resized) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.intp)
    fraction = position - first.astype(np.float32)
    if columns:
        fraction[(first < 0) | (first >= n_source - 1)] = 0
    weight_second = np.rint(fraction * np.float32(2048)).astype(np.int32)
    weight_first = np.rint((np.float32(1) - fraction) * np.float32(2048)).astype(np.int32)
    last = n_source - 1
    return _Axis(np.clip(first, 0, last), np.clip(first + 1, 0, last), weight_first, weight_second)


class _Compiled:
    """How the crop of one frame size is made, by ``_kernels.c``."""

    def __init__(self, rows: _Axis, columns: _Axis, shape: tuple[int, ...]) -> None:
        self.rows, self.columns = np.stack(rows).astype(np.int32), np.stack(columns).astype(np.int32)
        self.pixel = shape[2], 1  # strides

    def __call__(self, frame: NDArray[np.uint8], crop: NDArray[np.uint8]) -> None:
        if frame.strides[1:] != self.pixel:  # mirrored or turned
            frame = np.ascontiguousarray(frame)
        _kernels.sample(frame, self.rows, self.columns, crop)


class _InNumPy:
    """The same where that could not be compiled, some seven times as slowly.

    Arrays lie column by column in the horizontal pass and row by row in the vertical one, because
    NumPy gathers whole pixels that way several times faster than it gathers channels.
    """

    def __init__(self, rows: _Axis, columns: _Axis, shape: tuple[int, ...]) -> None:
        n_lines, _, n_channels = shape
        self.n_columns, self.n_rows = len(columns.first), len(rows.first)
        both_rows = np.concatenate([rows.first, rows.second])
        self.lines = np.unique(both_rows)
        self.all_lines = len(self.lines) == n_lines
        self.rows = np.searchsorted(self.lines, both_rows)
        self.columns = np.concatenate([columns.first, columns.second])
        three = n_channels == 3
        self.pixel = np.dtype((np.void, 3)) if three else np.dtype(np.uint32)
        self.sums = np.dtype((np.void, 6)) if three else np.dtype(np.uint64)
        # Weights in 1/2048 apart, as 16 * high + low, so that 16 bits hold every product.
        across = np.concatenate([columns.weight_first, columns.weight_second]).astype(np.int16)[:, None]
        self.high, self.low = across >> 4, across & 15
        down = np.concatenate([rows.weight_first, rows.weight_second])[:, None]
        self.down = np.repeat(down, self.n_columns * n_channels, axis=1)
        self.narrow = np.empty((2, len(across), len(self.lines) * n_channels), np.int16)
        self.wide = np.empty(self.down.shape, np.int32)

    def __call__(self, frame: NDArray[np.uint8], crop: NDArray[np.uint8]) -> None:
        summed = self._vertical(self._horizontal(frame))
        made = summed.astype(np.uint8).reshape(*crop.shape[:2], frame.shape[2])
        for channel in range(3):  # four times as fast as [:, :, :3] of four channels
            crop[:, :, channel] = made[:, :, channel]

    def _horizontal(self, frame: NDArray[np.uint8]) -> NDArray[np.int16]:
        """Return (p·w + p'·w') >> 4 for each column of the crop, each source row: int16 (columns, values)."""
        if not self.all_lines:
            frame = frame[self.lines]
        pixels = np.ascontiguousarray(frame).view(self.pixel)[:, :, 0].T
        coarse, fine = self.narrow
        np.copyto(coarse, pixels[self.columns].view(np.uint8))
        np.multiply(coarse, self.low, out=fine)
        coarse *= self.high
        sums, rest = coarse[: self.n_columns], fine[: self.n_columns]
        rest += fine[self.n_columns :]
        rest >>= 4
        sums += coarse[self.n_columns :]
        sums += rest
        return sums

    def _vertical(self, sums: NDArray[np.int16]) -> NDArray[np.int32]:
        """Return ((u·w >> 16) + (l·w' >> 16) + 2) >> 2 of upper and lower rows: int32 (rows, values)."""
        np.copyto(self.wide, sums.view(self.sums).T[self.rows].view(np.int16))
        self.wide *= self.down
        upper, lower = self.wide[: self.n_rows], self.wide[self.n_rows :]
        upper &= -(1 << 16)  # rounds one of them down; the last shift rounds the sum and so the other
        upper += lower
        upper += 2 << 16
        upper >>= 18
        return upper


class FrameSampler:
    """Resizes and crops frames exactly as ``cv2.resize(frame, (171, 128))[8:120, 29:141]`` does.

    What depends on the frame size alone is kept for the last few sizes, so a stream that changes its
    size midway costs nothing more.
    """

    compiled = _kernels is not None
    """Whether the inner loop is the compiled one; the pixels are the same."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._axes: dict[tuple[int, int], tuple[_Axis, _Axis]] = {}
        self._samplings: dict[tuple[int, ...], _Compiled | _InNumPy] = {}

    def __call__(self, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return uint8 (112, 112, 3) of ``frame``, same channel order, 0–255.

        Parameters
        ----------
        frame
            uint8 (H, W, 3), or (H, W, 4) with a fourth byte that is passed over.
        size
            Rows and columns of the whole frame, where ``frame`` holds only the `lines` of it.
        """
        crop = np.empty((*self.preprocessing.crop, 3), np.uint8)
        self._sampling(frame.shape, size)(frame, crop)
        return crop

    def lines(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of a frame that its crop needs, ascending.

        They come in pairs (2k, 2k + 1), which share their colour in most videos.
        """
        return _pairs(self._axes_of(height, width)[0]), _pairs(self._axes_of(height, width)[1])

    def _sampling(self, shape: tuple[int, ...], size: tuple[int, int] | None) -> _Compiled | _InNumPy:
        height, width = size or (shape[0], shape[1])
        key = (height, width, *shape)
        sampling = self._samplings.get(key)
        if sampling is None:
            if len(self._samplings) >= 16:
                self._samplings.clear()
            rows, columns = self._axes_of(height, width)
            if size is not None:
                rows, columns = _within(rows, _pairs(rows)), _within(columns, _pairs(columns))
            make = _Compiled if self.compiled else _InNumPy
            sampling = self._samplings[key] = make(rows, columns, shape)
        return sampling

    def _axes_of(self, height: int, width: int) -> tuple[_Axis, _Axis]:
        axes = self._axes.get((height, width))
        if axes is None:
            if len(self._axes) >= 16:
                self._axes.clear()
            (rows, columns), (top, left) = self.preprocessing.resize, self.preprocessing.offset
            crop = self.preprocessing.crop
            axes = (
                _axis(height, rows, top, crop[0], columns=False),
                _axis(width, columns, left, crop[1], columns=True),
            )
            self._axes[height, width] = axes
        return axes


def _pairs(axis: _Axis) -> NDArray[np.intp]:
    blocks = np.unique(np.concatenate([axis.first, axis.second]) // 2)
    return (2 * blocks[:, None] + np.arange(2)).ravel()


def _within(axis: _Axis, lines: NDArray[np.intp]) -> _Axis:
    """Return the axis for a frame that holds only these lines."""
    first, second = np.searchsorted(lines, axis.first), np.searchsorted(lines, axis.second)
    return axis._replace(first=first, second=second)


def fit_mean(
    mean: NDArray[np.floating[Any]], preprocessing: Preprocessing, n_frames: int = 16
) -> NDArray[np.float32]:
    """Bring a mean to float32 (3, T, H, W), each of T, H, W cropped or 1, in the order B, G, R.

    Parameters
    ----------
    mean
        Grey levels 0–255 in the order B, G, R: a cube (3, 16, 128, 171) at un-cropped coordinates, an
        image (3, 128, 171), either of them already cropped to (…, 112, 112), or three numbers.

    Raises
    ------
    WeightsError
        For any other shape, or where a value is not finite.
    """
    array = np.asarray(mean, dtype=np.float64)
    if array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 1:
        array = array.reshape(-1, 1, 1, 1)
    elif array.ndim == 3:
        array = array[:, None]
    full, cropped = preprocessing.resize, preprocessing.crop
    if array.ndim != 4 or array.shape[0] != 3 or array.shape[1] not in {1, n_frames}:
        raise WeightsError(_mean_shapes(mean.shape, preprocessing, n_frames))
    if array.shape[2:] == full:
        top, left = preprocessing.offset
        array = array[:, :, top : top + cropped[0], left : left + cropped[1]]
    elif array.shape[2:] not in {cropped, (1, 1)}:
        raise WeightsError(_mean_shapes(mean.shape, preprocessing, n_frames))
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite either
        fitted: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(fitted).all():
        raise WeightsError("a mean has values that are not finite")
    return fitted


def _mean_shapes(got: tuple[int, ...], preprocessing: Preprocessing, n_frames: int) -> str:
    full = "x".join(map(str, preprocessing.resize))
    cropped = "x".join(map(str, preprocessing.crop))
    return (
        f"a mean of shape {'x'.join(map(str, got))} does not fit: this network takes 3 numbers, "
        f"3x{full}, 3x{n_frames}x{full}, or either cropped to {cropped}"
    )
