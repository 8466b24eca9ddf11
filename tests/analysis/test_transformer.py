"""`VideoFeatures`: a transformer of scikit-learn from paths to rows."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import LENGTHS

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import LinearSVC

from c3d_extract import Extractor, VideoFeatures
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from pathlib import Path


def made(**options: object) -> VideoFeatures:
    given = {"layer": "fc7", "stride": 32, "device": "cpu", "precision": "fp32"} | options
    return VideoFeatures("motion-mini", **given)  # type: ignore[arg-type]


def test_rows_are_the_descriptors_of_the_videos_in_the_order_of_the_paths(videos: Path) -> None:
    paths = [videos / name for name in ("long.mp4", "a/one.mp4", "b/short.mp4")]
    found = made().transform(paths)
    with Extractor.from_weights(
        "motion-mini", layers="fc7", stride=32, device="cpu", precision="fp32"
    ) as extractor:
        expected = [extractor.extract(path).mean() for path in paths]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert made().transform([]).shape == (0, found.shape[1])


def test_it_is_a_step_of_a_pipeline_that_is_cloned_and_sent(videos: Path, tmp_path: Path) -> None:
    paths = np.array([str(videos / name) for name in LENGTHS])
    labels = ["even" if n % 2 == 0 else "odd" for n in LENGTHS.values()]
    model = make_pipeline(made(), Normalizer(), LinearSVC(C=100), memory=str(tmp_path))
    again = clone(model)
    assert again.get_params()["videofeatures__layer"] == "fc7"
    assert again.set_params(videofeatures__layer="fc6").named_steps["videofeatures"].layer == "fc6"
    predicted = model.fit(paths, labels).predict(paths)
    assert set(predicted) <= {"even", "odd"}
    sent = pickle.loads(pickle.dumps(model))  # noqa: S301 - written here
    np.testing.assert_array_equal(sent.predict(paths), predicted)


def test_a_video_that_cannot_be_read_is_raised(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"bad\.mp4: not a readable video"):
        made().transform([tmp_path / "bad.mp4"])
