"""Crops: the original tool's centre, and torchvision's five and ten."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import FiveCrop, TenCrop
from torchvision.transforms import functional as F

from c3d_extract.preprocess.crops import centre_offset
from c3d_extract.preprocess.mean import fit_mean, resized_mean
from c3d_extract.preprocess.resize import FrameSampler, sampler_for
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from c3d_extract.preprocess.crops import FrameCrops
    from c3d_extract.settings import Crops

C3D = Preprocessing()
STRETCHED = Preprocessing((128, 171), (112, 112), "rgb", resampling="torchvision")
SHORT_SIDE = Preprocessing((64, 64), (50, 41), "rgb", resampling="torchvision", keeps_aspect=True)
SIZES = [(240, 320), (320, 240), (64, 64), (90, 91), (91, 90), (30, 1000), (1000, 30)]


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def torchvisions_crops(
    frame: NDArray[np.uint8], preprocessing: Preprocessing, crops: Crops
) -> list[torch.Tensor]:
    """TenCrop or FiveCrop of the resized frame: uint8 (rows, columns, 3) each."""
    image, size = torch.from_numpy(frame).permute(2, 0, 1), list(preprocessing.resize)
    if preprocessing.resampling == "opencv":
        image = torch.from_numpy(cv2.resize(frame, size[::-1])).permute(2, 0, 1)
    else:
        image = F.resize(image, size[:1] if preprocessing.keeps_aspect else size, antialias=False)
    cut = FiveCrop(preprocessing.crop) if crops == "five" else TenCrop(preprocessing.crop)
    return [crop.permute(1, 2, 0) for crop in cut(image)]


def crops_of(preprocessing: Preprocessing, crops: Crops) -> FrameCrops:
    found = preprocessing.several_crops(crops)
    assert found is not None
    return found


@pytest.mark.usefixtures("two_threads")  # torch's resize rounds differently with one
@pytest.mark.parametrize("crops", ["five", "ten"])
@pytest.mark.parametrize(
    "preprocessing", [C3D, STRETCHED, SHORT_SIDE], ids=["c3d", "stretched", "short side"]
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_are_torchvisions_of_the_resized_frame_pixel_for_pixel(
    size: tuple[int, int], preprocessing: Preprocessing, crops: Crops
) -> None:
    frame, ours = noise(*size), crops_of(preprocessing, crops)
    handed_over = sampler_for(preprocessing, ours)(frame)
    assert handed_over.shape == (*ours.frame, 3)
    theirs = torchvisions_crops(frame, preprocessing, crops)
    assert ours.n == len(theirs)
    for number, crop in enumerate(theirs):
        difference = np.abs(ours.cut(handed_over, number).astype(int) - crop.numpy())
        if preprocessing.resampling == "opencv" or torch.__version__ >= "2.7":
            assert not difference.any()
        else:  # sums in another order, which rounds a few values to the next level
            assert difference.max() <= 1
            assert np.count_nonzero(difference) <= 1 + difference.size / 200


def test_the_centre_crop_alone_is_what_the_network_takes() -> None:
    assert C3D.several_crops("centre") is None
    assert C3D.offset == (8, 29), "rows 8:120, columns 29:141, as the original tool"
    assert crops_of(C3D, "five").corners[4] == (8, 30), "torchvision's rounding"
    assert type(sampler_for(C3D, None)) is FrameSampler


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_a_sampler_of_stacked_crops_needs_few_lines_and_can_be_copied(crops: Crops) -> None:
    sampler, frame = sampler_for(SHORT_SIDE, crops_of(SHORT_SIDE, crops)), noise(400, 1300)
    expected = sampler(frame)
    rows, columns = sampler.lines(400, 1300)
    part = np.zeros((len(rows), len(columns), 4), np.uint8)
    part[..., :3] = frame[rows][:, columns]
    np.testing.assert_array_equal(sampler(part, size=(400, 1300)), expected)
    for other in (copy.copy(sampler), pickle.loads(pickle.dumps(sampler))):  # noqa: S301
        np.testing.assert_array_equal(other(frame), expected)
    assert sampler.tables(400, 1300) is None


@pytest.mark.parametrize("crops", ["five", "ten"])
def test_each_crop_has_the_mean_of_its_own_pixels(crops: Crops) -> None:
    """As in Caffe, which subtracts the cube, then crops, then mirrors."""
    cube = np.random.default_rng(0).uniform(80, 120, (3, 16, 128, 171))
    ours, frame = crops_of(C3D, crops), sampler_for(C3D, crops_of(C3D, crops))(noise(240, 320))
    means = ours.means(fit_mean(cube, C3D, 16), resized_mean(cube, C3D))
    assert means.shape == (ours.n, 3, 16, 112, 112)
    minus = torch.from_numpy(frame).permute(2, 0, 1).double() - torch.from_numpy(
        cube.astype(np.float32)[:, 7]
    )
    expected = TenCrop(C3D.crop)(minus)
    for number, (mean, right) in enumerate(zip(means, expected, strict=False)):
        found = ours.cut(frame, number).astype(float) - mean[:, 7].transpose(1, 2, 0)
        np.testing.assert_allclose(found, right.permute(1, 2, 0).numpy())


def test_a_mean_of_the_crop_or_of_three_numbers_is_every_crops() -> None:
    cropped = np.random.default_rng(0).uniform(80, 120, (3, 16, 112, 112))
    assert resized_mean(cropped, C3D) is None
    means = crops_of(C3D, "ten").means(fit_mean(cropped, C3D, 16), None)
    np.testing.assert_array_equal(means[:5], np.broadcast_to(cropped.astype(np.float32), (5, *cropped.shape)))
    np.testing.assert_array_equal(means[5:], means[:5, ..., ::-1])
    numbers = fit_mean(np.array([1.0, 2, 3]), C3D, 16)
    assert crops_of(C3D, "ten").means(numbers, None).shape == (1, 3, 1, 1, 1)


def test_odd_margins_of_the_original_crop_are_halved_downwards() -> None:
    assert centre_offset((128, 171), (111, 100)) == (8, 35)
    assert centre_offset((64, 64), (64, 63)) == (0, 0)
