"""Times of frames: always increasing, and resampling shows what is on screen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c3d_extract.decode.timestamps import Gaps, resample, steady_times
from c3d_extract.errors import VideoError


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), max_size=40),
    st.sampled_from([25.0, 29.97, 0.0, math.nan, 1000.0]),
)
@settings(max_examples=150, deadline=None)
def test_steady_times_keep_the_order_and_always_increase(stamps: list[float | None], fps: float) -> None:
    steady = list(steady_times(enumerate(stamps), fps))
    assert [item for item, _ in steady] == list(range(len(stamps)))
    times = [time for _, time in steady]
    # Increasing, except where a frame's length is lost in the rounding of a huge time.
    assert all(b > a or b == a + 1e-3 for a, b in itertools.pairwise(times))


@given(st.lists(st.integers(0, 1), max_size=30))
def test_steady_times_correct_the_stamps_of_packed_b_frames(swaps: list[int]) -> None:
    stamps = [float(i) for i in range(len(swaps) + 1)]
    for i, swap in enumerate(swaps):
        if swap and stamps[i] == i:  # each stamp moves by one place at most, as 1, 2, 4, 3, 5 do
            stamps[i], stamps[i + 1] = stamps[i + 1], stamps[i]
    assert [time for _, time in steady_times(enumerate(stamps), 1.0)] == sorted(stamps)


def test_missing_stamps_are_one_frame_apart() -> None:
    assert [t for _, t in steady_times([(i, None) for i in range(4)], 10.0)] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )
    assert [t for _, t in steady_times([(i, None) for i in range(3)], math.nan)] == pytest.approx(
        [0, 0.04, 0.08]
    )


def shown_at(times: list[float], fps: float, native_fps: float) -> list[int]:
    """Plain oracle: which frame is on screen at k / fps, by looking through all of them."""
    picked, k = [], 0
    end = times[-1] + 1 / native_fps
    while times[0] + k / fps < end - 1e-6:
        moment = times[0] + k / fps
        picked.append(max(i for i, time in enumerate(times) if time <= moment + 1e-6))
        k += 1
    return picked


gaps = st.lists(st.sampled_from([0.01, 0.02, 1 / 30, 0.04, 0.1, 0.5, 2.0]), max_size=25)


@given(gaps, st.sampled_from([1.0, 7.5, 10.0, 15.0, 24.0, 25.0, 29.97, 30.0, 60.0]), st.floats(-5, 5000))
@settings(max_examples=150, deadline=None)
def test_resampling_shows_what_is_on_screen(steps: list[float], fps: float, start: float) -> None:
    times = [start, *(start + float(t) for t in np.cumsum(steps))] if steps else [start]
    out = list(resample(list(enumerate(times)), fps, native_fps=25.0, longest_gap_seconds=3600.0))
    assert [item for item, _ in out] == shown_at(times, fps, 25.0)
    assert [time for _, time in out] == pytest.approx([start + k / fps for k in range(len(out))], abs=1e-6)


@pytest.mark.parametrize("fps", [10.0, 24.0, 25.0, 29.97, 30.0, 59.94])
def test_resampling_to_the_same_rate_changes_nothing(fps: float) -> None:
    frames = [(i, i / fps) for i in range(500)]
    assert [i for i, _ in resample(frames, fps, native_fps=fps, longest_gap_seconds=60.0)] == list(range(500))


def test_a_gap_that_is_too_long_is_reported_and_not_filled() -> None:
    gaps = Gaps()
    frames = [(0, 0.0), (1, 60.0), (2, 121.0), (3, 3121.0)]
    # By these stamps a frame lasts 3,000 s; without any other rate, it is shown once.
    out = [i for i, _ in resample(frames, 1.0, native_fps=1 / 3000, gaps=gaps)]
    assert out == [0] * 60 + [1, 2, 3]
    assert gaps.trouble() == "2 gaps of up to 3000.0 s between frames, too long to be filled"
    assert Gaps().trouble() is None


def test_a_video_cannot_be_made_endless_by_gaps() -> None:
    hostile = ((i, 59.0 * i) for i in itertools.count())
    made = 0
    with pytest.raises(VideoError, match="25 frames per second would turn"):
        for made, _ in enumerate(resample(hostile, 25.0, native_fps=25.0), start=1):  # noqa: B007
            pass
    assert 90_000 <= made < 100_000


def test_an_hour_of_slides_can_be_resampled() -> None:
    slides = [(i, 30.0 * i) for i in range(120)]
    assert sum(1 for _ in resample(slides, 25.0, native_fps=1 / 30)) == 120 * 30 * 25


def test_a_broken_stamp_does_not_fill_hours() -> None:
    frames = [(0, 0.0), (1, 0.1), (2, 1e9), (3, 1e9 + 0.1)]
    out = [i for i, _ in resample(frames, 10.0, native_fps=10.0, longest_gap_seconds=3600.0)]
    assert out == [0, 1, 2, 3]
