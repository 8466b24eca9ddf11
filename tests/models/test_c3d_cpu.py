"""The network that filters along time is the network of plain convolutions, and a clip's bits are its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from oracle import relative

from c3d_extract.compute.network import Network
from c3d_extract.models import c3d_cpu, cpu_convolutions
from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture
from c3d_extract.models.c3d_cpu import CpuC3D

if TYPE_CHECKING:
    from collections.abc import Iterator

    from c3d_extract.settings import Precision


CPU = torch.device("cpu")
ALL_LAYERS = ("conv5b", "pool5", "fc6", "fc7", "fc8", "prob")
SMALL = {
    # Maps of 3 x 3 before pool5, whose two ways differ for odd sizes only, as for the whole network's 7 x 7.
    "c3d": replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(16, 48, 48)),
    "symmetric": replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(16, 48, 48), pool5="symmetric"),
    "depth-1": replace(ARCHITECTURES["depth-1"].scaled(1 / 16), clip=(16, 48, 48)),
    "increasing": replace(ARCHITECTURES["increasing"].scaled(1 / 16), clip=(16, 48, 48)),
    "32 frames": replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(32, 32, 48)),
    "24 frames": replace(ARCHITECTURES["depth-3"].scaled(1 / 16), clip=(24, 34, 38)),
    "wide enough to be filtered": replace(
        ARCHITECTURES["c3d"].scaled(1 / 4), clip=(16, 32, 48), hidden=(64, 32)
    ),
}


def in_cache(
    arch: Architecture,
    model: C3D,
    layers: tuple[str, ...],
    batch_size: int,
    threads: int = 2,
    dtype: torch.dtype = torch.float32,
) -> CpuC3D:
    state = model.state_dict()
    with torch.inference_mode():
        return CpuC3D(arch, layers, state, dtype=dtype, batch_size=batch_size, threads=threads)


def features(net: CpuC3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return net.start([lambda clip=clip: clip for clip in x])()  # type: ignore[misc]


# Against float64. fp32: measured 2e-6, as for plain convolutions. bf16 has 8 bits: measured up to 1.1e-2,
# plain convolutions in bf16 6e-3 (filtering multiplies differences of frames, and rounds what is multiplied).
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", SMALL)
def test_filtering_along_time_gives_the_network_of_plain_convolutions(name: str, dtype: torch.dtype) -> None:
    arch, n = SMALL[name], 5
    torch.manual_seed(0)
    model = C3D(arch).eval()
    layers = tuple(layer for layer in ALL_LAYERS if layer in arch.layers)
    x = torch.randn(n, *arch.clip, 3) * 60
    with torch.inference_mode():
        got = features(in_cache(arch, model, layers, batch_size=6, dtype=dtype), x)
        expected = model.double()(x.double().permute(0, 4, 1, 2, 3), layers)
    for layer in layers:
        assert got[layer].shape == expected[layer].shape
        error = (got[layer] - expected[layer]).norm() / expected[layer].norm()
        assert error < BOUNDS[dtype], layer


@pytest.mark.parametrize("dtype", BOUNDS)
def test_filtered_clips_have_the_same_bits_wherever_they_stand(dtype: torch.dtype) -> None:
    arch = SMALL["wide enough to be filtered"]
    model = C3D(arch, ("fc6",)).eval()
    x = torch.randn(6, *arch.clip, 3) * 60
    whole = features(in_cache(arch, model, ("fc6",), batch_size=6, dtype=dtype), x)["fc6"]
    alone = in_cache(arch, model, ("fc6",), batch_size=6, threads=1, dtype=dtype)
    for place in (0, 3, 5):
        assert torch.equal(features(alone, x[place : place + 1])["fc6"][0], whole[place])
    single = in_cache(arch, model, ("fc6",), batch_size=1, dtype=dtype)
    singles = torch.cat([features(single, clip[None])["fc6"] for clip in x])
    assert (singles - whole).norm() / whole.norm() < BOUNDS[dtype]  # the bar of batch independence


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 1.5e-2)])
def test_a_wide_network_on_a_cpu_takes_bytes_mean_and_colour_as_any_other(
    precision: Precision, bound: float
) -> None:
    arch = replace(ARCHITECTURES["c3d"].scaled(1 / 2), clip=(16, 48, 48), hidden=(32, 32), n_classes=5)
    state = {k: v.detach() for k, v in C3D(arch, ("fc6",)).state_dict().items()}
    checkpoint = SimpleNamespace(
        backbone=arch,
        state=state,
        mean=np.full((3, 16, 48, 48), 100, np.float32),
        preprocessing=SimpleNamespace(colour="rgb", crop=(48, 48), std=(2.0, 4.0, 8.0)),
    )
    net = Network(checkpoint, ("fc6",), device=CPU, precision=precision, batch_size=2)  # type: ignore[arg-type]
    clips = np.random.default_rng(1).integers(0, 256, (1, 16, 48, 48, 3), dtype=np.uint8)
    model = C3D(arch, ("fc6",)).eval()
    model.load_state_dict(state)
    bgr = (clips.astype(np.float32) - 100) / np.array([2, 4, 8], np.float32)
    with torch.inference_mode():
        x = torch.from_numpy(bgr[..., ::-1].copy()).permute(0, 4, 1, 2, 3)
        expected = model(x, ("fc6",))["fc6"].numpy()
    assert isinstance(net._model, CpuC3D)
    assert relative(net(clips)["fc6"], expected) < bound
    if precision == "bf16":  # what overflows is done again by the plain network
        with torch.inference_mode():
            cast("Any", net._model._linear["fc6"]._bias).fill_(float("inf"))
        assert relative(net(clips)["fc6"], expected) < 1e-5
        assert net.n_overflowed == 1


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_torch_that_cannot_lay_kernels_out_gives_the_same_numbers(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = SMALL["c3d"]
    model, x = C3D(arch, ("fc6",)).eval(), torch.randn(2, *arch.clip, 3) * 60
    prepacked = features(in_cache(arch, model, ("fc6",), batch_size=2, dtype=dtype), x)["fc6"]
    for module in (c3d_cpu, cpu_convolutions):
        monkeypatch.setattr(module, "can_prepack", lambda _: False)
    plain = features(in_cache(arch, model, ("fc6",), batch_size=2, dtype=dtype), x)["fc6"]
    assert relative(plain.numpy(), prepacked.numpy()) < BOUNDS[dtype]


@pytest.fixture
def tried_anew() -> Iterator[None]:
    """Let torch's private operators be tried again, before a test and after it."""
    cpu_convolutions._prepack_problem.cache_clear()
    yield
    cpu_convolutions._prepack_problem.cache_clear()


