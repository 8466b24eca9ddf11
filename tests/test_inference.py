"""A clip's features do not depend on its neighbours, on the batch size, or on who flips the colours."""

from __future__ import annotations

import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from c3d_extract.cpu_network import CpuC3D
from c3d_extract.errors import DeviceError
from c3d_extract.inference import (
    Network,
    choose_device,
    choose_devices,
    choose_precision,
    fp32_products,
    in_one_line,
)
from c3d_extract.model import ARCHITECTURES, C3D, Architecture
from c3d_extract.pipeline import Extractor
from c3d_extract.weights import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.settings import Precision

LAYERS = ("fc6", "fc7")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(narrow_weights: Path) -> Checkpoint:
    return load_checkpoint(narrow_weights, layers=LAYERS, mean="90,98,102")


@pytest.fixture(scope="module")
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 112, 112, 3), dtype=np.uint8)


def network(checkpoint: Checkpoint, batch_size: int, precision: str = "fp32") -> Network:
    return Network(checkpoint, LAYERS, device=CPU, precision=precision, batch_size=batch_size)  # type: ignore[arg-type]


def relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_clip_has_the_same_bits_wherever_it_stands_in_whatever_batch(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], precision: str
) -> None:
    net = network(checkpoint, 4, precision)
    first = net(clips[:4])
    turned = net(clips[[3, 5, 0, 4]])
    alone = net(clips[3:4])
    odd = network(checkpoint, 6, precision)
    np.testing.assert_array_equal(odd(clips[[3]])["fc6"][0], odd(clips)["fc6"][3])
    np.testing.assert_array_equal(odd(clips[[5]])["fc6"][0], odd(clips)["fc6"][5])
    for layer in LAYERS:
        np.testing.assert_array_equal(turned[layer][0], first[layer][3])
        np.testing.assert_array_equal(turned[layer][2], first[layer][0])
        np.testing.assert_array_equal(alone[layer][0], first[layer][3])


def test_the_batch_size_changes_rounding_only(checkpoint: Checkpoint, clips: NDArray[np.uint8]) -> None:
    one, six = network(checkpoint, 1), network(checkpoint, 6)
    singles = np.concatenate([one(clips[i : i + 1])["fc6"] for i in range(6)])
    assert relative(singles, six(clips)["fc6"]) < 1e-5  # the bar of batch independence, fp32


def test_features_are_those_of_a_plain_float_pipeline(
    checkpoint: Checkpoint, clips: NDArray[np.uint8]
) -> None:
    model = C3D(checkpoint.architecture, LAYERS).eval()
    model.load_state_dict(checkpoint.state)
    x = torch.from_numpy(clips[:2].astype(np.float32) - np.array([90, 98, 102], np.float32))
    with torch.inference_mode():
        expected = model(x.permute(0, 4, 1, 2, 3).contiguous(), LAYERS)
    got = network(checkpoint, 2)(clips[:2])
    for layer in LAYERS:
        assert relative(got[layer], expected[layer].numpy()) < 1e-5  # another memory layout, other sums


def test_rgb_checkpoints_see_their_channels_in_order(
    checkpoint: Checkpoint, clips: NDArray[np.uint8]
) -> None:
    preprocessing = replace(checkpoint.preprocessing, colour="rgb", std=(2.0, 4.0, 8.0))
    rgb = replace(checkpoint, preprocessing=preprocessing)
    model = C3D(checkpoint.architecture, LAYERS).eval()
    model.load_state_dict(checkpoint.state)
    bgr = (clips[:1].astype(np.float32) - np.array([90, 98, 102], np.float32)) / np.array(
        [2, 4, 8], np.float32
    )
    with torch.inference_mode():
        x = torch.from_numpy(bgr[..., ::-1].copy()).permute(0, 4, 1, 2, 3)
        expected = model(x, LAYERS)["fc6"].numpy()
    got = Network(rgb, LAYERS, device=CPU, precision="fp32", batch_size=1)(clips[:1])["fc6"]
    assert relative(got, expected) < 1e-5


def test_bf16_stays_within_the_documented_bound(checkpoint: Checkpoint, clips: NDArray[np.uint8]) -> None:
    exact, half = network(checkpoint, 2)(clips[:2]), network(checkpoint, 2, "bf16")(clips[:2])
    assert 0 < relative(half["fc6"], exact["fc6"]) < 1e-2


