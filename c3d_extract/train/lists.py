"""Training lists: class folders, ``path label`` lists and CSV, the official UCF101 and Sports-1M lists.

Errors in a list name the file and the line number.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import UsageError
from c3d_extract.files import read_text_lines
from c3d_extract.sources.find import find_videos
from c3d_extract.sources.kinds import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["LabelledVideo", "VideoList", "read_videos"]


class LabelledVideo(NamedTuple):
    """A video and its correct classes."""

    path: Path
    labels: tuple[int, ...]


@dataclass(frozen=True)
class VideoList:
    """Training or test videos.

    Attributes
    ----------
    videos
        In the order of the list.
    labels
        Class names, in the order of the network's outputs.
    n_missing
        Lines whose file does not exist.
    """

    videos: tuple[LabelledVideo, ...]
    labels: tuple[str, ...]
    n_missing: int = 0


def read_videos(source: Path, *, root: Path | None = None, labels: Sequence[str] | None = None) -> VideoList:
    """Read a folder of class folders, or a list file.

    Parameters
    ----------
    source
        A folder with a folder for each class; or a text file with lines ``path label``, ``path,label``,
        ``path label,label,…`` (numbers: the Sports-1M lists) or just ``Class/video.avi`` (UCF101 test lists).
        Labels are names, or numbers: from 1 if ``classInd.txt`` is next to it (UCF101), else from 0.
    root
        Base of relative paths; None for the list's folder.
    labels
        The class names, if they must equal those of another list or of a checkpoint.

    Raises
    ------
    UsageError
        For a line that cannot be parsed, with its number; if no video is left; and, unless ``labels`` are
        given, if there is only one class or a class folder has no video.
    """
    if source.is_dir():
        found = _read_folders(source, labels)
    elif source.is_file():
        found = _read_list(source, root or source.parent, labels)
    else:
        raise UsageError("no such file or folder", subject=source)
    if not found.videos:
        missing = f"; {found.n_missing} of its videos are not there" if found.n_missing else ""
        raise UsageError(f"holds no videos{missing}", subject=source, hint="--root says where paths start")
    if labels is None:
        _check_classes(source, found)
    return found


def _check_classes(source: Path, found: VideoList) -> None:
    if len(found.labels) < 2:
        raise UsageError(
            f"has one class alone, {found.labels[0]!r}, and a network learns to tell classes apart",
            subject=source,
            hint=f"did you mean {source / found.labels[0]}?" if source.is_dir() else None,
        )
    if source.is_dir():
        shown = {label for video in found.videos for label in video.labels}
        for number, name in enumerate(found.labels):
            if number not in shown:
                raise UsageError(f"holds no videos for class {name!r}", subject=source / name)


def _read_folders(folder: Path, labels: Sequence[str] | None) -> VideoList:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names = tuple(labels) if labels is not None else tuple(path.name for path in classes)
    videos = []
    for path in classes:
        if path.name not in names:
            raise UsageError(f"class {path.name!r} is not one that is learned", subject=folder)
        # Links in a class folder are intentional, and skipping them would be silent.
        found = find_videos([path], frame_folders=True, follow_links=True).videos
        videos += [LabelledVideo(source.path, (names.index(path.name),)) for source in found]
    return VideoList(tuple(videos), names)


class _Line(NamedTuple):
    number: int
    path: str
    labels: tuple[str, ...]


def _read_list(file: Path, root: Path, labels: Sequence[str] | None) -> VideoList:
    lines = list(_lines(file))
    index = file.parent / "classInd.txt"
    official = _read_index(index) if index.is_file() else None
    first = 0 if official is None else 1
    if labels is None:
        labels = official or _names(lines)
    numbers = {name: number for number, name in enumerate(labels)}
    videos, n_missing = [], 0
    for line in lines:
        classes = tuple(_class(file, line, label, numbers, first) for label in line.labels)
        path = root / line.path
        if os.path.exists(path):  # noqa: PTH110 - Path.exists() raises if a line is not a valid path
            videos.append(LabelledVideo(path, classes))
        else:
            n_missing += 1
    return VideoList(tuple(videos), tuple(labels), n_missing)


def _lines(file: Path) -> Iterator[_Line]:
    for number, line in enumerate(read_text_lines(file, UsageError), start=1):
        if not line.strip() or line.replace(" ", "").lower() in {"path,label", "video,label"}:
            continue
        path, labels = _split(file, number, line.strip())
        if not path or not labels or not all(labels):
            raise _broken(file, number, f"expected a path and a label and found {line!r}")
        yield _Line(number, path, labels)


def _split(file: Path, number: int, line: str) -> tuple[str, tuple[str, ...]]:
    head, _, last = line.rpartition(" ")
    if head and last.replace(",", "").isdecimal():  # UCF101 training lists, Sports-1M lists
        return head.strip(), tuple(last.split(","))
    if "," in line:
        try:
            fields = [field.strip() for field in next(csv.reader([line], strict=True))]
        except csv.Error as error:
            raise _broken(file, number, f"broken: {error}") from error
        return fields[0], tuple(fields[1:])
    if head and PurePosixPath(line).suffix.lower() not in VIDEO_SUFFIXES:
        return head.strip(), (last,)
    # A bare path, as in UCF101 test lists: the class is the folder.
    return line, (PurePosixPath(line).parent.name,)


def _read_index(file: Path) -> tuple[str, ...]:
    """Read UCF101's ``classInd.txt``: ``number name`` lines, numbers from 1."""
    names: list[str] = []
    for number, line in enumerate(read_text_lines(file, UsageError), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[0] != str(len(names) + 1):
            raise _broken(file, number, f"expected {len(names) + 1} and a class name and found {line!r}")
        names.append(fields[1])
    return tuple(names)


def _names(lines: Sequence[_Line]) -> tuple[str, ...]:
    given = {label for line in lines for label in line.labels}
    if all(label.isdecimal() for label in given):
        return tuple(str(number) for number in range(max(map(int, given), default=-1) + 1))
    return tuple(sorted(given))


def _class(file: Path, line: _Line, label: str, numbers: Mapping[str, int], first: int) -> int:
    if label in numbers:
        return numbers[label]
    if label.isdecimal() and 0 <= int(label) - first < len(numbers):
        return int(label) - first
    raise _broken(file, line.number, f"{label!r} is none of the {len(numbers)} classes")


def _broken(file: Path, number: int, reason: str) -> UsageError:
    return UsageError(reason, subject=f"{file}, line {number}")
