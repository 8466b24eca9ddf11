"""Reading feature and clip files."""

from __future__ import annotations

import bisect
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.dataframes import data_frame
from c3d_extract.errors import PcaError, StoreError
from c3d_extract.hdf5 import errors_as, numbers_in, open_hdf5
from c3d_extract.output.basis_file import load_own_basis
from c3d_extract.output.schema import FORMAT_VERSION, TableRow, columns_of
from c3d_extract.output.table import FORMAT, ROWS_AT_ONCE
from c3d_extract.output.validation import check_rows, own_attributes, table_columns
from c3d_extract.parquet import table_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from c3d_extract.dataframes import DataFrame
    from c3d_extract.hdf5 import File
    from c3d_extract.output.schema import Column
    from c3d_extract.parquet import Table
    from c3d_extract.strict_json import JSON

__all__ = ["FeatureFile", "kind_of", "read_attributes"]

_SCALARS_AT_ONCE = 2**12
_MAX_CROPS = 2**8  # of one clip


def kind_of(path: str | os.PathLike[str]) -> str:
    """Return ``features``, ``clips`` or ``pca``; `StoreError` for any other file."""
    with errors_as(StoreError, "cannot be read", path), open_hdf5(path) as file:
        attributes = own_attributes(file)
    if attributes.get("format") != FORMAT or attributes.get("kind") not in {"features", "clips", "pca"}:
        raise StoreError("is not a file of c3d-extract", subject=path)
    return str(attributes["kind"])


def read_attributes(path: Path, kind: str) -> dict[str, JSON]:
    """Return the attributes of a file of that kind, {} if it is missing; `StoreError` for others."""
    if not path.exists():
        return {}
    hint = "only files of c3d-extract are replaced: move it away, or choose another name"
    try:
        if kind == "pca":
            return dict(load_own_basis(path).provenance)
        with FeatureFile(path) as file:
            attributes = file.attributes
    except (StoreError, PcaError) as error:
        reason = f"exists but is not a file of c3d-extract ({error.reason})"
        raise StoreError(reason, subject=path, hint=hint) from error
    if attributes["kind"] != kind:
        raise StoreError(f"exists but holds {attributes['kind']}, not {kind}", subject=path, hint=hint)
    return attributes


