"""A run's files: the journal while it runs, the feature, clip and basis files, and the report.

The only importer of sqlite3, and the only writer of HDF5 (`c3d_extract.hdf5` opens what is read). `RunStore`
writes, `FeatureFile` reads.
"""

from __future__ import annotations

from c3d_extract.output.derive import apply_basis, fit_basis
from c3d_extract.output.describe import describe
from c3d_extract.output.feature_file import (
    CLIP_COLUMNS,
    VIDEO_COLUMNS,
    FeatureFile,
    TableRow,
    load_basis,
    save_basis,
    write_table,
)
from c3d_extract.output.paths import OutputPaths
from c3d_extract.output.records import (
    INFORMATIONAL,
    JSON,
    ClipRows,
    RunIdentity,
    State,
    Status,
    Summary,
    VideoRow,
)
from c3d_extract.output.report import read_report
from c3d_extract.output.resume import check_basis
from c3d_extract.output.store import RunStore

__all__ = [
    "CLIP_COLUMNS",
    "INFORMATIONAL",
    "JSON",
    "VIDEO_COLUMNS",
    "ClipRows",
    "FeatureFile",
    "OutputPaths",
    "RunIdentity",
    "RunStore",
    "State",
    "Status",
    "Summary",
    "TableRow",
    "VideoRow",
    "apply_basis",
    "check_basis",
    "describe",
    "fit_basis",
    "load_basis",
    "read_report",
    "save_basis",
    "write_table",
]
