"""CUDA-specific parts: page-locked memory, a stream for copies, deterministic kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from c3d_extract.compute.clip_frames import FramePlan, stacked
from c3d_extract.compute.devices import is_device_error
from c3d_extract.compute.precision import fp32_products, temporary_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from c3d_extract.compute.clip_frames import ClipCrops, Pieces

__all__ = ["SentBack", "SentClips", "Transfers", "compute_on", "page_locked"]


@contextlib.contextmanager
def page_locked(memory: NDArray[np.uint8]) -> Iterator[str | None]:
    """Lock memory, so that every GPU of this process reads it by itself; yields why it cannot be, or None."""
    address, n_bytes = memory.ctypes.data, memory.nbytes
    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    portable = 1  # cudaHostRegisterPortable: for all contexts, not only that of the current device
    status = cudart.cudaHostRegister(address, n_bytes, portable)
    if int(status) != 0:
        yield f"cudaHostRegister: {cudart.cudaGetErrorString(status)}"
        return
    try:
        yield None
    finally:
        torch.cuda.synchronize()  # no copy may still read it
        cudart.cudaHostUnregister(address)


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


class SentClips(NamedTuple):
    """Clips on the device, uint8 (N, L, H, W, 3); ``is_read``: whether the host's frames are not needed."""

    clips: Tensor
    is_read: Callable[[], bool]


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

    def clips_to_device(
        self, clips: Sequence[Pieces], shape: tuple[int, ...], crops: ClipCrops | None = None
    ) -> SentClips:
        """Send clips to the device, each frame once; uint8 of ``shape`` (N, L, H, W, 3), filled up with 0.

        A GPU reads page-locked memory by itself, so this returns at once: the frames must not change until
        `SentClips.is_read`.
        """
        if self._copies is None:
            host = torch.from_numpy(stacked(clips, np.empty(shape, np.uint8), crops))
            return SentClips(host.to(self._device), lambda: True)
        plan = FramePlan.of(clips)
        is_whole = crops is None and plan.is_in_order
        n_rows = shape[0] * shape[1] if is_whole else plan.n_frames
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            frames = torch.empty((n_rows, *plan.frame_shape), dtype=torch.uint8, device=self._device)
            at = 0
            for segment in plan.segments:
                frames[at : at + len(segment)].copy_(torch.from_numpy(segment), non_blocking=True)
                at += len(segment)
            read = torch.cuda.Event()  # type: ignore[no-untyped-call]
            read.record(self._copies)
        compute.wait_stream(self._copies)
        # The tensor was allocated on the copy stream: without this, its memory could be reused for the next
        # batch while kernels of the compute stream still read it.
        frames.record_stream(compute)
        if is_whole:
            frames[at:].zero_()
            return SentClips(frames.view(shape), read.query)
        cut = self._cut(frames, plan, shape) if crops is None else self._cut_crops(frames, plan, shape, crops)
        return SentClips(cut, read.query)

    def _cut(self, frames: Tensor, plan: FramePlan, shape: tuple[int, ...]) -> Tensor:
        places = self.host_memory(plan.places.shape, torch.int64)
        places.numpy()[:] = plan.places
        clips = torch.zeros((shape[0] * shape[1], *shape[2:]), dtype=torch.uint8, device=self._device)
        torch.index_select(frames, 0, places.to(self._device, non_blocking=True), out=clips[: len(places)])
        return clips.view(shape)

    def _cut_crops(self, frames: Tensor, plan: FramePlan, shape: tuple[int, ...], crops: ClipCrops) -> Tensor:
        """Cut every clip out of the frames, those with the same crop together."""
        n_clips, length = len(crops.numbers), shape[1]
        order = np.argsort(crops.numbers, kind="stable")
        host = self.host_memory((n_clips * (length + 1),), torch.int64)
        host.numpy()[:n_clips] = order
        host.numpy()[n_clips:] = plan.places.reshape(n_clips, length)[order].ravel()
        sent = host.to(self._device, non_blocking=True)
        rows, places = sent[:n_clips], sent[n_clips:]
        clips = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        numbers, starts = np.unique(np.asarray(crops.numbers)[order], return_index=True)
        for crop, start, end in zip(numbers.tolist(), starts, [*starts[1:], n_clips], strict=True):
            window = crops.of_frames.window(frames, crop)
            chosen = window.index_select(0, places[start * length : end * length])
            chosen = chosen.flip(2) if crops.of_frames.is_mirrored(crop) else chosen
            clips.index_copy_(0, rows[start:end], chosen.view(-1, *shape[1:]))
        return clips

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
        # Copied into ordinary memory: page-locked memory is scarce, and users may keep features. By NumPy,
        # since torch copies with all cores, which then poll for work for some milliseconds while decoders
        # need them.
        return SentBack(
            lambda: {k: torch.from_numpy(v.numpy().copy()) for k, v in sent.items()}, event.query, event
        )
