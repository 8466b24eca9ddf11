"""Devices and precisions: which are there, which a name means, and how torch is told to keep to them."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Literal

import torch

from c3d_extract.errors import DeviceError
from c3d_extract.models.c3d import max_pool
from c3d_extract.settings import PRECISIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "choose_device",
    "choose_devices",
    "choose_precision",
    "common_precision",
    "device_name",
    "fp32_products",
    "has_bf16",
    "has_fast_fp16",
    "in_one_line",
    "is_device_error",
    "is_out_of_memory",
    "layout",
    "on_gpu",
    "usable_cores",
]


_ACCELERATOR_ERRORS: tuple[type[BaseException], ...] = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),  # torch 2.8 and newer
    torch.cuda.DeferredCudaCallError,  # raised when CUDA starts
)
# cuDNN, cuBLAS, Metal and torch before 2.8 raise plain RuntimeErrors. A tensor on the wrong device, of the
# wrong shape or type is a mistake of ours: torch's words for it hold none of these.
_DEVICE_ERROR = re.compile(
    r"(CUDA|HIP) (error|driver|unknown error|out of memory|ran out of memory)|cudaGetDeviceCount"
    r"|CUDNN_STATUS_|cuDNN (error|version)|CUBLAS_STATUS_|HIPBLAS_STATUS_|(?i:miopen)"
    r"|NVIDIA driver|No (CUDA|HIP) GPUs|re-initialize CUDA"
    r"|MPS backend|the MPS device|on MPS|Invalid buffer size"
)
_OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|DEVICE_ALLOCATION_FAILED")
_NO_ENGINE = re.compile(r"unable to find an engine|valid cuDNN algorithm", re.IGNORECASE)
_flags_lock = threading.RLock()  # torch has one set of flags for a whole process


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda[:N]`` or ``mps`` into a device that is there.

    Raises
    ------
    DeviceError
        Where it is not.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _numbered(torch.device("cuda"))
        return torch.device("mps" if _has_metal() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            "unknown; known: auto, cpu, cuda, cuda:N, mps", subject=f"--device {name}"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "no CUDA device is usable here", subject=f"--device {name}", hint="see c3d-tools doctor"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise DeviceError(f"only {n} CUDA devices here, cuda:0 to cuda:{n - 1}", subject=f"--device {name}")
    if device.type == "mps" and not _has_metal():
        raise DeviceError("no Metal device that this torch can use", subject=f"--device {name}")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise DeviceError("not supported; known: auto, cpu, cuda, cuda:N, mps", subject=f"--device {name}")
    return _numbered(device)


def _numbered(device: torch.device) -> torch.device:
    """Return ``cuda`` with its number: which one is current differs between the threads of a process."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)


def choose_devices(names: str) -> tuple[torch.device, ...]:
    """Turn ``all`` (every CUDA device) or names with commas between them into devices of one kind.

    Raises
    ------
    DeviceError
        Where one is not there, kinds are mixed, or a GPU is named twice.
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
        max_pool(torch.zeros(1, 1, 2, 2, 2, device="mps"), 2, "ceil")
    except RuntimeError:  # so torch says, in a subclass, that Metal lacks an operator
        return False
    return True


def device_name(device: torch.device) -> str:
    """Return what a device is called, with a GPU's model: ``cuda:0 NVIDIA H100 PCIe``, ``cpu``."""
    with in_one_line(device):
        return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Turn ``auto`` into the fastest precision that keeps the error bound, and check the others.

    CUDA: fp16, whose products are summed in fp32, on a GPU that is fast at it, else fp32; CPU: bf16 where
    the processor multiplies it, else fp32; Metal: fp32.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16" if has_fast_fp16(device) else "fp32"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if name not in PRECISIONS:
        raise DeviceError(f"unknown; known: auto, {', '.join(PRECISIONS)}", subject=f"--precision {name}")
    if name in {"tf32", "fp16"} and device.type == "cpu":
        raise DeviceError("only on a GPU; a CPU takes fp32 or bf16", subject=f"--precision {name}")
    if name == "tf32" and device.type != "cuda":
        raise DeviceError("only on an NVIDIA GPU", subject=f"--precision {name}")
    if name in {"tf32", "bf16"} and device.type == "cuda" and not has_bf16(device):
        raise DeviceError(
            f"not in {device_name(device)}, which is older than compute capability 8.0",
            subject=f"--precision {name}",
            hint="use fp16 or fp32",
        )
    return name


