"""Devices: selection by name, properties, and translation of torch's device errors."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from c3d_extract.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "choose_device",
    "choose_devices",
    "device_errors",
    "device_name",
    "is_device_error",
    "is_out_of_memory",
    "memory_format",
    "usable_cores",
]


_ACCELERATOR_ERRORS: tuple[type[BaseException], ...] = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # torch 2.8 and newer
    torch.cuda.DeferredCudaCallError,  # raised when CUDA is initialised
)
# cuDNN, cuBLAS, Metal and torch before 2.8 raise plain RuntimeErrors. A tensor on the wrong device, of the
# wrong shape or type is a bug of this package: torch's messages for that match none of these.
_DEVICE_ERROR = re.compile(
    r"(CUDA|HIP) (error|driver|unknown error|out of memory|ran out of memory)|cudaGetDeviceCount"
    r"|CUDNN_STATUS_|cuDNN (error|version)|CUBLAS_STATUS_|HIPBLAS_STATUS_|(?i:miopen)"
    r"|NVIDIA driver|No (CUDA|HIP) GPUs|re-initialize CUDA"
    r"|MPS backend|the MPS device|on MPS|Invalid buffer size"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|DEVICE_ALLOCATION_FAILED")
_NO_ENGINE = re.compile(r"unable to find an engine|valid cuDNN algorithm", re.IGNORECASE)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """Return the available device for ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.

    Raises
    ------
    DeviceError
        If it is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _numbered(torch.device("cuda"))
        return torch.device("mps" if _has_metal() else "cpu")
    known = "known: auto, cpu, cuda, cuda:N, mps"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown; {known}", subject=f"--device {name}") from error
    if device.type not in {"cpu", "cuda", "mps"}:
        raise DeviceError(f"not supported; {known}", subject=f"--device {name}")
    _check_available(device, subject=f"--device {name}")
    return _numbered(device)


def _check_available(device: torch.device, subject: str) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device is usable here", subject=subject, hint="see c3d-tools doctor")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise DeviceError(f"only {n} CUDA devices here, cuda:0 to cuda:{n - 1}", subject=subject)
    if device.type == "mps" and not _has_metal():
        raise DeviceError("no Metal device that this torch can use", subject=subject)


def _numbered(device: torch.device) -> torch.device:
    """Return ``cuda`` with its index: the current device can differ between threads."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)


def choose_devices(names: str) -> tuple[torch.device, ...]:
    """Return the devices, all of one type, for ``all`` (every CUDA device) or comma-separated names.

    Raises
    ------
    DeviceError
        If one is not available, types are mixed, or a GPU is named twice.
    """
    if names == "all":
        if not torch.cuda.is_available():
            raise DeviceError(
                "no CUDA device is usable here", subject="--device all", hint="see c3d-tools doctor"
            )
        names = ",".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    devices = tuple(choose_device(name.strip()) for name in names.split(","))
    if len({device.type for device in devices}) > 1:
        raise DeviceError("a run takes devices of one kind", subject=f"--device {names}")
    if devices[0].type != "cpu" and len(set(devices)) < len(devices):
        raise DeviceError("names a device twice", subject=f"--device {names}")
    return devices


def _has_metal() -> bool:
    # Older releases of torch cannot pool in 3-D on Metal (pytorch#158723).
    if not torch.backends.mps.is_available():
        return False
    try:
        F.max_pool3d(torch.zeros(1, 1, 2, 2, 2, device="mps"), 2, ceil_mode=True)
    except RuntimeError:  # or a subclass of it, by which torch says that Metal lacks the operator
        return False
    return True


def device_name(device: torch.device) -> str:
    """Return a device's name, with a GPU's model: ``cuda:0 NVIDIA H100 PCIe``, ``cpu``."""
    with device_errors(device):
        return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory format in which convolutions are fastest and correct on a device.

    Metal's convolutions were wrong for formats other than contiguous (pytorch#192212, #141471).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last_3d


@contextlib.contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Convert torch's errors about a GPU (memory, driver, unsupported model) into DeviceError.

    Any other error is a bug of this package and is not converted; nor are errors on a CPU.
    """
    try:
        yield
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        if device.type == "cpu" or not is_device_error(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceError(reason, subject=device, hint=_hint(error)) from error


def is_device_error(error: BaseException) -> bool:
    """Return whether an error is caused by the device, its driver or its libraries."""
    if isinstance(error, _ACCELERATOR_ERRORS):
        return True
    text = str(error)
    return any(pattern.search(text) for pattern in (_DEVICE_ERROR, _OUT_OF_MEMORY, _NO_ENGINE))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device was out of memory, by the message of torch, cuDNN, cuBLAS or Metal.

    "Unable to find an engine" does not count: its usual causes are a precision that the GPU lacks, or a
    GPU that torch does not support.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _hint(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "free the device's memory, or use a smaller --batch-size"
    if _NO_ENGINE.search(str(error)):
        return "use --precision fp32, or a smaller --batch-size if memory is short; see c3d-tools doctor"
    return "see c3d-tools doctor"
