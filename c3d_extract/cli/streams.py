"""Standard streams that may fail: a full disk, a reader that exited, ``2>&-``.

A message that cannot be written to stderr is dropped. A result that cannot be written to stdout is an error,
reported once, in one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from c3d_extract.errors import C3DError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["StdoutLostError", "keep_streams"]

_STDIN, _STDOUT, _STDERR = range(3)


class StdoutLostError(C3DError):
    """A result could not be written; ``reader_left`` where its reader closed the pipe, as ``| head`` does."""

    def __init__(self, error: OSError) -> None:
        self.reader_left = isinstance(error, BrokenPipeError)
        super().__init__(f"cannot be written: {error.strerror or error}", subject="stdout")


class _Messages(io.FileIO):
    """Writes what can be written and drops the rest."""

    def write(self, data: ReadableBuffer, /) -> int:
        with contextlib.suppress(OSError):
            written = super().write(data)
            if written is not None:  # None: it would have to wait
                return written
        return memoryview(data).nbytes


class _Results(io.FileIO):
    """Raises `StdoutLostError` once; what Python still tries to write at exit is dropped."""

    lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self.lost:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.lost = True
            raise StdoutLostError(error) from error


def keep_streams() -> None:
    """Replace this process's standard streams, once at its start, so that losing one is no traceback.

    A closed stream gets its file descriptor back first: otherwise the next file opened, perhaps the feature
    file, would have the descriptor that libraries write their messages to.
    """
    if os.name != "posix":
        return
    for number in (_STDIN, _STDOUT, _STDERR):
        _fill(number)
    if _writes_to(sys.stdout, _STDOUT):
        sys.stdout = _text(sys.stdout, _Results(_STDOUT, "w", closefd=False), "strict")
    if _writes_to(sys.stderr, _STDERR):
        sys.stderr = _text(sys.stderr, _Messages(_STDERR, "w", closefd=False), "backslashreplace")


def _writes_to(stream: TextIO | None, number: int) -> bool:
    """Return whether a stream is the process's own, or was closed: a caller's replacement is kept."""
    try:
        return stream is None or stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # it is in memory, as a StringIO is
        return False


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        # In the wrong direction, so that using it stays an error. The lowest free number is this one.
        os.open(os.devnull, os.O_WRONLY if number == _STDIN else os.O_RDONLY)


def _text(was: TextIO | None, raw: io.FileIO, errors: str) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=was.encoding if was else "utf-8",
        errors=(was.errors if was else None) or errors,
        line_buffering=raw.fileno() == _STDERR or raw.isatty(),
        write_through=getattr(was, "write_through", False),
    )
