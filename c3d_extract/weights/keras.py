"""Keras h5 weights: Keras 2 on TensorFlow (channels last), Keras 1 on Theano (channels first, mirrored).

This is the one reader beside ``store.py`` that imports h5py: for these checkpoints only, never for features.

Theano convolves where others correlate, so its kernels are mirrored in T, H and W; Keras 1 stored them as
they are. Keras from 1.2 on says in the attribute ``backend`` who wrote a file; without it, channels first
means Theano.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.weights.channels_last import Array, layer_names, pairs_of, to_sources
from c3d_extract.weights.contents import CONVOLUTIONS, Contents, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights.records import Fc6Order

__all__ = ["open_keras"]

_MAX_DEPTH = 4  # Keras nests a layer's arrays in one or two groups of its name


@contextmanager
def open_keras(path: Path, fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open an h5 file of ``save_weights`` or ``save``."""
    with ExitStack() as stack:
        with _damage_named():
            file = stack.enter_context(h5py.File(path, "r"))
            contents = _contents(file, path.stat().st_size, fc6_order)
        yield contents


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:  # HDF5 raises many kinds where a file is damaged
        reason = f"not a readable Keras h5 file ({one_line(error)})"
        raise WeightsError(reason) from error


def _contents(file: h5py.File, file_size: int, fc6_order: Fc6Order | None) -> Contents:
    root = file["model_weights"] if _is_group(file, "model_weights") else file
    names = layer_names()
    arrays = [
        (names[group], Array(dataset.shape, partial(_read, dataset, file_size)))
        for group in root
        if group in names and _is_group(root, group)
        for dataset in _datasets(root[group])
    ]
    pairs = pairs_of(arrays)
    if not _channels_first(pairs):
        return Contents("keras-tensorflow", to_sources(pairs, fc6_order))
    flipped = _text(root.attrs.get("backend", b"theano")) == "theano"
    for layer in CONVOLUTIONS:
        if layer in pairs:
            weight, bias = pairs[layer]
            pairs[layer] = (
                Array(tuple(weight.shape[i] for i in (2, 3, 4, 1, 0)), partial(_last, weight, flipped)),
                bias,
            )
    return Contents("keras-theano", to_sources(pairs, fc6_order or "chw"))


def _is_group(parent: h5py.Group, name: str) -> bool:
    # Links to other files are never followed.
    return (
        isinstance(parent.get(name, getlink=True), h5py.HardLink)
        and parent.get(name, getclass=True) is h5py.Group
    )


def _datasets(group: h5py.Group, depth: int = 0) -> Iterator[h5py.Dataset]:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        if isinstance(group[name], h5py.Dataset):
            yield group[name]
        elif depth < _MAX_DEPTH:
            yield from _datasets(group[name], depth + 1)


def _read(dataset: h5py.Dataset, file_size: int) -> NDArray[np.floating[Any]]:
    with _damage_named():
        elsewhere = dataset.external or dataset.is_virtual
        n_bytes = dataset.size * dataset.dtype.itemsize
        if dataset.dtype.kind != "f" or elsewhere or n_bytes > file_size:
            raise WeightsError(
                f"{dataset.name} is not a plain array of floating-point numbers inside the file"
            )
        array: NDArray[np.floating[Any]] = dataset[...]
    return array


def _channels_first(pairs: dict[str, tuple[Array, Array]]) -> bool:
    """Whether kernels are (out, in, T, H, W): their biases tell which axis is the outputs."""
    layer = next((name for name in CONVOLUTIONS[1:] if name in pairs), None)
    if layer is None:
        return False
    weight, bias = pairs[layer]
    return weight.shape[0] == bias.shape[0] != weight.shape[-1]


def _last(array: Array, flipped: bool) -> NDArray[np.floating[Any]]:
    kernel = np.moveaxis(array.read(), (0, 1), (4, 3))
    return kernel[::-1, ::-1, ::-1] if flipped else kernel


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
