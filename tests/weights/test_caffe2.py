"""VMZ's C3D with batch normalisation: read from a Caffe2 pickle as arrays alone, and folded."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from checkpoint_writers import CONVOLUTIONS, State, python2_pickle, random_state, vmz_blobs
from torch.nn import functional as F

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.weights import find_entry, load_checkpoint
from c3d_extract.weights.convert import convert
from c3d_extract.weights.verify import verify

if TYPE_CHECKING:
    from numpy.typing import NDArray

NARROW = replace(ARCHITECTURES["c3d"].scaled(1 / 32), pool5="floor", n_classes=400)
STATE = random_state(NARROW.state_shapes())
BLOBS = vmz_blobs(STATE)


def folded(blobs: State) -> State:
    """Every number by Python's own arithmetic, which is float64."""
    state: State = {}
    for layer in CONVOLUTIONS:
        s, b, mean, variance = (blobs[f"{layer}_bn_{part}"].tolist() for part in ("s", "b", "rm", "riv"))
        weight, bias = blobs[f"{layer}_w"], blobs[f"{layer}_b"].tolist()
        kernels = np.empty_like(weight)
        shifts = np.empty(len(weight), np.float32)
        for c in range(len(weight)):
            factor = s[c] / math.sqrt(variance[c] + 1e-3)
            kernels[c] = np.array([value * factor for value in weight[c].ravel().tolist()]).reshape(
                weight[c].shape
            )
            shifts[c] = (bias[c] - mean[c]) * factor + b[c]
        state |= {f"{layer}.weight": kernels, f"{layer}.bias": shifts}
    for layer, name in (("fc6", "fc6"), ("fc7", "fc7"), ("fc8", "last_out_L400")):
        state |= {f"{layer}.weight": blobs[f"{name}_w"], f"{layer}.bias": blobs[f"{name}_b"]}
    return state


def write(path: Path, blobs: State = BLOBS) -> Path:
    path.write_bytes(python2_pickle(blobs))
    return path


def plain_fc6(blobs: State, clip: torch.Tensor) -> NDArray[Any]:
    """The network of c3d_model.py, with normalisation, by the functions of torch."""
    x, w = clip, {name: torch.from_numpy(array) for name, array in blobs.items()}
    for layer in CONVOLUTIONS:
        x = F.conv3d(x, w[f"{layer}_w"], w[f"{layer}_b"], padding=1)
        running = w[f"{layer}_bn_rm"], w[f"{layer}_bn_riv"]
        x = F.relu(F.batch_norm(x, *running, w[f"{layer}_bn_s"], w[f"{layer}_bn_b"], eps=1e-3))
        if layer == "conv1a":
            x = F.max_pool3d(x, (1, 2, 2))
        elif layer in {"conv2a", "conv3b", "conv4b", "conv5b"}:
            x = F.max_pool3d(x, 2)
    return F.relu(F.linear(x.flatten(1), w["fc6_w"], w["fc6_b"])).numpy()


def test_it_loads_bit_for_bit_with_its_own_preprocessing(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write(tmp_path / "any name"))
    assert checkpoint.layout == "caffe2-vmz"
    assert checkpoint.architecture == NARROW
    expected = folded(BLOBS)
    assert checkpoint.state.keys() == expected.keys()
    assert all(np.array_equal(checkpoint.state[name].numpy(), expected[name]) for name in expected)
    assert checkpoint.preprocessing.colour == "rgb"
    np.testing.assert_allclose(checkpoint.mean.ravel(), [95.9966, 100.64, 110.201], rtol=1e-6)
    assert checkpoint.preprocessing.std == (55.3324, 56.4701, 58.1489)
    assert checkpoint.backbone.clip == (16, 112, 112)
    assert "VMZ" in checkpoint.notes[0]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_it_loads_from_a_pickle_of_python_3_with_or_without_a_wrapper(protocol: int, tmp_path: Path) -> None:
    expected = load_checkpoint(write(tmp_path / "x")).tensors_sha256
    for content in (BLOBS, {"blobs": BLOBS}, {"blobs": BLOBS, "note": "text"}):
        (tmp_path / "y").write_bytes(pickle.dumps(content, protocol))
        assert load_checkpoint(tmp_path / "y").tensors_sha256 == expected


def test_the_folded_network_computes_what_the_normalised_one_does(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write(tmp_path / "x"))
    clip = torch.randn(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    model = C3D(checkpoint.architecture, ["fc6"]).eval()
    model.load_state_dict({name: checkpoint.state[name] for name in NARROW.state_shapes(["fc6"])})
    with torch.inference_mode():
        found = model(clip, ["fc6"])["fc6"].numpy()
        expected = plain_fc6(BLOBS, clip)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))
    assert np.count_nonzero(expected) > 10


