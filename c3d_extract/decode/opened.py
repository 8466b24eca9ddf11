"""Videos in memory and in file objects: their bytes, read as those of a file are."""

from __future__ import annotations

import io
import os
from pathlib import PurePath
from typing import IO, Protocol, cast

from c3d_extract.errors import UsageError

__all__ = ["OpenedFile", "ReadableFile", "file_of_bytes"]

_HEAD_BYTES = 64


class ReadableFile(Protocol):
    """A file object open to read bytes; ``seek``, ``tell`` and ``name`` are used where it has them."""

    def read(self, n: int, /) -> bytes:
        """Return at most ``n`` bytes, none at the end."""


class OpenedFile:
    """The bytes of one video in a file object, which is never closed here.

    It is read from its beginning where it can seek, else from where it is; then its end is not examined.

    Parameters
    ----------
    file
        Where its ``name`` is a text, FFmpeg is told the suffix, by which it knows a few kinds of raw streams.
    title
        What messages call it; its ``name`` by default.

    Attributes
    ----------
    error
        What ``file`` raised, or None. A decoder is told that the file ends there.
    size
        Bytes, or None where it cannot seek.
    """

    def __init__(self, file: ReadableFile, title: str | None = None) -> None:
        self._file = cast("IO[bytes]", file)
        name = getattr(file, "name", None)
        name = name if isinstance(name, str) else ""
        self._title = title or name or "<file>"
        self.name = f"video{PurePath(name).suffix}"  # PyAV passes it on as the address of what is read
        self.error: Exception | None = None
        self._head: bytes | None = None
        self._can_seek = all(hasattr(file, method) for method in ("seek", "tell")) and bool(
            getattr(file, "seekable", lambda: True)()
        )
        self.size = self.seek(0, os.SEEK_END) if self._can_seek else None

    def __str__(self) -> str:
        return self._title

    def seekable(self) -> bool:
        """Return whether `seek` can be called."""
        return self._can_seek

    def rewind(self) -> None:
        """Go to the beginning, where that is possible."""
        if self._can_seek:
            self.seek(0)

    def read(self, n: int) -> bytes:
        """Return at most ``n`` bytes, none at the end or where reading fails."""
        if self.error is not None:
            return b""
        try:
            data = self._checked(self._file.read(n), n)
        except Exception as error:  # noqa: BLE001 - raised again, as it is, by whoever gave the file
            self.error = error
            return b""
        if self._head is None:
            self._head = data[:_HEAD_BYTES]
        return data

    def _checked(self, data: object, n: int) -> bytes:
        if isinstance(data, str):
            raise UsageError("is open as text", subject=self, hint="open it in binary mode, 'rb'")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UsageError(f"its read() returned {type(data).__name__}, not bytes", subject=self)
        if len(data) > n:  # PyAV would copy them beyond the end of its buffer
            raise UsageError(f"its read({n}) returned {len(data)} bytes", subject=self)
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        try:
            self._file.seek(offset, whence)
            return self._file.tell()
        except Exception as error:  # as in `read`
            self.error = self.error or error
            raise

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def forget(self) -> None:
        """Let go of the file object, and of the memory behind it."""
        self._file = io.BytesIO()

    def view(self) -> IO[bytes]:
        """Return the bytes, or the first 64 where it cannot seek; closing them leaves the file open."""
        if not self._can_seek:
            return io.BytesIO(self._head or b"")
        return io.BufferedReader(_View(self))


class _View(io.RawIOBase):
    """A file object, to be looked at without closing it."""

    def __init__(self, file: OpenedFile) -> None:
        self._file = file
        file.rewind()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def file_of_bytes(data: bytes | bytearray | memoryview) -> ReadableFile:
    """Return a file object of bytes in memory, without copying them."""
    # BytesIO shares the memory of bytes, and copies anything else.
    return io.BytesIO(data) if isinstance(data, bytes) else _BufferFile(data)


class _BufferFile(io.RawIOBase):
    """A file object on a buffer that may be changed, such as a bytearray or a view of mapped memory."""

    def __init__(self, data: bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: len(self._data)}[whence]
        self._place = max(start + offset, 0)
        return self._place

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._data[self._place : self._place + len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
