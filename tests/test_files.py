from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.files import read_text_lines

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo", ["one", "two"]),
        (b"\xef\xbb\xbfone\r\n\r\ntwo\rthree\n", ["one", "", "two", "three"]),
        ("a\u2028b\x0bc\x85d\n".encode(), ["a\u2028b\x0bc\x85d"]),
    ],
)
def test_lines_end_where_text_files_end_them(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    assert read_text_lines(tmp_path / "list.txt", UsageError) == lines


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_not_utf_8_is_named_by_its_line(tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(mark + b"one\r\ntw\xc3\xb6\nthr\xe9\n")
    with pytest.raises(UsageError, match=r"list\.txt, line 3: not a text file in UTF-8$"):
        read_text_lines(tmp_path / "list.txt", UsageError)


def test_a_file_that_cannot_be_read_is_the_error_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone: cannot be read: No such file"):
        read_text_lines(tmp_path / "gone", StoreError)
