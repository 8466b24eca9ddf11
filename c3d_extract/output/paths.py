"""The names of an output's files, and whether they can be written."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output.journal import SIDE_FILES
from c3d_extract.output.lock import has_locks, partial_path

__all__ = ["OutputPaths", "check_local"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # what Path leaves of ``s3://``
_KINDS: dict[int | None, str] = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


@dataclass(frozen=True)
class OutputPaths:
    """The files of one output; all names but the clip file's derive from the feature file's."""

    features: Path
    clips: Path | None = None

    @classmethod
    def of(cls, features: Path, clips: Path | None = None) -> OutputPaths:
        """Follow symbolic links, so that an output has one journal under any of its names."""
        return cls(_followed(features), None if clips is None else _followed(clips))

    @property
    def journal(self) -> Path:
        """``feats.h5.partial``: exists while a run is not finished."""
        return partial_path(self.features)

    @property
    def report(self) -> Path:
        """``feats.report.jsonl``; ``feats.hdf5.report.jsonl`` for a file with another suffix."""
        return self._beside("report.jsonl")

    @property
    def basis(self) -> Path:
        """``feats.pca.h5``; ``feats.hdf5.pca.h5`` for a file with another suffix."""
        return self._beside("pca.h5")

    @property
    def clip_lock(self) -> Path | None:
        """``clips.h5.partial``: an empty file that exists while a run writes the clip file."""
        return self.clips and partial_path(self.clips)

    @property
    def every(self) -> tuple[Path, ...]:
        """All paths, whether the files exist or not."""
        files = (self.features, self.clips, self.journal, self.report, self.basis, self.clip_lock)
        return tuple(filter(None, files))

    def _beside(self, ending: str) -> Path:
        # ``feats`` and ``feats.h5`` may be in one folder, so a name without a suffix is followed by a hyphen.
        name, suffix = self.features.name, self.features.suffix
        start = f"{self.features.stem}." if suffix == ".h5" else name + ("." if suffix else "-")
        return self.features.with_name(start + ending)

    @property
    def _same_report(self) -> Path | None:
        """The only other output whose report would have the same name, None if there is none."""
        name, suffix = self.features.name, self.features.suffix
        if suffix == ".h5":
            return self.features.with_suffix("") if Path(self.features.stem).suffix else None
        return self.features.with_name(f"{name}.h5") if suffix else None

    def check(self) -> None:
        """Raise where two files would have the same name, or where a path is not a regular file.

        No file is opened: opening a FIFO would block.
        """
        for path in filter(None, (self.features, self.clips)):
            check_local(
                path, hint="write to a disk and copy it; -o RUN --shard 0/1 keeps a run in parts there"
            )
        if len({os.path.realpath(path) for path in self.every}) < len(self.every):
            raise UsageError("--clips needs a file of its own", subject=self.clips, hint="name another")
        other = self._same_report
        if other is not None and (_is_hdf5(other) or _kind(OutputPaths(other).journal)):
            reason = f"its report would be {self.report.name}, which is that of {other.name}"
            raise UsageError(reason, subject=self.features, hint="choose another -o")
        side_files = [self.journal.with_name(f"{self.journal.name}{ending}") for ending in SIDE_FILES]
        for path in (*self.every, *side_files):
            _check_kind(path)
        for folder in self._folders:
            _check_writable(folder)

    def make_folders(self) -> set[Path]:
        """Create missing folders; return those whose file systems have no locks.

        Raises `StoreError` where one cannot be written.
        """
        unlocked = set()
        for folder in self._folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not has_locks(folder):
                    unlocked.add(folder)
            except OSError as error:
                raise _not_writable(folder, error.strerror or error) from error
        return unlocked

    @property
    def _folders(self) -> set[Path]:
        return {path.parent for path in (self.features, self.clips) if path is not None}


def _followed(path: Path) -> Path:
    if not path.name:  # the current folder, or the root
        raise StoreError("is a folder", subject=path, hint="name a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path  # resolve() raises on a link cycle


def check_local(path: Path, *, hint: str = "write to a disk and copy it") -> None:
    """Raise where a path was an address: object stores cannot extend, lock or rename files."""
    first = path.parts[0] if path.parts else ""
    if _SCHEME.fullmatch(first) and not Path(first).exists():
        raise UsageError("an output file cannot be in an object store", subject=path, hint=hint)


def _kind(path: Path) -> int | None:
    """Return the file type as `stat.S_IFMT` does, without following links; None if nothing exists."""
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except OSError:  # its folder does not exist, or is not a folder
        return None


def _is_hdf5(path: Path) -> bool:
    if _kind(path) != stat.S_IFREG:
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"
    return False


def _check_kind(path: Path) -> None:
    found = _kind(path)
    if found not in {None, stat.S_IFREG}:
        kind = _KINDS.get(found, "not a regular file")
        hint = "name a file" if kind == "a folder" else "move it away, or name another file"
        raise StoreError(f"is {kind}", subject=path, hint=hint)


def _check_writable(folder: Path) -> None:
    """Raise where a folder cannot be written or created, as far as that is known without writing."""
    existing = folder.absolute()
    while _kind(existing) is None and existing != existing.parent:
        existing = existing.parent
    if not os.path.isdir(existing):  # noqa: PTH112 - Path.is_dir() raises where a parent is not accessible
        raise _not_writable(folder, f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise _not_writable(folder, "no permission")


def _not_writable(folder: Path, why: object) -> StoreError:
    return StoreError(f"the folder cannot be written ({why})", subject=folder, hint="choose another -o")
