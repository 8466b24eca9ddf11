"""Every public layout loads to the same tensors, with the conventions that its origin makes likely."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from checkpoint_writers import DAVIDEA, MMACTION2, WRITERS, random_state, write_keras, write_npy, write_torch

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture
from c3d_extract.weights import load_checkpoint
from c3d_extract.weights.layouts.contents import is_finite

if TYPE_CHECKING:
    from pathlib import Path

    from checkpoint_writers import State
    from numpy.typing import NDArray

NARROW = ARCHITECTURES["c3d"].scaled(1 / 32)
FULL = ARCHITECTURES["c3d"]


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(NARROW.state_shapes())


@pytest.fixture(scope="module")
def full_state() -> State:
    """312 MB of numbers that are all different in a tensor."""
    return {
        name: np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in FULL.state_shapes().items()
    }


def same(loaded: dict[str, torch.Tensor], state: State) -> bool:
    return loaded.keys() == state.keys() and all(
        np.array_equal(loaded[name].numpy(), state[name]) for name in state
    )


def fc6(architecture: Architecture, tensors: dict[str, torch.Tensor]) -> NDArray[Any]:
    model = C3D(architecture, ["fc6"]).eval()
    model.load_state_dict({name: tensors[name] for name in architecture.state_shapes(["fc6"])})
    clip = torch.randn(1, 3, 16, 112, 112, generator=torch.Generator().manual_seed(1)) * 40
    with torch.inference_mode():
        found: NDArray[Any] = model(clip, ["fc6"])["fc6"].numpy()
    return found


@pytest.mark.parametrize("writer", WRITERS)
def test_each_layout_loads_to_the_tensors_it_was_written_from(
    writer: str, state: State, tmp_path: Path
) -> None:
    layout, order, write = WRITERS[writer]
    path = tmp_path / "any name at all"
    write(path, state)
    checkpoint = load_checkpoint(path, mean="100,101,102", fc6_order=order)  # type: ignore[arg-type]
    assert checkpoint.layout == layout
    assert same(checkpoint.state, state)
    assert replace(checkpoint.architecture, pool5="ceil") == NARROW
    assert all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in checkpoint.state.values()
    )


@pytest.mark.parametrize(
    "writer", ["jfzhang95", "Caffe C3D v1.0", "Keras Theano", "TensorFlow npy H, W, C, Python 2"]
)
def test_a_loaded_network_computes_what_the_written_one_does(
    writer: str, state: State, tmp_path: Path
) -> None:
    _, order, write = WRITERS[writer]
    write(tmp_path / "x", state)
    checkpoint = load_checkpoint(tmp_path / "x", mean="100,101,102", fc6_order=order)  # type: ignore[arg-type]
    expected = fc6(NARROW, {name: torch.from_numpy(array) for name, array in state.items()})
    np.testing.assert_allclose(fc6(checkpoint.architecture, checkpoint.state), expected, rtol=1e-6)


def test_the_authors_file_at_full_size_loads_too(full_state: State, tmp_path: Path) -> None:
    path = tmp_path / "full"
    WRITERS["Caffe C3D v1.0"][2](path, full_state)
    checkpoint = load_checkpoint(path, mean="100,101,102")
    path.unlink()
    assert same(checkpoint.state, full_state)
    assert checkpoint.architecture == FULL


@pytest.mark.parametrize(
    "writer", ["DavideA, before zip", "Keras TensorFlow H, W, C", "TensorFlow npy C, H, W"]
)
def test_a_file_of_each_family_with_tensors_of_megabytes_loads_too(writer: str, tmp_path: Path) -> None:
    """HDF5 writes large arrays in chunks, pickles in frames, legacy files beside their pickle."""
    _, order, write = WRITERS[writer]
    architecture = FULL.scaled(1 / 4)
    state = random_state(architecture.state_shapes())
    write(tmp_path / "x", state)
    checkpoint = load_checkpoint(tmp_path / "x", mean="100,101,102", fc6_order=order)  # type: ignore[arg-type]
    assert same(checkpoint.state, state)
    assert checkpoint.architecture == architecture


@pytest.mark.parametrize("writer", ["DavideA", "mmaction v0", "Caffe C3D v1.0", "Keras Theano"])
def test_fc8_may_be_missing(writer: str, state: State, tmp_path: Path) -> None:
    _, _, write = WRITERS[writer]
    without = {name: array for name, array in state.items() if not name.startswith("fc8")}
    write(tmp_path / "x", without)
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3")
    assert checkpoint.architecture.n_classes is None
    assert same(checkpoint.state, without)
    with pytest.raises(UsageError, match="no fc8"):
        load_checkpoint(tmp_path / "x", mean="1,2,3", layers=["prob"])


def test_only_the_tensors_that_the_layers_need_are_kept(state: State, tmp_path: Path) -> None:
    write_torch(tmp_path / "x", state, DAVIDEA)
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3", layers=["pool5", "fc6"])
    assert checkpoint.state.keys() == NARROW.state_shapes(["fc6"]).keys()
    with pytest.raises(UsageError, match="unknown layer"):
        load_checkpoint(tmp_path / "x", mean="1,2,3", layers=["fc9"])


def n_classes(state: State, n: int) -> State:
    return state | {
        "fc8.weight": np.resize(state["fc8.weight"], (n, state["fc8.weight"].shape[1])),
        "fc8.bias": np.zeros(n, np.float32),
    }


@pytest.mark.parametrize(
    ("writer", "classes", "pool5", "colour", "mean"),
    [
        ("DavideA", 101, "symmetric", "bgr", "90,98,102"),
        ("jfzhang95", 51, "symmetric", "bgr", "90,98,102"),
        ("mmaction v0", 51, "symmetric", "bgr", "90,98,102"),
        ("mmaction2, fine-tuned", 101, "symmetric", "rgb", "128,117,104"),
    ],
)
def test_an_unregistered_file_gets_the_dialect_of_its_origin_and_says_so(
    writer: str, classes: int, pool5: str, colour: str, mean: str, state: State, tmp_path: Path
) -> None:
    WRITERS[writer][2](tmp_path / "x", n_classes(state, classes))
    checkpoint = load_checkpoint(tmp_path / "x")
    found = checkpoint.architecture.pool5, checkpoint.preprocessing.colour, checkpoint.mean_name
    assert found == (pool5, colour, mean)
    [remark] = checkpoint.notes
    assert "not a registered file" in remark
    assert f"--pool5 {pool5} --colour {colour} --mean {mean}" in remark


@pytest.mark.parametrize("writer", ["DavideA", "mmaction2", "Caffe C3D v1.0"])
def test_sports1m_weights_are_taken_as_caffe_runs_them(writer: str, state: State, tmp_path: Path) -> None:
    WRITERS[writer][2](tmp_path / "x", state)  # 487 classes
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3")
    assert (checkpoint.architecture.pool5, checkpoint.preprocessing.colour) == ("ceil", "bgr")


def test_overrides_win_and_are_not_called_assumptions(state: State, tmp_path: Path) -> None:
    write_torch(tmp_path / "x", state, DAVIDEA)
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3", pool5="symmetric", colour="rgb")
    assert (checkpoint.architecture.pool5, checkpoint.preprocessing.colour) == ("symmetric", "rgb")
    assert checkpoint.mean.ravel().tolist() == [1, 2, 3]
    assert checkpoint.notes == []


def test_identity_changes_with_whatever_changes_the_numbers(state: State, tmp_path: Path) -> None:
    write_torch(tmp_path / "x", state, DAVIDEA)
    base = load_checkpoint(tmp_path / "x", mean="1,2,3").identity()
    hashes = base["tensors_sha256"]
    assert all(isinstance(value, str) for value in (base | hashes).values() if value is not hashes)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values())
    for change in ({"mean": "1,2,4"}, {"pool5": "symmetric"}, {"colour": "rgb"}):
        assert load_checkpoint(tmp_path / "x", **({"mean": "1,2,3"} | change)).identity() != base  # type: ignore[arg-type]
    state = state | {"fc6.bias": state["fc6.bias"] + 1}
    write_torch(tmp_path / "x", state, DAVIDEA)
    assert load_checkpoint(tmp_path / "x", mean="1,2,3").identity() != base


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_as_float32(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    stored = {name: torch.from_numpy(array).to(dtype) for name, array in state.items()}
    torch.save(stored, tmp_path / "x")
    checkpoint = load_checkpoint(tmp_path / "x", mean="1,2,3")
    assert all(torch.equal(checkpoint.state[name], stored[name].float()) for name in stored)


def test_the_order_of_fc6_is_asked_for_where_a_file_does_not_say_it(state: State, tmp_path: Path) -> None:
    write_keras(tmp_path / "h5", state)
    write_npy(tmp_path / "npy", state)
    for name in ("h5", "npy"):
        with pytest.raises(WeightsError, match="--fc6-order"):
            load_checkpoint(tmp_path / name, mean="1,2,3")
        assert load_checkpoint(tmp_path / name, mean="1,2,3", layers=["pool5"]).state  # which needs no fc6


def broken(state: State, **changes: NDArray[np.float32] | None) -> State:
    changed = {
        name: array for name, array in state.items() if changes.get(name.replace(".", "_"), 1) is not None
    }
    return changed | {k.replace("_", "."): v for k, v in changes.items() if v is not None}


@pytest.mark.parametrize("writer", ["DavideA", "jfzhang95", "mmaction v0", "Caffe BVLC", "Keras Theano"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv3b_weight": None}, "conv3b"),
        ({"fc7_weight": None, "fc7_bias": None}, "lacks fc7"),
        ({"conv3b_bias": np.zeros(3, np.float32)}, "conv3b"),
        ({"fc6_weight": np.zeros((128, 100), np.float32)}, "fc6.weight has shape"),
        ({"conv2a_bias": np.full(4, np.nan, np.float32)}, "conv2a.bias has values that are not finite"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_named(
    writer: str, change: dict[str, Any], said: str, state: State, tmp_path: Path
) -> None:
    WRITERS[writer][2](tmp_path / "x", broken(state, **change))
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(tmp_path / "x", mean="1,2,3")
    assert caught.value.subject == str(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_a_network_with_batch_normalisation_is_refused(state: State, tmp_path: Path) -> None:
    normalised = state | {"conv1a.bn.running_mean": np.zeros(4, np.float32)}
    write_torch(tmp_path / "x", normalised | {}, {})  # names with two dots stay as they are
    with pytest.raises(WeightsError, match="batch normalisation"):
        load_checkpoint(tmp_path / "x", mean="1,2,3")


def test_tensors_that_are_not_c3ds_are_named(state: State, tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors | {"rpn.weight": torch.zeros(3)}, tmp_path / "x")
    notes = load_checkpoint(tmp_path / "x", mean="1,2,3").notes
    assert any("rpn.weight" in remark for remark in notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Google Drive can't scan this file", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:de19\n", "git lfs pull"),
        (b"x" * 100 + bytes.fromhex("57fb808b247547db"), "TensorFlow checkpoint"),
        (b"hello, this is just text, and some more", "no layout we read"),
        (b"\x0a" + b"\xff" * 50, "damaged"),
    ],
)
def test_what_is_no_checkpoint_is_called_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_checkpoint(tmp_path / "x")


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"layer1.0.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "x")
    with pytest.raises(WeightsError, match=r"layer1\.0\.weight"):
        load_checkpoint(tmp_path / "x")


def test_mmaction2_classifier_is_found_outside_the_backbone(state: State, tmp_path: Path) -> None:
    write_torch(tmp_path / "x", state, MMACTION2, prefix="backbone.")
    names = torch.load(tmp_path / "x", weights_only=True).keys()
    assert "cls_head.fc_cls.weight" in names
    assert "backbone.conv1a.conv.weight" in names
    assert same(load_checkpoint(tmp_path / "x", mean="1,2,3").state, state)


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([0.0, 1.0], True),
        ([3e38] * 9, True),  # whose sum is not
        ([1.0, math.inf], False),
        ([math.inf, 1.0, -math.inf], False),
        ([math.nan, 1.0], False),
    ],
)
def test_values_are_finite_or_not_whatever_their_sum_is(values: list[float], finite: bool) -> None:
    assert is_finite(torch.tensor(values)) == finite
