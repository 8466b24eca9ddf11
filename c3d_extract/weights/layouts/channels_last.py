"""TensorFlow's axes to the model's: kernels (T, H, W, in, out), matrices (in, out), maps T, H, W, C.

The inputs of fc6 come from the flattened pool5 map. A network converted from Caffe may keep Caffe's order
(C, H, W: its code transposes the map before flattening) or be permuted to TensorFlow's (H, W, C). Both
exist, the shapes are equal, and nothing in the file distinguishes them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.contents import CONVOLUTIONS, LINEAR, TensorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.weights.registry import Fc6Order

__all__ = ["CHANNELS_LAST_LAYOUTS", "Array", "layer_names", "pairs_of", "to_sources"]

CHANNELS_LAST_LAYOUTS = ("keras-tensorflow", "tensorflow-npy")
"""The layouts in which the order of fc6's inputs is not known."""

_POOL5_SIDE = 4  # rows and columns of the pool5 map


class Array(NamedTuple):
    """An array of a file: its stored shape, and a function that reads it as floating-point numbers."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.floating[Any]]]


def layer_names() -> dict[str, str]:
    """Return a mapping from ports' layer names (``conv1``, ``c1``, ``d1`` …) to the model's."""
    short = ("c1", "c2", "c3a", "c3b", "c4a", "c4b", "c5a", "c5b")
    keras = ("conv1", "conv2", *CONVOLUTIONS[2:])
    names = {
        stored: layer
        for row in (short, keras, CONVOLUTIONS)
        for stored, layer in zip(row, CONVOLUTIONS, strict=True)
    }
    return names | {name: name for name in LINEAR} | {"d1": "fc6", "d2": "fc7", "out": "fc8"}


def pairs_of(named: Iterable[tuple[str, Array]]) -> dict[str, tuple[Array, Array]]:
    """Return (weight, bias) of each layer, distinguished by their number of axes."""
    found: dict[str, list[Array]] = {}
    for layer, array in named:
        found.setdefault(layer, []).append(array)
    pairs = {}
    for layer, arrays in found.items():
        n_axes = 5 if layer in CONVOLUTIONS else 2
        weights = [array for array in arrays if len(array.shape) == n_axes]
        biases = [array for array in arrays if len(array.shape) == 1]
        if (len(weights), len(biases), len(arrays)) != (1, 1, 2):
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise WeightsError(f"{layer} holds arrays of shapes {shapes}, not one weight and one bias")
        pairs[layer] = weights[0], biases[0]
    if not pairs:
        raise WeightsError("no arrays under the names of a known C3D layout")
    return pairs


def to_sources(pairs: dict[str, tuple[Array, Array]], fc6_order: Fc6Order | None) -> dict[str, TensorSource]:
    """Return the model's tensors; reading fc6 requires its order."""
    sources = {}
    for layer, (weight, bias) in pairs.items():
        if layer in CONVOLUTIONS:
            t, h, w, n_in, n_out = weight.shape
            sources[f"{layer}.weight"] = TensorSource((n_out, n_in, t, h, w), partial(_kernel, weight))
        else:
            read = partial(_fc6, weight, fc6_order) if layer == "fc6" else partial(_matrix, weight)
            sources[f"{layer}.weight"] = TensorSource(weight.shape[::-1], read)
        sources[f"{layer}.bias"] = TensorSource(bias.shape, bias.read)
    return sources


def _kernel(array: Array) -> NDArray[np.floating[Any]]:
    return array.read().transpose(4, 3, 0, 1, 2)


def _matrix(array: Array) -> NDArray[np.floating[Any]]:
    return array.read().T


def _fc6(array: Array, order: Fc6Order | None) -> NDArray[np.floating[Any]]:
    if order is None:
        raise WeightsError(
            "keeps channels last and does not say in which order fc6 takes the pool5 map",
            hint="`c3d-tools weights verify` measures it; then `c3d-tools weights convert` with --fc6-order",
        )
    matrix = array.read()  # (inputs, outputs)
    if order == "chw":
        return matrix.T
    n_channels, rest = divmod(len(matrix), _POOL5_SIDE**2)
    if rest:
        raise WeightsError(f"fc6 takes {len(matrix)} inputs, which is no {_POOL5_SIDE}x{_POOL5_SIDE} map")
    maps = matrix.reshape(_POOL5_SIDE, _POOL5_SIDE, n_channels, -1)  # H, W, C, outputs
    return maps.transpose(3, 2, 0, 1).reshape(matrix.shape[::-1])
