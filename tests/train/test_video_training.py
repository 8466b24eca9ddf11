"""Training of torchvision's networks: as by plain torch with torchvision's own model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from training_samples import finish, same_weights

from c3d_extract.errors import MismatchError, UsageError
from c3d_extract.models.registry import BACKBONES
from c3d_extract.models.torchvision import VideoNetwork
from c3d_extract.train import RECIPES, Trainer, TrainingSetup
from c3d_extract.train.network import VideoTrainingNet, last_layer
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.train.data import LabelledClip

pytestmark = pytest.mark.slow

LABELS = ("hug", "kick", "wave")
NETWORK = VideoNetwork("mc3_18", len(LABELS))
MEAN, STD = (90.0, 100.0, 110.0), (50.0, 55.0, 60.0)  # B, G, R
RECIPE = RECIPES["finetune"].with_changes({"batch_size": 4, "iterations": 3, "rate": 0.01, "dropout": 0.0})


class NoiseClips:
    """Endless clips of noise, of the fewest frames and pixels that make sense."""

    labels, n_items = LABELS, None

    def clip(self, item: int, rng: np.random.Generator) -> LabelledClip:
        del rng
        noise = np.random.default_rng(item).integers(0, 256, (4, 24, 32, 3), np.uint8)
        return noise, (item % len(LABELS),)

    def test_clips(self, item: int) -> list[LabelledClip]:
        return [self.clip(item, np.random.default_rng())]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def setup(**changes: Any) -> TrainingSetup:
    described = TrainingSetup(
        architecture=NETWORK,
        preprocessing=dataclasses.replace(NETWORK.preprocessing, std=STD),
        mean=np.array(MEAN, np.float32).reshape(3, 1, 1, 1),
        recipe=RECIPE,
        labels=LABELS,
        data={"noise": True},
    )
    return dataclasses.replace(described, **changes)


def plain_training(start: dict[str, torch.Tensor], *, last_layer_only: bool) -> dict[str, torch.Tensor]:
    """The same by torchvision's model, torch's SGD and torch's loss."""
    model = torchvision.models.video.mc3_18(num_classes=len(LABELS))
    model.load_state_dict(start, strict=False)
    trained = model.fc if last_layer_only else model
    kernels = [p for p in trained.parameters() if p.dim() > 1]
    others = [p for p in trained.parameters() if p.dim() == 1]
    groups = [{"params": kernels, "weight_decay": RECIPE.decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RECIPE.rate, momentum=RECIPE.momentum)
    mean, std = (torch.tensor(values[::-1]).view(1, 3, 1, 1, 1) for values in (MEAN, STD))
    for step in range(RECIPE.iterations):
        model.train(not last_layer_only)
        items = [NoiseClips().clip(4 * step + i, np.random.default_rng()) for i in range(4)]
        rgb = np.stack([frames[..., ::-1] for frames, _ in items])
        x = (torch.from_numpy(rgb).permute(0, 4, 1, 2, 3).float() - mean) / std
        loss = nn.functional.cross_entropy(model(x), torch.tensor([classes[0] for _, classes in items]))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).norm() / right.norm())


def test_a_new_last_layer_is_that_of_a_plain_loop_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, setup(last_layer_only=True), NoiseClips())
    start = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    found, right = finish(trainer), plain_training(start, last_layer_only=True)
    for name, value in found.items():
        if name not in {"fc.weight", "fc.bias"}:
            assert torch.equal(value, start[name]), name
            continue
        # fc.bias starts anywhere, so that a step which is not made would show.
        assert relative(value - start[name], right[name] - start[name]) < 1e-4, name
        assert relative(value, start[name]) > 1e-3, name


def test_a_whole_network_is_trained_as_by_a_plain_loop_running_averages_too(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, setup(), NoiseClips())
    start = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    found, right = finish(trainer), plain_training(start, last_layer_only=False)
    assert set(found) == set(right)
    # Sums in another order (channels last), three steps of a high rate: a step left out is off by 1.
    for name, value in found.items():
        assert relative(value - start[name], right[name] - start[name]) < 0.02, name


def test_a_run_goes_on_to_the_bit_and_its_model_is_a_checkpoint_of_the_network(tmp_path: Path) -> None:
    described = setup(last_layer_only=True)
    whole = finish(Trainer(tmp_path / "whole", described, NoiseClips()))
    list(Trainer(tmp_path / "parts", described, NoiseClips()).run(until=2))
    resumed = Trainer(tmp_path / "parts", described, NoiseClips())
    assert resumed.iteration == 2
    assert same_weights(whole, finish(resumed))
    written = load_checkpoint(tmp_path / "parts" / "model.safetensors")
    assert written.backbone == NETWORK
    assert written.labels == list(LABELS)
    assert written.preprocessing == described.preprocessing
    assert written.record["trained"] == "last layer"
    assert same_weights(whole, written.state)
    with pytest.raises(MismatchError, match="trained: last layer → all layers"):
        Trainer(tmp_path / "parts", setup(), NoiseClips())


@pytest.mark.parametrize("name", ["c3d", "r3d_18", "s3d", "mvit_v2_s"])
def test_the_last_layer_is_what_classes_come_from(name: str) -> None:
    backbone = BACKBONES[name].with_classes(5)
    for_classes = {tensor for tensor, shape in backbone.state_shapes().items() if shape[0] == 5}
    assert last_layer(backbone) == for_classes
    assert len(for_classes) == 2


def test_dropout_before_the_last_layer_is_the_recipes_and_of_training_alone() -> None:
    recipe = RECIPE.with_changes({"dropout": 0.5})
    net = VideoTrainingNet(VideoNetwork("s3d", 3), recipe, last_layer_only=True)
    descriptor = torch.ones(1, 1024, 1, 1, 1)
    net.train()
    assert not torch.equal(net._head(descriptor), net._head(descriptor))
    assert not any(module.training for module in net.model.modules()), "the others run as in inference"
    net.eval()
    assert torch.equal(net._head(descriptor), net._head(descriptor))
    plain = VideoTrainingNet(VideoNetwork("s3d", 3), RECIPE).train()  # torchvision's has a dropout of its own
    assert torch.equal(plain._head(descriptor), plain._head(descriptor))


@pytest.mark.parametrize("change", [{"summary": 1.0}, {"batch_norm": True}])
def test_what_is_for_c3d_alone_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is for C3D and its family, and this is a mc3_18"):
        VideoTrainingNet(NETWORK, dataclasses.replace(RECIPE, **change))
