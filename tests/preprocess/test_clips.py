"""Clips: the assembler, the formula and a naive loop must agree for every length, policy and split."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from c3d_extract.preprocess.clips import Clip, ClipAssembler, ClipSpan, FrameBlock, clip_spans
from c3d_extract.settings import SHORT_POLICIES, TAIL_POLICIES, Short, Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

frame_counts = st.integers(0, 130)
lengths = st.sampled_from([16, 16, 1, 8, 32])
strides = st.integers(1, 40)
tails = st.sampled_from(TAIL_POLICIES)
shorts = st.sampled_from(SHORT_POLICIES)


def naive_clips(n_frames: int, length: int, stride: int, tail: Tail, short: Short) -> list[list[int]]:
    """Return the frame numbers of every clip, by walking through the video as the documentation tells it."""
    if n_frames == 0:
        return []
    if n_frames < length:
        if short == "fail":
            return []
        numbers = list(range(n_frames))
        while len(numbers) < length:
            numbers.append(numbers[len(numbers) - n_frames] if short == "loop" else n_frames - 1)
        return [numbers]
    clips, start = [], 0
    while start + length <= n_frames:
        clips.append(list(range(start, start + length)))
        start += stride
    frames_left_over = clips[-1][-1] < n_frames - 1
    if tail != "drop" and frames_left_over and start < n_frames:
        if tail == "pad":
            clips.append([min(number, n_frames - 1) for number in range(start, start + length)])
        else:
            clips.append(list(range(n_frames - length, n_frames)))
    return clips


def blocks(pushes: list[int]) -> Iterator[tuple[FrameBlock, list[float]]]:
    """Yield frames whose pixels are their numbers, as many at a time as ``pushes`` says; freed: 255."""
    number = 0
    for size in pushes:
        numbers = np.arange(number, number + size)
        frames = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (size, 2, 2, 3)).copy()
        yield FrameBlock(frames, functools.partial(frames.fill, 255)), [0.5 * int(n) for n in numbers]
        number += size


def assembled(pushes: list[int], length: int, stride: int, tail: Tail, short: Short) -> list[Clip]:
    assembler = ClipAssembler(length, stride, tail, short)
    clips = [clip for block, times in blocks(pushes) for clip in assembler.push(block, times)]
    clips += list(assembler.finish())
    assert assembler.n_frames == sum(pushes)
    return clips


def frames_of(clip: Clip) -> NDArray[np.uint8]:
    return np.concatenate([piece.frames for piece in clip.pieces])


@given(st.lists(st.integers(1, 33), max_size=7), lengths, strides, tails, shorts)
@settings(max_examples=200, deadline=None)
def test_the_assembler_gives_the_naive_loops_frames_however_they_are_pushed(
    pushes: list[int], length: int, stride: int, tail: Tail, short: Short
) -> None:
    n_frames = sum(pushes)
    clips = assembled(pushes, length, stride, tail, short)
    expected = naive_clips(n_frames, length, stride, tail, short)
    found = [frames_of(clip) for clip in clips]
    assert [frames[:, 0, 0, 0].tolist() for frames in found] == expected
    assert all((frames == frames[:, :1, :1, :1]).all() for frames in found)
    assert [clip.span for clip in clips] == clip_spans(
        n_frames, length, stride=stride, tail=tail, short=short
    )


@given(frame_counts, lengths, strides, tails, shorts)
@settings(max_examples=200, deadline=None)
def test_the_formula_equals_the_naive_loop(
    n_frames: int, length: int, stride: int, tail: Tail, short: Short
) -> None:
    spans = clip_spans(n_frames, length, stride=stride, tail=tail, short=short)
    naive = naive_clips(n_frames, length, stride, tail, short)
    assert [(s.start, s.end) for s in spans] == [(c[0], max(c) + 1) for c in naive]
    assert [s.n_padded_frames for s in spans] == [length - len(set(c)) for c in naive]


@given(st.lists(st.integers(1, 33), min_size=1, max_size=12), lengths, strides, tails, shorts)
@settings(max_examples=100, deadline=None)
def test_a_clips_times_are_those_of_its_first_and_last_real_frame(
    pushes: list[int], length: int, stride: int, tail: Tail, short: Short
) -> None:
    for clip in assembled(pushes, length, stride, tail, short):
        assert clip.start_seconds == 0.5 * clip.span.start
        assert clip.end_seconds == 0.5 * (clip.span.end - 1)


@pytest.mark.parametrize(
    ("n_frames", "stride", "tail", "spans"),
    [
        (16, 16, "drop", [(0, 16)]),
        (31, 16, "drop", [(0, 16)]),
        (31, 16, "pad", [(0, 16), (16, 31)]),
        (31, 16, "back", [(0, 16), (15, 31)]),
        (32, 16, "back", [(0, 16), (16, 32)]),
        (25, 8, "pad", [(0, 16), (8, 24), (16, 25)]),
        (24, 8, "pad", [(0, 16), (8, 24)]),
        (17, 20, "pad", [(0, 16)]),
        (107, 16, "drop", [(16 * k, 16 * k + 16) for k in range(6)]),
        (164, 16, "drop", [(16 * k, 16 * k + 16) for k in range(10)]),
    ],
)
def test_examples_worked_by_hand(
    n_frames: int, stride: int, tail: Tail, spans: list[tuple[int, int]]
) -> None:
    assert clip_spans(n_frames, 16, stride=stride, tail=tail, short="pad") == [
        ClipSpan(*s, 16) for s in spans
    ]


def test_a_short_video_is_padded_looped_or_refused() -> None:
    padded, looped = (assembled([5], 16, 16, "drop", short)[0] for short in ("pad", "loop"))
    assert frames_of(padded)[:, 0, 0, 0].tolist() == [0, 1, 2, 3] + [4] * 12
    assert frames_of(looped)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 3 + [0]
    assert assembled([5], 16, 16, "drop", "fail") == []


@given(st.lists(st.integers(1, 33), min_size=1, max_size=12), lengths, strides, tails, shorts)
@settings(max_examples=100, deadline=None)
def test_frames_are_held_while_a_clip_needs_them_and_no_longer(
    pushes: list[int], length: int, stride: int, tail: Tail, short: Short
) -> None:
    freed: list[int] = []
    assembler = ClipAssembler(length, stride, tail, short)
    clips = []
    for number, (block, times) in enumerate(blocks(pushes)):
        block._release = functools.partial(freed.append, number)
        clips += list(assembler.push(block, times))
        assert len(assembler._held) <= length + 1, "a block holds a frame at least"
    clips += list(assembler.finish())
    ends = np.cumsum(pushes)
    for clip in clips:
        needed = set(np.searchsorted(ends, range(clip.span.start, clip.span.end), side="right").tolist())
        assert not needed & set(freed)
        clip.release()
    assert sorted(freed) == list(range(len(pushes))), "each once"


def test_a_video_that_fails_lets_go_of_its_frames() -> None:
    freed: list[int] = []
    assembler = ClipAssembler(16, 16, "drop", "pad")
    assert not list(
        assembler.push(FrameBlock(np.zeros((3, 2, 2, 3), np.uint8), lambda: freed.append(1)), [0, 1, 2])
    )
    assembler.close()
    assert freed == [1]
