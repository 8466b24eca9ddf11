"""Decoders for several runs at a time: each run has a decoder of its own."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from c3d_extract.decode import DecodePool, InProcessDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from c3d_extract.decode import DecodeOptions, Decoder

__all__ = ["Decoders"]


class Decoders:
    """Lends a decoder to one run at a time, and keeps one for the next run: starting processes takes time.

    Parameters
    ----------
    options
        What is done to every video.
    n_workers
        Decoder processes of a run, 0 to decode in this process.
    timeout_seconds
        As `DecodePool` takes it.
    """

    def __init__(self, options: DecodeOptions, n_workers: int, *, timeout_seconds: float) -> None:
        self._options = options
        self._n_workers = n_workers
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._kept: Decoder | None = None
        self._lent: list[Decoder] = []

    @contextlib.contextmanager
    def lend(self, n_videos: int) -> Iterator[Decoder]:
        """Lend a decoder that no other run uses, with as many workers as ``n_videos`` can keep busy."""
        decoder = self._take(max(1, min(self._n_workers, n_videos)))
        try:
            yield decoder
        finally:
            self._give_back(decoder)

    def _take(self, n_workers: int) -> Decoder:
        with self._lock:
            decoder, self._kept = self._kept, None
            if isinstance(decoder, DecodePool) and decoder.n_workers < n_workers:
                decoder.close()
                decoder = None
            decoder = decoder or self._make(n_workers)
            self._lent.append(decoder)
            return decoder

    def _make(self, n_workers: int) -> Decoder:
        if self._n_workers == 0:
            return InProcessDecoder(self._options)
        return DecodePool(n_workers, self._options, timeout_seconds=self._timeout_seconds)

    def _give_back(self, decoder: Decoder) -> None:
        with self._lock:
            if decoder not in self._lent:  # closed in the meantime
                return
            self._lent.remove(decoder)
            if self._kept is None:
                self._kept = decoder
            else:
                decoder.close()

    def close(self) -> None:
        """End every process, lent ones too: their runs must have been stopped."""
        with self._lock:
            for decoder in (*self._lent, *([self._kept] if self._kept else [])):
                decoder.close()
            self._lent, self._kept = [], None
