"""Kill a run of 60 videos at 20 random moments, resume it each time, and compare with an uninterrupted run.

    python benchmarks/survival.py ../shared/data/actions

Uses a random C3D a sixteenth as wide. A video that was finished in one run must be skipped in every later one. One
whose run was killed after it was recorded and before it was printed is in the file, and printed by none.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np


def start(videos: Path, weights: Path, output: Path) -> subprocess.Popen[str]:
    words = ["-m", "c3d_extract", "extract", str(videos), "--weights", str(weights), "--mean", "101,108,108"]
    words += ["-o", str(output), "--clips", str(output.with_name("clips.h5")), "--device", "cpu", "-v"]
    return subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)


def finished_until(process: subprocess.Popen[str], seconds: float | None) -> set[str]:
    """Kill after so many seconds of work (None: never); return the videos that were reported as finished."""
    done: set[str] = set()
    deadline = None
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("ok: "):
            done.add(line.split(": ")[1])
            if deadline is None and seconds is not None:
                deadline = time.monotonic() + seconds
        if deadline is not None and time.monotonic() > deadline:
            process.send_signal(signal.SIGKILL)
            break
    done |= {line.split(": ")[1] for line in process.stderr if line.startswith("ok: ")}
    process.wait()
    return done


def make_weights(path: Path) -> None:
    import torch

    from c3d_extract import ARCHITECTURES

    torch.manual_seed(0)
    shapes = ARCHITECTURES["c3d"].scaled(1 / 16).state_shapes()
    names = {name: name.replace("conv1a", "conv1").replace("conv2a", "conv2") for name in shapes}
    torch.save({names[name]: torch.randn(shape) * 0.05 for name, shape in shapes.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    random.seed(words.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        weights = Path(folder) / "narrow.pickle"
        make_weights(weights)
        n_videos = len(finished_until(start(words.videos, weights, whole / "feats.h5"), None))
        done: set[str] = set()
        n_kills, was_killed = 0, True
        while was_killed:
            pause = random.uniform(0, 0.2) if n_kills < words.kills else None
            process = start(words.videos, weights, killed / "feats.h5")
            now = finished_until(process, pause)
            assert not done & now, f"done twice: {done & now}"
            done |= now
            was_killed = process.returncode == -signal.SIGKILL
            assert was_killed or process.returncode == 0
            n_kills += was_killed
        assert n_videos - n_kills <= len(done) <= n_videos
        for name in ("feats.h5", "clips.h5"):
            with h5py.File(whole / name) as a, h5py.File(killed / name) as b:
                assert set(a) == set(b)
                for key in a:
                    assert np.array_equal(a[key][:], b[key][:], equal_nan=a[key].dtype.kind == "f"), (
                        name,
                        key,
                    )
        print(f"{n_videos} videos, {n_kills} kills: every dataset equal, no video done twice")


if __name__ == "__main__":
    main()
