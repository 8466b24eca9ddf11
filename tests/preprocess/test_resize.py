"""Resizing and cropping: OpenCV's pixels at every frame size."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

sides = st.integers(1, 700) | st.sampled_from([2, 112, 128, 171, 256, 342, 1080, 1920, 4096])


def opencv_crop(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    crop: NDArray[np.uint8] = np.asarray(cv2.resize(frame, (171, 128))[8:120, 29:141], np.uint8)
    return crop


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class NumPySampler(FrameSampler):
    """What samples where nothing could be compiled."""

    compiled = False


SAMPLERS = [NumPySampler, *([FrameSampler] if FrameSampler.compiled else [])]


def check_against_opencv(frame: NDArray[np.uint8]) -> None:
    theirs = opencv_crop(frame)
    for sampler in SAMPLERS:
        ours = sampler(Preprocessing())(frame)
        assert ours.shape == (112, 112, 3)
        assert ours.dtype == np.uint8
        difference = np.abs(ours.astype(int) - theirs)
        # Where OpenCV's vector code rounds otherwise than its formula: the bar is 1 in 1,000 by one level.
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= difference.size / 1000


@given(sides, sides, st.integers(0, 1000))
@example(1, 1, 0)
@example(2, 4096, 0)
@example(4096, 2, 0)
@example(128, 171, 0)
@example(256, 342, 0)
@example(1080, 1920, 0)
@settings(max_examples=60, deadline=None)
def test_crops_equal_opencvs_resize_at_every_size(height: int, width: int, seed: int) -> None:
    check_against_opencv(noise(height, width, seed))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_flat_frames_stay_flat(value: int) -> None:
    crop = FrameSampler(Preprocessing())(np.full((240, 320, 3), value, np.uint8))
    assert (crop == value).all()


def test_views_and_turned_frames_are_sampled_as_copies_are() -> None:
    frame = noise(240, 320, 1)
    sampler = FrameSampler(Preprocessing())
    for view in (frame[::-1], frame[:, ::-1], frame[..., ::-1], np.rot90(frame), frame[3:200, 7:301]):
        assert (sampler(view) == FrameSampler(Preprocessing())(view.copy())).all()
        assert (sampler(view) == sampler(np.ascontiguousarray(view))).all()


@pytest.mark.skipif(not FrameSampler.compiled, reason="there was no C compiler")
def test_the_compiled_loop_refuses_what_would_read_or_write_outside() -> None:
    from c3d_extract import _kernels

    frame, out = noise(20, 30, 1), np.empty((4, 5, 3), np.uint8)
    rows, columns = np.zeros((4, 4), np.int32), np.zeros((4, 5), np.int32)
    _kernels.sample(frame, rows, columns, out)

    def changed(table: NDArray[np.int32], row: int, value: int) -> NDArray[np.int32]:
        copy = table.copy()
        copy[row, -1] = value
        return copy

    wrong: list[tuple[Any, ...]] = [
        *((frame, changed(rows, k, v), columns, out) for k in (0, 1) for v in (-1, 20)),
        *((frame, rows, changed(columns, k, v), out) for k in (0, 1) for v in (-1, 30)),
        *((frame, changed(rows, k, v), columns, out) for k in (2, 3) for v in (-1, 2049)),
        (frame, rows, columns, np.empty((4, 4, 3), np.uint8)),
        (frame, rows, columns.astype(np.int64), out),
        (frame, rows, columns[:3].copy(), out),
        (frame, rows, np.zeros((4, 4097), np.int32), np.empty((4, 4097, 3), np.uint8)),
        (frame[..., ::-1], rows, columns, out),
        (frame[:, ::2], rows, columns, out),
        (frame[..., :2].copy(), rows, columns, out),
        (frame.astype(np.uint16), rows, columns, out),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="do not fit together"):
            _kernels.sample(*arguments)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _kernels.sample(frame, rows, columns, out)


def test_the_source_frame_is_left_alone_and_crops_are_independent() -> None:
    sampler, first = FrameSampler(Preprocessing()), noise(240, 320, 1)
    before = first.copy()
    crop = sampler(first)
    kept = crop.copy()
    sampler(noise(240, 320, 2))
    assert (first == before).all()
    assert (crop == kept).all(), "a later frame must not change an earlier crop"


def test_sizes_may_change_from_frame_to_frame() -> None:
    sampler = FrameSampler(Preprocessing())
    for seed in range(60):
        frame = noise(40 + seed, 150 - seed, seed)
        assert (sampler(frame) == FrameSampler(Preprocessing())(frame)).all()


def check_lines(lines: NDArray[np.intp], n_lines: int) -> None:
    assert (np.diff(lines) > 0).all()
    assert (lines[::2] % 2 == 0).all()
    assert (lines[1::2] == lines[::2] + 1).all()
    assert 0 <= lines[0] <= lines[-1] < n_lines
    assert len(lines) <= 4 * 112


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([3, 4]), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_the_lines_it_asks_for_are_enough(
    half_height: int, half_width: int, channels: int, seed: int
) -> None:
    height, width = 2 * half_height, 2 * half_width
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    for sampler in (kind(Preprocessing()) for kind in SAMPLERS):
        rows, columns = sampler.lines(height, width)
        check_lines(rows, height)
        check_lines(columns, width)
        crop = sampler(np.ascontiguousarray(frame[rows][:, columns]), size=(height, width))
        assert (crop == sampler(np.ascontiguousarray(frame[..., :3]))).all()


def test_other_crops_are_cut_from_the_same_resized_frame() -> None:
    frame = noise(240, 320, 3)
    full = cv2.resize(frame, (171, 128))
    wide = FrameSampler(Preprocessing(crop=(128, 171)))(frame)
    assert np.abs(wide.astype(int) - full).max() <= 1
    odd = Preprocessing(crop=(111, 100))
    assert odd.offset == (8, 35)
    assert (FrameSampler(odd)(frame) == wide[8:119, 35:135]).all()


def test_a_sampler_travels_as_its_settings_alone() -> None:
    """Decoder processes get it pickled, other decoders copied: never with the buffers of another thread."""
    used, frame = FrameSampler(Preprocessing()), noise(1080, 1920, 1)
    crop = used(frame)
    data = pickle.dumps(used)
    assert len(data) < 500
    for other in (pickle.loads(data), copy.copy(used)):  # noqa: S301 - our own
        assert other._samplings == {}
        assert other.shape == crop.shape
        assert (other(frame) == crop).all()
