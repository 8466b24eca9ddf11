"""torchvision's video networks: what is said of each is what torchvision's own model and record say."""

from __future__ import annotations

import threading
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torchvision
from torchvision.models import get_model_weights, list_models

from c3d_extract.compute.forward import build_model
from c3d_extract.compute.reference import HALF_ERROR_BOUND
from c3d_extract.errors import WeightsError
from c3d_extract.models.torchvision import NETWORKS, VideoNetwork, published, recognise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

pytestmark = pytest.mark.slow

CPU, N_CLASSES = torch.device("cpu"), 7
# Clips as small as each network takes: S3D's pool needs 7 x 7 places, MViT takes one size.
SMALLEST = {
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), (8, 48, 40)),
    "s3d": (16, 224, 224),
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), (16, 224, 224)),
    **dict.fromkeys(("swin3d_t", "swin3d_s", "swin3d_b"), (6, 64, 96)),
}


def floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def random_model(name: str) -> nn.Module:
    """torchvision's model with random weights, also where its initial ones are zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        model = VideoNetwork(name, N_CLASSES).build_torchvision()
    state = {key: torch.zeros_like(value, device="cpu") for key, value in model.state_dict().items()}
    for key, value in state.items():
        if value.is_floating_point():
            wide = (3 / prod(value.shape[1:])) ** 0.5  # of deviation 1 / sqrt(inputs)
            value.uniform_(-wide, wide, generator=generator) if value.ndim > 1 else value.uniform_(
                0.5, 1.5, generator=generator
            )
        elif key.endswith("relative_position_index"):
            attention: Any = model.get_submodule(key.rpartition(".")[0])
            attention.define_relative_position_index()
            state[key] = attention.relative_position_index
    model.load_state_dict(state, assign=True)
    return model.eval()


def features(
    name: str, model: nn.Module, clips: Tensor, layers: Sequence[str], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What our network computes with the weights of torchvision's."""
    network = VideoNetwork(name, N_CLASSES)
    weights = {key: floats(model)[key] for key in network.state_shapes(layers)}
    ours = build_model(network, layers, weights, dtype=dtype, device=CPU)
    with torch.inference_mode():
        found: dict[str, Tensor] = ours(clips.to(dtype), layers)
    return found


