"""Precisions: which a device supports, selection by name, and the torch flags that they need."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Literal

import torch

from c3d_extract.compute.devices import device_errors, device_name
from c3d_extract.errors import DeviceError
from c3d_extract.settings import PRECISIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "DTYPES",
    "choose_precision",
    "common_precision",
    "fp32_products",
    "has_bf16",
    "has_fast_fp16",
    "temporary_flags",
]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The type of weights and maps in each precision."""

# torch's flags are global to the process. Reentrant: `compute_on` nests `fp32_products`.
_flags_lock = threading.RLock()


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return the fastest precision within the error bound for ``auto``; check any other name.

    CUDA: fp16, summed in fp32, on a GPU with fast fp16, else fp32; CPU: bf16 if the processor multiplies
    it natively, else fp32; Metal: fp32.

    Raises
    ------
    DeviceError
        If the device does not support the precision.
    """
    if name == "auto":
        return _fastest(device)
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


def _fastest(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "fp16" if has_fast_fp16(device) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def common_precision(name: Precision | Literal["auto"], devices: Sequence[torch.device]) -> Precision:
    """Return `choose_precision` for several devices: fp32 if ``auto`` differs between them."""
    chosen = {choose_precision(name, device) for device in devices}
    return chosen.pop() if len(chosen) == 1 else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Return whether a GPU supports bf16 and TF32 in hardware (NVIDIA: since Ampere); torch emulates bf16."""
    return _is_at_least(device, (8, 0))


def has_fast_fp16(device: torch.device) -> bool:
    """Return whether fp16 products with fp32 sums are faster than fp32 (NVIDIA: since Volta)."""
    # NVIDIA's CUDA C++ Programming Guide, table "Throughput of Native Arithmetic Instructions": compute
    # capability 6.1 (GTX 10xx, P40) computes fp16 at 1/64 of its fp32 rate. 6.0 (P100) doubles it, but only
    # with fp16 sums, which torch's convolutions never use. 7.5 without tensor cores (GTX 16xx) has
    # separate fp16 units.
    return _is_at_least(device, (7, 0))


def _is_at_least(device: torch.device, capability: tuple[int, int]) -> bool:
    if torch.version.hip is not None:  # AMD's numbers differ; all GPUs that ROCm supports have both
        return True
    with device_errors(device):
        return torch.cuda.get_device_capability(device) >= capability


def _cpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32, so only native bf16 products count.
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe: Callable[[], bool] | None = getattr(torch.cpu, check, None)
        if probe is not None and probe():
            return True
    return False


@contextlib.contextmanager
def fp32_products(*, tf32: bool) -> Iterator[None]:
    """Set whether a GPU computes fp32 in TF32; make half precision use fp32 sums.

    torch's defaults differ between convolutions and matrix products, and between releases. The flags are
    global to the process: a thread that needs other values waits until this one has restored them. They
    take effect when work is submitted to a GPU, not when it runs, so no thread waits for a GPU here.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags: list[tuple[Any, str, Any]] = [
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    ]
    if hasattr(cudnn, "conv"):
        # Since torch 2.9. Once a program has set these names, reading the old ones fails (pytorch#179445);
        # after these are restored, a program that uses the old names reads its own values.
        kind = "tf32" if tf32 else "ieee"
        flags += [(cudnn.conv, "fp32_precision", kind), (matmul, "fp32_precision", kind)]
    else:
        flags += [(cudnn, "allow_tf32", tf32), (matmul, "allow_tf32", tf32)]
    with temporary_flags(flags):
        yield


@contextlib.contextmanager
def temporary_flags(flags: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes, given as (owner, name, value), and restore them; one thread at a time."""
    with _flags_lock:
        before = [getattr(owner, name) for owner, name, _ in flags]
        try:
            for owner, name, value in flags:
                setattr(owner, name, value)
            yield
        finally:
            for (owner, name, _), value in zip(flags, before, strict=True):
                setattr(owner, name, value)
