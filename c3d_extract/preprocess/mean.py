"""The mean that is subtracted from clips, brought to the shape of a network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import WeightsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["fit_mean", "resized_mean"]


def fit_mean(
    mean: NDArray[np.floating[Any]], preprocessing: Preprocessing, n_frames: int
) -> NDArray[np.float32]:
    """Bring a mean to float32 (3, T, H, W), where each of T, H, W is that of the cropped clip or 1.

    Parameters
    ----------
    mean
        Grey levels 0–255 in the order B, G, R. A cube (3, ``n_frames``, rows, columns) or an image
        (3, rows, columns), at the resized or at the cropped size; or three numbers.
    preprocessing
        Defines both sizes.
    n_frames
        Frames of a clip.

    Raises
    ------
    WeightsError
        For any other shape, or where a value is not finite.
    """
    array = _with_four_axes(np.asarray(mean, dtype=np.float64))
    cropped = preprocessing.crop
    if array.ndim != 4 or array.shape[0] != 3 or array.shape[1] not in {1, n_frames}:
        raise WeightsError(_expected_shapes(mean.shape, preprocessing, n_frames))
    if _is_resized(array, preprocessing):
        top, left = preprocessing.offset
        array = array[:, :, top : top + cropped[0], left : left + cropped[1]]
    elif array.shape[2:] not in {cropped, (1, 1)}:
        raise WeightsError(_expected_shapes(mean.shape, preprocessing, n_frames))
    return _finite_float32(array)


def resized_mean(mean: NDArray[np.floating[Any]], preprocessing: Preprocessing) -> NDArray[np.float32] | None:
    """Return a mean that `fit_mean` takes as float32 (3, T, rows, columns) of whole resized frames.

    None where it has another size than those: then every crop has the same mean.
    """
    array = _with_four_axes(np.asarray(mean, dtype=np.float64))
    return _finite_float32(array) if _is_resized(array, preprocessing) else None


def _is_resized(array: NDArray[np.float64], preprocessing: Preprocessing) -> bool:
    return array.shape[2:] == preprocessing.resize and not preprocessing.keeps_aspect


def _finite_float32(array: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, which is refused below
        fitted: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(fitted).all():
        raise WeightsError("a mean has values that are not finite")
    return fitted


def _with_four_axes(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return channels, frames, rows and columns as four axes; Caffe's files have a batch axis in front."""
    if array.ndim == 5 and array.shape[0] == 1:
        return array.reshape(array.shape[1:])
    if array.ndim == 1:
        return array.reshape(-1, 1, 1, 1)
    return array[:, None] if array.ndim == 3 else array


def _expected_shapes(got: tuple[int, ...], preprocessing: Preprocessing, n_frames: int) -> str:
    full = "x".join(map(str, preprocessing.resize))
    cropped = "x".join(map(str, preprocessing.crop))
    return (
        f"a mean of shape {'x'.join(map(str, got))} does not fit: this network takes 3 numbers, "
        f"3x{full}, 3x{n_frames}x{full}, or either cropped to {cropped}"
    )
