"""Labelled samples and splits for the evaluation of a classifier, from feature files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.analysis import labels, splits
from c3d_extract.analysis.features import LayerFeatures, read_layer, require_same_features
from c3d_extract.analysis.splits import Samples, Split
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Experiment", "ExperimentOptions", "prepare_experiment"]

DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class ExperimentOptions:
    """Training and test data: the options of ``c3d-tools classify``, whose help explains them.

    Where ``layer`` is None, it is the first of ``features``. ``labels`` is a CSV; ``label_pattern`` and
    ``groups`` are regular expressions on a video's name.
    """

    features: Path
    layer: str | None = None
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
        """Raise UsageError for options that contradict each other or have no effect."""
        self._at_most_one("what the labels are", "labels", "label_pattern", "ucf101_lists")
        self._at_most_one("what is tested on", "test", "folds", "ucf101_lists")
        lists, protocol = self.ucf101_lists, self.protocol
        if protocol == "ucf101" and not lists:
            raise UsageError(
                "needs --ucf101-lists, the folder of the official lists", subject="--protocol ucf101"
            )
        if protocol == "ucf101" and self.split:
            raise UsageError("takes all three splits; leave --split out", subject="--protocol ucf101")
        if protocol == "leave-one-out" and (self.test or self.folds or lists):
            reason = "goes with none of --test, --folds and --ucf101-lists"
            raise UsageError(reason, subject="--protocol leave-one-out")
        if self.split and not lists:
            raise UsageError("needs --ucf101-lists", subject="--split")
        if self.skip_missing and not (self.labels or lists):
            raise UsageError("needs --labels or --ucf101-lists", subject="--missing skip")

    def _at_most_one(self, what: str, *names: str) -> None:
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} both say {what}; give one of them")


@dataclass(frozen=True, eq=False)
class Experiment:
    """Samples and their videos (those of a test file last), the splits to evaluate and their description.

    A classifier that is saved is fitted on ``train_rows``; ``sizes`` and ``provenance`` are those of
    `LayerFeatures`; ``notes`` are remarks for the user.
    """

    samples: Samples
    videos: list[str]
    sizes: list[int]
    splits: list[Split]
    protocol: str
    train_rows: NDArray[np.intp]
    provenance: dict[str, Any]
    notes: list[str]


def prepare_experiment(options: ExperimentOptions) -> Experiment:
    """Read the files, label the videos and make the splits.

    Raises UsageError, StoreError or MismatchError.
    """
    options.check()
    table, n_train, notes = _read_features(options)
    found, lists = _label(options, table.videos, notes)
    kept = np.flatnonzero([label is not None for label in found])
    if not len(kept):
        raise UsageError("no video is left with a label", subject=options.features)
    videos = [table.videos[i] for i in kept]
    groups = None if options.groups is None else labels.pattern_values(videos, options.groups, what="group")
    samples = Samples(table.X[kept], [label for label in found if label is not None], groups)
    if len(samples.counts) < 2:
        reason = f"all videos are of class {samples.labels[0]}; a classifier needs at least 2 classes"
        raise UsageError(reason)
    if options.test is not None:
        parts = [Split("test", np.flatnonzero(kept < n_train), np.flatnonzero(kept >= n_train))]
        protocol = f"trained on {options.features.name}, tested on {options.test.name}"
    else:
        parts, protocol = _official(lists, videos) if lists else _cross_validation(options, samples)
        if not lists and groups is None:
            notes += _related(videos, samples.labels)
    # With several splits, every row is used for training in some split, so a saved classifier uses all rows.
    train_rows = parts[0].train if len(parts) == 1 else np.arange(len(videos))
    sizes = [table.sizes[i] for i in kept]
    return Experiment(samples, videos, sizes, parts, protocol, train_rows, table.provenance, notes)


def _related(videos: list[str], classes: Sequence[str]) -> list[str]:
    """Return a note where clips of one recording may be in the training and in the test part of a fold."""
    pattern = labels.likely_groups(videos, classes)
    if pattern is None:
        return []
    found = labels.pattern_values(videos, pattern)
    first = next(i for i, value in enumerate(found) if found.count(value) > 1)
    other = next(i for i in range(first + 1, len(found)) if found[i] == found[first])
    alike = f"such as {videos[first]} and {videos[other]}"
    hint = f"if they are, give --groups '{pattern}'"
    return [f"names look like clips of the same recordings, {alike}, which these folds split; {hint}"]


def _read_features(options: ExperimentOptions) -> tuple[LayerFeatures, int, list[str]]:
    """Return the rows of the training and the test file as one, the number of the former, and notes."""
    train = read_layer(options.features, options.layer)
    if options.test is None:
        return train, len(train.videos), []
    test = read_layer(options.test, train.provenance["layer"])
    require_same_features(train.provenance, test.provenance, subject=options.test)
    n_shared = len(set(train.videos) & set(test.videos))
    note = f"names that both files have: {n_shared}; the same videos on both sides would flatter"
    X, names = np.concatenate([train.X, test.X]), train.videos + test.videos
    both = LayerFeatures(X, names, train.sizes + test.sizes, train.provenance)
    return both, len(train.videos), [note] if n_shared else []


def _label(
    options: ExperimentOptions, videos: list[str], notes: list[str]
) -> tuple[list[str | None], dict[int, labels.Ucf101Split]]:
    """Return the label of each video (None: ignored), and UCF101's lists by number if they are used."""
    lists: dict[int, labels.Ucf101Split] = {}
    if options.labels is not None:
        names, source, known = videos, options.labels, labels.read_label_csv(options.labels)
    elif options.ucf101_lists is not None:
        names, source = labels.video_keys(videos), options.ucf101_lists
        numbers = (1, 2, 3) if options.protocol == "ucf101" else (options.split or 1,)
        lists = {number: labels.read_ucf101_split(source, number) for number in numbers}
        known = {key: label for split in lists.values() for part in split for key, label in part.items()}
    elif options.label_pattern is not None:
        return [*labels.pattern_values(videos, options.label_pattern)], lists
    else:
        return [*labels.folder_labels(videos)], lists
    matched = labels.match_labels(names, known, skip=options.skip_missing, source=source)
    notes += [f"{what}, ignored: {n}" for what, n in matched.ignored.items() if n]
    return matched.labels, lists


