"""Decoding in the calling process."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.decode.self_check import check_decoding
from c3d_extract.decode.video import decode_video

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable
    from pathlib import Path

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions

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
        self, videos: Iterable[tuple[int, Path]], stopped: threading.Event | None = None
    ) -> Generator[DecodeEvent, None, None]:
        """Decode ``(task, path)`` pairs in turn, as `DecodePool.run` does.

        Raises
        ------
        DecoderError
            Where the installed PyAV cannot decode any video.
        """
        if not self._is_checked:
            check_decoding()
            self._is_checked = True
        buffer = np.empty((self._options.n_frames, *self._options.transform.shape), np.uint8)
        for task, path in videos:
            yield from decode_video(task, path, self._options, next_buffer=lambda: buffer)
            if stopped is not None and stopped.is_set():
                return
