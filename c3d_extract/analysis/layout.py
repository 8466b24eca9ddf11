"""Features in two dimensions, for a map, and in clusters, for its colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from c3d_extract.errors import C3DError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["METHODS", "Method", "choose_method", "find_clusters", "lay_out", "reduce_features"]

Method: TypeAlias = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)
MOST_FOR_TSNE = 20_000
"""Rows up to which t-SNE is the default: scikit-learn's takes minutes for so many, an hour for 100,000."""
_N_COMPONENTS = 50  # as van der Maaten and Hinton (2008) reduce to first
_SEED = 0


def choose_method(n_rows: int) -> Method:
    """Return t-SNE where it takes minutes, else UMAP where it is installed, else PCA."""
    if n_rows <= MOST_FOR_TSNE:
        return "tsne"
    from importlib.util import find_spec

    return "umap" if find_spec("umap") else "pca"


def reduce_features(X: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of length 1 projected on their first principal components, float32 (N, at most 50)."""
    if len(X) == 1:
        return np.zeros((1, 1), np.float32)
    units = normalize(X)
    pca = PCA(min(_N_COMPONENTS, *units.shape), random_state=_SEED)
    reduced: NDArray[np.float32] = pca.fit_transform(units).astype(np.float32)
    return reduced


def lay_out(reduced: NDArray[np.float32], method: Method) -> NDArray[np.float32]:
    """Return a place for each row of `reduce_features`, float32 (N, 2); the same for the same rows.

    Raises
    ------
    C3DError
        Where umap-learn is wanted and not installed.
    """
    plane = np.zeros((len(reduced), 2), np.float32)
    plane[:, : reduced.shape[1]] = reduced[:, :2]
    if method == "pca" or len(reduced) < 4:  # fewer rows than that have no neighbourhoods to keep
        return plane
    if method == "tsne":
        perplexity = min(30.0, (len(reduced) - 1) / 3)
        found = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(reduced)
    else:
        found = _umap(reduced)
    return np.asarray(found, np.float32)


def _umap(reduced: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        from umap import UMAP
    except ImportError as error:
        raise C3DError("umap-learn is not installed", hint="pip install umap-learn") from error
    # It would warn that a seed leaves one process, where it is not told so.
    umap = UMAP(n_neighbors=min(15, len(reduced) - 1), random_state=_SEED, n_jobs=1)
    places: NDArray[np.float32] = umap.fit_transform(reduced)
    return places


def find_clusters(reduced: NDArray[np.float32], n_clusters: int) -> NDArray[np.intp]:
    """Return the cluster of each row by k-means, intp (N), numbered from the largest; at most one a row."""
    # Rounded, since equal rows are not quite equal after a projection; + 0 makes zeros of -0.
    n_clusters = min(n_clusters, len(np.unique(reduced.round(4) + 0, axis=0)))
    found = KMeans(n_clusters, n_init=4, random_state=_SEED).fit_predict(reduced)
    sizes = np.bincount(found, minlength=n_clusters)
    ranks = np.empty(n_clusters, np.intp)
    ranks[np.argsort(-sizes, kind="stable")] = np.arange(n_clusters)
    numbers: NDArray[np.intp] = ranks[found]
    return numbers
