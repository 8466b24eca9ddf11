"""Which videos are meant: files, folders, globs and addresses become named videos.

Nothing about one file stops the search: what cannot be examined is ignored with a reason, and a file that was
named but does not exist fails when it is read.
"""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import UsageError
from c3d_extract.object_store import is_address
from c3d_extract.sources.archives import COMPRESSED, videos_of_archive
from c3d_extract.sources.kinds import (
    is_archive,
    is_compressed_archive,
    is_frame_folder,
    is_numbered_image,
    why_not_a_video,
)
from c3d_extract.sources.names import free_name, unique_names, valid_utf8
from c3d_extract.sources.remote import find_objects, videos_of_objects
from c3d_extract.sources.source import Source, mtime_ns
from c3d_extract.sources.walk import FolderWalk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from c3d_extract.sources.names import Place

__all__ = ["Found", "Source", "find_videos", "one_video"]


@dataclass
class Found:
    """The videos, sorted by name; and what was ignored, as ``(path, why)``."""

    videos: list[Source] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def check_any(self) -> None:
        """Raise UsageError where there are no videos."""
        if not self.videos:
            others = f"; {len(self.ignored)} other files were ignored" if self.ignored else ""
            raise UsageError(
                f"no videos found{others}",
                hint="name files, folders, or a quoted pattern such as 'clips/*.mp4'",
            )


def find_videos(
    inputs: Iterable[str | os.PathLike[str]],
    *,
    listed: Iterable[str | os.PathLike[str]] = (),
    exclude: Sequence[Path] = (),
    frame_folders: bool = False,
    follow_links: bool = False,
) -> Found:
    """Find the videos that ``inputs`` (files, folders, globs, addresses) and ``listed`` files mean.

    In folders, files are taken by their suffix or, where that says nothing, by their first bytes; a
    file that was named is always taken. Anything else is ignored with a reason. A listed file that
    does not exist is taken too, and fails when it is read.

    Addresses are of objects, of prefixes, which are searched as folders are, and patterns of either. Objects
    below a prefix and members of archives are taken by their names alone. An uncompressed tar archive stands
    for the videos in it where it was named, not where it was found in a folder.

    Links to files are followed, and links to folders that lie inside the folder that is searched; each real
    folder is searched once. ``/proc`` and other special file systems are never searched.

    Parameters
    ----------
    exclude
        Files that are never taken for videos: the outputs of this run.
    frame_folders
        Whether a folder of numbered images is one video; a link to such a folder is treated as a link to a
        file.
    follow_links
        Whether links to folders outside are followed as well.

    Raises
    ------
    UsageError
        Where an input does not exist.
    RemoteError
        Where an object store cannot be reached, or refuses.
    """
    walk = FolderWalk(frame_folders, follow_links)
    is_excluded = _same_file_as(exclude)
    n_parts: dict[Place, int] = {}
    paths, addresses = _told_apart(inputs)
    listed_paths, listed_addresses = _told_apart(listed)
    for path in [*_expanded(paths, walk), *map(_absolute, listed_paths)]:
        for candidate in _candidates(path, walk, is_excluded):
            n_parts.setdefault(candidate.path, candidate.n_parts)
    objects = find_objects(addresses, listed_addresses, walk.ignore)
    names = unique_names(n_parts | {address: each.n_parts for address, each in objects.items()})
    local = ((name, path) for path, name in names.items() if isinstance(path, Path))
    videos = [video for name, path in local for video in _videos(_source(name, path), walk)]
    videos += videos_of_objects({names[address]: each for address, each in objects.items()}, walk.ignore)
    videos = sorted(_named_apart(videos), key=lambda video: video.name)
    return Found(videos, list(dict.fromkeys(walk.ignored)))


def _told_apart(inputs: Iterable[str | os.PathLike[str]]) -> tuple[list[str | os.PathLike[str]], list[str]]:
    """Return the paths, and the addresses."""
    paths, addresses = list[str | os.PathLike[str]](), list[str]()
    for given in inputs:
        if isinstance(given, str) and is_address(given):
            addresses.append(given)
        else:
            paths.append(given)
    return paths, addresses


