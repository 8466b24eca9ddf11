"""The fidelity bars at full size: pixels against OpenCV, averaged fc6 against the usual port.

    python benchmarks/fidelity.py ../shared/data            pixels of all 62 videos, fc6 of the two UCF101 ones
    python benchmarks/fidelity.py ../shared/data --all      fc6 of all 62 videos as well (an hour on two cores)

A random full-size checkpoint in DavideA's layout is made on the way. Needs opencv-python-headless.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracle import averaged_fc6, opencv_frames, relative

from c3d_extract import ARCHITECTURES, Extractor
from c3d_extract.decode import PyAVReader
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.settings import ExtractSettings

MEAN = np.array([100.61, 108.05, 107.81], np.float32)
COMBINATIONS = tuple(product(("ceil", "symmetric"), (16, 8), ("bgr", "rgb")))
FOR_ALL = (("ceil", 16, "bgr"), ("symmetric", 8, "rgb"))


def random_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in ARCHITECTURES["c3d"].state_shapes().items():
        key = name.replace("conv1a", "conv1").replace("conv2a", "conv2")
        if name.endswith("weight"):
            state[key] = torch.randn(shape, generator=generator) * (2 / prod(shape[1:])) ** 0.5
        else:
            state[key] = torch.rand(shape, generator=generator) * 0.1
    torch.save(state, path)
    return state


def compare_pixels(videos: list[Path]) -> None:
    sampler = FrameSampler(Preprocessing())
    n_pixels = n_other = worst = 0
    for path in videos:
        with PyAVReader(path) as reader:
            ours = np.stack([sampler(frame.bgr) for frame in reader.frames()])
        theirs = opencv_frames(path)
        assert ours.shape == theirs.shape, (path, ours.shape, theirs.shape)
        difference = np.abs(ours.astype(np.int16) - theirs)
        n_pixels += difference.size
        n_other += int((difference > 0).sum())
        worst = max(worst, int(difference.max()))
    print(f"pixels: {n_other} of {n_pixels} differ from OpenCV's, by {worst} at most ({len(videos)} videos)")


def compare_features(
    videos: list[Path], weights: Path, state: dict[str, torch.Tensor], pool5: str, stride: int, colour: str
) -> None:
    settings = ExtractSettings(stride=stride)
    mean = ",".join(map(str, MEAN))
    words = {"mean": mean, "pool5": pool5, "colour": colour, "device": "cpu", "precision": "fp32"}
    errors = []
    with Extractor.from_weights(str(weights), settings, **words) as extractor:
        for path in videos:
            expected = averaged_fc6(state, path, MEAN, pool5=pool5, stride=stride, colour=colour)
            got = extractor.extract(path).mean()
            errors.append(relative(got, expected))
    print(
        f"fc6: pool5 {pool5}, stride {stride}, {colour}: relative error at most {max(errors):.1e} "
        f"({len(videos)} videos; bar 1e-3)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--all", action="store_true", help="compare fc6 of all videos")
    words = parser.parse_args()
    ucf = sorted((words.data / "samples" / "facebook_C3D").glob("*.avi"))
    actions = sorted((words.data / "actions").rglob("*.avi"))
    compare_pixels(ucf + actions)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "c3d.pickle"
        state = random_checkpoint(weights)
        for combination in COMBINATIONS:
            compare_features(ucf, weights, state, *combination)
        for combination in FOR_ALL if words.all else ():
            compare_features(actions, weights, state, *combination)


if __name__ == "__main__":
    main()
