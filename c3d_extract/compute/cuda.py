"""CUDA-specific parts: page-locked memory, a stream for copies, deterministic kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import torch

from c3d_extract.compute.devices import is_device_error
from c3d_extract.compute.precision import fp32_products, temporary_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["SentBack", "Transfers", "compute_on"]


def compute_on(device: torch.device, *, tf32: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context for submitting work to ``device``; on a GPU it sets the precision of fp32."""
    return _on_gpu(device, tf32=tf32) if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _on_gpu(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Select ``device``, set TF32, and make cuDNN choose deterministic algorithms by its heuristics.

    Choosing algorithms by timing (``cudnn.benchmark``) may choose others in the next run, and a resumed
    run would no longer be bit-identical to an uninterrupted one.
    """
    cudnn = torch.backends.cudnn
    deterministic = [(cudnn, "enabled", True), (cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    with torch.cuda.device(device), temporary_flags(deterministic), fp32_products(tf32=tf32):
        yield


class SentBack(NamedTuple):
    """Features that are being copied to the host, float32 (N, D) for each layer."""

    features: Callable[[], dict[str, Tensor]]  # valid once `wait` has returned
    is_done: Callable[[], bool] = lambda: True
    event: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.event is not None:
            self.event.synchronize()


class Transfers:
    """Copies between host and device; on a GPU they are asynchronous and overlap with computation.

    Attributes
    ----------
    page_locked
        Whether host memory is page-locked, so that a GPU copies it by DMA.
    warnings
        Why copies are slower than expected, if they are.
    """

    def __init__(self, device: torch.device) -> None:
        self.page_locked = device.type == "cuda"
        self.warnings: list[str] = []
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return page-locked memory for a GPU, or ordinary memory if it is not available."""
        if self.page_locked:
            try:
                with torch.cuda.device(self._device):  # the current device is per thread, initially the first
                    return torch.empty(shape, dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                if not is_device_error(error):
                    raise
                self.page_locked = False
                why = str(error).partition("\n")[0]
                self.warnings.append(f"{self._device}: no page-locked memory ({why}); copies are slower")
        return torch.empty(shape, dtype=dtype)

    def to_device(self, host: Tensor) -> Tensor:
        """Copy to the device; a GPU copies one batch while it computes the previous one."""
        if self._copies is None:
            return host.to(self._device)
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            sent = host.to(self._device, non_blocking=True)
        compute.wait_stream(self._copies)
        # The tensor was allocated on the copy stream: without this, its memory could be reused for the next
        # batch while kernels of the compute stream still read it.
        sent.record_stream(compute)
        return sent

    def to_host(self, features: dict[str, Tensor]) -> SentBack:
        """Enqueue a copy of results to the host after the work that computes them."""
        if self._copies is None:
            return SentBack(lambda: features)
        sent = {
            layer: self.host_memory(value.shape, value.dtype).copy_(value, non_blocking=True)
            for layer, value in features.items()
        }
        # Blocking: the waiting thread sleeps instead of polling, so that decoders can use its core.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        # Cloned into ordinary memory: page-locked memory is scarce, and users may keep features.
        return SentBack(lambda: {k: v.clone() for k, v in sent.items()}, event.query, event)
