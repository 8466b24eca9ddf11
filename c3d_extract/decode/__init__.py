"""Video decoding: readers of single files, and decoders that read many files in separate processes.

The design decisions, each based on measurements on several hundred real and damaged files:

* Frames are returned in the order in which the decoder outputs them. Time stamps of packed-B-frame AVIs
  (all of UCF101) run 1, 2, 4, 3, … in *correct* order, so time stamps are not used to order or to reject
  frames; see ``timestamps.py``.
* One decoder thread. FFmpeg's frame threads give different frames on damaged files, depending on the
  number of cores.
* Only containers that hold their own frames are opened, and only the file itself: a playlist or a
  concat script, whatever its name, could make FFmpeg open other files and URLs.
* An error inside a stream is counted and decoding continues; lost frames are not replaced.
  Frames that the decoder itself concealed (grey, smeared) are kept, as OpenCV keeps them, and counted.
* A rotation (phone videos) is applied, as OpenCV does. Interlaced frames are not deinterlaced: both
  fields stay in one frame.

Names are imported on first use: a decoder process does not import the pool, nor the main process FFmpeg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.decode.base import (
        MAX_PIXELS,
        DecodeEvent,
        DecodeOptions,
        Decoder,
        Frame,
        FramesDecoded,
        FrameTransform,
        Lease,
        Lines,
        NextVideo,
        SlotsExhausted,
        VideoFailed,
        VideoInfo,
        VideoRead,
        VideoReader,
    )
    from c3d_extract.decode.frames import FrameSequence
    from c3d_extract.decode.images import FrameFolder, read_frame_folder
    from c3d_extract.decode.in_process import InProcessDecoder
    from c3d_extract.decode.opened import OpenedFile, ReadableFile, file_of_bytes
    from c3d_extract.decode.pool import DecodePool
    from c3d_extract.decode.pyav import PyAVReader, codec_report
    from c3d_extract.decode.reader import InMemoryVideo, open_video
    from c3d_extract.decode.write import write_video

_MODULES = {
    "MAX_PIXELS": "base",
    "DecodeEvent": "base",
    "DecodeOptions": "base",
    "DecodePool": "pool",
    "Decoder": "base",
    "Frame": "base",
    "FrameFolder": "images",
    "FrameSequence": "frames",
    "FrameTransform": "base",
    "FramesDecoded": "base",
    "InMemoryVideo": "reader",
    "InProcessDecoder": "in_process",
    "Lease": "base",
    "Lines": "base",
    "NextVideo": "base",
    "OpenedFile": "opened",
    "ReadableFile": "opened",
    "SlotsExhausted": "base",
    "PyAVReader": "pyav",
    "VideoFailed": "base",
    "VideoInfo": "base",
    "VideoRead": "base",
    "VideoReader": "base",
    "codec_report": "pyav",
    "file_of_bytes": "opened",
    "open_video": "reader",
    "read_frame_folder": "images",
    "write_video": "write",
}

__all__ = [
    "MAX_PIXELS",
    "DecodeEvent",
    "DecodeOptions",
    "DecodePool",
    "Decoder",
    "Frame",
    "FrameFolder",
    "FrameSequence",
    "FrameTransform",
    "FramesDecoded",
    "InMemoryVideo",
    "InProcessDecoder",
    "Lease",
    "Lines",
    "NextVideo",
    "OpenedFile",
    "PyAVReader",
    "ReadableFile",
    "SlotsExhausted",
    "VideoFailed",
    "VideoInfo",
    "VideoRead",
    "VideoReader",
    "codec_report",
    "file_of_bytes",
    "open_video",
    "read_frame_folder",
    "write_video",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
