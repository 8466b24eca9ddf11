"""Hashes of a network's tensors, which are equal for every file that holds the same numbers.

The same weights circulate in files of many layouts, each with a hash of its own. What is hashed here is the
network's own form: the names and the order of `Backbone.state_shapes`, float32, little endian, C order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from c3d_extract.models.base import Backbone

__all__ = ["tensor_hashes"]


def tensor_hashes(
    backbone: Backbone, state: Mapping[str, torch.Tensor], layers: Sequence[str]
) -> dict[str, str]:
    """Return the sha256 of the tensors that each layer depends on.

    A file without the classifier can give the same descriptor as one with it, so each layer has its own hash.

    Parameters
    ----------
    state
        float32, with at least the tensors that ``layers`` need.
    layers
        Any of the network's layers.
    """
    hasher, hashed, found = hashlib.sha256(), set[str](), {}
    # In the network's order, in which each layer's tensors follow those of the layers before it: one pass.
    for layer in backbone.layers:
        if layer not in layers:
            continue
        for name, shape in backbone.state_shapes([layer]).items():
            if name not in hashed:
                hashed.add(name)
                hasher.update(f"{name} {'x'.join(map(str, shape))}\n".encode())
                hasher.update(np.ascontiguousarray(state[name].numpy(), "<f4").data)
        found[layer] = hasher.copy().hexdigest()
    return found
