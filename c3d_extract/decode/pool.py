"""Decoder processes: frames through shared memory, a watchdog, and replacements for processes that died.

All share one memory, divided into slots (``slots.py``). A worker decodes one video at a time, writes each
frame once into the slot that it is filling, and sends a short message when a few slots are full. Whoever
reads the frames holds a slot until it is done with them; then any worker may be granted it. So memory is
bounded for videos of any length, and workers that are faster than the network wait.

A worker that crashes loses only its current video. A worker that decodes no frame for `timeout_seconds` is
killed, its video fails, and a new worker replaces it. The time of the last frame is in shared memory. Time
spent waiting for the main process does not count, nor does time in which the main process itself was busy or
suspended (Ctrl-Z).

Before its first video a worker checks that it can read videos at all. Where it cannot, or where workers die
before they are ready, the run ends with one error, and no video is reported as failed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import selectors
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

from c3d_extract.decode.base import (
    NOT_READY_SECONDS,
    FramesDecoded,
    Lease,
    SlotsExhausted,
    VideoFailed,
)
from c3d_extract.decode.process import DecoderProcess, how_it_ended
from c3d_extract.decode.self_check import unusable_error
from c3d_extract.decode.shared_memory import Layout, SlotMemory, anonymous_file
from c3d_extract.decode.slots import Slots
from c3d_extract.decode.worker import STOP, Ready, Setup, SlotsFilled
from c3d_extract.errors import DecoderError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions, NextVideo

__all__ = ["SLOTS_PER_WORKER", "DecodePool"]

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5  # how often silent workers are checked
_MAX_FAILED_STARTS = 3  # consecutive workers that die before they are ready; then the run ends
_START_SECONDS = 60.0  # until a worker is ready; imports from a network disk are slow
_NO_MORE = object()
SLOTS_PER_WORKER = 16
"""Slots that a worker has at a time: those of one message, and as many for the time until it gets more."""
_EXHAUSTED_SECONDS = 0.02  # without a slot for any worker, until the reader is told
_HINT = "--workers 0 decodes without processes"


class _Worker:
    """The main process's end of one decoder process."""

    def __init__(self, setup: Setup, memory: int, heartbeats: NDArray[np.float64]) -> None:
        self.task: int | None = None
        self.path = Path()
        self.is_ready = False
        self.started = time.monotonic()
        self.number = setup.number
        self.granted: set[int] = set()
        self._heartbeats = heartbeats
        self._silent_seconds = 0.0
        self._last_check = self.started
        self._last_frame = 0.0
        self.connection, worker_end = multiprocessing.Pipe()
        self.process = DecoderProcess(worker_end, memory)
        self._send(setup)

    def _send(self, message: Setup | list[int]) -> None:
        with contextlib.suppress(OSError):  # it has already died; the next receive reports that
            self.connection.send(message)

    def assign(self, task: int, path: Path) -> None:
        """Send a video to decode; OSError where the process has died."""
        self.task = task
        self.path = path
        self.started = time.monotonic()
        self._heartbeats[self.number] = self.started
        self.connection.send((task, path))

    def grant(self, slots: list[int]) -> None:
        """Let it fill these slots."""
        if slots:
            self.granted.update(slots)
            self._send(slots)

    def mark_ready(self) -> None:
        """Start the timeout: the process has started."""
        self.is_ready = True
        self._silent_seconds = 0.0

    def silent_seconds(self, longest_count: float) -> float:
        """Return the seconds without a frame or a message, 0 while it waits for the main process or is idle.

        Time since the last call counts as at most ``longest_count`` seconds: both processes may have been
        suspended.
        """
        passed = time.monotonic() - self._last_check
        self._last_check += passed
        last_frame = float(self._heartbeats[self.number])
        # Without a slot it waits for one.
        idle = self.task is None or not self.granted or self.connection.poll()
        silent = not idle and last_frame == self._last_frame
        self._silent_seconds = self._silent_seconds + min(passed, longest_count) if silent else 0.0
        self._last_frame = last_frame
        return self._silent_seconds

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join(
            timeout=1.0
        )  # limited: a process blocked on a dead network disk ignores even SIGKILL
        self.connection.close()

    def stop(self) -> None:
        """Ask the process to exit, and kill it where it does not."""
        with contextlib.suppress(OSError, ValueError):
            self.connection.send(STOP)
        self.process.join(timeout=1.0)
        self.kill()

    def exit_reason(self) -> str:
        """Return why the process ended, from its exit code."""
        self.process.join(timeout=1.0)
        return f"decoder crashed: {how_it_ended(self.process.exitcode)}"


