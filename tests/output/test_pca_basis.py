"""PCA: scikit-learn's numbers, the same bits every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from store_samples import pca_features as features
from store_samples import sample_basis

from c3d_extract.errors import PcaError
from c3d_extract.output import pca_basis
from c3d_extract.output.pca_basis import LayerBasis, PcaBasis, fit_layer, l2_normalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [(10, 40, 10), (30, 40, 7), (40, 40, 39), (41, 40, 40), (1500, 24, 24), (2500, 16, 3)],
)
def test_projection_is_that_of_scikit_learn_up_to_sign(n: int, d: int, k: int) -> None:
    X = features(n, d)
    basis = fit_layer(lambda: [X], k)
    judge = PCA(k, svd_solver="full").fit(X.astype(np.float64))
    theirs = judge.transform(X.astype(np.float64))
    signs = np.sign((basis.components * judge.components_).sum(axis=1))
    # Both are exact; what is left is rounding to float32 and, for components without variance, noise.
    np.testing.assert_allclose(basis.apply(X) * signs, theirs, atol=1e-4)
    np.testing.assert_allclose(basis.explained_variance, judge.explained_variance_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(basis.mean, X.astype(np.float64).mean(axis=0), rtol=1e-12)
    assert basis.n_samples == n
    assert basis.total_variance == pytest.approx(X.var(axis=0, ddof=1, dtype=np.float64).sum())


def test_covariance_and_svd_agree_where_both_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    X = features(60, 30)
    streamed = fit_layer(lambda: [X], 10)
    monkeypatch.setattr(pca_basis, "_by_covariance", pca_basis._by_svd)
    by_svd = fit_layer(lambda: [X], 10)
    np.testing.assert_allclose(streamed.components, by_svd.components, atol=1e-10)


@pytest.mark.parametrize("n", [20, 3000])
def test_how_rows_are_cut_into_blocks_does_not_change_a_bit(n: int) -> None:
    X = features(n, 32)
    whole = PcaBasis({"fc6": fit_layer(lambda: [X], 8)})
    pieces = PcaBasis({"fc6": fit_layer(lambda: np.array_split(X, 13), 8)})
    assert whole.sha256 == pieces.sha256


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 60), length=st.integers(1, 30))
def test_a_row_is_projected_to_the_same_bits_whatever_stands_beside_it(start: int, length: int) -> None:
    X = features(90, 64)
    basis = fit_layer(lambda: [X], 40)
    np.testing.assert_array_equal(
        basis.apply(X[start : start + length]), basis.apply(X)[start : start + length]
    )


def test_entry_of_largest_magnitude_is_positive() -> None:
    components = fit_layer(lambda: [features(50, 20)], 20).components
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(20), largest] > 0).all()


def test_memory_does_not_grow_with_the_rows() -> None:
    import tracemalloc

    block = features(512, 16)
    peaks = []
    for n_blocks in (8, 64):
        tracemalloc.start()
        fit_layer(lambda n=n_blocks: (block for _ in range(n)), 4)  # type: ignore[misc]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 1.1 * peaks[0]


@pytest.mark.parametrize(("n", "k"), [(5, 6), (20, 9), (20, 0), (0, 1)])
def test_more_components_than_rows_or_dimensions_are_refused_with_the_numbers(n: int, k: int) -> None:
    with pytest.raises(PcaError, match=f"fc6: cannot take {k} components from {n} rows"):
        fit_layer(lambda: [features(n, 8)], k, layer="fc6")


@pytest.mark.parametrize("n", [6, 30])
def test_rows_that_are_not_numbers_are_an_error_not_a_basis(n: int) -> None:
    X = features(n, 8)
    X[2, 3] = np.nan
    with pytest.raises(PcaError, match="finite"):
        fit_layer(lambda: [X], 2)


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(PcaError, match="takes rows of 8 values"):
        fit_layer(lambda: [features(9, 8)], 2).apply(features(3, 7))


def test_l2_gives_unit_rows_and_leaves_zeros() -> None:
    X = features(4, 8)
    X[1] = 0
    unit = l2_normalised(X)
    assert unit.dtype == np.float64
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 0, 1, 1], rtol=1e-6)
    tiny = np.full((1, 4), 1e-30, np.float32)  # its squares are below float32
    np.testing.assert_allclose(l2_normalised(tiny), 0.5, rtol=1e-6)


def test_the_sum_tells_bases_apart() -> None:
    basis = sample_basis()
    other = dict(basis.layers)
    fc6 = other["fc6"]
    components = fc6.components.copy()
    components[0, 0] = np.nextafter(components[0, 0], 1)
    other["fc6"] = LayerBasis(fc6.mean, components, fc6.explained_variance, fc6.total_variance, fc6.n_samples)
    assert PcaBasis(other).sha256 != basis.sha256
    assert sample_basis().sha256 == basis.sha256


def test_layers_a_basis_lacks_are_named() -> None:
    with pytest.raises(PcaError, match="no basis for layer fc8, only for fc6, fc7"):
        sample_basis().check_takes({"fc8": 4})
    with pytest.raises(PcaError, match="fc6 takes 12 values, the features have 13"):
        sample_basis().check_takes({"fc6": 13})
