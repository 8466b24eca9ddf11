"""Peak memory of the main process for a long and a short video; growth over many videos.

    python benchmarks/memory.py [--minutes 60] [--videos 1000] [--rounds 3]

Renders its own videos (320x240, MPEG-4-like motion). The network is a random C3D a sixteenth as wide: what
is measured is what grows or not, not the weights. Medians of rounds: how much of what was freed the C library keeps
differs by 100 MiB between equal runs of two computing threads.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np

from c3d_extract.decode import write_video


def peak_of_one_run(videos: list[str], weights: Path, output: Path) -> float:
    """The largest resident size of the main process, MiB, as the kernel saw it (VmHWM)."""
    code = """
import sys
from c3d_extract.cli.extract import command
try:
    command(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0, end.code
print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])
"""
    arguments = [
        *videos,
        "--weights",
        str(weights),
        "--mean",
        "101,108,108",
        "-o",
        str(output),
        "--device",
        "cpu",
        "-q",
        "--overwrite",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return int(re.findall(r"\d+", done.stdout)[-1]) / 1024


def peak_mib(what: str, videos: list[str], folder: Path, rounds: int) -> float:
    """Print the peaks of several runs, and return their median."""
    peaks = [peak_of_one_run(videos, folder / "narrow.pickle", folder / "f.h5") for _ in range(rounds)]
    print(f"{what}: peak {median(peaks):.0f} MiB ({min(peaks):.0f} to {max(peaks):.0f})", flush=True)
    return median(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from survival import make_weights

    rng = np.random.default_rng(0)
    ground = rng.integers(0, 200, (240, 480, 3), dtype=np.uint8)
    frames = [np.ascontiguousarray(ground[:, 2 * i : 2 * i + 320]) for i in range(80)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_weights(folder / "narrow.pickle")
        peaks = {}
        for minutes in (1, arguments.minutes):
            path = folder / f"{minutes}min.mp4"
            write_video(path, islice(cycle(frames), minutes * 60 * 25), fps=25)
            what = f"{minutes} minutes of 320x240"
            peaks[minutes] = peak_mib(what, [str(path)], folder, arguments.rounds)
        print(f"ratio {peaks[arguments.minutes] / peaks[1]:.3f} (bar 1.1)", flush=True)
        write_video(folder / "short.mp4", frames[:16], fps=25)
        for n in (10, arguments.videos):
            many = folder / f"many{n}"
            many.mkdir()
            for i in range(n):
                os.link(folder / "short.mp4", many / f"{i:06d}.mp4")
            peak_mib(f"{n} videos", [str(many)], folder, arguments.rounds)


if __name__ == "__main__":
    main()
