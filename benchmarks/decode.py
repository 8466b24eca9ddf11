"""Decoding against OpenCV and against PyAV's obvious use: one core, exact crops, ratios of interleaved runs.

    python benchmarks/decode.py [VIDEO ...] [--rounds 7] [--no-pool]

Without VIDEOs it renders a 320x240 MPEG-4 clip and 1080p H.264 clips of two bit rates. Every way decodes
the same file, in turn, in one process with one thread each, and is measured in processor time (user and
system), so that other work on the machine weighs on all alike; medians over the rounds. `of decode alone`
is the share of the rate at which PyAV decodes and does nothing else; `ceiling` is the ratio to OpenCV that
a free conversion would reach. The pool's scaling is wall time: it needs a machine with two idle cores,
and prints how many the workers got, and how empty loops scale in the same rounds: the most to be had.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np

from c3d_extract.decode import DecodeOptions, DecodePool, FramesDecoded, PyAVReader
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def decode_alone(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def c3d_extract(path: Path) -> int:
    sampler, n = FrameSampler(Preprocessing()), 0
    with PyAVReader(path) as reader:
        for _ in reader.frames(sampler):
            n += 1
    return n


def opencv(path: Path) -> int:
    capture, n = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), 0
    while True:
        ok, frame = capture.read()
        if not ok:
            return n
        crop(frame)
        n += 1


def pyav_to_ndarray(path: Path) -> int:
    n = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            crop(frame.to_ndarray(format="bgr24"))
            n += 1
    return n


def crop(frame: Any) -> NDArray[np.uint8]:
    resized = cast("NDArray[np.uint8]", cv2.resize(frame, (171, 128)))
    return resized[8:120, 29:141].copy()


WAYS: tuple[Callable[[Path], int], ...] = (decode_alone, c3d_extract, opencv, pyav_to_ndarray)


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(path: Path, rounds: int) -> None:
    seconds: dict[str, list[float]] = {way.__name__: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            started = processor_seconds()
            n = way(path)
            seconds[way.__name__].append((processor_seconds() - started) / n)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    with PyAVReader(path) as reader:
        info = reader.info
    rate = path.stat().st_size * 8 / n * (info.fps or 25) / 1e6
    print(f"\n{path.name}: {info.width}x{info.height} {info.codec}, {n} frames, {rate:.1f} Mbit/s")
    print(f"  {'':<16} {'µs a frame':>10} {'frames/s':>9} {'x OpenCV':>9} {'of decode alone':>16}")
    for name, value in median.items():
        ratios = [b / a for a, b in zip(seconds[name], seconds["opencv"], strict=True)]
        share = median["decode_alone"] / value
        x = statistics.median(ratios)
        print(f"  {name:<16} {1e6 * value:>10.0f} {1 / value:>9.0f} {x:>9.2f} {share:>15.0%}")
    print(f"  ceiling: {median['opencv'] / median['decode_alone']:.2f} x OpenCV")


def processor_seconds_of(pool: DecodePool) -> float:
    """Return what the pool's processes have used so far (Linux)."""
    total = 0
    for worker in pool._workers:  # noqa: SLF001 - nobody else needs to know them
        stat = Path(f"/proc/{worker.process.pid}/stat").read_text(encoding="utf-8")
        total += sum(int(ticks) for ticks in stat.rsplit(")", 1)[1].split()[11:13])
    return total / os.sysconf("SC_CLK_TCK")


def pool_run(path: Path, n_workers: int, n_videos: int) -> tuple[float, float, float]:
    """Return frames a second, workers' processor seconds a frame, cores the workers got; start-up not counted."""
    with DecodePool(n_workers, DecodeOptions(FrameSampler(Preprocessing()), 16)) as pool:
        for _ in pool.run([(task, path) for task in range(n_workers)]):
            pass
        before, started, n = processor_seconds_of(pool), time.perf_counter(), 0
        for event in pool.run([(task, path) for task in range(n_videos)]):
            if isinstance(event, FramesDecoded):
                n += len(event.frames)
        seconds, used = time.perf_counter() - started, processor_seconds_of(pool) - before
        return n / seconds, used / n, used / seconds


def loop(n: int) -> None:
    for _ in range(n):
        pass


def loops(n_processes: int) -> float:
    """Return empty loops a second of processes that share nothing but the machine."""
    processes = [multiprocessing.Process(target=loop, args=(30_000_000,)) for _ in range(n_processes)]
    started = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return n_processes / (time.perf_counter() - started)


def scaling(path: Path, rounds: int) -> None:
    n_videos = 2 * max(1, round(600 / decode_alone(path)))
    runs: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    machine = []
    for _ in range(rounds):
        for n_workers, values in runs.items():
            values.append(pool_run(path, n_workers, n_videos))
        one = loops(1)
        machine.append(loops(2) / one)
    for n_workers, values in runs.items():
        rate, used, cores = (statistics.median(column) for column in zip(*values, strict=True))
        print(
            f"  pool, {n_workers} workers: {rate:.0f} frames/s on {cores:.2f} cores, {1e6 * used:.0f} µs a frame"
        )
    ratio = statistics.median(b[0] / a[0] for a, b in zip(runs[1], runs[2], strict=True))
    print(f"  2 workers / 1 worker: {ratio:.2f}; two empty loops / one: {statistics.median(machine):.2f}")


def render(path: Path, size: tuple[int, int], codec: str, options: dict[str, str], n_frames: int) -> Path:
    """Write a textured ground that drifts, with noise as a camera has."""
    (height, width), rng = size, np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    ground = cast("NDArray[np.uint8]", cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    grain = rng.integers(-20, 21, (height + 64, width + 64, 3), np.int16)
    with av.open(str(path), "w") as out:
        stream = cast("Any", out.add_stream(codec, rate=Fraction(25), options=options))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(n_frames):
            y, x = rng.integers(0, 64, 2)
            moved = np.roll(ground, (i, 3 * i), (0, 1)) + grain[y : y + height, x : x + width]
            rgb = np.clip(moved, 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-pool", action="store_true", help="leave out the scaling from 1 to 2 workers")
    words = parser.parse_args()
    cv2.setNumThreads(1)
    print(
        f"PyAV {av.__version__}, OpenCV {cv2.__version__}, NumPy {np.__version__}; medians of {words.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        videos = words.videos or [
            render(here / "sd.avi", (240, 320), "mpeg4", {"qscale": "5"}, 300),
            render(here / "hd_high.mp4", (1080, 1920), "libx264", {"preset": "veryfast", "crf": "24"}, 60),
            render(here / "hd_low.mp4", (1080, 1920), "libx264", {"preset": "veryfast", "crf": "32"}, 60),
        ]
        for path in videos:
            compare(path, words.rounds)
            if not words.no_pool:
                scaling(path, 3)


if __name__ == "__main__":
    main()
