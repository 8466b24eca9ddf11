"""Checks of a feature, clip or basis file before its values are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.hdf5 import RefusedError, attributes_of, member_names, names_in, numbers_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from c3d_extract.hdf5 import Dataset, File
    from c3d_extract.output.schema import Column

__all__ = ["check_rows", "own_attributes", "table_columns"]

MAX_LAYERS = 100  # torchvision's largest backbones have about 30
TYPES: dict[str, type] = {
    "format": str,
    "format_version": int,
    "kind": str,
    "run_id": str,
    "complete": bool,
    "layers": dict,
    "layer_sizes": dict,
    "settings": dict,
    "weights": dict,
    "versions": dict,
    "pca_basis": str,
    "pca_sha256": str,
    "sha256": str,
}
TYPE_NAMES = {str: "text", int: "a whole number", bool: "true or false", dict: "a JSON object"}


def own_attributes(file: File) -> dict[str, Any]:
    """Return a file's attributes; `RefusedError` where the type of one differs from `TYPES`."""
    attributes = attributes_of(file, known=TYPES)
    for name, expected in TYPES.items():
        if name in attributes and type(attributes[name]) is not expected:
            raise RefusedError(f"its {name} is not {TYPE_NAMES[expected]}")
    for name in ("layers", "layer_sizes"):
        if not all(type(size) is int and size > 0 for size in attributes.get(name, {}).values()):
            raise RefusedError(f"its {name} are not sizes")
    return attributes


def table_columns(file: File, columns: Mapping[str, Column], layers: Mapping[str, int]) -> dict[str, Dataset]:
    """Return the datasets of a row table, ``video`` first, all of one length and of the expected types."""
    if not 0 < len(layers) <= MAX_LAYERS:
        raise RefusedError(f"it has {len(layers)} layers")
    member_names(file)  # refuses links, also under names that are not read
    found = {"video": names_in(file, "video")}
    n = len(found["video"])
    for name, column in columns.items():
        found[name] = _checked(numbers_in(file, name), name, column.dtype, (n,))
    for layer, size in layers.items():
        if layer in found:
            raise RefusedError(f"{layer} is the name of a column and of a layer")
        found[layer] = _checked(numbers_in(file, layer), layer, "float32", (n, size))
    return found


def _checked(dataset: Dataset, name: str, dtype: str, shape: tuple[int, ...]) -> Dataset:
    if dataset.dtype != np.dtype(dtype):
        raise RefusedError(f"{name} holds {dataset.dtype}, not {dtype}")
    if dataset.shape != shape:
        raise RefusedError(f"{name} has shape {dataset.shape}, not {shape}")
    return dataset


def check_rows(blocks: Iterable[tuple[NDArray[Any], NDArray[Any] | None]]) -> None:
    """Raise `RefusedError` unless rows are sorted and unique.

    ``blocks`` yields the names as bytes (n) and, for clips, their first frames int64 (n), by which the clips
    of one video are sorted.
    """
    last_name, last_start = None, -1
    for names, starts in blocks:
        frames = starts.tolist() if starts is not None else [None] * len(names)
        for name, start in zip(names, frames, strict=True):
            if last_name is not None and (name < last_name):
                raise RefusedError(
                    f"its rows are not sorted: {_printable_name(name)} follows {_printable_name(last_name)}"
                )
            if name == last_name and (start is None or start <= last_start):
                raise RefusedError(f"{_printable_name(name)} is there twice")
            name.decode()  # UnicodeDecodeError is a ValueError, as `RefusedError` is
            last_name, last_start = name, -1 if start is None else start


def _printable_name(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
