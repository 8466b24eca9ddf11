"""Decoding in the calling process."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.decode.base import NOT_READY_SECONDS, FramesDecoded, Lease, VideoFailed
from c3d_extract.decode.self_check import check_decoding
from c3d_extract.decode.video import decode_video

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions, NextVideo
    from c3d_extract.decode.reader import InMemoryVideo

__all__ = ["InProcessDecoder"]


class InProcessDecoder:
    """Decodes in this process, one video after the other: the same events as `DecodePool`, bit for bit.

    For environments where no process can be started. A video that crashes FFmpeg also crashes this process,
    and there is no timeout for a decoder that hangs.

    Parameters
    ----------
    options
        Options for every video.
    in_memory
        The videos by their task numbers, where these are read instead of paths.
    """

    def __init__(self, options: DecodeOptions, in_memory: Sequence[InMemoryVideo] | None = None) -> None:
        self._in_memory = in_memory
        # Decoders in other threads may share the options, but a transform's buffers are not thread-safe.
        self._options = dataclasses.replace(options, transform=copy.copy(options.transform))
        self._is_checked = False
        self._shape = (options.n_frames, *options.transform.shape)
        self._free: deque[NDArray[np.uint8]] = deque()  # filled by any thread that releases frames
        self._current = np.empty(0, np.uint8)

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
        for video in videos:
            if video is None:
                time.sleep(NOT_READY_SECONDS)
            elif isinstance(video, VideoFailed):
                yield video
            else:
                yield from self._decode(*video)
            if stopped is not None and stopped.is_set():
                return

    def _decode(self, task: int, path: Path) -> Iterator[DecodeEvent]:
        video = path if self._in_memory is None else self._in_memory[task]
        for event in decode_video(task, video, self._options, next_buffer=self._next_buffer):
            if not isinstance(event, FramesDecoded):
                yield event
                continue
            lease = Lease(functools.partial(self._free.append, self._current))
            yield dataclasses.replace(event, lease=lease)
            if not lease.is_held:
                lease.release()

    def _next_buffer(self) -> NDArray[np.uint8]:
        # Memory that was used before is already mapped; new memory is mapped page by page.
        self._current = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        return self._current
