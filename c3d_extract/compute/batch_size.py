"""How many clips a pass takes, and what the last digits of features depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from c3d_extract.compute.devices import device_errors
from c3d_extract.compute.precision import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.base import Backbone
    from c3d_extract.settings import Precision

__all__ = ["batch_size_for", "rounding_factors"]

_EVEN_BATCH = 4  # from here on a batch on a CPU is a multiple of this, and its size changes no bit
_MIN_CUDA_BATCH, _MAX_CUDA_BATCH = 4, 64


def batch_size_for(
    backbone: Backbone, device: torch.device, precision: Precision, asked: int | None = None
) -> int:
    """Return how many clips a pass takes: as many as ``asked``, or what suits the device.

    It follows from the model of a GPU and not from the memory that happens to be free: other batch
    sizes take other kernels, which round differently, and a resumed run must use those of the run before.
    """
    if device.type == "cuda":
        return asked or _gpu_batch(backbone, device, precision)
    size = asked or backbone.cpu_batch_size(torch.get_num_threads())
    # A CPU's matrix product shares rows out between cores. With an odd share it sums the last ones in
    # another order, and a clip's features would depend on its place.
    return size if device.type != "cpu" or size <= _EVEN_BATCH else -(-size // _EVEN_BATCH) * _EVEN_BATCH


def _gpu_batch(backbone: Backbone, device: torch.device, precision: Precision) -> int:
    clip_bytes = backbone.peak_elements() * DTYPES[precision].itemsize
    with device_errors(device):
        total = torch.cuda.get_device_properties(device).total_memory
    size = int(np.clip(total // 2 // clip_bytes, _MIN_CUDA_BATCH, _MAX_CUDA_BATCH))
    # A power of two: drivers and error correction take a little of the memory, and halves are whole.
    return 1 << (size.bit_length() - 1)


def rounding_factors(versions: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return what the last digits of features depend on, beside settings: models of devices, batch sizes.

    ``versions`` holds ``device`` and ``batch_size`` as a feature file does, with commas between several.
    """
    models = [name.partition(" ")[2] or name for name in versions.get("device", "").split(", ")]
    sizes = versions.get("batch_size", "").split(", ")
    if "cpu" in models:
        sizes = ["any" if size.isdigit() and int(size) >= _EVEN_BATCH else size for size in sizes]
    return {(model, size) for model in models for size in sizes}