def test_the_network_at_full_width_runs_as_the_normalised_one_on_the_cpu_path(tmp_path: Path) -> None:
    """Wide enough for the faster implementation, which pools as the checkpoint says, too."""
    wide = replace(ARCHITECTURES["c3d"].scaled(1 / 2), pool5="floor", n_classes=None)
    assert wide.filters[0][0] >= 32
    blobs = vmz_blobs(random_state(wide.state_shapes()))
    checkpoint = load_checkpoint(write(tmp_path / "x", blobs), layers=["fc6"])
    clip = torch.randn(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(0))
    network = checkpoint.backbone.cpu_network(
        ["fc6"], checkpoint.state, dtype=torch.float32, batch_size=1, threads=1
    )
    assert network is not None
    found = network.start([lambda: clip[0].permute(1, 2, 3, 0).contiguous()])()["fc6"].numpy()
    with torch.inference_mode():
        expected = plain_fc6(blobs, clip)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def test_biases_and_the_classifier_may_be_missing(tmp_path: Path) -> None:
    without = {
        name: blob
        for name, blob in BLOBS.items()
        if not (name.startswith("conv") and name.endswith("_b") and "bn" not in name) and "last" not in name
    }
    checkpoint = load_checkpoint(write(tmp_path / "x", without))
    zeros = {f"{layer}_b": np.zeros_like(BLOBS[f"{layer}_b"]) for layer in CONVOLUTIONS}
    expected = folded(BLOBS | zeros)
    assert checkpoint.architecture == replace(NARROW, n_classes=None)
    assert all(np.array_equal(checkpoint.state[name].numpy(), expected[name]) for name in checkpoint.state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv3b_bn_riv": None}, "conv3b has no normalisation that fits it"),
        ({"conv3b_bn_riv": np.zeros(3, np.float32)}, "conv3b has no normalisation that fits it"),
        ({"conv2a_bn_riv": np.full(4, -1, np.float32)}, r"conv2a.weight has values that are not finite"),
        ({"last_out_L7_w": np.zeros((7, 128), np.float32)}, "holds 2 classifiers"),
        ({"fc6_w": np.zeros((128, 16 * 16), np.float32)}, "fc6.weight has shape 128x256"),
        ({"conv4a_w": None}, "lacks conv4a.weight"),
        (dict.fromkeys(BLOBS), "other arrays than VMZ's C3D"),
    ],
)
def test_what_is_not_that_network_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    blobs = {name: blob for name, blob in (BLOBS | change).items() if blob is not None}
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(write(tmp_path / "x", blobs))
    assert "\n" not in str(caught.value)


class RunsCode:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["value", "key", "beside", "root"])
def test_a_pickle_that_would_run_code_does_not(protocol: int, where: str, tmp_path: Path) -> None:
    hostile, mark = RunsCode(tmp_path / "ran"), tmp_path / "ran"
    content: Any = {
        "value": {"blobs": BLOBS | {"conv1a_w": hostile}},
        "key": {"blobs": {hostile: BLOBS["fc6_w"]}},
        "beside": {"blobs": BLOBS, "extra": hostile},
        "root": hostile,
    }[where]
    (tmp_path / "x").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(WeightsError, match="refused: it asks for"):
        load_checkpoint(tmp_path / "x")
    assert not mark.exists()


def test_opcodes_cannot_reach_beyond_arrays(tmp_path: Path) -> None:
    """Names of modules that hold what is allowed, attributes of the stand-ins, and persistent references."""
    for body in (
        b"cos\nsystem\n(U\x04trueR",
        b"cnumpy.core.multiarray\nscalar\n)R",
        b"cnumpy\nload\n(U\x01xtR",
        b"c__builtin__\neval\n(U\x011tR",
        b"cnumpy\nndarray.__class__\n",
        b"Px\n",
    ):
        (tmp_path / "x").write_bytes(b"\x80\x02}U\x05blobs" + body + b"s.")
        with pytest.raises(WeightsError, match=r"refused|not a readable pickle"):
            load_checkpoint(tmp_path / "x")


def test_it_is_not_the_original_tools_network(tmp_path: Path) -> None:
    write(tmp_path / "x")
    with pytest.raises(WeightsError, match="not the original tool's network"):
        verify(tmp_path / "x", {}, [], mean="1,2,3")
    with pytest.raises((WeightsError, UsageError), match=r"fc6.weight has shape"):
        load_checkpoint(tmp_path / "x", pool5="ceil")


def test_it_converts_with_its_own_rules(tmp_path: Path) -> None:
    source, rounding = convert(write(tmp_path / "x"), tmp_path / "y.safetensors")
    written = load_checkpoint(tmp_path / "y.safetensors")
    assert rounding.weights == 0
    assert (written.architecture, written.preprocessing) == (source.architecture, source.preprocessing)
    assert written.tensors_sha256 == source.tensors_sha256


def test_its_records_say_what_is_assumed_of_a_file_of_this_layout(tmp_path: Path) -> None:
    assumed = load_checkpoint(write(tmp_path / "x"))
    for name in ("vmz-c3d-kinetics", "vmz-c3d-kinetics-scratch", "vmz-c3d-sports1m"):
        entry = find_entry(name)
        assert (entry.layout, entry.pool5, entry.mean) == (assumed.layout, "floor", assumed.mean_name)
        assert (entry.colour, entry.std) == (assumed.preprocessing.colour, assumed.preprocessing.std)
