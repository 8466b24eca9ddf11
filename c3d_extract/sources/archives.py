"""The videos in a tar archive, from its headers: nothing is unpacked, and no member's name is ever a path.

A member is taken by its name alone, because its first bytes would have to be fetched. An archive that is
damaged or cut off gives the members that lie wholly inside it, and counts as a failed video itself, so that
the loss is seen.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from c3d_extract.errors import C3DError
from c3d_extract.sources.kinds import why_not_a_video_by_name
from c3d_extract.sources.names import valid_utf8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from c3d_extract.sources.source import Source

__all__ = ["COMPRESSED", "videos_of_archive"]

COMPRESSED = "a compressed archive; unpack it, or pack it again as a plain .tar"
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")  # gzip … Zstandard, LZ4
_LONGEST_HEADER = 1 << 20  # bytes; a header that claims more would be read into memory
_BLOCK = tarfile.BLOCKSIZE
_AFTER_END = 1 << 16  # bytes that are looked at behind the end; tar pads an archive to 10,240


class _ArchiveError(Exception):
    """The archive is damaged; the text says how."""


def videos_of_archive(
    archive: Source, file: BinaryIO, ignore: Callable[[str, str], None]
) -> Iterator[Source]:
    """Yield the videos of an archive, in its order; last the archive itself where it is damaged.

    Names start with the archive's; those of members with the same name are equal.

    Parameters
    ----------
    archive
        The archive as a file.
    file
        The same, open.
    ignore
        Called with what is ignored, and why.
    """
    try:
        for member in _members(file, archive.size_bytes):
            parts = [part for part in member.name.split("/") if part not in {"", "."}]
            why = None if member.isdir() else _why_ignored(member, parts)
            name = valid_utf8("/".join([archive.name, *parts]))
            if why is not None:
                ignore(valid_utf8(f"{archive.location}/{member.name}"), why)
            elif not member.isdir():
                yield replace(archive, name=name, size_bytes=member.size, offset=member.offset_data)
    except (_ArchiveError, C3DError, OSError) as error:
        yield replace(archive, error=_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return error.reason if isinstance(error, C3DError) else str(error)


def _why_ignored(member: tarfile.TarInfo, parts: list[str]) -> str | None:
    if member.issym() or member.islnk():
        return "a link"
    if not member.isreg():
        return "not a regular file"
    if member.issparse():
        return "a sparse file; pack it without --sparse"
    if member.name.startswith("/"):
        return "an absolute name"
    if ".." in parts:
        return "a name that leads out of the archive"
    return why_not_a_video_by_name("/".join(parts))


def _members(file: BinaryIO, n_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members that lie wholly inside the archive; raise _ArchiveError where it is damaged."""
    number, last = 0, ""
    headers = cast("IO[bytes]", _Headers(file))
    try:
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            for number, member in enumerate(archive, start=1):
                last = valid_utf8(member.name)
                stored = 0 if member.issparse() or not member.isreg() else member.size
                if stored < 0 or archive.offset <= member.offset:
                    raise _ArchiveError(f"the header of member {number} ({last}) is damaged")
                if max(member.offset_data + stored, archive.offset - _BLOCK) > n_bytes:
                    raise _ArchiveError(f"the archive ends in the middle of member {number} ({last})")
                yield member
            end = archive.offset
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise _ArchiveError(_why_damaged(file, number, last, error)) from error
    _check_end(file, end, f"member {number} ({last})" if number else "its beginning")


def _why_damaged(file: BinaryIO, number: int, last: str, error: Exception) -> str:
    if number:
        return f"the archive is damaged or cut off after member {number} ({last})"
    file.seek(0)
    head = file.read(8)
    if head.startswith(_MAGIC):
        return COMPRESSED
    return "an empty file" if not head else f"not a tar archive ({error})"


def _check_end(file: BinaryIO, end: int, after: str) -> None:
    """Raise _ArchiveError unless the end is marked, with nothing behind it: tarfile takes any end for one."""
    file.seek(end)
    rest = file.read(_AFTER_END)
    if len(rest) < _BLOCK:
        raise _ArchiveError(f"the archive is cut off after {after}: the mark of its end is missing")
    if any(rest[:_BLOCK]):
        raise _ArchiveError(f"the header after {after} is damaged")
    if any(rest):
        raise _ArchiveError(f"another archive begins after {after}; split them, or pack them into one")


class _Headers:
    """What tarfile reads of a file: headers, of a limited size."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def read(self, n_bytes: int) -> bytes:
        if not 0 <= n_bytes <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {n_bytes} bytes")
        return self._file.read(n_bytes)