def one_video(given: str | os.PathLike[str]) -> Source:
    """Return the video that a path or an address means; what does not exist fails when it is read.

    Raises
    ------
    UsageError
        Where it is an archive or a prefix with another number of videos than one.
    """
    path = Path(given)
    if not is_address(given) and not is_archive(path.name):
        return Source(path.name, path, 0, 0)
    found = find_videos([], listed=[given]).videos
    if len(found) != 1:
        raise UsageError(f"holds {len(found)} videos, not one", subject=given)
    return found[0]


class _Candidate(NamedTuple):
    path: Path  # absolute, links not resolved
    n_parts: int  # how many of its last parts make the name


def _expanded(inputs: Iterable[str | os.PathLike[str]], walk: FolderWalk) -> Iterator[Path]:
    """Yield the files and folders that ``inputs`` name, absolute."""
    for given in inputs:
        if os.path.lexists(given):  # a file may have a name that looks like a pattern
            yield _absolute(given)
            continue
        text = os.fspath(given)
        if not glob.has_magic(text):
            raise UsageError("no such file or folder", subject=valid_utf8(text))
        matches = sorted(walk.matches(text))
        if not matches:
            raise UsageError("no file matches this pattern", subject=valid_utf8(text))
        yield from map(_absolute, matches)


def _candidates(path: Path, walk: FolderWalk, is_excluded: Callable[[Path], bool]) -> Iterator[_Candidate]:
    """Yield the videos of a file or folder."""
    is_folder = _is_folder(path) and not (walk.frame_folders and is_frame_folder(path))
    for candidate in _inside(path, walk, is_excluded) if is_folder else [_Candidate(path, 1)]:
        if not is_excluded(candidate.path):
            yield candidate


def _inside(root: Path, walk: FolderWalk, is_excluded: Callable[[Path], bool]) -> Iterator[_Candidate]:
    for folder, files in walk.folders(root):
        depth = len(folder.parts) - len(root.parts)
        is_video = walk.frame_folders and is_frame_folder(folder)
        if is_video:
            yield _Candidate(folder, max(depth, 1))
        for file in (folder / name for name in files if not (is_video and is_numbered_image(name))):
            if is_excluded(file):
                continue
            why = "in a special file system" if walk.leads_to_special(file) else why_not_a_video(file)
            if why is None:
                yield _Candidate(file, depth + 1)
            else:
                walk.ignore(file, why)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir() raises where a folder above cannot be entered


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _same_file_as(paths: Sequence[Path]) -> Callable[[Path], bool]:
    # Names are compared first: resolving the links of every file that is found would be slow.
    names = {Path(path).name for path in paths}
    files = {os.path.realpath(path) for path in paths}
    return lambda path: path.name in names and os.path.realpath(path) in files


def _source(name: str, path: Path) -> Source:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            images = [entry.stat() for entry in os.scandir(path) if is_numbered_image(entry.name)]
            return Source(name, path, sum(s.st_size for s in images), max(map(mtime_ns, images), default=0))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return Source(name, path, 0, 0)  # it will fail when it is read, with the reason
    return Source(name, path, status.st_size, mtime_ns(status))


def _videos(source: Source, walk: FolderWalk) -> Iterator[Source]:
    """Yield a video; of an archive those in it."""
    if is_compressed_archive(source.path.name):
        yield replace(source, error=COMPRESSED)
    elif not is_archive(source.path.name) or not os.path.isfile(source.path):  # noqa: PTH113 - as in _is_folder
        yield source
    else:
        try:
            with source.path.open("rb") as file:
                yield from videos_of_archive(source, file, walk.ignore)
        except OSError as error:
            yield replace(source, error=f"cannot be read: {error.strerror}")


def _named_apart(videos: Iterable[Source]) -> Iterator[Source]:
    """Yield the videos with a number where a name is taken: by a member, or by a file like one."""
    taken: dict[str, int] = {}
    for video in videos:
        name = free_name(video.name, taken)
        yield video if name == video.name else replace(video, name=name)
