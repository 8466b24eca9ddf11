"""What runs in parts cost: writing a plan, committing a part, and whole runs against plain ones.

    python benchmarks/parts.py plan                 a plan of 1,000,000 videos: seconds and memory
    python benchmarks/parts.py commit               a part of 4,096 rows of fc6
    python benchmarks/parts.py overhead             1,000 short videos in parts of 100, against one plain run

`overhead` runs whole commands with the embedded network, in turns, and compares the wall times within each pair.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PART = 4096


def plan(words: argparse.Namespace) -> None:
    from c3d_extract.distributed.plan import plan_run
    from c3d_extract.output import RunIdentity
    from c3d_extract.sources.find import Source

    def source(i: int) -> Source:
        name = f"class{i // 1000:04d}/video_{i:07d}.mp4"
        return Source(name, Path("/data/videos") / name, 1_000_000 + i, 1_700_000_000_000_000_000 + i)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    videos = [source(i) for i in range(words.n)]
    listed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    identity = RunIdentity({}, {}, {"fc6": 4096}, {"device": "cpu", "batch_size": "8"})
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        made = plan_run(Path(folder) / "RUN", videos, identity)
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{words.n:,} videos in {len(made.parts)} parts: {seconds:.1f} s (bar 60)")
    print(f"peak {peak / 1024:.0f} MiB (bar 1,024), {listed / 1024:.0f} of it with the list of videos")
    print(f"{before / 1024:.0f} MiB before the first video")


def commit(words: argparse.Namespace) -> None:
    from c3d_extract.distributed.run_folder import open_run_folder
    from c3d_extract.output import TableRow, write_table
    from c3d_extract.output.schema import VIDEO_COLUMNS

    rng = np.random.default_rng(0)
    scalars = tuple(0 for _ in VIDEO_COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "part.h5"
        rows = (TableRow(f"{i:06d}", scalars, [rng.random(4096, np.float32)]) for i in range(PART))
        write_table(own, kind="features", layers={"fc6": 4096}, rows=rows, attributes={})
        place = open_run_folder(Path(folder) / "RUN")
        times = []
        for number in range(words.rounds):
            started = time.monotonic()
            place.put(f"parts/{number:06d}.h5", own)
            times.append(time.monotonic() - started)
        size = own.stat().st_size
    print(
        f"{PART} rows of fc6, {size / 1e6:.0f} MB: {statistics.median(times):.2f} s, median of {words.rounds}"
    )
    print(f"{min(times):.2f} to {max(times):.2f} s (bar 1)")


def render(folder: Path, n: int) -> None:
    """Write ``n`` videos of 16 to 48 frames: copies of 20 rendered ones under names of their own."""
    from c3d_extract.decode.write import write_video

    rng = np.random.default_rng(0)
    made = []
    for i in range(20):
        path = folder / f"{i:04d}.mp4"
        frames = rng.integers(0, 255, (16 + i % 3 * 16, 12, 16, 3), np.uint8).repeat(10, 1).repeat(10, 2)
        write_video(path, frames, fps=25)
        made.append(path)
    for i in range(20, n):
        shutil.copy(made[i % 20], folder / f"{i:04d}.mp4")


def overhead(words: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        videos, work = Path(folder) / "videos", Path(folder) / "work"
        videos.mkdir()
        render(videos, words.n)
        ratios = []
        for i in range(words.rounds + 1):
            seconds = {}
            for kind in ("plain", "parts") if i % 2 else ("parts", "plain"):
                seconds[kind] = run(kind, videos, work, words.part_size)
            if i:  # the first round fills the caches
                ratios.append(seconds["parts"] / seconds["plain"])
                print(f"plain {seconds['plain']:.2f} s, parts {seconds['parts']:.2f} s: {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f} (bar 1.05)")


def run(kind: str, videos: Path, work: Path, part_size: int) -> float:
    work.mkdir()
    command = [sys.executable, "-m", "c3d_extract", "extract", str(videos), "--weights", "motion-mini", "-q"]
    command += ["--device", "cpu", "-o", str(work / "out" if kind == "parts" else work / "feats.h5")]
    if kind == "parts":
        command += ["--shard", "0/1", "--part-size", str(part_size), "--scratch", str(work)]
    started = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(work)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for function, n, rounds in ((plan, 1_000_000, 1), (commit, 0, 9), (overhead, 1000, 5)):
        command = commands.add_parser(function.__name__)
        command.add_argument("-n", type=int, default=n)
        command.add_argument("--rounds", type=int, default=rounds)
        command.add_argument("--part-size", type=int, default=100)
        command.set_defaults(function=function)
    words = parser.parse_args()
    words.function(words)


if __name__ == "__main__":
    main()