def _takes_other_arguments(*_: object) -> None:
    raise TypeError("_convolution_pointwise() takes 12 positional arguments")


def _is_not_for_this_processor(*_: object) -> None:
    raise RuntimeError("mkldnn: unsupported\nException raised from")


def _is_wrong(image: torch.Tensor, *_: object) -> torch.Tensor:
    return image.new_zeros(len(image), 16, *image.shape[2:])


@pytest.mark.usefixtures("tried_anew")
@pytest.mark.parametrize(
    ("operator", "behaves", "why"),
    [
        ("_convolution_pointwise", _takes_other_arguments, "takes 12 positional arguments"),
        ("_convolution_pointwise", _is_not_for_this_processor, "mkldnn: unsupported"),
        ("_convolution_pointwise", _is_wrong, "its results are wrong"),
        ("_reorder_convolution_weight", _takes_other_arguments, "takes 12 positional arguments"),
    ],
)
def test_private_operators_that_changed_are_not_used_and_it_is_said(
    operator: str, behaves: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = SMALL["wide enough to be filtered"]
    model, x = C3D(arch, ("fc6",)).eval(), torch.randn(6, *arch.clip, 3) * 60
    prepacked = in_cache(arch, model, ("fc6",), batch_size=6)
    assert prepacked.warnings == []
    expected = features(prepacked, x)["fc6"]
    cpu_convolutions._prepack_problem.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, operator, behaves)
    plain = in_cache(arch, model, ("fc6",), batch_size=6)
    assert why in plain.warnings[0]
    assert "slower" in plain.warnings[0]
    found = features(plain, x)["fc6"]
    assert relative(found.numpy(), expected.numpy()) < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_clips_have_the_same_bits_wherever_they_stand_without_private_operators(
    dtype: torch.dtype, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (c3d_cpu, cpu_convolutions):
        monkeypatch.setattr(module, "can_prepack", lambda _: False)
    arch = SMALL["wide enough to be filtered"]
    net = in_cache(arch, C3D(arch, ("fc7",)).eval(), ("fc6", "fc7"), batch_size=batch_size, dtype=dtype)
    x = torch.randn(batch_size, *arch.clip, 3) * 60
    whole = features(net, x)
    for place in {0, batch_size // 2, batch_size - 1}:
        alone = features(net, x[place : place + 1])
        for layer in ("fc6", "fc7"):
            assert torch.equal(alone[layer][0], whole[layer][place]), (layer, place)


@pytest.mark.usefixtures("tried_anew")
def test_a_network_without_private_operators_takes_bytes_and_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    arch = replace(ARCHITECTURES["c3d"].scaled(1 / 2), clip=(16, 32, 32), hidden=(32, 32), n_classes=5)
    checkpoint = SimpleNamespace(
        backbone=arch,
        state={k: v.detach() for k, v in C3D(arch, ("fc6",)).state_dict().items()},
        mean=np.full((3, 16, 32, 32), 100, np.float32),
        preprocessing=SimpleNamespace(colour="bgr", crop=(32, 32), std=(1.0, 1.0, 1.0)),
    )
    clips = np.random.default_rng(1).integers(0, 256, (5, 16, 32, 32, 3), dtype=np.uint8)

    def make() -> Network:
        return Network(checkpoint, ("fc6",), device=CPU, precision="fp32", batch_size=4)  # type: ignore[arg-type]

    expected = make()(clips)["fc6"]
    cpu_convolutions._prepack_problem.cache_clear()
    monkeypatch.delattr(torch.ops.mkldnn, "_convolution_pointwise")
    monkeypatch.setattr(type(torch.ops.mkldnn), "__getattr__", _gone)
    net = make()
    found = net(clips)["fc6"]
    assert "does not prepack kernels as expected" in net.warnings[0]
    assert relative(found, expected) < 1e-5
    np.testing.assert_array_equal(net(clips[2:3])["fc6"][0], found[2])


def _gone(_: object, name: str) -> None:
    raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute '{name}'")


def test_a_batch_on_its_way_says_when_it_is_done() -> None:
    arch = SMALL["c3d"]
    may_go = threading.Event()

    def clip() -> torch.Tensor:
        may_go.wait(5)
        return torch.zeros(*arch.clip, 3)

    net = in_cache(arch, C3D(arch, ("fc6",)).eval(), ("fc6",), batch_size=1)
    running = net.start([clip])
    assert not running.done()
    may_go.set()
    running()
    assert running.done()
