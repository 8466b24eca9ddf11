"""The decode pool: effects of a crash, a hang, a slow reader or a killed run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from video_samples import moving_frames, write

import c3d_extract
from c3d_extract.decode import (
    DecodeOptions,
    DecodePool,
    FramesDecoded,
    InProcessDecoder,
    PyAVReader,
    SlotsExhausted,
    VideoFailed,
    VideoRead,
)
from c3d_extract.decode.pool import SLOTS_PER_WORKER
from c3d_extract.decode.timestamps import resample, steady_times
from c3d_extract.decode.video import failure_reason
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from c3d_extract.decode import DecodeEvent as Event
    from c3d_extract.decode import Decoder, NextVideo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
OPTIONS = DecodeOptions(FrameSampler(Preprocessing()), 16)
# More frames than the slots hold that a worker has until its first message is read (16, and 8 more): whoever
# stops it at its first frames stops it before its last.
N_LONG = 400


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("short")
    lengths = (1, 15, 16, 17, 40, 70)
    return [write(folder / f"{n}.avi", moving_frames(n, seed=n)) for n in lengths]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of more frames than fit into a worker's slots, each of which takes some time to decode."""
    frames = moving_frames(N_LONG, 240, 320)
    return write(tmp_path_factory.mktemp("long") / "long.avi", frames, options={"qscale": "2"})


@pytest.fixture(scope="module")
def pool_of_one() -> Iterator[DecodePool]:
    """A pool of one worker that several tests use in turn, since a process takes a while to start."""
    with DecodePool(1, OPTIONS) as pool:
        yield pool


