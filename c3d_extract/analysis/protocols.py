"""Which videos train and which test, and what came of it.

A protocol is a list of `Split`; everything that is fitted (PCA, C, SVM) is fitted on a split's
training rows and nothing else.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.analysis.linear import LinearModel, fit_basis, fit_linear, l2_normalised, optional_module
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

__all__ = [
    "C_GRID",
    "INNER_FOLDS",
    "ClassResult",
    "FoldResult",
    "Recipe",
    "Report",
    "Samples",
    "Split",
    "cross_validate",
    "fit_recipe",
    "grouped_splits",
    "leave_one_out_splits",
    "pca_curve",
    "stratified_splits",
]

C_GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The values that an automatic C is chosen from."""
INNER_FOLDS = 5
"""Folds of the inner cross-validation that chooses C; fewer where there are fewer groups."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled videos.

    Attributes
    ----------
    X
        Features, floating (N, D).
    y
        Index into ``classes`` of each row, (N,).
    classes
        Class names, sorted.
    groups
        A name a row; rows of one group never stand on both sides of a fold. None: each row by itself.
    """

    X: NDArray[np.floating]
    y: NDArray[np.intp]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @classmethod
    def of(cls, X: NDArray[np.floating], labels: Sequence[str], groups: Sequence[str] | None = None) -> Self:
        """Build from a label and, if wanted, a group a row."""
        classes = tuple(sorted(set(labels)))
        index = {name: i for i, name in enumerate(classes)}
        y = np.array([index[label] for label in labels], dtype=np.intp)
        return cls(X, y, classes, None if groups is None else tuple(groups))

    def rows(self, index: NDArray[np.intp]) -> Samples:
        """Return these rows, with the same classes."""
        groups = None if self.groups is None else tuple(self.groups[i] for i in index)
        return Samples(self.X[index], self.y[index], self.classes, groups)

    @property
    def counts(self) -> NDArray[np.intp]:
        """Rows of each class, (n_classes,)."""
        return np.bincount(self.y, minlength=len(self.classes))


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    c
        The SVM's C; None chooses it from `C_GRID` by cross-validation inside the training rows.
    l2
        L2-normalise rows first, as the paper.
    pca
        Dimensions of a PCA fitted on the training rows; None for none.
    """

    c: float | None = 1.0
    l2: bool = True
    pca: int | None = None


class Split(NamedTuple):
    """Row indices that train and that test, (n_train,) and (n_test,)."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class FoldResult:
    """What a split gave: ``test`` rows, their ``truth`` and ``predicted`` class indices, and the C used."""

    name: str
    n_train: int
    test: NDArray[np.intp]
    truth: NDArray[np.intp]
    predicted: NDArray[np.intp]
    c: float
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of the fold's test videos that were named rightly."""
        return float((self.truth == self.predicted).mean())


