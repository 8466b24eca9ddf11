"""Decoder processes: crops through shared memory, a watchdog, and replacements for the dead.

Each worker owns a ring of slots in memory shared with the main process. It decodes one video at a
time, writes each frame's crop once into the current slot, and sends a short message when a slot is
full; the main process answers when it has copied the slot. So memory is bounded whatever the length
of a video, and a worker that the network cannot keep up with simply waits.

A worker that crashes loses its video only. A worker that decodes no frame for `timeout` seconds is
killed, its video fails, and another takes its place. Waiting for the main process does not count:
the worker says in shared memory that it waits, and when it last had a frame. Nor does time in which
the main process itself was busy or asleep (Ctrl-Z): only silence that was listened to counts.

Before its first video a worker checks that it can read videos at all. Where it cannot, or where workers
die before they are ready, the run ends with one error, and no video is said to have failed.

`InProcessDecoder` gives the same events without any process, and without all of that.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from c3d_extract.decode.process import DecoderProcess, end_with_parent
from c3d_extract.errors import DecoderError, VideoError
from c3d_extract.preprocess.clips import CLIP_LENGTH

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from c3d_extract.decode import VideoInfo
    from c3d_extract.preprocess.spec import Preprocessing

__all__ = [
    "DecodeOptions",
    "DecodePool",
    "Decoder",
    "Event",
    "FramesDecoded",
    "InProcessDecoder",
    "VideoFailed",
    "VideoRead",
    "decode",
]

_SLOTS = 4  # of 16 frames each: one being written, one being copied, two of slack; 2.4 MB a worker
_POLL_SECONDS = 0.5  # how often silent workers are looked at
_MAX_FAILED_STARTS = 3  # workers in a row that die before they are ready: something is wrong here
_START_SECONDS = 60.0  # until a worker is ready; an import from a network's disk takes a while
_WITHOUT = "--workers 0 decodes without processes"


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
            descriptor = _anonymous_file(size)
        self.size = size
        self.descriptor = descriptor
        self.buffer = mmap.mmap(descriptor, size)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # where none could be had
            os.close(self.descriptor)


def _anonymous_file(size: int) -> int:
    """Return the descriptor of a new file of ``size`` bytes, in memory where the kernel allows it."""
    try:
        descriptor = os.memfd_create("c3d-decoder")
    except (AttributeError, OSError) as refused:  # not Linux, an old kernel (ENOSYS), a sandbox (EPERM)
        try:
            with tempfile.TemporaryFile() as file:
                file.write(bytes(size))  # that a hole has no place would be found only when it is used
                file.flush()
                return os.dup(file.fileno())
        except OSError as error:
            raise DecoderError(
                f"no memory to share with a decoder: {refused} (memfd_create), "
                f"and {error} (a temporary file of {size} bytes)",
                hint="set TMPDIR to a folder that can be written to",
            ) from error
    os.ftruncate(descriptor, size)
    return descriptor


def _slots_shape(options: DecodeOptions) -> tuple[int, ...]:
    return (_SLOTS, CLIP_LENGTH, *options.preprocessing.crop, 3)


def _parts(memory: _AnonymousMemory, shape: tuple[int, ...]) -> tuple[_Shared, NDArray[np.uint8]]:
    """Return the head and the slots, uint8 of ``shape``, of a worker's memory."""
    slots = np.frombuffer(memory.buffer, np.uint8, int(np.prod(shape)), ctypes.sizeof(_Shared))
    return _Shared.from_buffer(memory.buffer), slots.reshape(shape)


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
    from c3d_extract.decode import open_video
    from c3d_extract.decode.timestamps import LONGEST_GAP_SECONDS, Gaps, frame_seconds, resample, steady_times
    from c3d_extract.preprocess.spec import FrameSampler

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
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception as error:  # noqa: BLE001 - one video's surprise is that video's failure
            self.connection.send(("failed", task, _reason(error), time.monotonic() - started))


def _reason(error: Exception) -> str:
    """Say why a video failed: one line of valid UTF-8, whatever a file name put into it."""
    if isinstance(error, VideoError):
        reason = error.reason
    elif isinstance(error, MemoryError):
        reason = "not enough memory to decode it"
    else:
        reason = f"decoder error: {type(error).__name__}: {error}"
    return " ".join(reason.encode("utf-8", "backslashreplace").decode("utf-8").splitlines())


