"""The HDF5 files: row tables written in one piece and put in place with one rename, and their reader."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import h5py
import numpy as np

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.files import replacing
from c3d_extract.hdf5 import (
    RefusedError,
    attributes_of,
    brief,
    errors_as,
    group_in,
    member_names,
    numbers_in,
    open_hdf5,
)
from c3d_extract.output.checks import MAX_LAYERS, check_rows, own_attributes, table_columns
from c3d_extract.output.pca_basis import LayerBasis, PcaBasis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO, Self

    from _typeshed import ReadableBuffer
    from numpy.typing import NDArray

    from c3d_extract.output.records import JSON

__all__ = [
    "CLIP_COLUMNS",
    "VIDEO_COLUMNS",
    "FeatureFile",
    "TableRow",
    "batches",
    "kind_of",
    "load_basis",
    "putting",
    "save_basis",
    "write_table",
]

FORMAT, FORMAT_VERSION = "c3d-extract", 1
Kind = Literal["features", "clips", "pca"]

VIDEO_COLUMNS: dict[str, str] = {
    "n_clips": "int64",
    "n_frames": "int64",
    "n_padded_frames": "int64",
    "n_decode_errors": "int64",
    "fps": "float64",
    "duration_seconds": "float64",
    "width": "int32",
    "height": "int32",
    "size_bytes": "int64",
    "mtime_ns": "int64",
}
CLIP_COLUMNS: dict[str, str] = {
    "start_frame": "int64",
    "end_frame": "int64",
    "start_seconds": "float64",
    "end_seconds": "float64",
}
ROWS_AT_ONCE = 256
CHUNK_BYTES = 2**18  # a quarter of a megabyte: small files stay small, large ones are read in few pieces
STRING = h5py.string_dtype("utf-8")
LIBRARY_VERSIONS = ("earliest", "v110")  # fixed: a later HDF5 writes the same bytes, and old ones read them
COMPANIONS = ("clips_sha256", "report_sha256")
"""Attributes of a feature file: digests of the clip file and of the report that were written with it."""
OF_ONE_FILE = frozenset({"content_sha256", "run_id", *COMPANIONS})
"""Attributes that are never copied into another file; ``run_id`` is of older versions."""


T = TypeVar("T")


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Cut a stream into lists of 256."""
    stream = iter(rows)
    while block := list(islice(stream, ROWS_AT_ONCE)):
        yield block


class TableRow(NamedTuple):
    """One row of a table; ``scalars`` in the order of the columns, or None for a video without a row."""

    video: str
    scalars: tuple[float, ...] | None
    vectors: list[NDArray[np.float32]]


class Ledger(Protocol):
    """Keeps in mind, durably, what a run is about to put in place."""

    def note_temporary(self, path: Path) -> None:
        """Take a temporary file that is about to be made."""

    def note_written(self, digest: str) -> None:
        """Take the digest of a file that is about to be put in place."""


def write_table(
    path: Path,
    *,
    kind: Kind,
    layers: Mapping[str, int],
    rows: Iterable[TableRow],
    attributes: Mapping[str, JSON],
    beside: Mapping[str, str] | None = None,
    ledger: Ledger | None = None,
) -> int:
    """Write a row table to ``path``, replacing it in one step; return the number of rows.

    Memory does not depend on the number of rows. Attributes that are not text, numbers or booleans are
    stored as JSON. The same rows and attributes give the same bytes. Raises `StoreError` and leaves what
    was there when it cannot be written.

    Parameters
    ----------
    beside
        Attributes of `COMPANIONS` that say which files belong to this one.
    ledger
        Told what is about to be put in place.
    """
    columns = VIDEO_COLUMNS if kind == "features" else CLIP_COLUMNS
    kept = {name: value for name, value in attributes.items() if name not in OF_ONE_FILE}
    described = {**kept, **(beside or {}), "layers": dict(layers)}

    def fill(file: h5py.File, check: Callable[[], None]) -> int:
        _put_attributes(file, kind, described)
        _create(file, columns, layers)
        digest = hashlib.sha256(json.dumps([kind, described], sort_keys=True).encode())
        n = 0
        for block in batches(rows):
            values = _columns_of(block, columns, list(layers))
            _append(file, n, values)
            _add(digest, values)
            n += len(block)
            check()
        file.attrs["content_sha256"] = digest.hexdigest()
        if ledger is not None:
            ledger.note_written(digest.hexdigest())
        return n

    return _write_h5(path, fill, ledger)


def save_basis(path: Path, basis: PcaBasis, *, ledger: Ledger | None = None) -> None:
    """Write a basis file, replacing it in one step: a group a layer with its arrays in float64."""

    def fill(file: h5py.File, _: Callable[[], None]) -> int:
        _put_attributes(file, "pca", {**basis.provenance, "sha256": basis.sha256})
        for layer, part in basis.layers.items():
            group = file.create_group(layer)
            for name in ("mean", "components", "explained_variance"):
                group.create_dataset(name, data=getattr(part, name), track_times=False)
            group.attrs["n_samples"], group.attrs["total_variance"] = part.n_samples, part.total_variance
        if ledger is not None:
            ledger.note_written(basis.sha256)
        return len(basis.layers)

    _write_h5(path, fill, ledger)


