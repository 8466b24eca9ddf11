"""How many synthetic clips one core renders a second, with and without the compiled loops.

    OPENBLAS_NUM_THREADS=1 python benchmarks/rendering.py [--rounds 15]

Every round renders the same 40 clips both ways, in turn, in one process, in processor time; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time

from c3d_extract.train.synthetic import SyntheticClips, _paint, camera, canvas

CLIPS = 40


def seconds(clips: SyntheticClips, first: int, *, compiled: bool) -> float:
    for module in (canvas, camera):
        module._paint = _paint if compiled else None  # noqa: SLF001  # as where there was no C compiler
    start = time.process_time()
    for index in range(first, first + CLIPS):
        clips.clip(index)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{'clip':12}{'':10}{'clips/s':>10}{'with NumPy':>14}{'ratio':>8}")
    for size in (56, 112):
        for kind in ("shapes", "figures", "all"):
            clips = SyntheticClips(kind, 1, (16, size, size))
            seconds(clips, 0, compiled=True)
            pairs = [
                [seconds(clips, CLIPS * n, compiled=compiled) for compiled in (True, False)]
                for n in range(1, rounds + 1)
            ]
            rates = [CLIPS / statistics.median(times) for times in zip(*pairs, strict=True)]
            ratio = statistics.median(slow / fast for fast, slow in pairs)
            print(
                f"{f'16x{size}x{size}':12}{kind:10}{rates[0]:10.0f}{rates[1]:14.0f}{ratio:8.2f}", flush=True
            )


if __name__ == "__main__":
    main()
