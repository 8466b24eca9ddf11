"""The batch size, and what the last digits of features depend on."""

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

_EVEN_BATCH = 4  # larger batches on a CPU are multiples of this; their size does not affect features
_MIN_CUDA_BATCH, _MAX_CUDA_BATCH = 4, 64


def batch_size_for(
    backbone: Backbone, device: torch.device, precision: Precision, requested: int | None = None
) -> int:
    """Return the number of clips per batch: ``requested``, or one that suits the device.

    It depends on the model of a GPU and not on its free memory: kernels for other batch sizes round
    differently, and a resumed run must use the same ones.
    """
    if device.type == "cuda":
        return requested or _gpu_batch(backbone, device, precision)
    size = requested or backbone.cpu_batch_size(torch.get_num_threads())
    # A CPU's matrix product divides rows among cores. With an odd number of rows per core it sums the last
    # ones in another order, and a clip's features would depend on its position in the batch.
    return size if device.type != "cpu" or size <= _EVEN_BATCH else -(-size // _EVEN_BATCH) * _EVEN_BATCH


def _gpu_batch(backbone: Backbone, device: torch.device, precision: Precision) -> int:
    clip_bytes = backbone.peak_elements() * DTYPES[precision].itemsize
    with device_errors(device):
        total = torch.cuda.get_device_properties(device).total_memory
    size = int(np.clip(total // 2 // clip_bytes, _MIN_CUDA_BATCH, _MAX_CUDA_BATCH))
    # A power of two: a little reserved memory does not change it, and it can be halved repeatedly.
    return 1 << (size.bit_length() - 1)


def rounding_factors(versions: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return what the last digits of features depend on besides settings: device models, batch sizes.

    ``versions`` contains ``device`` and ``batch_size`` as in a feature file, comma-separated lists.
    """
    models = [name.partition(" ")[2] or name for name in versions.get("device", "").split(", ")]
    sizes = versions.get("batch_size", "").split(", ")
    if "cpu" in models:
        sizes = ["any" if size.isdigit() and int(size) >= _EVEN_BATCH else size for size in sizes]
    return {(model, size) for model in models for size in sizes}
