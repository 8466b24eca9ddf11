"""The linear classifier: equal to scikit-learn called by hand, and fair to what it tests."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from labelled_features import CLASSES, SIZE, blobs, sklearn_pipeline
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_predict

from c3d_extract import analysis
from c3d_extract.analysis import (
    ClassifierSettings,
    Evaluation,
    Samples,
    Split,
    cross_validate,
    fit_classifier,
    leave_one_out_splits,
    pca,
    pca_curve,
    stratified_splits,
)
from c3d_extract.analysis.classify import C_GRID
from c3d_extract.analysis.splits import inner_splits
from c3d_extract.errors import C3DError, UsageError
from c3d_extract.output.pca_basis import LayerBasis, fit_layer, l2_normalised


def predictions(evaluation: Evaluation, n: int) -> np.ndarray:
    """Return what was predicted for each row, empty where it was never tested."""
    out = np.full(n, "", dtype=object)
    for fold in evaluation.folds:
        out[fold.test] = fold.predicted
    return out


# --- agreement with scikit-learn ---


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_leave_one_group_out_is_what_scikit_learn_gives(c: float, k: int | None) -> None:
    samples, _ = blobs()
    evaluation = cross_validate(samples, leave_one_out_splits(samples), ClassifierSettings(c=c, pca=k))
    model, cv = sklearn_pipeline(c, k), LeaveOneGroupOut()
    expected = cross_val_predict(model, samples.X, samples.labels, groups=samples.groups, cv=cv)
    assert (predictions(evaluation, len(expected)) == expected).all()


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_scores_are_scikit_learns_decision_function(classes: tuple[str, ...]) -> None:
    samples, _ = blobs(classes=classes)
    scores = fit_classifier(samples, ClassifierSettings(pca=4)).scores(samples.X)
    expected = sklearn_pipeline(k=4).fit(samples.X, samples.labels).decision_function(samples.X)
    expected = expected if expected.ndim == 2 else np.stack([-expected, expected], axis=1)
    # The two PCAs round differently in float32, and the solver's own tolerance is 1e-4.
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize(("spread", "k"), [(1.2, 5), (2.0, None)])
def test_automatic_c_is_the_one_a_grid_search_finds(spread: float, k: int | None) -> None:
    samples, _ = blobs(spread=spread)
    folds = [(split.train, split.test) for split in inner_splits(samples)]
    search = GridSearchCV(sklearn_pipeline(k=k), {"linearsvc__C": list(C_GRID)}, cv=folds)
    search.fit(samples.X, samples.labels)
    assert search.best_index_ > 0, "the data must prefer a C that is not the first"
    assert fit_classifier(samples, ClassifierSettings(c=None, pca=k)).c == search.best_params_["linearsvc__C"]


def test_figures_are_those_of_scikit_learn() -> None:
    samples, _ = blobs(spread=3.0)
    evaluation = cross_validate(samples, stratified_splits(samples, 4))
    predicted = predictions(evaluation, len(samples.labels)).tolist()
    assert (evaluation.confusion == confusion_matrix(samples.labels, predicted)).all()
    expected = precision_recall_fscore_support(samples.labels, predicted)
    np.testing.assert_allclose(evaluation.per_class.T, expected)
    folds = [(fold.predicted == fold.truth).mean() for fold in evaluation.folds]
    assert (evaluation.accuracy, evaluation.accuracy_std) == pytest.approx((np.mean(folds), np.std(folds)))


def test_the_curve_is_a_cross_validation_for_each_dimension() -> None:
    samples, _ = blobs(spread=2.5)
    splits = leave_one_out_splits(samples)
    curve = pca_curve(samples, splits, [2, 12], ClassifierSettings(l2=False))
    assert set(curve) == {2, 12}
    for k, evaluation in curve.items():
        alone = cross_validate(samples, splits, ClassifierSettings(pca=k, l2=False))
        assert (predictions(evaluation, 60) == predictions(alone, 60)).all()


def test_the_same_data_gives_the_same_model_to_the_bit() -> None:
    # More numbers than videos, as real features are: the solver then visits the videos in random order.
    X = np.random.default_rng(0).random((30, 100))
    samples = Samples(X, list("abc") * 10)
    first, second = (fit_classifier(samples, ClassifierSettings(c=None)) for _ in range(2))
    assert (first.coef == second.coef).all()
    assert (first.c, first.intercept.tolist()) == (second.c, second.intercept.tolist())


# --- fairness ---


@pytest.mark.parametrize(
    "settings",
    [ClassifierSettings(pca=4), ClassifierSettings(c=None, pca=4), ClassifierSettings(c=None, l2=False)],
)
def test_nothing_that_is_fitted_sees_a_test_row(settings: ClassifierSettings) -> None:
    samples, _ = blobs(spread=2.0)
    split = leave_one_out_splits(samples)[0]
    poisoned = samples.X.copy()
    victims = split.test[::2]
    poisoned[victims] = 1e6 * np.random.default_rng(1).normal(size=(len(victims), SIZE))
    clean = cross_validate(samples, [split], settings).folds[0]
    dirty = cross_validate(Samples(poisoned, samples.labels, samples.groups), [split], settings).folds[0]
    spared = ~np.isin(split.test, victims)
    assert clean.c == dirty.c
    assert (clean.predicted[spared] == dirty.predicted[spared]).all()
    assert (clean.predicted[~spared] != dirty.predicted[~spared]).any(), "the poison must have had an effect"


@pytest.fixture
def fitted_rows(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows that each PCA is fitted to."""
    seen: list[np.ndarray] = []

    def spy(blocks: Any, k: int) -> LayerBasis:
        seen.extend(blocks())
        return fit_layer(blocks, k)

    monkeypatch.setattr(pca, "fit_layer", spy)
    return seen


