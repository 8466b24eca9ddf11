"""What the rest of the package asks of every backbone holds for each, whatever it computes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from c3d_extract.errors import UsageError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.models.registry import BACKBONES

if TYPE_CHECKING:
    from c3d_extract.models.base import Backbone

SMALL: dict[str, Backbone] = {
    name: replace(arch.scaled(1 / 64), clip=(16, 32, 32)) for name, arch in ARCHITECTURES.items()
}
"""C3D's family, with tensors so small that it can be run; for torchvision's see test_video_networks.py."""


@pytest.mark.parametrize("name", BACKBONES)
def test_its_defaults_are_things_that_it_has(name: str) -> None:
    backbone = BACKBONES[name]
    assert backbone.name == name
    assert backbone.default_layer in backbone.layers
    assert backbone.default_stride >= 1
    assert backbone.fps is None or backbone.fps > 0
    assert backbone.preprocessing.crop == backbone.clip[1:]
    assert backbone.state_shapes()[backbone.input_weight][1] == 3
    backbone.check_layers(backbone.layers)
    with pytest.raises(UsageError, match="unknown layer"):
        backbone.check_layers(["nothing of the kind"])


@pytest.mark.parametrize("name", SMALL)
def test_the_network_that_it_builds_has_the_tensors_and_features_that_it_says(name: str) -> None:
    backbone = SMALL[name]
    for layers in (backbone.layers, (backbone.default_layer,)):
        model = backbone.build(layers).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert shapes == backbone.state_shapes(layers)
        with torch.inference_mode():
            found = model(torch.zeros(2, 3, *backbone.clip), layers)
        assert {layer: tuple(rows.shape) for layer, rows in found.items()} == {
            layer: (2, backbone.layer_size(layer)) for layer in layers
        }


@pytest.mark.parametrize("name", BACKBONES)
def test_a_gpu_needs_memory_for_a_clip_at_least(name: str) -> None:
    frames, rows, columns = BACKBONES[name].clip
    assert BACKBONES[name].peak_elements() >= 3 * frames * rows * columns
    assert BACKBONES[name].cpu_batch_size(threads=2) >= 1
    assert BACKBONES[name].operations() > BACKBONES[name].peak_elements()


def test_torchvisions_networks_are_described_in_a_process_that_has_not_imported_torchvision() -> None:
    # With torch 2.6 that import fails where tensors are made without data, as they are for a description.
    code = "from c3d_extract.models.registry import BACKBONES; print(len(BACKBONES['r3d_18'].state_shapes()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert int(done.stdout or 0) == len(BACKBONES["r3d_18"].state_shapes()), done.stderr
