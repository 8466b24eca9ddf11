"""Videos to features, against the usual port: OpenCV's frames, contiguous fp32, one clip at a time.

    python benchmarks/end_to_end.py full.pickle ../shared/data/actions [--rounds 5] [--videos 2] [--precision fp32]

Each round takes the next videos and lets both do them, in turn, and the network alone on as many
clips. All use every core. The network's building and the decoders' start are left out, as the port's
are; the feature file is included. Processor time leaves the decoders' own out, some 7 ms a clip.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracle import averaged_fc6

from c3d_extract import Extractor

MEAN = np.array([100.61, 108.05, 107.81], np.float32)


def spent() -> tuple[float, float]:
    """Wall seconds, and processor seconds of this process."""
    times = os.times()
    return time.monotonic(), times.user + times.system


def main() -> None:
    """Run all in turn and print the rounds and the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("videos_below", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=2, help="a round")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--no-port", action="store_true", help="only the run against its network alone")
    words = parser.parse_args()
    videos = sorted(p for p in words.videos_below.rglob("*") if p.suffix in {".avi", ".mp4"})
    state = torch.load(words.weights, weights_only=True)
    rows = []
    with (
        Extractor.from_weights(
            str(words.weights), mean="100.61,108.05,107.81", precision=words.precision
        ) as extractor,
        tempfile.TemporaryDirectory() as folder,
    ):
        extractor.extract(videos[0])  # builds the network, starts the decoders
        print(f"precision: {extractor.network.precision}")
        for number in range(words.rounds):
            chosen = [videos[(number * words.videos + i) % len(videos)] for i in range(words.videos)]
            rows.append(one_round(extractor, chosen, Path(folder), None if words.no_port else state))
            print(f"round {number + 1}: {rows[-1]}", flush=True)
    for name in rows[0]:
        print(f"median {name}: {median(row[name] for row in rows):.2f}")


def one_round(
    extractor: Extractor, videos: list[Path], folder: Path, state: dict[str, torch.Tensor] | None
) -> dict[str, float]:
    """Extract ``videos``; run the network alone on as many clips; let the port do the same videos."""
    before = spent()
    run = extractor.extract_files(videos, folder / "feats.h5", overwrite=True)
    list(run)
    ours = np.subtract(spent(), before)
    n = run.progress.n_clips
    clips = np.random.default_rng(0).integers(0, 256, (n, 16, 112, 112, 3), dtype=np.uint8)
    before = spent()
    extractor.network(clips)
    network = np.subtract(spent(), before)
    ratios = ours / network
    found = {"clips": n, "run / network, wall": ratios[0], "run / network, processor": ratios[1]}
    if state is not None:
        before = spent()
        for path in videos:
            averaged_fc6(state, path, MEAN)
        ratios = np.subtract(spent(), before) / ours
        found |= {"port / run, wall": ratios[0], "port / run, processor": ratios[1]}
    return {name: round(float(value), 2) for name, value in found.items()}


if __name__ == "__main__":
    main()
