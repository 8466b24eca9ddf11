"""Row tables in HDF5: written to a temporary file in blocks of rows, put in place with one rename."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from c3d_extract.files import writing_output
from c3d_extract.hdf5 import TEXT, writing_hdf5
from c3d_extract.output.schema import FORMAT_VERSION, columns_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from c3d_extract.files import FileLog
    from c3d_extract.hdf5 import File
    from c3d_extract.output.schema import Column, Kind, TableRow
    from c3d_extract.strict_json import JSON

__all__ = ["FORMAT", "NOT_COPIED", "batches", "put_attributes", "write_table"]

FORMAT = "c3d-extract"
ROWS_AT_ONCE = 256
CHUNK_BYTES = 2**18  # a quarter of a megabyte: small files stay small, large files have few chunks
NOT_COPIED = frozenset({"content_sha256", "clips_sha256", "report_sha256", "run_id", "layers"})
"""Attributes that are not copied to derived files; ``run_id`` is of older versions."""

T = TypeVar("T")


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cut a stream into lists of 256."""
    stream = iter(rows)
    while block := list(islice(stream, ROWS_AT_ONCE)):
        yield block


def write_table(
    path: Path,
    *,
    kind: Kind,
    layers: Mapping[str, int],
    rows: Iterable[TableRow],
    attributes: Mapping[str, JSON],
    log: FileLog | None = None,
) -> int:
    """Write a row table to ``path``, replacing it atomically; return the number of rows.

    Memory does not depend on the number of rows. The same rows and attributes give the same bytes. Raises
    `StoreError` and leaves an existing file unchanged where it cannot be written.

    Parameters
    ----------
    path
        The file.
    kind
        ``features`` or ``clips``; decides the columns, with the settings in ``attributes``.
    layers
        Layer → values per row.
    rows
        Sorted by video, clips also by start and crop; their scalars may have more columns than the file.
    attributes
        Values other than text, numbers and booleans are stored as JSON.
    log
        Records the temporary name and the digest before the file is put in place.
    """
    columns = columns_of(kind, attributes)
    described = {**attributes, "layers": dict(layers)}
    # Of the values, not of the file, whose bytes may differ between versions of HDF5.
    digest = hashlib.sha256(json.dumps([kind, described], sort_keys=True).encode())
    n = 0
    with writing_output(path, log) as raw, writing_hdf5(raw) as (file, raise_if_failed):
        put_attributes(file, kind, described)
        _create(file, columns, layers)
        for block in batches(rows):
            values = _columns_of(block, columns, list(layers))
            _append(file, n, values)
            _add(digest, values)
            n += len(block)
            raise_if_failed()
        file.attrs["content_sha256"] = digest.hexdigest()
        if log is not None:
            log.note_written(digest.hexdigest())
    return n


def put_attributes(file: File, kind: Kind, attributes: Mapping[str, JSON]) -> None:
    """Write attributes, then those that every file has."""
    own = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind}
    for name, value in {**attributes, **own}.items():
        plain = isinstance(value, (str, bool, int, float))
        file.attrs[name] = value if plain else json.dumps(value, ensure_ascii=False)


def _create(file: File, columns: Mapping[str, Column], layers: Mapping[str, int]) -> None:
    options = {"track_times": False}
    file.create_dataset("video", (0,), TEXT, maxshape=(None,), chunks=(1024,), **options)
    for layer, size in layers.items():
        rows = min(1024, max(1, CHUNK_BYTES // (4 * size)))
        file.create_dataset(
            layer, (0, size), "float32", maxshape=(None, size), chunks=(rows, size), **options
        )
    for name, column in columns.items():
        file.create_dataset(name, (0,), column.dtype, maxshape=(None,), chunks=(1024,), **options)


def _columns_of(block: list[TableRow], columns: Mapping[str, Column], layers: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"video": [row.video for row in block]}
    values |= {layer: np.stack([row.vectors[i] for row in block]) for i, layer in enumerate(layers)}
    scalars = zip(*((row.scalars or ())[: len(columns)] for row in block), strict=True)
    arrays = zip(columns.items(), scalars, strict=True)
    return values | {name: np.array(column, about.dtype) for (name, about), column in arrays}


def _append(file: File, n: int, values: Mapping[str, Any]) -> None:
    for name, column in values.items():
        file[name].resize(n + len(column), axis=0)
        file[name][n:] = column


def _add(digest: hashlib._Hash, values: Mapping[str, Any]) -> None:
    for name, column in values.items():
        digest.update(json.dumps(column).encode() if name == "video" else column.tobytes())