def _official(lists: dict[int, labels.Ucf101Split], videos: list[str]) -> tuple[list[Split], str]:
    """Return UCF101's splits and their description."""
    keys, parts = labels.video_keys(videos), []
    for number, official in lists.items():
        train, test = (np.flatnonzero([key in part for key in keys]) for part in official)
        parts.append(Split(str(number), train, test))
    one = f"official split {parts[0].name}"
    return parts, f"UCF101, {one if len(parts) == 1 else 'the three official splits'}"


def _cross_validation(options: ExperimentOptions, samples: Samples) -> tuple[list[Split], str]:
    """Return the folds of a cross-validation and their description."""
    singles = [name for name, n in samples.counts.items() if n == 1]
    if singles:  # the fold that tests it has no video of the class to train on
        what = "class" if len(singles) == 1 else f"{len(singles)} classes, the first"
        raise UsageError(f"{what} {singles[0]} has 1 video; cross-validation needs 2 to train and test on")
    k, unit = options.folds, "video" if samples.groups is None else "group"
    if options.protocol == "leave-one-out" or (samples.groups is not None and k is None):
        return splits.leave_one_out_splits(samples), f"one {unit} left out at a time"
    if samples.groups is not None and k is not None:
        return splits.grouped_splits(samples, k), f"{k} folds of whole groups"
    k = k or min(DEFAULT_FOLDS, *samples.counts.values())
    described = f"{k} folds of single videos, shuffled with seed {splits.SEED}"
    return splits.stratified_splits(samples, k), described
