"""One network on one device at one precision: uint8 clips in, float32 features out.

Every batch has the same shape, the last one padded with zeros, so that a clip's features depend
neither on the other clips of its batch nor on its place there: a resumed run is bit-identical to an
uninterrupted one.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from c3d_extract.compute.batch_invariance import n_agreeing_rows, padded_size
from c3d_extract.compute.batch_size import batch_size_for
from c3d_extract.compute.clip_frames import ClipCrops, pieces_of
from c3d_extract.compute.cuda import SentBack, SentClips, Transfers, compute_on
from c3d_extract.compute.devices import device_errors, is_out_of_memory
from c3d_extract.compute.forward import ClipInput, build_model, forward, input_weights
from c3d_extract.compute.precision import DTYPES
from c3d_extract.compute.reference import REFERENCE_BATCH, Fp32Reference, check_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from c3d_extract.compute.clip_frames import Pieces
    from c3d_extract.models.base import Backbone, CpuNetwork
    from c3d_extract.preprocess.crops import FrameCrops
    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

__all__ = ["Network", "Pending"]

_N_TRIALS = 2  # clips with which it is tried whether rows round alike


class _Part(NamedTuple):
    """Clips that ran together, and their features, which a device may still be computing."""

    clips: Sequence[Pieces]
    batch_size: int  # including padding
    crops: ClipCrops | None
    sent: SentBack
    on_device: SentClips | None  # None where the network reads the host's frames while it runs

    def again(self, reference: Fp32Reference, places: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        """Return what a reference makes of some of the clips, float32 (n, D) for each layer."""
        return reference(self._frames_of(places), None if self.crops is None else self.crops.take(places))

    def _frames_of(self, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Return some of the clips, uint8 (n, L, H, W, 3)."""
        if self.on_device is not None:
            chosen: NDArray[np.uint8] = self.on_device.clips[torch.from_numpy(places)].cpu().numpy()
            return chosen
        cut = (lambda _, frames: frames) if self.crops is None else self.crops.cut
        return np.stack(
            [np.concatenate([cut(place, p.frames) for p in self.clips[place]]) for place in places]
        )


