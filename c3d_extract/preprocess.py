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
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WeightsError(f"not a description of preprocessing: {error!r}") from error
        fits = all(0 < c <= r <= 4096 for c, r in zip(made.crop, made.resize, strict=True))
        if not fits or made.colour not in {"bgr", "rgb"} or not all(s > 0 for s in made.std):
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


class FrameSampler:
    """Resizes and crops frames exactly as ``cv2.resize(frame, (171, 128))[8:120, 29:141]`` does.

    Sampling positions are kept for the last few frame sizes, so a stream that changes its size midway
    costs nothing more.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._axes: dict[tuple[int, int], tuple[_Axis, _Axis]] = {}

    def __call__(self, frame: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return uint8 (112, 112, 3) of ``frame``, uint8 (H, W, 3), same channel order, 0–255."""
        rows, columns = self._axes_of(frame.shape[0], frame.shape[1])
        upper = self._horizontal(frame, rows.first, columns)
        lower = self._horizontal(frame, rows.second, columns)
        # The vertical pass in OpenCV's integers: products kept to 16 bits less, then rounded by 4.
        upper >>= 4
        lower >>= 4
        upper *= rows.weight_first[:, None, None]
        lower *= rows.weight_second[:, None, None]
        upper >>= 16
        lower >>= 16
        upper += lower
        upper += 2
        upper >>= 2
        if out is None:
            return upper.astype(np.uint8)
        out[...] = upper
        return out

    @staticmethod
    def _horizontal(frame: NDArray[np.uint8], lines: NDArray[np.intp], columns: _Axis) -> NDArray[np.int32]:
        picked = frame[lines]
        left = picked[:, columns.first] * columns.weight_first[:, None]
        left += picked[:, columns.second] * columns.weight_second[:, None]
        return left

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
    if not np.isfinite(array).all():
        raise WeightsError("a mean has values that are not finite")
    return array.astype(np.float32)


def _mean_shapes(got: tuple[int, ...], preprocessing: Preprocessing, n_frames: int) -> str:
    full = "x".join(map(str, preprocessing.resize))
    cropped = "x".join(map(str, preprocessing.crop))
    return (
        f"a mean of shape {'x'.join(map(str, got))} does not fit: this network takes 3 numbers, "
        f"3x{full}, 3x{n_frames}x{full}, or either cropped to {cropped}"
    )