@pytest.fixture
def checked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pools check silent workers more often, so that timeouts can be short."""
    monkeypatch.setattr("c3d_extract.decode.pool._POLL_SECONDS", 0.3)


def run(pool: Decoder, paths: list[Path], on_event: Callable[[Event], None] | None = None) -> dict[int, Any]:
    """Run all paths; return, for each, its crops and its last event."""
    crops: dict[int, list[NDArray[np.uint8]]] = {task: [] for task in range(len(paths))}
    ends: dict[int, VideoRead | VideoFailed] = {}
    for event in pool.run(list(enumerate(paths))):
        assert not isinstance(event, SlotsExhausted), "frames were let go of"
        assert event.task not in ends, "nothing comes after a video's end"
        if isinstance(event, FramesDecoded):
            assert 1 <= len(event.frames) <= 16
            assert len(event.frames) == len(event.times_seconds)
            crops[event.task].append(event.frames.copy())
        else:
            ends[event.task] = event
        if on_event is not None:
            on_event(event)
    assert ends.keys() == crops.keys(), "every video ends, once"
    return {task: (np.concatenate(crops[task]) if crops[task] else None, end) for task, end in ends.items()}


def plain_crops(path: Path) -> NDArray[np.uint8]:
    sampler = FrameSampler(Preprocessing())
    with PyAVReader(path) as reader:
        return np.stack([sampler(frame.bgr) for frame in reader.frames()])


def pid_of(pool: DecodePool, task: int | None = None) -> int:
    (pid,) = [w.process.pid for w in pool._workers if task is None or w.task == task]
    return int(pid)


def parent_and_state(pid: int) -> tuple[int, str]:
    state, parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[:2]
    return int(parent), state


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Wait until a process has ended: reaped, or left as a zombie by a parent other than this process."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            parent, state = parent_and_state(pid)
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z" and parent != os.getpid():
            return True
        time.sleep(0.05)
    return False


def test_crops_are_those_of_reading_the_file_here(short: list[Path]) -> None:
    with DecodePool(2, OPTIONS) as pool:
        for _ in range(2):  # a pool can be used again
            done = run(pool, short)
            for task, path in enumerate(short):
                crops, end = done[task]
                assert (crops == plain_crops(path)).all()
                assert isinstance(end, VideoRead)
                assert (end.n_decoded, end.n_decode_errors, end.trouble) == (len(crops), 0, None)
                assert (end.info.width, end.info.height, end.info.fps) == (64, 48, 25.0)


def test_resampling_in_the_pool_is_resampling_here(short: list[Path]) -> None:
    with DecodePool(1, DecodeOptions(FrameSampler(Preprocessing()), 16, fps=10.0)) as pool:
        crops, end = run(pool, short[-1:])[0]
    frames = plain_crops(short[-1])
    timed = steady_times(((f, i / 25) for i, f in enumerate(frames)), 25.0)
    expected = [f for f, _ in resample(timed, 10.0, native_fps=25.0, longest_gap_seconds=60.0)]
    assert (crops == np.stack(expected)).all()
    assert (len(crops), end.n_decoded) == (28, 70)


def test_frames_that_are_hours_apart_do_not_become_millions(tmp_path: Path) -> None:
    pts = [3_000_000 * i for i in range(20)]
    path = write(tmp_path / "a.mkv", moving_frames(20), codec="ffv1", pts=pts)
    decoder = InProcessDecoder(DecodeOptions(FrameSampler(Preprocessing()), 16, fps=25.0))
    crops, end = run(decoder, [path])[0]
    assert isinstance(end, VideoRead)
    assert len(crops) == end.n_decoded == 20
    assert end.trouble == "19 gaps of up to 3000.0 s between frames, too long to be filled"


def test_what_cannot_be_read_fails_alone(short: list[Path], pool_of_one: DecodePool, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    os.mkfifo(tmp_path / "fifo.mp4")
    bad = [
        tmp_path / "text.mp4",
        tmp_path / "fifo.mp4",
        tmp_path / "gone.mp4",
        Path(os.fsdecode(b"/tmp/\xe9.mp4")),
    ]
    done = run(pool_of_one, [*bad, *short])
    for task, reason in enumerate(
        ("not a readable video", "not a regular file", "no such file", "no such file")
    ):
        assert isinstance(done[task][1], VideoFailed)
        assert done[task][1].reason.startswith(reason)
    assert all(isinstance(done[task][1], VideoRead) for task in range(len(bad), len(done)))


def test_a_worker_that_dies_loses_its_video_and_is_replaced(short: list[Path], long: Path) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, FramesDecoded) and event.task == 1 and not killed:
            killed.append(pid_of(pool, 1))
            os.kill(killed[0], signal.SIGKILL)

    with DecodePool(2, OPTIONS) as pool:
        done = run(pool, [short[-1], long, *short], kill)
        assert isinstance(done[1][1], VideoFailed)
        assert done[1][1].reason == "decoder crashed: SIGKILL (out of memory, or killed by hand)"
        assert done[1][1].seconds > 0
        others = {task: end for task, (_, end) in done.items() if task != 1}
        assert all(isinstance(end, VideoRead) for end in others.values())
        assert gone(killed[0])
        assert killed[0] not in [w.process.pid for w in pool._workers]


def test_a_crash_is_reported_by_its_signal(long: Path, pool_of_one: DecodePool) -> None:
    def crash(event: Event) -> None:
        if isinstance(event, FramesDecoded):
            os.kill(pid_of(pool_of_one), signal.SIGSEGV)

    _, end = run(pool_of_one, [long], crash)[0]
    assert end.reason == "decoder crashed: SIGSEGV"


def test_a_worker_that_dies_while_idle_costs_nothing(short: list[Path], pool_of_one: DecodePool) -> None:
    run(pool_of_one, short[:1])
    os.kill(pid_of(pool_of_one), signal.SIGKILL)
    pool_of_one._workers[0].process.join(timeout=5)
    done = run(pool_of_one, short)
    assert all(isinstance(end, VideoRead) for _, end in done.values())


@pytest.mark.usefixtures("checked_often")
def test_a_worker_that_hangs_is_killed(short: list[Path], long: Path) -> None:
    stopped: list[int] = []

    def stop(event: Event) -> None:
        if isinstance(event, FramesDecoded) and event.task == 0 and not stopped:
            stopped.append(pid_of(pool, 0))
            os.kill(stopped[0], signal.SIGSTOP)

    with DecodePool(2, OPTIONS, timeout_seconds=0.8) as pool:
        started = time.monotonic()
        done = run(pool, [long, *short], stop)
        assert done[0][1] == VideoFailed(0, "no frame for 0.8 s", done[0][1].seconds)
        assert time.monotonic() - started < 15
        assert all(isinstance(done[task][1], VideoRead) for task in range(1, len(done)))
        assert gone(stopped[0])


@pytest.mark.usefixtures("checked_often")
def test_a_slow_reader_is_not_a_hang(long: Path) -> None:
    slept = 0

    def delay(event: Event) -> None:
        nonlocal slept
        if slept < 2:
            slept += 1
            time.sleep(0.8)  # each longer than the timeout

    with DecodePool(1, OPTIONS, timeout_seconds=0.5) as pool:
        crops, end = run(pool, [long], delay)[0]
    assert isinstance(end, VideoRead)
    assert len(crops) == N_LONG


@pytest.mark.usefixtures("checked_often")
def test_a_reader_slow_at_the_end_is_not_a_hang_either(short: list[Path]) -> None:
    """The worker has finished; its last messages wait to be read for longer than the timeout."""
    with DecodePool(1, OPTIONS, timeout_seconds=0.5) as pool:
        done = run(pool, short[3:4], lambda _: time.sleep(0.7))
    assert isinstance(done[0][1], VideoRead)
    assert len(done[0][0]) == 17


def test_a_slow_reader_gets_every_frame_unchanged(long: Path, pool_of_one: DecodePool) -> None:
    """The ring has four slots: frames must not change while they are being looked at."""
    expected, position = plain_crops(long), 0
    for event in pool_of_one.run([(0, long)]):
        if isinstance(event, FramesDecoded):
            time.sleep(0.02)  # a worker fills all slots in less
            size = len(event.frames)
            assert (event.frames == expected[position : position + size]).all()
            position += size
    assert position == N_LONG


def test_leaving_early_ends_the_running_workers(
    long: Path, short: list[Path], pool_of_one: DecodePool
) -> None:
    events = pool_of_one.run([(0, long), (1, long)])
    next(events)
    pid = pid_of(pool_of_one)
    events.close()
    assert gone(pid)
    assert isinstance(run(pool_of_one, short[:1])[0][1], VideoRead), "and the pool can go on"


def test_closing_the_pool_leaves_no_process(short: list[Path]) -> None:
    with DecodePool(1, OPTIONS) as pool:
        run(pool, short[:1])
        idle = [w.process.pid for w in pool._workers]
    assert all(gone(pid) for pid in idle)


def test_an_error_in_the_loop_leaves_no_process(long: Path) -> None:
    pids: list[int] = []

    def fail(_: Event) -> None:
        pids.append(pid_of(pool))
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"), DecodePool(1, OPTIONS) as pool:
        run(pool, [long], fail)
    assert gone(pids[0])


SCRIPT = """
import sys, time
from itertools import islice
from pathlib import Path
import torch_that_must_not_be_imported_by_workers
from c3d_extract.decode import DecodeOptions, DecodePool, FramesDecoded
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
print("start", flush=True)
with DecodePool(2, DecodeOptions(FrameSampler(Preprocessing()), 16)) as pool:
    n = 0
    for event in pool.run([(i, Path(p)) for i, p in enumerate(sys.argv[2:])]):
        if isinstance(event, FramesDecoded):
            n += len(event.frames)
            if sys.argv[1] == "stay":
                print(*[w.process.pid for w in pool._workers], flush=True)
                time.sleep(60)
