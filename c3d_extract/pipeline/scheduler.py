"""Which device runs which batch: batches go to devices in turn, results come back in order."""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.pipeline.feeder import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.compute.network import Network, Pending
    from c3d_extract.pipeline.feeder import Feeder, VideoEnd
    from c3d_extract.pipeline.results import Progress

__all__ = ["Result", "Scheduler"]

_POLL_SECONDS = 0.005  # how late a result may be noticed while no batch is ready


class Result(NamedTuple):
    """A batch with each layer's features, float32 (N, D), or a video's end."""

    item: Batch | VideoEnd
    features: dict[str, NDArray[np.float32]]


class _InFlight(NamedTuple):
    """What was taken off the feeder's queue and not yielded yet, in that order."""

    item: Batch | VideoEnd
    pending: Pending | None  # None for a video's end


class Scheduler:
    """Spreads batches over networks in turn; yields results in the order in which the batches came.

    So a video's clips are summed in their order, whichever devices ran them.
    """

    def __init__(self, networks: Sequence[Network], feeder: Feeder, progress: Progress) -> None:
        self._networks = itertools.cycle(networks)
        # Each device has one batch running and one queued behind it, so that none waits for this thread. On a
        # CPU, cores that are done with a batch begin the next.
        self._depth = 2 * len(networks) - 1
        self._queue = feeder.queue
        self._progress = progress
        self._in_flight: deque[_InFlight] = deque()

    def results(self) -> Iterator[Result]:
        """Yield each batch with its features, and each end of a video, until the feeder is done."""
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
            pending = self._submit(item) if isinstance(item, Batch) else None
            self._in_flight.append(_InFlight(item, pending))
        while self._in_flight:
            yield self._take_oldest()

    def _release_read(self) -> None:
        """Let go of the frames that devices have read: decoders write the next ones there."""
        for item, pending in self._in_flight:
            if pending is not None and isinstance(item, Batch) and not item.is_released and pending.is_read():
                item.release()

    def _oldest_is_due(self) -> bool:
        full = sum(entry.pending is not None for entry in self._in_flight) > self._depth
        pending = self._in_flight[0].pending
        # Where a batch is ready, starting it comes first: the device may have no other.
        return full or pending is None or (self._queue.empty() and pending.done())

    def _take_oldest(self) -> Result:
        item, pending = self._in_flight.popleft()
        if pending is None:
            return Result(item, {})
        started = time.monotonic()
        features = pending.result()
        if isinstance(item, Batch):
            item.release()
        self._progress.network_seconds += time.monotonic() - started
        return Result(item, features)

    def _next_item(self) -> Batch | VideoEnd | None:
        """Wait for the feeder; with results in flight only a moment, then raise `queue.Empty`."""
        started = time.monotonic()
        try:
            item = self._queue.get(timeout=_POLL_SECONDS if self._in_flight else None)
        finally:
            waited = time.monotonic() - started
            if self._in_flight:
                self._progress.network_seconds += waited
            else:
                self._progress.waiting_seconds += waited
        if isinstance(item, BaseException):
            raise item
        return item

    def _submit(self, batch: Batch) -> Pending:
        started = time.monotonic()
        if not self._progress.startup_seconds:
            self._progress.startup_seconds = self._progress.seconds
        pending = next(self._networks).submit([clip.pieces for _, clip in batch.clips])
        self._progress.network_seconds += time.monotonic() - started
        return pending
