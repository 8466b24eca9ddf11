"""The paper's classifier on scikit-learn: L2 norm, optional PCA, a multi-class linear SVM.

Everything that is fitted (PCA, C, SVM) is fitted on the training rows of a `Split` only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    precision_recall_fscore_support,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import LinearSVC

from c3d_extract.analysis.classifier_file import LinearClassifier
from c3d_extract.analysis.pca import BasisCache, PcaTransformer
from c3d_extract.analysis.splits import Samples, Split, inner_splits
from c3d_extract.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "C_GRID",
    "Baselines",
    "ClassifierSettings",
    "Evaluation",
    "FoldResult",
    "baselines",
    "cross_validate",
    "fit_classifier",
    "linear_svm",
    "pca_curve",
]

C_GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
"""The candidates for an automatic C; of equally good ones the smallest is chosen."""
MAX_ITERATIONS = 10_000  # LinearSVC's own limit of 1,000 is not enough for large C on unit vectors


@dataclass(frozen=True)
class ClassifierSettings:
    """How to train: the SVM's C (None: chosen by inner cross-validation), L2 norm, PCA dimensions."""

    c: float | None = 1.0
    l2: bool = True
    pca: int | None = None


DEFAULTS = ClassifierSettings()


@dataclass(frozen=True, eq=False)
class FoldResult:
    """The rows that a split tested, their true labels and the predicted ones, (n_test,) each."""

    name: str
    n_train: int
    test: NDArray[np.intp]
    truth: NDArray[np.str_]
    predicted: NDArray[np.str_]
    c: float
    converged: bool

    @property
    def accuracy(self) -> float:
        """Share of the fold's test videos that were classified correctly."""
        return float((self.truth == self.predicted).mean())


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of a protocol: ``classes``, sorted, and a `FoldResult` for every split."""

    classes: tuple[str, ...]
    folds: tuple[FoldResult, ...]

    @property
    def labels(self) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        """True and predicted labels of all folds."""
        pairs = np.hstack([(fold.truth, fold.predicted) for fold in self.folds])
        return pairs[0], pairs[1]

    @property
    def accuracy(self) -> float:
        """Mean of the folds' accuracies."""
        return float(np.mean([fold.accuracy for fold in self.folds]))

    @property
    def accuracy_std(self) -> float:
        """Standard deviation of the folds' accuracies; NaN for one fold and for folds of one video each."""
        if len(self.folds) < 2 or all(len(fold.test) == 1 for fold in self.folds):
            return float("nan")
        return float(np.std([fold.accuracy for fold in self.folds]))

    @property
    def pooled_accuracy(self) -> float:
        """Share of correct predictions over all folds together."""
        return float(accuracy_score(*self.labels))

    @property
    def confusion(self) -> NDArray[np.intp]:
        """Counts over all folds, (n_classes, n_classes): row = truth, column = prediction."""
        counts: NDArray[np.intp] = confusion_matrix(*self.labels, labels=self.classes)
        return counts

    @property
    def per_class(self) -> NDArray[np.float64]:
        """Precision, recall, F1 (NaN where 0 / 0) and number of tests of each class, (n_classes, 4)."""
        return np.transpose(
            precision_recall_fscore_support(*self.labels, labels=self.classes, zero_division=np.nan)
        )

    @property
    def class_table(self) -> str:
        """`per_class` as text, names truncated to 36 characters, with scikit-learn's averages."""
        names = [printable(name)[:36] for name in self.classes]
        options = {"labels": self.classes, "target_names": names, "digits": 3, "zero_division": np.nan}
        return str(classification_report(*self.labels, **options))


class Baselines(NamedTuple):
    """Accuracies of classifiers that look at no feature."""

    chance: float
    """Of guessing: one divided by the number of classes."""
    majority: float
    """Of always naming the most frequent class of a fold's training videos; the mean over the folds."""


def baselines(samples: Samples, splits: Sequence[Split]) -> Baselines:
    """Return what an accuracy over these splits is to be compared with."""
    labels = np.asarray(samples.labels)
    found = []
    for split in splits:
        dummy = DummyClassifier(strategy="most_frequent").fit(samples.X[split.train], labels[split.train])
        found.append(dummy.score(samples.X[split.test], labels[split.test]))
    return Baselines(1 / len(samples.counts), float(np.mean(found)))


def linear_svm(c: float) -> LinearSVC:
    """Return the SVM: one-vs-rest, with a fixed seed."""
    return LinearSVC(C=c, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)


