"""Where the files of a run in parts are: a folder that all machines see, or a prefix of an object store.

A file appears in one step, by a rename or by one PUT: it is there whole, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from c3d_extract.errors import RemoteError, StoreError
from c3d_extract.files import writing_output
from c3d_extract.object_store import (
    create_object,
    fetch_object,
    is_address,
    list_objects,
    read_object,
    stat_object,
    upload_file,
    write_object,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["LocalCopy", "LocalFolder", "RemoteFolder", "RunFolder", "open_run_folder"]

_COPY_BYTES = 1 << 22

LocalCopy = Callable[[str], Path]
"""The name of a file of a run → a local path at which it can be read."""


class RunFolder(Protocol):
    """The files of a run; names are relative, with ``/`` between parts.

    Every method raises `StoreError` or `RemoteError` where a file cannot be read or written.
    """

    def address(self, name: str = "") -> str:
        """Return the absolute path, or the address, of a file or of the folder."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""

    def times(self, folder: str) -> dict[str, float]:
        """Return the names of the files in a folder, and when each was written, in s since 1970."""

    def exists(self, name: str) -> bool:
        """Return whether a file is there."""

    def copies(self, scratch: Path | None = None) -> contextlib.AbstractContextManager[LocalCopy]:
        """Give a function from a file's name to a local path where it can be read, while the context lasts.

        The path of no file where there is none. Remote files are copied once, to ``scratch``.
        """

    def create(self, name: str, content: bytes) -> None:
        """Write a file unless one of that name is there."""

    def put(self, name: str, source: Path) -> None:
        """Write a copy of a local file, in the place of one that is there."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, in the place of one that is there."""

    def place_plan(self, parts: Sequence[bytes]) -> str:
        """Write ``000000.jsonl``, … into a folder of their own in one step; return the folder's name.

        Of several processes that do so at the same time, all get a folder that is whole.
        """


def open_run_folder(folder: str | os.PathLike[str]) -> RunFolder:
    """Return the folder of a run, which need not be there yet."""
    return RemoteFolder(os.fspath(folder).rstrip("/")) if is_address(folder) else LocalFolder(Path(folder))


@dataclass(frozen=True)
class LocalFolder:
    """A folder; over a network disk as well."""

    path: Path

    def address(self, name: str = "") -> str:  # noqa: D102 - see RunFolder, for all of them
        return os.path.abspath(self.path / name)  # noqa: PTH100 - resolve() would follow links

    def read(self, name: str) -> bytes | None:  # noqa: D102
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", subject=self.path / name) from error

    def times(self, folder: str) -> dict[str, float]:  # noqa: D102
        try:
            with os.scandir(self.path / folder) as entries:
                return {entry.name: entry.stat().st_mtime for entry in entries}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", subject=self.path / folder) from error

    def exists(self, name: str) -> bool:  # noqa: D102
        return (self.path / name).exists()

    @contextlib.contextmanager
    def copies(self, scratch: Path | None = None) -> Iterator[LocalCopy]:  # noqa: D102
        del scratch
        yield lambda name: self.path / name

    def create(self, name: str, content: bytes) -> None:  # noqa: D102
        path = self.path / name
        own = self.path / f".{secrets.token_hex(8)}-{name}"
        with writing_output(own) as file:
            file.write(content)
        try:
            os.link(own, path)  # fails where the name is taken, which a rename would not
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            own.replace(path)
            return
        own.unlink()

    def put(self, name: str, source: Path) -> None:  # noqa: D102
        target = self.path / name
        self._make(target.parent)
        try:
            file = source.open("rb")
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", subject=source) from error
        with file, writing_output(target) as copy:
            shutil.copyfileobj(file, copy, _COPY_BYTES)

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        self._make((self.path / name).parent)
        with writing_output(self.path / name) as file:
            file.write(content)

    def place_plan(self, parts: Sequence[bytes]) -> str:  # noqa: D102
        own = self.path / f".plan-{secrets.token_hex(8)}"
        self._make(own)
        try:
            for number, content in enumerate(parts):
                with writing_output(own / f"{number:06d}.jsonl") as file:
                    file.write(content)
            with contextlib.suppress(OSError):  # another process was first: its plan counts
                own.rename(self.path / "plan")
            if not (self.path / "plan").is_dir():
                raise StoreError("the plan cannot be put in place", subject=self.path / "plan")
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return "plan"

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be made ({error.strerror})", subject=folder) from error


@dataclass(frozen=True)
class RemoteFolder:
    """A prefix of an object store, without a slash at its end."""

    prefix: str

    def address(self, name: str = "") -> str:  # noqa: D102
        return f"{self.prefix}/{name}" if name else self.prefix

    def read(self, name: str) -> bytes | None:  # noqa: D102
        return read_object(self.address(name))

    def times(self, folder: str) -> dict[str, float]:  # noqa: D102
        found = list_objects(self.address(folder))
        start = len(self.address(folder)) + 1
        return {each.address[start:]: each.mtime_ns / 1e9 for each in found}

    def exists(self, name: str) -> bool:  # noqa: D102
        return stat_object(self.address(name)) is not None

    @contextlib.contextmanager
    def copies(self, scratch: Path | None = None) -> Iterator[LocalCopy]:  # noqa: D102
        with tempfile.TemporaryDirectory(prefix="c3d-extract-", dir=scratch) as folder:
            yield partial(self._copy, Path(folder))

    def _copy(self, folder: Path, name: str) -> Path:
        copy = folder / name.replace("/", "-")
        found = None if copy.exists() else stat_object(self.address(name))
        if found is not None:
            try:
                fetch_object(found, copy)
            except OSError as error:
                copy.unlink(missing_ok=True)
                raise StoreError(f"cannot be written ({error.strerror})", subject=copy) from error
        return copy

    def create(self, name: str, content: bytes) -> None:  # noqa: D102
        create_object(self.address(name), content)

    def put(self, name: str, source: Path) -> None:  # noqa: D102
        if not source.is_file():
            raise StoreError("cannot be read", subject=source)
        upload_file(source, self.address(name))

    def write(self, name: str, content: bytes) -> None:  # noqa: D102
        write_object(self.address(name), content)

    def place_plan(self, parts: Sequence[bytes]) -> str:
        """Write the parts under a name that follows from their content: a prefix cannot be renamed."""
        digest = hashlib.sha256()
        for content in parts:
            digest.update(content)
        name = f"plan/{digest.hexdigest()[:16]}"
        done = self.times(name)
        for number, content in enumerate(parts):
            if f"{number:06d}.jsonl" not in done:
                self.write(f"{name}/{number:06d}.jsonl", content)
        if len(self.times(name)) != len(parts):
            raise RemoteError("the plan cannot be put in place", subject=self.address(name))
        return name
