"""Which device runs which batch: batches go to devices in turn, results come back in order."""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.pipeline.feeder import Batch, VideoEnd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.compute.network import Network, Pending
    from c3d_extract.pipeline.feeder import Feeder
    from c3d_extract.pipeline.results import Progress

__all__ = ["Result", "Scheduler"]

_SUBMITTED = {"cuda": 3}
"""Batches that run or wait on a device, by its type; 2 on others. A GPU runs while results are written."""
_POLL_SECONDS = 0.005  # how late a result may be noticed while no batch is ready


class Result(NamedTuple):
    """A batch with each layer's features, float32 (N, D), and the ends of videos with and after it."""

    batch: Batch | None
    features: dict[str, NDArray[np.float32]]
    ends: list[VideoEnd]


class _Submitted(NamedTuple):
    batch: Batch
    pending: Pending


class Scheduler:
    """Spreads batches over networks in turn; yields results in the order in which the batches came.

    So a video's clips are summed in their order, whichever devices ran them.
    """

    def __init__(self, networks: Sequence[Network], feeder: Feeder, progress: Progress) -> None:
        self._networks = itertools.cycle(networks)
        # Each device has one batch running and others queued behind it, so that none waits for this thread.
        # On a CPU, cores that are done with a batch begin the next.
        self._depth = sum(_SUBMITTED.get(network.device.type, 2) for network in networks) - 1
        self._feeder = feeder
        self._progress = progress
        # What was taken off the feeder's queue and not yielded yet, in that order.
        self._in_flight: deque[_Submitted | VideoEnd] = deque()

    def results(self) -> Iterator[Result]:
        """Yield each batch with its features, and the ends of videos, until the feeder is done."""
        while True:
            self._release_read()
            while self._in_flight and self._oldest_is_due():
                yield self._take_oldest()
            try:
                item = self._next_item()
            except queue.Empty:
                continue  # no batch yet, and by now perhaps a result
            if item is None:
                break
            self._in_flight.append(self._submit(item) if isinstance(item, Batch) else item)
        while self._in_flight:
            yield self._take_oldest()

    def _release_read(self) -> None:
        """Let go of the frames that devices have read: decoders write the next ones there."""
        for item in self._in_flight:
            if isinstance(item, _Submitted) and not item.batch.is_released and item.pending.is_read():
                item.batch.release()

    def _oldest_is_due(self) -> bool:
        oldest = self._in_flight[0]
        if isinstance(oldest, VideoEnd):
            return True
        n_submitted = sum(isinstance(item, _Submitted) for item in self._in_flight)
        # Where a batch is ready, starting it comes first: the device may have no other.
        return n_submitted > self._depth or (self._feeder.is_empty() and oldest.pending.done())

    def _take_oldest(self) -> Result:
        oldest = self._in_flight[0]
        if isinstance(oldest, VideoEnd):
            return Result(None, {}, self._take_ends())
        self._in_flight.popleft()
        started = time.monotonic()
        features = oldest.pending.result()
        oldest.batch.release()
        self._progress.network_seconds += time.monotonic() - started
        return Result(oldest.batch, features, oldest.batch.ends + self._take_ends())

    def _take_ends(self) -> list[VideoEnd]:
        """Take the ends of videos that no batch in flight precedes."""
        ends: list[VideoEnd] = []
        while self._in_flight and isinstance(end := self._in_flight[0], VideoEnd):
            ends.append(end)
            self._in_flight.popleft()
        return ends

    def _next_item(self) -> Batch | VideoEnd | None:
        """Wait for the feeder; with results in flight only a moment, then raise `queue.Empty`."""
        started = time.monotonic()
        try:
            item = self._feeder.next(timeout=_POLL_SECONDS if self._in_flight else None)
        finally:
            waited = time.monotonic() - started
            if self._in_flight:
                self._progress.network_seconds += waited
            else:
                self._progress.waiting_seconds += waited
        if isinstance(item, BaseException):
            raise item
        return item

    def _submit(self, batch: Batch) -> _Submitted:
        started = time.monotonic()
        if not self._progress.startup_seconds:
            self._progress.startup_seconds = self._progress.seconds
        clips = [clip for _, clip in batch.clips]
        network = next(self._networks)
        pending = network.submit([clip.pieces for clip in clips], [clip.crop for clip in clips])
        self._progress.network_seconds += time.monotonic() - started
        return _Submitted(batch, pending)
