"""A fitted linear classifier as arrays, and its file: safetensors, never a pickle. Needs no scikit-learn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.files import replacing
from c3d_extract.output.pca_basis import l2_normalised
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LinearClassifier", "is_classifier", "load_classifier", "save_classifier"]

FORMAT: dict[str, Any] = {"format": "c3d-extract linear classifier", "version": 1}
ARRAYS = ("coef", "intercept", "pca_mean", "pca_components")


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A fitted linear classifier of rows (N, D).

    Attributes
    ----------
    classes
        Names; column i of `scores` belongs to ``classes[i]``.
    coef, intercept
        float64 (n_classes, K) and (n_classes,), or (1, K) and (1,) for two classes. K is D without a PCA.
    c, l2, converged
        The SVM's C, whether rows are L2-normalised first, whether the solver reached its tolerance.
    provenance
        Which features it accepts (`LayerFeatures.provenance`).
    trained_on
        Name and bytes of the videos that it was fitted on.
    pca_mean, pca_components
        float64 (D,) and (K, D): the PCA applied after the norm, or None.
    """

    classes: tuple[str, ...]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    c: float
    l2: bool
    converged: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained_on: tuple[tuple[str, int], ...] = ()
    pca_mean: NDArray[np.float64] | None = None
    pca_components: NDArray[np.float64] | None = None

    def scores(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return signed distances to the hyperplanes, float64 (N, n_classes)."""
        size = (self.coef if self.pca_components is None else self.pca_components).shape[1]
        if X.ndim != 2 or X.shape[1] != size:
            raise UsageError(f"the model takes {size} numbers per video and these have {X.shape[-1]}")
        rows = (l2_normalised(X) if self.l2 else X).astype(np.float64)
        if self.pca_mean is not None and self.pca_components is not None:
            rows = (rows - self.pca_mean) @ self.pca_components.T
        decision = rows @ self.coef.T + self.intercept
        return np.hstack([-decision, decision]) if len(self.coef) == 1 else decision


def save_classifier(classifier: LinearClassifier, path: Path) -> None:
    """Write arrays as safetensors and the rest as JSON in its metadata; the file is replaced atomically."""
    facts = {name: getattr(classifier, name) for name in ("classes", "c", "l2", "converged", "trained_on")}
    metadata = json.dumps({**FORMAT, **facts, "features": dict(classifier.provenance)})
    arrays = {name: getattr(classifier, name) for name in ARRAYS}
    present = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    try:
        with replacing(path) as file:
            file.write(save(present, {"c3d_extract": metadata}))
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", subject=path) from error


def is_classifier(path: Path) -> bool:
    """Return whether a file says that it was written by `save_classifier`."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = (file.metadata() or {}).get("c3d_extract", "")
    except (SafetensorError, OSError):
        return False
    return FORMAT["format"] in metadata


def load_classifier(path: Path) -> LinearClassifier:
    """Read a file of `save_classifier`; raise StoreError for any other file."""
    try:
        if not path.is_file():  # opening a FIFO would block forever
            raise StoreError("cannot be read: not a file", subject=path)
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            facts = parse_json((file.metadata() or {})["c3d_extract"])
        return _assemble(facts, arrays)
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror or error}", subject=path) from error
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"not a classifier saved by `classify --save`: {error!r}", subject=path) from error


def _assemble(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float64]]) -> LinearClassifier:
    """Build a classifier from a file's parts; LookupError, TypeError or ValueError if they do not fit."""
    if {key: facts[key] for key in FORMAT} != FORMAT:
        raise ValueError(f"{facts['format']} version {facts['version']}")
    classes, size = tuple(facts["classes"]), arrays["coef"].shape[1]
    n_planes = 1 if len(classes) == 2 else len(classes)
    shapes = {"coef": (n_planes, size), "intercept": (n_planes,)}
    if len(arrays) > len(shapes):
        n_features = len(arrays["pca_mean"])
        shapes |= {"pca_mean": (n_features,), "pca_components": (size, n_features)}
    numbers = [float(facts["c"]), *(np.abs(array).max() for array in arrays.values())]
    if {name: array.shape for name, array in arrays.items()} != shapes or not np.isfinite(numbers).all():
        raise ValueError("its arrays do not fit together or are not finite")
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError("its class names are not two or more texts")
    return LinearClassifier(
        classes=classes,
        c=float(facts["c"]),
        l2=bool(facts["l2"]),
        converged=bool(facts["converged"]),
        provenance=dict(facts["features"]),
        trained_on=tuple((str(name), int(size)) for name, size in facts.get("trained_on", ())),
        coef=arrays["coef"],
        intercept=arrays["intercept"],
        pca_mean=arrays.get("pca_mean"),
        pca_components=arrays.get("pca_components"),
    )
