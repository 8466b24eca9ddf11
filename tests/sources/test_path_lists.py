"""Lists of paths: one a line, in UTF-8 or any bytes that a file name has."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from c3d_extract.errors import UsageError
from c3d_extract.sources.path_lists import listed_paths


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (b"a.mp4\nb c.mp4\n", ["a.mp4", "b c.mp4"]),
        (b"\xef\xbb\xbfa.mp4\r\n\r\n \nb.mp4", ["a.mp4", "b.mp4"]),
        (b"a\0b.mp4\nc.mp4\n", ["a\0b.mp4", "c.mp4"]),
        (b"\xe9.mp4\n", ["\udce9.mp4"]),
        ("é🎬.mp4\n".encode(), ["é🎬.mp4"]),
        (b"\x85\x0c\xe2\x80\xa8.mp4\n", ["\udc85\x0c\u2028.mp4"]),
        (b"", []),
    ],
)
def test_a_list_has_a_path_a_line(text: bytes, paths: list[str]) -> None:
    assert listed_paths(text, subject="list") == paths


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["a.mp4\n", "C:\\клипы\\one of many.mp4\r\nb.mp4\r\n"])
def test_a_list_in_utf16_is_refused(encoding: str, text: str) -> None:
    with pytest.raises(UsageError, match=r"list\.txt: is UTF-16 or UTF-32, not UTF-8; save it as UTF-8"):
        listed_paths(text.encode(encoding), subject="list.txt")


def test_a_parquet_table_is_a_list() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"label": ["x", "y"], "url": ["s3://b/1.mp4", "s3://b/2.mp4"]}), file)
    assert listed_paths(file.getvalue(), subject="list") == ["s3://b/1.mp4", "s3://b/2.mp4"]