class InProcessDecoder:
    """Decodes in this process, one video after the other: the events of `DecodePool`, and the same bits.

    For where processes cannot be had. A video that crashes FFmpeg takes this process with it, and one
    that a decoder never returns from is not given up: there is no timeout.
    """

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self._checked = False

    def close(self) -> None:
        """Do nothing: there is no process to end."""

    def run(
        self, videos: Iterable[tuple[int, Path]], stopped: threading.Event | None = None
    ) -> Generator[Event, None, None]:
        """Decode ``(task, path)`` pairs in turn, as `DecodePool.run` does.

        Raises
        ------
        DecoderError
            Where no video can be decoded here.
        """
        if not self._checked:
            from c3d_extract.decode.self_check import check_decoding

            check_decoding()
            self._checked = True
        for task, path in videos:
            yield from self._decode(task, path)
            if stopped is not None and stopped.is_set():
                return

    def _decode(self, task: int, path: Path) -> Iterator[Event]:
        started = time.monotonic()
        frames = np.empty(_slots_shape(self.options)[1:], np.uint8)
        times: list[float] = []
        try:
            for crop, fact in decode(path, self.options):
                if crop is not None:
                    frames[len(times)] = crop
                    times.append(fact)
                if times and (crop is None or len(times) == CLIP_LENGTH):
                    yield FramesDecoded(task, frames[: len(times)], times)
                    times = []
                if crop is None:
                    info, n_decoded, n_errors, trouble = fact
                    seconds = time.monotonic() - started
                    yield VideoRead(task, info, n_decoded, n_errors, trouble, seconds)
        except Exception as error:  # noqa: BLE001 - one video's surprise is that video's failure
            yield VideoFailed(task, _reason(error), time.monotonic() - started)