print("frames", n, "av" in sys.modules, flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the script above; it has no ``if __name__ == "__main__"`` guard and prints a line on import."""
    (tmp_path / "torch_that_must_not_be_imported_by_workers.py").write_text("print('imported', flush=True)\n")
    (tmp_path / "run.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []
    root = Path(c3d_extract.__file__).parents[1]

    def start(*words: str | Path) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"}
        command = [sys.executable, str(tmp_path / "run.py"), *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_script_without_a_main_guard_can_use_the_pool_and_imports_no_ffmpeg(
    short: list[Path], script: Callable[..., subprocess.Popen[str]]
) -> None:
    out, _ = script("go", *short).communicate(timeout=60)
    assert out.split("\n") == ["imported", "start", f"frames {1 + 15 + 16 + 17 + 40 + 70} False", ""]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_main_process_that_is_killed(
    long: Path, script: Callable[..., subprocess.Popen[str]], how: signal.Signals
) -> None:
    process = script("stay", long, long)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    workers = [int(pid) for pid in lines[2].split()]
    assert len(workers) == 2
    server, _ = parent_and_state(workers[0])
    os.kill(process.pid, how)
    process.wait()
    assert all(gone(pid) for pid in [*workers, server])


@pytest.mark.usefixtures("checked_often")
def test_a_suspended_main_process_keeps_its_workers(long: Path) -> None:
    """Ctrl-Z stops all processes of a run; after `fg` that must not count as a hang."""
    with DecodePool(1, OPTIONS, timeout_seconds=0.8) as pool:
        events = pool.run([(0, long)])
        read = [next(events)]
        time.sleep(0.35)  # until the worker has filled its slots, and the next check is due
        worker = pid_of(pool)
        os.kill(worker, signal.SIGSTOP)
        read += [next(events) for _ in range(3)]  # every slot that it has filled
        time.sleep(1.2)  # this process sleeps too, as Ctrl-Z would make it
        # `fg` continues all processes at once; here the worker comes last, and has no new frame yet.
        threading.Timer(0.1, os.kill, (worker, signal.SIGCONT)).start()
        read += list(events)
    assert isinstance(read[-1], VideoRead)
    assert sum(len(e.times_seconds) for e in read if isinstance(e, FramesDecoded)) == N_LONG


def worker_facts(pool: DecodePool) -> dict[str, int]:
    """Return resident memory in MB: the total, and the part that the worker does not share."""
    text = Path(f"/proc/{pid_of(pool)}/smaps_rollup").read_text(encoding="utf-8")
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith("kB")}
    return {
        "resident": sizes["Rss"] // 1024,
        "private": (sizes["Private_Clean"] + sizes["Private_Dirty"]) // 1024,
    }


def test_a_worker_is_small_and_never_imports_torch(long: Path, pool_of_one: DecodePool) -> None:
    run(pool_of_one, [long])
    facts = worker_facts(pool_of_one)
    libraries = Path(f"/proc/{pid_of(pool_of_one)}/maps").read_text(encoding="utf-8")
    assert facts["resident"] <= 80, facts
    assert "libavcodec" in libraries
    assert "torch" not in libraries
    assert "/dev/shm" not in libraries, "64 MB in most containers: not enough for many workers"


def test_image_folders_do_not_import_torch_in_a_worker_either(
    pool_of_one: DecodePool, tmp_path: Path
) -> None:
    from PIL import Image

    for number, rgb in enumerate(moving_frames(20), start=1):
        Image.fromarray(rgb).save(tmp_path / f"{number:06d}.jpg")
    _, end = run(pool_of_one, [tmp_path])[0]
    assert end.n_decoded == 20
    assert "torch" not in Path(f"/proc/{pid_of(pool_of_one)}/maps").read_text(encoding="utf-8")


def test_memory_does_not_grow_with_the_number_of_videos(short: list[Path], pool_of_one: DecodePool) -> None:
    run(pool_of_one, short[2:4] * 5)
    before = worker_facts(pool_of_one)["private"]
    run(pool_of_one, short[2:4] * 40)
    assert worker_facts(pool_of_one)["private"] <= before + 2


def test_workers_ignore_ctrl_c(long: Path, pool_of_one: DecodePool) -> None:
    sent: list[int] = []

    def interrupt(_: Event) -> None:
        if not sent:
            sent.append(pid_of(pool_of_one))
            os.kill(sent[0], signal.SIGINT)

    crops, end = run(pool_of_one, [long], interrupt)[0]
    assert isinstance(end, VideoRead)
    assert len(crops) == N_LONG


def test_unexpected_errors_in_a_decoder_are_one_line_of_text() -> None:
    """Whatever PyAV raises, including file names, must fit into a report."""
    reason = failure_reason(OSError("two\nlines of '\udce9.mp4'"))
    assert reason == "decoder error: OSError: two lines of '\\udce9.mp4'"
    assert reason.encode()


@pytest.mark.parametrize("in_process", [True, False])
def test_videos_that_are_not_ready_are_asked_for_again(short: list[Path], in_process: bool) -> None:
    failed = VideoFailed(1, "cannot be fetched", 0.0)
    videos: list[NextVideo] = [None, (0, short[4]), None, failed, None, None, (2, short[5]), None, None]
    decoder: Decoder = InProcessDecoder(OPTIONS) if in_process else DecodePool(2, OPTIONS)
    try:
        ends = [event for event in decoder.run(videos) if isinstance(event, VideoRead | VideoFailed)]
    finally:
        decoder.close()
    assert {event.task: type(event) for event in ends} == {0: VideoRead, 1: VideoFailed, 2: VideoRead}
    assert failed in ends


def test_a_video_that_is_not_ready_holds_up_no_other(long: Path, short: list[Path]) -> None:
    """The next one comes only when the first has been read: waiting for it must not stop the first."""
    first_is_read = threading.Event()

    def videos() -> Iterator[NextVideo]:
        yield 0, long
        while not first_is_read.is_set():
            yield None
        yield 1, short[0]

    ends = []
    with DecodePool(2, OPTIONS) as pool:
        for event in pool.run(videos()):
            if isinstance(event, VideoRead | VideoFailed):
                ends.append(event.task)
                first_is_read.set()
    assert ends == [0, 1]


def test_while_nothing_is_ready_a_pool_hardly_works_and_can_be_stopped() -> None:
    stopped, n_asked = threading.Event(), 0

    def never() -> Iterator[NextVideo]:
        nonlocal n_asked
        while True:
            n_asked += 1
            yield None

    timer = threading.Timer(1.0, stopped.set)
    with DecodePool(1, OPTIONS) as pool:
        timer.start()
        assert list(pool.run(never(), stopped)) == []
    assert 1 < n_asked <= 60


def test_frames_that_are_held_stay_and_other_decoders_use_what_is_free(long: Path, short: list[Path]) -> None:
    held: list[tuple[NDArray[np.uint8], NDArray[np.uint8], Callable[[], None]]] = []
    with DecodePool(2, OPTIONS) as pool:
        for event in pool.run(list(enumerate([long, *short]))):
            if isinstance(event, FramesDecoded) and event.task == 0 and len(held) < 4:
                held.append((event.frames, event.frames.copy(), event.lease.hold()))
            assert not isinstance(event, SlotsExhausted), "the other slots are enough for the rest"
        assert len(held) == 4
        for frames, before, _ in held:
            assert (frames == before).all()


def test_whoever_holds_all_frames_is_told_and_decoding_goes_on_once_they_are_released(long: Path) -> None:
    frames: list[NDArray[np.uint8]] = []
    held: list[Callable[[], None]] = []
    n_told = 0

    def release(leases: list[Callable[[], None]]) -> None:
        for lease in leases:
            lease()

    with DecodePool(1, OPTIONS) as pool:
        for event in pool.run([(0, long)]):
            if isinstance(event, FramesDecoded):
                frames.append(event.frames.copy())
                held.append(event.lease.hold())
            elif isinstance(event, SlotsExhausted) and held:
                n_told += 1
                assert len(held) == SLOTS_PER_WORKER
                # By another thread, as the network's: the pool wakes up from its sleep.
                threading.Timer(0.05, release, [held]).start()
                held = []
        assert (np.concatenate(frames) == plain_crops(long)).all()
        assert n_told >= N_LONG // 16 // SLOTS_PER_WORKER
        assert run(pool, [long])[0][1].n_decoded == N_LONG, "what is still held does not bind the next run"


def test_a_killed_decoder_gives_its_slots_back(long: Path, short: list[Path]) -> None:
    with DecodePool(1, OPTIONS) as pool:
        for _ in range(3):
            run(pool, [long], lambda _: os.kill(pid_of(pool), signal.SIGKILL) if pool._workers else None)
        done = run(pool, short)
    assert all(isinstance(end, VideoRead) for _, end in done.values())


@pytest.mark.parametrize("reader", ["fast", "slow"])
def test_there_are_more_decoders_where_the_reader_waits_for_them(
    long: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr("c3d_extract.decode.pool._POLL_SECONDS", 0.15)
    with (
        DecodePool(2, OPTIONS, n_first=1) as pool,
        contextlib.closing(pool.run(enumerate([long] * 200))) as events,
    ):
        assert isinstance(next(events), FramesDecoded)
        assert len(pool._workers) == 1
        for _ in islice(events, 1000 if reader == "fast" else 30):
            time.sleep(0.05 if reader == "slow" else 0)
            if len(pool._workers) == 2:
                break
        assert len(pool._workers) == (2 if reader == "fast" else 1)
