"""The single list of columns: the fields of `VideoRow` and `ClipRows` define them in all formats.

The journal's tables, the datasets of the feature and the clip file, the report's lines, the totals of
``c3d-tools info`` and `column_table` are derived from the fields and their `Column`. To add a column, add
a field here, and its value where rows are created (``pipeline``). Files written without the column
are then refused, so raise `FORMAT_VERSION` and `JOURNAL_VERSION` with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CLIP_COLUMNS",
    "FORMAT_VERSION",
    "JOURNAL_COLUMNS",
    "JOURNAL_VERSION",
    "REPORT_COLUMNS",
    "SUMMED_COLUMNS",
    "VIDEO_COLUMNS",
    "ClipRows",
    "Column",
    "Kind",
    "Status",
    "TableRow",
    "VideoRow",
    "column_table",
    "columns_of",
]

FORMAT_VERSION = 1
"""Of feature, clip and basis files; a reader refuses a higher one."""
JOURNAL_VERSION = 3
"""Of the journal's tables; a run resumes only a journal of its own version."""

Kind: TypeAlias = Literal["features", "clips", "pca"]
"""Contents of an HDF5 file: one row per video, one row per clip, or a PCA basis."""
Status: TypeAlias = Literal["ok", "partial", "failed"]


@dataclass(frozen=True)
class Column:
    """Storage and meaning of the values of one field."""

    dtype: str
    """NumPy dtype in HDF5, or ``text``."""
    meaning: str
    """What it holds, with its unit."""
    source: str
    """Where its value comes from."""
    hdf5: bool
    """Whether it is a dataset in HDF5; ``video`` is the only text column that may be."""
    report: Literal["null", "zero"] | None
    """None if the report omits it, else the report's value for a file that was not read."""
    total: bool
    """Whether `describe` returns its sum over the videos."""

    @property
    def sql_type(self) -> str:
        """The type in the journal; SQLite has one type for integers of all sizes."""
        if self.dtype == "text":
            return "TEXT"
        return "REAL" if self.dtype.startswith("float") else "INTEGER"


def stored(
    dtype: str,
    meaning: str,
    source: str,
    *,
    hdf5: bool = True,
    report: Literal["null", "zero"] | None = None,
    total: bool = False,
) -> dict[str, Column]:
    """Return the ``metadata`` of `dataclasses.field` for a field that is a column."""
    return {"column": Column(dtype, meaning, source, hdf5, report, total)}


@dataclass(frozen=True)
class VideoRow:
    """One finished video: a row of the journal and of the feature file, and a line of the report."""

    video: str = field(metadata=stored("text", "name of the video", "path", report="null"))
    """Any text that is valid UTF-8 without NUL."""
    status: Status = field(metadata=stored("text", "ok, partial or failed", "run", hdf5=False, report="null"))
    error: str | None = field(metadata=stored("text", "what went wrong", "run", hdf5=False, report="null"))
    seconds: float = field(
        metadata=stored("float64", "wall time of decoding, s", "run", hdf5=False, report="null")
    )
    features: dict[str, NDArray[np.float32]]
    """Layer → float32 (D), the average over the clips, not normalised; empty if the video failed."""
    n_clips: int = field(metadata=stored("int64", "clips averaged", "network", report="zero", total=True))
    n_frames: int = field(
        metadata=stored("int64", "frames after --fps", "decoder", report="zero", total=True)
    )
    n_padded_frames: int = field(
        metadata=stored("int64", "frames repeated to fill clips", "settings", report="zero", total=True)
    )
    n_decode_errors: int = field(
        metadata=stored("int64", "errors while decoding", "decoder", report="zero", total=True)
    )
    fps: float = field(metadata=stored("float64", "average frames/s, NaN if not stated", "container"))
    duration_seconds: float = field(
        metadata=stored("float64", "duration in s, NaN if not stated", "container", total=True)
    )
    width: int = field(metadata=stored("int32", "frame width in pixels", "decoder"))
    height: int = field(metadata=stored("int32", "frame height in pixels", "decoder"))
    size_bytes: int = field(
        metadata=stored("int64", "size of the file in bytes", "file system", report="null")
    )
    mtime_ns: int = field(
        metadata=stored("int64", "last change of the file, ns since 1970", "file system", report="null")
    )


