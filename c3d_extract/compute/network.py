"""One network on one device at one precision: uint8 clips in, float32 features out.

Every batch has the same shape, the last one padded with zeros, so that a clip's features do not
depend on the other clips of its batch: a resumed run is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from c3d_extract.compute.batch_size import batch_size_for
from c3d_extract.compute.cuda import SentBack, Transfers, compute_on
from c3d_extract.compute.devices import device_errors, is_out_of_memory
from c3d_extract.compute.forward import ClipInput, build_model, forward, input_weights
from c3d_extract.compute.precision import DTYPES
from c3d_extract.compute.reference import REFERENCE_BATCH, Fp32Reference, check_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone, CpuNetwork
    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

__all__ = ["Network", "Pending"]


class _Part(NamedTuple):
    """Clips that ran together, and their features, which a device may still be computing."""

    clips: NDArray[np.uint8]
    batch_size: int  # including padding
    sent: SentBack


class Pending:
    """A batch that a network is computing."""

    def __init__(self, network: Network, parts: list[_Part]) -> None:
        self._network = network
        self._parts = parts

    def done(self) -> bool:
        """Return whether `result` would return without waiting for the device."""
        with device_errors(self._network.device):
            return all(part.sent.is_done() for part in self._parts)

    def result(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the batch; return each layer's features, float32 (N, D), in newly allocated memory."""
        parts = [self._network._finished(part) for part in self._parts]  # noqa: SLF001 - a friend class
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}