class FeatureFile:
    """A feature file or a clip file, open for reading.

    ``f["fc6"]`` is float32 (N, D), rows in the order of ``f.videos``; ``len(f)`` is N; ``f.of("a.mp4")`` is
    what is known of one video.
    Raises `StoreError` where the file is missing, damaged or of another program, declares sizes that its
    data does not have, or refers to other files (links, virtual datasets, external storage). Before the first
    values are returned, rows are checked to be sorted by video and unique.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._rows_checked = False
        with contextlib.ExitStack() as undo:
            undo.enter_context(errors_as(StoreError, "cannot be read as a feature file", path))
            self._file: File = undo.enter_context(open_hdf5(path))
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
        """``features`` (one row per video) or ``clips`` (one row per clip)."""
        return str(self.attributes.get("kind"))

    @property
    def layers(self) -> list[str]:
        """Names of the feature datasets."""
        return list(self.attributes["layers"])

    @property
    def videos(self) -> list[str]:
        """Video name of each row, sorted."""
        return list(self._names(0, len(self)))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column such as ``n_clips`` or ``fps``, (N), with its dtype in `VIDEO_COLUMNS`."""
        return self._read(name, 0, len(self))

    def size_of(self, layer: str) -> int:
        """Return D, the number of values per row of ``layer``; `StoreError` for an unknown layer."""
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
        for start in range(0, len(self), _SCALARS_AT_ONCE):
            end = start + _SCALARS_AT_ONCE
            values = zip(*(self._read(name, start, end).tolist() for name in self._columns), strict=True)
            for name, row in zip(self._names(start, end), values, strict=True):
                yield name, dict(zip(self._columns, row, strict=True))

    def between(self, name: str, start: int, end: int) -> NDArray[Any]:
        """Return the rows from ``start`` up to ``end`` of a column (n) or a layer (n, D)."""
        return self._read(name, start, end)

    def ranges(self) -> Iterator[tuple[str, int, int]]:
        """Yield (video, start, end) of each video, whose rows are those from ``start`` up to ``end``."""
        video, first = None, 0
        for start in range(0, len(self), _SCALARS_AT_ONCE):
            for row, name in enumerate(self._names(start, start + _SCALARS_AT_ONCE), start):
                if name != video:
                    if video is not None:
                        yield video, first, row
                    video, first = name, row
        if video is not None:
            yield video, first, len(self)

    def spans(self) -> list[tuple[float, float]]:
        """Return the part of its video that each row is of, in seconds; (0, 0) where nothing says.

        Of a feature file the whole video.
        """
        if self.kind == "clips":
            times = map(self.column, ("start_seconds", "end_seconds"))
            starts, ends = (np.where(np.isfinite(time), time, 0) for time in times)
            return list(zip(starts.tolist(), ends.tolist(), strict=True))
        duration, n_frames, fps = map(self.column, ("duration_seconds", "n_frames", "fps"))
        by_rate = np.divide(n_frames, fps, out=np.zeros(len(fps)), where=fps > 0)
        return [(0.0, end) for end in np.where(duration > 0, duration, by_rate).tolist()]

    @property
    def has_crops(self) -> bool:
        """Whether there is a row for each of several crops of a clip, numbered by the column ``crop``."""
        return "crop" in self._columns

    def columns_between(self, start: int, end: int) -> dict[str, list[str] | NDArray[Any]]:
        """Return the rows from ``start`` up to ``end``: the names, every column (N), every layer (N, D)."""
        others = {name: self._read(name, start, end) for name in [*self._columns, *self.layers]}
        return {"video": list(self._names(start, end)), **others}

    def of(self, video: str) -> dict[str, Any]:
        """Return the row of one video: each column's number, and of each layer float32 (D,).

        Of a clip file the rows of its clips: of each column (n), and of each layer float32 (n, D).

        Raises
        ------
        StoreError
            Where there is no such video.
        """
        self._check_rows()
        start, end = self._place(video.encode()), self._place(video.encode() + b"\0")
        if start == end:
            raise StoreError(f"has no video {video}", subject=self.path)
        found = self.columns_between(start, end)
        del found["video"]
        return {name: values[0] for name, values in found.items()} if self.kind == "features" else found

    def to_pandas(self) -> DataFrame:
        """Return all rows as a table: every column, and of every layer one array a row; names are the index.

        Raises
        ------
        UsageError
            Where pandas is not installed.
        """
        return data_frame(self.columns_between(0, len(self)), index="video")

    def to_arrow(self) -> Table:
        """Return all rows as a table, layers as FixedSizeList<float32>[D], as ``export parquet`` writes it.

        Raises
        ------
        UsageError
            Where pyarrow is not installed.
        """
        metadata = {"c3d_extract": json.dumps(self.attributes)}
        return table_of(self.columns_between(0, len(self)), metadata, subject="to_arrow()")

    @property
    def classes(self) -> list[str] | None:
        """Class names, in the order of the values of ``fc8``, ``logits`` and ``prob``; None where unknown."""
        names = self.attributes.get("weights", {}).get("record", {}).get("classes")
        return None if names is None or "pca_sha256" in self.attributes else list(names)

    def close(self) -> None:
        """Close the file."""
        self._open_until_closed.close()

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        return self._read(layer, 0, len(self))

    def __len__(self) -> int:
        return int(self._datasets["video"].shape[0])

    def __repr__(self) -> str:
        if not self._file:
            return f"<FeatureFile {self.path}, closed>"
        sizes = ", ".join(f"{layer} ({self.size_of(layer)})" for layer in self.layers)
        rows = "videos" if self.kind == "features" else "clips"
        return f"<FeatureFile {self.path}: {len(self)} {rows}, {sizes}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _columns(self) -> dict[str, Column]:
        return columns_of(self.kind, self.attributes)

    def _read(self, name: str, start: int, end: int) -> NDArray[Any]:
        self._check_rows()
        with errors_as(StoreError, f"{name} cannot be read", self.path):
            dataset = self._datasets.get(name)
            if dataset is None:  # a dataset that a user added
                dataset = numbers_in(self._file, name)
            values: NDArray[Any] = dataset[start:end]
        return values

    def _check_rows(self) -> None:
        if not self._rows_checked:
            with errors_as(StoreError, "cannot be read as a feature file", self.path):
                check_rows(self._row_names())
            self._rows_checked = True

    def _place(self, name: bytes) -> int:
        """Return the first row whose video is not before ``name``."""
        names = self._datasets["video"]
        return bisect.bisect_left(range(len(self)), name, key=lambda row: bytes(names[row]))

    def _row_names(self) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
        for start in range(0, len(self), _SCALARS_AT_ONCE):
            part = slice(start, start + _SCALARS_AT_ONCE)
            yield self._datasets["video"][part], self._positions(part) if self.kind == "clips" else None

    def _positions(self, part: slice) -> NDArray[Any]:
        """Return the values by which the rows of one video are sorted, int64 (n): first frame, then crop."""
        frames: NDArray[Any] = self._datasets["start_frame"][part]
        return frames * _MAX_CROPS + self._datasets["crop"][part] if self.has_crops else frames

    def _names(self, start: int, end: int) -> Iterator[str]:
        return (name.decode() for name in self._read("video", start, end))