@dataclass(frozen=True)
class ClipRows:
    """Consecutive clips of one video; nothing is normalised or projected."""

    start_frame: NDArray[np.int64] = field(metadata=stored("int64", "first frame, 0-based", "settings"))
    """int64 (n)."""
    end_frame: NDArray[np.int64] = field(metadata=stored("int64", "last frame + 1", "settings"))
    """int64 (n)."""
    start_seconds: NDArray[np.float64] = field(
        metadata=stored("float64", "time of the first frame in s, NaN if not stated", "container")
    )
    """float64 (n)."""
    end_seconds: NDArray[np.float64] = field(
        metadata=stored("float64", "time of the last frame in s, NaN if not stated", "container")
    )
    """float64 (n)."""
    features: dict[str, NDArray[np.float32]]
    """Layer → float32 (n, D)."""
    crop: NDArray[np.int32] = field(
        metadata=stored("int32", "crop of the clip, from 0; with --crops alone", "settings")
    )
    """int32 (n); 0 where there is one crop."""


class TableRow(NamedTuple):
    """One row of an HDF5 table.

    ``scalars`` are in the order of `VIDEO_COLUMNS` or `CLIP_COLUMNS`, or None for a video that has no row;
    ``vectors`` are float32 (D), one for each layer.
    """

    video: str
    scalars: tuple[float, ...] | None
    vectors: list[NDArray[np.float32]]


def _columns(row: type) -> dict[str, Column]:
    return {f.name: f.metadata["column"] for f in fields(row) if "column" in f.metadata}


def _report_columns() -> dict[str, Column]:
    """Return the keys of a report line, in order: name and status, counts, the rest."""
    columns = {name: column for name, column in JOURNAL_COLUMNS.items() if column.report}
    ranks = {name: 0 if c.dtype == "text" else 1 if c.report == "zero" else 2 for name, c in columns.items()}
    return {name: columns[name] for name in sorted(columns, key=ranks.__getitem__)}


JOURNAL_COLUMNS: dict[str, Column] = _columns(VideoRow)
"""Of the journal's table of videos, including ``video``."""
VIDEO_COLUMNS: dict[str, Column] = {
    name: column for name, column in JOURNAL_COLUMNS.items() if column.hdf5 and name != "video"
}
"""Of a feature file, without ``video`` and the layers."""
CLIP_COLUMNS: dict[str, Column] = _columns(ClipRows)
"""Of the journal's clips and of a clip file with several crops, without ``video`` and the layers."""
REPORT_COLUMNS: dict[str, Column] = _report_columns()
SUMMED_COLUMNS: dict[str, Column] = {name: column for name, column in VIDEO_COLUMNS.items() if column.total}


def column_table(row: type[VideoRow | ClipRows]) -> str:
    """Return the columns of the feature or the clip file as a table in Markdown."""
    lines = ["| column | type | meaning | from |", "|---|---|---|---|"]
    for name, column in _columns(row).items():
        if column.hdf5:
            lines.append(f"| `{name}` | {column.dtype} | {column.meaning} | {column.source} |")
    return "\n".join(lines)


def columns_of(kind: str, attributes: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of a feature file (``features``) or of a clip file (``clips``).

    The last of a clip file, ``crop``, is there where the settings among its attributes name several crops.
    """
    if kind == "features":
        return VIDEO_COLUMNS
    if attributes.get("settings", {}).get("crops", "centre") != "centre":
        return CLIP_COLUMNS
    return {name: column for name, column in CLIP_COLUMNS.items() if name != "crop"}
