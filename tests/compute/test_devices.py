"""A name means a device that is there and a precision that it has; what torch says of it becomes one line."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from c3d_extract.compute.devices import (
    choose_device,
    choose_devices,
    choose_precision,
    common_precision,
    fp32_products,
    in_one_line,
)
from c3d_extract.errors import DeviceError

if TYPE_CHECKING:
    from c3d_extract.settings import Precision


CPU = torch.device("cpu")


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


@pytest.mark.parametrize(
    "said",
    [
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "Input type (torch.cuda.HalfTensor) and weight type (torch.cuda.FloatTensor) should be the same",
        "mat1 and mat2 shapes cannot be multiplied (64x100352 and 8192x4096)",
        "Could not run 'aten::foo' with arguments from the 'CUDA' backend.",
        "element 0 of tensors does not require grad",
    ],
)
def test_a_mistake_of_ours_on_a_gpu_keeps_its_traceback(said: str) -> None:
    with pytest.raises(RuntimeError, match=r"^.*$") as caught, in_one_line(torch.device("cuda", 0)):
        raise RuntimeError(said)
    assert not isinstance(caught.value, DeviceError)


def _accelerator_error(said: str) -> RuntimeError:
    return getattr(torch, "AcceleratorError", RuntimeError)(said)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), "smaller --batch-size"),
        (_accelerator_error("CUDA error: unspecified launch failure"), "c3d-tools doctor"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "c3d-tools doctor"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), "c3d-tools doctor"),
        (RuntimeError("No CUDA GPUs are available"), "c3d-tools doctor"),
        (RuntimeError("Found no NVIDIA driver on your system."), "c3d-tools doctor"),
        (torch.cuda.DeferredCudaCallError("CUDA call failed lazily"), "c3d-tools doctor"),
        (RuntimeError("HIP error: invalid device function"), "c3d-tools doctor"),
        (NotImplementedError("'aten::x' is not currently implemented for the MPS device"), "doctor"),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), "--precision fp32"),
    ],
)
def test_errors_of_a_device_say_what_to_do(error: Exception, hint: str) -> None:
    with pytest.raises(DeviceError, match=f"^cuda:0: .*; .*{hint}"), in_one_line(torch.device("cuda", 0)):
        raise error


def test_threads_that_want_other_flags_wait_for_each_other() -> None:
    has_conv = hasattr(torch.backends.cudnn, "conv")
    owner, name = (
        (torch.backends.cudnn.conv, "fp32_precision") if has_conv else (torch.backends.cudnn, "allow_tf32")  # type: ignore[attr-defined]
    )
    before = getattr(owner, name)
    is_in, may_leave, seen = threading.Event(), threading.Event(), []

    def with_tf32() -> None:
        with fp32_products(tf32=True):
            is_in.set()
            may_leave.wait(5)
            seen.append(getattr(owner, name))

    def without() -> None:
        is_in.wait(5)
        with fp32_products(tf32=False):
            may_leave.set()
            seen.append(getattr(owner, name))

    threads = [threading.Thread(target=target) for target in (with_tf32, without)]
    for thread in threads:
        thread.start()
    assert is_in.wait(5)
    threads[1].join(0.2)
    assert threads[1].is_alive()  # it waits for the flags
    may_leave.set()
    for thread in threads:
        thread.join(5)
    assert seen == (["tf32", "ieee"] if has_conv else [True, False])
    assert getattr(owner, name) == before


@pytest.mark.parametrize(
    ("capability", "precision"),
    [((6, 0), "fp32"), ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((9, 0), "fp16")],
)
def test_auto_is_fp16_only_on_gpus_that_are_fast_at_it(
    capability: tuple[int, int], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_precision("auto", torch.device("cuda", 0)) == precision


def test_gpus_of_which_one_is_slow_at_fp16_run_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6 + device.index, 1))
    monkeypatch.setattr(torch.version, "hip", None)
    devices = [torch.device("cuda", i) for i in range(2)]
    assert common_precision("auto", devices) == "fp32"
    assert common_precision("auto", devices[1:]) == "fp16"
    assert common_precision("fp16", devices) == "fp16"


def test_a_gpu_that_does_not_answer_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lost)
    with pytest.raises(DeviceError, match="cuda:1: CUDA error: uncorrectable"):
        choose_precision("auto", torch.device("cuda", 1))


def test_cuda_is_one_gpu_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)  # as a program chose for this thread
    assert choose_device("cuda") == torch.device("cuda", 2)


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

    monkeypatch.setattr("c3d_extract.compute.devices.max_pool", no_pool)
    assert choose_device("auto") == CPU
    with pytest.raises(DeviceError, match="no Metal device that this torch can use"):
        choose_device("mps")
