"""Whole commands over many short videos: by number of decoders, against another version, against long videos.

    python benchmarks/short_videos.py [--videos 1800] [--rounds 5] [--workers auto 0 1 2] [--other CHECKOUT]
        [--weights motion-mini] [--lengths]

Rendered are 320x240 videos of 72 frames. A round runs `c3d-extract` once with each setting, in turns and
beginning with another one each round; printed are the seconds of each, and the medians of the ratios to the first
setting. ``--other`` is a checkout of another version with its compiled loops built: it runs with ``auto``.
``--lengths`` holds videos of two clips against long ones with as many clips, by the rate of clips.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from c3d_extract.decode import write_video
from c3d_extract.train.synthetic import ACTIONS, render_video

ROOT = Path(__file__).resolve().parents[1]
KINDS = 12
SIZE = (240, 320)


def render(folder: Path, n_videos: int, n_frames: int) -> Path:
    """Write some videos, and the others as copies of them."""
    folder.mkdir()
    for number in range(n_videos):
        path = folder / f"{number:04}.mp4"
        if number < KINDS:
            action = list(ACTIONS)[number % len(ACTIONS)]
            frames = render_video(action, number, size=(n_frames, *SIZE), seconds=n_frames / 25)
            write_video(path, frames[..., ::-1], 25)
        else:
            shutil.copy(folder / f"{number % KINDS:04}.mp4", path)
    return folder


def seconds(videos: Path, words: argparse.Namespace, workers: str, checkout: Path = ROOT) -> float:
    """Return the wall time of one command, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        output = ["-o", f"{folder}/feats.h5", "--weights", words.weights, "--workers", workers]
        command = [sys.executable, "-m", "c3d_extract", "extract", str(videos), *output, *words.more]
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=folder)
        return time.monotonic() - started


def compare(videos: Path, words: argparse.Namespace) -> None:
    """Run each setting in turns; print the seconds and the ratios."""
    runs = {f"--workers {n}": (n, ROOT) for n in words.workers}
    if words.other:
        runs["the other version"] = ("auto", words.other.resolve())
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(words.rounds):
        names = list(runs)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(seconds(videos, words, *runs[name]))
        print(
            f"round {number + 1}:", *(f"{name} {each[-1]:.2f} s" for name, each in found.items()), flush=True
        )
    first = found[next(iter(runs))]
    for name, each in found.items():
        ratio = median(a / b for a, b in zip(first, each, strict=True))
        print(f"{name}: median {median(each):.2f} s; first setting / this {ratio:.3f}")


def lengths(folder: Path, words: argparse.Namespace) -> None:
    """Hold 200 videos of two clips against four of 100 clips."""
    short, long = render(folder / "short", 200, 32), render(folder / "long", 4, 1600)
    start = render(folder / "start", 1, 32)
    ratios = []
    for number in range(words.rounds):
        took = [seconds(videos, words, "auto") for videos in (start, short, long, start)]
        alone = (took[0] + took[3]) / 2  # what the start of a run takes
        ratios.append((took[1] - alone) / (took[2] - alone))
        print(
            f"round {number + 1}: start {alone:.2f} s, short {took[1]:.2f} s, long {took[2]:.2f} s",
            flush=True,
        )
    print(f"a clip of a short video takes {median(ratios):.3f} x the time of one of a long video")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=1800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", nargs="+", default=["auto", "0", "1", "2"])
    parser.add_argument("--other", type=Path)
    parser.add_argument("--weights", default="motion-mini")
    parser.add_argument("--lengths", action="store_true")
    words, words.more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if words.lengths:
            lengths(Path(folder), words)
        else:
            compare(render(Path(folder) / "videos", words.videos, 72), words)


if __name__ == "__main__":
    main()