def test_a_batch_that_overflows_in_half_precision_is_done_again(
    checkpoint: Checkpoint, clips: NDArray[np.uint8]
) -> None:
    # Activations near the end of the float range: the sums of one layer overflow to inf only in bf16's path.
    net = network(checkpoint, 2, "bf16")
    assert isinstance(net._model, C3D)
    net._model.get_parameter("fc6.bias")[:] = float("inf")
    got = net(clips[:2])["fc6"]
    assert relative(got, network(checkpoint, 2)(clips[:2])["fc6"]) < 1e-5  # fp32 by another path
    assert "2 clips overflowed in bf16" in net.warnings[0]


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 4)
    whole = Network._run

    def small_memory(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, model, x)

    monkeypatch.setattr(Network, "_run", small_memory)
    got = net(clips[:4])["fc6"]
    assert net.batch_size == 2
    assert "batches of 2" in net.warnings[0]
    monkeypatch.undo()
    assert relative(got, network(checkpoint, 4)(clips[:4])["fc6"]) < 1e-5


@pytest.mark.parametrize(
    ("device", "what"), [("gpu", "unknown"), ("cuda:99", "CUDA"), ("meta", "not supported"), ("mps", "Metal")]
)
def test_a_device_that_is_not_there_is_named(device: str, what: str) -> None:
    with pytest.raises(DeviceError, match=what):
        choose_device(device)


def test_precisions_that_a_cpu_lacks_are_refused() -> None:
    precisions: tuple[Precision, ...] = ("fp16", "tf32")
    for name in precisions:
        with pytest.raises(DeviceError, match="only on a GPU"):
            choose_precision(name, CPU)
    assert choose_precision("auto", CPU) in {"fp32", "bf16"}


SMALL = {
    "c3d": ARCHITECTURES["c3d"].scaled(1 / 16),
    "symmetric": replace(ARCHITECTURES["c3d"].scaled(1 / 16), pool5="symmetric"),
    "depth-1": ARCHITECTURES["depth-1"].scaled(1 / 16),
    "increasing": ARCHITECTURES["increasing"].scaled(1 / 16),
    "32 frames": replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(32, 64, 96)),
    "24 frames": replace(ARCHITECTURES["depth-3"].scaled(1 / 16), clip=(24, 50, 70)),
    "wide enough to be filtered": replace(
        ARCHITECTURES["c3d"].scaled(1 / 4), clip=(16, 48, 48), hidden=(64, 32)
    ),
}
ALL_LAYERS = ("conv5b", "pool5", "fc6", "fc7", "fc8", "prob")


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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_wide_network_on_a_cpu_takes_bytes_mean_and_colour_as_any_other(precision: Precision) -> None:
    arch = replace(ARCHITECTURES["c3d"].scaled(1 / 2), hidden=(32, 32), n_classes=5)
    state = {k: v.detach() for k, v in C3D(arch, ("fc6",)).state_dict().items()}
    checkpoint = SimpleNamespace(
        architecture=arch,
        state=state,
        mean=np.full((3, 16, 112, 112), 100, np.float32),
        preprocessing=SimpleNamespace(colour="rgb", crop=(112, 112), std=(2.0, 4.0, 8.0)),
    )
    net = Network(checkpoint, ("fc6",), device=CPU, precision=precision, batch_size=2)  # type: ignore[arg-type]
    clips = np.random.default_rng(1).integers(0, 256, (1, 16, 112, 112, 3), dtype=np.uint8)
    model = C3D(arch, ("fc6",)).eval()
    model.load_state_dict(state)
    bgr = (clips.astype(np.float32) - 100) / np.array([2, 4, 8], np.float32)
    with torch.inference_mode():
        x = torch.from_numpy(bgr[..., ::-1].copy()).permute(0, 4, 1, 2, 3)
        expected = model(x, ("fc6",))["fc6"].numpy()
    assert isinstance(net._model, CpuC3D)
    assert relative(net(clips)["fc6"], expected) < (1e-5 if precision == "fp32" else 1.5e-2)
    if precision == "bf16":  # what overflows is done again by the plain network
        with torch.inference_mode():
            cast("Any", net._model._linear["fc6"]._bias).fill_(float("inf"))
        assert relative(net(clips)["fc6"], expected) < 1e-5
        assert net.n_overflowed == 1


