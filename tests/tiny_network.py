"""A network of five numbers a clip, for tests of all that is around networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    n_classes = None
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

    def n_channels(self, layer: str) -> int:
        return self.layer_size(layer)

    def check_layers(self, layers: Sequence[str]) -> None:
        if set(layers) - {"pooled"}:
            raise UsageError("unknown layer")

    def state_shapes(self, _layers: Sequence[str] | None = None) -> dict[str, tuple[int, ...]]:
        return {"conv.weight": (5, 3, 8, 3, 3), "conv.bias": (5,)}

    def with_classes(self, _n_classes: int) -> Self:
        raise WeightsError("has no classes")

    def n_parameters(self) -> int:
        return 5 * 3 * 8 * 3 * 3 + 5

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


def tiny_checkpoint(net: TinyNet | None = None, **fields: Any) -> Checkpoint:
    """Return a checkpoint of random tensors, the same each time, or of those of ``net``."""
    if net is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = TinyNet()
    tiny: Backbone = Tiny()
    given: dict[str, Any] = {
        "name": "tiny",
        "path": Path("tiny"),
        "sha256": "",
        "layout": "none",
        "backbone": tiny,
        "preprocessing": tiny.preprocessing,
        "mean": np.full((3, 1, 1, 1), 100, np.float32),
        "mean_name": "100,100,100",
        "state": {name: value.detach().clone() for name, value in net.state_dict().items()},
    }
    return Checkpoint(**(given | fields))
