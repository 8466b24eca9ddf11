"""Feature and clip files as Parquet tables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.parquet import write_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["write_parquet"]

_ROWS_AT_ONCE = 2048  # a row group; 34 MB of fc6


def write_parquet(source: Path, target: Path) -> None:
    """Write a feature or clip file as Parquet: its columns, and each layer as FixedSizeList<float32>[D].

    The file's attributes (settings, weights, versions) are kept as JSON in the schema's metadata, under
    ``c3d_extract``. Memory does not grow with the number of rows.

    Raises
    ------
    StoreError
        Where the source is no such file, or the target cannot be written.
    UsageError
        Where pyarrow is not installed.
    """
    with FeatureFile(source) as file:
        write_columns(target, _blocks(file), {"c3d_extract": json.dumps(file.attributes)})


def _blocks(file: FeatureFile) -> Iterator[dict[str, Any]]:
    for start in range(0, max(len(file), 1), _ROWS_AT_ONCE):
        yield file.columns_between(start, start + _ROWS_AT_ONCE)
