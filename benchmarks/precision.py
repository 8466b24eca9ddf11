"""What half precision does to fc6, and to a linear classifier on it.

    python benchmarks/precision.py WEIGHTS ../shared/data/actions/ut_interaction [--videos 60]

Half precision with sums in fp32, as tensor cores and processors with bf16 do it, is fp32 with weights, input
and the result of every layer rounded to it: products of two halves are exact in fp32. So any machine can say what the
numbers would be, at the speed of fp32. Where this processor multiplies bf16, what `Network` makes of it here is a
row of its own: it rounds differently, as it filters along time. The folder is as for embedded.py; the videos
that are left out of ``--videos N`` are spread evenly.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from embedded import score

from c3d_extract.compute.network import Network
from c3d_extract.compute.precision import choose_precision
from c3d_extract.decode import open_video
from c3d_extract.models.c3d import C3D
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.weights import Checkpoint

HALVES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def clips_of(video: Path, checkpoint: Checkpoint) -> np.ndarray:
    """Every 16 frames, uint8 (N, 16, H, W, 3), B, G, R."""
    sampler = FrameSampler(checkpoint.preprocessing)
    with open_video(video) as reader:
        frames = np.stack([frame.bgr for frame in reader.frames(sampler)])
    n = max(len(frames) // 16, 1)
    clips = np.resize(frames, (n, 16, *frames.shape[1:])) if len(frames) < 16 else frames[: 16 * n]
    return np.ascontiguousarray(clips.reshape(n, 16, *frames.shape[1:]))


def as_input(clips: np.ndarray, checkpoint: Checkpoint) -> torch.Tensor:
    """Return float32 (N, 3, 16, H, W) as the network takes it."""
    x = torch.from_numpy(clips).float().permute(0, 4, 1, 2, 3) - torch.from_numpy(checkpoint.mean)[None]
    return (x.flip(1) if checkpoint.preprocessing.colour == "rgb" else x).contiguous()


def rounded(model: C3D, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return fc6 of the network as it is in ``dtype`` with sums in fp32."""
    model = copy.deepcopy(model)

    def to_half(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).float()

    for tensor in model.parameters():
        tensor.data = to_half(tensor.data)
    for module in model.children():
        module.register_forward_hook(lambda _module, _inputs, output: to_half(output))
    return lambda x: model(to_half(x), ("fc6",))["fc6"]


@torch.no_grad()
def features(videos: list[Path], checkpoint: Checkpoint) -> dict[str, list[np.ndarray]]:
    """fc6 of every video's clips by each precision, float64 (N, 4096)."""
    model = C3D(checkpoint.architecture, ("fc6",)).eval()
    model.load_state_dict({name: checkpoint.state[name] for name in model.state_dict()})
    emulated = {name: rounded(model, dtype) for name, dtype in HALVES.items()}
    cpu = torch.device("cpu")
    real = {}
    if choose_precision("auto", cpu) == "bf16":
        real["bf16 here"] = Network(checkpoint, ("fc6",), device=cpu, precision="bf16", batch_size=4)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (*emulated, *real)}
    for video in videos:
        clips = clips_of(video, checkpoint)
        parts = torch.split(as_input(clips, checkpoint), 4)
        for name, net in emulated.items():
            found[name].append(torch.cat([net(part) for part in parts]).double().numpy())
        for name, network in real.items():
            found[name].append(network(clips)["fc6"].astype(np.float64))
    return found


def relative(found: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found - right, axis=-1) / np.linalg.norm(right, axis=-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--mean", help="B,G,R, where the file has none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = sorted(arguments.folder.glob("*/*"))
    videos = [every[k * len(every) // arguments.videos] for k in range(arguments.videos)]
    checkpoint = load_checkpoint(arguments.weights, layers=("fc6",), mean=arguments.mean)
    found = features(videos, checkpoint)
    averages = {name: np.stack([clips.mean(axis=0) for clips in per]) for name, per in found.items()}
    clips = {name: np.concatenate(per) for name, per in found.items()}
    print(f"{len(videos)} videos, {len(clips['fp32'])} clips")
    print("           relative error of fc6 against fp32          accuracy of a linear SVM,")
    print("           a clip: median, largest   a video: largest  C = 1 and C chosen")
    for name in found:
        a_clip, a_video = relative(clips[name], clips["fp32"]), relative(averages[name], averages["fp32"])
        told = "  {:.3f}  {:.3f}".format(*score(averages[name], videos)) if len(videos) == len(every) else ""
        print(
            f"{name:9}  {np.median(a_clip):14.2e} {a_clip.max():9.2e} {a_video.max():18.2e}         {told}",
            flush=True,
        )


if __name__ == "__main__":
    main()
