"""Places of rows in the plane, and their clusters."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labelled_features import blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from c3d_extract.analysis import choose_method, find_clusters, lay_out, layout, reduce_features
from c3d_extract.errors import C3DError

if TYPE_CHECKING:
    from c3d_extract.analysis.layout import Method


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_rows_of_a_class_lie_together_and_places_are_the_same_each_time(method: Method) -> None:
    samples, _ = blobs(spread=0.2)
    reduced = reduce_features(samples.X)
    assert reduced.shape == (60, 12)
    places = lay_out(reduced, method)
    assert places.shape == (60, 2)
    assert KNeighborsClassifier(5).fit(places, samples.labels).score(places, samples.labels) > 0.9
    np.testing.assert_array_equal(lay_out(reduced, method), places)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_rows_have_places_too(n: int) -> None:
    X = np.eye(5, dtype=np.float32)[:n]
    places = lay_out(reduce_features(X), "tsne")
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    assert len(np.unique(places.round(3), axis=0)) == n
    assert find_clusters(reduce_features(X), 8).max() < n


def test_equal_rows_are_one_cluster() -> None:
    assert find_clusters(reduce_features(np.ones((6, 3), np.float32)), 4).tolist() == [0] * 6


def test_clusters_are_those_of_the_data_and_the_largest_comes_first() -> None:
    samples, _ = blobs(spread=0.2)
    X, labels = samples.X[10:], samples.labels[10:]
    found = find_clusters(reduce_features(X), 3)
    assert adjusted_rand_score(labels, found) > 0.9
    assert np.all(np.diff(np.bincount(found)) <= 0)


def test_the_method_follows_from_the_number_of_rows_and_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_method(layout.MOST_FOR_TSNE) == "tsne"
    for found, expected in ((None, "pca"), (object(), "umap")):
        monkeypatch.setattr("importlib.util.find_spec", lambda _, found=found: found)
        assert choose_method(layout.MOST_FOR_TSNE + 1) == expected


def test_umap_is_asked_for_places_and_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced = reduce_features(blobs()[0].X)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(C3DError, match="umap-learn is not installed; pip install umap-learn"):
        lay_out(reduced, "umap")

    class Umap:
        def __init__(self, **given: Any) -> None:
            assert given == {"n_neighbors": 15, "random_state": 0, "n_jobs": 1}

        def fit_transform(self, X: np.ndarray) -> np.ndarray:
            return X[:, :2] + 1.0

    module = ModuleType("umap")
    monkeypatch.setattr(module, "UMAP", Umap, raising=False)
    monkeypatch.setitem(sys.modules, "umap", module)
    np.testing.assert_allclose(lay_out(reduced, "umap"), reduced[:, :2] + 1)