class DecodePool:
    """A fixed number of decoder processes; a context manager.

    Parameters
    ----------
    n_workers
        Decoder processes, started when they are first needed.
    options
        Options for every video.
    timeout_seconds
        A worker that decodes no frame for this long (above 0) is killed, and its video fails.
    n_first
        Workers at first, None for all; another is started whenever the reader waited for decoders for more
        than half of the last second.
    n_slots
        How many slots there are, for `DecodeOptions.n_frames` frames each; at least eight for each worker,
        and so many where it is None.
    """

    def __init__(
        self,
        n_workers: int,
        options: DecodeOptions,
        *,
        timeout_seconds: float = 60.0,
        n_first: int | None = None,
        n_slots: int | None = None,
    ) -> None:
        self.n_workers = n_workers
        self._n_allowed = n_workers if n_first is None else min(n_first, n_workers)
        self._seconds_behind = 0.0
        self._n_checks_behind = 0
        n_slots = max(n_slots or 0, SLOTS_PER_WORKER * n_workers)
        self._layout = Layout.of(options, n_slots, n_workers)
        self._slots = Slots(n_slots)
        # Workers that have a video. Kept from message to message: to set it up costs more than to wait.
        self._selector = selectors.PollSelector()
        self._selector.register(self._slots.woken, selectors.EVENT_READ)
        self._memory: SlotMemory | None = None
        self._descriptor = -1
        self.options = options
        self.timeout_seconds = timeout_seconds
        self._workers: list[_Worker] = []
        self._requeued: deque[tuple[int, Path]] = deque()  # videos whose worker died before it was ready
        self._running = threading.Lock()
        self._failed_starts = 0
        self._next_check = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.kill() if worker.task is not None else worker.stop()
        self._workers = []
        if self._memory is not None:
            os.close(self._descriptor)
            self._memory = None
        self._slots.close()

    @property
    def memory(self) -> SlotMemory:
        """The memory that is shared with the workers."""
        if self._memory is None:
            self._descriptor = anonymous_file(self._layout.n_bytes)
            self._memory = SlotMemory(self._descriptor, self._layout)
        return self._memory

    def run(
        self, videos: Iterable[NextVideo], stopped: threading.Event | None = None
    ) -> Generator[DecodeEvent, None, None]:
        """Decode videos, several at a time; yield events as they occur.

        Events of one task are in frame order and end with VideoRead or VideoFailed; events of several
        tasks are interleaved. Closing the iterator early kills the decoders that are running; so does setting
        ``stopped``, even while they send nothing.

        Raises
        ------
        DecoderError
            Where decoder processes cannot be started, or cannot read videos at all; or where this pool is
            already used by another run, whose task numbers would clash.
        """
        if not self._running.acquire(blocking=False):
            raise DecoderError("a pool of decoders is used by two runs at a time", hint="create one for each")
        try:
            yield from self._run(iter(videos), stopped or threading.Event())
        finally:
            for worker in [w for w in self._workers if w.task is not None]:
                self._remove(worker)
            self._slots.reset(slot for worker in self._workers for slot in worker.granted)
            self._requeued.clear()
            self._running.release()

    def _run(self, waiting: Iterator[NextVideo], stopped: threading.Event) -> Iterator[DecodeEvent]:
        more = True
        while not stopped.is_set():
            longest_wait = _POLL_SECONDS
            while (more or self._requeued) and (worker := self._idle_worker()) is not None:
                video = self._requeued.popleft() if self._requeued else next(waiting, _NO_MORE)
                more = more and video is not _NO_MORE
                if isinstance(video, VideoFailed):
                    yield video
                elif isinstance(video, tuple):
                    self._assign(worker, *video)
                elif more:  # none is ready yet
                    longest_wait = NOT_READY_SECONDS
                    break
            if not more and not any(w.task is not None for w in self._workers):
                return
            yield from self._events(longest_wait)

    def _idle_worker(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        return self._start_worker() if len(self._workers) < self._n_allowed else None

    def _start_worker(self) -> _Worker:
        memory = self.memory
        number = min(set(range(self.n_workers)) - {worker.number for worker in self._workers})
        try:
            worker = _Worker(Setup(self.options, self._layout, number), self._descriptor, memory.heartbeats)
        except OSError as error:
            raise DecoderError(f"a decoder process cannot be started: {error}", hint=_HINT) from error
        self._workers.append(worker)
        return worker

    def _grant(self) -> None:
        """Grant free slots to the workers that have few."""
        for worker in self._workers:
            n_wanted = SLOTS_PER_WORKER - len(worker.granted)
            if worker.task is not None and n_wanted >= SLOTS_PER_WORKER // 2:
                worker.grant(self._slots.take(n_wanted))

    def _assign(self, worker: _Worker, task: int, path: Path) -> None:
        try:
            worker.assign(task, path)
            self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        except OSError:  # it has died, of which the video is not the cause
            if worker.is_ready:
                self._remove(worker)
                self._requeued.append((task, path))
            else:
                self._start_failed(worker, worker.exit_reason())

    def _events(self, longest_wait: float) -> Iterator[DecodeEvent]:
        self._grant()
        busy = [worker for worker in self._workers if worker.task is not None]
        is_exhausted = not any(worker.granted for worker in busy) and self._slots.wait_for_some()
        began = time.monotonic()
        ready = self._selector.select(min(longest_wait, _EXHAUSTED_SECONDS) if is_exhausted else longest_wait)
        if not is_exhausted and any(worker.is_ready for worker in busy):
            self._seconds_behind += time.monotonic() - began
        if is_exhausted and busy and not ready:
            yield SlotsExhausted()
        for key, _ in ready:
            if key.data is None:
                self._slots.clear_woken()
            else:
                yield from self._receive(key.data)
        now = time.monotonic()
        if now < self._next_check:  # checking all workers costs as much as handling a message
            return
        self._allow_more(now)
        self._next_check = now + _POLL_SECONDS
        longest_count = max(2 * _POLL_SECONDS, self.timeout_seconds / 10)
        for worker in list(self._workers):
            silent = worker.silent_seconds(longest_count)
            if worker.is_ready and silent > self.timeout_seconds:
                yield self._fail(worker, f"no frame for {self.timeout_seconds:g} s")
            elif not worker.is_ready and silent > max(_START_SECONDS, self.timeout_seconds):
                self._start_failed(worker, f"not ready after {silent:.0f} s")

    def _allow_more(self, now: float) -> None:
        """Allow another worker where readers waited for decoders at two checks, one after the other."""
        passed = now - self._next_check + _POLL_SECONDS
        self._n_checks_behind = self._n_checks_behind + 1 if self._seconds_behind > passed / 2 else 0
        self._seconds_behind = 0.0
        if self._n_checks_behind == 2:
            self._n_checks_behind = 0
            self._n_allowed = min(self._n_allowed + 1, self.n_workers)

    def _receive(self, worker: _Worker) -> Iterator[DecodeEvent]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            yield from self._exited(worker)
            return
        if isinstance(message, Ready):
            self._check_ready(worker, message.why_unusable)
            return
        for item in message:
            if isinstance(item, SlotsFilled):
                worker.granted.difference_update(item.slots)
                self._grant()
                yield from self._filled(item)
            else:
                self._selector.unregister(worker.connection)
                worker.task = None
                yield item

    def _filled(self, message: SlotsFilled) -> Iterator[FramesDecoded]:
        for slot, times in zip(message.slots, message.times_seconds, strict=True):
            lease = Lease(self._slots.release_of(slot))
            yield FramesDecoded(message.task, self.memory.slots[slot, : len(times)], times, lease)
            if not lease.is_held:
                lease.release()

    def _check_ready(self, worker: _Worker, why_unusable: str | None) -> None:
        if why_unusable is not None:  # the video is not the cause: every other would fail in the same way
            raise unusable_error(why_unusable)
        worker.mark_ready()
        self._failed_starts = 0

    def _exited(self, worker: _Worker) -> Iterator[VideoFailed]:
        reason = worker.exit_reason()
        if worker.is_ready:
            yield self._fail(worker, reason)
        else:
            self._start_failed(worker, reason)

    def _start_failed(self, worker: _Worker, reason: str) -> None:
        """Queue its video again: its decoding had not begun, so it is not the cause."""
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise DecoderError(
                f"decoder processes end before their first frame ({reason})",
                hint=f"see c3d-tools doctor; {_HINT}",
            )
        _log.warning("a decoder process ended before its first frame (%s); another is started", reason)
        if worker.task is not None:
            self._requeued.append((worker.task, worker.path))
        self._remove(worker)

    def _fail(self, worker: _Worker, reason: str) -> VideoFailed:
        task = worker.task
        if task is None:
            raise DecoderError(f"an idle decoder process failed ({reason})")
        seconds = time.monotonic() - worker.started
        self._remove(worker)
        return VideoFailed(task, reason, seconds)

    def _remove(self, worker: _Worker) -> None:
        if worker.connection in self._selector.get_map():
            self._selector.unregister(worker.connection)
        worker.kill()
        self._workers.remove(worker)
        if worker.process.exitcode is not None:  # else it may still write into its slots
            self._slots.give_back(worker.granted)
