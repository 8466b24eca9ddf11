"""A clip's features do not depend on its neighbours, on the batch size, or on who flips the colours."""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from checkpoint_writers import random_state
from oracle import relative
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from c3d_extract import FeatureFile
from c3d_extract.compute.batch_size import rounding_factors
from c3d_extract.compute.clip_frames import ClipCrops, FramePlan, pieces_of
from c3d_extract.compute.cuda import Transfers, page_locked
from c3d_extract.compute.network import Network
from c3d_extract.compute.reference import Fp32Reference
from c3d_extract.errors import DeviceError
from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture
from c3d_extract.models.c3d_cpu import CpuC3D
from c3d_extract.pipeline import Extractor
from c3d_extract.preprocess.clips import FrameBlock, Piece
from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights import Checkpoint, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.preprocess.crops import FrameCrops


LAYERS = ("fc6", "fc7")
CPU = torch.device("cpu")
GPU_OF_80_GB = SimpleNamespace(total_memory=80 << 30)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow C3D for clips of 32 x 32, with a mean of three numbers."""
    architecture = replace(ARCHITECTURES["c3d"].scaled(1 / 16), clip=(16, 32, 32))
    state = {name: torch.from_numpy(a) for name, a in random_state(architecture.state_shapes()).items()}
    preprocessing = Preprocessing(resize=(36, 44), crop=(32, 32))
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(path, state, architecture, preprocessing, np.array([90.0, 98, 102]), name="small")
    return path


@pytest.fixture(scope="module")
def checkpoint(small_weights: Path) -> Checkpoint:
    return load_checkpoint(small_weights, layers=LAYERS)


@pytest.fixture(scope="module")
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 32, 32, 3), dtype=np.uint8)


def network(checkpoint: Checkpoint, batch_size: int, precision: str = "fp32") -> Network:
    return Network(checkpoint, LAYERS, device=CPU, precision=precision, batch_size=batch_size)  # type: ignore[arg-type]


@pytest.fixture
def plain_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU run the network as a GPU does: a whole batch by one call of torch's module."""
    monkeypatch.setattr(Architecture, "cpu_network", lambda *_, **__: None)


@pytest.mark.usefixtures("two_threads")
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


def test_the_faster_network_for_a_cpu_takes_a_mean_of_three_numbers(
    checkpoint: Checkpoint, clips: NDArray[np.uint8]
) -> None:
    wide = replace(ARCHITECTURES["c3d"].scaled(1 / 2), clip=(16, 32, 32))
    state = {name: torch.from_numpy(a) for name, a in random_state(wide.state_shapes(LAYERS)).items()}
    net = network(replace(checkpoint, backbone=wide, state=state), 2)
    assert isinstance(net._model, CpuC3D)
    cube = np.broadcast_to(checkpoint.mean, (3, 16, 32, 32)).copy()
    with_cube = network(replace(checkpoint, backbone=wide, state=state, mean=cube), 2)
    np.testing.assert_array_equal(net(clips[:2])["fc6"], with_cube(clips[:2])["fc6"])


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


@pytest.mark.usefixtures("plain_module")
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


@pytest.mark.usefixtures("plain_module")
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


@pytest.mark.usefixtures("plain_module")
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


# GPU behaviour that can be tested without a GPU


@pytest.mark.usefixtures("plain_module")
def test_a_batch_that_did_not_fit_is_released_before_the_next_is_tried(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 4)
    whole, halve = Network._run, Network._halve_batch_size
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
        halve(self)

    monkeypatch.setattr(Network, "_run", small_memory)
    monkeypatch.setattr(Network, "_halve_batch_size", watched)
    net(clips[:4])
    assert gone == [True]
    assert net.batch_size == 2


