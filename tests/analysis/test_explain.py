"""What units respond to: the guided signal by hand, on moving discs, and where it cannot be had."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch
from tiny_network import CLIP, TinyNet, tiny_checkpoint
from torch.nn import functional as F

from c3d_extract import ClipDataset, load_checkpoint
from c3d_extract.analysis.explain import Explainer
from c3d_extract.decode import open_video
from c3d_extract.errors import UsageError
from c3d_extract.preprocess.resize import FrameSampler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights import Checkpoint


class TinyNetWithRelus(TinyNet):
    def forward(self, clips: torch.Tensor, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        assert list(layers) == ["pooled"]
        x = F.relu(self.conv(clips), inplace=True)
        return {"pooled": F.relu(x.mean(dim=(2, 3, 4)) - 0.05)}


def with_relus(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    checkpoint = tiny_checkpoint()
    monkeypatch.setattr(checkpoint.backbone, "build", lambda _layers=None: TinyNetWithRelus())
    return checkpoint


def moving_disc(seed: int, size: int = 56) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Render a disc that moves over a still texture: (3, T, H, W), and where the disc is (T, H, W)."""
    n_frames, rng = 16, np.random.default_rng(seed)
    ground = np.kron(rng.integers(40, 200, (3, size // 4, size // 4)), np.ones((4, 4))).astype(np.float32)
    clip = np.repeat(ground[:, None], n_frames, axis=1)
    place, angle, colour = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0, 2 * np.pi), rng.uniform(0, 255, 3)
    rows, columns = np.mgrid[:size, :size]
    masks = []
    for time in np.linspace(-0.5, 0.5, n_frames):
        y, x = place + np.array([np.sin(angle), np.cos(angle)]) * size / 2 * time
        masks.append(np.hypot(rows - y, columns - x) < 0.12 * size)
    mask = np.stack(masks)
    clip[:, mask] = colour[:, None]
    return clip, mask


def random_weights(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Return the same network with He's random weights, whose activations neither vanish nor overflow."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=generator) * (2 / max(value[0].numel(), 1)) ** 0.5
        if name.endswith("weight")
        else torch.zeros_like(value)
        for name, value in checkpoint.state.items()
    }
    return replace(checkpoint, state=state)


def share_inside(explainer: Explainer, clip: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return which share of the squared picture of the three strongest units lies in the mask, on average."""
    x = torch.from_numpy(clip - explainer.checkpoint.mean)
    units = explainer.activations(x).argsort()[::-1][:3].tolist()
    energies = [(unit.pixels**2).sum(axis=-1) for unit in explainer.explain(x, units).units]
    return float(np.mean([energy[mask].sum() / energy.sum() for energy in energies]))


@pytest.mark.parametrize("layer", ["fc6", "conv5b"])
def test_pictures_light_up_where_something_moves_three_times_as_much_as_those_of_random_weights(
    layer: str,
) -> None:
    # Compared are the mean shares over four clips; the disc takes 4.5 % of the pixels.
    checkpoint = load_checkpoint("motion-mini", layers=(layer,))
    trained, chance = [], []
    for seed in range(4):
        clip, mask = moving_disc(seed)
        trained.append(share_inside(Explainer(checkpoint, layer), clip, mask))
        chance.append(share_inside(Explainer(random_weights(checkpoint, seed), layer), clip, mask))
    assert 0.04 < mask.mean() < 0.05
    assert np.mean(trained) >= 3 * np.mean(chance)


def test_a_picture_is_what_positive_signals_through_active_units_send_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = with_relus(monkeypatch)
    clip = torch.randn((3, *CLIP), generator=torch.Generator().manual_seed(1))
    explainer = Explainer(checkpoint)
    kernels, bias = checkpoint.state["conv.weight"], checkpoint.state["conv.bias"]
    before = F.conv3d(clip[None], kernels, bias)
    values = (before.clamp(min=0).mean(dim=(2, 3, 4)) - 0.05).clamp(min=0)[0]
    np.testing.assert_allclose(explainer.activations(clip), values, rtol=1e-5)
    explanation = explainer.explain(clip, [4, 0])
    for found in explanation.units:
        signal = torch.zeros_like(before)
        signal[:, found.unit] = (before[:, found.unit] > 0) / before[0, 0].numel() * (values[found.unit] > 0)
        expected = F.conv_transpose3d(signal, kernels)[0].permute(1, 2, 3, 0)  # the network takes R, G, B
        np.testing.assert_allclose(found.pixels, expected, atol=1e-8)
        assert found.activation == pytest.approx(float(values[found.unit]))
    assert [found.unit for found in explanation.units] == [4, 0]


def test_an_inactive_unit_has_an_empty_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = with_relus(monkeypatch)
    checkpoint.state["conv.bias"] -= 1000
    explainer = Explainer(checkpoint)
    (unit,) = explainer.explain(torch.zeros(3, *CLIP), [2]).units
    assert unit.activation == 0
    assert not unit.pixels.any()


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_its_frames_are_those_of_the_video(
    videos: Path, colour: Literal["rgb", "bgr"], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = with_relus(monkeypatch)
    checkpoint = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, colour=colour))
    item = next(iter(ClipDataset([videos / "mid.mp4"], checkpoint)))
    with open_video(videos / "mid.mp4") as reader:
        sampler = FrameSampler(checkpoint.preprocessing)
        expected = [frame.bgr[:, :, ::-1] for frame in islice(reader.frames(sampler), CLIP[0])]
    np.testing.assert_array_equal(Explainer(checkpoint).explain(item.clip, []).frames, expected)


def test_what_has_no_picture_is_refused_in_one_line() -> None:
    checkpoint = load_checkpoint("motion-mini")
    with pytest.raises(UsageError, match="unit 512: fc6 has units 0 to 511"):
        Explainer(checkpoint).explain(torch.zeros(3, 16, 56, 56), [512])
    with pytest.raises(UsageError, match="depends on all others; take the layer before"):
        Explainer(checkpoint, "prob")
    with pytest.raises(UsageError, match="unknown layer"):
        Explainer(checkpoint, "fc9")
    with pytest.raises(UsageError, match="tiny: has no ReLUs"):
        Explainer(tiny_checkpoint()).explain(torch.zeros(3, *CLIP), [0])
    assert Explainer(checkpoint, "conv5b").n_units == 64
