"""The class and the group of each video, and UCF101's official lists.

Names are the relative paths of a feature file, with ``/``. An error in a list is one line with the file and
the line's number.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "LabelSource",
    "MatchedLabels",
    "Ucf101Split",
    "VideoLabels",
    "folder_labels",
    "match_labels",
    "pattern_values",
    "read_label_csv",
    "read_lines",
    "read_ucf101_split",
    "video_key",
]

Value = TypeVar("Value")


class MatchedLabels(NamedTuple):
    """A label for each video, None where the table has none, and what did not match."""

    labels: list[str | None]
    n_without_label: int
    n_without_video: int


class Ucf101Split(NamedTuple):
    """One official split: `video_key` → class, for training and for testing."""

    train: dict[str, str]
    test: dict[str, str]


class VideoLabels(NamedTuple):
    """What a `LabelSource` says of videos.

    Attributes
    ----------
    keys
        The name of each video in the source.
    labels
        Its label; None where the source has none and that is allowed.
    lists
        The official splits by number; none unless the source is UCF101's lists.
    notes
        What was ignored.
    """

    keys: list[str]
    labels: list[str | None]
    lists: dict[int, Ucf101Split]
    notes: list[str]


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from; the parent folder unless one of the first three is given.

    Attributes
    ----------
    table
        A CSV of ``video,label``.
    pattern
        A regular expression on the name.
    ucf101_lists, ucf101_splits
        Folder of the official lists, and which of the three splits.
    skip_missing
        Ignore videos without a label and labels without a video, instead of raising UsageError.
    """

    table: Path | None = None
    pattern: str | None = None
    ucf101_lists: Path | None = None
    ucf101_splits: tuple[int, ...] = (1,)
    skip_missing: bool = False

    def label(self, videos: list[str]) -> VideoLabels:
        """Return the labels of ``videos``; UsageError for those without one and for a broken source."""
        if self.ucf101_lists is not None:
            folder = self.ucf101_lists
            lists = {number: read_ucf101_split(folder, number) for number in self.ucf101_splits}
            known = {key: label for split in lists.values() for part in split for key, label in part.items()}
            return self._matched(_unique_keys(videos), known, lists, folder)
        if self.table is not None:
            return self._matched(videos, read_label_csv(self.table), {}, self.table)
        found = folder_labels(videos) if self.pattern is None else pattern_values(videos, self.pattern)
        return VideoLabels(videos, [*found], {}, [])

    def _matched(
        self, keys: list[str], known: Mapping[str, str], lists: dict[int, Ucf101Split], source: Path
    ) -> VideoLabels:
        matched = match_labels(keys, known, skip=self.skip_missing, source=source)
        counts = zip(("videos without label", "labels without video"), matched[1:], strict=True)
        return VideoLabels(keys, matched.labels, lists, [f"{what}, ignored: {n}" for what, n in counts if n])


def folder_labels(names: Sequence[str]) -> list[str]:
    """Return each video's parent folder; UsageError for a video that lies in none."""
    parents = [PurePosixPath(name).parent.name for name in names]
    for name, parent in zip(names, parents, strict=True):
        if not parent:
            raise UsageError(
                "in no folder that could name its class", subject=name, hint="give the labels another way"
            )
    return parents


def pattern_values(names: Sequence[str], pattern: str, *, what: str = "label") -> list[str]:
    """Return what a regular expression finds in each name: its first group, or all it matched.

    Raises UsageError for a pattern that does not compile and for the first name it is not found in.
    """
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"not a regular expression: {error}", subject=f"{what} pattern {pattern!r}"
        ) from error
    found = [regex.search(name) for name in names]
    values = [match and (match.group(1) if regex.groups else match.group()) for match in found]
    for name, value in zip(names, values, strict=True):
        if not value:
            raise UsageError(f"the {what} pattern {pattern!r} finds nothing in this name", subject=name)
    return [str(value) for value in values]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file; UsageError when it cannot be read as one."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", subject=path) from error
    except UnicodeDecodeError as error:
        raise UsageError("not a text file in UTF-8", subject=path) from error