class Network:
    """A checkpoint's network, ready for inference; thread-safe.

    Parameters
    ----------
    checkpoint
        Weights, mean and preprocessing.
    layers
        The layers to compute, all in one pass.
    device, precision
        As returned by `choose_device` and `choose_precision`.
    batch_size
        Clips per batch, or None for one that suits the device; see `batch_size_for`.

    Attributes
    ----------
    batch_size
        Current clips per batch: reduced if memory ran out.
    clip_shape
        Shape of an input clip: frames, rows, columns, 3.
    n_overflowed
        Clips that were computed again in fp32.

    Raises
    ------
    DeviceError
        If the weights do not fit into the device's memory, or the device does not work.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        layers: Sequence[str],
        *,
        device: torch.device,
        precision: Precision,
        batch_size: int | None = None,
    ) -> None:
        backbone, preprocessing = checkpoint.backbone, checkpoint.preprocessing
        self.layers = tuple(layers)
        self.device = device
        self.precision: Precision = precision
        self.clip_shape = (backbone.clip[0], *preprocessing.crop, 3)
        self.n_overflowed = 0
        self._notes: list[str] = []
        self._lock = threading.RLock()
        self._is_half = precision in {"fp16", "bf16"}
        # Metal's fp32 has been silently wrong as well (pytorch#197114).
        self._is_checked = device.type == "mps" or (device.type == "cuda" and precision != "fp32")
        self._checked_sizes: set[int] = set()
        weights = input_weights(checkpoint, layers)
        with device_errors(device):
            self._transfers = Transfers(device)
            self._to_input = ClipInput(checkpoint.mean, preprocessing.std, device, self._transfers)
            self.batch_size = batch_size_for(backbone, device, precision, batch_size)
            self._model = self._build(backbone, weights)
        if not isinstance(self._model, nn.Module):
            self._notes += self._model.warnings
        # Without a reference, the float32 weights can be freed: 245 MB for C3D.
        needed = self._is_half or self._is_checked
        self._reference = Fp32Reference(backbone, layers, weights, self._to_input, device) if needed else None

    def _build(self, backbone: Backbone, weights: Mapping[str, torch.Tensor]) -> nn.Module | CpuNetwork:
        dtype = DTYPES[self.precision]
        if self.device.type == "cpu":
            threads = torch.get_num_threads()
            with torch.inference_mode():
                faster = backbone.cpu_network(
                    self.layers, weights, dtype=dtype, batch_size=self.batch_size, threads=threads
                )
            if faster is not None:
                return faster
        return build_model(backbone, self.layers, weights, dtype=dtype, device=self.device)

    @property
    def warnings(self) -> list[str]:
        """Deviations from the normal case: recomputed clips, smaller batches, slower fallbacks."""
        n = self.n_overflowed
        redone = [f"{n} clips overflowed in {self.precision} and were done again in fp32"] if n else []
        return redone + self._notes + self._transfers.warnings

    def new_batch(self) -> NDArray[np.uint8]:
        """Return a buffer for a batch, uint8 (batch_size, *clip_shape), page-locked for a GPU.

        torch caches freed page-locked memory, so that all batches after the first few reuse it. May be called
        from any thread.
        """
        buffer: NDArray[np.uint8] = self._transfers.host_memory(
            (self.batch_size, *self.clip_shape), torch.uint8
        ).numpy()
        return buffer

    def __call__(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return each layer's features, float32 (N, D), of ``clips``, uint8 (N, *clip_shape), B, G, R.

        Any N, in batches of ``batch_size``. A clip that overflows in half precision is computed again in
        fp32.

        Raises
        ------
        DeviceError
            If not even one clip fits into the device's memory.
        """
        return self.submit(clips).result()

    def submit(self, clips: NDArray[np.uint8], n: int | None = None) -> Pending:
        """Start computing ``clips``; return at once if the device works asynchronously (CUDA).

        ``n`` is the number of valid clips, from the first; the others are ignored. If a GPU runs out of
        memory, ``batch_size`` is halved and the batch is tried again.
        """
        n = len(clips) if n is None else n
        while True:
            size = self.batch_size
            with device_errors(self.device):
                try:
                    starts = range(0, n, size)
                    parts = [self._start(clips[i : i + size], min(size, n - i), size) for i in starts]
                    return Pending(self, parts)
                except RuntimeError as error:
                    if size == 1 or not is_out_of_memory(error):
                        raise
            # Not in the except block: there the traceback still references all tensors of the failed
            # batch, and their memory is needed.
            with self._lock:
                if self.batch_size == size:  # no other thread has halved it meanwhile
                    self._halve_batch_size()

    def _halve_batch_size(self) -> None:
        self.batch_size //= 2
        self._notes.append(
            f"{self.device}: out of memory; continuing with batches of {self.batch_size}, "
            "in which features can differ in the last digits"
        )
        if self.device.type == "cuda":
            with device_errors(self.device):
                torch.cuda.empty_cache()

    def _start(self, clips: NDArray[np.uint8], n: int, size: int) -> _Part:
        """Start computing at most ``size`` clips, of which the first ``n`` are valid."""
        with torch.inference_mode(), compute_on(self.device, tf32=self.precision == "tf32"):
            if not isinstance(self._model, nn.Module):
                running = self._model.start([functools.partial(self._to_input, clip) for clip in clips[:n]])
                return _Part(clips[:n], size, SentBack(running, running.done))
            found = self._run(self._model, self._to_input(self._padded(clips, n, size)))
            features = {layer: value.narrow(0, 0, n) for layer, value in found.items()}
            return _Part(clips[:n], size, self._transfers.to_host(features))

    def _padded(self, clips: NDArray[np.uint8], n: int, size: int) -> NDArray[np.uint8]:
        if len(clips) == size:
            return clips
        buffer: NDArray[np.uint8] = self._transfers.host_memory((size, *self.clip_shape), torch.uint8).numpy()
        buffer[:n], buffer[n:] = clips[:n], 0
        return buffer

    def _run(self, model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return forward(model, x, self.layers)

    def _finished(self, part: _Part) -> dict[str, NDArray[np.float32]]:
        with device_errors(self.device):
            part.sent.wait()
            with torch.inference_mode():
                features = {layer: value.cpu().numpy() for layer, value in part.sent.features().items()}
            if self._reference is None:
                return features
            if self._is_checked and part.batch_size not in self._checked_sizes:
                self._check(self._reference, part, features)
            return self._without_overflow(self._reference, part.clips, features)

    def _check(self, reference: Fp32Reference, part: _Part, features: dict[str, NDArray[np.float32]]) -> None:
        """Compare the first batch of each size with fp32, including its last clip.

        Wrong kernels for large batches have failed at their end, and each size can use other kernels.
        """
        places = np.unique(np.linspace(0, len(part.clips) - 1, REFERENCE_BATCH).astype(np.intp))
        expected = reference(part.clips[places])
        reference.release()  # it is built again if a clip overflows
        found = {layer: rows[places] for layer, rows in features.items()}
        check_error(found, expected, self.device, self.precision)
        self._checked_sizes.add(part.batch_size)

    def _without_overflow(
        self,
        reference: Fp32Reference,
        clips: NDArray[np.uint8],
        features: dict[str, NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float32]]:
        """Compute the clips that overflowed again in fp32; the others are not affected."""
        if not self._is_half:
            return features
        finite = np.all([np.isfinite(rows).all(axis=1) for rows in features.values()], axis=0)
        if finite.all():
            return features
        places = np.flatnonzero(~finite)
        exact = reference(clips[places])
        features = {layer: np.array(rows) for layer, rows in features.items()}
        for layer, rows in features.items():
            rows[places] = exact[layer]
        with self._lock:
            self.n_overflowed += len(places)
        return features
