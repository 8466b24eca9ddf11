"""Atomic writes (a temporary file, flushed to the disk, then renamed), and text files read by lines."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
from typing import TYPE_CHECKING, BinaryIO, Protocol

from c3d_extract.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.errors import C3DError

__all__ = ["DISK_FULL", "FileLog", "is_temporary_name", "read_text_lines", "replacing", "writing_output"]

# The name cannot be guessed, so no file or link of that name was put there by another user; and it is short,
# so that it is valid whatever the length of the file's own name (at most 255 bytes on most file systems).
_TEMPORARY = re.compile(r"\.c3d-extract-[0-9a-f]{32}\.tmp")
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# What fsync(2) and open(2) return for folders on file systems that cannot sync them, and for folders that may
# be written into and not read.
_NO_FOLDER_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EACCES,
    errno.EPERM,
}
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors that say there is no room for a file."""


class FileLog(Protocol):
    """Keeps, durably, what is about to be put in place: a killed run is cleaned up after and recognised."""

    def note_temporary(self, path: Path) -> None:
        """Record the name of a temporary file before it is created."""

    def note_written(self, digest: str) -> None:
        """Record the digest of a file before it is put in place."""


def is_temporary_name(name: str) -> bool:
    """Return whether a file name is one that `replacing` makes."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def replacing(path: Path, log: FileLog | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file next to ``path``; it replaces ``path`` on success and is removed on failure.

    What is in place afterwards is on the disk, not only in the system's cache. The file's mode is that of
    any new file (umask). Raises OSError, and leaves what was there, when it cannot be written.

    Parameters
    ----------
    path
        The file to make or to replace.
    log
        Given the temporary file's name before it is made: after a ``kill -9`` it is left behind.
    """
    temporary = path.with_name(f".c3d-extract-{secrets.token_hex(16)}.tmp")
    if log is not None:
        log.note_temporary(temporary)
    descriptor = os.open(temporary, _NEW_FILE, 0o666)
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            os.fsync(descriptor)  # before the rename: a name must never stand for content that is not there
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)  # the rename itself is on the disk only then


@contextlib.contextmanager
def writing_output(path: Path, log: FileLog | None = None) -> Iterator[BinaryIO]:
    """Open a new file in the place of ``path`` as `replacing` does; what fails is a `StoreError`."""
    try:
        with replacing(path, log) as file:
            yield file
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StoreError("the disk is full", subject=path, hint="free space and run again") from error
        reason = f"cannot be written ({error.strerror or error})"
        raise StoreError(reason, subject=path, hint="run again") from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:  # the file is in place, and no more can be done for it
            raise


def read_text_lines(path: Path, error: type[C3DError]) -> list[str]:
    """Return the lines of a UTF-8 text file, without their ends; ``enumerate(…, start=1)`` numbers them.

    A byte order mark is left out. Lines end with a line feed, a carriage return, or both, and nowhere else:
    what `str.splitlines` takes for an end as well, such as U+2028, may stand in a path.

    Parameters
    ----------
    error
        Raised, in one line, for a file that cannot be read or is not UTF-8; names the line where it is not.
    """
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise error(f"cannot be read: {cause.strerror}", subject=path) from cause
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        number = len(_split_lines(cause.object[: cause.start].decode() + "."))
        raise error("not a text file in UTF-8", subject=f"{path}, line {number}") from cause
    return _split_lines(text)


def _split_lines(text: str) -> list[str]:
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]