def load_basis(path: Path) -> PcaBasis:
    """Read a basis file; `PcaError` where it is missing, damaged or something else."""
    with errors_as(PcaError, "the PCA basis cannot be read", path), open_hdf5(path) as file:
        attributes = own_attributes(file)
        if attributes.get("format") != FORMAT or attributes.get("kind") != "pca":
            raise PcaError("is not a PCA basis", subject=path, hint="c3d-tools pca fit makes one")
        layers = {layer: _read_layer(group_in(file, layer), layer) for layer in member_names(file)}
        if not 0 < len(layers) <= MAX_LAYERS:
            raise RefusedError(f"it has {len(layers)} layers")
        basis = PcaBasis(layers, name=path.name, provenance=attributes)
    if basis.sha256 != attributes.get("sha256"):
        raise PcaError("the PCA basis is damaged: its checksum differs", subject=path)
    return basis


def _read_layer(group: h5py.Group, layer: str) -> LayerBasis:
    known = attributes_of(group)
    mean, components, variance = (
        numbers_in(group, name, n_axes=n_axes)[()].astype(np.float64)
        for name, n_axes in (("mean", 1), ("components", 2), ("explained_variance", 1))
    )
    k, size = components.shape
    if not 1 <= k <= size or mean.shape != (size,) or variance.shape != (k,):
        raise RefusedError(f"the arrays of {layer} do not fit together")
    total, n = known.get("total_variance"), known.get("n_samples")
    if not isinstance(total, float) or type(n) is not int:
        raise RefusedError(f"{layer} does not say total_variance and n_samples")
    if not all(np.isfinite(x).all() for x in (mean, components, variance, total)):
        raise RefusedError(f"the arrays of {layer} hold values that are not finite")
    # The rows of a basis have length 1, and features are float32: anything larger is none.
    if np.abs(components).max() > 1.001 or np.abs(mean).max() > np.finfo(np.float32).max:
        raise RefusedError(f"the arrays of {layer} are no means and directions")
    return LayerBasis(mean, components, variance, total, n)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return ``features``, ``clips`` or ``pca``; `StoreError` where a file is missing or not ours."""
    with errors_as(StoreError, "cannot be read", path), open_hdf5(path) as file:
        attributes = own_attributes(file)
    if attributes.get("format") != FORMAT or attributes.get("kind") not in {"features", "clips", "pca"}:
        raise StoreError("is not a file of c3d-extract", subject=path)
    return str(attributes["kind"])


class FeatureFile:
    """A feature file or a clip file, open for reading.

    ``f["fc6"]`` is float32 (N, D), rows in the order of ``f.videos``; ``len(f)`` is N.
    Raises `StoreError` where the file is missing, damaged or not ours, lies about what it holds, or would
    have other files opened (links, virtual datasets, external storage). That its rows are sorted by video
    and none is there twice is looked at before the first values are given.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._rows_checked = False
        with contextlib.ExitStack() as undo:
            undo.enter_context(errors_as(StoreError, "cannot be read as a feature file", path))
            self._file: h5py.File = undo.enter_context(open_hdf5(path))
            self.attributes: dict[str, Any] = own_attributes(self._file)
            if self.attributes.get("format") != FORMAT or self.kind not in {"features", "clips"}:
                raise StoreError("is not a feature file of c3d-extract", subject=path)
            if self.attributes.get("format_version", 0) > FORMAT_VERSION:
                raise StoreError("was written by a newer version", subject=path, hint="update c3d-extract")
            layers = self.attributes.get("layers", {})
            self._datasets = table_columns(self._file, self._columns, layers)
            self._open_until_closed = undo.pop_all()

    @property
    def kind(self) -> str:
        """``features`` (a row a video) or ``clips`` (a row a clip)."""
        return str(self.attributes.get("kind"))

    @property
    def layers(self) -> list[str]:
        """Names of the feature datasets."""
        return list(self.attributes["layers"])

    @property
    def videos(self) -> list[str]:
        """Name of the video of every row, sorted."""
        return list(self._names(0, len(self)))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column such as ``n_clips`` or ``fps``, (N)."""
        return self._read(name, 0, len(self))

    def size_of(self, layer: str) -> int:
        """Return D, the values a row of ``layer``; `StoreError` names the known ones."""
        if layer not in self.layers:
            raise StoreError(f"has no layer {layer}, only {', '.join(self.layers)}", subject=self.path)
        return int(self._datasets[layer].shape[1])

    def blocks(self, layer: str) -> Iterator[NDArray[np.float32]]:
        """Yield the rows of a layer in order, float32 (≤ 256, D) at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self._read(layer, start, start + ROWS_AT_ONCE)

    def rows(self, layers: Iterable[str] | None = None) -> Iterator[TableRow]:
        """Yield all rows in order, reading 256 at a time; their vectors in the order of ``layers``."""
        wanted = self.layers if layers is None else list(layers)
        for start in range(0, len(self), ROWS_AT_ONCE):
            end = start + ROWS_AT_ONCE
            scalars = zip(*(self._read(name, start, end).tolist() for name in self._columns), strict=True)
            vectors = [self._read(layer, start, end) for layer in wanted]
            for i, (name, values) in enumerate(zip(self._names(start, end), scalars, strict=True)):
                yield TableRow(name, values, [layer[i] for layer in vectors])

    def scalars(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield (video, column → value) of all rows in order, without the features."""
        for start in range(0, len(self), 2**12):
            end = start + 2**12
            values = zip(*(self._read(name, start, end).tolist() for name in self._columns), strict=True)
            for name, row in zip(self._names(start, end), values, strict=True):
                yield name, dict(zip(self._columns, row, strict=True))

    def close(self) -> None:
        """Close the file."""
        self._open_until_closed.close()

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        return self._read(layer, 0, len(self))

    def __len__(self) -> int:
        return int(self._datasets["video"].shape[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _columns(self) -> dict[str, str]:
        return VIDEO_COLUMNS if self.kind == "features" else CLIP_COLUMNS

    def _read(self, name: str, start: int, end: int) -> NDArray[Any]:
        if not self._rows_checked:
            with errors_as(StoreError, "cannot be read as a feature file", self.path):
                check_rows(self._row_names())
            self._rows_checked = True
        with errors_as(StoreError, f"{name} cannot be read", self.path):
            dataset = self._datasets.get(name)
            if dataset is None:  # not one of ours, but of a user's who added it
                dataset = numbers_in(self._file, name)
            values: NDArray[Any] = dataset[start:end]
        return values

    def _row_names(self) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
        for start in range(0, len(self), 2**12):
            part = slice(start, start + 2**12)
            frames = self._datasets["start_frame"][part] if self.kind == "clips" else None
            yield self._datasets["video"][part], frames

    def _names(self, start: int, end: int) -> Iterator[str]:
        return (name.decode() for name in self._read("video", start, end))


@contextlib.contextmanager
def putting(path: Path, ledger: Ledger | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` at the end, see `replacing`; errors are `StoreError`."""
    try:
        with replacing(path, announce=None if ledger is None else ledger.note_temporary) as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: Exception) -> StoreError:
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if getattr(error, "errno", None) in full:
        return StoreError("the disk is full", subject=path, hint="free space and run again")
    return StoreError(f"cannot be written ({brief(error)})", subject=path, hint="run again")


