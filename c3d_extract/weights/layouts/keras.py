"""Keras h5 weights: Keras 2 on TensorFlow (channels last), Keras 1 on Theano (channels first, mirrored).

Theano computes convolutions and others cross-correlations, so its kernels are mirrored in T, H and W; Keras 1
stored them unchanged. Keras from 1.2 on records the writer in the attribute ``backend``; without it,
channels first means Theano.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.hdf5 import (
    RefusedError,
    attributes_of,
    errors_as,
    group_in,
    kind_in,
    member_names,
    numbers_in,
    open_hdf5,
)
from c3d_extract.weights.layouts.channels_last import Array, layer_names, pairs_of, to_sources
from c3d_extract.weights.layouts.contents import CONVOLUTIONS, Contents, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.hdf5 import Dataset, File, Group
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["LAYOUT"]

_MAX_DEPTH = 4  # Keras nests a layer's arrays in one or two groups of its name


@contextmanager
def _open_keras(path: Path, fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open an h5 file written by ``save_weights`` or ``save``."""
    with ExitStack() as stack:
        with _damage_as_weights_error():
            contents = _contents(stack.enter_context(open_hdf5(path)), fc6_order)
        yield contents


def _damage_as_weights_error() -> AbstractContextManager[None]:
    return errors_as(WeightsError, "not a readable Keras h5 file")


def _contents(file: File, fc6_order: Fc6Order | None) -> Contents:
    root = group_in(file, "model_weights") if "model_weights" in member_names(file) else file
    names = layer_names()
    arrays = [
        (names[group], Array(dataset.shape, partial(_read, dataset)))
        for group in member_names(root)
        if group in names
        for dataset in _datasets(group_in(root, group), {root})
    ]
    pairs = pairs_of(arrays)
    if not _channels_first(pairs):
        return Contents("keras-tensorflow", to_sources(pairs, fc6_order))
    flipped = attributes_of(root, known={"backend"}).get("backend", "theano") == "theano"
    for layer in CONVOLUTIONS:
        if layer in pairs:
            weight, bias = pairs[layer]
            pairs[layer] = (
                Array(tuple(weight.shape[i] for i in (2, 3, 4, 1, 0)), partial(_last, weight, flipped)),
                bias,
            )
    return Contents("keras-theano", to_sources(pairs, fc6_order or "chw"))


def _datasets(group: Group, seen: set[Group], depth: int = 0) -> Iterator[Dataset]:
    """Yield the arrays in a group and its subgroups, each group once, because links may be cyclic."""
    if group in seen:
        return
    seen.add(group)
    for name in member_names(group):
        if kind_in(group, name) == "dataset":
            yield numbers_in(group, name)
        elif depth < _MAX_DEPTH:
            yield from _datasets(group_in(group, name), seen, depth + 1)


def _read(dataset: Dataset) -> NDArray[np.floating[Any]]:
    with _damage_as_weights_error():
        if dataset.dtype.kind != "f":
            raise RefusedError(f"{dataset.name} holds {dataset.dtype}, not floating-point numbers")
        array: NDArray[np.floating[Any]] = dataset[...]
    return array


def _channels_first(pairs: dict[str, tuple[Array, Array]]) -> bool:
    """Return whether kernels are (out, in, T, H, W), by the length of their biases."""
    layer = next((name for name in CONVOLUTIONS[1:] if name in pairs), None)
    if layer is None:
        return False
    weight, bias = pairs[layer]
    return weight.shape[0] == bias.shape[0] != weight.shape[-1]


def _last(array: Array, flipped: bool) -> NDArray[np.floating[Any]]:
    kernel = np.moveaxis(array.read(), (0, 1), (4, 3))  # (out, in, T, H, W) to (T, H, W, in, out)
    return kernel[::-1, ::-1, ::-1] if flipped else kernel


def _has_signature(start: bytes) -> bool:
    return start.startswith(b"\x89HDF\r\n\x1a\n")


LAYOUT = Layout(_has_signature, _open_keras)
