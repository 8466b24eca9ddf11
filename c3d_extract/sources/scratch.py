"""A folder for temporary files that is removed with its run, or, after a kill, by the next one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ScratchFolder"]

_PREFIX = "c3d-extract-staged-"
_LOCK = "lock"
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


class ScratchFolder:
    """A new folder of this process in ``parent``; folders of processes that were killed are removed.

    A folder is in use while the lock on a file in it is held; the system releases it when the process ends,
    for any reason. On file systems without locks nothing is removed but what a process made itself.

    Raises
    ------
    OSError
        Where the folder cannot be made.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        self.path, self._lock = _new_folder(parent)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _new_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):  # another process took it for an abandoned one
            descriptor = os.open(folder / _LOCK, _LOCK_FLAGS, 0o600)
            if _is_locked(descriptor, folder / _LOCK):
                return folder, descriptor
            os.close(descriptor)


def _is_locked(descriptor: int, path: Path) -> bool:
    """Lock a new folder's file; return whether it is this process's, and still there."""
    try:
        _lock(descriptor)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except _NoLocksError:
        return True


def _remove_abandoned(parent: Path) -> None:
    for folder in list(_own_folders(parent)):
        with contextlib.suppress(OSError, _NoLocksError):
            descriptor = os.open(folder / _LOCK, _LOCK_FLAGS, 0o600)
            try:
                _lock(descriptor)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _own_folders(parent: Path) -> Iterator[Path]:
    """Yield the folders of this user: others' must not lead this process to delete anything."""
    with os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == _user():
                        yield Path(entry.path)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


class _NoLocksError(Exception):
    """The system, or the file system, has no locks."""


def _lock(descriptor: int) -> None:
    """Lock a file; raise BlockingIOError where another process holds it, or _NoLocksError."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError) as error:
        raise _NoLocksError from error
