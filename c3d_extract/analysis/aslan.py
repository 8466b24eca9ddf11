"""Action similarity: whether two videos show the same action.

The ASLAN benchmark (Kliper-Gross, Hassner, Wolf, TPAMI 34(3), 2012) in C3D's protocol (Tran et al. 2015,
section 5): prob, fc7, fc6 and pool5, each averaged over a video and L2-normalised, give 12 similarities a
pair and a layer; the 48 numbers are standardised and a linear SVM says same or not, in the ten official
splits. Table 3 of the ASLAN paper lists its twelve; it could not be consulted for this code, so
`SIMILARITIES` are twelve usual ones of non-negative vectors, and results may differ by that choice.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.analysis.labels import read_lines
from c3d_extract.analysis.linear import fit_linear, l2_normalised, optional_module
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["LAYERS", "SIMILARITIES", "Pairs", "PairsReport", "judge_pairs", "read_pairs", "similarities"]

LAYERS = ("prob", "fc7", "fc6", "pool5")
"""The layers of the paper."""
CHUNK = 256
"""Pairs compared at a time: 256 rows of pool5 in float64 are 17 MB."""


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to sum 1, as a distribution; a row of zeros stays."""
    total = values.sum(axis=1, keepdims=True)
    return values / np.where(total == 0, 1, total)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, with 0 / 0 = 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _jensen_shannon(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergence in nats: a symmetric Kullback-Leibler that zeros do not break."""
    p, q = _share(a), _share(b)
    middle = (p + q) / 2
    terms = [x * np.log(_ratio(x, middle), out=np.zeros_like(x), where=x > 0) for x in (p, q)]
    total: NDArray[np.float64] = (terms[0] + terms[1]).sum(axis=1)
    return total / 2


SIMILARITIES: Mapping[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "inner product": lambda a, b: (a * b).sum(axis=1),
    "root of inner product": lambda a, b: np.sqrt((a * b).sum(axis=1)),
    "Bhattacharyya": lambda a, b: np.sqrt(a * b).sum(axis=1),
    "root of Bhattacharyya": lambda a, b: np.sqrt(np.sqrt(a * b).sum(axis=1)),
    "intersection": lambda a, b: np.minimum(a, b).sum(axis=1),
    "intersection over union": lambda a, b: _ratio(
        np.minimum(a, b).sum(axis=1), np.maximum(a, b).sum(axis=1)
    ),
    "L1": lambda a, b: np.abs(a - b).sum(axis=1),
    "L2": lambda a, b: np.sqrt(((a - b) ** 2).sum(axis=1)),
    "largest difference": lambda a, b: np.abs(a - b).max(axis=1),
    "chi-square": lambda a, b: _ratio((a - b) ** 2, a + b).sum(axis=1),
    "Hellinger": lambda a, b: np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(axis=1)),
    "Jensen-Shannon": _jensen_shannon,
}
"""Name → function of two blocks of non-negative rows (n, D), giving (n,)."""


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
        Pairs left out because a video is not there.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    same: NDArray[np.bool_]
    split: NDArray[np.intp]
    n_missing: int = 0


@dataclass(frozen=True, eq=False)
class PairsReport:
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


def similarities(
    features: Sequence[NDArray[np.floating]], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the similarities of pairs, (P, 12 · n_layers), layer by layer.

    Parameters
    ----------
    features
        One array (N, D) a layer; L2-normalised here, and not negative (UsageError).
    first, second
        Row indices of the pairs, (P,).
    """
    columns = []
    for layer in features:
        if (layer < 0).any():
            raise UsageError(
                "similarities of this kind need features that are not negative",
                hint="use layers after ReLU or softmax, without PCA",
            )
        columns.append(_layer_similarities(l2_normalised(layer), first, second))
    return np.hstack(columns)


def _layer_similarities(
    rows: NDArray[np.float64], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.float64]:
    out = np.empty((len(first), len(SIMILARITIES)))
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = rows[first[part]], rows[second[part]]
        for column, similarity in enumerate(SIMILARITIES.values()):
            out[part, column] = similarity(a, b)
    return out


def judge_pairs(features: Sequence[NDArray[np.floating]], pairs: Pairs, *, c: float = 1.0) -> PairsReport:
    """Test each split with an SVM trained on all others; mean and variance come from the training pairs.

    Raises UsageError for a single split, and for a split that has only one kind of pairs.
    """
    X = similarities(features, pairs.first, pairs.second)
    splits = sorted(set(pairs.split.tolist()))
    if len(splits) < 2:
        raise UsageError("pairs of at least 2 splits are needed, one to test and one to train")
    results = [_judge_split(X, pairs.same, pairs.split == split, name=split, c=c) for split in splits]
    accuracies, aucs, converged = (np.array(column) for column in zip(*results, strict=True))
    return PairsReport(tuple(splits), accuracies, aucs, int((~converged).sum()))


def _judge_split(
    X: NDArray[np.float64], same: NDArray[np.bool_], test: NDArray[np.bool_], *, name: int, c: float
) -> tuple[float, float, bool]:
    """Return accuracy, area under the curve and convergence for the pairs that ``test`` marks."""
    for part in (same[test], same[~test]):
        if part.all() or not part.any():
            raise UsageError(
                "its pairs or all the others are of one kind, all same or all not", subject=f"split {name}"
            )
    mean, spread = X[~test].mean(axis=0), X[~test].std(axis=0)
    Z = (X - mean) / np.where(spread == 0, 1, spread)
    model = fit_linear(Z[~test], same[~test].astype(np.intp), ("not same", "same"), c=c, l2=False)
    score = model.scores(Z[test])[:, 1]
    auc = optional_module("sklearn.metrics", "classify").roc_auc_score(same[test], score)
    return float(((score > 0) == same[test]).mean()), float(auc), model.converged


def read_pairs(path: Path, names: Sequence[str], *, skip: bool = False) -> Pairs:
    """Read a list of pairs and find their videos.

    Parameters
    ----------
    path
        ASLAN's ``View2.mat`` (``action_splits_pairs``, 600 x 5 x 10: two sample numbers, 1 for same, two
        action numbers; one plane a split), or lines ``split,first,second,same`` with the videos' names
        and 1 or 0. ASLAN's sample number is the four digits that end a file's stem.
    names
        The feature file's videos.
    skip
        Leave out pairs whose video is not there; otherwise they are a UsageError.
    """
    official = path.suffix.lower() == ".mat"
    table = _read_mat(path) if official else _read_csv(path)
    rows = _sample_numbers(names) if official else {name: i for i, name in enumerate(names)}
    there = [pair for pair in table if pair[1] in rows and pair[2] in rows]
    if len(there) < len(table) and not skip:
        absent = next(video for pair in table for video in pair[1:3] if video not in rows)
        raise UsageError(
            f"{len(table) - len(there)} of {len(table)} pairs have a video that is not in the feature file, "
            f"the first is {absent}",
            subject=path,
            hint="--missing skip leaves them out",
        )
    if not there:
        raise UsageError("none of its pairs is in the feature file", subject=path)
    return Pairs(
        first=np.array([rows[pair[1]] for pair in there]),
        second=np.array([rows[pair[2]] for pair in there]),
        same=np.array([pair[3] for pair in there], dtype=bool),
        split=np.array([pair[0] for pair in there]),
        n_missing=len(table) - len(there),
    )


def _read_csv(path: Path) -> list[tuple[int, str, str, bool]]:
    table = []
    for number, row in enumerate(csv.reader(read_lines(path)), start=1):
        fields = [field.strip() for field in row]
        if not any(fields) or (number == 1 and fields[0].lower() == "split"):
            continue
        if len(fields) != 4 or not fields[0].isdecimal() or fields[3] not in {"0", "1"}:
            raise UsageError(
                f"expected split,first,second,0 or 1 and found {','.join(row)!r}",
                subject=f"{path}, line {number}",
            )
        table.append((int(fields[0]), fields[1], fields[2], fields[3] == "1"))
    return table


def _read_mat(path: Path) -> list[tuple[int, str, str, bool]]:
    """Read View2.mat; scipy comes with scikit-learn."""
    scipy_io = optional_module("scipy.io", "classify")
    try:
        cube = scipy_io.loadmat(path)["action_splits_pairs"]
        cube = cube if cube.dtype.kind in "iu" else _whole(cube)
        n_pairs, n_fields, n_splits = cube.shape
    except Exception as error:  # whatever a reader of foreign files raises
        raise UsageError(
            f"not a MATLAB file with action_splits_pairs (n, 5, n_splits): {error}", subject=path
        ) from error
    if n_fields != 5 or not np.isin(cube[:, 2], (0, 1)).all():
        raise UsageError(
            "action_splits_pairs should be (n, 5, n_splits) with 0 or 1 in the third column", subject=path
        )
    return [
        (split + 1, f"{int(cube[i, 0, split]):04}", f"{int(cube[i, 1, split]):04}", bool(cube[i, 2, split]))
        for split in range(n_splits)
        for i in range(n_pairs)
    ]


def _whole(cube: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return MATLAB's numbers, which are all floating, as integers; ValueError where they are not whole."""
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
