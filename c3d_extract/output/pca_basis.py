"""PCA of descriptors: exact, and bitwise reproducible for the same rows; and L2 normalisation.

For n ≤ D rows the basis comes from the SVD of the centred matrix, for more from the eigenvectors of the
covariance, which is summed over blocks so that memory does not grow with n. Everything is float64.
The sign of a component is chosen so that its entry of largest magnitude is positive.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from c3d_extract.errors import PcaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    Blocks: TypeAlias = Callable[[], Iterable[NDArray[np.float32]]]

__all__ = ["LayerBasis", "PcaBasis", "check_n_components", "fit", "fit_layer", "l2_normalised"]

BLOCK_ROWS = 1024  # rows summed at once; fixed, so that the same rows give the same bits
COMPONENTS_AT_ONCE = 32  # 32 x 4096 float64 are 1 MiB: they stay in a core's cache for all rows


@dataclass(frozen=True)
class LayerBasis:
    """The basis of one layer."""

    mean: NDArray[np.float64]
    """float64 (D)."""
    components: NDArray[np.float64]
    """float64 (K, D), orthonormal rows, in order of decreasing variance."""
    explained_variance: NDArray[np.float64]
    """float64 (K), with n - 1 in the denominator."""
    total_variance: float
    """Of all D dimensions."""
    n_samples: int

    def apply(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project rows float32 (n, D) to float32 (n, K); a row's result depends on no other row.

        Raises `PcaError` where rows have another size, or the result is not finite.
        """
        if X.ndim != 2 or X.shape[1] != len(self.mean):
            raise PcaError(f"the basis takes rows of {len(self.mean)} values, not {X.shape}")
        rows = (X.astype(np.float64) - self.mean)[:, :, None]
        # One matrix-vector product per row: in a matrix product, BLAS chooses the order of summation by the
        # number of rows, so a row's last bits would depend on the other rows.
        steps = range(0, len(self.components), COMPONENTS_AT_ONCE)
        parts = [self.components[k : k + COMPONENTS_AT_ONCE] @ rows for k in steps]
        with np.errstate(over="ignore"):
            projected = np.concatenate(parts, axis=1)[:, :, 0].astype(np.float32)
        if not np.isfinite(projected).all():
            raise PcaError("rows that are not finite cannot be projected")
        return projected


