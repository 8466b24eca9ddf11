"""The hash of a network's tensors: of its own form, and the same whatever file they came in."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from checkpoint_writers import WRITERS, random_state

from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

NARROW = ARCHITECTURES["c3d"].scaled(1 / 64)
STATE = random_state(NARROW.state_shapes())


def by_hand(last: str) -> str:
    """Every tensor up to a layer's: its name, its shape, its numbers packed one by one."""
    layers = [
        "conv1a",
        "conv2a",
        "conv3a",
        "conv3b",
        "conv4a",
        "conv4b",
        "conv5a",
        "conv5b",
        "fc6",
        "fc7",
        "fc8",
    ]
    content = b""
    for layer in layers[: layers.index(last) + 1]:
        for part in ("weight", "bias"):
            array = STATE[f"{layer}.{part}"]
            content += f"{layer}.{part} {'x'.join(map(str, array.shape))}\n".encode()
            content += struct.pack(f"<{array.size}f", *array.ravel().tolist())
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "writer", ["DavideA", "jfzhang95", "Caffe BVLC", "Keras Theano", "TensorFlow npy C, H, W"]
)
def test_it_is_that_of_the_numbers_in_any_layout(writer: str, tmp_path: Path) -> None:
    _, order, write = WRITERS[writer]
    write(tmp_path / "x", STATE)
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3", fc6_order=order)  # type: ignore[arg-type]
    last = {"conv5b": "conv5b", "pool5": "conv5b", "fc6": "fc6", "fc7": "fc7", "fc8": "fc8", "prob": "fc8"}
    assert checkpoint.tensors_sha256 == {layer: by_hand(name) for layer, name in last.items()}


def test_each_layer_has_its_own_whichever_are_loaded(tmp_path: Path) -> None:
    WRITERS["DavideA"][2](tmp_path / "x", STATE)
    for layers in (["fc7"], ["prob", "fc6"]):
        checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3", layers=layers)
        expected = {layer: by_hand("fc8" if layer == "prob" else layer) for layer in layers}
        assert checkpoint.tensors_sha256 == expected
        assert checkpoint.identity(layers[:1])["tensors_sha256"] == {layers[0]: expected[layers[0]]}
    without = {name: array for name, array in STATE.items() if not name.startswith("fc8")}
    WRITERS["DavideA"][2](tmp_path / "y", without)
    assert load_checkpoint(tmp_path / "y", mean="1,2,3").tensors_sha256["fc7"] == by_hand("fc7")
