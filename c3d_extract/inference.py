"""One network on one device at one precision: uint8 clips in, float32 features out.

Every batch has the same shape, the last one padded with zeros, so that a clip's features do not
depend on which clips happen to share its batch: that makes an interrupted and resumed run equal an
uninterrupted one to the bit.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from c3d_extract.errors import DeviceError
from c3d_extract.model import C3D
from c3d_extract.settings import PRECISIONS, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from c3d_extract.weights import Checkpoint

__all__ = ["HALF_ERROR_BOUND", "Network", "choose_device", "choose_precision", "usable_cores"]

HALF_ERROR_BOUND = 1e-2
"""Largest relative error ‖half - fp32‖/‖fp32‖ of a batch of features that is taken in half precision.

bf16 has 8 bits of mantissa and was measured at 0.3 % on fc6; three times that means a broken kernel
(cuDNN 9.10 to 9.14 can be silently wrong in 3-D convolutions, pytorch#163539, #166643).
"""

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BATCH = (
    4  # batch 1 leaves the memory layout ambiguous and falls back to slow kernels; more only costs memory
)
_MIN_CUDA_BATCH, _MAX_CUDA_BATCH = 4, 64


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
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
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
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("no Metal device is usable here", subject=f"--device {name}")
    if device.type not in {"cpu", "cuda", "mps"}:
        raise DeviceError("not supported; known: auto, cpu, cuda, cuda:N, mps", subject=f"--device {name}")
    return device


def choose_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Turn ``auto`` into the fastest precision that keeps the error bound, and check the others.

    CUDA: fp16, whose products are summed in fp32; CPU: bf16 where the processor multiplies it, else
    fp32; Metal: fp32.
    """
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if name not in PRECISIONS:
        raise DeviceError(f"unknown; known: auto, {', '.join(PRECISIONS)}", subject=f"--precision {name}")
    if name in {"tf32", "fp16"} and device.type == "cpu":
        raise DeviceError("only on a GPU; a CPU takes fp32 or bf16", subject=f"--precision {name}")
    if name == "tf32" and device.type != "cuda":
        raise DeviceError("only on an NVIDIA GPU", subject=f"--precision {name}")
    return name


def _cpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32, so only processors with bf16 products count.
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe: Callable[[], bool] | None = getattr(torch.cpu, check, None)
        if probe is not None and probe():
            return True
    return False


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
        self.warnings: list[str] = []
        self._checkpoint = checkpoint
        self._model = self._build(_DTYPES[precision])
        preprocessing = checkpoint.preprocessing
        self.clip_shape = (checkpoint.architecture.clip[0], *preprocessing.crop, 3)
        mean = torch.from_numpy(checkpoint.mean)[None].to(device)
        self._mean = mean.contiguous(memory_format=torch.channels_last_3d)
        std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device).view(1, 3, 1, 1, 1)
        self._std = None if preprocessing.std == (1.0, 1.0, 1.0) else std
        self._reference: C3D | None = None
        self._unchecked = precision in {"fp16", "bf16"} and device.type == "cuda"
        self.batch_size = batch_size or self._suitable_batch()

    def _build(self, dtype: torch.dtype) -> C3D:
        with torch.device("meta"):
            model = C3D(self._checkpoint.architecture, self.layers)
        state = dict(self._checkpoint.state)
        if self._checkpoint.preprocessing.colour == "rgb":
            # Crops come as B, G, R. Turning round the first kernels' inputs costs nothing a batch.
            state["conv1a.weight"] = state["conv1a.weight"].flip(1)
        model.load_state_dict(state, assign=True)
        model = model.to(self.device, dtype).to(memory_format=torch.channels_last_3d)
        return model.eval().requires_grad_(False)

    def _suitable_batch(self) -> int:
        if self.device.type != "cuda":
            return _CPU_BATCH
        # The largest moment is conv1a: its output and its input, and as much again for the algorithm.
        frames, rows, columns = self._checkpoint.architecture.clip
        filters = self._checkpoint.architecture.filters[0][0]
        clip_bytes = 2 * (filters + 3) * frames * rows * columns * _DTYPES[self.precision].itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(np.clip(free // 2 // clip_bytes, _MIN_CUDA_BATCH, _MAX_CUDA_BATCH))

    def __call__(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return each layer's features, float32 (N, D), of ``clips`` uint8 (N, 16, 112, 112, 3), B, G, R.

        N is at most ``batch_size``. A batch that overflows in half precision is done again in fp32.
        When a GPU's memory runs out, the batch is halved and ``batch_size`` with it.

        Raises
        ------
        DeviceError
            Where not even one clip fits into the device's memory.
        """
        while True:
            try:
                return self._in_batches(clips)
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise DeviceError("out of memory with a single clip", subject=self.device) from error
                self.batch_size //= 2
                self.warnings.append(
                    f"{self.device}: out of memory; going on with batches of {self.batch_size}"
                )
                torch.cuda.empty_cache()

    def _in_batches(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        size = self.batch_size
        parts = [self._one_batch(clips[i : i + size]) for i in range(0, len(clips), size)]
        if len(parts) == 1:
            return parts[0]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in self.layers}

    def _one_batch(self, clips: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        n = len(clips)
        if n < self.batch_size:
            clips = np.concatenate([clips, np.zeros((self.batch_size - n, *clips.shape[1:]), np.uint8)])
        with torch.inference_mode(), self._products():
            x = self._input(clips)
            found = self._run(self._model, x)
            if self.precision in {"fp16", "bf16"}:
                found = self._checked(x, found)
            return {layer: found[layer][:n].cpu().numpy() for layer in self.layers}

    def _input(self, clips: NDArray[np.uint8]) -> torch.Tensor:
        # uint8 (N, T, H, W, 3) seen as (N, 3, T, H, W) is channels_last_3d already: nothing is moved.
        host = torch.from_numpy(clips)
        if self.device.type == "cuda":
            host = host.pin_memory()
        x = host.to(self.device, non_blocking=True).permute(0, 4, 1, 2, 3).to(torch.float32) - self._mean
        return x if self._std is None else x / self._std

    def _run(self, model: C3D, x: torch.Tensor) -> dict[str, torch.Tensor]:
        dtype = next(model.parameters()).dtype
        found: dict[str, torch.Tensor] = model(x.to(dtype), self.layers)
        return {layer: value.float() for layer, value in found.items()}

    def _products(self) -> contextlib.AbstractContextManager[None]:
        """Say what fp32 means: TF32 or not is set here and never left to the version's default."""
        return _tf32(self.precision == "tf32") if self.device.type == "cuda" else contextlib.nullcontext()

    def _checked(self, x: torch.Tensor, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Do a batch again in fp32 where it overflowed; compare the first one on a GPU with fp32."""
        finite = all(bool(torch.isfinite(value).all()) for value in found.values())
        if finite and not self._unchecked:
            return found
        exact = self._run(self._exact_model(), x)
        if not finite:
            self.warnings.append(f"a batch overflowed in {self.precision} and was done again in fp32")
            return exact
        self._unchecked = False
        error = max(
            float((found[k] - exact[k]).norm() / exact[k].norm().clamp_min(1e-30)) for k in self.layers
        )
        if error > HALF_ERROR_BOUND:
            raise DeviceError(
                f"{self.precision} is off by {error:.1%} from fp32 on this GPU, cuDNN {_cudnn()}",
                subject=self.device,
                hint="use --precision fp32 or another torch; see c3d-tools doctor",
            )
        if self.device.type == "cuda":
            self._reference = None  # fp32 weights are built again if a batch overflows
        return found

    def _exact_model(self) -> C3D:
        if self._reference is None:
            self._reference = self._build(torch.float32)
        return self._reference


def _cudnn() -> str:
    return str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    conv, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