def read_label_csv(path: Path) -> dict[str, str]:
    """Read ``video,label`` lines, with or without that header, into video → label."""
    table: dict[str, str] = {}
    for number, row in enumerate(csv.reader(read_lines(path)), start=1):
        fields = [field.strip() for field in row]
        if not any(fields) or (number == 1 and [f.lower() for f in fields] == ["video", "label"]):
            continue
        if len(fields) != 2 or not all(fields):
            raise _line_error(path, number, f"expected video,label and found {','.join(row)!r}")
        video, label = fields
        if table.setdefault(video, label) != label:
            raise _line_error(path, number, f"{video} was labelled {table[video]} before and is {label} here")
    return _not_empty(table, path)


def match_labels(
    names: Sequence[str], table: Mapping[str, str], *, skip: bool = False, source: object
) -> MatchedLabels:
    """Put a table's labels to videos.

    Parameters
    ----------
    names
        Videos of one or more feature files.
    table
        Video → label.
    skip
        Allow videos without a label and labels without a video; otherwise they are a UsageError.
    source
        What to call the table in an error: its path.
    """
    present = set(names)
    labels = [table.get(name) for name in names]
    no_label = [name for name, label in zip(names, labels, strict=True) if label is None]
    no_video = [video for video in table if video not in present]
    if not skip and no_label:
        reason = f"no label for {len(no_label)} of {len(names)} videos, the first is {no_label[0]}"
        raise _missing(reason, source)
    if not skip and no_video:
        reason = f"no video for {len(no_video)} of {len(table)} labels, the first is of {no_video[0]}"
        raise _missing(reason, source)
    return MatchedLabels(labels, len(no_label), len(no_video))


def video_key(name: str) -> str:
    """Return the name by which a video is found in the UCF101 lists: the stem, in lower case.

    Folders and extensions differ between copies of the data set, and so does the case of
    ``HandstandPushups``; the stems are unique.
    """
    return PurePosixPath(name).stem.lower()


def _unique_keys(videos: Sequence[str]) -> list[str]:
    keys = [video_key(video) for video in videos]
    if repeated := [key for key, n in Counter(keys).items() if n > 1]:
        raise UsageError(f"{len(repeated)} names belong to more than one video, the first is {repeated[0]}")
    return keys


def read_ucf101_split(folder: Path, split: int) -> Ucf101Split:
    """Read ``classInd.txt``, ``trainlist0N.txt`` and ``testlist0N.txt`` of one official split.

    A line of a training list is ``Class/video.avi index``, of a test list ``Class/video.avi``.
    """
    classes = _read_classes(folder / "classInd.txt")
    train = _read_list(folder / f"trainlist0{split}.txt", classes)
    test = _read_list(folder / f"testlist0{split}.txt", classes)
    shared = sorted(set(train) & set(test))
    if shared:
        raise UsageError(
            f"{shared[0]} is in the training and in the test list of split {split}", subject=folder
        )
    return Ucf101Split(train, test)


def _read_classes(path: Path) -> dict[str, int]:
    """Read ``index name`` lines into name → index."""
    classes: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[0].isdecimal() or fields[1] in classes:
            raise _line_error(path, number, f"expected an index and a new class name and found {line!r}")
        classes[fields[1]] = int(fields[0])
    return _not_empty(classes, path)


def _read_list(path: Path, classes: Mapping[str, int]) -> dict[str, str]:
    """Read a training or test list into `video_key` → class, checked against the class index."""
    table: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        video, _, index = line.strip().partition(" ")
        label = PurePosixPath(video).parent.name
        if label not in classes:
            raise _line_error(
                path, number, f"expected Class/video.avi of a class in classInd.txt and found {line!r}"
            )
        if index and index.strip() != str(classes[label]):
            raise _line_error(path, number, f"{label} is class {classes[label]} and not {index.strip()}")
        if table.setdefault(video_key(video), label) != label:
            raise _line_error(path, number, f"{video} was listed before, as {table[video_key(video)]}")
    return _not_empty(table, path)


def _not_empty(table: dict[str, Value], path: Path) -> dict[str, Value]:
    if not table:
        raise UsageError("holds no lines", subject=path)
    return table


def _line_error(path: Path, number: int, reason: str) -> UsageError:
    return UsageError(reason, subject=f"{path}, line {number}")


def _missing(reason: str, source: object) -> UsageError:
    return UsageError(reason, subject=source, hint="--missing skip ignores them")
