"""The pipeline knows a network by its backbone alone: any clip, frame size, layer and channel order runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn

from c3d_extract import Extractor, FeatureFile
from c3d_extract.errors import UsageError
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone

CLIP = (8, 24, 32)


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 5, (8, 3, 3))

    def forward(self, clips: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        assert list(layers) == ["pooled"]
        return {"pooled": self.conv(clips).mean(dim=(2, 3, 4))}


class Tiny:
    """Eight frames of 24 x 32 in R, G, B to five numbers."""

    name = "tiny"
    clip = CLIP
    fps = None
    layers = ("pooled",)
    default_layer = "pooled"
    default_stride = 4
    frame_step = 1
    preprocessing = Preprocessing(resize=(28, 36), crop=(24, 32), colour="rgb")
    input_weight = "conv.weight"
    variant: dict[str, str] = {}  # noqa: RUF012 - nothing changes it

    def layer_size(self, layer: str) -> int:
        return {"pooled": 5}[layer]

    def check_layers(self, layers: Sequence[str]) -> None:
        if set(layers) - {"pooled"}:
            raise UsageError("unknown layer")

    def state_shapes(self, _layers: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        return {"conv.weight": (5, 3, 8, 3, 3), "conv.bias": (5,)}

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}

    def operations(self) -> int:
        return 2 * 5 * 3 * 8 * 3 * 3 * 22 * 30

    def peak_elements(self) -> int:
        return 10_000

    def cpu_batch_size(self, threads: int) -> int:
        return 4 * threads

    def build(self, _layers: Sequence[str] | None = None) -> nn.Module:
        return TinyNet()

    def cuda_network(self, layers: Sequence[str]) -> None:
        del layers

    def cpu_network(self, *_: object, **__: object) -> None:
        return None


def read_frames(path: Path) -> NDArray[np.uint8]:
    """OpenCV's frames, resized to 36 x 28, the centre 32 x 24 of them: uint8 (T, 24, 32, 3), B, G, R."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(cv2.resize(read[1], (36, 28))[2:26, 2:34])
    return np.stack(frames).astype(np.uint8)


def test_a_backbone_of_another_kind_runs_through_the_whole_pipeline(videos: Path, tmp_path: Path) -> None:
    tiny: Backbone = Tiny()
    net = TinyNet().eval()
    checkpoint = Checkpoint(
        name="tiny",
        path=tmp_path / "tiny",
        sha256="",
        layout="none",
        backbone=tiny,
        preprocessing=tiny.preprocessing,
        mean=np.full((3, 1, 1, 1), 100, np.float32),
        mean_name="100,100,100",
        state={name: value.detach().clone() for name, value in net.state_dict().items()},
    )
    with Extractor(checkpoint, device="cpu", precision="fp32") as extractor:
        list(
            extractor.extract_files([videos / "mid.mp4"], tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
        )
    # A plain loop: OpenCV's frames, clips of eight at a stride of four, R, G, B, the mean of all clips.
    frames = read_frames(videos / "mid.mp4")
    starts = range(0, len(frames) - 8 + 1, 4)
    with torch.inference_mode():
        clips = torch.stack([torch.from_numpy(frames[i : i + 8, ..., ::-1].copy()) for i in starts])
        expected = net(clips.permute(0, 4, 1, 2, 3).float() - 100, ["pooled"])["pooled"].numpy()
    with FeatureFile(tmp_path / "feats.h5") as file, FeatureFile(tmp_path / "clips.h5") as rows:
        assert file.layers == ["pooled"]
        assert json.loads(json.dumps(file.attributes["settings"]))["stride"] == 4
        np.testing.assert_array_equal(rows.column("start_frame"), list(starts))
        # Sums of float32 in another order.
        np.testing.assert_allclose(rows["pooled"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(file["pooled"][0], expected.mean(axis=0), rtol=1e-4, atol=1e-4)
