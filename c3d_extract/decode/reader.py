"""Choose the reader for a video; new readers are added here."""

from __future__ import annotations

import os
from typing import TypeAlias

from c3d_extract.decode.base import MAX_PIXELS
from c3d_extract.decode.frames import FrameReader, FrameSequence
from c3d_extract.decode.images import FrameFolder
from c3d_extract.decode.opened import OpenedFile
from c3d_extract.decode.pyav import PyAVReader

__all__ = ["InMemoryVideo", "open_in_memory", "open_video"]

InMemoryVideo: TypeAlias = OpenedFile | FrameSequence
"""A video that only this process can read."""


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


def open_in_memory(video: InMemoryVideo, *, max_pixels: int = MAX_PIXELS) -> PyAVReader | FrameReader:
    """Open a file object, or frames.

    Raises
    ------
    VideoError
        Where it cannot be opened.
    """
    if isinstance(video, OpenedFile):
        return PyAVReader(video, max_pixels=max_pixels)
    return FrameReader(video, max_pixels=max_pixels)
