"""Writing video files, for the samples that this package renders."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from av.video.stream import VideoStream
    from numpy.typing import NDArray

__all__ = ["write_video"]


def write_video(path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: int) -> None:
    """Write frames uint8 (H, W, 3), R, G, B, even sizes, as H.264 where FFmpeg has it, else MPEG-4.

    The same frames give the same bytes, in every run and on every processor.
    """
    codec, options = "mpeg4", {"qscale": "3"}
    if "libx264" in av.codecs_available:
        # By default x264's output depends on the CPU (AVX-512) and differs between runs.
        params = "cpu-independent=1"
        codec, options = "libx264", {"crf": "20", "preset": "veryfast", "x264-params": params}
    with av.open(os.path.abspath(path), "w", format="mp4") as container:  # noqa: PTH100
        stream = cast("VideoStream", container.add_stream(codec, rate=Fraction(fps), options=options))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the bytes depend on the number of threads
        for index, rgb in enumerate(frames):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))
            )
        container.mux(stream.encode())
