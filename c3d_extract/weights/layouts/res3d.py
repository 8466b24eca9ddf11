"""Names of Res3D-18 in the models of C3D v1.1, and its normalisations.

Reference: the prototxt for feature extraction of C3D v1.1. Layers are ``conv1``, ``res{stage}{block}_branch``
with ``1`` (the shortcut), ``2a`` or ``2b``, and ``fc8``. After each convolution follow a ``BatchNorm``
(``bn…``: sums of means and of variances, and their number) and a ``Scale`` (``scale…``).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.models.torchvision import FURTHER_NETWORKS
from c3d_extract.weights.layouts.contents import Contents, Shape, TensorSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Layers = Mapping[str, Sequence[TensorSource]]

__all__ = ["LAYOUT_NAME", "is_res3d", "res3d_contents"]

LAYOUT_NAME = "caffe-res3d"
_BRANCHES = {"downsample": "1", "conv1": "2a", "conv2": "2b"}


def is_res3d(layers: Layers) -> bool:
    """Return whether these are the layers of a Res3D-18, or of a part of one."""
    return "res2a_branch2a" in layers


def res3d_contents(layers: Layers) -> Contents:
    """Return the tensors, under torchvision's names, of layers with blobs of any shape.

    Raises
    ------
    WeightsError
        If a layer is missing, or a blob is of another shape than the network's.
    """
    classifier = layers.get("fc8", ())
    n_classes = classifier[0].shape[-2] if classifier and len(classifier[0].shape) > 1 else 1
    network = replace(FURTHER_NETWORKS["res3d_18"], n_classes=max(1, n_classes))
    shapes = network.state_shapes()
    sources: dict[str, TensorSource] = {}
    for name, shape in shapes.items():
        layer, number = _blob_of(name)
        blob = _shaped(layers, layer, number, shape)
        if name.rpartition(".")[2] in {"running_mean", "running_var"}:
            count = _shaped(layers, layer, 2, (1,))
            blob = TensorSource(shape, partial(_average, blob, count))
        sources[name] = blob
    return Contents(LAYOUT_NAME, sources, network=network)


def _blob_of(name: str) -> tuple[str, int]:
    """Return the layer and the number of the blob that holds a tensor of torchvision's."""
    *path, module, kind = name.split(".")
    if module == "fc":
        return "fc8", ["weight", "bias"].index(kind)
    # stem.0 and stem.1, or layer1.0.conv1.0 and layer1.0.conv1.1: a convolution and its normalisation.
    if path[0] == "stem":
        convolution, of = "conv1", "_conv1"
    else:
        of = f"{int(path[0][-1]) + 1}{'ab'[int(path[1])]}_branch{_BRANCHES[path[2]]}"
        convolution = f"res{of}"
    if module == "0":
        return convolution, 0
    if kind in {"weight", "bias"}:
        return f"scale{of}", ["weight", "bias"].index(kind)
    return f"bn{of}", ["running_mean", "running_var"].index(kind)


def _shaped(layers: Layers, layer: str, number: int, shape: Shape) -> TensorSource:
    """Return one blob in the shape of the network; old blobs have axes of length 1 in front."""
    blobs = layers.get(layer, ())
    if number >= len(blobs):
        raise WeightsError(f"not a whole Res3D-18: {layer} has {len(blobs)} blobs, not {number + 1} or more")
    stored, read = blobs[number]
    if stored[: -len(shape)] != (1,) * (len(stored) - len(shape)) or stored[-len(shape) :] != shape:
        sizes, wanted = ("x".join(map(str, one)) for one in (stored, shape))
        raise WeightsError(f"{layer} has a blob of shape {sizes}, but the network needs {wanted}")
    return TensorSource(shape, lambda: np.asarray(read()).reshape(shape))


def _average(total: TensorSource, count: TensorSource) -> NDArray[np.float32]:
    """Return a running average as Caffe's BatchNorm computes it: times the inverse, in float32."""
    n = np.float32(np.asarray(count.read())[0])
    with np.errstate(all="ignore"):  # values that are not finite are refused when they are read
        inverse = np.float32(0) if n == 0 else np.float32(1) / n
        average: NDArray[np.float32] = np.asarray(total.read()) * inverse
    return average
