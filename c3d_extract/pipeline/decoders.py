"""Decoders for several runs at a time: each run has a decoder of its own."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from c3d_extract.compute.cuda import page_locked
from c3d_extract.decode import DecodePool, InProcessDecoder
from c3d_extract.decode.pool import SLOTS_PER_WORKER
from c3d_extract.pipeline.feeder import QUEUED_BATCHES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from c3d_extract.compute.network import Network
    from c3d_extract.decode import DecodeOptions, Decoder, InMemoryVideo

__all__ = ["Decoders", "InMemoryDecoders"]


class Decoders:
    """Lends a decoder to one run at a time, and keeps one for the next run: starting processes takes time.

    Parameters
    ----------
    options
        What is done to every video.
    n_workers
        Decoder processes of a run, 0 to decode in this process.
    timeout_seconds, n_first
        As `DecodePool` takes them.

    Attributes
    ----------
    warnings
        Why copies to a GPU are slower than expected, if they are.
    """

    def __init__(
        self, options: DecodeOptions, n_workers: int, *, timeout_seconds: float, n_first: int | None = None
    ) -> None:
        self._options = options
        self._n_workers = n_workers
        self._timeout_seconds = timeout_seconds
        self._n_first = n_first
        self._lock = threading.Lock()
        self._kept: Decoder | None = None
        self._lent: list[Decoder] = []
        self._page_locks: dict[DecodePool, contextlib.ExitStack] = {}
        self.warnings: list[str] = []

    @contextlib.contextmanager
    def lend(self, n_videos: int, networks: Sequence[Network]) -> Iterator[Decoder]:
        """Lend a decoder that no other run uses, with as many workers as ``n_videos`` can keep busy.

        Its memory is enough for the batches that the networks have in flight, and page-locked for GPUs.
        """
        decoder = self._take(max(1, min(self._n_workers, n_videos)), networks)
        try:
            yield decoder
        finally:
            self._give_back(decoder)

    def _take(self, n_workers: int, networks: Sequence[Network]) -> Decoder:
        with self._lock:
            decoder, self._kept = self._kept, None
            if isinstance(decoder, DecodePool) and decoder.n_workers < n_workers:
                self._close(decoder)
                decoder = None
            decoder = decoder or self._make(n_workers, networks)
            self._lent.append(decoder)
            return decoder

    def _make(self, n_workers: int, networks: Sequence[Network]) -> Decoder:
        if self._n_workers == 0:
            return InProcessDecoder(self._options)
        # Clips that follow one another take a slot each. Batches are queued, being filled, and being read,
        # one by each network.
        n_batches = QUEUED_BATCHES + 1 + len(networks)
        n_slots = n_batches * max(map(_clips_in_batch, networks)) + SLOTS_PER_WORKER * n_workers
        pool = DecodePool(
            n_workers,
            self._options,
            timeout_seconds=self._timeout_seconds,
            n_first=self._n_first,
            n_slots=n_slots,
        )
        if any(network.device.type == "cuda" for network in networks):
            self._page_locks[pool] = lock = contextlib.ExitStack()
            why_not = lock.enter_context(page_locked(pool.memory.slots))
            if why_not is not None:
                self.warnings.append(f"decoders' memory is not page-locked ({why_not}); copies are slower")
        return pool

    def _close(self, decoder: Decoder) -> None:
        if isinstance(decoder, DecodePool) and decoder in self._page_locks:
            self._page_locks.pop(decoder).close()
        decoder.close()

    def _give_back(self, decoder: Decoder) -> None:
        with self._lock:
            if decoder not in self._lent:  # closed in the meantime
                return
            self._lent.remove(decoder)
            if self._kept is None:
                self._kept = decoder
            else:
                self._close(decoder)

    def close(self) -> None:
        """End every process, lent ones too: their runs must have been stopped."""
        with self._lock:
            for decoder in (*self._lent, *([self._kept] if self._kept else [])):
                self._close(decoder)
            self._lent, self._kept = [], None


class InMemoryDecoders:
    """Lends a decoder of videos that only this process can read, which are decoded in it.

    Parameters
    ----------
    options
        What is done to every video.
    videos
        By their task numbers.
    """

    def __init__(self, options: DecodeOptions, videos: Sequence[InMemoryVideo]) -> None:
        self._options = options
        self._videos = videos

    @contextlib.contextmanager
    def lend(self, n_videos: int, networks: Sequence[Network]) -> Iterator[Decoder]:
        """Lend a decoder of these videos."""
        del n_videos, networks
        yield InProcessDecoder(self._options, self._videos)


def _clips_in_batch(network: Network) -> int:
    """Return of how many clips a batch can have crops: where there are several, it may begin within one."""
    return -(-network.batch_size // network.n_crops) + (network.n_crops > 1)
