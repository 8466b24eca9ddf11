"""From feature files to labelled samples and the splits to evaluate a classifier on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.analysis.features import LayerFeatures, read_layer, require_same_features
from c3d_extract.analysis.labels import pattern_values
from c3d_extract.analysis.splits import (
    Samples,
    Split,
    grouped_splits,
    leave_one_out_splits,
    stratified_splits,
)
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.analysis.labels import LabelSource, VideoLabels

__all__ = ["Experiment", "Partition", "prepare_experiment"]

DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Partition:
    """What is tested on, unless the labels come with official splits: another file, or folds of this one.

    ``groups`` is a regular expression on the name: videos of one group stay together. Without ``folds``,
    ``groups`` or ``leave_one_out`` leave one group (or video) out at a time.
    """

    test: Path | None = None
    groups: str | None = None
    folds: int | None = None
    leave_one_out: bool = False


@dataclass(frozen=True, eq=False)
class Experiment:
    """Samples and their videos (those of a test file last), the splits to evaluate and what they are called.

    ``train_rows`` are what a classifier to keep is fitted on; ``provenance`` is that of `LayerFeatures`;
    ``notes`` are what a user should know.
    """

    samples: Samples
    videos: list[str]
    splits: list[Split]
    protocol: str
    train_rows: NDArray[np.intp]
    provenance: dict[str, Any]
    notes: list[str]


def prepare_experiment(
    features: Path, layer: str, source: LabelSource, partition: Partition | None = None
) -> Experiment:
    """Read a feature file, label its videos and make the splits.

    Raises UsageError, StoreError or MismatchError, in one line that says what does not fit.
    """
    partition = partition or Partition()
    table, n_train, notes = _read_features(features, layer, partition.test)
    found = source.label(table.videos)
    kept = np.flatnonzero([label is not None for label in found.labels])
    if not len(kept):
        raise UsageError("no video is left with a label", subject=features)
    videos = [table.videos[i] for i in kept]
    groups = None if partition.groups is None else pattern_values(videos, partition.groups, what="group")
    samples = Samples(table.X[kept], [label for label in found.labels if label is not None], groups)
    if len(samples.counts) < 2:
        reason = f"all videos are of class {samples.labels[0]}; a classifier needs at least 2 classes"
        raise UsageError(reason)
    if partition.test is not None:
        splits = [Split("test", np.flatnonzero(kept < n_train), np.flatnonzero(kept >= n_train))]
        protocol = f"trained on {features.name}, tested on {partition.test.name}"
    else:
        splits, protocol = _official(found, kept) if found.lists else _cross_validation(partition, samples)
    fixed = len(splits) == 1  # no other fold trains on what this one tests
    train_rows = splits[0].train if fixed else np.arange(len(videos))
    return Experiment(samples, videos, splits, protocol, train_rows, table.provenance, [*notes, *found.notes])


def _read_features(path: Path, layer: str, test_path: Path | None) -> tuple[LayerFeatures, int, list[str]]:
    """Return the rows of the training and the test file as one, the number of the former, and notes."""
    train = read_layer(path, layer)
    if test_path is None:
        return train, len(train.videos), []
    test = read_layer(test_path, layer)
    require_same_features(train.provenance, test.provenance, subject=test_path)
    n_shared = len(set(train.videos) & set(test.videos))
    note = f"names that both files have: {n_shared}; the same videos on both sides would flatter"
    both = LayerFeatures(np.concatenate([train.X, test.X]), train.videos + test.videos, train.provenance)
    return both, len(train.videos), [note] if n_shared else []


def _official(found: VideoLabels, kept: NDArray[np.intp]) -> tuple[list[Split], str]:
    """Return UCF101's splits and what they are called."""
    splits = []
    for number, lists in found.lists.items():
        train, test = (np.flatnonzero([found.keys[i] in part for i in kept]) for part in lists)
        splits.append(Split(str(number), train, test))
    one = f"official split {splits[0].name}"
    return splits, f"UCF101, {one if len(splits) == 1 else 'the three official splits'}"


def _cross_validation(partition: Partition, samples: Samples) -> tuple[list[Split], str]:
    """Return the folds of a cross-validation and what they are called."""
    singles = [name for name, n in samples.counts.items() if n == 1]
    if singles:  # whichever fold tests it, no video of the class is left to train on
        what = "class" if len(singles) == 1 else f"{len(singles)} classes, the first"
        raise UsageError(f"{what} {singles[0]} has 1 video; cross-validation needs 2 to train and test on")
    k, grouped = partition.folds, samples.groups is not None
    if partition.leave_one_out or (grouped and k is None):
        return leave_one_out_splits(samples), f"one {'group' if grouped else 'video'} left out at a time"
    if grouped and k is not None:
        return grouped_splits(samples, k), f"{k} folds of whole groups"
    k = k or min(DEFAULT_FOLDS, *samples.counts.values())
    return stratified_splits(samples, k), f"{k} folds of single videos"
