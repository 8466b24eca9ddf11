"""Which videos are meant: files, folders, globs and lists become named videos.

A video's name is its path relative to the folder it was found in, with ``/`` between parts; a file
given by itself has its own name. Where two videos would have the same name, both get the folder
above in front, until they differ.

Nothing about one file stops the search: what cannot be looked at is passed over with a reason, and a
file that was named but is not there fails when it is read.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Found", "Source", "find_videos", "listed_paths"]

_VIDEO_NAMES = """
    3g2 3gp amv asf avi avif divx dv f4v flv gif h264 h265 hevc ivf m2ts m2v m3u8 m4v mjpeg mjpg mkv mov mp4
    mpe mpeg mpg mts mxf nut obu ogm ogv qt rm rmvb swf ts vob webm wmv xvid y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO_NAMES.split())
_FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_PICTURE_SUFFIXES = _FRAME_SUFFIXES | {".bmp", ".tif", ".tiff", ".webp", ".ppm", ".heic", ".heif", ".cr3"}
# Their first bytes are those of a video's container.
_SOUND_SUFFIXES = frozenset({".m4a", ".m4b", ".mka", ".oga", ".opus", ".spx", ".wma", ".weba"})
# The first bytes of containers, for files whose name says nothing: offset and bytes.
_MAGIC = (
    (4, b"ftyp"),
    (8, b"AVI "),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"FLV"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG-1/2 video
    (0, b"GIF8"),
    (0, b"\x30\x26\xb2\x75"),  # ASF, WMV
    (0, b".RMF"),
)


@dataclass(frozen=True)
class Source:
    """One video to read: its name in the output, where it is, and what tells whether it has changed."""

    name: str
    path: Path
    size_bytes: int
    mtime_ns: int


@dataclass
class Found:
    """The videos, sorted by name; and what was passed over, as ``(path, why)``."""

    videos: list[Source] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def check_any(self) -> None:
        """Raise UsageError where there are no videos."""
        if not self.videos:
            passed = f"; {len(self.passed_over)} other files were passed over" if self.passed_over else ""
            raise UsageError(
                f"no videos found{passed}",
                hint="name files, folders, or a quoted pattern such as 'clips/*.mp4'",
            )


@dataclass(frozen=True)
class _Candidate:
    path: Path  # absolute, links not resolved
    depth: int  # how many of its last parts make the name


def find_videos(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    listed: Iterable[str | os.PathLike[str]] = (),
    ours: Sequence[Path] = (),
    frame_folders: bool = False,
    follow_links: bool = False,
) -> Found:
    """Find the videos that ``inputs`` (files, folders, globs) and ``listed`` files mean.

    In folders, files are taken by their suffix or, where that says nothing, by their first bytes; a
    file that was named is always taken. Anything else is passed over with a reason. A listed file that
    does not exist is taken too, and fails when it is read.

    Links to files are followed, and links to folders that lie inside the folder that is searched; each real
    folder is searched once. ``/proc`` and its like are never searched, whatever leads there.

    Parameters
    ----------
    ours
        Files of this run, which are never taken for videos.
    frame_folders
        Whether a folder that holds numbered images is one video; a link to one is taken as one to a file.
    follow_links
        Whether links to folders outside are followed as well.

    Raises
    ------
    UsageError
        Where an input does not exist.
    """
    search = _Search(frame_folders, follow_links, _same_file_as(ours), _special_devices())
    candidates: dict[Path, _Candidate] = {}
    for path in [*search.expand(inputs), *map(_absolute, listed)]:
        for candidate in search.videos(path):
            candidates.setdefault(candidate.path, candidate)
    names = _names(list(candidates.values()))
    sources = (_source(name, path) for path, name in names.items())
    return Found(sorted(sources, key=lambda source: source.name), list(dict.fromkeys(search.passed_over)))


def listed_paths(text: bytes, *, subject: object) -> list[str]:
    """Return the paths of a list, one a line; bytes that are no UTF-8 stand for themselves, as in file names.

    Raises
    ------
    UsageError
        Where it is UTF-16 or UTF-32, by its mark or by its many zero bytes.
    """
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _half_is_zero(text):
        raise UsageError("is UTF-16 or UTF-32, not UTF-8", subject=subject, hint="save it as UTF-8")
    lines = (os.fsdecode(line.rstrip(b"\r")) for line in text.removeprefix(codecs.BOM_UTF8).split(b"\n"))
    return [line for line in lines if line.strip()]


