"""One writer at a time: a lock that is released when its process exits, for any reason.

It is SQLite's exclusive locking mode (https://sqlite.org/pragma.html#pragma_locking_mode), held from opening
to closing: it needs no shared memory, holds between processes and within one, and is not inherited by the
processes that a run starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from typing import TYPE_CHECKING
from urllib.parse import quote

from c3d_extract.errors import LockedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "ClipLock",
    "has_locks",
    "inode",
    "journal_damaged",
    "locked_connection",
    "locked_error",
    "partial_path",
    "store_errors",
]

_PARTIAL = ".partial"

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
# Of several that lock at once each may be in the way of the others for a moment: SQLite lets the first wait
# for those that give up, if it may wait at all (https://sqlite.org/lockingv3.html).
_BUSY_SECONDS = 0.5
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_NOT_WRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}


def partial_path(output: Path) -> Path:
    """Return the path of the file that exists, and is locked, while a run writes ``output``."""
    return output.with_name(f"{output.name}{_PARTIAL}")


def has_locks(folder: Path) -> bool:
    """Return whether a folder's file system has locks; OSError where the folder cannot be written."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            import fcntl
        except ImportError:  # Windows: locks are always available
            return True
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            raise
    return True


def locked_connection(path: Path, *, locks: bool) -> sqlite3.Connection:
    """Open or create the database at ``path`` and lock it until the connection is closed.

    ``locks`` is False on a file system that has no locks. Raises `LockedError` while another
    process, or another connection of this one, holds it.
    """
    while True:
        connection = _try_to_lock(path, locks=locks)
        if connection is not None:
            return connection


def _try_to_lock(path: Path, *, locks: bool) -> sqlite3.Connection | None:
    """Return a connection that holds the lock, or None if the file was deleted meanwhile (try again)."""
    with store_errors(path):
        # Not opened where it exists: closing any descriptor of a file drops this process's locks on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        before = inode(path)
        connection = _connect(path, locks=locks)
        try:
            if not path.stat().st_size:
                connection.execute("PRAGMA journal_mode = MEMORY")  # else SQLite creates a file to lock it
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")  # EXCLUSIVE mode keeps the lock after the transaction
        except sqlite3.Error:
            connection.close()
            if before == inode(path):
                raise
            return None
        except FileNotFoundError:
            connection.close()
            return None
        if before is not None and before == inode(path):
            return connection
        connection.close()  # its owner finished and deleted it between the two calls of `inode`
        return None


def _connect(path: Path, *, locks: bool) -> sqlite3.Connection:
    if locks:
        return sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    address = f"file:{quote(os.path.abspath(path))}?vfs=unix-none"  # noqa: PTH100 - resolve() follows links
    return sqlite3.connect(address, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)


def inode(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None where there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class ClipLock:
    """Locks a clip file for one run, by the empty file ``clips.h5.partial``."""

    def __init__(self, path: Path) -> None:
        """Acquire the lock; `LockedError` while another run holds it, or has an output of the same name."""
        self.path = path
        if path.exists() and path.stat().st_size:
            raise StoreError(
                "is the journal of an unfinished run with -o, not of one with --clips",
                subject=path,
                hint="choose another --clips, or finish that run",
            )
        self._connection = locked_connection(path, locks=True)

    def release(self) -> None:
        """Delete the file, while it is still locked, and unlock."""
        if os.name == "nt":
            self._connection.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._connection.close()


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the system as `StoreError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except UnicodeDecodeError as error:  # raised for an error message of SQLite that quotes damaged text
        raise journal_damaged(path, "its tables have no names") from error
    except UnicodeEncodeError as error:
        raise StoreError("a video's name is not valid UTF-8", subject=ascii(error.object)) from error
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})",
            subject=path,
            hint="choose another -o, or move away the file in its place",
        ) from error


def locked_error(path: Path) -> LockedError:
    """Return the error of a journal, or a clip file's lock, that another run holds."""
    return LockedError(
        "another run is writing this output",
        subject=path.with_name(path.name.removesuffix(_PARTIAL)),
        hint="wait for it, or name another file",
    )


def journal_damaged(path: Path, why: object) -> StoreError:
    """Return the error of a journal that cannot be used."""
    return StoreError(
        f"the journal is damaged ({why})",
        subject=path,
        hint="move it away and run again: its videos are processed again, the feature file stays",
    )


def _translated(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _IN_USE:
        return locked_error(path)
    if code in _NOT_WRITABLE:
        return StoreError(
            f"the journal cannot be written ({error})",
            subject=path,
            hint="videos finished before are safe in it: free space and run again",
        )
    return journal_damaged(path, error)
