"""One video to read: a local file, an object of a store, or a member of an archive."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Source", "mtime_ns"]


@dataclass(frozen=True, slots=True)
class Source:
    """One video to read.

    Attributes
    ----------
    name
        Its name in the output, unique in a run.
    file
        Path of the file, of the folder of numbered images, or of the archive; kept as a text, since a million
        paths take a third of a gigabyte.
    size_bytes, mtime_ns
        Size and modification time, which tell whether it has changed; 0 where it cannot be examined. A
        member of an archive has its own size and the archive's time.
    address, etag
        Of an object, or of an archive that is one: where it is, and what changes with its content.
    offset
        Of a member: where its data begin in the archive, in bytes.
    error
        Why it cannot be read, where that was found out already.
    """

    name: str
    file: str | os.PathLike[str]
    size_bytes: int
    mtime_ns: int
    address: str | None = None
    etag: str | None = None
    offset: int | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", os.fspath(self.file))

    @property
    def path(self) -> Path:
        """``file`` as a path, which cannot hold an address: `location` is what messages show."""
        return Path(self.file)

    @property
    def location(self) -> Path | str:
        """The address of an object, the path of anything else; of a member, that of its archive."""
        return self.path if self.address is None else self.address

    @property
    def needs_staging(self) -> bool:
        """Whether a decoder cannot open ``path`` as it is."""
        return not (self.address is None and self.offset is None and self.error is None)


def mtime_ns(status: os.stat_result) -> int:
    """Return a file's time in ns, the nearest that 64 bits hold: they end in the years 1677 and 2262."""
    return min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1)