def main(parent: int, connection: int, memory: int, n_bytes: int) -> None:
    """Decode videos until told to stop: the whole of a decoder process.

    Parameters
    ----------
    parent
        Process id of the main process.
    connection, memory
        File descriptors: one end of a pipe, and what both processes map.
    n_bytes
        The size of that memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    end_with_parent(parent)
    _be_first_to_go()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(Connection(connection), _AnonymousMemory(n_bytes, memory))


def _serve(connection: Connection, memory: _AnonymousMemory) -> None:
    options = connection.recv()
    sender = _Sender(connection, *_parts(memory, _slots_shape(options)))
    from c3d_extract.decode.self_check import why_unusable

    connection.send(("ready", why_unusable()))
    while (message := connection.recv()) != ("stop",):
        if message[0] == "free":
            sender.n_free += 1
        else:
            sender.run(message[1], message[2], options)


def _be_first_to_go() -> None:
    """Let the kernel, when memory runs out, take a decoder rather than the main process (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


class _Worker:
    """The main process's end of one decoder process."""

    def __init__(self, options: DecodeOptions) -> None:
        shape = _slots_shape(options)
        memory = _AnonymousMemory(ctypes.sizeof(_Shared) + int(np.prod(shape)))
        self.shared, self.slots = _parts(memory, shape)
        self.task: int | None = None
        self.path = Path()
        self.ready = False
        self.started = time.monotonic()
        self._silent_seconds = 0.0
        self._looked = self.started
        self._last_frame = 0.0
        self.connection, theirs = multiprocessing.Pipe()
        self.process = DecoderProcess(theirs, memory.descriptor, memory.size)
        with contextlib.suppress(OSError):  # it is dead already, which the next message will say
            self.connection.send(options)

    def give(self, task: int, path: Path) -> None:
        self.task = task
        self.path = path
        self.started = time.monotonic()
        self.shared.last_frame = self.started
        self.shared.waiting = False
        self.connection.send(("decode", task, path))

    def is_ready(self) -> None:
        self.ready = True
        self._silent_seconds = 0.0

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
        self._workers: list[_Worker] = []
        self._given_back: deque[tuple[int, Path]] = deque()  # videos whose worker died before it was ready
        self._running = threading.Lock()
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

    def run(
        self, videos: Iterable[tuple[int, Path]], stopped: threading.Event | None = None
    ) -> Generator[Event, None, None]:
        """Decode ``(task, path)`` pairs, several at a time; yield what happens as it happens.

        Events of one task come in its order and end with VideoRead or VideoFailed; events of several
        tasks are mixed. Leaving the iterator early kills the decoders that are at work; so does setting
        ``stopped``, even while they are silent.

        Raises
        ------
        DecoderError
            Where decoder processes cannot be started, cannot read videos at all, or where this pool is at
            work for another run, whose videos have the same numbers.
        """
        if not self._running.acquire(blocking=False):
            raise DecoderError("a pool of decoders is used by two runs at a time", hint="make one for each")
        try:
            yield from self._run(iter(videos), stopped or threading.Event())
        finally:
            for worker in [w for w in self._workers if w.task is not None]:
                self._bury(worker)
            self._given_back.clear()
            self._running.release()

    def _run(self, waiting: Iterator[tuple[int, Path]], stopped: threading.Event) -> Iterator[Event]:
        more = True
        while not stopped.is_set():
            while (more or self._given_back) and (worker := self._idle_worker()) is not None:
                video = self._given_back.popleft() if self._given_back else next(waiting, None)
                more = more and video is not None
                if video is not None:
                    self._give(worker, *video)
            if not any(w.task is not None for w in self._workers):
                return
            yield from self._events()

    def _idle_worker(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        return self._start_worker() if len(self._workers) < self.n_workers else None

    def _start_worker(self) -> _Worker:
        try:
            self._workers.append(_Worker(self.options))
        except OSError as error:
            raise DecoderError(f"a decoder process cannot be started: {error}", hint=_WITHOUT) from error
        return self._workers[-1]

    def _give(self, worker: _Worker, task: int, path: Path) -> None:
        try:
            worker.give(task, path)
        except OSError:  # it died while it had nothing to do, which is not this video's fault
            self._bury(worker)
            self._start_worker().give(task, path)

    def _events(self) -> Iterator[Event]:
        by_connection: dict[Any, _Worker] = {w.connection: w for w in self._workers if w.task is not None}
        for connection in multiprocessing.connection.wait(list(by_connection), timeout=_POLL_SECONDS):
            yield from self._message(by_connection[connection])
        now = time.monotonic()
        if now < self._next_look:  # a look costs as much as a message
            return
        self._next_look = now + _POLL_SECONDS
        longest_look = max(2 * _POLL_SECONDS, self.timeout_seconds / 10)
        for worker in list(self._workers):
            silent = worker.silent_seconds(longest_look)
            if worker.ready and silent > self.timeout_seconds:
                yield self._fail(worker, f"no frame for {self.timeout_seconds:g} s")
            elif not worker.ready and silent > max(_START_SECONDS, self.timeout_seconds):
                self._start_failed(worker, f"not ready after {silent:.0f} s")

    def _message(self, worker: _Worker) -> Iterator[Event]:
        try:
            kind, *rest = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            yield from self._dead(worker)
            return
        if kind == "ready":
            self._check_ready(worker, *rest)
        elif kind == "frames":
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

    def _check_ready(self, worker: _Worker, why_unusable: str | None) -> None:
        if why_unusable is not None:  # not this video's fault: every other would end like it
            from c3d_extract.decode.self_check import unusable

            raise unusable(why_unusable)
        worker.is_ready()
        self._failed_starts = 0

    def _dead(self, worker: _Worker) -> Iterator[VideoFailed]:
        reason = worker.epitaph()
        if worker.ready:
            yield self._fail(worker, reason)
        else:
            self._start_failed(worker, reason)

    def _start_failed(self, worker: _Worker, reason: str) -> None:
        """Give its video to another worker: whatever happened, it was not the video's fault."""
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise DecoderError(
                f"decoder processes end before their first frame ({reason})",
                hint=f"see c3d-tools doctor; {_WITHOUT}",
            )
        if worker.task is not None:
            self._given_back.append((worker.task, worker.path))
        self._bury(worker)

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


Decoder = DecodePool | InProcessDecoder
"""What gives events of videos."""
