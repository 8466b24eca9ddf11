"""Searching folders: each once, no special file systems, links to folders outside only where asked."""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.sources.kinds import is_frame_folder
from c3d_extract.sources.names import valid_utf8

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FolderWalk"]

_OUTSIDE = "a link to a folder outside; --follow-links follows it"
# File systems that hold no files but a view of the machine; their folders can have no end.
_SPECIAL_NAMES = """
    binfmt_misc bpf cgroup cgroup2 configfs debugfs devfs devpts devtmpfs efivarfs fusectl mqueue proc procfs
    pstore securityfs selinuxfs sysfs tracefs
"""
_SPECIAL = frozenset(_SPECIAL_NAMES.split())


def _special_devices() -> frozenset[int]:
    """Return the device numbers of the special file systems of this machine, wherever they are mounted."""
    tops = [Path(name) for name in ("/proc", "/sys", "/dev") if os.path.ismount(name)]
    devices = {top.stat().st_dev for top in tops}  # by path, because /dev is a tmpfs in containers
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():  # proc(5)
            mount, _, kind = line.decode("ascii", "replace").partition(" - ")
            if kind.split(" ")[0] in _SPECIAL:
                major, _, minor = mount.split(" ")[2].partition(":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


@dataclass
class FolderWalk:
    """How folders are searched, and what was ignored.

    Attributes
    ----------
    frame_folders
        Whether a folder of numbered images counts as a video, so that a link to one is followed.
    follow_links
        Whether links to folders outside the one that is searched are followed.
    ignored
        Paths and reasons.
    """

    frame_folders: bool
    follow_links: bool
    ignored: list[tuple[str, str]] = field(default_factory=list)
    _special: frozenset[int] = field(default_factory=_special_devices)

    def ignore(self, path: str | Path, why: str) -> None:
        """Note that a file or folder is ignored."""
        self.ignored.append((valid_utf8(str(path)), why))

    def matches(self, pattern: str) -> Iterator[str]:
        """Yield what a glob pattern matches; ``**`` stands for the folders that a search would enter."""
        parts = Path(pattern).parts
        if "**" not in parts:
            with contextlib.suppress(ValueError):  # a NUL in the pattern
                yield from glob.glob(pattern)  # noqa: PTH207 - the whole path is the pattern
            return
        place = parts.index("**")
        for top in filter(os.path.isdir, self.matches(str(Path(*parts[:place])))):
            if place + 1 == len(parts):
                yield top
                continue
            for folder, _ in self.folders(Path(top)):
                below = str(Path(glob.escape(str(folder)), *parts[place + 1 :]))
                yield from (match for match in self.matches(below) if not self._is_folder_link(match))

    def _is_folder_link(self, match: str) -> bool:
        """Return whether a match is a link to a folder, which `folders` has decided about already."""
        return not self.follow_links and os.path.islink(match) and os.path.isdir(match)  # noqa: PTH112, PTH114

    def folders(self, root: Path) -> Iterator[tuple[Path, list[str]]]:
        """Yield a folder and those below in sorted order, each real one once, with the names of its files."""
        top, seen = os.path.realpath(root), dict[str, str]()
        for name, folders, files in os.walk(root, followlinks=True, onerror=self._ignore_unreadable):
            folder, real = Path(name), os.path.realpath(name)
            why = self._why_not_entered(folder, real, top, seen)
            seen.setdefault(real, name)
            # os.walk continues with what is left in this list.
            folders[:] = [] if why else sorted(f for f in folders if not f.startswith("."))
            if why is None:
                yield folder, sorted(files)
            elif why is _OUTSIDE and self.frame_folders and is_frame_folder(folder):
                yield folder, []
            else:
                self.ignore(folder, why)

    def _why_not_entered(self, folder: Path, real: str, top: str, seen: dict[str, str]) -> str | None:
        if self._is_special(folder) or _is_within(real, "/proc") or _is_within(real, "/sys"):
            return "a special file system, which is never searched"
        if real in seen:
            return f"the same folder as {valid_utf8(seen[real])}"
        return None if self.follow_links or _is_within(real, top) else _OUTSIDE

    def _ignore_unreadable(self, error: OSError) -> None:
        self.ignore(error.filename, f"cannot be listed: {error.strerror}")

    def leads_to_special(self, file: Path) -> bool:
        """Return whether a file is a link into a special file system."""
        return os.path.islink(file) and self._is_special(file)  # noqa: PTH114 - Path.is_symlink() raises

    def _is_special(self, path: Path) -> bool:
        try:
            return path.stat().st_dev in self._special
        except OSError:
            return False


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))  # noqa: PTH118 - "/" has its end already
