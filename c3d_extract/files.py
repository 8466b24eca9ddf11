"""Files put in place in one step (written beside, flushed to the disk, renamed), and text read by lines."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from c3d_extract.errors import C3DError

__all__ = ["is_temporary_name", "read_text_lines", "replacing"]

# Nobody can guess it, so nobody has a file or a link of that name; it is short, whatever the file is called.
_TEMPORARY = re.compile(r"\.c3d-extract-[0-9a-f]{32}\.tmp")
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# What file systems say whose folders cannot be synced, or opened by somebody who may write into them.
_NO_FOLDER_SYNC = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EACCES,
    errno.EPERM,
}


def is_temporary_name(name: str) -> bool:
    """Say whether a file name is one that `replacing` makes."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def replacing(path: Path, *, announce: Callable[[Path], object] | None = None) -> Iterator[BinaryIO]:
    """Open a new file beside ``path``; it takes that place when all went well, else it is removed.

    What is in place afterwards is on the disk, not only in the system's cache. The file's mode is that of
    any new file (umask). Raises OSError, and leaves what was there, when it cannot be written.

    Parameters
    ----------
    announce
        Told the temporary file before it is made: after a ``kill -9`` it is left behind.
    """
    temporary = path.with_name(f".c3d-extract-{secrets.token_hex(16)}.tmp")
    if announce is not None:
        announce(temporary)
    descriptor = os.open(temporary, _NEW_FILE, 0o666)
    try:
        with open(descriptor, "w+b") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


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