@dataclass(frozen=True, repr=False)
class PcaBasis:
    """One basis per layer, and what they were fitted on."""

    layers: Mapping[str, LayerBasis]
    name: str = ""
    """Name of its file, for messages and records."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """``settings`` and ``weights`` of the features it was fitted on, as far as known."""

    def __repr__(self) -> str:
        sizes = (f"{layer} {len(b.mean)} → {len(b.components)}" for layer, b in self.layers.items())
        return f"<PcaBasis {self.name}: {', '.join(sizes)}>"

    @property
    def n_components(self) -> int:
        """K, the same for every layer."""
        return min(len(basis.components) for basis in self.layers.values())

    @property
    def sha256(self) -> str:
        """Hex digest of the arrays (not of a file, whose bytes depend on the HDF5 library)."""
        digest = hashlib.sha256()
        for layer, basis in sorted(self.layers.items()):
            digest.update(f"{layer} {basis.components.shape} {basis.n_samples}\n".encode())
            for array in (basis.mean, basis.components, basis.explained_variance):
                digest.update(np.ascontiguousarray(array, "<f8").tobytes())
        return digest.hexdigest()

    def check_takes(self, layer_sizes: Mapping[str, int]) -> None:
        """Raise `PcaError` unless every layer of ``layer_sizes`` (layer → D) can be projected."""
        for layer, size in layer_sizes.items():
            if layer not in self.layers:
                known = ", ".join(sorted(self.layers))
                raise PcaError(f"no basis for layer {layer}, only for {known}", subject=self.name or None)
            expected = len(self.layers[layer].mean)
            if expected != size:
                raise PcaError(
                    f"the basis for {layer} takes {expected} values, the features have {size}",
                    subject=self.name or None,
                )


def fit(
    blocks: Mapping[str, Blocks],
    k: int,
    *,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> PcaBasis:
    """Fit a basis of ``k`` components for every layer of ``blocks``; see `fit_layer`."""
    layers = {layer: fit_layer(factory, k, layer=layer) for layer, factory in blocks.items()}
    return PcaBasis(layers=layers, name=name, provenance=provenance or {})


def fit_layer(blocks: Blocks, k: int, *, layer: str = "features") -> LayerBasis:
    """Fit ``k`` components to the rows that ``blocks()`` yields, in blocks of float32 (n_i, D).

    ``blocks`` is called two or three times and must yield the same rows each time; block sizes
    do not affect the result. Raises `PcaError` where 1 ≤ k ≤ min(n, D) does not hold.
    """
    n, mean = _count_and_mean(blocks)
    if not 1 <= k <= min(n, len(mean)):
        raise PcaError(
            f"cannot take {k} components from {n} rows of {len(mean)} dimensions",
            subject=layer,
            hint=f"ask for at most {min(n, len(mean))}" if n else None,
        )
    if not np.isfinite(mean).all():
        raise PcaError("some features are not finite", subject=layer, hint="find the video and exclude it")
    try:
        variances, axes, total = (_by_svd if n <= len(mean) else _by_covariance)(blocks, n, mean)
    except np.linalg.LinAlgError as error:
        raise PcaError(f"the decomposition failed ({error})", subject=layer) from error
    except MemoryError as error:
        size = min(n, len(mean)) * len(mean) * 8 / 2**30
        raise PcaError(
            f"not enough memory to fit {n} x {len(mean)} ({size:.1f} GiB)", subject=layer
        ) from error
    components = axes[:k] * _signs(axes[:k])[:, None]
    return LayerBasis(mean, np.ascontiguousarray(components), variances[:k].copy(), total, n)


def check_n_components(
    k: int | None, layer_sizes: Mapping[str, int], *, n_videos: int | None = None, extends: bool = False
) -> None:
    """Raise `PcaError` where ``--pca k`` cannot succeed, before any work.

    Parameters
    ----------
    k
        The number of components, or None for no PCA.
    layer_sizes
        Layer → dimensions D before PCA; 1 ≤ k ≤ D must hold.
    n_videos
        The number of videos to fit on, where it is known.
    extends
        Whether the output exists, so that its basis is used instead of a new one.
    """
    if k is None:
        return
    for layer, size in layer_sizes.items():
        if not 1 <= k <= size:
            raise PcaError(
                f"{layer} has only {size} dimensions", subject=f"--pca {k}", hint=f"ask for 1 to {size}"
            )
    if n_videos is not None and n_videos < k and not extends:
        raise PcaError(
            f"needs at least {k} videos, and there are {n_videos}",
            subject=f"--pca {k}",
            hint="choose fewer dimensions, or use a basis fitted elsewhere with --pca-from",
        )


def l2_normalised(X: NDArray[np.floating]) -> NDArray[np.float64]:
    """Divide each row of (n, D) by its Euclidean norm, in float64; a row of zeros stays zero."""
    norms = np.sqrt(np.square(X, dtype=np.float64).sum(axis=1, keepdims=True))
    unit: NDArray[np.float64] = np.divide(X, norms, out=np.zeros(X.shape), where=norms > 0)
    return unit


def _count_and_mean(blocks: Blocks) -> tuple[int, NDArray[np.float64]]:
    n, total = 0, np.zeros(0)
    for block in _even_blocks(blocks()):
        total = block.sum(axis=0) + (total if n else 0.0)
        n += len(block)
    return n, total / max(n, 1)


Spectrum: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64], float]"


def _by_svd(blocks: Blocks, n: int, mean: NDArray[np.float64]) -> Spectrum:
    matrix = np.concatenate(list(_even_blocks(blocks()))) - mean
    _, singular, axes = np.linalg.svd(matrix, full_matrices=False)
    variances = singular**2 / max(n - 1, 1)
    return variances, axes, float(variances.sum())


def _by_covariance(blocks: Blocks, n: int, mean: NDArray[np.float64]) -> Spectrum:
    scatter = np.zeros((len(mean), len(mean)))
    for block in _even_blocks(blocks()):
        centred = block - mean
        scatter += centred.T @ centred
    variances, axes = np.linalg.eigh(scatter / (n - 1))  # ascending
    return np.maximum(variances[::-1], 0.0), axes.T[::-1], float(np.trace(scatter) / (n - 1))


def _even_blocks(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float64]]:
    """Regroup the rows into blocks of 1,024, so that sums do not depend on the input blocks."""
    pending: list[NDArray[np.float32]] = []
    n_pending = 0
    for block in blocks:
        rest = block
        while n_pending + len(rest) >= BLOCK_ROWS:
            cut = BLOCK_ROWS - n_pending
            yield np.concatenate([*pending, rest[:cut]]).astype(np.float64)
            pending, n_pending, rest = [], 0, rest[cut:]
        pending.append(rest)
        n_pending += len(rest)
    if n_pending:
        yield np.concatenate(pending).astype(np.float64)


def _signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(axes).argmax(axis=1)
    return np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)