def cross_validate(
    samples: Samples,
    splits: Sequence[Split],
    settings: ClassifierSettings = DEFAULTS,
    *,
    cache: BasisCache | None = None,
) -> Evaluation:
    """Train and test once for every split.

    Raises UsageError for a split that tests a class it does not train or trains only one, for a PCA larger
    than the training part allows, and where C cannot be chosen inside it.
    """
    for split in splits:
        _check(split, samples)
    folds = tuple(_test(split, samples, settings, cache) for split in splits)
    return Evaluation(tuple(samples.counts), folds)


def pca_curve(
    samples: Samples, splits: Sequence[Split], dimensions: Sequence[int], settings: ClassifierSettings
) -> dict[int, Evaluation]:
    """Return `cross_validate` for each PCA dimension; all share one basis per split."""
    with TemporaryDirectory() as folder:
        cache = BasisCache(folder, max(dimensions, default=0))
        curve = {k: replace(settings, pca=k) for k in dimensions}
        return {k: cross_validate(samples, splits, each, cache=cache) for k, each in curve.items()}


def fit_classifier(
    samples: Samples,
    settings: ClassifierSettings = DEFAULTS,
    *,
    provenance: Mapping[str, Any] | None = None,
    trained_on: Sequence[tuple[str, int]] = (),
) -> LinearClassifier:
    """Fit one classifier on all rows; ``provenance`` is that of `LayerFeatures`."""
    fitted = _fit(samples, settings)
    svm, basis = fitted["svm"], None if settings.pca is None else fitted["pca"].basis_
    return LinearClassifier(
        classes=tuple(svm.classes_.tolist()),
        coef=svm.coef_.astype(np.float64),
        intercept=np.atleast_1d(svm.intercept_).astype(np.float64),
        c=svm.C,
        l2=settings.l2,
        converged=bool(svm.n_iter_ < MAX_ITERATIONS),
        provenance=provenance or {},
        trained_on=tuple(trained_on),
        **({} if basis is None else {"pca_mean": basis.mean, "pca_components": basis.components}),
    )


def _test(
    split: Split, samples: Samples, settings: ClassifierSettings, cache: BasisCache | None
) -> FoldResult:
    fitted, tested = _fit(samples.rows(split.train), settings, cache), samples.rows(split.test)
    truth, predicted = np.asarray(tested.labels), fitted.predict(tested.X)
    svm = fitted["svm"]
    converged = bool(svm.n_iter_ < MAX_ITERATIONS)
    return FoldResult(split.name, len(split.train), split.test, truth, predicted, svm.C, converged)


def _fit(samples: Samples, settings: ClassifierSettings, cache: BasisCache | None = None) -> Pipeline:
    """Fit a pipeline on all rows, after choosing C if requested."""
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported by `FoldResult.converged`
        warnings.filterwarnings("ignore", module="joblib.memory")  # large arrays take a moment to be cached
        # Without a cache, the basis of an inner fold would be fitted again for each C.
        model = _pipeline(samples, settings, cache or BasisCache(folder, settings.pca or 0))
        if settings.c is not None:
            return model.fit(samples.X, samples.labels)
        folds = [(split.train, split.test) for split in inner_splits(samples)]
        # A class whose groups are all in one fold's test part is never predicted there, for any C.
        search = GridSearchCV(model, {"svm__C": C_GRID}, cv=folds, error_score="raise")
        return search.fit(samples.X, samples.labels).best_estimator_


def _pipeline(samples: Samples, settings: ClassifierSettings, cache: BasisCache) -> Pipeline:
    (n, size), k = samples.X.shape, cache.n_components
    if settings.pca is not None and k > min(n, size):
        reason = f"PCA to {k} dimensions from {n} training videos of {size} numbers each"
        raise UsageError(reason, hint=f"at most {min(n, size)} are possible")
    norm = Normalizer() if settings.l2 else "passthrough"
    pca = "passthrough" if settings.pca is None else PcaTransformer(settings.pca, cache)
    return Pipeline([("norm", norm), ("pca", pca), ("svm", linear_svm(settings.c or 1.0))])


def _check(split: Split, samples: Samples) -> None:
    """Raise UsageError for a split that cannot be trained, or that tests a class it does not train."""
    trained, tested = ({samples.labels[i] for i in part} for part in (split.train, split.test))
    if not trained or not tested:
        raise UsageError("no video to train on or none to test", subject=f"fold {split.name}")
    if tested - trained:
        counts = [(name, samples.counts[name]) for name in sorted(tested - trained)[:5]]
        names = ", ".join(f"{name} (of {n} video{'s' * (n > 1)})" for name, n in counts)
        reason = f"tests a class that no training video is left of: {names}"
        raise UsageError(reason, subject=f"fold {split.name}")
    if len(trained) < 2:
        raise UsageError("training needs videos of at least 2 classes", subject=f"fold {split.name}")
