"""Probe, decode and convert: the only importer of av (PyAV, FFmpeg).

What is done here, and why, was measured on several hundred real and damaged files:

* Frames are taken in the order of the decoder. Time stamps of packed-B-frame AVIs (all of UCF101) run
  1, 2, 4, 3, … in *correct* order, so they neither order nor reject frames; see `times`.
* One decoder thread. FFmpeg's frame threads give other frames on damaged files, according to the
  number of cores.
* Only containers that hold their own pictures are opened, and only the file itself: a playlist or a
  concat script, whatever its name, could make FFmpeg open other files and addresses.
* An error inside a stream is counted and decoding goes on; nothing is put in place of what is lost.
  Frames that the decoder itself patched up (grey, smeared) are kept, as OpenCV keeps them, and counted.
* A rotation (phone videos) is applied, as OpenCV does. Interlaced frames are taken as they are, both
  fields in one picture.
"""

from __future__ import annotations

import os

from c3d_extract.decode.base import MAX_PIXELS, Frame, Lines, VideoInfo
from c3d_extract.decode.images import FrameFolder, read_frame_folder
from c3d_extract.decode.pyav import VideoReader, codec_report
from c3d_extract.decode.write import write_video

__all__ = [
    "MAX_PIXELS",
    "Frame",
    "FrameFolder",
    "Lines",
    "VideoInfo",
    "VideoReader",
    "codec_report",
    "open_video",
    "read_frame_folder",
    "write_video",
]


def open_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of numbered images."""
    return (
        FrameFolder(path, max_pixels=max_pixels)
        if os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() raises where a name is too long
        else VideoReader(path, max_pixels=max_pixels)
    )