class _Sink(io.FileIO):
    """The file HDF5 writes to; it keeps the first error and pretends that all is well from then on.

    HDF5 cannot close a file it cannot write: it prints one error a dataset and holds on to them all.
    """

    error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


def _write_h5(path: Path, fill: Callable[[h5py.File, Callable[[], None]], int], ledger: Ledger | None) -> int:
    """Let ``fill(file, check)`` write the file; ``check`` raises where writing has failed already."""
    with (
        putting(path, ledger) as file,
        _Sink(file.fileno(), "w+", closefd=False) as sink,
    ):
        with h5py.File(sink, "w", libver=LIBRARY_VERSIONS) as h5:
            n = fill(h5, sink.check)
        sink.check()
        return n


def _put_attributes(file: h5py.File, kind: Kind, attributes: Mapping[str, JSON]) -> None:
    own = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind}
    for name, value in {**attributes, **own}.items():
        plain = isinstance(value, (str, bool, int, float))
        file.attrs[name] = value if plain else json.dumps(value, ensure_ascii=False)


def _create(file: h5py.File, columns: Mapping[str, str], layers: Mapping[str, int]) -> None:
    options = {"track_times": False}
    file.create_dataset("video", (0,), STRING, maxshape=(None,), chunks=(1024,), **options)
    for layer, size in layers.items():
        rows = min(1024, max(1, CHUNK_BYTES // (4 * size)))
        file.create_dataset(
            layer, (0, size), "float32", maxshape=(None, size), chunks=(rows, size), **options
        )
    for name, dtype in columns.items():
        file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1024,), **options)


def _columns_of(block: list[TableRow], columns: Mapping[str, str], layers: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"video": [row.video for row in block]}
    values |= {layer: np.stack([row.vectors[i] for row in block]) for i, layer in enumerate(layers)}
    scalars = zip(*(row.scalars or () for row in block), strict=True)
    return values | {n: np.array(column, columns[n]) for n, column in zip(columns, scalars, strict=True)}


def _append(file: h5py.File, n: int, values: Mapping[str, Any]) -> None:
    for name, column in values.items():
        file[name].resize(n + len(column), axis=0)
        file[name][n:] = column


def _add(digest: hashlib._Hash, values: Mapping[str, Any]) -> None:
    for name, column in values.items():
        digest.update(json.dumps(column).encode() if name == "video" else column.tobytes())
