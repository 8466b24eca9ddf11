"""The network is the paper's: shapes, counts, and the values of plain torch layers, written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture, Pool5
from c3d_extract.preprocess.spec import Preprocessing

NARROW = ARCHITECTURES["c3d"].scaled(1 / 64)
# Shapes of reference prototxt, for 3x16x112x112.
PROTOTXT_SHAPES = {
    "pool1": (64, 16, 56, 56),
    "pool2": (128, 8, 28, 28),
    "pool3": (256, 4, 14, 14),
    "pool4": (512, 2, 7, 7),
    "conv5b": (512, 2, 7, 7),
    "pool5": (512, 1, 4, 4),
}


def random_model(arch: Architecture) -> C3D:
    torch.manual_seed(1)
    return C3D(arch).eval()


def windows(n: int, kind: str) -> list[list[int]]:
    """The pool windows over seven lines of the two ways."""
    starts = range(0, n, 2) if kind == "ceil" else range(-1, n, 2)
    return [[i for i in (s, s + 1) if 0 <= i < n] for s in starts]


def plain_loop(model: C3D, clip: torch.Tensor, pool5: str) -> dict[str, torch.Tensor]:
    """C3D written out, ReLU before every pool, pool5 by explicit windows, in float64."""
    m = model.double()
    x = clip.double()[None]
    for stage, names in enumerate((("1a",), ("2a",), ("3a", "3b"), ("4a", "4b"), ("5a", "5b")), start=1):
        for name in names:
            x = m.get_submodule(f"conv{name}")(x).clamp(min=0)
        if stage < 5:
            x = nn.functional.max_pool3d(x, (1, 2, 2) if stage == 1 else (2, 2, 2))
    found = {"conv5b": x.flatten(1)}
    lines = windows(7, pool5)
    pooled = [[x[0, :, :, rows][..., cols].amax(dim=(1, 2, 3)) for cols in lines] for rows in lines]
    x = torch.stack([torch.stack(row, -1) for row in pooled], -2)
    found["pool5"] = x.reshape(1, -1)
    found["fc6"] = m.get_submodule("fc6")(found["pool5"]).clamp(min=0)
    found["fc7"] = m.get_submodule("fc7")(found["fc6"]).clamp(min=0)
    found["fc8"] = m.get_submodule("fc8")(found["fc7"])
    found["prob"] = torch.exp(found["fc8"]) / torch.exp(found["fc8"]).sum()
    return found


@pytest.mark.parametrize("pool5", ["ceil", "symmetric"])
def test_every_layer_equals_the_network_written_out(pool5: Pool5) -> None:
    arch = replace(NARROW, pool5=pool5)
    model = random_model(arch)
    clip = torch.rand(3, 16, 112, 112) * 255 - 100
    with torch.inference_mode():
        got = model(clip[None], arch.layers)
        expected = plain_loop(model, clip, pool5)
    for layer in arch.layers:
        # float32 sums of up to 27·64 products against float64: 1e-5 leaves room for any order of adding.
        error = (got[layer] - expected[layer]).norm() / expected[layer].norm()
        assert error < 1e-5, layer


def test_the_two_ways_of_pool5_differ() -> None:
    model = random_model(NARROW)
    other = C3D(replace(NARROW, pool5="symmetric")).eval()
    other.load_state_dict(model.state_dict())
    clip = torch.rand(1, 3, 16, 112, 112) * 255 - 100
    with torch.inference_mode():
        one, two = (m(clip, ("pool5",))["pool5"] for m in (model, other))
    assert one.shape == two.shape
    assert not torch.allclose(one, two)


def test_shapes_are_those_of_the_prototxt() -> None:
    shapes = ARCHITECTURES["c3d"].map_shapes()
    assert {name: shapes[name] for name in PROTOTXT_SHAPES} == PROTOTXT_SHAPES
    assert ARCHITECTURES["c3d"].layer_size("fc6") == 4096
    assert ARCHITECTURES["c3d"].layer_size("conv5b") == 512 * 2 * 7 * 7


def test_counts_agree_with_torch() -> None:
    for arch in (NARROW, ARCHITECTURES["depth-3"].scaled(1 / 8)):
        assert arch.n_parameters() == sum(p.numel() for p in C3D(arch).parameters())
    assert ARCHITECTURES["c3d"].n_parameters() == 79_991_015


def test_only_the_layers_that_are_needed_are_built() -> None:
    names = [name for name, _ in C3D(NARROW, ("fc6",)).named_children()]
    assert names[-2:] == ["conv5b", "fc6"]
    assert "fc6" not in dict(C3D(NARROW, ("pool5",)).named_children())


def test_asking_for_an_unknown_layer_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"fc9.*known: conv5b, pool5, fc6, fc7, fc8, prob"):
        NARROW.check_layers(["fc9"])
    with pytest.raises(UsageError, match="no fc8"):
        replace(NARROW, n_classes=None).check_layers(["prob"])


def test_a_description_survives_json_and_a_wrong_one_is_refused() -> None:
    for arch in ARCHITECTURES.values():
        assert Architecture.from_json(arch.to_json()) == arch
    wrong = (
        {"filters": [[10**9]] * 5},
        {"depths": [3, 3]},
        {"pool5": "round"},
        {"clip": [1, 1, 1]},
        {"hidden": "x"},
    )
    for change in wrong:
        with pytest.raises(WeightsError):
            Architecture.from_json(NARROW.to_json() | change)


def test_prob_sums_to_one() -> None:
    with torch.inference_mode():
        prob = random_model(NARROW)(torch.rand(2, 3, 16, 112, 112), ("prob",))["prob"]
    np.testing.assert_allclose(prob.sum(dim=1).numpy(), 1, rtol=1e-6)


def test_frames_are_resized_as_the_authors_do_and_in_proportion_for_other_clips() -> None:
    c3d = ARCHITECTURES["c3d"]
    assert c3d.preprocessing == Preprocessing(resize=(128, 171), crop=(112, 112))
    small = replace(c3d, clip=(16, 56, 56)).preprocessing
    assert (small.resize, small.crop) == ((64, 85), (56, 56))
    assert (c3d.default_layer, c3d.default_stride, c3d.fps) == ("fc6", 16, None)