def test_the_pca_of_a_curve_is_fitted_to_the_training_rows_once(fitted_rows: list[np.ndarray]) -> None:
    samples, _ = blobs()
    splits = leave_one_out_splits(samples)
    pca_curve(samples, splits, [2, 3], ClassifierSettings())
    expected = [l2_normalised(samples.X[split.train]) for split in splits]
    np.testing.assert_allclose(fitted_rows, expected, rtol=1e-6)


def test_the_pca_of_an_inner_fold_serves_every_c(fitted_rows: list[np.ndarray]) -> None:
    samples, _ = blobs()
    fit_classifier(samples, ClassifierSettings(pca=3, c=None))
    expected = [l2_normalised(samples.X[fold.train]) for fold in inner_splits(samples)]
    assert len(fitted_rows) == len(expected) + 1
    np.testing.assert_allclose(fitted_rows[:-1], expected, rtol=1e-6)
    np.testing.assert_allclose(fitted_rows[-1], l2_normalised(samples.X), rtol=1e-6)


# --- wrong use ---


def one_split(train: range, test: range) -> list[Split]:
    return [Split("1", np.array(train, dtype=int), np.array(test, dtype=int))]


@pytest.mark.parametrize(("train", "test", "pca", "message"), [
    (range(48), range(48, 60), 13, "PCA to 13 dimensions from 48 training videos of 12 numbers"),
    (range(18, 23), range(5), 6, "from 5 training videos"),
    (range(40), range(40, 60), None, "fold 1: tests a class that no training video is left of: push (of 20"),
    (range(20), range(20), None, "fold 1: training needs videos of at least 2 classes"),
    (range(20), range(0), None, "fold 1: no video to train on or none to test"),
])  # fmt: skip
def test_wrong_use_gets_one_clear_line(train: range, test: range, pca: int | None, message: str) -> None:
    samples, _ = blobs()
    with pytest.raises(UsageError) as caught:
        cross_validate(samples, one_split(train, test), ClassifierSettings(pca=pca))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_no_fold_tests_has_no_recall() -> None:
    samples, _ = blobs()
    split = one_split(range(4, 60), range(4))  # all of hug
    kick = cross_validate(samples, split).per_class[1]
    assert np.isnan(kick[1])
    assert kick[3] == 0


@pytest.mark.parametrize(("missing", "module", "name", "message"), [
    ("sklearn.svm", "classify", "cross_validate", "scikit-learn is not installed; pip install scikit-learn"),
    ("matplotlib.figure", "figures", "check_figure_path",
     "matplotlib is not installed; pip install matplotlib"),
])  # fmt: skip
def test_a_missing_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str, module: str, name: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"c3d_extract.analysis.{module}", raising=False)
    monkeypatch.delitem(vars(analysis), name, raising=False)
    with pytest.raises(C3DError, match=message):
        getattr(analysis, name)


def test_every_public_name_is_there() -> None:
    values: dict[str, Any] = {name: getattr(analysis, name) for name in analysis.__all__}
    assert all(value.__doc__ for name, value in values.items() if not name.isupper())
