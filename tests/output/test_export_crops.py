"""Exports of several crops a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from export_samples import LENGTHS, STEMS, D, export, features, files_below, write_clips

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output import FeatureFile

if TYPE_CHECKING:
    from pathlib import Path


def test_ten_crops_become_an_axis_in_the_order_of_torchvision(tmp_path: Path) -> None:
    export("rtfm-10crop", write_clips(tmp_path / "clips.h5", n_crops=10), tmp_path / "out")
    assert files_below(tmp_path / "out") == sorted(f"{stem}.npy" for stem in STEMS.values())
    for video, n in LENGTHS.items():
        X = np.load(tmp_path / "out" / f"{STEMS[video]}.npy", allow_pickle=True)  # as the consumer does
        assert (X.shape, X.dtype) == ((n, 10, D), np.float32)
        for crop, of_crop in enumerate(X.transpose(1, 0, 2)):
            np.testing.assert_array_equal(of_crop, features(video, n, crop=crop))


def test_five_crops_become_a_file_each_the_centre_first(tmp_path: Path) -> None:
    export("xd-5crop", write_clips(tmp_path / "clips.h5", n_crops=5), tmp_path / "out")
    for video, n in LENGTHS.items():
        for number, crop in enumerate([4, 0, 1, 2, 3]):  # torchvision: top left, top right, …, centre
            X = np.load(tmp_path / "out" / f"{STEMS[video]}__{number}.npy")
            np.testing.assert_array_equal(X, features(video, n, crop=crop))


@pytest.mark.parametrize(
    ("preset", "n_crops", "says"),
    [
        ("rtfm-10crop", 1, "crops centre, not ten"),
        ("rtfm-10crop", 5, "crops five, not ten"),
        ("xd-5crop", 10, "crops ten, not five"),
        ("ucf-crime-32", 5, "crops five, not centre"),
    ],
)
def test_other_crops_are_refused(tmp_path: Path, preset: str, n_crops: int, says: str) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"one.mp4": 1, "two.mp4": 2}, n_crops=n_crops)
    with pytest.raises(UsageError, match=says):
        export(preset, clips, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_clip_that_lacks_a_crop_is_an_error(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2, "b.mp4": 2}, n_crops=5)
    with h5py.File(clips, "r+") as file:
        file["start_frame"][12:15] = 7  # of b's first clip, with crops 2, 3 and 4
    with pytest.raises(StoreError, match=r"b\.mp4"):
        export("xd-5crop", clips, tmp_path / "out")


def test_the_same_crop_twice_is_refused_by_every_reader(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", {"a.mp4": 2}, n_crops=5)
    with h5py.File(clips, "r+") as file:
        file["crop"][1] = 0
    with FeatureFile(clips) as file, pytest.raises(StoreError, match=r"a\.mp4 is there twice"):
        file.between("fc6", 0, 1)
