"""Parquet: a text column is read, tables with vectors are written; pyarrow reads them as others would."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.parquet import read_text_column, write_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def column(path: Path, *names: str) -> list[str]:
    return list(read_text_column(path.read_bytes(), names, subject=path))


def test_the_first_named_column_is_read(tmp_path: Path) -> None:
    table = {"label": ["x", "y"], "url": ["a", None], "path": ["p", "q"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    assert column(tmp_path / "t.parquet", "address", "url", "path") == ["a"]


def test_the_only_text_column_is_read_under_any_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2], "file": ["a", "b"]}), tmp_path / "t.parquet")
    assert column(tmp_path / "t.parquet", "url") == ["a", "b"]


@pytest.mark.parametrize("columns", [{"n": [1]}, {"a": ["x"], "b": ["y"]}])
def test_a_table_without_such_a_column_is_refused(
    tmp_path: Path, columns: dict[str, list[int | str]]
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="has no text column called url"):
        column(tmp_path / "t.parquet", "url")


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UsageError, match=r"t\.parquet: cannot be read"):
        column(tmp_path / "t.parquet", "url")


def test_vectors_become_lists_of_fixed_size(tmp_path: Path) -> None:
    X = np.arange(12, dtype=np.float32).reshape(4, 3)
    n = np.arange(4, dtype=np.int32)
    blocks: list[dict[str, NDArray[Any] | list[str]]] = [
        {"video": [f"v{i}" for i in rows], "n": n[rows], "fc6": X[rows]} for rows in ([0, 1, 2], [3])
    ]
    write_columns(tmp_path / "t.parquet", blocks, {"about": "a test"})
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.schema.field("fc6").type == pa.list_(pa.float32(), 3)
    assert table.schema.metadata[b"about"] == b"a test"
    assert table["video"].to_pylist() == ["v0", "v1", "v2", "v3"]
    np.testing.assert_array_equal(np.stack(table["fc6"].to_pylist()), X)
    np.testing.assert_array_equal(table["n"], n)


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    write_columns(
        tmp_path / "t.parquet", iter([{"video": np.array([], "U1"), "x": np.ones((0, 3), "f")}]), {}
    )
    table = pq.read_table(tmp_path / "t.parquet")
    assert (len(table), table.schema.field("x").type) == (0, pa.list_(pa.float32(), 3))


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def blocks() -> Iterator[dict[str, NDArray[Any]]]:
        yield {"x": np.ones(2)}
        raise StoreError("the source is damaged")

    with pytest.raises(StoreError, match="the source is damaged"):
        write_columns(tmp_path / "t.parquet", blocks(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        column(tmp_path / "t.parquet", "url")
