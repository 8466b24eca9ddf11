"""The network while it is trained."""

from __future__ import annotations

import dataclasses

import torch
from training_samples import TINY

from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.train import RECIPES
from c3d_extract.train.network import TrainingNet


def test_batch_norm_folds_into_the_convolutions() -> None:
    torch.manual_seed(0)
    net = TrainingNet(dataclasses.replace(TINY, n_classes=5), RECIPES["synthetic"])
    for norm in net.norms.values():
        state = norm.state_dict()
        torch.nn.init.uniform_(state["weight"], -1.5, 1.5)
        torch.nn.init.normal_(state["bias"])
        torch.nn.init.normal_(state["running_mean"])
        torch.nn.init.uniform_(state["running_var"], 0.5, 2)
    plain = C3D(net.architecture)
    plain.load_state_dict(net.plain_state())
    clips = torch.randn(2, 3, *TINY.clip)
    with torch.no_grad():
        expected, found = net.eval().logits(clips), plain.eval()(clips)["fc8"]
    # float32, eight layers: relative 1e-4 of the largest value.
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def _reversal_change(name: str) -> float:
    """How much fc6 changes when a clip runs backwards, relative to its length."""
    torch.manual_seed(1)
    net = TrainingNet(
        dataclasses.replace(ARCHITECTURES[name].scaled(1 / 16), clip=(16, 32, 32)),
        RECIPES["synthetic"].with_changes({"batch_norm": False}),
    ).eval()
    clips = torch.randn(2, 3, 16, 32, 32)
    with torch.no_grad():
        forward, backward = (C3D.forward(net, x, ("fc6",))["fc6"] for x in (clips, clips.flip(2)))
    return float((forward - backward).norm() / forward.norm())


def test_depth_1_cannot_tell_a_clip_from_its_reverse_and_the_others_can() -> None:
    # Kernels of depth 1 see single frames, and max over pairs of 16, 8, 4 and 2 frames has no direction.
    assert _reversal_change("depth-1") < 1e-6
    for name in ("depth-3", "depth-7", "increasing", "decreasing"):
        assert _reversal_change(name) > 0.05
