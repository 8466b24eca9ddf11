"""Exact neighbours and near-duplicates, against scikit-learn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from c3d_extract.analysis import find_duplicates, nearest, search
from c3d_extract.errors import UsageError

RNG = np.random.default_rng(0)


@pytest.fixture(params=[2**24, 100])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All similarities at a time, and less than two rows of them."""
    monkeypatch.setattr(search, "VALUES_AT_ONCE", request.param)
    return int(request.param)


@pytest.mark.usefixtures("blocks")
def test_neighbours_are_scikit_learns() -> None:
    X = np.maximum(RNG.normal(size=(70, 12)), 0).astype(np.float32)  # features after a ReLU
    queries = RNG.normal(size=(9, 12)).astype(np.float32)
    exact = NearestNeighbors(metric="cosine", algorithm="brute").fit(X)
    for asked in (None, queries):
        distances, expected = exact.kneighbors(asked, n_neighbors=8)
        rows, similarities = nearest(X, asked, k=8)
        assert_array_equal(rows, expected)
        assert_allclose(similarities, 1 - distances, atol=1e-6)


@pytest.mark.usefixtures("blocks")
def test_equally_similar_rows_are_in_order_and_rows_of_zeros_are_like_nothing() -> None:
    X = np.zeros((60, 4), np.float32)
    X[10:50, 0] = np.arange(1, 41)  # forty rows of one direction
    X[50:, 1] = 1
    rows, similarities = nearest(X, X[[20]], k=45)
    assert_array_equal(rows[0, :40], np.arange(10, 50))
    assert_allclose(similarities[0], [1] * 40 + [0] * 5)
    assert_array_equal(nearest(X, X[[20]], k=3)[0], [[10, 11, 12]])
    _, of_zeros = nearest(X, X[[0]], k=60)
    distances, _ = NearestNeighbors(metric="cosine", algorithm="brute").fit(X).kneighbors(X[[0]], 60)
    assert_array_equal(of_zeros[0], 1 - distances[0])
    assert_array_equal(of_zeros, np.zeros((1, 60)))


def test_a_row_is_not_its_own_neighbour_even_where_others_equal_it() -> None:
    X = np.ones((5, 3), np.float32)
    rows, _ = nearest(X, k=9)
    assert rows.shape == (5, 4)
    assert_array_equal(rows[2], [0, 1, 3, 4])
    assert nearest(X[:1], k=8)[0].shape == (1, 0)


def test_lengths_of_large_and_small_features_neither_overflow_nor_vanish() -> None:
    X = np.array([[3e30, 4e30], [3e-30, 4e-30], [4, -3]], np.float32)
    assert_allclose(nearest(X, k=2)[1][0], [1, 0], atol=1e-6)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("threshold", [0.9, 0.5, 1])
def test_duplicates_are_all_pairs_that_are_so_similar(threshold: float) -> None:
    X = np.maximum(RNG.normal(size=(60, 4)), 0).astype(np.float32)
    X[40] = 7 * X[3]
    X[41] = X[3]
    expected = np.triu(cosine_similarity(X.astype(np.float64)), k=1)
    pairs = find_duplicates(X, threshold)
    assert {pair[:2] for pair in pairs} == set(zip(*np.nonzero(expected >= threshold - 1e-7), strict=True))
    assert {(3, 40), (3, 41), (40, 41)} <= {pair[:2] for pair in pairs}
    assert_allclose([pair.similarity for pair in pairs], [expected[pair[:2]] for pair in pairs], atol=1e-6)
    assert all(a.similarity >= b.similarity for a, b in pairwise(pairs))


def test_more_pairs_than_anyone_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_DUPLICATES", 10)
    with pytest.raises(UsageError, match="more than 10 pairs"):
        find_duplicates(np.ones((6, 2), np.float32), 0.5)


def test_every_query_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "VALUES_AT_ONCE", 50)
    counts: list[int] = []
    nearest(np.eye(20, dtype=np.float32), k=1, on_block=counts.append)
    assert len(counts) == 10
    assert sum(counts) == 20
