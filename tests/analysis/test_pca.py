"""The PCA of the classifier: the package's own basis, never of more components than the rows allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from labelled_features import blobs
from sklearn.base import clone
from sklearn.decomposition import PCA

from c3d_extract.analysis.pca import BasisCache, PcaTransformer
from c3d_extract.output.pca_basis import fit_layer

if TYPE_CHECKING:
    from pathlib import Path


def transformer(folder: Path, k: int, n_fitted: int) -> PcaTransformer:
    return PcaTransformer(k, BasisCache(str(folder), n_fitted))


@pytest.mark.parametrize("n", [8, 60], ids=["fewer rows than columns", "more"])
def test_it_spans_what_scikit_learns_pca_spans(tmp_path: Path, n: int) -> None:
    X = blobs()[0].X[:n]
    found = transformer(tmp_path, 3, 5).fit_transform(X)
    expected = PCA(3, svd_solver="full").fit_transform(X.astype(np.float64))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)  # float32; signs are free


def test_it_is_the_basis_of_the_pca_command(tmp_path: Path) -> None:
    X = blobs()[0].X
    basis = fit_layer(lambda: [X], 3)
    assert (transformer(tmp_path, 3, 3).fit_transform(X) == basis.apply(X)).all()


def test_an_inner_fold_too_small_for_it_gets_fewer_components(tmp_path: Path) -> None:
    model = clone(transformer(tmp_path, 10, 10))
    assert model.n_components == 10
    assert model.fit_transform(blobs()[0].X[:4]).shape == (4, 4)
