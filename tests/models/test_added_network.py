"""One entry adds a network: all that knows networks by their backbone knows it then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model_weights
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from c3d_extract import Extractor
from c3d_extract.models import torchvision as networks
from c3d_extract.models.layer_table import layer_rows
from c3d_extract.models.torchvision import VideoNetwork
from c3d_extract.train.network import last_layer
from c3d_extract.weights import load_checkpoint
from c3d_extract.weights.convert import convert

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

pytestmark = pytest.mark.slow

NAME = "r3d_10"


def r3d_10(n_classes: int = 400) -> nn.Module:
    """R3D with one block a stage."""
    model: Any = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem, n_classes)
    module: nn.Module = model
    return module


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> VideoNetwork:
    entry = networks._RESNET._replace(build=r3d_10, takes="r3d_18")
    monkeypatch.setitem(networks._FAMILIES, NAME, entry)
    # What the module makes of all entries when it is imported:
    monkeypatch.setitem(networks.FURTHER_NETWORKS, NAME, VideoNetwork(NAME))
    return VideoNetwork(NAME, 5)


def test_its_files_are_recognised_run_converted_and_counted(network: VideoNetwork, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = r3d_10(5).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    checkpoint, rounding = convert(tmp_path / "weights.pth", tmp_path / "native")
    assert checkpoint.backbone == load_checkpoint(tmp_path / "native").backbone == network
    assert rounding.weights == 0
    assert last_layer(network) == {"fc.weight", "fc.bias"}
    n_parameters = sum(p.numel() for p in model.parameters())
    assert sum(row.n_parameters for row in layer_rows(r3d_10, network.clip)) - 395 * 513 == n_parameters
    assert network.n_parameters() == n_parameters
    frames = np.random.default_rng(0).integers(0, 256, (16, 60, 80, 3), np.uint8)  # R, G, B
    transform = get_model_weights("r3d_18").DEFAULT.transforms()
    with torch.inference_mode():
        expected = model(transform(torch.from_numpy(frames).permute(0, 3, 1, 2))[None])
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "layers": "logits"}
    with Extractor.from_weights(tmp_path / "native", **options) as extractor:
        found = extractor.extract(frames, colour="rgb", fps=15)
    # torch's resize with one thread rounds one value in 10,000 to the next level.
    np.testing.assert_allclose(found.clips, expected.numpy(), rtol=1e-3, atol=1e-3)
