"""Labelled videos, and their splits into training and test videos."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from sklearn.model_selection import (
    BaseCrossValidator,
    LeaveOneGroupOut,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "SEED",
    "Samples",
    "Split",
    "grouped_splits",
    "inner_splits",
    "leave_one_out_splits",
    "stratified_splits",
]

SEED = 0
"""Decides how single videos are put into folds."""
INNER_FOLDS = 5  # of the cross-validation that chooses C; fewer where there are fewer groups


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows ``X``, floating (N, D), and their labels; no group has rows on both sides of a split."""

    X: NDArray[np.floating]
    labels: Sequence[str]
    groups: Sequence[str] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Class name → number of rows, sorted by name."""
        return dict(sorted(Counter(self.labels).items()))

    def rows(self, index: NDArray[np.intp]) -> Samples:
        """Return these rows."""
        groups = None if self.groups is None else [self.groups[i] for i in index]
        return Samples(self.X[index], [self.labels[i] for i in index], groups)


class Split(NamedTuple):
    """Row indices for training and testing, (n_train,) and (n_test,)."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


def leave_one_out_splits(samples: Samples) -> list[Split]:
    """Test on each group once (without groups: on each video) and train on all others."""
    groups = samples.groups or [str(number) for number in range(1, len(samples.labels) + 1)]
    if len(set(groups)) < 2:
        reason = f"leaving one group out needs at least 2 groups, and all videos are of {groups[0]!r}"
        raise UsageError(reason)
    folds = LeaveOneGroupOut().split(samples.X, samples.labels, groups)
    splits = [Split(groups[test[0]], train, test) for train, test in folds]
    # "10" after "9": groups are often numbered without leading zeros.
    return sorted(splits, key=lambda s: (0, int(s.name), "") if s.name.isdecimal() else (1, 0, s.name))


def grouped_splits(samples: Samples, k: int) -> list[Split]:
    """Put whole groups into ``k`` folds of about the same mixture of classes."""
    n_groups, n_largest = len(set(samples.groups or ())), max(samples.counts.values())
    if k > (most := min(n_groups, n_largest)):
        reason = f"{k} folds of {n_groups} groups and at most {n_largest} videos per class"
        raise UsageError(reason, hint=f"at most {most} folds are possible")
    with warnings.catch_warnings():
        # About classes too rare for k folds; `cross_validate` refuses a fold that tests an untrained class.
        warnings.simplefilter("ignore", UserWarning)
        return _numbered(StratifiedGroupKFold(k), samples)


def stratified_splits(samples: Samples, k: int) -> list[Split]:
    """Put single videos into ``k`` shuffled folds (`SEED`), each class spread over all of them."""
    n, name = min((n, name) for name, n in samples.counts.items())
    if n < k:
        reason = f"{k} folds, and class {name} has {n} video{'s' * (n > 1)}"
        raise UsageError(reason, hint="ask for fewer folds or leave the class out")
    return _numbered(StratifiedKFold(k, shuffle=True, random_state=SEED), replace(samples, groups=None))


def inner_splits(samples: Samples) -> list[Split]:
    """Return the folds of a training part for choosing C: of whole groups if there are groups."""
    counts, groups = samples.counts.values(), samples.groups
    n_units = min(counts) if groups is None else min(len(set(groups)), max(counts))
    unit, make = (
        ("videos of every class", stratified_splits) if groups is None else ("groups", grouped_splits)
    )
    if n_units < 2:
        reason = f"choosing C needs at least 2 {unit} in the training part"
        raise UsageError(reason, hint="give --c a value")
    splits = make(samples, min(INNER_FOLDS, n_units))
    if any(len({samples.labels[i] for i in split.train}) < 2 for split in splits):
        reason = "choosing C leaves groups out, and only one class is left to train on"
        raise UsageError(reason, hint="give --c a value")
    return splits


def _numbered(folds: BaseCrossValidator, samples: Samples) -> list[Split]:
    parts = folds.split(samples.X, samples.labels, samples.groups)
    return [Split(f"{i}/{folds.n_splits}", train, test) for i, (train, test) in enumerate(parts, start=1)]
