"""A run's files: the journal during the run, the feature, clip and basis files, and the report.

- ``schema.py`` the single list of columns, and the row types
- ``identity.py`` what two runs must share to write one file
- ``options.py`` options of a run's store
- ``paths.py`` the names of an output's files, and whether they can be written
- ``lock.py`` one writer at a time
- ``journal.py`` what a run has finished (the only importer of sqlite3, with ``lock.py``)
- ``validation.py`` checks of a file before its values are used
- ``pca_basis.py`` PCA and L2 normalisation
- ``table.py`` writes row tables
- ``basis_file.py`` PCA basis files, and whether a basis fits features
- ``feature_file.py`` reads feature and clip files
- ``report.py`` the report
- ``resume.py`` which data of earlier runs is kept
- ``assemble.py`` writes the output files from the journal
- ``store.py`` `RunStore`: one run's output
- ``derive.py`` files made from finished files
- ``describe.py`` contents of a file, as plain values
- ``parquet_tables.py`` files as Parquet tables
- ``export/`` files in the layouts that other people's code loads
"""

from __future__ import annotations

from c3d_extract.output.basis_file import check_basis, load_basis, save_basis
from c3d_extract.output.derive import apply_basis, fit_basis
from c3d_extract.output.describe import describe
from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.output.identity import RunIdentity
from c3d_extract.output.options import StoreOptions
from c3d_extract.output.paths import OutputPaths
from c3d_extract.output.pca_basis import check_n_components
from c3d_extract.output.report import read_report
from c3d_extract.output.schema import CLIP_COLUMNS, VIDEO_COLUMNS, ClipRows, Status, TableRow, VideoRow
from c3d_extract.output.store import RunStore, State, Summary
from c3d_extract.output.table import write_table
from c3d_extract.strict_json import JSON

__all__ = [
    "CLIP_COLUMNS",
    "JSON",
    "VIDEO_COLUMNS",
    "ClipRows",
    "FeatureFile",
    "OutputPaths",
    "RunIdentity",
    "RunStore",
    "State",
    "Status",
    "StoreOptions",
    "Summary",
    "TableRow",
    "VideoRow",
    "apply_basis",
    "check_basis",
    "check_n_components",
    "describe",
    "fit_basis",
    "load_basis",
    "read_report",
    "save_basis",
    "write_table",
]
