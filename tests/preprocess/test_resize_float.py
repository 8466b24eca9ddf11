"""Resizing and cropping as torchvision does: its own transforms' pixels, at every frame size."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as F

from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRETCHED = Preprocessing((128, 171), (112, 112), "rgb", resampling="torchvision")
SHORT_SIDE = Preprocessing((256, 256), (224, 224), "rgb", resampling="torchvision", keeps_aspect=True)
ODD = Preprocessing((171, 171), (130, 141), "rgb", resampling="torchvision", keeps_aspect=True)
sides = st.integers(1, 700) | st.sampled_from([2, 112, 128, 171, 224, 256, 342, 1080, 1920])


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def torchvisions_crop(frame: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The resize and the crop of torchvision's VideoClassification preset."""
    size = list(preprocessing.resize)
    image = torch.from_numpy(frame).permute(2, 0, 1)
    resized = F.resize(image, size[:1] if preprocessing.keeps_aspect else size, antialias=False)
    crop: NDArray[np.uint8] = F.center_crop(resized, list(preprocessing.crop)).permute(1, 2, 0).numpy()
    return crop


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("preprocessing", [STRETCHED, SHORT_SIDE, ODD])
@given(sides, sides, st.integers(0, 1000))
@example(1, 1, 0)
@example(2, 700, 0)
@example(700, 2, 0)
@example(128, 171, 0)
@example(256, 256, 0)
@example(257, 341, 0)
@example(1080, 1920, 0)
@settings(max_examples=20, deadline=None)
def test_crops_equal_torchvisions_to_the_bit(
    preprocessing: Preprocessing, height: int, width: int, seed: int
) -> None:
    if max(height, width) > 64 * min(height, width):
        height = width = max(height, width)  # torchvision would resize the whole of a very long frame
    frame = noise(height, width, seed)
    ours, theirs = FrameSampler(preprocessing)(frame), torchvisions_crop(frame, preprocessing)
    if torch.__version__ < "2.7":  # sums in another order, which rounds a few values to the next level
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 1 + difference.size / 200
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_torchs_other_kernel_differs_by_one_level_in_one_of_a_thousand_values_at_most() -> None:
    # With one thread, or below 128 x 128 pixels, torch sums in another order.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for height, width in ((240, 320), (144, 176), (480, 854)):
            frame = noise(height, width, 3)
            theirs = torchvisions_crop(frame, STRETCHED)
            difference = np.abs(FrameSampler(STRETCHED)(frame).astype(int) - theirs)
            assert difference.max() <= 1
            assert np.count_nonzero(difference) <= difference.size / 1000
    finally:
        torch.set_num_threads(before)


def test_the_crop_of_171_columns_starts_at_column_30() -> None:
    assert STRETCHED.offset == (8, 30)
    assert SHORT_SIDE.offset_in((256, 455)) == (16, 116), "half of 231 is rounded to the even number"
    assert SHORT_SIDE.resized(720, 1280) == (256, 455)
    assert SHORT_SIDE.resized(1280, 720) == (455, 256)


@pytest.mark.parametrize("preprocessing", [STRETCHED, SHORT_SIDE])
def test_the_needed_lines_alone_give_the_same_crop(preprocessing: Preprocessing) -> None:
    sampler = FrameSampler(preprocessing)
    frame = noise(720, 1280, 4)
    rows, columns = sampler.lines(720, 1280)
    part = np.zeros((len(rows), len(columns), 4), np.uint8)
    part[..., :3] = frame[rows][:, columns]
    np.testing.assert_array_equal(sampler(part, size=(720, 1280)), sampler(frame))
    assert sampler.tables(720, 1280) is None, "the one-pass kernel does OpenCV's arithmetic"


def test_views_and_copies_of_the_sampler_give_the_same_crop() -> None:
    frame, sampler = noise(240, 320, 1), FrameSampler(STRETCHED)
    for view in (frame[::-1], frame[:, ::-1], frame[..., ::-1], np.rot90(frame), frame[3:200, 7:301]):
        np.testing.assert_array_equal(sampler(view), FrameSampler(STRETCHED)(view.copy()))
    for other in (copy.copy(sampler), pickle.loads(pickle.dumps(sampler))):  # noqa: S301
        np.testing.assert_array_equal(other(frame), sampler(frame))


def test_each_crop_is_an_array_of_its_own() -> None:
    sampler = FrameSampler(STRETCHED)
    first = sampler(noise(60, 80, 1))
    kept = first.copy()
    sampler(noise(60, 80, 2))
    np.testing.assert_array_equal(first, kept)


def test_a_mean_image_needs_the_size_of_the_crop_where_the_resized_size_varies() -> None:
    from c3d_extract.errors import WeightsError

    assert fit_mean(np.ones((3, 224, 224)), SHORT_SIDE, 16).shape == (3, 1, 224, 224)
    with pytest.raises(WeightsError, match="does not fit"):
        fit_mean(np.ones((3, 256, 256)), SHORT_SIDE, 16)
