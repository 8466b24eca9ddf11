"""Files are put in place in one step, and text files are read by lines."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest
from store_samples import names

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.files import read_text_lines, replacing, writing_output


def test_a_new_file_is_opened_exclusively_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
    link, target = tmp_path / f".c3d-extract-{'0' * 32}.tmp", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(FileExistsError), replacing(tmp_path / "x"):
        pass
    assert link.is_symlink()
    assert not target.exists()


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "x") as file:
            file.write(b"content")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x").read_bytes() == b"content"


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(TypeError), replacing(tmp_path / "x") as file:
        file.writelines([b"new", None])  # type: ignore[list-item]
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize(
    ("code", "is_error"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EACCES, False), (errno.EIO, True)],
)
def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_error: bool
) -> None:
    sync = os.fsync

    def sync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    error = pytest.raises(StoreError, match="Input/output error") if is_error else nullcontext()
    with error, writing_output(tmp_path / "x") as file:
        file.write(b"content")
    assert (tmp_path / "x").read_bytes() == b"content"


def test_content_is_on_the_disk_before_the_name_and_the_name_before_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace

    def listed_sync(descriptor: int) -> None:
        order.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
        sync(descriptor)

    def listed_replace(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", listed_sync)
    monkeypatch.setattr(Path, "replace", listed_replace)
    with replacing(tmp_path / "x"):
        pass
    assert order == ["sync file", "rename", "sync folder"]


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
