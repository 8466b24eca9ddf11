"""One network on one device at one precision: uint8 clips in, float32 features out.

Every batch has the same shape, the last one padded with zeros, so that a clip's features do not
depend on which clips happen to share its batch: that makes an interrupted and resumed run equal an
uninterrupted one to the bit.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from c3d_extract.cpu_network import CLIPS_TOGETHER, CpuC3D
from c3d_extract.devices import in_one_line, layout, on_gpu
from c3d_extract.errors import DeviceError
from c3d_extract.model import C3D

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

__all__ = ["HALF_ERROR_BOUND", "Network", "Pending"]

HALF_ERROR_BOUND = 3e-2
"""Largest relative error ‖half - fp32‖/‖fp32‖ of the first clips on a GPU that is put down to rounding.

bf16 was measured at 0.5 % on fc6, 1.4 % in the worst of 417 clips (benchmarks/precision.py), fp16 at a
twentieth of that. More than twice as much means a broken kernel (cuDNN 9.10 to 9.14 can be silently wrong
in 3-D convolutions, pytorch#163539, #166643).
"""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = 8  # fc6 reads 134 MB of weights a batch: 6 ms a clip for 4 clips, 3 for 8, 2 for 16
_WIDE = 32  # filters of conv1a; narrower networks are faster as a whole batch at a time
_EXACT_BATCH = 4  # clips that are done again in fp32 together
_MIN_CUDA_BATCH, _MAX_CUDA_BATCH = 4, 64


class _Part(NamedTuple):
    """Clips that ran together: their features, which a GPU may still be working on."""

    clips: NDArray[np.uint8]
    features: Callable[[], dict[str, torch.Tensor]]
    done: torch.cuda.Event | None


class Pending:
    """A batch that is on its way through the network."""

    def __init__(self, network: Network, parts: list[_Part]) -> None:
        self._network = network
        self._parts = parts

    def result(self) -> dict[str, NDArray[np.float32]]:
        """Wait for it; return each layer's features, float32 (N, D)."""
        parts = [self._network._finished(part) for part in self._parts]  # noqa: SLF001 - two halves
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in parts[0]}


