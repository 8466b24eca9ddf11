"""Action similarity: whether two videos show the same action.

The ASLAN benchmark (Kliper-Gross, Hassner, Wolf, "The Action Similarity Labeling Challenge", TPAMI 34(3),
2012) in C3D's protocol (Tran et al. 2015, section 5): prob, fc7, fc6 and pool5, each averaged over a video
and L2-normalised, give the twelve (dis)similarities of the benchmark's table 3 for a pair and a layer; the
48 numbers are standardised and a linear SVM predicts same or not same, in the ten official splits.

What the table does not specify, and what is done here:

- "In the last four rows, original vectors were normalized": it does not say how, nor whether these are rows
  9 to 12, or 10 to 12 and the row of all twelve together. All rows here take the L2-normalised vectors of
  C3D's protocol, and nothing is normalised a second time: scaled to sum 1, the divisor of row 12 would be 1.
- Entries that are zero, as most are after ReLU. A quotient 0 / 0 counts as 0 (rows 4, 5, 6, 11, 12). Row 10
  is infinite where only one of two entries is zero, so its entries are raised to `EPSILON` first.
"""

from __future__ import annotations

import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.io import loadmat
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import LeaveOneGroupOut, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from c3d_extract.analysis.classify import MAX_ITERATIONS, linear_svm
from c3d_extract.errors import UsageError
from c3d_extract.files import read_text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

__all__ = [
    "LAYERS",
    "SIMILARITIES",
    "Pairs",
    "PairsEvaluation",
    "evaluate_pairs",
    "pair_similarities",
    "read_pairs",
]

LAYERS = ("prob", "fc7", "fc6", "pool5")
"""The layers of C3D's paper."""
EPSILON = 1e-7
"""Smallest entry in the logarithms of row 10, as in Keras's KL divergence."""
PAIRS_AT_ONCE = 256  # as many rows of pool5 in float64 are 17 MB


def _ratio(numerator: Rows, denominator: Rows) -> Rows:
    """Divide, with 0 / 0 = 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _cosine(a: Rows, b: Rows) -> Rows:
    norms = np.sqrt((a**2).sum(axis=1)) * np.sqrt((b**2).sum(axis=1))
    return _ratio((a * b).sum(axis=1), norms)


def _symmetric_kl(a: Rows, b: Rows) -> Rows:
    # Σ a log(a/b) + Σ b log(b/a) = Σ (a - b)(log a - log b): no term is negative.
    a, b = np.maximum(a, EPSILON), np.maximum(b, EPSILON)
    divergence: Rows = ((a - b) * (np.log(a) - np.log(b))).sum(axis=1) / 2
    return divergence


SIMILARITIES: Mapping[str, Callable[[Rows, Rows], Rows]] = {
    "inner product": lambda a, b: (a * b).sum(axis=1),
    "root of inner product": lambda a, b: np.sqrt((a * b).sum(axis=1)),
    "root of inner product of roots": lambda a, b: np.sqrt((np.sqrt(a) * np.sqrt(b)).sum(axis=1)),
    "root of harmonic product": lambda a, b: np.sqrt(_ratio(a * b, a + b).sum(axis=1)),
    "cosine": _cosine,
    "root of chi-square": lambda a, b: np.sqrt(_ratio((a - b) ** 2, a + b).sum(axis=1)),
    "L1 distance": lambda a, b: np.abs(a - b).sum(axis=1),
    "Hellinger distance": lambda a, b: np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(axis=1)),
    "L2 distance": lambda a, b: np.sqrt(((a - b) ** 2).sum(axis=1)),
    "symmetric Kullback-Leibler divergence": _symmetric_kl,
    "roots of larger over sum": lambda a, b: _ratio(np.sqrt(np.maximum(a, b)), np.sqrt(a + b)).sum(axis=1),
    "intersection over product of sums": lambda a, b: _ratio(
        np.minimum(a, b).sum(axis=1), a.sum(axis=1) * b.sum(axis=1)
    ),
}
"""The rows of table 3, in its order: function of two blocks (n, D) of entries from 0, giving (n,)."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of videos.

    Attributes
    ----------
    first, second
        Row indices of the two videos, (P,).
    same
        Whether they show the same action, bool (P,).
    split
        The official split of each pair, (P,).
    n_missing
        Pairs ignored because a video is not in the feature file.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    same: NDArray[np.bool_]
    split: NDArray[np.intp]
    n_missing: int = 0


