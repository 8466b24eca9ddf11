"""Dictionaries of arrays in an ``.npy`` file, as C3D-tensorflow and M-PACT publish their variables.

Such a file is a pickle, read by `pickles.load_arrays`, so no code in it runs and no length in it is trusted.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.channels_last import Array, layer_names, pairs_of, to_sources
from c3d_extract.weights.layouts.contents import Contents, Layout
from c3d_extract.weights.layouts.pickles import PickledArray, as_text, load_arrays, read_mapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights.registry import Fc6Order

__all__ = ["LAYOUT"]

_PARTS = {"kernel", "weight", "weights", "bias", "biases", "W", "b", "w"}


@contextmanager
def _open_npy(path: Path, fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open an npy file that holds one dictionary of arrays."""
    named = [
        (layer, Array(array.shape, partial(np.asarray, array)))
        for name, array in _flat(_load(path))
        if (layer := _layer(name)) is not None
    ]
    yield Contents("tensorflow-npy", to_sources(pairs_of(named), fc6_order))


def _layer(name: str) -> str | None:
    """``var_name/wc3a`` → conv3a; ``c3a/kernel:0`` → conv3a."""
    *groups, last = name.removesuffix(":0").split("/")
    if last in _PARTS and groups:
        last = groups[-1]
    names = layer_names()
    return names.get(last) or names.get(last[1:] if last[:1] in {"w", "b"} else last)


def _flat(values: Mapping[Any, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of nested dictionaries, four levels deep; each once, as they may be cyclic."""
    seen: set[int] = set()
    level: list[tuple[str, Mapping[Any, Any]]] = [("", values)]
    for _ in range(4):
        deeper: list[tuple[str, Mapping[Any, Any]]] = []
        for prefix, one in level:
            if id(one) in seen:
                continue
            seen.add(id(one))
            for key, value in one.items():
                name = prefix + as_text(key)
                if isinstance(value, PickledArray):
                    yield name, value.array
                elif isinstance(value, dict):
                    deeper.append((f"{name}/", value))
        level = deeper


def _load(path: Path) -> dict[Any, Any]:
    wrapped = read_mapped(path, _unpickled, "npy dictionary")
    held = wrapped.objects if isinstance(wrapped, PickledArray) else None
    if not isinstance(held, list) or len(held) != 1 or not isinstance(held[0], dict):
        raise WeightsError("an npy file of objects, but not of one dictionary of arrays")
    return held[0]


def _unpickled(mapped: Any) -> Any:
    versions = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = versions[np.lib.format.read_magic(mapped)](mapped)
    if shape != () or dtype != np.dtype(object):
        raise WeightsError(f"an array of shape {shape}, not a dictionary of arrays")
    return load_arrays(mapped)


def _has_signature(start: bytes) -> bool:
    return start.startswith(b"\x93NUMPY")


LAYOUT = Layout(_has_signature, _open_npy)
