"""What the embedded checkpoint is worth on real videos.

    python benchmarks/embedded.py ../shared/data/actions/ut_interaction [CHECKPOINT]

It is held against the same net with random weights and against grey thumbnails. VIDEOS is a folder of
class folders; the third field of a name (``set1_17_3_0.avi``: 3) is its sequence, and one sequence at a
time is left out. Each video is the average of its clips' features, L2-normalised; the classifier is the
package's: a linear SVM. Only the SVM is trained on these videos.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from c3d_extract import Extractor
from c3d_extract.analysis import ClassifierSettings, Samples, cross_validate, leave_one_out_splits
from c3d_extract.decode import open_video
from c3d_extract.settings import ExtractSettings
from c3d_extract.train.network import TrainingNet
from c3d_extract.train.recipes import RECIPES
from c3d_extract.weights import load_checkpoint, save_checkpoint

LAYERS = ("pool5", "fc6", "fc7")


def extract(checkpoint: Path, videos: list[Path], stride: int) -> dict[str, np.ndarray]:
    """Mean features of each video, (N, D), by layer."""
    settings = ExtractSettings(layers=LAYERS, stride=stride)
    with Extractor.from_weights(str(checkpoint), settings, device="cpu", precision="fp32") as extractor:
        found = [extractor.extract(video) for video in videos]
    return {layer: np.stack([features.mean(layer) for features in found]) for layer in LAYERS}


def random_twin(checkpoint: Path, seed: int, folder: Path) -> Path:
    """Write the same network with He's random weights: what training started from."""
    found = load_checkpoint(checkpoint)
    torch.manual_seed(seed)
    net = TrainingNet(found.architecture, RECIPES["synthetic"].with_changes({"batch_norm": False}))
    path = folder / f"random-{seed}.safetensors"
    save_checkpoint(
        path, net.plain_state(), found.architecture, found.preprocessing, found.mean, name=path.stem
    )
    return path


def thumbnails(video: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the frames of a 24x32 grey picture, flattened."""
    small = []
    with open_video(video) as reader:
        for frame in reader.frames():
            grey = frame.bgr.mean(axis=2)
            rows = np.array_split(np.arange(grey.shape[0]), 24)
            columns = np.array_split(np.arange(grey.shape[1]), 32)
            lines = np.stack([grey[r].mean(axis=0) for r in rows])
            small.append(np.stack([lines[:, c].mean(axis=1) for c in columns], axis=1).ravel())
    return np.mean(small, axis=0), np.std(small, axis=0)


def score(features: np.ndarray, videos: list[Path]) -> np.ndarray:
    """Share of videos named rightly, one sequence left out at a time: with C = 1, and with C chosen."""
    sequences = [v.stem.split("_")[2] for v in videos]
    samples = Samples(features, [v.parent.name for v in videos], sequences)
    splits = leave_one_out_splits(samples)
    settings = [ClassifierSettings(c=c) for c in (1.0, None)]
    return np.array([cross_validate(samples, splits, each).pooled_accuracy for each in settings])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path("weights/motion-mini.safetensors"))
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--random", type=int, default=3, help="random twins to average over")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    videos = sorted(arguments.videos.glob("*/*"))
    print(f"{len(videos)} videos, {len({v.parent.name for v in videos})} classes", flush=True)

    trained = extract(arguments.checkpoint, videos, arguments.stride)
    with tempfile.TemporaryDirectory() as folder:
        twins = [random_twin(arguments.checkpoint, seed, Path(folder)) for seed in range(arguments.random)]
        random = [extract(twin, videos, arguments.stride) for twin in twins]
    print("accuracy with C = 1, and with C chosen inside the training sequences")
    for layer in LAYERS:
        _tell(layer, "trained", score(trained[layer], videos))
        for seed, found in enumerate(random):
            _tell(layer, f"random {seed}", score(found[layer], videos))
    for what, grey in zip(
        ("grey, mean", "grey, deviation"), zip(*map(thumbnails, videos), strict=True), strict=True
    ):
        _tell("24x32", what, score(np.stack(grey), videos))


def _tell(layer: str, what: str, accuracy: np.ndarray) -> None:
    print(f"{layer:6} {what:15} {accuracy[0]:.3f}  {accuracy[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
