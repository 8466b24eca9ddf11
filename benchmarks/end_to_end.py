"""Videos to features, against the usual port: OpenCV's frames, contiguous fp32, one clip at a time.

    python benchmarks/end_to_end.py full.pickle ../shared/data/actions [--rounds 5] [--videos 2]

Each round takes the next videos and lets both do them, in turn; wall time and processor time count.
Both use every core. Our time has the network's building and the decoders' start left out, as the
port's has, and includes the feature file.
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
    """Wall seconds, and processor seconds of this process and of children that have ended."""
    times = os.times()
    return time.monotonic(), times.user + times.system


def main() -> None:
    """Run both in turn and print the rounds and the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("videos_below", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=2, help="a round")
    words = parser.parse_args()
    videos = sorted(p for p in words.videos_below.rglob("*") if p.suffix in {".avi", ".mp4"})
    state = torch.load(words.weights, weights_only=True)
    rows = []
    with (
        Extractor.from_weights(
            str(words.weights), mean="100.61,108.05,107.81", precision="fp32"
        ) as extractor,
        tempfile.TemporaryDirectory() as folder,
    ):
        extractor.extract(videos[0])  # builds the network, starts the decoders
        for number in range(words.rounds):
            chosen = [videos[(number * words.videos + i) % len(videos)] for i in range(words.videos)]
            before = spent()
            run = extractor.extract_files(chosen, Path(folder) / f"{number}.h5")
            list(run)
            between = spent()
            for path in chosen:
                averaged_fc6(state, path, MEAN)
            after = spent()
            ours, port = np.subtract(between, before), np.subtract(after, between)
            busy = run.progress.network_seconds / run.progress.seconds
            rows.append((*(port / ours), busy))
            print(
                f"round {number + 1}: {run.progress.n_clips} clips; ours {ours[0]:.1f} s, port {port[0]:.1f} s; "
                f"ratio wall {port[0] / ours[0]:.2f}, processor {port[1] / ours[1]:.2f}; "
                f"network {busy:.0%} of our time",
                flush=True,
            )
    wall, processor, busy = (median(column) for column in zip(*rows, strict=True))
    print(f"median: {wall:.2f} x by wall, {processor:.2f} x by processor; network {busy:.0%} of the time")


if __name__ == "__main__":
    main()
