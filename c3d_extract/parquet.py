"""Parquet files, through pyarrow: lists of addresses are read, tables of features are written."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    import pyarrow as pa
    from numpy.typing import NDArray

    Table: TypeAlias = pa.Table  # for the modules whose functions return one

__all__ = ["check_parquet", "read_text_column", "table_of", "write_columns"]


def check_parquet(path: Path) -> None:
    """Raise UsageError where pyarrow, which ``path`` needs, is not installed."""
    _pyarrow(path)


def read_text_column(content: bytes, names: Sequence[str], *, subject: object) -> Iterator[str]:
    """Yield the values of a text column: the first of ``names`` that the file has, else its only text column.

    Parameters
    ----------
    content
        The whole file.
    names
        Names that the column may have.
    subject
        What the file is called in an error.

    Raises
    ------
    UsageError
        Where the file cannot be read, or has no such column.
    """
    pyarrow = _pyarrow(subject)
    try:
        with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as file:
            name = _column(file.schema_arrow, names, subject, pyarrow)
            for batch in file.iter_batches(columns=[name]):
                yield from (value for value in batch.column(0).to_pylist() if value is not None)
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"cannot be read ({_first_line(error)})", subject=subject) from error


def _column(schema: Any, names: Sequence[str], subject: object, pyarrow: ModuleType) -> str:
    text = [f.name for f in schema if f.type in {pyarrow.string(), pyarrow.large_string()}]
    named = [name for name in names if name in text]
    if named or len(text) == 1:
        return (named or text)[0]
    reason = f"has no text column called {', '.join(names)}"
    raise UsageError(reason, subject=subject, hint=f"its text columns: {', '.join(text) or 'none'}")


def write_columns(
    path: Path,
    blocks: Iterable[Mapping[str, NDArray[Any] | list[str]]],
    metadata: Mapping[str, str],
) -> None:
    """Write a table, block by block; the file appears in one step.

    Parameters
    ----------
    path
        The file.
    blocks
        The columns of some rows: text; numbers (N); or vectors (N, D), which become a FixedSizeList of D
        values. All blocks have the same columns; there is at least one, which may have no rows.
    metadata
        Kept with the schema.

    Raises
    ------
    UsageError
        Where pyarrow is not installed.
    StoreError
        Where the file cannot be written.
    """
    pyarrow = _pyarrow(path)
    tables = (_table(pyarrow, block, metadata) for block in blocks)
    first = next(tables)
    with writing_output(path) as file:
        try:
            with pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
                writer.write_table(first)
                for table in tables:
                    writer.write_table(table)
        except pyarrow.ArrowException as error:
            raise StoreError(f"cannot be written ({_first_line(error)})", subject=path) from error


def table_of(
    columns: Mapping[str, NDArray[Any] | list[str]], metadata: Mapping[str, str], *, subject: object
) -> Table:
    """Return a table in memory, as `write_columns` writes it.

    Raises
    ------
    UsageError
        Where pyarrow, which ``subject`` needs, is not installed.
    """
    return _table(_pyarrow(subject), columns, metadata)


def _table(
    pyarrow: ModuleType, columns: Mapping[str, NDArray[Any] | list[str]], metadata: Mapping[str, str]
) -> Table:
    arrays = {name: _array(pyarrow, values) for name, values in columns.items()}
    return pyarrow.table(arrays, metadata=metadata)


def _array(pyarrow: ModuleType, values: Any) -> Any:
    if isinstance(values, list):
        return pyarrow.array(values, pyarrow.string())
    if values.ndim == 1:
        return pyarrow.array(values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _pyarrow(subject: object) -> ModuleType:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        hint = f"pip install pyarrow ({error})"
        raise UsageError("needs a package that is not installed", subject=subject, hint=hint) from error
    return cast("ModuleType", pa)
