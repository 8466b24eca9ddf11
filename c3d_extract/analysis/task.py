"""From feature files and a user's words to labelled samples and the splits to judge them on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.analysis.labels import (
    folder_labels,
    match_labels,
    pattern_values,
    read_label_csv,
    read_ucf101_split,
    video_key,
)
from c3d_extract.analysis.protocols import (
    Samples,
    Split,
    grouped_splits,
    leave_one_out_splits,
    stratified_splits,
)
from c3d_extract.errors import MismatchError, StoreError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.analysis.labels import Ucf101Split

__all__ = ["Choices", "LayerTable", "Task", "gather", "read_layer", "require_same"]

DEFAULT_FOLDS = 5
NOT_COMPARED = {"weights", "name", "mean"}
"""What the feature file calls its checkpoint and mean; their checksums are compared, not their names."""


class LayerTable(NamedTuple):
    """One layer of a feature file.

    Attributes
    ----------
    X
        float32 (N, D).
    videos
        Names of the rows.
    made_from
        What must be equal for rows of two files to be comparable: layer, size, PCA basis, weights.
    """

    X: NDArray[np.float32]
    videos: list[str]
    made_from: dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """What is judged, and how; the words of ``c3d-tools classify``.

    Attributes
    ----------
    features, layer
        The feature file and which of its layers.
    test
        Another feature file to test on.
    labels, label_pattern
        A CSV ``video,label``; a regular expression on the name. Neither, nor lists: the parent folder.
    ucf101_lists, split
        Folder of the official lists, and which of the three splits (default 1).
    groups
        A regular expression on the name: videos of one group stay together.
    folds
        Number of folds; None with ``groups`` leaves one group out at a time.
    protocol
        ``ucf101``: all three official splits. ``leave-one-out``: each video, or each group, by itself.
    skip_missing
        Leave out what a CSV or a list does not label, and what has no video, instead of refusing.
    """

    features: Path
    layer: str = "fc6"
    test: Path | None = None
    labels: Path | None = None
    label_pattern: str | None = None
    ucf101_lists: Path | None = None
    split: int | None = None
    groups: str | None = None
    folds: int | None = None
    protocol: str | None = None
    skip_missing: bool = False

    def check(self) -> None:
        """Raise UsageError for words that contradict each other or that nothing comes of."""
        _one_of("what the labels are", self, "labels", "label_pattern", "ucf101_lists")
        _one_of("what is tested on", self, "test", "folds", "ucf101_lists")
        if self.protocol == "ucf101" and self.ucf101_lists is None:
            raise UsageError(
                "needs --ucf101-lists, the folder of the official lists", subject="--protocol ucf101"
            )
        if self.protocol == "ucf101" and self.split is not None:
            raise UsageError("takes all three splits; leave --split out", subject="--protocol ucf101")
        if self.protocol == "leave-one-out" and (self.test or self.folds or self.ucf101_lists):
            raise UsageError(
                "goes with none of --test, --folds and --ucf101-lists", subject="--protocol leave-one-out"
            )
        if self.split is not None and self.ucf101_lists is None:
            raise UsageError("needs --ucf101-lists", subject="--split")
        if self.skip_missing and self.labels is None and self.ucf101_lists is None:
            raise UsageError("needs --labels or --ucf101-lists", subject="--missing skip")

    @property
    def is_fixed(self) -> bool:
        """Whether the choices themselves say what is tested, so that groups matter for choosing C only."""
        return self.test is not None or self.ucf101_lists is not None


@dataclass(frozen=True, eq=False)
class Task:
    """Samples and the splits to judge them on.

    Attributes
    ----------
    samples
        All labelled videos, those of the test file after those of the training file.
    videos
        Their names.
    splits
        Which train and which test.
    train_rows
        The rows that a model to keep is fitted on.
    made_from
        Of which features; see `LayerTable`.
    protocol
        In words.
    notes
        What the user should know.
    """

    samples: Samples
    videos: list[str]
    splits: list[Split]
    train_rows: NDArray[np.intp]
    made_from: dict[str, Any]
    protocol: str
    notes: list[str]


def read_layer(path: Path, layer: str) -> LayerTable:
    """Read one layer of a feature file; StoreError names the layers it has, and what makes it unfit."""
    from c3d_extract.output import FeatureFile

    with FeatureFile(path) as file:
        if file.kind != "features":
            raise StoreError(
                "has a row a clip, not a row a video", subject=path, hint="give the feature file"
            )
        dimension, pca = file.size_of(layer), file.attributes.get("pca_sha256", "none")
        own = {"layer": layer, "dimension": dimension, "pca": pca}
        others = file.attributes.get("weights", {}).items()
        weights = {k: v for k, v in others if k not in NOT_COMPARED and k not in own}
        table = LayerTable(file[layer], file.videos, {**own, **weights})
    if not len(table.X):
        raise StoreError("holds no videos", subject=path)
    finite = np.asarray(np.isfinite(table.X).all(axis=1))
    if not finite.all():
        bad = table.videos[int(finite.argmin())]
        raise StoreError(
            f"features of {int((~finite).sum())} of {len(finite)} videos are not finite, the first is {bad}",
            subject=path,
        )
    return table


def gather(choices: Choices) -> Task:
    """Read the files, label the videos and make the splits.

    Raises UsageError, StoreError or MismatchError, in one line that says what does not fit.
    """
    choices.check()
    table, n_train, notes = _read_tables(choices)
    if choices.ucf101_lists is not None:
        return _ucf101_task(choices, choices.ucf101_lists, table, notes)
    labels = _labels(choices, table.videos, notes)
    kept = np.array([i for i, label in enumerate(labels) if label is not None], dtype=np.intp)
    samples, videos = _samples(choices, table, [label for label in labels if label is not None], kept)
    _two_classes(samples)
    if choices.test is None:
        splits, protocol = _folds(choices, samples)
        train_rows = np.arange(len(videos))
    else:
        in_training = kept < n_train
        train_rows = np.flatnonzero(in_training)
        splits = [Split("test", train_rows, np.flatnonzero(~in_training))]
        protocol = f"trained on {choices.features.name}, tested on {choices.test.name}"
    return Task(samples, videos, splits, train_rows, table.made_from, protocol, notes)


def _read_tables(choices: Choices) -> tuple[LayerTable, int, list[str]]:
    """Return the rows of the training and the test file as one table, the number of the former, and notes."""
    train = read_layer(choices.features, choices.layer)
    if choices.test is None:
        return train, len(train.videos), []
    test = read_layer(choices.test, choices.layer)
    require_same(train.made_from, test.made_from, subject=choices.test)
    shared = set(train.videos) & set(test.videos)
    notes = (
        [f"names that both files have: {len(shared)}; the same videos on both sides would flatter"]
        if shared
        else []
    )
    both = LayerTable(np.concatenate([train.X, test.X]), train.videos + test.videos, train.made_from)
    return both, len(train.videos), notes


def require_same(wanted: dict[str, Any], found: dict[str, Any], *, subject: object) -> None:
    """Raise MismatchError, naming the differences, if two files' ``made_from`` differ.

    StoreError where one does not say which weights it is of: then nothing can be compared.
    """
    if not (wanted.get("weights_sha256") and found.get("weights_sha256")):
        reason = "cannot be compared: it or the other file does not say which weights it was made with"
        raise StoreError(reason, subject=subject, hint="extract the features again")
    differences = [
        f"{key}: {wanted.get(key)} → {found.get(key)}"
        for key in wanted | found
        if wanted.get(key) != found.get(key)
    ]
    if differences:
        raise MismatchError("not the kind of features trained on", differences=differences, subject=subject)


def _labels(choices: Choices, videos: list[str], notes: list[str]) -> list[str | None]:
    if choices.labels is not None:
        table = read_label_csv(choices.labels)
        matched = match_labels(videos, table, skip=choices.skip_missing, source=choices.labels)
        notes += _missing_notes(matched.n_without_label, matched.n_without_video)
        return matched.labels
    if choices.label_pattern is not None:
        return [*pattern_values(videos, choices.label_pattern)]
    return [*folder_labels(videos)]


def _samples(
    choices: Choices, table: LayerTable, labels: list[str], kept: NDArray[np.intp]
) -> tuple[Samples, list[str]]:
    if not labels:
        raise UsageError("no video is left with a label", subject=choices.features)
    videos = [table.videos[i] for i in kept]
    groups = None if choices.groups is None else pattern_values(videos, choices.groups, what="group")
    return Samples.of(table.X[kept], labels, groups), videos


def _two_classes(samples: Samples) -> None:
    if len(samples.classes) < 2:
        raise UsageError(
            f"all videos are of class {samples.classes[0]}; a classifier needs at least 2 classes"
        )


def _folds(choices: Choices, samples: Samples) -> tuple[list[Split], str]:
    """Return the folds of a cross-validation and what they are called."""
    _no_single(samples)
    k = choices.folds
    unit = "video" if samples.groups is None else "group"
    if choices.protocol == "leave-one-out" or (samples.groups is not None and k is None):
        return leave_one_out_splits(samples), f"one {unit} left out at a time"
    if samples.groups is not None and k is not None:
        return grouped_splits(samples, k), f"{k} folds of whole groups"
    splits = stratified_splits(samples, k or min(DEFAULT_FOLDS, int(samples.counts.min())))
    return splits, f"{len(splits)} folds of single videos"


def _no_single(samples: Samples) -> None:
    """Raise UsageError for classes of one video: whichever fold tests it, none is left to train on."""
    singles = [samples.classes[i] for i in np.flatnonzero(samples.counts == 1)]
    if singles:
        what = "class" if len(singles) == 1 else f"{len(singles)} classes, the first"
        raise UsageError(f"{what} {singles[0]} has 1 video; cross-validation needs 2 to train and test on")


def _ucf101_task(choices: Choices, folder: Path, table: LayerTable, notes: list[str]) -> Task:
    numbers = (1, 2, 3) if choices.protocol == "ucf101" else (choices.split or 1,)
    lists = [read_ucf101_split(folder, number) for number in numbers]
    keys = [video_key(video) for video in table.videos]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    if twice:
        raise UsageError(
            f"{len(twice)} videos go by the same name, the first is {twice[0]}", subject=choices.features
        )
    known = {key: label for split in lists for part in split for key, label in part.items()}
    matched = match_labels(keys, known, skip=choices.skip_missing, source=folder)
    notes += _missing_notes(matched.n_without_label, matched.n_without_video)
    kept = np.array([i for i, label in enumerate(matched.labels) if label is not None], dtype=np.intp)
    samples, videos = _samples(choices, table, [label for label in matched.labels if label is not None], kept)
    _two_classes(samples)
    splits = [
        _ucf101_split(n, split, [keys[i] for i in kept]) for n, split in zip(numbers, lists, strict=True)
    ]
    train_rows = splits[0].train if len(splits) == 1 else np.arange(len(videos))
    protocol = (
        "UCF101, the three official splits" if len(splits) > 1 else f"UCF101, official split {numbers[0]}"
    )
    return Task(samples, videos, splits, train_rows, table.made_from, protocol, notes)


def _ucf101_split(number: int, lists: Ucf101Split, keys: list[str]) -> Split:
    train, test = (
        np.array([i for i, key in enumerate(keys) if key in part], dtype=np.intp) for part in lists
    )
    return Split(str(number), train, test)


def _missing_notes(n_without_label: int, n_without_video: int) -> list[str]:
    told = [(n_without_label, "videos without label"), (n_without_video, "labels without video")]
    return [f"{what}, left out: {n}" for n, what in told if n]


def _one_of(what: str, choices: Choices, *names: str) -> None:
    """Raise UsageError if more than one of these choices is made."""
    made = [f"--{name.replace('_', '-')}" for name in names if getattr(choices, name) is not None]
    if len(made) > 1:
        raise UsageError(f"{' and '.join(made)} both say {what}; give one of them")
