"""What the main process does for a clip: processor time of a run whose network does nothing.

    python benchmarks/handover.py [VIDEO ...] [--batch 64] [--workers 1] [--rounds 5]

Without VIDEOs it renders 320x240 MPEG-4 ones: a long one, and 200 of two clips each. Measured is the processor time of
the main process alone (user and system, all its threads), decoders are other processes; medians over the rounds.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from c3d_extract import ExtractSettings
from c3d_extract.decode import DecodeOptions
from c3d_extract.decode.write import write_video
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.pipeline.decoders import Decoders
from c3d_extract.pipeline.results import Progress
from c3d_extract.pipeline.stream import ClipFeatures, Stream, StreamParts
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.sources.source import Source


class Nothing:
    """A network that is done at once."""

    clip_shape = (16, 112, 112, 3)
    n_crops = 1

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.device = SimpleNamespace(type="cpu")
        self._features = {"fc6": np.zeros((batch_size, 4096), np.float32)}

    def submit(self, clips: Any, *_: Any) -> Any:
        features = {layer: rows[: len(clips)] for layer, rows in self._features.items()}
        return SimpleNamespace(done=lambda: True, is_read=lambda: True, result=lambda: features)


def run(videos: list[Path], decoders: Decoders, batch_size: int, stride: int) -> tuple[float, float, int]:
    """Return processor seconds of this process, wall seconds, and clips."""
    settings = ExtractSettings(layers=("fc6",), stride=stride).for_backbone(ARCHITECTURES["c3d"])
    progress = Progress()
    parts = StreamParts([cast("Any", Nothing(batch_size))], decoders, settings)
    sources = [Source(path.name, path, 0, 0) for path in videos]
    used, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    with Stream(parts, sources, progress) as stream:
        stream.start()
        ends = [end for item in stream if not isinstance(item, ClipFeatures) for end in item]
    now = resource.getrusage(resource.RUSAGE_SELF)
    assert all(end.row.status == "ok" for end in ends)
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return seconds, time.monotonic() - started, progress.n_clips


def render(folder: Path) -> dict[str, list[Path]]:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (8, 15, 20, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    write_video(folder / "long.mp4", (frames[i // 40 % 8] for i in range(6400)), fps=25)
    write_video(folder / "short.mp4", (frames[i % 8] for i in range(32)), fps=25)
    short = [folder / f"{i:03d}.mp4" for i in range(200)]
    for path in short:
        shutil.copy(folder / "short.mp4", path)
    return {"1 video of 400 clips": [folder / "long.mp4"] * 2, "200 videos of 2 clips": short}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = {"given": words.videos} if words.videos else render(Path(folder))
        options = DecodeOptions(FrameSampler(Preprocessing()), 16)
        decoders = Decoders(options, words.workers, timeout_seconds=60)
        for name, videos in sets.items():
            for stride in (16, 8):
                run(videos, decoders, words.batch, stride)  # starts the decoders
                rounds = [run(videos, decoders, words.batch, stride) for _ in range(words.rounds)]
                cpu = statistics.median(1e3 * used / n for used, _, n in rounds)
                rate = statistics.median(n / wall for _, wall, n in rounds)
                print(f"{name}, stride {stride}: {cpu:.3f} ms a clip ({rate:.0f} clips/s)")
        decoders.close()


if __name__ == "__main__":
    main()
