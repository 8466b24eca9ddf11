"""The package's own PCA as a scikit-learn transformer: `classify --pca` fits what `c3d-tools pca` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sklearn.base import BaseEstimator, TransformerMixin

from c3d_extract.output.pca_basis import fit_layer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PcaTransformer"]


class PcaTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """PCA of float32 rows; of fewer components where the rows (those of an inner fold) allow no more."""

    def __init__(self, n_components: int) -> None:
        self.n_components = n_components

    def fit(self, X: NDArray[np.float32], y: object = None) -> Self:
        """Fit ``basis_`` to rows (n, D)."""
        del y
        self.basis_ = fit_layer(lambda: [X], min(self.n_components, *X.shape))
        return self

    def transform(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project rows (n, D) to (n, K)."""
        return self.basis_.apply(X)
