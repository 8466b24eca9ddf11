"""The network in fp32: for clips that overflow in half precision, and to check a device's kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from c3d_extract.compute.cuda import compute_on
from c3d_extract.compute.forward import build_model, forward
from c3d_extract.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from c3d_extract.compute.clip_frames import ClipCrops
    from c3d_extract.compute.forward import ClipInput
    from c3d_extract.models.base import Backbone
    from c3d_extract.settings import Precision

__all__ = ["HALF_ERROR_BOUND", "REFERENCE_BATCH", "Fp32Reference", "check_error"]

HALF_ERROR_BOUND = 3e-2
"""Largest relative error ‖found - fp32‖/‖fp32‖ of the first clips on a GPU that counts as rounding.

bf16 was measured at 0.5 % on fc6, 1.4 % in the worst of 417 clips (benchmarks/precision.py), fp16 at 1/20
of that, and TF32 has as many digits as fp16. More than twice as much means a broken kernel: cuDNN 9.8
to 9.14 can be silently wrong in 3-D convolutions in half precision (pytorch#163539, #166643), 9.10.2 to
9.15 in TF32 (pytorch#167024). torch works around the first (`ConvParams::use_cudnn` in its Convolution.cpp),
but not for channels_last_3d, which is used here.
"""

REFERENCE_BATCH = 4
"""Batch size in fp32, constant so that results do not depend on the number of clips."""


class Fp32Reference:
    """A network in fp32, built when it is first needed.

    Parameters
    ----------
    backbone, layers
        The network, and the layers to compute.
    weights
        float32 tensors; this object keeps references to them.
    to_input
        Converts clips to the network's input.
    device
        The device of the network to check. Metal's fp32 has been silently wrong (pytorch#197114), so the
        reference for a Metal device runs on the CPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[str],
        weights: Mapping[str, Tensor],
        to_input: ClipInput,
        device: torch.device,
    ) -> None:
        self._backbone, self._layers, self._weights = backbone, tuple(layers), weights
        self._to_input = to_input
        self._input_device = device
        self._device = torch.device("cpu") if device.type == "mps" else device
        self._model: nn.Module | None = None

    def __call__(
        self, clips: NDArray[np.uint8], crops: ClipCrops | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return each layer's features, float32 (N, D), of uint8 (N, T, H, W, 3), cut from ``crops``."""
        if self._model is None:
            self._model = build_model(
                self._backbone, self._layers, self._weights, dtype=torch.float32, device=self._device
            )
        with torch.inference_mode(), compute_on(self._device, tf32=False):
            starts = range(0, len(clips), REFERENCE_BATCH)
            parts = [self._run(self._model, clips, slice(i, i + REFERENCE_BATCH), crops) for i in starts]
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in self._layers}

    def _run(
        self, model: nn.Module, every: NDArray[np.uint8], part: slice, crops: ClipCrops | None
    ) -> dict[str, NDArray[np.float32]]:
        clips = every[part]
        crops = None if crops is None else crops.take(range(*part.indices(len(every))))
        buffer = np.zeros((REFERENCE_BATCH, *clips.shape[1:]), np.uint8)
        buffer[: len(clips)] = clips
        x = self._to_input(torch.from_numpy(buffer).to(self._input_device), crops)
        found = forward(model, x.to(self._device), self._layers)
        return {layer: value[: len(clips)].cpu().numpy() for layer, value in found.items()}

    def release(self) -> None:
        """Free the network's memory; it is rebuilt when it is next needed."""
        self._model = None


def check_error(
    found: Mapping[str, NDArray[np.float32]],
    expected: Mapping[str, NDArray[np.float32]],
    device: torch.device,
    precision: Precision,
) -> None:
    """Raise DeviceError if features differ from the reference by more than rounding explains."""
    error = max(_relative_error(found[layer], rows) for layer, rows in expected.items())
    if error <= HALF_ERROR_BOUND:
        return
    if device.type == "mps":
        reference, hint = "a CPU", "use --device cpu, or a newer macOS or torch"
    else:
        reference = f"fp32 on this GPU, cuDNN {_cudnn_version()}"
        hint = "use --precision fp32 or another torch; see c3d-tools doctor"
    raise DeviceError(f"{precision} is off by {error:.1%} from {reference}", subject=device, hint=hint)


def _relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return ‖found - expected‖/‖expected‖ of the finite rows; the others are computed again in fp32."""
    kept = np.isfinite(found).all(axis=1)
    norm = float(np.linalg.norm(expected[kept]))
    return float(np.linalg.norm(found[kept] - expected[kept])) / max(norm, 1e-30)


def _cudnn_version() -> str:
    try:
        return str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    except RuntimeError:  # unsupported GPU, or another version than torch was built with
        return "unknown"
