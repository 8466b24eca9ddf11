"""One network on one device at one precision: uint8 clips in, float32 features out.

Every batch has the same shape, the last one padded with zeros, so that a clip's features do not
depend on which clips happen to share its batch: that makes an interrupted and resumed run equal an
uninterrupted one to the bit.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from c3d_extract.compute.cpu import CLIPS_TOGETHER, CpuC3D
from c3d_extract.compute.devices import in_one_line, is_device_error, is_out_of_memory, layout, on_gpu
from c3d_extract.errors import DeviceError
from c3d_extract.models.c3d import C3D

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from c3d_extract.models.c3d import Architecture
    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

__all__ = ["HALF_ERROR_BOUND", "Network", "Pending", "batch_size_for", "rounding"]

HALF_ERROR_BOUND = 3e-2
"""Largest relative error ‖found - fp32‖/‖fp32‖ of the first clips on a GPU that is put down to rounding.

bf16 was measured at 0.5 % on fc6, 1.4 % in the worst of 417 clips (benchmarks/precision.py), fp16 at a
twentieth of that, and TF32 has the digits of fp16. More than twice as much means a broken kernel: cuDNN 9.8
to 9.14 can be silently wrong in 3-D convolutions in half precision (pytorch#163539, #166643), 9.10.2 to
9.15 in TF32 (pytorch#167024). torch goes round the first (`ConvParams::use_cudnn` in its Convolution.cpp),
but not where maps are channels_last_3d, as they are here.
"""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = 8  # fc6 reads 134 MB of weights a batch: 6 ms a clip for 4 clips, 3 for 8, 2 for 16
_WIDE = 32  # filters of conv1a; narrower networks are faster as a whole batch at a time
_EXACT_BATCH = 4  # clips that are done again in fp32 together
_EVEN_BATCH = 4  # from here on a batch on a CPU is a multiple of this, and its size changes no bit
_MIN_CUDA_BATCH, _MAX_CUDA_BATCH = 4, 64


class _Part(NamedTuple):
    """Clips that ran together: their features, which a GPU may still be working on."""

    clips: NDArray[np.uint8]
    batch_size: int  # with what fills it up
    features: Callable[[], dict[str, torch.Tensor]]
    is_done: Callable[[], bool] = lambda: True
    event: torch.cuda.Event | None = None


class Pending:
    """A batch that is on its way through the network."""

    def __init__(self, network: Network, parts: list[_Part]) -> None:
        self._network = network
        self._parts = parts

    def done(self) -> bool:
        """Say whether `result` would return without waiting for a device that works by itself."""
        with in_one_line(self._network.device):
            return all(part.is_done() for part in self._parts)

    def result(self) -> dict[str, NDArray[np.float32]]:
        """Wait for it; return each layer's features, float32 (N, D), in memory of their own."""
        parts = [self._network._finished(part) for part in self._parts]  # noqa: SLF001 - two halves
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}


def batch_size_for(
    architecture: Architecture, device: torch.device, precision: Precision, asked: int | None = None
) -> int:
    """Return how many clips a pass takes: as many as ``asked``, or what suits the device.

    It follows from the model of a GPU and not from the memory that happens to be free: other batches take
    other kernels, which round otherwise, and a resumed run must have those of the run that it goes on with.
    """
    if device.type == "cuda":
        return asked or _gpu_batch(architecture, device, precision)
    size = asked or max(_CPU_BATCH, CLIPS_TOGETHER * torch.get_num_threads())
    # A CPU's matrix product shares rows out between cores. With an odd share it sums the last ones in
    # another order, and a clip's features would depend on its place.
    return size if device.type != "cpu" or size <= _EVEN_BATCH else -(-size // _EVEN_BATCH) * _EVEN_BATCH


def rounding(versions: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return what the last digits of features depend on, beside settings: models of devices, batch sizes.

    ``versions`` holds ``device`` and ``batch_size`` as a feature file does, with commas between several.
    """
    models = [name.partition(" ")[2] or name for name in versions.get("device", "").split(", ")]
    sizes = versions.get("batch_size", "").split(", ")
    if "cpu" in models:
        sizes = ["any" if size.isdigit() and int(size) >= _EVEN_BATCH else size for size in sizes]
    return {(model, size) for model in models for size in sizes}


def _gpu_batch(architecture: Architecture, device: torch.device, precision: Precision) -> int:
    # The largest moment is conv1a: its output and its input, and as much again for the algorithm.
    frames, rows, columns = architecture.clip
    filters = architecture.filters[0][0]
    clip_bytes = 2 * (filters + 3) * frames * rows * columns * _DTYPES[precision].itemsize
    with in_one_line(device):
        total = torch.cuda.get_device_properties(device).total_memory
    size = int(np.clip(total // 2 // clip_bytes, _MIN_CUDA_BATCH, _MAX_CUDA_BATCH))
    # A power of two: drivers and error correction take a little of the memory, and halves are whole.
    return 1 << (size.bit_length() - 1)


class Network:
    """A checkpoint's network, ready to be fed, by several threads if need be.

    Parameters
    ----------
    checkpoint
        Weights, mean and dialect.
    layers
        What is computed, in one pass.
    device, precision
        As `choose_device` and `choose_precision` gave them.
    batch_size
        Clips a pass, or None for what suits the device; see `batch_size_for`.

    Attributes
    ----------
    batch_size
        Clips a pass now: less than at first where memory ran out.
    n_overflowed
        Clips that were done again in fp32.
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
        self.layers = tuple(layers)
        self.device = device
        self.precision: Precision = precision
        self.n_overflowed = 0
        self._notes: list[str] = []
        self._lock = threading.RLock()
        self._page_locked = device.type == "cuda"
        preprocessing = checkpoint.preprocessing
        self._architecture = checkpoint.architecture
        self._weights = dict(checkpoint.state)
        if preprocessing.colour == "rgb":
            # Crops come as B, G, R. Turning round the first kernels' inputs costs nothing a batch.
            self._weights["conv1a.weight"] = self._weights["conv1a.weight"].flip(1)
        self.clip_shape = (self._architecture.clip[0], *preprocessing.crop, 3)
        self._is_half = precision in {"fp16", "bf16"}
        self._exact: C3D | None = None
        # Metal's own fp32 has been wrong without a word (pytorch#197114): a CPU has the last word there.
        self._exact_device = torch.device("cpu") if device.type == "mps" else device
        self._is_checked = device.type == "mps" or (device.type == "cuda" and precision != "fp32")
        self._checked_sizes: set[int] = set()
        wide = self._architecture.filters[0][0] >= _WIDE
        in_cache = device.type == "cpu" and wide
        with in_one_line(device):
            self._mean = torch.from_numpy(checkpoint.mean).permute(1, 2, 3, 0).contiguous().to(device)
            std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
            self._std = None if preprocessing.std == (1.0, 1.0, 1.0) else std
            self.batch_size = batch_size_for(self._architecture, device, precision, batch_size)
            self._model = self._build_in_cache() if in_cache else self._build(_DTYPES[precision], device)
            self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if isinstance(self._model, CpuC3D):
            self._notes += self._model.warnings
        if not self._is_half and not self._is_checked:
            self._weights.clear()  # nothing will be done again in fp32: 245 MB of C3D

    @property
    def warnings(self) -> list[str]:
        """What had to be done differently: overflows redone, batches halved, slower ways taken."""
        redone = (
            [f"{self.n_overflowed} clips overflowed in {self.precision} and were done again in fp32"]
            if self.n_overflowed
            else []
        )
        return redone + self._notes

    def _build(self, dtype: torch.dtype, device: torch.device) -> C3D:
        with torch.device("meta"):
            model = C3D(self._architecture, self.layers)
        model.load_state_dict(self._weights, assign=True)
        model = model.to(device, dtype).to(memory_format=layout(device))
        return model.eval().requires_grad_(False)

    def _build_in_cache(self) -> CpuC3D:
        with torch.inference_mode():
            return CpuC3D(
                self._architecture,
                self.layers,
                self._weights,
                dtype=_DTYPES[self.precision],
                batch_size=self.batch_size,
                threads=torch.get_num_threads(),
            )

    def new_batch(self) -> NDArray[np.uint8]:
        """Return a buffer for a batch, uint8 (batch_size, 16, 112, 112, 3), that a GPU can copy by itself.

        torch keeps page-locked memory that was given back, so that every batch after the first few is
        written into the same pages. May be called in any thread.
        """
        buffer: NDArray[np.uint8] = self._host_memory(
            (self.batch_size, *self.clip_shape), torch.uint8
        ).numpy()
        return buffer

    def _host_memory(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory that a GPU copies from and to by itself, or ordinary memory where there is none."""
        if self._page_locked:
            try:
                with torch.cuda.device(self.device):  # a thread begins on the first GPU
                    return torch.empty(shape, dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                if not is_device_error(error):
                    raise
                self._page_locked = False
                why = str(error).partition("\n")[0]
                self._notes.append(f"{self.device}: no page-locked memory ({why}); copies are slower")
        return torch.empty(shape, dtype=dtype)

    def __call__(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return each layer's features, float32 (N, D), of ``clips`` uint8 (N, 16, 112, 112, 3), B, G, R.

        Any N, in batches of ``batch_size``. A clip that overflows in half precision is done again in fp32.

        Raises
        ------
        DeviceError
            Where not even one clip fits into the device's memory.
        """
        return self.submit(clips).result()

    def submit(self, clips: NDArray[np.uint8], n: int | None = None) -> Pending:
        """Start on ``clips`` and return at once where the device works by itself (CUDA).

        ``n`` says how many count, from the first; what else stands in a batch changes nothing. When a
        GPU's memory runs out, the batch is halved and ``batch_size`` with it.
        """
        n = len(clips) if n is None else n
        while True:
            size = self.batch_size
            with in_one_line(self.device):
                try:
                    starts = range(0, n, size)
                    parts = [self._start(clips[i : i + size], min(size, n - i), size) for i in starts]
                    return Pending(self, parts)
                except RuntimeError as error:
                    if size == 1 or not is_out_of_memory(error):
                        raise
            # Out here the error is gone, and with it its hold on all tensors of the batch that failed.
            with self._lock:
                if self.batch_size == size:  # no other thread was here before
                    self._back_off()

    def _back_off(self) -> None:
        self.batch_size //= 2
        self._notes.append(
            f"{self.device}: out of memory; going on with batches of {self.batch_size}, "
            "in which features can differ in the last digits"
        )
        if self.device.type == "cuda":
            with in_one_line(self.device):
                torch.cuda.empty_cache()

    def _start(self, clips: NDArray[np.uint8], n: int, size: int) -> _Part:
        """Start on at most ``size`` clips, of which the first ``n`` count."""
        with torch.inference_mode(), self._products():
            if isinstance(self._model, CpuC3D):
                running = self._model.start([functools.partial(self._input, clip) for clip in clips[:n]])
                return _Part(clips[:n], size, running, running.done)
            if len(clips) < size:
                buffer = self._host_memory((size, *self.clip_shape), torch.uint8).numpy()
                buffer[:n], buffer[n:] = clips[:n], 0
                clips = buffer
            found = self._run(self._model, self._input(clips))
            features = {layer: value.narrow(0, 0, n) for layer, value in found.items()}
            return self._sent_back(clips[:n], size, features)

    def _sent_back(self, clips: NDArray[np.uint8], size: int, features: dict[str, torch.Tensor]) -> _Part:
        """Copy results to the host behind the work, so that nobody waits for them yet."""
        if self.device.type != "cuda":
            return _Part(clips, size, lambda: features)
        sent = {layer: self._to_host(value) for layer, value in features.items()}
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # leaves the core to decoders
        event.record(torch.cuda.current_stream(self.device))
        # Cloned, so that what is kept for a user's while is ordinary memory.
        return _Part(clips, size, lambda: {k: v.clone() for k, v in sent.items()}, event.query, event)

    def _to_host(self, value: torch.Tensor) -> torch.Tensor:
        return self._host_memory(value.shape, value.dtype).copy_(value, non_blocking=True)

    def _finished(self, part: _Part) -> dict[str, NDArray[np.float32]]:
        with in_one_line(self.device):
            if part.event is not None:
                part.event.synchronize()
            with torch.inference_mode():
                features = {layer: value.cpu().numpy() for layer, value in part.features().items()}
            if self._is_checked and part.batch_size not in self._checked_sizes:
                self._compare(part, features)
            return self._without_overflow(part.clips, features) if self._is_half else features

    def _without_overflow(
        self, clips: NDArray[np.uint8], features: dict[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        """Do the clips that overflowed again, and no others: a clip's numbers are its own."""
        finite = np.all([np.isfinite(rows).all(axis=1) for rows in features.values()], axis=0)
        if finite.all():
            return features
        places = np.flatnonzero(~finite)
        exact = self._in_fp32(clips[places])
        features = {layer: np.array(rows) for layer, rows in features.items()}
        for layer, rows in features.items():
            rows[places] = exact[layer]
        with self._lock:
            self.n_overflowed += len(places)
        return features

    def _compare(self, part: _Part, features: dict[str, NDArray[np.float32]]) -> None:
        """Hold the first batch of a size against fp32, its last clip too: large batches break at their end.

        Each size anew, for each can have kernels of its own.
        """
        places = np.unique(np.linspace(0, len(part.clips) - 1, _EXACT_BATCH).astype(np.intp))
        exact = self._in_fp32(part.clips[places])
        self._exact = None  # fp32 weights are built again if a clip overflows
        error = max(_relative_error(features[layer][places], right) for layer, right in exact.items())
        if error > HALF_ERROR_BOUND:
            raise self._wrong_by(error)
        self._checked_sizes.add(part.batch_size)

    def _wrong_by(self, error: float) -> DeviceError:
        if self.device.type == "mps":
            reference, hint = "a CPU", "use --device cpu, or a newer macOS or torch"
        else:
            reference = f"fp32 on this GPU, cuDNN {_cudnn()}"
            hint = "use --precision fp32 or another torch; see c3d-tools doctor"
        return DeviceError(
            f"{self.precision} is off by {error:.1%} from {reference}", subject=self.device, hint=hint
        )

    def _in_fp32(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run a few clips in fp32, always as many at a time."""
        exact = self._exact = self._exact or self._build(torch.float32, self._exact_device)
        parts = []
        with torch.inference_mode(), self._products(exact=True):
            for i in range(0, len(clips), _EXACT_BATCH):
                some = clips[i : i + _EXACT_BATCH]
                buffer = np.zeros((_EXACT_BATCH, *self.clip_shape), np.uint8)
                buffer[: len(some)] = some
                found = self._run(exact, self._input(buffer).to(self._exact_device))
                parts.append({layer: value[: len(some)].cpu().numpy() for layer, value in found.items()})
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in self.layers}

    def _input(self, clips: NDArray[np.uint8]) -> torch.Tensor:
        """Return float32 ([N,] T, H, W, 3): bytes go over the bus, the mean is subtracted on the device."""
        x = self._on_device(torch.from_numpy(clips)).to(torch.float32).sub_(self._mean)
        return x if self._std is None else x.div_(self._std)

    def _on_device(self, host: torch.Tensor) -> torch.Tensor:
        if self._copies is None:
            return host.to(self.device)
        # On a stream of its own a batch is copied while the one before is being computed.
        compute = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            sent = host.to(self.device, non_blocking=True)
        compute.wait_stream(self._copies)
        sent.record_stream(compute)
        return sent

    def _run(self, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        dtype = next(model.parameters()).dtype
        # (N, T, H, W, 3) seen as (N, 3, T, H, W) is channels_last_3d already: nothing is moved.
        x = x.to(dtype).permute(0, 4, 1, 2, 3).contiguous(memory_format=layout(x.device))
        found: dict[str, torch.Tensor] = model(x, self.layers)
        return {layer: value.float() for layer, value in found.items()}

    def _products(self, *, exact: bool = False) -> contextlib.AbstractContextManager[None]:
        """Say what fp32 means: TF32 or not is set here and never left to the version's default."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return on_gpu(self.device, tf32=self.precision == "tf32" and not exact)


def _relative_error(found: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """‖found - right‖/‖right‖ of the rows that are finite; the others are done again anyway."""
    kept = np.isfinite(found).all(axis=1)
    norm = float(np.linalg.norm(right[kept]))
    return float(np.linalg.norm(found[kept] - right[kept])) / max(norm, 1e-30)


def _cudnn() -> str:
    try:
        return str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    except RuntimeError:  # not for this GPU, or not the one that torch was built with
        return "unknown"
