"""The classifier of the paper: L2-normalised features, a PCA on request, a multi-class linear SVM.

The SVM is scikit-learn's LinearSVC, one class against the rest, with its defaults and a fixed random
state; a fitted model is four arrays and a few words, and is saved as that (safetensors, no pickle).
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.errors import C3DError, StoreError, UsageError
from c3d_extract.files import replacing
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Basis",
    "LinearModel",
    "fit_basis",
    "fit_linear",
    "l2_normalised",
    "load_model",
    "optional_module",
    "save_model",
]

FORMAT = "c3d-extract linear classifier"
VERSION = 1
MAX_ITERATIONS = 10_000
"""LinearSVC's own limit of 1,000 is not enough for large C on unit vectors."""


def optional_module(name: str, extra: str) -> Any:
    """Import a module of an extra, or say how to install it."""
    library = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        wanted = {"sklearn": "scikit-learn"}.get(library, library)
        raise C3DError(f"{wanted} is not installed", hint=f"pip install 'c3d-extract[{extra}]'") from error


class Basis(NamedTuple):
    """A PCA basis: ``mean`` float64 (D,); ``components`` float64 (K, D), orthonormal, by falling variance."""

    mean: NDArray[np.float64]
    components: NDArray[np.float64]

    def project(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the coordinates (N, K) of rows (N, D)."""
        return (X.astype(np.float64) - self.mean) @ self.components.T

    def first(self, k: int) -> Basis:
        """Return the basis of the first ``k`` components."""
        return Basis(self.mean, self.components[:k])


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A fitted linear classifier.

    Attributes
    ----------
    classes
        Names; column i of `scores` belongs to ``classes[i]``.
    coef
        float64 (n_classes, K), or (1, K) for two classes; K is the PCA's or the layer's dimension.
    intercept
        float64 (n_classes,), or (1,).
    c
        The SVM's C.
    l2
        Whether rows are L2-normalised first.
    basis
        The PCA that follows, or None.
    converged
        Whether the solver reached its tolerance.
    features
        Where the features came from (layer, weights, …), compared before the model is applied.
    """

    classes: tuple[str, ...]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    c: float
    l2: bool
    basis: Basis | None = None
    converged: bool = True
    features: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_features(self) -> int:
        """Dimension D of the rows it takes."""
        return int((self.coef if self.basis is None else self.basis.components).shape[1])

    def scores(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return signed distances to the hyperplanes, float64 (N, n_classes), of rows (N, D)."""
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise UsageError(
                f"the model takes {self.n_features} numbers a video and these have {X.shape[-1]}"
            )
        rows = l2_normalised(X) if self.l2 else X.astype(np.float64)
        decision = (rows if self.basis is None else self.basis.project(rows)) @ self.coef.T + self.intercept
        return np.hstack([-decision, decision]) if len(self.coef) == 1 else decision

    def predict(self, X: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the index into the model's ``classes`` of each row, (N,)."""
        best: NDArray[np.intp] = self.scores(X).argmax(axis=1)
        return best


def l2_normalised(X: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rows (N, D) scaled to unit L2 norm, in float64; a row of zeros stays as it is."""
    rows = X.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def fit_basis(rows: NDArray[np.floating], k: int) -> Basis:
    """Fit a PCA of ``k`` dimensions on rows (N, D), by an exact decomposition.

    Raises UsageError if ``k`` is larger than the rows allow.
    """
    most = min(rows.shape)
    if k > most:
        raise UsageError(
            f"PCA to {k} dimensions from {rows.shape[0]} training videos of {rows.shape[1]} numbers each",
            hint=f"at most {most} are possible",
        )
    pca = (
        optional_module("sklearn.decomposition", "classify").PCA(n_components=k, svd_solver="full").fit(rows)
    )
    return Basis(pca.mean_.astype(np.float64), pca.components_.astype(np.float64))


def fit_linear(
    rows: NDArray[np.floating],
    y: NDArray[np.intp],
    classes: Sequence[str],
    *,
    c: float = 1.0,
    l2: bool = True,
    basis: Basis | None = None,
) -> LinearModel:
    """Fit the SVM.

    Parameters
    ----------
    rows
        Floating (N, D): already L2-normalised if ``l2``, not yet projected.
    y
        Index into ``classes`` of each row, (N,); at least two classes must occur.
    classes
        Class names; the model knows those that occur.
    c
        Inverse strength of the regularisation.
    l2
        Recorded in the model, which normalises what it is applied to.
    basis
        Projects the rows before the SVM sees them.
    """
    svm = optional_module("sklearn.svm", "classify")
    unfinished = optional_module("sklearn.exceptions", "classify").ConvergenceWarning
    present, codes = np.unique(y, return_inverse=True)
    machine = svm.LinearSVC(C=c, dual="auto", max_iter=MAX_ITERATIONS, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", unfinished)
        machine.fit(rows if basis is None else basis.project(rows), codes)
    return LinearModel(
        classes=tuple(classes[i] for i in present),
        coef=machine.coef_.astype(np.float64),
        intercept=np.atleast_1d(machine.intercept_).astype(np.float64),
        c=c,
        l2=l2,
        basis=basis,
        converged=not any(issubclass(w.category, unfinished) for w in caught),
    )


def save_model(model: LinearModel, path: Path) -> None:
    """Write a model as safetensors, the rest as JSON in its metadata; put in place in one step."""
    from safetensors.numpy import save

    arrays = {"coef": model.coef, "intercept": model.intercept}
    if model.basis is not None:
        arrays |= {"pca_mean": model.basis.mean, "pca_components": model.basis.components}
    described = {
        "format": FORMAT,
        "version": VERSION,
        "classes": model.classes,
        "c": model.c,
        "l2": model.l2,
        "converged": model.converged,
        "features": dict(model.features),
    }
    content = save(
        {k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"c3d_extract": json.dumps(described)}
    )
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", subject=path) from error


def load_model(path: Path) -> LinearModel:
    """Read what `save_model` wrote; StoreError says what is wrong with a file that is not that."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():  # a FIFO would keep us for ever
            raise StoreError("cannot be read: not a file", subject=path)
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            described = parse_json((file.metadata() or {})["c3d_extract"])
        return _assemble(described, arrays)
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror or error}", subject=path) from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"not a classifier saved by `classify --save`: {error!r}", subject=path) from error


def _assemble(described: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> LinearModel:
    """Build a model from a file's parts; KeyError, TypeError or ValueError if they do not fit together."""
    if described["format"] != FORMAT or described["version"] != VERSION:
        raise ValueError(f"{described['format']} version {described['version']}")
    basis = Basis(arrays["pca_mean"], arrays["pca_components"]) if "pca_mean" in arrays else None
    coef, intercept, classes = arrays["coef"], arrays["intercept"], tuple(described["classes"])
    n_planes = 1 if len(classes) == 2 else len(classes)
    fits = coef.ndim == 2 and coef.shape[0] == n_planes and intercept.shape == (n_planes,)
    if basis is not None:
        fits &= basis.components.shape == (coef.shape[1], len(basis.mean))
    fits &= len(classes) > 1 and all(isinstance(name, str) for name in classes)
    if not fits or not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("its arrays do not fit together")
    if not np.isfinite(float(described["c"])):
        raise ValueError("its C is no number")
    return LinearModel(
        classes=classes,
        coef=coef,
        intercept=intercept,
        c=float(described["c"]),
        l2=bool(described["l2"]),
        basis=basis,
        converged=bool(described["converged"]),
        features=dict(described["features"]),
    )
