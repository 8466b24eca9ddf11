"""A name means a device that is there; what torch says of it becomes one line."""

from __future__ import annotations

import pytest
import torch

from c3d_extract.compute.devices import choose_device, choose_devices, device_errors
from c3d_extract.errors import DeviceError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "what"), [("gpu", "unknown"), ("cuda:99", "CUDA"), ("meta", "not supported"), ("mps", "Metal")]
)
def test_a_device_that_is_not_there_is_named(device: str, what: str) -> None:
    with pytest.raises(DeviceError, match=what):
        choose_device(device)


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


def test_what_torch_says_of_a_gpu_becomes_one_line_and_a_mistake_of_ours_does_not() -> None:
    said = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"
    with pytest.raises(DeviceError, match=r"^cuda:1: CUDA error: no kernel.*; see c3d-tools doctor$"):  # noqa: SIM117
        with device_errors(torch.device("cuda", 1)):
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="no kernel"), device_errors(CPU):
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
    with pytest.raises(RuntimeError, match=r"^.*$") as caught, device_errors(torch.device("cuda", 0)):
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
    with pytest.raises(DeviceError, match=f"^cuda:0: .*; .*{hint}"), device_errors(torch.device("cuda", 0)):
        raise error


def test_cuda_is_one_gpu_in_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)  # as a program chose for this thread
    assert choose_device("cuda") == torch.device("cuda", 2)


def test_a_metal_device_that_cannot_pool_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def no_pool(*_: object) -> None:
        raise NotImplementedError("The operator 'aten::max_pool3d_with_indices' is not implemented for MPS")

    monkeypatch.setattr("torch.nn.functional.max_pool3d", no_pool)
    assert choose_device("auto") == CPU
    with pytest.raises(DeviceError, match="no Metal device that this torch can use"):
        choose_device("mps")
