"""C3D with batch normalisation, as VMZ (Caffe2) keeps it: a pickle of blobs, which is read as arrays alone.

Reference: facebookresearch/VMZ, ``c3d_model.py`` for the network, ``minidb_to_pickle.py`` for the file. Each
convolution ``conv1a`` is followed by a normalisation ``conv1a_bn``. Suffixes of blobs are ``_w`` and ``_b``,
and of a normalisation ``_s`` (scale), ``_b``, ``_rm`` and ``_riv`` (running mean and, whatever its name says,
variance). The classifier is ``last_out_L`` with its number of classes. Axes are those of the model.

The normalisation is folded into the convolution before it, in float64.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.contents import CONVOLUTIONS, Contents, Layout, TensorSource
from c3d_extract.weights.layouts.pickles import PickledArray, as_text, load_arrays, read_mapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights.registry import Fc6Order

    Blobs = Mapping[str, NDArray[np.floating[Any]]]

__all__ = ["LAYOUT", "LAYOUT_NAME"]

LAYOUT_NAME = "caffe2-vmz"
_EPSILON = 1e-3  # of every normalisation in c3d_model.py
_CLASSIFIER = re.compile(r"(last_out_L\d+)_w")
_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # a legacy file of torch.save begins with it


@contextmanager
def _open_caffe2(path: Path, _fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open a pickle of Caffe2 blobs."""
    blobs = _blobs(path)
    sources: dict[str, TensorSource] = {}
    for layer in CONVOLUTIONS:
        if f"{layer}_w" in blobs:
            sources |= _folded(layer, blobs)
    for layer, name in {"fc6": "fc6", "fc7": "fc7", "fc8": _classifier(blobs)}.items():
        for part in ("weight", "bias"):
            blob = blobs.get(f"{name}_{part[0]}")
            if blob is not None:
                sources[f"{layer}.{part}"] = TensorSource(blob.shape, partial(np.asarray, blob))
    if not sources:
        names = ", ".join(sorted(blobs)[:4])
        raise WeightsError(f"a pickle of other arrays than VMZ's C3D; it holds {names or 'none'}")
    yield Contents(LAYOUT_NAME, sources)


def _blobs(path: Path) -> Blobs:
    held = read_mapped(path, load_arrays, "pickle")
    for key in ("blobs", b"blobs"):
        held = held.get(key, held) if isinstance(held, dict) else held
    if not isinstance(held, dict):
        raise WeightsError("a pickle, but not of a dictionary of arrays")
    return {as_text(key): value.array for key, value in held.items() if isinstance(value, PickledArray)}


def _classifier(blobs: Blobs) -> str:
    found = [match[1] for name in blobs if (match := _CLASSIFIER.fullmatch(name))]
    if len(found) > 1:
        raise WeightsError(f"holds {len(found)} classifiers: {', '.join(sorted(found)[:4])}")
    return found[0] if found else ""


def _folded(layer: str, blobs: Blobs) -> dict[str, TensorSource]:
    """Return weight and bias of a convolution with its normalisation folded into them."""
    weight = blobs[f"{layer}_w"]
    normalisation = [blobs.get(f"{layer}_bn_{part}") for part in ("s", "b", "rm", "riv")]
    bias = blobs.get(f"{layer}_b", np.zeros(weight.shape[:1], np.float32))
    vectors = [vector for vector in (*normalisation, bias) if vector is not None]
    if len(vectors) < 5 or weight.ndim != 5 or any(vector.shape != weight.shape[:1] for vector in vectors):
        raise WeightsError(f"{layer} has no normalisation that fits it")
    with np.errstate(all="ignore"):  # values that are not finite are refused when they are read
        scale, shift, mean, variance, bias = (vector.astype(np.float64) for vector in vectors)
        factor = scale / np.sqrt(variance + _EPSILON)
        folded = (bias - mean) * factor + shift
    return {
        f"{layer}.weight": TensorSource(weight.shape, partial(_scaled, weight, factor)),
        f"{layer}.bias": TensorSource(folded.shape, partial(np.asarray, folded)),
    }


def _scaled(weight: NDArray[np.floating[Any]], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        return weight * factor.reshape(-1, 1, 1, 1, 1)


def _has_signature(start: bytes) -> bool:
    return start.startswith(b"\x80") and _TORCH_MAGIC not in start


LAYOUT = Layout(_has_signature, _open_caffe2)