@dataclass(frozen=True, eq=False)
class PairsEvaluation:
    """Accuracy and area under the ROC curve of each split, (n_splits,), in the order of ``splits``."""

    splits: tuple[int, ...]
    accuracies: NDArray[np.float64]
    aucs: NDArray[np.float64]
    n_unconverged: int

    @property
    def accuracy(self) -> float:
        """Mean of the splits' accuracies."""
        return float(self.accuracies.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of that mean: sample standard deviation over the root of the number of splits."""
        return float(self.accuracies.std(ddof=1) / np.sqrt(len(self.accuracies)))

    @property
    def auc(self) -> float:
        """Mean of the splits' areas under the ROC curve."""
        return float(self.aucs.mean())


def pair_similarities(
    features: Sequence[NDArray[np.floating]], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the similarities of pairs, (P, 12 · n_layers), layer by layer.

    Parameters
    ----------
    features
        One array (N, D) per layer; L2-normalised here, and not negative (UsageError).
    first, second
        Row indices of the pairs, (P,).
    """
    if any((layer < 0).any() for layer in features):
        reason = "similarities of this kind need features that are not negative"
        raise UsageError(reason, hint="use layers after ReLU or softmax, without PCA")
    out = np.empty((len(first), len(features), len(SIMILARITIES)))
    for column, layer in enumerate(features):
        rows = normalize(layer.astype(np.float64))
        for start in range(0, len(first), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            a, b = rows[first[part]], rows[second[part]]
            out[part, column] = np.stack([f(a, b) for f in SIMILARITIES.values()], axis=1)
    return out.reshape(len(first), -1)


def evaluate_pairs(
    features: Sequence[NDArray[np.floating]], pairs: Pairs, *, c: float = 1.0
) -> PairsEvaluation:
    """Test each split with an SVM trained on all others; mean and variance come from the training pairs.

    Raises UsageError for a single split, and for a split that has only one kind of pairs.
    """
    splits = sorted(set(pairs.split.tolist()))
    if len(splits) < 2:
        raise UsageError("pairs of at least 2 splits are needed, one to test and one to train")
    for split in splits:
        test = pairs.split == split
        if any(len(np.unique(part)) < 2 for part in (pairs.same[test], pairs.same[~test])):
            reason = "its pairs or all the others are of one kind, all same or all not"
            raise UsageError(reason, subject=f"split {split}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
        found = cross_validate(
            make_pipeline(StandardScaler(), linear_svm(c)),
            pair_similarities(features, pairs.first, pairs.second),
            pairs.same.astype(int),
            groups=pairs.split,
            cv=LeaveOneGroupOut(),
            scoring=("accuracy", "roc_auc"),
            return_estimator=True,
            error_score="raise",
        )
    n_unconverged = sum(model[-1].n_iter_ >= MAX_ITERATIONS for model in found["estimator"])
    return PairsEvaluation(tuple(splits), found["test_accuracy"], found["test_roc_auc"], n_unconverged)


class _ListedPair(NamedTuple):
    split: int
    first: str
    second: str
    same: bool


def read_pairs(path: Path, names: Sequence[str], *, skip: bool = False) -> Pairs:
    """Read a list of pairs and find their videos.

    Parameters
    ----------
    path
        ASLAN's ``View2.mat`` (``action_splits_pairs``, 600 x 5 x 10: two sample numbers, 1 for same, two
        action numbers; one plane per split), or lines ``split,first,second,same`` with the videos' names
        and 1 or 0. ASLAN's sample number is the four digits that end a file's stem.
    names
        The feature file's videos.
    skip
        Ignore pairs whose video is not in the feature file; otherwise they are a UsageError.
    """
    official = path.suffix.lower() == ".mat"
    table = _read_mat(path) if official else _read_csv(path)
    rows = _sample_numbers(names) if official else {name: i for i, name in enumerate(names)}
    found = [pair for pair in table if pair.first in rows and pair.second in rows]
    if len(found) < len(table) and not skip:
        absent = next(video for pair in table for video in pair[1:3] if video not in rows)
        n = f"{len(table) - len(found)} of {len(table)}"
        reason = f"{n} pairs have a video that is not in the feature file, the first is {absent}"
        raise UsageError(reason, subject=path, hint="--missing skip ignores them")
    if not found:
        raise UsageError("none of its pairs is in the feature file", subject=path)
    return Pairs(
        first=np.array([rows[pair.first] for pair in found]),
        second=np.array([rows[pair.second] for pair in found]),
        same=np.array([pair.same for pair in found], dtype=bool),
        split=np.array([pair.split for pair in found]),
        n_missing=len(table) - len(found),
    )


def _read_csv(path: Path) -> list[_ListedPair]:
    table = []
    for number, row in enumerate(csv.reader(read_text_lines(path, UsageError)), start=1):
        fields = [field.strip() for field in row]
        if not any(fields) or (number == 1 and fields[0].lower() == "split"):
            continue
        if len(fields) != 4 or not fields[0].isdecimal() or fields[3] not in {"0", "1"}:
            reason = f"expected split,first,second,0 or 1 and found {','.join(row)!r}"
            raise UsageError(reason, subject=f"{path}, line {number}")
        table.append(_ListedPair(int(fields[0]), fields[1], fields[2], fields[3] == "1"))
    return table


def _read_mat(path: Path) -> list[_ListedPair]:
    try:
        cube = loadmat(path)["action_splits_pairs"]
        cube = cube if cube.dtype.kind in "iu" else _whole(cube)
        _, n_fields, n_splits = cube.shape
    except Exception as error:  # loadmat can raise anything for a damaged file
        reason = f"not a MATLAB file with action_splits_pairs (n, 5, n_splits): {error}"
        raise UsageError(reason, subject=path) from error
    if n_fields != 5 or not np.isin(cube[:, 2], (0, 1)).all():
        reason = "action_splits_pairs should be (n, 5, n_splits) with 0 or 1 in the third column"
        raise UsageError(reason, subject=path)
    return [
        _ListedPair(split + 1, f"{first:04}", f"{second:04}", same == 1)
        for split in range(n_splits)
        for first, second, same in cube[:, :3, split].tolist()
    ]


def _whole(cube: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return MATLAB's doubles as integers; raise ValueError if they cannot be sample numbers."""
    if cube.dtype.kind != "f" or not (np.abs(cube) < 1e6).all():
        raise ValueError("it holds no sample numbers")
    return cube.astype(np.int64)


def _sample_numbers(names: Sequence[str]) -> dict[str, int]:
    """Map ASLAN's four-digit sample number to the row of its video."""
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        number = re.search(r"(?<!\d)\d{4}$", PurePosixPath(name).stem)
        if number and rows.setdefault(number.group(), row) != row:
            raise UsageError(
                f"two videos end in {number.group()}, {names[rows[number.group()]]} is the other",
                subject=name,
            )
    return rows
