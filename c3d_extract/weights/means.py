"""Means: the three published cubes, binaryproto or npy files, or three numbers; always B, G, R."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.weights.fetch import cache_folder, check_file, fetch_file, git_blob_sha1
from c3d_extract.weights.layouts.caffe import read_blob
from c3d_extract.weights.layouts.contents import one_line
from c3d_extract.weights.registry import load_registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.registry import RemoteFile

__all__ = ["APPROXIMATE_SPORTS1M", "NamedMean", "find_mean", "looks_like_ucf101", "mean_sha256", "read_mean"]

APPROXIMATE_SPORTS1M = "100.61,108.05,107.81"
"""Channel means B,G,R of the Sports-1M cube's centre crop (reference: the cube, averaged)."""

_UCF101_CHANNELS = ((90.25, 97.66, 101.41), (95.14, 102.86, 107.76))
"""Channel means B,G,R of the UCF101 cube, whole and of its centre crop."""

_LARGEST_FILE = 64 << 20  # a float64 cube has 8.4 MB


class NamedMean(NamedTuple):
    """A mean and its name: float (3,), (3, H, W) or (3, T, H, W), grey levels, B, G, R."""

    array: NDArray[np.floating[Any]]
    name: str


def find_mean(
    wanted: str | Path,
    *,
    beside: Path | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> NamedMean:
    """Return a mean by name, numbers or file.

    Parameters
    ----------
    wanted
        Three numbers ``B,G,R``, a file, or the name of a registered mean, which is searched in
        ``beside`` and the cache folder and otherwise fetched.
    beside
        The checkpoint's folder.

    Raises
    ------
    WeightsError
        If it is none of these, cannot be fetched, or is not a mean.
    """
    numbers = _numbers(str(wanted))
    if numbers is not None:
        return NamedMean(numbers, str(wanted).replace(" ", ""))
    path = Path(wanted)
    remote = load_registry().means.get(str(wanted))
    if remote is not None and not path.is_file():
        return NamedMean(
            read_mean(_local_mean(remote, beside, offline=offline, progress=progress)).array, str(wanted)
        )
    return read_mean(path)


def _numbers(text: str) -> NDArray[np.float64] | None:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    if len(values) != 3 or not all(-1e3 < value < 1e3 for value in values):
        raise WeightsError("a mean of numbers is three grey levels B,G,R", subject=f"mean {text}")
    return np.array(values)


def _local_mean(
    remote: RemoteFile, beside: Path | None, *, offline: bool, progress: FetchProgress | None
) -> Path:
    for folder in (beside, cache_folder()):
        if folder is not None and (folder / remote.name).is_file():
            check_file(folder / remote.name, remote)
            return folder / remote.name
    try:
        return fetch_file(remote, offline=offline, progress=progress)
    except FetchError as error:
        approximate = f"or do without, approximately: --mean {APPROXIMATE_SPORTS1M}"
        raise WeightsError(
            error.reason, subject=error.subject, hint=f"{error.hint}; {approximate}"
        ) from error


def read_mean(path: Path) -> NamedMean:
    """Read a binaryproto or npy file; known cubes have their registered names, others the file's."""
    try:
        if path.exists() and not path.is_file():  # reading a FIFO would block
            raise WeightsError("not a mean: no regular file", subject=path)
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST_FILE else b""
    except OSError as error:
        hint = f"give a file, three numbers B,G,R, or one of: {', '.join(load_registry().means)}"
        raise WeightsError(f"mean cannot be read: {error.strerror}", subject=path, hint=hint) from error
    if not content:
        raise WeightsError(f"not a mean: {size:,} bytes", subject=path)
    try:
        array = _read_npy(path) if content.startswith(b"\x93NUMPY") else read_blob(memoryview(content))
    except WeightsError as error:
        raise WeightsError(f"not a mean: {error.reason}", subject=path) from error
    return NamedMean(_checked(path, array), _known_name(content, path))


def _read_npy(path: Path) -> NDArray[np.floating[Any]]:
    try:
        # Mapped: a false shape in the header allocates nothing.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, which raises many types
        raise WeightsError(f"not a readable npy file ({one_line(error)})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fui":
        raise WeightsError("an npy file of something else than numbers")
    # Ports store (T, H, W, 3) or (H, W, 3); a last axis of 3 is always the channels.
    if array.ndim in {3, 4} and array.shape[-1] == 3 and array.shape[0] != 3:
        array = np.moveaxis(array, -1, 0)
    return np.array(array, dtype=np.float64)


def _checked(path: Path, array: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    if array.shape[-2:] == (128, 128):
        raise WeightsError(
            "a cube of 128x128 frames, the authors' I380K one; those of Sports-1M and UCF101 are 128x171",
            subject=path,
        )
    if not np.isfinite(array).all():
        raise WeightsError("a mean with values that are not finite", subject=path)
    return array


def _known_name(content: bytes, path: Path) -> str:
    found = git_blob_sha1(content)
    return next(
        (name for name, mean in load_registry().means.items() if mean.git_blob_sha1 == found), path.name
    )


def looks_like_ucf101(fitted: NDArray[np.float32]) -> bool:
    """Return whether a mean (3, T, H, W) is the UCF101 one, by its channel means within 0.25 levels."""
    channels = fitted.mean(axis=(1, 2, 3), dtype=np.float64)
    return any(np.allclose(channels, known, atol=0.25) for known in _UCF101_CHANNELS)


def mean_sha256(mean: NDArray[np.float32]) -> str:
    """Return the sha256 of the mean's float32 bytes, little endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(mean, dtype="<f4").tobytes()).hexdigest()