def _half_is_zero(text: bytes) -> bool:
    """Say whether zero bytes are most of those at even or at odd places, as in UTF-16 without a mark."""
    halves = (text[0::2], text[1::2])
    return any(half.count(0) > len(half) / 2 for half in halves)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() raises where a folder above cannot be entered


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _same_file_as(ours: Sequence[Path]) -> Callable[[Path], bool]:
    names = {Path(path).name for path in ours}
    files = {os.path.realpath(path) for path in ours}
    return lambda path: path.name in names and os.path.realpath(path) in files


@dataclass
class _Search:
    """How folders are searched, and what was passed over on the way."""

    frame_folders: bool
    follow_links: bool
    is_ours: Callable[[Path], bool]
    special: frozenset[int]  # device numbers
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def expand(self, inputs: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
        """Yield the files and folders that ``inputs`` name, absolute."""
        for given in inputs:
            if os.path.lexists(given):
                yield _absolute(given)
                continue
            text = os.fspath(given)
            if not glob.has_magic(text):
                raise UsageError("no such file or folder", subject=_text(text))
            matches = sorted(self._matches(text))
            if not matches:
                raise UsageError("no file matches this pattern", subject=_text(text))
            yield from map(_absolute, matches)

    def _matches(self, pattern: str) -> Iterator[str]:
        """Yield what a pattern matches; ``**`` stands for the folders that a search would enter."""
        parts = Path(pattern).parts
        if "**" not in parts:
            with contextlib.suppress(ValueError):  # a NUL in the pattern
                yield from glob.glob(pattern)  # noqa: PTH207 - the whole path is the pattern
            return
        place = parts.index("**")
        for top in filter(os.path.isdir, self._matches(str(Path(*parts[:place])))):
            if place + 1 == len(parts):
                yield top
                continue
            for folder, _ in self._folders(Path(top)):
                below = str(Path(glob.escape(str(folder)), *parts[place + 1 :]))
                yield from (match for match in self._matches(below) if not self._is_link(match))

    def _is_link(self, match: str) -> bool:
        """Say whether a match is a link to a folder, which the search for folders has decided about."""
        return not self.follow_links and os.path.islink(match) and os.path.isdir(match)  # noqa: PTH112, PTH114

    def videos(self, path: Path) -> Iterator[_Candidate]:
        """Yield the videos that a file or folder stands for."""
        is_folder = _is_folder(path) and not (self.frame_folders and _is_frame_folder(path))
        for candidate in self._inside(path) if is_folder else [_Candidate(path, 1)]:
            if not self.is_ours(candidate.path):
                yield candidate

    def _inside(self, root: Path) -> Iterator[_Candidate]:
        for folder, files in self._folders(root):
            depth = len(folder.parts) - len(root.parts)
            is_video = self.frame_folders and _is_frame_folder(folder)
            if is_video:
                yield _Candidate(folder, max(depth, 1))
            for file in (folder / name for name in files if not (is_video and _is_frame(name))):
                if self.is_ours(file):
                    continue
                why = "in a special file system" if self._leads_to_special(file) else _why_not(file)
                if why is None:
                    yield _Candidate(file, depth + 1)
                else:
                    self._pass_over(file, why)

    def _folders(self, root: Path) -> Iterator[tuple[Path, list[str]]]:
        """Yield a folder and those below in sorted order, each real one once, with its files' names."""
        top, seen = os.path.realpath(root), dict[str, str]()
        for name, folders, files in os.walk(root, followlinks=True, onerror=self._unreadable):
            folder, real = Path(name), os.path.realpath(name)
            why = self._why_not_entered(folder, real, top, seen)
            seen.setdefault(real, name)
            folders[:] = [] if why else sorted(f for f in folders if not f.startswith("."))
            if why is None:
                yield folder, sorted(files)
            elif why is _OUTSIDE and self.frame_folders and _is_frame_folder(folder):
                yield folder, []
            else:
                self._pass_over(folder, why)

    def _why_not_entered(self, folder: Path, real: str, top: str, seen: dict[str, str]) -> str | None:
        if self._is_special(folder) or _is_within(real, "/proc") or _is_within(real, "/sys"):
            return "a special file system, which is never searched"
        if real in seen:
            return f"the same folder as {_text(seen[real])}"
        return None if self.follow_links or _is_within(real, top) else _OUTSIDE

    def _leads_to_special(self, file: Path) -> bool:
        return os.path.islink(file) and self._is_special(file)  # noqa: PTH114 - Path.is_symlink() raises

    def _is_special(self, path: Path) -> bool:
        try:
            return path.stat().st_dev in self.special
        except OSError:
            return False

    def _unreadable(self, error: OSError) -> None:
        self._pass_over(error.filename, f"cannot be listed: {error.strerror}")

    def _pass_over(self, path: str | Path, why: str) -> None:
        self.passed_over.append((_text(str(path)), why))


_OUTSIDE = "a link to a folder outside; --follow-links follows it"
# File systems that hold no files but a view of the machine; their folders can have no end.
_SPECIAL_NAMES = """
    binfmt_misc bpf cgroup cgroup2 configfs debugfs devfs devpts devtmpfs efivarfs fusectl mqueue proc procfs
    pstore securityfs selinuxfs sysfs tracefs
"""
_SPECIAL = frozenset(_SPECIAL_NAMES.split())


def _special_devices() -> frozenset[int]:
    """Return the device numbers of the special file systems here, wherever they are mounted."""
    tops = [Path(name) for name in ("/proc", "/sys", "/dev") if os.path.ismount(name)]
    devices = {top.stat().st_dev for top in tops}  # /dev is a tmpfs in containers
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
            mount, _, kind = line.decode("ascii", "replace").partition(" - ")
            if kind.split(" ")[0] in _SPECIAL:
                major, _, minor = mount.split(" ")[2].partition(":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))  # noqa: PTH118 - "/" has its end already


def _is_frame(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in _FRAME_SUFFIXES and path.stem.isdecimal() and path.stem.isascii()


def _is_frame_folder(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_is_frame(entry.name) for entry in entries)
    except OSError:
        return False


def _why_not(file: Path) -> str | None:
    """Say why a file in a folder is not taken for a video, or None where it is."""
    suffix = file.suffix.lower()
    if file.name.startswith("."):
        return "a hidden file"
    if suffix in VIDEO_SUFFIXES:
        return None
    if suffix in _PICTURE_SUFFIXES:
        return "a picture; --frame-folders reads folders of numbered ones"
    return "a sound file" if suffix in _SOUND_SUFFIXES else _why_not_by_content(file)


def _why_not_by_content(file: Path) -> str | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "not a regular file"
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if any(head[offset:].startswith(magic) for offset, magic in _MAGIC):
        return None
    return "not a video by its name, nor by its first bytes"


def _names(candidates: list[_Candidate]) -> dict[Path, str]:
    """Give every path a name of its own: more of its last parts wherever two would be the same."""
    depths = {c.path: c.depth for c in candidates}
    while True:
        names = {path: _text("/".join(path.parts[-depth:])) for path, depth in depths.items()}
        counts = Counter(names.values())
        same = [p for p, name in names.items() if counts[name] > 1 and depths[p] < len(p.parts) - 1]
        if not same:
            return _unlike(names)
        for path in same:
            depths[path] += 1


def _unlike(names: dict[Path, str]) -> dict[Path, str]:
    r"""Tell apart by a number what is still the same: the byte E9 and a file really called ``\xe9``."""
    taken: set[str] = set()
    for path in sorted(names):
        name, number = names[path], 2
        while names[path] in taken:
            names[path] = f"{name}~{number}"
            number += 1
        taken.add(names[path])
    return names


def _text(name: str) -> str:
    r"""Make a name valid UTF-8 without NUL: what cannot stand in a file's name becomes ``\xNN``."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # half a character, which no byte of a file's name stands for
        raw = name.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _source(name: str, path: Path) -> Source:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            files = [entry.stat() for entry in os.scandir(path) if _is_frame(entry.name)]
            return Source(name, path, sum(s.st_size for s in files), max(map(_time, files), default=0))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return Source(name, path, 0, 0)  # it will fail when it is read, with the reason
    return Source(name, path, status.st_size, _time(status))


def _time(status: os.stat_result) -> int:
    """Return a file's time in ns, the nearest that 64 bits hold: they end in the years 1677 and 2262."""
    return min(max(status.st_mtime_ns, -(2**63)), 2**63 - 1)
