"""Between decoders and networks: clips into batches that span videos, batches over devices, in order."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.decode.pool import Decoder, FramesDecoded, VideoFailed, VideoRead
from c3d_extract.preprocess.clips import Clip, ClipAssembler, ClipSpan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.compute.network import Network, Pending
    from c3d_extract.pipeline.results import Progress
    from c3d_extract.settings import ExtractSettings

__all__ = ["Batch", "Devices", "End", "Feeder", "Owner", "Result"]

_QUEUED_BATCHES = 2  # one being run, one ready, one being filled
_POLL_SECONDS = 0.005  # how late a result may be noticed while no batch is ready


class Owner(NamedTuple):
    """Whose clip stands at one place of a batch."""

    task: int
    span: ClipSpan
    start_seconds: float
    end_seconds: float


@dataclass
class Batch:
    """Clips uint8 (N, 16, 112, 112, 3), of which the first have owners."""

    clips: NDArray[np.uint8]
    owners: list[Owner] = field(default_factory=list)


class End(NamedTuple):
    """A video's end; it comes after the batch with its last clip."""

    event: VideoRead | VideoFailed


class Feeder(threading.Thread):
    """Runs the decoder; puts batches and ends of videos on a bounded queue."""

    def __init__(
        self,
        decoder: Decoder,
        settings: ExtractSettings,
        networks: Sequence[Network],
        videos: list[tuple[int, Path]],
    ) -> None:
        super().__init__(name="c3d-feeder", daemon=True)
        self.queue: queue.Queue[_Queued] = queue.Queue(maxsize=_QUEUED_BATCHES)
        self.n_frames: dict[int, int] = {}
        self._decoder = decoder
        self._settings = settings
        self._networks = networks
        self._videos = videos
        self._stopped = threading.Event()
        self._why_stopped: BaseException | None = None
        self._assemblers: dict[int, ClipAssembler] = {}
        self.handover_seconds = 0.0
        self._blocked_seconds = 0.0
        self._batch = self._new_batch()
        self._ends: list[End] = []  # of videos with clips in the batch that is being filled

    def stop(self, why: BaseException | None = None) -> None:
        """End soon, with nothing more on the queue but ``why``, for whoever goes on reading it."""
        self._why_stopped = self._why_stopped or why  # set before anything is taken off the queue
        self._stopped.set()
        self._empty_queue()
        self.join()
        self._empty_queue()  # what was being put while the queue was emptied
        if self._why_stopped is not None:
            with contextlib.suppress(queue.Full):  # of other threads' reasons to stop
                self.queue.put_nowait(self._why_stopped)

    def _empty_queue(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.queue.get_nowait()

    def check(self) -> None:
        """Raise why this was stopped, where another thread did so: batches may be missing since then."""
        if self._why_stopped is not None:
            raise self._why_stopped

    def run(self) -> None:
        """Feed, in a thread of its own."""
        try:
            with contextlib.closing(self._decoder.run(self._videos, self._stopped)) as events:
                for event in events:
                    if self._stopped.is_set():
                        return
                    started, blocked = time.monotonic(), self._blocked_seconds
                    self._take(event)
                    waited = self._blocked_seconds - blocked
                    self.handover_seconds += time.monotonic() - started - waited
            self._send_batch()
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the calling thread
            self._put(error)

    def _take(self, event: FramesDecoded | VideoRead | VideoFailed) -> None:
        if isinstance(event, FramesDecoded):
            for clip in self._assembler(event.task).push(event.frames, event.times_seconds):
                self._add(event.task, clip)
            return
        assembler = self._assemblers.pop(event.task, None)
        if assembler is not None and isinstance(event, VideoRead):
            for clip in assembler.finish():
                self._add(event.task, clip)
            self.n_frames[event.task] = assembler.n_frames
        if any(owner.task == event.task for owner in self._batch.owners):
            self._ends.append(End(event))
        else:
            self._put(End(event))

    def _assembler(self, task: int) -> ClipAssembler:
        made = self._assemblers.get(task)
        if made is None:
            made = ClipAssembler(self._settings.stride, self._settings.tail, self._settings.short)
            self._assemblers[task] = made
        return made

    def _add(self, task: int, clip: Clip) -> None:
        self._batch.clips[len(self._batch.owners)] = clip.frames
        self._batch.owners.append(Owner(task, clip.span, clip.start_seconds, clip.end_seconds))
        if len(self._batch.owners) == len(self._batch.clips):
            self._send_batch()

    def _send_batch(self) -> None:
        if self._batch.owners:
            self._put(self._batch)
            self._batch = self._new_batch()
        for end in self._ends:
            self._put(end)
        self._ends = []

    def _new_batch(self) -> Batch:
        # As large as the device with the most memory takes it; one that had to back off splits it.
        return Batch(max(self._networks, key=lambda network: network.batch_size).new_batch())

    def _put(self, item: Batch | End | BaseException | None) -> None:
        started = time.monotonic()
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put(item, timeout=0.2)
                break
        self._blocked_seconds += time.monotonic() - started


_Queued = Batch | End | BaseException | None


class Result(NamedTuple):
    """A batch with each layer's features, float32 (N, D), or a video's end."""

    item: Batch | End
    features: dict[str, NDArray[np.float32]]


class _InFlight(NamedTuple):
    """What was taken off the feeder's queue and is not summed up yet, in that order."""

    item: Batch | End
    pending: Pending | None


class Devices:
    """Spreads batches over networks in turn; gives results back in the order in which they were given.

    So a video's clips are summed in their order, whichever devices ran them.
    """

    def __init__(self, networks: Sequence[Network], queued: queue.Queue[_Queued], progress: Progress) -> None:
        self._networks = itertools.cycle(networks)
        # One batch at work and one behind it on each device, so that none waits for us. On a CPU the
        # cores that are done with a batch begin the next.
        self._depth = 2 * len(networks) - 1
        self._queue = queued
        self._progress = progress
        self._in_flight: deque[_InFlight] = deque()

    def results(self) -> Iterator[Result]:
        """Yield each batch with its features, and each end of a video, until the feeder is done."""
        while True:
            while self._in_flight and self._oldest_is_due():
                yield self._oldest()
            try:
                item = self._next()
            except queue.Empty:
                continue  # no batch yet, and by now perhaps a result
            if item is None:
                break
            self._in_flight.append(_InFlight(item, self._submit(item) if isinstance(item, Batch) else None))
        while self._in_flight:
            yield self._oldest()

    def _oldest_is_due(self) -> bool:
        full = sum(entry.pending is not None for entry in self._in_flight) > self._depth
        pending = self._in_flight[0].pending
        # Where a batch is ready, starting it comes first: the device may have no other.
        return full or pending is None or (self._queue.empty() and pending.done())

    def _oldest(self) -> Result:
        item, pending = self._in_flight.popleft()
        if pending is None:
            return Result(item, {})
        started = time.monotonic()
        features = pending.result()
        self._progress.network_seconds += time.monotonic() - started
        return Result(item, features)

    def _next(self) -> Batch | End | None:
        """Wait for the feeder; with results under way only a moment, then raise `queue.Empty`."""
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
        pending = next(self._networks).submit(batch.clips, len(batch.owners))
        self._progress.network_seconds += time.monotonic() - started
        return pending