class ClassResult(NamedTuple):
    """One class over all folds; NaN where there is nothing to divide by."""

    name: str
    n_test: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Report:
    """The result of a protocol: a `FoldResult` for every split; indices refer to ``classes``."""

    classes: tuple[str, ...]
    folds: tuple[FoldResult, ...]

    @property
    def accuracy(self) -> float:
        """Mean of the folds' accuracies."""
        return float(np.mean([fold.accuracy for fold in self.folds]))

    @property
    def accuracy_std(self) -> float:
        """Standard deviation of the folds' accuracies (divided by their number).

        NaN where it would say nothing: one fold, or folds of one video each.
        """
        if len(self.folds) < 2 or all(len(fold.test) == 1 for fold in self.folds):
            return float("nan")
        return float(np.std([fold.accuracy for fold in self.folds]))

    @property
    def pooled_accuracy(self) -> float:
        """Share of all tests that were right, whatever their fold."""
        return float(self.confusion.trace() / self.confusion.sum())

    @property
    def confusion(self) -> NDArray[np.intp]:
        """Counts over all folds, (n_classes, n_classes): row = truth, column = prediction."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.intp)
        for fold in self.folds:
            np.add.at(counts, (fold.truth, fold.predicted), 1)
        return counts

    @property
    def per_class(self) -> list[ClassResult]:
        """Precision, recall and F1 of each class, from `confusion`."""
        counts = self.confusion
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = counts.diagonal() / counts.sum(axis=0)
            recall = counts.diagonal() / counts.sum(axis=1)
            f1 = 2 * counts.diagonal() / (counts.sum(axis=0) + counts.sum(axis=1))
        columns = zip(self.classes, counts.sum(axis=1), precision, recall, f1, strict=True)
        return [ClassResult(name, int(n), float(p), float(r), float(f)) for name, n, p, r, f in columns]

    @property
    def n_unconverged(self) -> int:
        """Folds whose solver stopped before its tolerance."""
        return sum(not fold.converged for fold in self.folds)


def leave_one_out_splits(samples: Samples) -> list[Split]:
    """Test on each group once (without groups: on each video) and train on all others."""
    groups = samples.groups or tuple(map(str, range(1, len(samples.y) + 1)))
    names = sorted(set(groups), key=_by_number)
    if len(names) < 2:
        raise UsageError(f"leaving one group out needs at least 2 groups, and all videos are of {names[0]!r}")
    values = np.asarray(groups)
    return [Split(name, np.flatnonzero(values != name), np.flatnonzero(values == name)) for name in names]


def grouped_splits(samples: Samples, k: int) -> list[Split]:
    """Deal whole groups into ``k`` folds of about the same mixture of classes."""
    groups = samples.groups or ()
    n_groups, most = len(set(groups)), int(samples.counts.max())
    if k > min(n_groups, most):
        raise UsageError(
            f"{k} folds of {n_groups} groups and at most {most} videos a class",
            hint=f"at most {min(n_groups, most)} folds are possible",
        )
    folds = optional_module("sklearn.model_selection", "classify").StratifiedGroupKFold(k)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of classes too rare for k folds; `_check` says where it matters
        return _numbered(folds.split(samples.X, samples.y, groups), k)


def stratified_splits(samples: Samples, k: int) -> list[Split]:
    """Deal single videos into ``k`` shuffled folds (fixed seed), each class spread over all of them."""
    few = int(samples.counts.argmin())
    if samples.counts[few] < k:
        raise UsageError(
            f"{k} folds, and class {samples.classes[few]} has {_videos(samples.counts[few])}",
            hint="ask for fewer folds or leave the class out",
        )
    folds = optional_module("sklearn.model_selection", "classify").StratifiedKFold(
        k, shuffle=True, random_state=0
    )
    return _numbered(folds.split(samples.X, samples.y), k)


def cross_validate(samples: Samples, splits: Sequence[Split], recipe: Recipe | None = None) -> Report:
    """Train and test once for every split.

    Raises
    ------
    UsageError
        A split tests a class it does not train, or trains one class only; a PCA larger than the training
        part; no way to choose C inside it.
    """
    recipe = recipe or Recipe()
    (report,) = _run(samples, splits, recipe, [recipe.pca])
    return report


def pca_curve(
    samples: Samples, splits: Sequence[Split], dimensions: Sequence[int], recipe: Recipe | None = None
) -> dict[int, Report]:
    """Do `cross_validate` with a PCA of each of these dimensions; one basis a split serves them all."""
    reports = _run(samples, splits, recipe or Recipe(), list(dimensions))
    return dict(zip(dimensions, reports, strict=True))


def fit_recipe(samples: Samples, recipe: Recipe | None = None) -> LinearModel:
    """Fit one model on all rows."""
    recipe = recipe or Recipe()
    (model,) = _fit(_prepared(samples, recipe), recipe, [recipe.pca])
    return model


def _run(
    samples: Samples, splits: Sequence[Split], recipe: Recipe, dimensions: Sequence[int | None]
) -> list[Report]:
    """Return one report per dimension."""
    for split in splits:
        _check(split, samples)
    prepared = _prepared(samples, recipe)  # each row by itself, so that test rows tell training rows nothing
    folds: list[list[FoldResult]] = [[] for _ in dimensions]
    for split in splits:
        models = _fit(prepared.rows(split.train), recipe, dimensions)
        for results, model in zip(folds, models, strict=True):
            results.append(_test(model, samples, split))
    return [Report(samples.classes, tuple(results)) for results in folds]


def _fit(prepared: Samples, recipe: Recipe, dimensions: Sequence[int | None]) -> Iterator[LinearModel]:
    """Fit one model per dimension on training rows; None is no PCA."""
    largest = max((k for k in dimensions if k is not None), default=None)
    basis = None if largest is None else fit_basis(prepared.X, largest)
    for k in dimensions:
        c = _choose_c(prepared, k) if recipe.c is None else recipe.c
        shortened = None if basis is None or k is None else basis.first(k)
        yield fit_linear(prepared.X, prepared.y, prepared.classes, c=c, l2=recipe.l2, basis=shortened)


def _choose_c(prepared: Samples, k: int | None) -> float:
    """Return the smallest C of `C_GRID` with the most right answers over inner folds of the training rows."""
    right = np.zeros(len(C_GRID), dtype=np.intp)
    for split in _inner_splits(prepared):
        inside, outside = prepared.rows(split.train), prepared.rows(split.test)
        basis = None if k is None else fit_basis(inside.X, min(k, *inside.X.shape))
        for i, c in enumerate(C_GRID):
            # A class whose groups all fell into `outside` is never named; that costs every C the same.
            model = fit_linear(inside.X, inside.y, inside.classes, c=c, l2=False, basis=basis)
            right[i] += (_predict(model, outside) == outside.y).sum()
    return C_GRID[int(right.argmax())]


def _inner_splits(prepared: Samples) -> list[Split]:
    """Return the folds that C is chosen on: whole groups where there are groups."""
    present = prepared.counts[prepared.counts > 0]
    n_units = (
        int(present.min()) if prepared.groups is None else min(len(set(prepared.groups)), int(present.max()))
    )
    if n_units < 2:
        unit = "videos of every class" if prepared.groups is None else "groups"
        raise UsageError(f"choosing C needs at least 2 {unit} in the training part", hint="give --c a value")
    k = min(INNER_FOLDS, n_units)
    known = Samples.of(prepared.X, [prepared.classes[i] for i in prepared.y], prepared.groups)
    splits = stratified_splits(known, k) if known.groups is None else grouped_splits(known, k)
    if any(len(np.unique(known.y[split.train])) < 2 for split in splits):
        raise UsageError(
            "choosing C leaves groups out, and one class is left to train on", hint="give --c a value"
        )
    return splits


def _check(split: Split, samples: Samples) -> None:
    """Raise UsageError for a split that cannot be trained, or tests what it could not learn."""
    where = f"fold {split.name}"
    if not len(split.train) or not len(split.test):
        raise UsageError("no video to train on or none to test", subject=where)
    trained = samples.rows(split.train).counts > 0
    if unknown := sorted({int(i) for i in samples.y[split.test] if not trained[i]}):
        names = ", ".join(f"{samples.classes[i]} (of {_videos(samples.counts[i])})" for i in unknown[:5])
        raise UsageError(f"tests a class that no training video is left of: {names}", subject=where)
    if trained.sum() < 2:
        raise UsageError("training needs videos of at least 2 classes", subject=where)


def _test(model: LinearModel, samples: Samples, split: Split) -> FoldResult:
    tested = samples.rows(split.test)
    predicted = _predict(model, tested)
    return FoldResult(split.name, len(split.train), split.test, tested.y, predicted, model.c, model.converged)


def _predict(model: LinearModel, samples: Samples) -> NDArray[np.intp]:
    """Return indices into the samples' classes, of which the model may know only some."""
    return np.array([samples.classes.index(name) for name in model.classes])[model.predict(samples.X)]


def _prepared(samples: Samples, recipe: Recipe) -> Samples:
    X = l2_normalised(samples.X) if recipe.l2 else samples.X.astype(np.float64)
    return Samples(X, samples.y, samples.classes, samples.groups)


def _numbered(folds: Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]], k: int) -> list[Split]:
    return [Split(f"{number}/{k}", train, test) for number, (train, test) in enumerate(folds, start=1)]


def _by_number(name: str) -> tuple[int, int, str]:
    """Sort numbers by value, before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _videos(n: int) -> str:
    return "1 video" if n == 1 else f"{n} videos"