def common_precision(name: Precision | Literal["auto"], devices: Sequence[torch.device]) -> Precision:
    """As `choose_precision`, for several devices: where ``auto`` is not the same for all, fp32."""
    chosen = {choose_precision(name, device) for device in devices}
    return chosen.pop() if len(chosen) == 1 else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Say whether a GPU has units for bf16 and TF32, as NVIDIA's have since Ampere; torch emulates bf16."""
    return _is_at_least(device, (8, 0))


def has_fast_fp16(device: torch.device) -> bool:
    """Say whether a GPU multiplies fp16 faster than fp32, with sums in fp32, as NVIDIA's do since Volta."""
    # NVIDIA's CUDA C++ Programming Guide, table "Throughput of Native Arithmetic Instructions": compute
    # capability 6.1 (GTX 10xx, P40) does fp16 at a 64th of its fp32 rate. 6.0 (P100) doubles it, but only
    # where sums are fp16 too, which torch's convolutions never are. 7.5 without tensor cores (GTX 16xx) has
    # units of its own for fp16.
    return _is_at_least(device, (7, 0))


def _is_at_least(device: torch.device, capability: tuple[int, int]) -> bool:
    if torch.version.hip is not None:  # AMD counts otherwise; all that ROCm supports have both
        return True
    with in_one_line(device):
        return torch.cuda.get_device_capability(device) >= capability


def _cpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32, so only processors with bf16 products count.
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe: Callable[[], bool] | None = getattr(torch.cpu, check, None)
        if probe is not None and probe():
            return True
    return False


def layout(device: torch.device) -> torch.memory_format:
    """Return the memory format in which a device convolves fastest, and rightly.

    Metal has read weights and inputs in any other order than the plain one wrongly (pytorch#192212, #141471).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last_3d


@contextlib.contextmanager
def on_gpu(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Work on ``device``; TF32 as said; convolutions by cuDNN's heuristics and only repeatable ones.

    Picking algorithms by timing (``cudnn.benchmark``) may pick others in the next run, and a resumed
    run would then no longer equal an uninterrupted one to the bit.
    """
    cudnn = torch.backends.cudnn
    repeatable = [(cudnn, "enabled", True), (cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    with torch.cuda.device(device), _set(repeatable), fp32_products(tf32=tf32):
        yield


@contextlib.contextmanager
def fp32_products(*, tf32: bool) -> Iterator[None]:
    """Say what a GPU makes of fp32 (TF32 or not), and that half precision is summed in fp32 throughout.

    torch's defaults differ between convolutions and matrix products, and between releases. The flags are
    the process's: a thread that wants others waits until this one has set them back. On a GPU they count
    while work is handed to it, not while it is done, so that nobody waits for a GPU here.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags: list[tuple[Any, str, Any]] = [
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    ]
    if hasattr(cudnn, "conv"):
        # Since torch 2.9. A program that uses these names can no longer read the old ones (pytorch#179445);
        # one that uses the old ones reads the same as before, once these are set back.
        kind = "tf32" if tf32 else "ieee"
        flags += [(cudnn.conv, "fp32_precision", kind), (matmul, "fp32_precision", kind)]
    else:
        flags += [(cudnn, "allow_tf32", tf32), (matmul, "allow_tf32", tf32)]
    with _set(flags):
        yield


@contextlib.contextmanager
def _set(flags: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    with _flags_lock:
        before = [getattr(owner, name) for owner, name, _ in flags]
        try:
            for owner, name, value in flags:
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name, _), value in zip(flags, before, strict=True):
                setattr(owner, name, value)


@contextlib.contextmanager
def in_one_line(device: torch.device) -> Iterator[None]:
    """Turn what torch says of a GPU (memory, driver, a model too old) into a DeviceError.

    Any other error is a mistake of ours, and stays one; so does every error on a CPU.
    """
    try:
        yield
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        if device.type == "cpu" or not is_device_error(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceError(reason, subject=device, hint=_what_to_do(error)) from error


def is_device_error(error: BaseException) -> bool:
    """Say whether torch means the device, its driver or its libraries, and not what was asked of them."""
    if isinstance(error, _ACCELERATOR_ERRORS):
        return True
    text = str(error)
    return any(sign.search(text) for sign in (_DEVICE_ERROR, _OUT_OF_MEMORY, _NO_ENGINE))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether a device's memory was too small, in torch's words or cuDNN's, cuBLAS's or Metal's.

    That cuDNN found no engine is not among them: more often the GPU lacks the precision, or torch the GPU.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _what_to_do(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "free the device's memory, or use a smaller --batch-size"
    if _NO_ENGINE.search(str(error)):
        return "use --precision fp32, or a smaller --batch-size if memory is short; see c3d-tools doctor"
    return "see c3d-tools doctor"
