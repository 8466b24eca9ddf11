"""Experiments: which rows train and which test, by the options given."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from labelled_features import blobs, feature_file, write_ucf101_lists

from c3d_extract.analysis import ExperimentOptions, prepare_experiment, read_layer
from c3d_extract.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    samples, names = blobs()
    return feature_file(tmp_path / "feats.h5", {"fc6": samples.X}, names)


def test_without_options_it_is_five_folds_of_single_videos(features: Path) -> None:
    experiment = prepare_experiment(ExperimentOptions(features))
    assert experiment.protocol == "5 folds of single videos, shuffled with seed 0"
    assert [len(split.test) for split in experiment.splits] == [12] * 5
    assert experiment.train_rows.tolist() == list(range(60))


def test_a_test_file_is_tested_and_never_fitted(tmp_path: Path, features: Path) -> None:
    samples, names = blobs(seed=1)
    test = feature_file(tmp_path / "test.h5", {"fc6": samples.X[::5]}, names[::5])
    experiment = prepare_experiment(ExperimentOptions(features, test=test))
    (split,) = experiment.splits
    assert split.train.tolist() == experiment.train_rows.tolist() == list(range(60))
    assert split.test.tolist() == list(range(60, 72))
    assert experiment.notes == ["names that both files have: 12; the same videos on both sides would flatter"]


def test_the_official_splits_are_followed(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    names = [name.replace("v_", f"v_{name.split('/')[0]}_") for name in names]
    feature_file(features, {"fc6": samples.X}, [name.replace(".avi", ".mp4") for name in names])
    write_ucf101_lists(tmp_path, names)
    options = ExperimentOptions(features, ucf101_lists=tmp_path, protocol="ucf101")
    experiment = prepare_experiment(options)
    assert experiment.protocol == "UCF101, the three official splits"
    for n, split in enumerate(experiment.splits, start=1):
        assert [
            i for i, video in enumerate(experiment.videos) if f"_g{n:02}_" in video
        ] == split.test.tolist()
        assert not set(split.train) & set(split.test)
        assert len(split.train) == 48
    second = prepare_experiment(replace(options, protocol=None, split=2))
    assert second.splits[0].test.tolist() == experiment.splits[1].test.tolist()
    assert second.train_rows.tolist() == second.splits[0].train.tolist()


def test_features_that_are_not_finite_are_named(tmp_path: Path) -> None:
    X = np.ones((4, 3))
    X[2, 1] = np.nan
    path = feature_file(tmp_path / "f.h5", {"fc6": X}, ["a/1.avi", "a/2.avi", "b/3.avi", "b/4.avi"])
    with pytest.raises(StoreError, match=r"features of 1 of 4 videos are not finite, the first is b/3\.avi"):
        read_layer(path, "fc6")