def test_only_the_clip_that_overflows_is_done_again(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = network(checkpoint, 4, "bf16")
    untouched = half(clips[:4])["fc6"]
    run = Network._run

    def overflow(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = run(self, model, x)
        if next(model.parameters()).dtype == torch.bfloat16:
            found["fc6"][2, 7] = float("inf")
        return found

    monkeypatch.setattr(Network, "_run", overflow)
    got = half(clips[:4])["fc6"]
    assert half.n_overflowed == 1
    np.testing.assert_array_equal(got[[0, 1, 3]], untouched[[0, 1, 3]])
    monkeypatch.undo()
    assert relative(got[2], network(checkpoint, 4)(clips[:4])["fc6"][2]) < 1e-5


def test_several_devices_are_of_one_kind_and_each_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [d.type for d in choose_devices("cpu,cpu")] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_devices("all") == tuple(torch.device("cuda", i) for i in range(3))
    assert choose_devices("cuda:2,cuda:0") == (torch.device("cuda", 2), torch.device("cuda", 0))
    for names, why in (("cuda,cuda:0", "twice"), ("cpu,cuda:1", "one kind"), ("cuda:0,cuda:3", "only 3")):
        with pytest.raises(DeviceError, match=why):
            choose_devices(names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="no CUDA device"):
        choose_devices("all")


# What bears on GPUs, as far as a machine without one can tell


def test_a_batch_that_did_not_fit_is_let_go_of_before_the_next_is_tried(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 4)
    whole, back_off = Network._run, Network._back_off
    held: list[weakref.ref[torch.Tensor]] = []
    gone = []

    def small_memory(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > 2:
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return whole(self, model, x)

    def watched(self: Network) -> None:
        gone.append(held[-1]() is None)
        back_off(self)

    monkeypatch.setattr(Network, "_run", small_memory)
    monkeypatch.setattr(Network, "_back_off", watched)
    net(clips[:4])
    assert gone == [True]
    assert net.batch_size == 2


def test_the_first_batch_is_held_against_fp32_up_to_its_last_clip(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 6, "bf16")
    net._unchecked = True
    net(clips)
    assert not net._unchecked
    whole = Network._run

    def broken_at_the_end(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = whole(self, model, x)
        if len(x) > 4:  # fp32 comes in batches of 4
            found["fc7"][5] *= 1.1
        return found

    monkeypatch.setattr(Network, "_run", broken_at_the_end)
    net._unchecked = True
    with pytest.raises(DeviceError, match="bf16 is off by"):
        net(clips)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has other names")
def test_fp32_is_what_was_asked_for_and_a_programs_own_choice_comes_back() -> None:
    conv, matmul = cast("Any", torch.backends.cudnn).conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    try:
        for own in ("tf32", "ieee"):
            conv.fp32_precision = matmul.fp32_precision = own
            for asked in ("tf32", "ieee"):
                with fp32_products(tf32=asked == "tf32"):
                    assert (conv.fp32_precision, matmul.fp32_precision) == (asked, asked)
                    assert not matmul.allow_fp16_reduced_precision_reduction
                assert (conv.fp32_precision, matmul.fp32_precision) == (own, own)
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
    with fp32_products(tf32=False):
        pass
    assert torch.get_float32_matmul_precision() == "highest"  # raises where old and new names were mixed
    assert matmul.allow_fp16_reduced_precision_reduction


def test_what_torch_says_of_a_gpu_becomes_one_line_and_a_mistake_of_ours_does_not() -> None:
    said = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"
    with pytest.raises(DeviceError, match=r"^cuda:1: CUDA error: no kernel.*; see c3d-tools doctor$"):  # noqa: SIM117
        with in_one_line(torch.device("cuda", 1)):
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="no kernel"), in_one_line(CPU):
        raise RuntimeError(said)


def test_a_gpu_without_units_for_bf16_is_asked_for_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7 + device.index, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"model {device.index}")
    monkeypatch.setattr(torch.version, "hip", None)
    old, new = torch.device("cuda", 0), torch.device("cuda", 1)
    asked: tuple[Precision, ...] = ("bf16", "tf32")
    for precision in asked:
        with pytest.raises(DeviceError, match=r"not in cuda:0 model 0.*use fp16"):
            choose_precision(precision, old)
        assert choose_precision(precision, new) == precision
    assert choose_precision("auto", old) == "fp16"


def test_a_metal_device_that_cannot_pool_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def no_pool(*_: object) -> None:
        raise NotImplementedError("The operator 'aten::max_pool3d_with_indices' is not implemented for MPS")

    monkeypatch.setattr("c3d_extract.inference.max_pool", no_pool)
    assert choose_device("auto") == CPU
    with pytest.raises(DeviceError, match="no Metal device that this torch can use"):
        choose_device("mps")


def test_gpus_of_several_models_are_recorded_and_warned_of(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["A100", "A100", "T4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    alike, unlike = Extractor(checkpoint, device="cuda:0,cuda:1"), Extractor(checkpoint, device="all")
    assert alike.warnings == []
    assert "cuda:0 A100, cuda:1 A100, cuda:2 T4 round differently" in unlike.warnings[0]
    assert unlike.identity().versions["device"] == "cuda:0 A100, cuda:1 A100, cuda:2 T4"
