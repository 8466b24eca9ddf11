"""A saved classifier: predicts what it did, is no pickle, and a damaged file is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from labelled_features import CLASSES, blobs
from safetensors.numpy import load, save

from c3d_extract.analysis import ClassifierSettings, fit_classifier, load_classifier, save_classifier
from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
@pytest.mark.parametrize("k", [None, 4])
def test_a_saved_classifier_predicts_what_it_did(
    tmp_path: Path, classes: tuple[str, ...], k: int | None
) -> None:
    samples, _ = blobs(classes=classes)
    classifier = fit_classifier(samples, ClassifierSettings(pca=k, c=3.0), provenance={"layer": "fc6"})
    path = tmp_path / "m.safetensors"
    save_classifier(classifier, path)
    again = load_classifier(path)
    assert (again.scores(samples.X) == classifier.scores(samples.X)).all()
    assert (again.classes, again.c, again.l2) == (classifier.classes, 3.0, True)
    assert again.provenance == {"layer": "fc6"}
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    assert set(load(path.read_bytes())) == {"coef", "intercept"} | (
        {"pca_mean", "pca_components"} if k else set()
    )
    assert b"pickle" not in path.read_bytes()


def damaged(whole: bytes) -> dict[str, bytes]:
    fewer_names = whole.replace(b'\\"hug\\", ', b" " * 9)  # two names left for three hyperplanes
    assert fewer_names != whole
    arrays, other = load(whole), {"c3d_extract": "{}"}
    header = whole[8 : 8 + int.from_bytes(whole[:8], "little")].decode()
    metadata = json.loads(header)["__metadata__"]

    def with_arrays(**changed: Any) -> bytes:
        return save({k: v for k, v in {**arrays, **changed}.items() if v is not None}, metadata)

    return {
        "cut": whole[:-8],
        "pickle": b"\x80\x04garbage",
        "empty": b"",
        "other metadata": save({"coef": np.zeros((3, 2))}, other),
        "fewer names": fewer_names,
        "other format": whole.replace(b"classifier", b"classifies"),
        "one dimension": with_arrays(coef=np.zeros(3)),
        "half a PCA": with_arrays(pca_mean=None),
        "another PCA": with_arrays(pca_mean=np.zeros(5)),
        "not finite": with_arrays(intercept=np.full(3, np.inf)),
        "no rows": with_arrays(coef=np.zeros((3, 0)), pca_components=np.zeros((0, 12))),
        "more": with_arrays(more=np.zeros(1)),
    }


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    samples, _ = blobs()
    path = tmp_path / "m.safetensors"
    save_classifier(fit_classifier(samples, ClassifierSettings(pca=4)), path)
    for what, content in damaged(path.read_bytes()).items():
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"m\.safetensors: not a classifier"):
            pytest.fail(f"read: {what}, {load_classifier(path)}")
    with pytest.raises(StoreError, match=r"cannot be read"):
        load_classifier(tmp_path / "none.safetensors")


def test_a_classifier_takes_rows_of_its_own_size_only() -> None:
    samples, _ = blobs()
    with pytest.raises(UsageError, match="takes 12 numbers per video and these have 7"):
        fit_classifier(samples).scores(samples.X[:, :7])
