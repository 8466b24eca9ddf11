"""How many synthetic clips one core renders a second.

    OPENBLAS_NUM_THREADS=1 python benchmarks/rendering.py [--rounds 15]

Every round renders the same 40 clips, in processor time; the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

from c3d_extract.train.synthetic import SyntheticClips

CLIPS = 40


def seconds(clips: SyntheticClips) -> float:
    start = time.process_time()
    for index in range(CLIPS):
        clips.clip(index)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{'clip':12}{'':10}{'clips/s':>10}")
    for size in (56, 112):
        for kind in ("shapes", "figures", "all"):
            clips = SyntheticClips(kind, 1, (16, size, size))
            seconds(clips)  # noise and textures are made once
            rate = CLIPS / statistics.median(seconds(clips) for _ in range(rounds))
            print(f"{f'16x{size}x{size}':12}{kind:10}{rate:10.0f}", flush=True)


if __name__ == "__main__":
    main()
