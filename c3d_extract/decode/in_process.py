"""Decoding in the calling process."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.decode.base import NOT_READY_SECONDS, VideoFailed
from c3d_extract.decode.self_check import check_decoding
from c3d_extract.decode.video import decode_video

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions, NextVideo

__all__ = ["InProcessDecoder"]


class InProcessDecoder:
    """Decodes in this process, one video after the other: the same events as `DecodePool`, bit for bit.

    For environments where no process can be started. A video that crashes FFmpeg also crashes this process,
    and there is no timeout for a decoder that hangs.
    """

    def __init__(self, options: DecodeOptions) -> None:
        # Decoders in other threads may share the options, but a transform's buffers are not thread-safe.
        self._options = dataclasses.replace(options, transform=copy.copy(options.transform))
        self._is_checked = False

    def close(self) -> None:
        """Do nothing: no process was started."""

    def run(
        self, videos: Iterable[NextVideo], stopped: threading.Event | None = None
    ) -> Generator[DecodeEvent, None, None]:
        """Decode videos in turn, as `DecodePool.run` does.

        Raises
        ------
        DecoderError
            Where the installed PyAV cannot decode any video.
        """
        if not self._is_checked:
            check_decoding()
            self._is_checked = True
        buffer = np.empty((self._options.n_frames, *self._options.transform.shape), np.uint8)
        for video in videos:
            if video is None:
                time.sleep(NOT_READY_SECONDS)
            elif isinstance(video, VideoFailed):
                yield video
            else:
                yield from decode_video(*video, self._options, next_buffer=lambda: buffer)
            if stopped is not None and stopped.is_set():
                return
