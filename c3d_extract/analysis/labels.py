"""The class and the group of each video, and UCF101's official lists.

Names are the relative paths of a feature file, with ``/``. Errors in a list name the file and the line
number.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from c3d_extract.errors import UsageError
from c3d_extract.files import read_text_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "MatchedLabels",
    "Ucf101Split",
    "folder_labels",
    "likely_groups",
    "match_labels",
    "pattern_values",
    "read_label_columns",
    "read_label_csv",
    "read_ucf101_split",
    "video_key",
    "video_keys",
]

Value = TypeVar("Value")


class MatchedLabels(NamedTuple):
    """A label for each video, None where the table has none, and how many entries did not match."""

    labels: list[str | None]
    ignored: dict[str, int]


class Ucf101Split(NamedTuple):
    """One official split: `video_key` → class, for training and for testing."""

    train: dict[str, str]
    test: dict[str, str]


def folder_of(video: str) -> str:
    """Return the name of the folder that a video is in, empty for none."""
    return PurePosixPath(video).parent.name


def folder_labels(names: Sequence[str]) -> list[str]:
    """Return each video's parent folder; raise UsageError for a video that has none."""
    parents = list(map(folder_of, names))
    for name, parent in zip(names, parents, strict=True):
        if not parent:
            raise UsageError(
                "in no folder that could name its class", subject=name, hint="give the labels another way"
            )
    return parents


def pattern_values(names: Sequence[str], pattern: str, *, what: str = "label") -> list[str]:
    """Return what a regular expression matches in each name: its first group, or all of it without groups.

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


def likely_groups(names: Sequence[str], labels: Sequence[str]) -> str | None:
    """Return a pattern for `pattern_values` that finds what may be recordings in the names, or None.

    Names of clips that were cut from recordings often have several numbers, one of which is the recording's:
    ``v_Archery_g05_c02``, ``set1_10_2_1``. It is a number that several videos share and that differs between
    others, and that is not the class; where there are several, the first. Of a single number that changes, as
    in ``kick_07``, nothing can be said.
    """
    fields = [re.findall(r"\d+", PurePosixPath(name).stem) for name in names]
    n_fields = min(map(len, fields), default=0)
    changing = [i for i in range(-n_fields, 0) if len({numbers[i] for numbers in fields}) > 1]
    for i in changing if len(changing) > 1 else ():
        numbers = [each[i] for each in fields]
        pairs = Counter(zip(numbers, labels, strict=True))
        is_class = len(pairs) == max(len(set(numbers)), len(set(labels)))
        if not is_class and len(set(numbers)) <= len(names) / 2:
            pattern = rf"(\d+)(?:\D+\d+){{{-i - 1}}}\D*(?:\.\w+)?$"
            matches = [re.search(pattern, name) for name in names]
            if [match and match[1] for match in matches] == numbers:
                return pattern
    return None


def read_label_csv(path: Path) -> dict[str, str]:
    """Read ``video,label`` lines, with or without that header, into video → label."""
    table: dict[str, str] = {}
    for number, row in enumerate(csv.reader(read_text_lines(path, UsageError)), start=1):
        fields = [field.strip() for field in row]
        if not any(fields) or (number == 1 and [f.lower() for f in fields] == ["video", "label"]):
            continue
        if len(fields) != 2 or not all(fields):
            raise _line_error(path, number, f"expected video,label and found {','.join(row)!r}")
        video, label = fields
        if table.setdefault(video, label) != label:
            raise _line_error(path, number, f"{video} was labelled {table[video]} before and is {label} here")
    return _not_empty(table, path)


def read_label_columns(path: Path) -> dict[str, dict[str, str]]:
    """Read a table whose header is ``video`` and names of columns into column → video → value.

    Or lines ``video,label`` as `read_label_csv` does; their column is ``label``.
    """
    rows = list(csv.reader(read_text_lines(path, UsageError)))
    header = [field.strip() for field in rows[0]] if rows else []
    if len(header) < 3 or header[0].lower() != "video":
        return {"label": read_label_csv(path)}
    columns: dict[str, dict[str, str]] = {name: {} for name in header[1:]}
    if len(columns) < len(header) - 1 or not all(columns):
        raise _line_error(path, 1, "columns need names of their own")
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(header):
            raise _line_error(path, number, f"expected {len(header)} fields and found {len(row)}")
        for name, value in zip(header[1:], row[1:], strict=False):
            columns[name][row[0].strip()] = value.strip()
    return columns


def match_labels(
    names: Sequence[str], table: Mapping[str, str], *, skip: bool = False, source: object
) -> MatchedLabels:
    """Find the labels of videos in a table of video → label.

    A video without a label, and a label without a video, is a UsageError that names ``source``, the table's
    file, unless ``skip`` is set.
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
    ignored = {"videos without label": len(no_label), "labels without video": len(no_video)}
    return MatchedLabels(labels, ignored)


def video_key(name: str) -> str:
    """Return the key of a video in the UCF101 lists: the stem, in lower case.

    Folders and extensions differ between copies of the data set, and so does the case of
    ``HandstandPushups``; the stems are unique.
    """
    return PurePosixPath(name).stem.lower()


def video_keys(names: Sequence[str]) -> list[str]:
    """Return the `video_key` of each name; raise UsageError if two names have the same."""
    keys = [video_key(name) for name in names]
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
    for number, line in enumerate(read_text_lines(path, UsageError), start=1):
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
    for number, line in enumerate(read_text_lines(path, UsageError), start=1):
        if not line.strip():
            continue
        video, _, index = line.strip().partition(" ")
        label = folder_of(video)
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
