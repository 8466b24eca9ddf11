"""Labelled features for the tests of `analysis`: small Gaussian blobs, a class each, and files of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from c3d_extract.analysis import Samples
from c3d_extract.analysis.labels import folder_labels, pattern_values
from c3d_extract.output import VIDEO_COLUMNS, TableRow, write_table

if TYPE_CHECKING:
    from pathlib import Path

    from sklearn.pipeline import Pipeline

N_GROUPS, PER_GROUP, SIZE = 5, 4, 12
CLASSES = ("hug", "kick", "push")


def blobs(
    spread: float = 1.2, classes: tuple[str, ...] = CLASSES, seed: int = 0
) -> tuple[Samples, list[str]]:
    """Return blobs, a class each, with a shift per group, and names ``class/v_gNN_cMM.avi``."""
    rng = np.random.default_rng(seed)
    centres, shifts = rng.normal(size=(len(classes), SIZE)), rng.normal(size=(N_GROUPS, SIZE)) / 3
    rows = [(c, g, i) for c in range(len(classes)) for g in range(N_GROUPS) for i in range(PER_GROUP)]
    X = np.array(
        [centres[c] + shifts[g] + spread * rng.normal(size=SIZE) for c, g, _ in rows], dtype=np.float32
    )
    names = [f"{classes[c]}/v_g{g + 1:02}_c{i:02}.avi" for c, g, i in rows]
    return Samples(np.abs(X), folder_labels(names), pattern_values(names, r"_(g\d+)_")), names


def sklearn_pipeline(c: float = 1.0, k: int | None = None) -> Pipeline:
    """Return the classifier as a user of scikit-learn would write it, with scikit-learn's own PCA."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer
    from sklearn.svm import LinearSVC

    pca = [PCA(k, svd_solver="full")] if k else []
    svm = LinearSVC(C=c, dual="auto", random_state=0, max_iter=10_000)
    return make_pipeline(Normalizer(), *pca, svm)


def feature_file(
    path: Path,
    layers: dict[str, np.ndarray],
    names: list[str],
    sha: str = "aa",
    weights: dict[str, Any] | None = None,
) -> Path:
    """Write a feature file of these layers; ``sha`` is that of the weights, if no more is said of them."""
    rows = [
        TableRow(names[i], (1,) * len(VIDEO_COLUMNS), [X[i].astype(np.float32) for X in layers.values()])
        for i in np.argsort(names)
    ]
    described = weights or {"weights": "w", "weights_sha256": sha}
    attributes = {"complete": True, "settings": {}, "versions": {}, "weights": described}
    sizes = {layer: X.shape[1] for layer, X in layers.items()}
    write_table(path, kind="features", layers=sizes, rows=rows, attributes=attributes)
    return path


def write_ucf101_lists(folder: Path, names: list[str]) -> None:
    """Write lists like the official ones: split N tests group N and trains on the others."""
    classes = sorted(set(folder_labels(names)))
    (folder / "classInd.txt").write_text(
        "".join(f"{i} {name}\r\n" for i, name in enumerate(classes, start=1))
    )
    for n in (1, 2, 3):
        test = [name for name in names if f"_g{n:02}_" in name]
        train = [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in names if name not in test]
        (folder / f"testlist0{n}.txt").write_text("\n".join(test) + "\n")
        (folder / f"trainlist0{n}.txt").write_text("\n".join(train) + "\n")
