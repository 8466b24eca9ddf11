"""TSP's and IG-65M's R(2+1)D, and C3D v1.1's Res3D-18: recognised by content, with clips of their own."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from checkpoint_writers import RES3D_CONVOLUTIONS, caffe_model, res3d_layers
from torch.nn import functional as F

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.registry import BACKBONES
from c3d_extract.models.torchvision import FURTHER_NETWORKS, VideoNetwork, mean_of, published
from c3d_extract.settings import ExtractSettings
from c3d_extract.weights import find_entry, load_checkpoint, load_registry
from c3d_extract.weights import load as load_module
from c3d_extract.weights import locate as locate_module
from c3d_extract.weights import registry as registry_module
from c3d_extract.weights.fetch import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    Layers = dict[str, list[np.ndarray]]

pytestmark = pytest.mark.slow


# R(2+1)D ---------------------------------------------------------------------------------------------


def planes(n_in: int, n_out: int) -> int:
    """As many planes between two convolutions as make them as large as one of 3x3x3 in their place."""
    return n_in * n_out * 27 // (n_in * 9 + n_out * 3)


def r2plus1d_shapes(blocks: tuple[int, ...], *, deep: bool, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of R(2+1)D, written down from its paper; ``deep`` as VMZ counts planes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normalisation(name: str, n: int) -> None:
        shapes.update({f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")})

    def pair(name: str, n_in: int, middle: int, n_out: int) -> None:
        shapes[f"{name}.0.weight"] = (middle, n_in, 1, 3, 3)
        normalisation(f"{name}.1", middle)
        shapes[f"{name}.3.weight"] = (n_out, middle, 3, 1, 1)

    shapes["stem.0.weight"], shapes["stem.3.weight"] = (45, 3, 1, 7, 7), (64, 45, 3, 1, 1)
    normalisation("stem.1", 45)
    normalisation("stem.4", 64)
    n_in = 64
    for stage, (n_blocks, n_out) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=1):
        for block in range(n_blocks):
            name = f"layer{stage}.{block}"
            first = planes(n_in, n_out)
            pair(f"{name}.conv1.0", n_in, first, n_out)
            normalisation(f"{name}.conv1.1", n_out)
            pair(f"{name}.conv2.0", n_out, planes(n_out, n_out) if deep else first, n_out)
            normalisation(f"{name}.conv2.1", n_out)
            if n_in != n_out:
                shapes[f"{name}.downsample.0.weight"] = (n_out, n_in, 1, 1, 1)
                normalisation(f"{name}.downsample.1", n_out)
            n_in = n_out
    return shapes | {"fc.weight": (n_classes, 512), "fc.bias": (n_classes,)}


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        tensor = torch.empty(shape)
        if len(shape) > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:
            tensor.uniform_(0.5, 1.5, generator=generator)
        state[name] = tensor
        if name.endswith("running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    return state


@pytest.fixture(scope="module")
def deep() -> dict[str, Tensor]:
    return random_tensors(r2plus1d_shapes((3, 4, 6, 3), deep=True, n_classes=400))


def as_tsp(state: dict[str, Tensor], *, heads: tuple[str, ...], n_classes: int = 200) -> dict[str, Any]:
    """As TSP's training writes: the network in ``features.``, its heads beside it, and the options."""
    inside = {f"features.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    for i, head in enumerate(heads):
        n, size = (n_classes, 512) if i == 0 else (2, 1024)
        inside |= {f"{head}.weight": torch.rand(n, size), f"{head}.bias": torch.rand(n)}
    return {"model": inside, "epoch": 5, "args": Namespace(backbone="r2plus1d_34", clip_len=16)}


def same(loaded: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    floating = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    return loaded.keys() == floating.keys() and all(
        torch.equal(loaded[name], floating[name]) for name in loaded
    )


def test_ig65ms_state_dict_is_r2plus1d_34_of_32_frames_as_decoded(
    deep: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(deep, tmp_path / "x")
    checkpoint = load_checkpoint(tmp_path / "x")
    assert same(checkpoint.state, deep)
    assert checkpoint.backbone == VideoNetwork("r2plus1d_34", 400)
    assert checkpoint.backbone.clip == (32, 112, 112)
    assert checkpoint.backbone.fps is None
    assert "taken for a r2plus1d_34, clips of 32 frames as decoded" in checkpoint.notes[-1]
    record = published()["r2plus1d_18"]
    assert checkpoint.preprocessing == record.preprocessing
    np.testing.assert_allclose(checkpoint.mean.ravel(), record.mean, rtol=1e-6)


@pytest.mark.parametrize("heads", [("fc",), ("fc1", "fc2")])
def test_tsps_file_is_the_same_network_of_16_frames_at_15_a_second(
    heads: tuple[str, ...], deep: dict[str, Tensor], tmp_path: Path
) -> None:
    saved = as_tsp(deep, heads=heads)
    torch.save(saved, tmp_path / "x")
    checkpoint = load_checkpoint(tmp_path / "x")
    head = {f"fc.{part}": saved["model"][f"{heads[0]}.{part}"] for part in ("weight", "bias")}
    assert same(checkpoint.state, deep | head)
    assert checkpoint.backbone == VideoNetwork("tsp_r2plus1d_34", 200)
    assert (checkpoint.backbone.clip, checkpoint.backbone.fps) == ((16, 112, 112), 15)
    assert checkpoint.labels is None


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18"])
def test_tsps_smaller_networks_are_torchvisions(name: str, tmp_path: Path) -> None:
    state = random_tensors(VideoNetwork(name).state_shapes())
    saved = as_tsp(state, heads=("fc1", "fc2"))
    torch.save(saved, tmp_path / "x")
    checkpoint = load_checkpoint(tmp_path / "x")
    assert checkpoint.backbone == VideoNetwork(name, 200)
    assert torch.equal(checkpoint.state["fc.bias"], saved["model"]["fc1.bias"])
    assert torch.equal(checkpoint.state["layer4.1.conv2.1.bias"], state["layer4.1.conv2.1.bias"])


def test_the_shapes_written_down_here_are_torchvisions() -> None:
    assert (
        r2plus1d_shapes((2, 2, 2, 2), deep=False, n_classes=400) == VideoNetwork("r2plus1d_18").state_shapes()
    )


def normalised(x: Tensor, state: dict[str, Tensor], name: str, epsilon: float) -> Tensor:
    w = {
        part: state[f"{name}.{part}"].view(-1, 1, 1, 1)
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    return (x - w["running_mean"]) / (w["running_var"] + epsilon).sqrt() * w["weight"] + w["bias"]


def plain_r2plus1d(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Class scores, by torch's convolution and arithmetic."""

    def pair(x: Tensor, name: str, stride: int) -> Tensor:
        x = F.conv3d(x, state[f"{name}.0.weight"], stride=(1, stride, stride), padding=(0, 1, 1))
        x = normalised(x, state, f"{name}.1", 1e-3).relu()
        return F.conv3d(x, state[f"{name}.3.weight"], stride=(stride, 1, 1), padding=(1, 0, 0))

    x = F.conv3d(x, state["stem.0.weight"], stride=(1, 2, 2), padding=(0, 3, 3))
    x = F.conv3d(normalised(x, state, "stem.1", 1e-3).relu(), state["stem.3.weight"], padding=(1, 0, 0))
    x = normalised(x, state, "stem.4", 1e-3).relu()
    for stage, n_blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(n_blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = normalised(pair(x, f"{name}.conv1.0", stride), state, f"{name}.conv1.1", 1e-3).relu()
            y = normalised(pair(y, f"{name}.conv2.0", 1), state, f"{name}.conv2.1", 1e-3)
            if stride == 2:
                x = F.conv3d(x, state[f"{name}.downsample.0.weight"], stride=2)
                x = normalised(x, state, f"{name}.downsample.1", 1e-3)
            x = (x + y).relu()
    return F.linear(x.mean((2, 3, 4)), state["fc.weight"], state["fc.bias"])


def test_r2plus1d_34_computes_what_its_definition_says(deep: dict[str, Tensor]) -> None:
    network = VideoNetwork("r2plus1d_34_clip8", 400)
    model = network.build().eval()
    model.load_state_dict({name: deep[name] for name in network.state_shapes()})
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = model(clips, ["logits"])["logits"], plain_r2plus1d(deep, clips)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    parameters = sum(deep[name].numel() for name in network.state_shapes() if "running" not in name)
    assert parameters == pytest.approx(63.6e6, rel=0.002)  # VMZ's model zoo: 63.6 M


# Records -----------------------------------------------------------------------------------------------


def register(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Make this file the one of a record."""
    entry = find_entry(name)
    changed = replace(entry, file=replace(entry.file, sha256=sha256_of(path)[:8], size=None))
    registry = replace(load_registry(), checkpoints=load_registry().checkpoints | {name: changed})
    for module in (registry_module, load_module, locate_module):
        monkeypatch.setattr(module, "load_registry", lambda: registry)


@pytest.mark.parametrize("by", ["path", "name"])
def test_the_record_says_which_clips_a_file_takes(
    by: str, deep: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache, name = tmp_path / "hub/checkpoints", "ig65m-clip8-kinetics"
    cache.mkdir(parents=True)
    path = cache / find_entry(name).file.name
    torch.save(deep, path)
    register(monkeypatch, name, path)
    checkpoint = load_checkpoint(path if by == "path" else name)
    assert (checkpoint.name, checkpoint.notes) == (name, [])
    assert checkpoint.backbone.clip == (8, 112, 112)
    assert checkpoint.licence == find_entry(name).licence


@pytest.mark.parametrize("name", ["sports1m-davidea", "tsp-r3d-activitynet"])
def test_a_file_of_another_network_than_its_record_says_is_refused(
    name: str, deep: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / find_entry(name).file.name
    path.parent.mkdir(parents=True)
    torch.save(deep, path)
    register(monkeypatch, name, path)
    with pytest.raises(WeightsError, match="holds a r2plus1d_34, but"):
        load_checkpoint(name)


def test_each_record_names_a_network_and_checks_its_file_by_a_hash() -> None:
    records = [record for record in load_registry().checkpoints.values() if record.network]
    assert len(records) == 4 + 13 + 1
    for record in records:
        backbone = BACKBONES[str(record.network)]
        assert record.file.hash_known or not record.file.mirrors
        assert record.name.startswith(("ig65m-", "tsp-", "tac-", "res3d-"))
        clip = {"r2plus1d_34": (32, None), "r2plus1d_34_clip8": (8, None), "res3d_18": (8, None)}
        assert (backbone.clip[0], backbone.fps) == clip.get(backbone.name, (16, 15))


# Res3D-18 ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers() -> Layers:
    return res3d_layers()


@pytest.fixture(scope="module")
def caffemodel(layers: Layers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("res3d") / "any name"
    path.write_bytes(caffe_model(layers))
    return path


def torchvisions_name(layer: str) -> tuple[str, str]:
    """Names of a convolution and its normalisation: ``res3a_branch1`` → ``layer2.0.downsample.0, .1``."""
    if layer == "conv1":
        return "stem.0", "stem.1"
    stage, block, branch = int(layer[3]) - 1, "ab".index(layer[4]), layer.split("_branch")[1]
    module = {"1": "downsample", "2a": "conv1", "2b": "conv2"}[branch]
    return f"layer{stage}.{block}.{module}.0", f"layer{stage}.{block}.{module}.1"


def expected_tensors(layers: Layers) -> dict[str, np.ndarray]:
    found = {"fc.weight": layers["fc8"][0], "fc.bias": layers["fc8"][1]}
    for layer in RES3D_CONVOLUTIONS:
        convolution, normalisation = torchvisions_name(layer)
        of = layer.removeprefix("res") if layer != "conv1" else "_conv1"
        mean, variance, count = layers[f"bn{of}"]
        inverse = np.float32(1) / count[0]
        found[f"{convolution}.weight"] = layers[layer][0]
        found[f"{normalisation}.running_mean"] = np.array([value * inverse for value in mean], np.float32)
        found[f"{normalisation}.running_var"] = np.array([value * inverse for value in variance], np.float32)
        found[f"{normalisation}.weight"], found[f"{normalisation}.bias"] = layers[f"scale{of}"]
    return found


def test_res3d_loads_bit_for_bit_with_its_own_clips(caffemodel: Path, layers: Layers) -> None:
    checkpoint = load_checkpoint(caffemodel)
    expected = expected_tensors(layers)
    assert checkpoint.layout == "caffe-res3d"
    assert checkpoint.state.keys() == expected.keys()
    assert all(np.array_equal(checkpoint.state[name].numpy(), expected[name]) for name in expected)
    assert checkpoint.backbone == VideoNetwork("res3d_18", 487)
    assert checkpoint.backbone.clip == (8, 112, 112)
    assert (
        checkpoint.preprocessing == BACKBONES["c3d"].preprocessing
    )  # OpenCV's resize, B, G, R, columns 29 to 140
    assert checkpoint.mean.ravel().tolist() == [128, 128, 128]
    assert checkpoint.backbone.default_layer == "avgpool"
    assert checkpoint.backbone.layer_size("layer4") == 512 * 1 * 7 * 7
    assert "taken for a res3d_18" in checkpoint.notes[-1]


def plain_res3d(layers: Layers, x: Tensor) -> tuple[Tensor, Tensor]:
    """pool5 and fc8 of the prototxt, by torch's convolution and arithmetic."""

    def convolved(
        x: Tensor, name: str, stride: int | tuple[int, ...], padding: int | tuple[int, ...]
    ) -> Tensor:
        of = name.removeprefix("res") if name != "conv1" else "_conv1"
        x = F.conv3d(x, torch.from_numpy(layers[name][0]), stride=stride, padding=padding)
        blobs = [torch.from_numpy(blob) for blob in (*layers[f"bn{of}"], *layers[f"scale{of}"])]
        mean, variance, count, scale, shift = (blob.view(-1, 1, 1, 1) for blob in blobs)
        return (x - mean / count) / (variance / count + 1e-5).sqrt() * scale + shift

    x = convolved(x, "conv1", (1, 2, 2), (1, 3, 3)).relu()
    for stage in (2, 3, 4, 5):
        for block in "ab":
            name, stride = f"res{stage}{block}_branch", 2 if stage > 2 and block == "a" else 1
            shortcut = convolved(x, f"{name}1", stride, 0) if block == "a" else x
            x = convolved(convolved(x, f"{name}2a", stride, 1).relu(), f"{name}2b", 1, 1) + shortcut
            x = x.relu()
    pooled = x.mean((2, 3, 4))
    return pooled, F.linear(pooled, *(torch.from_numpy(blob) for blob in layers["fc8"]))


def test_res3d_computes_what_its_prototxt_says(caffemodel: Path, layers: Layers) -> None:
    checkpoint = load_checkpoint(caffemodel)
    model = checkpoint.backbone.build().eval()
    model.load_state_dict(checkpoint.state)
    clips = torch.randn(1, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1)) * 50
    with torch.inference_mode():
        found, expected = model(clips, ["avgpool", "logits"]), plain_res3d(layers, clips)
    for layer, right in zip(("avgpool", "logits"), expected, strict=True):
        torch.testing.assert_close(found[layer], right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bn4b_branch2a": None}, r"lacks|bn4b_branch2a has 0 blobs"),
        ({"bn4b_branch2a": [np.zeros(256, np.float32)] * 2}, "bn4b_branch2a has 2 blobs, not 3"),
        ({"res5a_branch1": [np.zeros((512, 128, 1, 1, 1), np.float32)]}, "res5a_branch1 has a blob of shape"),
        (
            {"scale_conv1": [np.full(64, np.inf, np.float32)] * 2},
            "stem.1.weight has values that are not finite",
        ),
        ({"fc8": None}, "fc8 has 0 blobs"),
        ({"fc8": [np.zeros(3, np.float32)] * 2}, "fc8 has a blob of shape 3"),
    ],
)
def test_a_damaged_res3d_is_refused_in_one_line(
    change: dict[str, Any], said: str, layers: Layers, tmp_path: Path
) -> None:
    changed = {name: blobs for name, blobs in (layers | change).items() if blobs is not None}
    (tmp_path / "x").write_bytes(caffe_model(changed))
    with pytest.raises(WeightsError, match=said) as caught:
        load_checkpoint(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_a_number_of_zero_gives_averages_of_zero(layers: Layers, tmp_path: Path) -> None:
    mean, variance, _ = layers["bn_conv1"]
    changed = layers | {"bn_conv1": [mean, variance, np.zeros(1, np.float32)]}
    (tmp_path / "x").write_bytes(caffe_model(changed))
    state = load_checkpoint(tmp_path / "x").state
    assert not state["stem.1.running_mean"].any()
    assert not state["stem.1.running_var"].any()


# Rules of clips ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FURTHER_NETWORKS)
def test_rates_are_the_networks_own_unless_another_is_asked_for(name: str) -> None:
    network = FURTHER_NETWORKS[name]
    own = ExtractSettings().for_backbone(network)
    assert (own.fps, own.frame_step) == (network.fps, 2 if name == "res3d_18" else 1)
    assert own.stride == network.clip[0]
    for fps in (12.5, "source"):
        given = ExtractSettings(fps=fps).for_backbone(network)
        assert (given.fps, given.frame_step) == (None if fps == "source" else fps, 1)
    assert own.to_json().get("frame_step", 1) == own.frame_step
    assert len(mean_of(network)) == 3


def test_the_pool_rule_is_c3ds_alone(caffemodel: Path) -> None:
    with pytest.raises(UsageError, match="is for C3D, and this is a res3d_18"):
        load_checkpoint(caffemodel, pool5="ceil")
