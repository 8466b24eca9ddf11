"""Decoder processes: crops through shared memory, a watchdog, and replacements for the dead.

Each worker owns a ring of slots in memory shared with the main process. It decodes one video at a
time, writes each frame's crop once into the current slot, and sends a short message when a slot is
full; the main process answers when it has copied the slot. So memory is bounded whatever the length
of a video, and a worker that the network cannot keep up with simply waits.

A worker that crashes loses its video only. A worker that decodes no frame for `timeout` seconds is
killed, its video fails, and another takes its place. Waiting for the main process does not count:
the worker says in shared memory that it waits, and when it last had a frame. Nor does time in which
the main process itself was busy or asleep (Ctrl-Z): only silence that was listened to counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import os
import pickle
import signal
import sys
import threading
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from c3d_extract.clips import CLIP_LENGTH
from c3d_extract.errors import DecoderError, VideoError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from multiprocessing.connection import Connection

    from numpy.typing import NDArray

    from c3d_extract.preprocess import Preprocessing
    from c3d_extract.video import VideoInfo

__all__ = ["DecodeOptions", "DecodePool", "Event", "FramesDecoded", "VideoFailed", "VideoRead", "decode"]

_SLOTS = 4  # of 16 frames each: one being written, one being copied, two of slack; 2.4 MB a worker
_POLL_SECONDS = 0.5  # how often silent workers are looked at
_MAX_FAILED_STARTS = 3  # workers in a row that die before their first task: something is wrong here


@dataclass(frozen=True)
class DecodeOptions:
    """What every decoder does to every video."""

    preprocessing: Preprocessing
    max_pixels: int
    fps: float | None = None


@dataclass(frozen=True)
class FramesDecoded:
    """Crops uint8 (T, 112, 112, 3), B, G, R, 1 ≤ T ≤ 16; valid until the next event is asked for."""

    task: int
    frames: NDArray[np.uint8]
    times_seconds: list[float]


@dataclass(frozen=True)
class VideoRead:
    """A video was read to its end; ``trouble`` says what was wrong with it, or None."""

    task: int
    info: VideoInfo
    n_decoded: int
    n_decode_errors: int
    trouble: str | None
    seconds: float


@dataclass(frozen=True)
class VideoFailed:
    """A video could not be read; frames that came before do not count."""

    task: int
    reason: str
    seconds: float


Event = FramesDecoded | VideoRead | VideoFailed


class _AnonymousMemory:
    """Memory that a worker can be given; unlike multiprocessing's it takes nothing of /dev/shm.

    In containers /dev/shm often has 64 MB, and a worker that touches more of it than there is dies.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("c3d-decoder")
            os.ftruncate(descriptor, size)
        self.size = size
        self.descriptor = descriptor
        self.buffer = mmap.mmap(descriptor, size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same_memory, (self.size, multiprocessing.reduction.DupFd(self.descriptor))

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def _same_memory(size: int, descriptor: Any) -> _AnonymousMemory:
    return _AnonymousMemory(size, descriptor.detach())


def _shared_memory(context: Any, size: int) -> Any:
    return _AnonymousMemory(size) if hasattr(os, "memfd_create") else context.RawArray(ctypes.c_uint8, size)


def _parts(memory: Any, shape: tuple[int, ...]) -> tuple[_Shared, NDArray[np.uint8]]:
    """Return the head and the slots, uint8 of ``shape``, of a worker's memory."""
    buffer = memory.buffer if isinstance(memory, _AnonymousMemory) else memory
    slots = np.frombuffer(buffer, np.uint8, int(np.prod(shape)), ctypes.sizeof(_Shared))
    return _Shared.from_buffer(buffer), slots.reshape(shape)


class _Shared(ctypes.Structure):
    """The head of a worker's shared memory."""

    _fields_ = (("last_frame", ctypes.c_double), ("waiting", ctypes.c_bool))


def decode(path: Path, options: DecodeOptions, heartbeat: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield ``(crop, time_seconds)`` for each frame of a video, then ``(None, facts)``.

    Runs in a decoder process. The crop is uint8 (112, 112, 3) in the order B, G, R.

    Raises
    ------
    VideoError
        Where the video cannot be read.
    """
    from c3d_extract.preprocess import FrameSampler
    from c3d_extract.times import LONGEST_GAP_SECONDS, Gaps, frame_seconds, resample, steady_times
    from c3d_extract.video import open_video

    sampler, gaps = FrameSampler(options.preprocessing), Gaps()
    with open_video(path, max_pixels=options.max_pixels) as reader:

        def crops() -> Iterator[tuple[NDArray[np.uint8], float | None]]:
            for frame in reader.frames(sampler.lines):
                if heartbeat is not None:
                    heartbeat()
                crop, pts_seconds = sampler(frame.bgr, size=frame.size), frame.pts_seconds
                del frame  # so that the reader can use its memory again
                yield crop, pts_seconds

        timed = steady_times(crops(), reader.info.fps)
        if options.fps is not None:
            native, duration = reader.info.fps, reader.info.duration_seconds
            stated = duration + frame_seconds(native) if duration > 0 else LONGEST_GAP_SECONDS
            longest = min(stated, LONGEST_GAP_SECONDS)
            timed = resample(timed, options.fps, native_fps=native, longest_gap_seconds=longest, gaps=gaps)
        yield from timed
        trouble = "; ".join(filter(None, (reader.trouble(), gaps.trouble()))) or None
        yield None, (reader.info, reader.n_frames, reader.n_decode_errors, trouble)


class _Sender:
    """The worker's end: fills slots and waits for free ones."""

    def __init__(self, connection: Connection, shared: _Shared, slots: NDArray[np.uint8]) -> None:
        self.connection = connection
        self.shared = shared
        self.slots = slots
        self.n_free = len(slots)
        self.current = 0
        self.times: list[float] = []

    def heartbeat(self) -> None:
        self.shared.last_frame = time.monotonic()

    def put(self, task: int, crop: NDArray[np.uint8], time_seconds: float) -> None:
        if not self.times:
            self._wait_for_slot()
        self.slots[self.current, len(self.times)] = crop
        self.times.append(time_seconds)
        if len(self.times) == CLIP_LENGTH:
            self.flush(task)

    def flush(self, task: int) -> None:
        if self.times:
            self.connection.send(("frames", task, self.current, self.times))
            self.current = (self.current + 1) % len(self.slots)
            self.n_free -= 1
            self.times = []

    def _wait_for_slot(self) -> None:
        while self.n_free == 0 or self.connection.poll():
            self.shared.waiting = self.n_free == 0
            self.connection.recv()  # the only message while a video is being decoded: a slot is free
            self.n_free += 1
        self.heartbeat()
        self.shared.waiting = False

    def run(self, task: int, path: Path, options: DecodeOptions) -> None:
        started = time.monotonic()
        self.times = []
        try:
            for crop, fact in decode(path, options, self.heartbeat):
                if crop is not None:
                    self.put(task, crop, fact)
                    continue
                self.flush(task)
                self.connection.send(("read", task, *fact, time.monotonic() - started))
        except VideoError as error:
            self._failed(task, error.reason, started)
        except MemoryError:
            self._failed(task, "not enough memory to decode it", started)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - one video's surprise is that video's failure
            self._failed(task, f"decoder error: {type(error).__name__}: {error}", started)

    def _failed(self, task: int, reason: str, started: float) -> None:
        # One line of valid UTF-8, whatever a file name put into it.
        line = " ".join(reason.encode("utf-8", "backslashreplace").decode("utf-8").splitlines())
        self.connection.send(("failed", task, line, time.monotonic() - started))


def _worker(connection: Connection, memory: Any, shape: tuple[int, ...], options: DecodeOptions) -> None:
    """Decode videos until told to stop; the body of a decoder process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent()
    _be_first_to_go()
    sender = _Sender(connection, *_parts(memory, shape))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(("ready",))
        while (message := connection.recv()) != ("stop",):
            if message[0] == "free":
                sender.n_free += 1
            else:
                sender.run(message[1], message[2], options)


def _end_with_parent() -> None:
    """Exit when the main process is gone, even in the midst of a decoder call that never returns."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _be_first_to_go() -> None:
    """Let the kernel, when memory runs out, take a decoder rather than the main process (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


class _Worker:
    """The main process's end of one decoder process."""

    def __init__(self, context: Any, options: DecodeOptions) -> None:
        rows, columns = options.preprocessing.crop
        shape = (_SLOTS, CLIP_LENGTH, rows, columns, 3)
        memory = _shared_memory(context, ctypes.sizeof(_Shared) + int(np.prod(shape)))
        self.shared, self.slots = _parts(memory, shape)
        self.connection, theirs = context.Pipe()
        self.task: int | None = None
        self.started = time.monotonic()
        self._silent_seconds = 0.0
        self._looked = self.started
        self._last_frame = 0.0
        self.process = context.Process(target=_worker, args=(theirs, memory, shape, options), daemon=True)
        with _without_main_module():
            self.process.start()
        theirs.close()

    def give(self, task: int, path: Path) -> None:
        self.task = task
        self.started = time.monotonic()
        self.shared.last_frame = self.started
        self.shared.waiting = False
        self.connection.send(("decode", task, path))

    def silent_seconds(self, longest_look: float) -> float:
        """Seconds without a frame or a message, as far as we listened; 0 while it waits for us or is idle.

        What passed since the last call counts for ``longest_look`` seconds at most.
        """
        passed = time.monotonic() - self._looked
        self._looked += passed
        last_frame = float(self.shared.last_frame)
        idle = self.task is None or bool(self.shared.waiting) or self.connection.poll()
        silent = not idle and last_frame == self._last_frame
        self._silent_seconds = self._silent_seconds + min(passed, longest_look) if silent else 0.0
        self._last_frame = last_frame
        return self._silent_seconds

    def kill(self) -> None:
        self.process.kill()
        self.process.join(timeout=1.0)  # not for ever: on a dead network disk even SIGKILL has to wait
        self.connection.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.connection.send(("stop",))
        self.process.join(timeout=1.0)
        self.kill()

    def epitaph(self) -> str:
        """Say what it died of."""
        self.process.join(timeout=1.0)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            memory = " (out of memory, or killed by hand)" if name == "SIGKILL" else ""
            return f"decoder crashed: {name}{memory}"
        return f"decoder crashed: exit code {code}"


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep multiprocessing from importing the caller's script into every decoder.

    Decoders need nothing of it, and a script without an ``if __name__ == "__main__"`` guard, or one
    that imports torch, would cost each of them dearly.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["c3d_extract.decode_pool", "c3d_extract.video", "c3d_extract.preprocess"])
    return context


class DecodePool:
    """A fixed number of decoder processes; a context manager.

    Parameters
    ----------
    n_workers
        Decoder processes, started when the first video comes.
    options
        What is done to every video.
    timeout_seconds
        A worker without a decoded frame for so long is killed, and its video fails.
    """

    def __init__(self, n_workers: int, options: DecodeOptions, *, timeout_seconds: float = 60.0) -> None:
        self.n_workers = n_workers
        self.options = options
        self.timeout_seconds = timeout_seconds
        self._context = _context()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._next_look = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        for worker in self._workers:
            worker.kill() if worker.task is not None else worker.stop()
        self._workers = []

    def run(self, videos: Iterable[tuple[int, Path]]) -> Generator[Event, None, None]:
        """Decode ``(task, path)`` pairs, several at a time; yield what happens as it happens.

        Events of one task come in its order and end with VideoRead or VideoFailed; events of several
        tasks are mixed. Leaving the iterator early kills the decoders that are at work.

        Raises
        ------
        DecoderError
            Where decoder processes cannot be started.
        """
        waiting = iter(videos)
        try:
            more = True
            while True:
                while more and (worker := self._idle_worker()) is not None:
                    video = next(waiting, None)
                    more = video is not None
                    if video is not None:
                        self._give(worker, *video)
                if not any(w.task is not None for w in self._workers):
                    return
                yield from self._events()
        finally:
            for worker in [w for w in self._workers if w.task is not None]:
                self._bury(worker)

    def _idle_worker(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        return self._start_worker() if len(self._workers) < self.n_workers else None

    def _start_worker(self) -> _Worker:
        try:
            self._workers.append(_Worker(self._context, self.options))
        except OSError as error:
            raise DecoderError(f"a decoder process cannot be started: {error}") from error
        return self._workers[-1]

    def _give(self, worker: _Worker, task: int, path: Path) -> None:
        try:
            worker.give(task, path)
        except OSError:  # it died while it had nothing to do, which is not this video's fault
            self._bury(worker)
            self._start_worker().give(task, path)

    def _events(self) -> Iterator[Event]:
        by_connection = {w.connection: w for w in self._workers if w.task is not None}
        for connection in multiprocessing.connection.wait(list(by_connection), timeout=_POLL_SECONDS):
            yield from self._message(by_connection[connection])
        now = time.monotonic()
        if now < self._next_look:  # a look costs as much as a message
            return
        self._next_look = now + _POLL_SECONDS
        longest_look = max(2 * _POLL_SECONDS, self.timeout_seconds / 10)
        for worker in [w for w in self._workers if w.silent_seconds(longest_look) > self.timeout_seconds]:
            yield self._fail(worker, f"no frame for {self.timeout_seconds:g} s")

    def _message(self, worker: _Worker) -> Iterator[Event]:
        try:
            kind, *rest = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            yield self._dead(worker)
            return
        self._failed_starts = 0
        if kind == "frames":
            task, slot, times = rest
            yield FramesDecoded(task, worker.slots[slot, : len(times)], times)
            with contextlib.suppress(OSError):  # its death is noticed at the next message
                worker.connection.send(("free",))
        elif kind == "read":
            worker.task = None
            yield VideoRead(*rest)
        elif kind == "failed":
            worker.task = None
            yield VideoFailed(*rest)

    def _dead(self, worker: _Worker) -> VideoFailed:
        reason = worker.epitaph()
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS and worker.process.exitcode == 1:
            self._bury(worker)
            raise DecoderError(
                f"decoder processes end before their first frame ({reason})", hint="see c3d-tools doctor"
            )
        return self._fail(worker, reason)

    def _fail(self, worker: _Worker, reason: str) -> VideoFailed:
        task = worker.task
        if task is None:
            raise DecoderError(f"an idle decoder process failed ({reason})")
        seconds = time.monotonic() - worker.started
        self._bury(worker)
        return VideoFailed(task, reason, seconds)

    def _bury(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)