class Pending:
    """A batch that a network is computing."""

    def __init__(self, network: Network, parts: list[_Part]) -> None:
        self._network = network
        self._parts = parts

    def done(self) -> bool:
        """Return whether `result` would return without waiting for the device."""
        with device_errors(self._network.device):
            return all(part.sent.is_done() for part in self._parts)

    def is_read(self) -> bool:
        """Return whether the clips' frames are needed no more; after `result` they are not in any case."""
        with device_errors(self._network.device):
            return all(part.on_device is not None and part.on_device.is_read() for part in self._parts)

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
    crops
        Where crops lie in the frames of clips; None: the frames are the centre crops.

    Attributes
    ----------
    batch_size
        Current clips per batch: reduced if memory ran out.
    clip_shape
        Shape of an input clip: frames, rows, columns, 3.
    n_crops
        Crops of each clip's frames.
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
        crops: FrameCrops | None = None,
    ) -> None:
        backbone, preprocessing = checkpoint.backbone, checkpoint.preprocessing
        self.layers = tuple(layers)
        self.device = device
        self.precision: Precision = precision
        self.clip_shape = (backbone.clip[0], *preprocessing.crop, 3)
        self.n_crops = 1 if crops is None else crops.n
        self.n_overflowed = 0
        self._crops = crops
        self._notes: list[str] = []
        self._lock = threading.RLock()
        self._is_half = precision in {"fp16", "bf16"}
        # Metal's fp32 has been silently wrong as well (pytorch#197114).
        self._is_checked = device.type == "mps" or (device.type == "cuda" and precision != "fp32")
        self._checked_sizes: set[int] = set()
        self._padded: dict[int, int] = {}  # clips per batch → rows
        weights = input_weights(checkpoint, layers)
        with device_errors(device):
            self._transfers = Transfers(device)
            self._to_input = ClipInput(_means(checkpoint, crops), preprocessing.std, device)
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
        """Return memory for a batch, uint8 (batch_size, *clip_shape), page-locked for a GPU."""
        buffer: NDArray[np.uint8] = self._transfers.host_memory(
            (self.batch_size, *self.clip_shape), torch.uint8
        ).numpy()
        return buffer

    def __call__(self, clips: NDArray[np.uint8], crops: Sequence[int] = ()) -> dict[str, NDArray[np.float32]]:
        """Return each layer's features, float32 (N, D), of ``clips``, uint8 (N, *clip_shape), B, G, R.

        Any N, in batches of ``batch_size``. A clip that overflows in half precision is computed again in
        fp32. With crops, the clips are of the frames that they are cut from, and ``crops`` says which.

        Raises
        ------
        DeviceError
            If not even one clip fits into the device's memory.
        """
        return self.submit(pieces_of(clips), crops).result()

    def submit(self, clips: Sequence[Pieces], crops: Sequence[int] = ()) -> Pending:
        """Start computing clips; return at once if the device works asynchronously (CUDA).

        ``crops`` says which crop of its frames each clip is; it is not read where there is one alone.

        Their frames must not change until `Pending.is_read`. If a GPU runs out of memory, ``batch_size`` is
        halved and the batch is tried again.
        """
        while True:
            size = self.batch_size
            with device_errors(self.device):
                try:
                    starts = range(0, len(clips), size)
                    parts = [self._start(clips[i : i + size], size, crops[i : i + size]) for i in starts]
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

    def _start(self, clips: Sequence[Pieces], size: int, numbers: Sequence[int]) -> _Part:
        """Start computing at most ``size`` clips."""
        crops = None if self._crops is None else ClipCrops(self._crops, numbers)
        with torch.inference_mode(), compute_on(self.device, tf32=self.precision == "tf32"):
            if not isinstance(self._model, nn.Module):
                running = self._model.start(self._inputs(clips, numbers))
                return _Part(clips, size, crops, SentBack(running, running.done), None)
            n_rows = self._n_rows(self._model, size)
            sent = self._transfers.clips_to_device(clips, (n_rows, *self.clip_shape), crops)
            found = self._run(self._model, self._to_input(sent.clips, crops))
            features = {layer: value.narrow(0, 0, len(clips)) for layer, value in found.items()}
            return _Part(clips, n_rows, crops, self._transfers.to_host(features), sent)

    def _n_rows(self, model: nn.Module, size: int) -> int:
        """Return with how many rows ``size`` clips are computed, so that all round alike."""
        if self.device.type != "cuda":
            return size
        if size not in self._padded:
            n_rows = padded_size(size, partial(self._n_agreeing, model))
            if n_rows is None:
                self._notes.append(
                    f"{self.device}: in batches of {size}, last digits depend on a clip's place; "
                    "those of a resumed run can differ"
                )
            self._padded[size] = n_rows or size
        return self._padded[size]

    def _n_agreeing(self, model: nn.Module, n_rows: int) -> int:
        noise = np.random.default_rng(0).integers(0, 256, (_N_TRIALS, *self.clip_shape), np.uint8)
        found = n_rows
        for clip in pieces_of(noise):
            sent = self._transfers.clips_to_device([clip] * n_rows, (n_rows, *self.clip_shape))
            run = partial(self._run, model, self._to_input(sent.clips))
            found = min(found, n_agreeing_rows(run, n_rows))
        return found

    def _inputs(self, clips: Sequence[Pieces], numbers: Sequence[int]) -> list[partial[torch.Tensor]]:
        of_pieces = self._to_input.of_pieces
        if self._crops is None:
            return [partial(of_pieces, clip) for clip in clips]
        crops = self._crops
        return [partial(of_pieces, clip, crops, crop) for clip, crop in zip(clips, numbers, strict=True)]

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
            return self._without_overflow(self._reference, part, features)

    def _check(self, reference: Fp32Reference, part: _Part, features: dict[str, NDArray[np.float32]]) -> None:
        """Compare the first batch of each size with fp32, including its last clip.

        Wrong kernels for large batches have failed at their end, and each size can use other kernels.
        """
        places = np.unique(np.linspace(0, len(part.clips) - 1, REFERENCE_BATCH).astype(np.intp))
        expected = part.again(reference, places)
        reference.release()  # it is built again if a clip overflows
        found = {layer: rows[places] for layer, rows in features.items()}
        check_error(found, expected, self.device, self.precision)
        self._checked_sizes.add(part.batch_size)

    def _without_overflow(
        self,
        reference: Fp32Reference,
        part: _Part,
        features: dict[str, NDArray[np.float32]],
    ) -> dict[str, NDArray[np.float32]]:
        """Compute the clips that overflowed again in fp32; the others are not affected."""
        if not self._is_half:
            return features
        finite = np.all([np.isfinite(rows).all(axis=1) for rows in features.values()], axis=0)
        if finite.all():
            return features
        places = np.flatnonzero(~finite)
        exact = part.again(reference, places)
        features = {layer: np.array(rows) for layer, rows in features.items()}
        for layer, rows in features.items():
            rows[places] = exact[layer]
        with self._lock:
            self.n_overflowed += len(places)
        return features


def _means(checkpoint: Checkpoint, crops: FrameCrops | None) -> NDArray[np.float32]:
    """Return the mean of each crop, float32 (n, 3, T, H, W), or one for all."""
    mean = checkpoint.mean
    return mean[None] if crops is None else crops.means(mean, checkpoint.resized_mean)