@pytest.mark.usefixtures("plain_module")
def test_the_first_batch_is_compared_with_fp32_up_to_its_last_clip(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 6, "bf16")
    net._is_checked = True
    net(clips)
    assert net._checked_sizes == {net.batch_size}
    whole = Network._run

    def broken_at_the_end(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found = whole(self, model, x)
        if len(x) > 4:  # fp32 comes in batches of 4
            found["fc7"][5] *= 1.1
        return found

    monkeypatch.setattr(Network, "_run", broken_at_the_end)
    net._checked_sizes.clear()
    with pytest.raises(DeviceError, match="bf16 is off by"):
        net(clips)


def test_gpus_of_several_models_are_recorded_and_warned_of(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["A100", "A100", "T4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: GPU_OF_80_GB)
    alike, unlike = Extractor(checkpoint, device="cuda:0,cuda:1"), Extractor(checkpoint, device="all")
    assert alike.warnings == []
    assert "cuda:0 A100, cuda:1 A100, cuda:2 T4 round differently" in unlike.warnings[0]
    assert unlike.identity().versions["device"] == "cuda:0 A100, cuda:1 A100, cuda:2 T4"
    assert unlike.identity().versions["batch_size"] == "64, 64, 64"


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Give out ordinary memory where page-locked memory is asked for, and list it."""
    given: list[torch.Tensor] = []
    empty = torch.empty

    def ordinary(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = empty(*args, **kwargs)
        given.extend([made] if pin_memory else [])
        return made

    monkeypatch.setattr(torch, "empty", ordinary)
    return given


def on_fake_gpu(net: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Make ``net`` believe that it is on a GPU, while the processor computes."""

    class Event:
        def __init__(self, **_: object) -> None: ...
        def record(self, _stream: object) -> None: ...
        def synchronize(self) -> None: ...

        def query(self) -> bool:
            return True

    stream = SimpleNamespace(wait_stream=lambda _other: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _self, _stream: None)
    net.device = torch.device("cuda", 0)
    net._transfers = Transfers(net.device)
    net._transfers._device = CPU  # where the tensors really are
    return net


@pytest.mark.usefixtures("pinned", "plain_module")
def test_on_a_gpu_each_frame_is_sent_once_and_clips_are_cut_there(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = clips[:3].reshape(-1, *clips.shape[2:])
    blocks = [FrameBlock(frames[:16]), FrameBlock(frames[16:40]), FrameBlock(frames[40:48])]
    overlapping = [
        (Piece(blocks[0], 0, 16),),
        (Piece(blocks[0], 8, 16), Piece(blocks[1], 0, 8)),
        (Piece(blocks[1], 20, 24), Piece(blocks[2], 0, 8), *[Piece(blocks[2], 7, 8)] * 4),
    ]
    expected = np.stack([np.concatenate([piece.frames for piece in clip]) for clip in overlapping])
    net = on_fake_gpu(network(checkpoint, 4), monkeypatch)
    sent = net._transfers.clips_to_device(overlapping, (4, *net.clip_shape))
    np.testing.assert_array_equal(sent.clips[:3].numpy(), expected)
    assert not sent.clips[3].any()
    assert FramePlan.of(overlapping).n_frames == 16 + 24 + 8
    assert not FramePlan.of(overlapping).is_in_order
    following = pieces_of(clips[:3])
    assert FramePlan.of(following).is_in_order
    sent = net._transfers.clips_to_device(following, (4, *net.clip_shape))
    np.testing.assert_array_equal(sent.clips[:3].numpy(), clips[:3])
    assert not sent.clips[3].any()
    features = net.submit(overlapping).result()
    alone = network(checkpoint, 4)(expected)
    for layer in LAYERS:
        np.testing.assert_array_equal(features[layer], alone[layer])


@pytest.fixture(scope="module")
def several_crops(checkpoint: Checkpoint) -> tuple[FrameCrops, Checkpoint]:
    """Ten crops of frames of 36 x 44, and a checkpoint with a mean that differs between their places."""
    crops = checkpoint.preprocessing.several_crops("ten")
    assert crops is not None
    cube = np.random.default_rng(1).uniform(60, 140, (3, 16, 36, 44))
    mean = fit_mean(cube, checkpoint.preprocessing, 16)
    return crops, replace(checkpoint, mean=mean, resized_mean=cube.astype(np.float32))


@pytest.mark.usefixtures("pinned", "plain_module")
def test_on_a_gpu_crops_are_cut_out_of_frames_that_are_sent_once(
    several_crops: tuple[FrameCrops, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, checkpoint = several_crops
    frames = np.random.default_rng(2).integers(0, 256, (24, 36, 44, 3), dtype=np.uint8)
    block = FrameBlock(frames)
    clips = [(Piece(block, 0, 16),)] * 3 + [(Piece(block, 8, 24),)] * 4
    numbers = [7, 8, 9, 0, 1, 4, 9]  # a batch that begins within a clip
    expected = np.stack([crops.cut(pieces[0].frames, n) for pieces, n in zip(clips, numbers, strict=True)])
    how: dict[str, Any] = {"device": CPU, "precision": "fp32", "batch_size": 8, "crops": crops}
    on_cpu = Network(checkpoint, LAYERS, **how).submit(clips, numbers).result()
    net = on_fake_gpu(Network(checkpoint, LAYERS, **how), monkeypatch)
    sent = net._transfers.clips_to_device(clips, (8, *net.clip_shape), ClipCrops(crops, numbers))
    np.testing.assert_array_equal(sent.clips[:7].numpy(), expected)
    assert not sent.clips[7].any()
    assert FramePlan.of(clips).n_frames == 24
    found = net.submit(clips, numbers).result()
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer], on_cpu[layer])


@pytest.mark.usefixtures("plain_module")
def test_crops_that_overflow_in_half_precision_are_done_again_with_their_own_mean(
    several_crops: tuple[FrameCrops, Checkpoint],
) -> None:
    crops, checkpoint = several_crops
    frames = np.random.default_rng(2).integers(0, 256, (1, 16, 36, 44, 3), dtype=np.uint8).repeat(10, axis=0)
    how: dict[str, Any] = {"device": CPU, "batch_size": 4, "crops": crops}
    expected = Network(checkpoint, LAYERS, precision="fp32", **how)(frames, range(10))
    half = Network(checkpoint, LAYERS, precision="bf16", **how)
    assert isinstance(half._model, C3D)
    half._model.get_parameter("fc6.bias")[:] = float("inf")
    found = half(frames, range(10))
    assert half.n_overflowed == 10
    assert relative(expected["fc6"][0], expected["fc6"][5]) > 1e-3, "crops differ"
    for layer in LAYERS:
        assert relative(found[layer], expected[layer]) < 1e-5


def test_the_faster_network_for_a_cpu_cuts_crops_as_torchs_modules_do(
    several_crops: tuple[FrameCrops, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, checkpoint = several_crops
    wide = replace(ARCHITECTURES["c3d"].scaled(1 / 2), clip=(16, 32, 32))
    state = {name: torch.from_numpy(a) for name, a in random_state(wide.state_shapes(LAYERS)).items()}
    checkpoint = replace(checkpoint, backbone=wide, state=state)
    frames = np.random.default_rng(2).integers(0, 256, (1, 16, 36, 44, 3), dtype=np.uint8).repeat(4, axis=0)
    how: dict[str, Any] = {"device": CPU, "precision": "fp32", "batch_size": 4, "crops": crops}
    fast = Network(checkpoint, LAYERS, **how)
    assert isinstance(fast._model, CpuC3D)
    found = fast(frames, [0, 4, 8, 9])
    monkeypatch.setattr(type(wide), "cpu_network", lambda *_, **__: None)
    plain = Network(checkpoint, LAYERS, **how)(frames, [0, 4, 8, 9])
    assert relative(found["fc6"], plain["fc6"]) < 1e-4


@pytest.mark.usefixtures("plain_module")
def test_features_from_a_gpu_hold_no_page_locked_memory(
    checkpoint: Checkpoint,
    clips: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    pinned: list[torch.Tensor],
) -> None:
    expected = network(checkpoint, 4)(clips[:3])
    net = on_fake_gpu(network(checkpoint, 4), monkeypatch)
    net(clips[:1])
    pinned.clear()
    found = net(clips[:3])
    assert len(pinned) == len(LAYERS)  # each layer's features
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer], expected[layer])
        assert not any(np.shares_memory(found[layer], memory.numpy()) for memory in pinned)


@pytest.mark.usefixtures("pinned", "plain_module")
def test_on_a_gpu_whose_last_rows_round_otherwise_batches_are_padded_until_no_clip_is_there(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = network(checkpoint, 4)(clips[:4])
    net = on_fake_gpu(network(checkpoint, 4), monkeypatch)
    whole, n_rows = Network._run, []

    def last_rows_differ(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        n_rows.append(len(x))
        x = x.clone()
        x[{4: 2, 5: 4, 6: 3}.get(len(x), 0) :] *= 1 + 1e-6
        return whole(self, model, x)

    monkeypatch.setattr(Network, "_run", last_rows_differ)
    found = net(clips[:4])
    assert set(n_rows) == {4, 5}
    assert net.warnings == []
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer], expected[layer])
    n_rows.clear()
    net(clips[:2])
    assert n_rows == [5]  # it is tried once


@pytest.mark.usefixtures("pinned", "plain_module")
def test_where_no_padding_makes_rows_agree_the_run_goes_on_and_says_so(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = on_fake_gpu(network(checkpoint, 4), monkeypatch)
    whole = Network._run

    def second_row_differs(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = x.clone()
        x[1] *= 1 + 1e-6
        return whole(self, model, x)

    monkeypatch.setattr(Network, "_run", second_row_differs)
    assert len(net(clips[:4])["fc6"]) == 4
    (warning,) = net.warnings
    assert "in batches of 4, last digits depend on a clip's place" in warning


@pytest.mark.parametrize("status", [0, 2])
def test_decoders_memory_is_locked_while_it_is_used(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    calls: list[tuple[Any, ...]] = []

    def register(*given: int) -> int:
        calls.append(("lock", *given))
        return status

    cudart = SimpleNamespace(
        cudaHostRegister=register,
        cudaHostUnregister=lambda *given: calls.append(("unlock", *given)),
        cudaGetErrorString=lambda _: "out of memory",
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append(("wait",)))
    memory = np.zeros((2, 3), np.uint8)
    with page_locked(memory) as why_not:
        assert why_not == (None if status == 0 else "cudaHostRegister: out of memory")
        assert calls == [("lock", memory.ctypes.data, 6, 1)]
    assert calls[1:] == ([("wait",), ("unlock", memory.ctypes.data)] if status == 0 else [])


@pytest.mark.usefixtures("plain_module")
def test_without_page_locked_memory_the_run_goes_on_and_says_so(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = network(checkpoint, 4)(clips)
    net = on_fake_gpu(network(checkpoint, 4), monkeypatch)
    empty = torch.empty

    def none_left(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", none_left)
    assert net.new_batch().shape == (4, *net.clip_shape)  # as the feeder's thread asks for it
    np.testing.assert_array_equal(net(clips)["fc6"], expected["fc6"])
    assert net.batch_size == 4  # it was not the GPU's memory
    (warning,) = net.warnings
    assert warning.endswith(": no page-locked memory (CUDA error: out of memory); copies are slower")


@pytest.mark.usefixtures("plain_module")
def test_each_size_of_batch_is_held_against_fp32(
    checkpoint: Checkpoint, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(checkpoint, 4)  # half precision takes a processor long, and what is checked is the same
    net._is_checked = True
    net._reference = Fp32Reference(checkpoint.backbone, LAYERS, checkpoint.state, net._to_input, CPU)
    whole, memory = Network._run, 4

    def small_batches_are_wrong(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = whole(self, model, x)
        return found if len(x) > 2 else {layer: value * 1.1 for layer, value in found.items()}

    monkeypatch.setattr(Network, "_run", small_batches_are_wrong)
    net(clips[:4])
    before = net.submit(pieces_of(clips[:4]))
    memory = 2
    after = net.submit(pieces_of(clips[:4]))
    before.result()  # of the larger size still, which was checked
    memory = 4
    with pytest.raises(DeviceError, match="fp32 is off by 10"):
        after.result()


@pytest.mark.parametrize(
    ("said", "halves"),
    [
        ("CUDA out of memory. Tried to allocate 3.06 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("CUDA ran out of memory outside PyTorch's allocator.", True),
        ("MPS backend out of memory (MPS allocated: 17.9 GB)", True),
        ("GET was unable to find an engine to execute this computation", False),
        ("Unable to find a valid cuDNN algorithm to run convolution", False),
    ],
)
@pytest.mark.usefixtures("plain_module")
def test_only_a_lack_of_memory_halves_the_batch(
    checkpoint: Checkpoint,
    clips: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    halves: bool,
) -> None:
    net = network(checkpoint, 4)
    whole = Network._run

    def refuse(self: Network, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(x) > 2:
            raise RuntimeError(said)
        return whole(self, model, x)

    monkeypatch.setattr(Network, "_run", refuse)
    if halves:
        net(clips[:4])
        assert net.batch_size == 2
        assert "batches of 2, in which features can differ in the last digits" in net.warnings[0]
        return
    on_fake_gpu(net, monkeypatch)
    net._transfers.page_locked = False
    with pytest.raises(DeviceError, match=r"(engine|algorithm).*; use --precision fp32, or a smaller"):
        net(clips[:4])
    assert net.batch_size == 4


def test_what_is_free_of_a_gpus_memory_decides_no_batch(
    checkpoint: Checkpoint, gpu_log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del gpu_log
    sizes = set()
    for free in (1 << 30, 79 << 30):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 80 << 30))
        sizes.add(Network(checkpoint, LAYERS, device=torch.device("cuda", 0), precision="fp32").batch_size)
    assert sizes == {64}


def test_what_the_last_digits_depend_on_is_known_of_a_run() -> None:
    def of(device: str, batch_size: str) -> set[tuple[str, str]]:
        return rounding_factors({"device": device, "batch_size": batch_size})

    assert of("cuda:0 A100", "64") == of("cuda:1 A100, cuda:3 A100", "64, 64")
    assert of("cuda:0 A100", "64") != of("cuda:0 A100", "32")
    assert of("cuda:0 A100", "64") != of("cuda:0 T4", "64")
    assert of("cpu", "8") == of("cpu, cpu", "16, 16")
    assert of("cpu", "8") != of("cpu", "2")


@pytest.mark.parametrize(("first", "then", "alike"), [(2, 1, False), (8, 16, True)])
def test_a_run_that_goes_on_with_other_batches_has_the_same_bits_or_says_so(
    small_weights: Path, videos: Path, tmp_path: Path, first: int, then: int, alike: bool
) -> None:
    def extractor(batch_size: int) -> Extractor:
        return Extractor.from_weights(
            str(small_weights), device="cpu", precision="fp32", batch_size=batch_size
        )

    whole, output = tmp_path / "whole.h5", tmp_path / "feats.h5"
    with extractor(first) as begun, extractor(then) as other:
        list(begun.extract_files([videos / "b"], whole))
        next(iter(begun.extract_files([videos / "b"], output)))
        resumed = other.extract_files([videos / "b"], output)
        list(resumed)
        with FeatureFile(whole) as one, FeatureFile(output) as two:
            assert not alike or np.array_equal(one["fc6"], two["fc6"])
        again = other.extract_files([videos / "b"], whole)  # a finished file knows, too
        list(again)
        fresh = other.extract_files([videos / "b"], output, overwrite=True)
        next(iter(fresh))
    assert fresh.warnings == ()
    if alike:
        assert resumed.warnings == again.warnings == ()
        return
    assert "begun on cpu in batches of 2 and continues on cpu in batches of 1" in resumed.warnings[0]
    assert resumed.warnings[0].endswith("; --batch-size 2 continues as before")
    assert "whole.h5 was begun on cpu in batches of 2" in again.warnings[0]


class _Stream:
    """A fake CUDA stream that logs who waits for whom."""

    current = "compute"

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: _Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def __enter__(self) -> None:
        _Stream.current = self.name

    def __exit__(self, *_: object) -> None:
        _Stream.current = "compute"


@pytest.fixture
def gpu_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fake a GPU of 80 GB: tensors without numbers, and streams and copies that log what they do.

    Operations across devices are refused as on a real one.
    """
    log: list[str] = []
    compute, copies = _Stream("compute", log), _Stream("copies", log)

    class Event:
        def __init__(self, *, blocking: bool = False) -> None:
            self.blocking = blocking

        def record(self, stream: _Stream) -> None:
            # Else waiting for it takes a core from the decoders; nobody waits for copies.
            assert self.blocking == (stream is compute)
            log.append(f"event on {stream.name}")

        def query(self) -> bool:
            return True

    class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            tensors = [x for x in (*args, made) if isinstance(x, torch.Tensor)]
            if len({x.device for x in tensors}) == 2:
                log.append(f"{made.dtype} to {made.device.type} on {_Stream.current}".removeprefix("torch."))
            return made

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: copies)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: GPU_OF_80_GB)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, by: log.append(f"kept for {by.name}"))

    def build(
        backbone: Backbone, layers: Any, weights: Any, *, dtype: torch.dtype, device: torch.device
    ) -> torch.nn.Module:
        with torch.device("meta"):
            model = backbone.build(layers)
        state = {
            name: torch.empty(value.shape, dtype=dtype, device=device) for name, value in weights.items()
        }
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)

    monkeypatch.setattr("c3d_extract.compute.network.build_model", build)
    # Fake convolutions of torch 2.6 ask a real driver which backend they would have.
    monkeypatch.setattr(torch._C, "_select_conv_backend", lambda *_, **__: torch._C._ConvBackend.Cudnn)  # type: ignore[attr-defined]
    with FakeTensorMode(allow_non_fake_inputs=True), Copies():  # type: ignore[no-untyped-call]
        yield log


@pytest.mark.skipif(torch.__version__ < "2.7", reason="fake copies to a GPU ask torch 2.6 for a real driver")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "fp32"])
def test_a_gpu_gets_bytes_and_gives_fp32_and_nobody_waits_but_streams(
    checkpoint: Checkpoint, gpu_log: list[str], precision: str
) -> None:
    net = Network(checkpoint, LAYERS, device=torch.device("cuda", 0), precision=precision)  # type: ignore[arg-type]
    assert net.batch_size == 64
    net._padded[64] = 64  # fake tensors have no numbers to compare
    gpu_log.clear()
    net.submit(pieces_of(np.zeros((64, *net.clip_shape), np.uint8)))
    assert gpu_log == [
        "uint8 to cuda on copies",
        "event on copies",
        "compute waits for copies",
        "kept for compute",
        *["float32 to cpu on compute"] * len(LAYERS),
        "event on compute",
    ]
