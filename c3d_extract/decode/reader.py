"""Choose the reader for a path; new readers are added here."""

from __future__ import annotations

import os

from c3d_extract.decode.base import MAX_PIXELS
from c3d_extract.decode.images import FrameFolder
from c3d_extract.decode.pyav import PyAVReader

__all__ = ["open_video"]


def open_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> PyAVReader | FrameFolder:
    """Open a video file, or a folder of numbered images.

    Raises
    ------
    VideoError
        Where the video cannot be opened.
    """
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir() raises where a name is too long
        return FrameFolder(path, max_pixels=max_pixels)
    return PyAVReader(path, max_pixels=max_pixels)
