"""The package's own PCA as a scikit-learn transformer: `classify --pca` fits what `c3d-tools pca` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_memory

from c3d_extract.output.pca_basis import LayerBasis, fit_layer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BasisCache", "PcaTransformer"]


class BasisCache(NamedTuple):
    """A ``folder`` for fitted bases of ``n_components``, shared by classifiers of fewer dimensions."""

    folder: str
    n_components: int


class PcaTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """PCA of float32 rows, with fewer components if there are too few rows (in an inner fold)."""

    def __init__(self, n_components: int, cache: BasisCache) -> None:
        self.n_components = n_components
        self.cache = cache

    def fit(self, X: NDArray[np.float32], y: object = None) -> Self:
        """Fit ``basis_`` to rows (n, D), or take it from the cache."""
        del y
        fit_cached = check_memory(self.cache.folder).cache(fit_basis)
        self.basis_: LayerBasis = fit_cached(X, min(self.cache.n_components, *X.shape))
        return self

    def transform(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project rows (n, D) to (n, K)."""
        # Components are in order of variance: the first K of a larger basis are the basis of K.
        return self.basis_.apply(X)[:, : self.n_components]


def fit_basis(X: NDArray[np.float32], n_components: int) -> LayerBasis:
    """Fit a basis to rows (n, D)."""
    return fit_layer(lambda: [X], n_components)