class Network:
    """A checkpoint's network, ready to be fed.

    Parameters
    ----------
    checkpoint
        Weights, mean and dialect.
    layers
        What is computed, in one pass.
    device, precision
        As `choose_device` and `choose_precision` gave them.
    batch_size
        Clips a pass, or None for what suits the device.

    Attributes
    ----------
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
        self._backed_off: list[str] = []
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
        self._unchecked = device.type == "mps" or (self._is_half and device.type == "cuda")
        wide = self._architecture.filters[0][0] >= _WIDE
        in_cache = device.type == "cpu" and wide
        with in_one_line(device):
            self._mean = torch.from_numpy(checkpoint.mean).permute(1, 2, 3, 0).contiguous().to(device)
            std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
            self._std = None if preprocessing.std == (1.0, 1.0, 1.0) else std
            self.batch_size = self._even(batch_size or self._suitable_batch())
            self._model = self._build_in_cache() if in_cache else self._build(_DTYPES[precision], device)
            self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if not self._is_half and not self._unchecked:
            self._weights.clear()  # nothing will be done again in fp32: 245 MB of C3D

    @property
    def warnings(self) -> list[str]:
        """What had to be done differently: overflows redone, batches halved."""
        redone = (
            [f"{self.n_overflowed} clips overflowed in {self.precision} and were done again in fp32"]
            if self.n_overflowed
            else []
        )
        return redone + self._backed_off

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

    def _suitable_batch(self) -> int:
        if self.device.type != "cuda":
            return max(_CPU_BATCH, CLIPS_TOGETHER * torch.get_num_threads())
        # The largest moment is conv1a: its output and its input, and as much again for the algorithm.
        frames, rows, columns = self._architecture.clip
        filters = self._architecture.filters[0][0]
        clip_bytes = 2 * (filters + 3) * frames * rows * columns * _DTYPES[self.precision].itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        size = int(np.clip(free // 2 // clip_bytes, _MIN_CUDA_BATCH, _MAX_CUDA_BATCH))
        # A power of two: a little more or less free memory must not give the next run other batches, for a
        # GPU takes other kernels for them, which round otherwise.
        return 1 << (size.bit_length() - 1)

    def _even(self, size: int) -> int:
        # A CPU's matrix product shares rows out between cores. With an odd share it sums the last ones in
        # another order, and a clip's features would depend on its place.
        return size if self.device.type != "cpu" or size <= 4 else -(-size // 4) * 4

    def new_batch(self) -> NDArray[np.uint8]:
        """Return room for a batch, uint8 (batch_size, 16, 112, 112, 3), from which a GPU can copy by itself.

        torch keeps page-locked memory that was given back, so that every batch after the first few is
        written into the same pages.
        """
        shape = (self.batch_size, *self.clip_shape)
        room: NDArray[np.uint8] = torch.empty(
            shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        ).numpy()
        return room

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
                    return Pending(self, [self._start(clips[i : i + size], min(size, n - i)) for i in starts])
                except RuntimeError as error:
                    if size == 1 or not _is_out_of_memory(error):
                        raise
            # Out here the error is gone, and with it its hold on all tensors of the batch that failed.
            self._back_off()

    def _back_off(self) -> None:
        self.batch_size //= 2
        self._backed_off.append(f"{self.device}: out of memory; going on with batches of {self.batch_size}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _start(self, clips: NDArray[np.uint8], n: int) -> _Part:
        with torch.inference_mode(), self._products():
            if isinstance(self._model, CpuC3D):
                inputs = [functools.partial(self._input, clip) for clip in clips[:n]]
                return _Part(clips[:n], self._model.start(inputs), None)
            if len(clips) < self.batch_size:
                room = self.new_batch()
                room[:n], room[n:] = clips[:n], 0
                clips = room
            found = self._run(self._model, self._input(clips))
            features = {layer: value[:n] for layer, value in found.items()}
            return self._sent_back(clips[:n], features)

    def _sent_back(self, clips: NDArray[np.uint8], features: dict[str, torch.Tensor]) -> _Part:
        """Copy results to the host behind the work, so that nobody waits for them yet."""
        if self.device.type != "cuda":
            return _Part(clips, lambda: features, None)
        sent = {layer: _to_host(value) for layer, value in features.items()}
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))
        return _Part(clips, lambda: sent, done)

    def _finished(self, part: _Part) -> dict[str, NDArray[np.float32]]:
        with in_one_line(self.device):
            if part.done is not None:
                part.done.synchronize()
            with torch.inference_mode():
                features = {layer: value.cpu().numpy() for layer, value in part.features().items()}
            if self._unchecked:
                self._compare(part.clips, features)
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
        self.n_overflowed += len(places)
        return features

    def _compare(self, clips: NDArray[np.uint8], features: dict[str, NDArray[np.float32]]) -> None:
        """Hold the first batch on a GPU against fp32, its last clip too: large batches break at their end."""
        self._unchecked = False
        places = np.unique(np.linspace(0, len(clips) - 1, _EXACT_BATCH).astype(np.intp))
        exact = self._in_fp32(clips[places])
        self._exact = None  # fp32 weights are built again if a clip overflows
        error = max(_relative_error(features[layer][places], right) for layer, right in exact.items())
        if error > HALF_ERROR_BOUND:
            metal = self.device.type == "mps"
            reference = "a CPU" if metal else f"fp32 on this GPU, cuDNN {_cudnn()}"
            raise DeviceError(
                f"{self.precision} is off by {error:.1%} from {reference}",
                subject=self.device,
                hint="use --device cpu, or a newer macOS or torch"
                if metal
                else "use --precision fp32 or another torch; see c3d-tools doctor",
            )

    def _in_fp32(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run a few clips in fp32, always as many at a time."""
        if self._exact is None:
            self._exact = self._build(torch.float32, self._exact_device)
        parts = []
        with torch.inference_mode(), self._products():
            for i in range(0, len(clips), _EXACT_BATCH):
                some = clips[i : i + _EXACT_BATCH]
                room = np.zeros((_EXACT_BATCH, *self.clip_shape), np.uint8)
                room[: len(some)] = some
                found = self._run(self._exact, self._input(room).to(self._exact_device))
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

    def _products(self) -> contextlib.AbstractContextManager[None]:
        """Say what fp32 means: TF32 or not is set here and never left to the version's default."""
        return (
            on_gpu(self.device, tf32=self.precision == "tf32") if self._copies else contextlib.nullcontext()
        )


def _to_host(value: torch.Tensor) -> torch.Tensor:
    room = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    return room.copy_(value, non_blocking=True)


def _relative_error(found: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """‖found - right‖/‖right‖ of the rows that are finite; the others are done again anyway."""
    kept = np.isfinite(found).all(axis=1)
    norm = float(np.linalg.norm(right[kept]))
    return float(np.linalg.norm(found[kept] - right[kept])) / max(norm, 1e-30)


def _is_out_of_memory(error: RuntimeError) -> bool:
    # cuDNN and cuBLAS say it in words of their own, and Metal raises a plain RuntimeError.
    signs = ("out of memory", "ALLOC_FAILED", "unable to find an engine", "valid cuDNN algorithm")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def _cudnn() -> str:
    return str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