def relative(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


def test_every_video_network_of_torchvision_is_here() -> None:
    assert sorted(NETWORKS) == sorted(list_models(module=torchvision.models.video))
    n_records = sum(len(get_model_weights(name)) for name in NETWORKS)
    assert len(published()) == n_records
    assert {weights.network.name for weights in published().values()} == set(NETWORKS)


@pytest.mark.parametrize("name", list(published()))
def test_clip_and_rate_are_those_of_the_records_prose(name: str) -> None:
    network, prose = published()[name].network, published()[name].facts["about"]
    assert f"`frame_rate={network.fps:g}`" in prose
    if name == "s3d":  # evaluated on one clip of 128 frames, for which short videos would be mostly padding
        assert network.clip[0] >= get_model_weights(name).DEFAULT.meta["min_temporal_size"]
    else:
        assert f"`clip_len={network.clip[0]}`" in prose


@pytest.mark.parametrize("name", list(published()))
def test_preprocessing_is_the_records_transform(name: str) -> None:
    weights = published()[name]
    record = next(r for r in get_model_weights(weights.network.name) if r.url == weights.url)
    transform = record.transforms()
    assert transform.interpolation.value == "bilinear"
    assert weights.preprocessing.crop == tuple(transform.crop_size)
    assert weights.preprocessing.keeps_aspect == (len(transform.resize_size) == 1)
    assert weights.preprocessing.resize[0] == transform.resize_size[0]
    levels = torch.tensor([[0.0, 100.0, 255.0]] * 3)  # R, G, B
    expected = (levels / 255 - torch.tensor(transform.mean)[:, None]) / torch.tensor(transform.std)[:, None]
    mean, std = (torch.tensor(values[::-1])[:, None] for values in (weights.mean, weights.preprocessing.std))
    torch.testing.assert_close((levels - mean) / std, expected)
    assert weights.labels == record.meta["categories"]
    assert weights.file.startswith(f"{record.url.rpartition('/')[2].partition('-')[0]}-{weights.sha256}")


@pytest.mark.parametrize("name", NETWORKS)
def test_cost_and_size_are_those_of_the_record(name: str) -> None:
    network, facts = NETWORKS[name], published()[name].facts
    # The records count multiply-adds of 16 frames; attention windows of Swin are 8 frames deep.
    assert network.operations() / 2e9 * 16 / network.clip[0] == pytest.approx(facts["gigaflops"], rel=0.001)
    shapes = network.state_shapes().items()
    n_parameters = sum(prod(shape) for name, shape in shapes if not name.endswith(("_mean", "_var")))
    assert n_parameters == facts["parameters"]


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_those_of_torchvisions_own_model(name: str) -> None:
    model, network = random_model(name), VideoNetwork(name, N_CLASSES)
    clips = torch.randn(1, 3, *SMALLEST[name], generator=torch.Generator().manual_seed(1))
    last: list[Tensor] = []
    module = model.get_submodule(network.layers[0])
    module.register_forward_hook(lambda _module, _inputs, output: last.append(output.clone()))
    with torch.inference_mode():
        logits = model(clips)
    found = features(name, model, clips, network.layers)
    assert relative(found["logits"], logits) < 1e-5
    torch.testing.assert_close(found["prob"], logits.softmax(1))
    # The last map, channels first; MViT's without its class token, which comes first.
    tokens = last[0].flatten(2).transpose(1, 2) if last[0].shape[1] > last[0].shape[-1] else last[0]
    tokens = tokens.flatten(1, -2)
    descriptor, head = found[network.default_layer], model.get_submodule(network._family.head)
    if network.default_layer == "class_token":
        assert relative(descriptor, tokens[:, 0]) < 1e-5
        tokens = tokens[:, 1:]
    else:
        assert relative(descriptor, tokens.mean(1)) < 1e-5
    assert relative(found[network.layers[0]], tokens.transpose(1, 2).flatten(1)) < 1e-5
    with torch.inference_mode():
        x = descriptor[:, :, None, None, None] if name == "s3d" else descriptor
        assert relative(head(x).flatten(1), logits) < 1e-5


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s", "swin3d_t"])
def test_half_precision_runs_on_a_cpu_and_rounds_no_more_than_is_allowed(name: str) -> None:
    model, layers = random_model(name), (NETWORKS[name].default_layer, "logits")
    clips = torch.randn(1, 3, *SMALLEST[name], generator=torch.Generator().manual_seed(1))
    exact = features(name, model, clips, layers)
    rounded = features(name, model, clips, layers, torch.bfloat16)
    for layer in layers:
        assert relative(rounded[layer].float(), exact[layer]) < HALF_ERROR_BOUND


@pytest.mark.parametrize("name", ["r3d_18", "s3d", "mvit_v2_s", "swin3d_b"])
def test_sizes_of_layers_are_those_of_a_whole_clip(name: str) -> None:
    network = NETWORKS[name]
    with torch.device("meta"):
        model = network.build().eval()
        found = model(torch.empty(2, 3, *network.clip), network.layers)
    assert {layer: tuple(rows.shape) for layer, rows in found.items()} == {
        layer: (2, network.layer_size(layer)) for layer in network.layers
    }


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_the_classifier_is_built_for_its_own_layers_only(name: str) -> None:
    network, model = VideoNetwork(name, N_CLASSES), random_model(name)
    for layers in (None, (network.default_layer,), ("prob",)):
        built = {key: tuple(value.shape) for key, value in network.build(layers).state_dict().items()}
        assert built == network.state_shapes(layers)
    assert len(network.state_shapes()) == len(floats(model))
    assert len(network.state_shapes(["avgpool"])) == len(floats(model)) - 2
    clips = torch.randn(1, 3, *SMALLEST[name])
    alone = features(name, model, clips, ["avgpool"])["avgpool"]
    torch.testing.assert_close(alone, features(name, model, clips, network.layers)["avgpool"])


def test_two_threads_that_share_a_network_get_their_own_features() -> None:
    network, layers = VideoNetwork("r3d_18", N_CLASSES), ("layer4", "avgpool")
    state = floats(random_model("r3d_18"))
    weights = {key: state[key] for key in network.state_shapes(layers)}
    model = build_model(network, layers, weights, dtype=torch.float32, device=CPU)
    clips = torch.randn(2, 3, 8, 48, 40)
    with torch.inference_mode():
        alone = [model(clips[i : i + 1], layers)["layer4"] for i in range(2)]
    wrong: list[int] = []

    def run(i: int) -> None:
        with torch.inference_mode():
            again = [model(clips[i : i + 1], layers)["layer4"] for _ in range(3)]
        wrong.extend(i for found in again if not torch.equal(found, alone[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_recognised_by_its_tensors_with_any_number_of_classes(name: str) -> None:
    for n_classes in (400, 3):
        network = VideoNetwork(name, n_classes)
        assert recognise(network.state_shapes() | {"another.weight": (3,)}) == network


def test_a_part_of_a_network_is_refused_and_another_network_is_none() -> None:
    shapes: dict[str, Any] = dict(NETWORKS["swin3d_s"].state_shapes())
    for change, said in (
        ({"norm.weight": None}, "not a whole swin3d_s: lacks norm.weight"),
        ({"norm.weight": (5,)}, "norm.weight has shape 5, but the network needs 768"),
    ):
        changed = {key: value for key, value in (shapes | change).items() if value is not None}
        with pytest.raises(WeightsError, match=said):
            recognise(changed)
    assert recognise({"conv1.weight": (64, 3, 3, 3, 3)}) is None
    assert recognise({"stem.0.weight": (64, 3, 7, 7)}) is None, "a network of images"


def test_the_table_in_the_documentation_is_that_of_the_records() -> None:
    path = Path(__file__).parents[2] / "docs" / "backbones.md"
    text = path.read_text("utf-8").partition("## Other files")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `") and "(C3D" not in line]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == ["--weights", *published()]
    for row in rows[1:]:
        weights = published()[row[0]]
        network, facts = weights.network, weights.facts
        *of_records, _clips_a_second, _licence = row[1:]
        assert of_records == [
            " x ".join(map(str, network.clip)),
            f"{network.fps:g}",
            network.default_layer,
            str(network.layer_size(network.default_layer)),
            f"{network.operations() / 1e9:.0f}",
            f"{facts['parameters'] / 1e6:.1f} M",
            f"{facts['accuracy']['acc@1']} %",
            f"{facts['size_mib']:.0f} MiB",
        ]
