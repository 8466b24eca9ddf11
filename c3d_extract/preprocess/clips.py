"""Pure arithmetic: which frames form which clip, and what happens at the tail.

A video of T frames, clips of L = 16 frames, a stride of S frames between clip starts::

    T >= L:  n = (T - L) // S + 1 whole clips, at 0, S, 2S, …, (n - 1)S
             and, where frames are left after the last whole clip and nS < T, by `tail`
               drop  nothing more
               pad   one clip at nS, its last frame repeated to L frames
               back  one clip at T - L, ending at the last frame
    0 < T < L, by `short`
               pad   one clip at 0, the last frame repeated to L frames
               loop  one clip at 0, the frames repeated from the start
               fail  none: the video counts as failed

Caffe's tool has no policy here: it aborts on a short video and leaves the tail to its input list.
Frame indices are 0-based, ranges half-open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from c3d_extract.settings import Short, Tail

__all__ = [
    "CLIP_LENGTH",
    "Clip",
    "ClipAssembler",
    "ClipSpan",
    "clip_spans",
]

CLIP_LENGTH = 16
"""Frames a clip: the paper's, and the only length C3D's fc6 takes."""


class ClipSpan(NamedTuple):
    """The frames ``[start, end)`` of one clip; fewer than 16 when the rest is padding."""

    start: int
    end: int

    @property
    def n_padded_frames(self) -> int:
        """How many frames of the clip repeat others."""
        return CLIP_LENGTH - (self.end - self.start)


def clip_spans(n_frames: int, *, stride: int, tail: Tail, short: Short) -> list[ClipSpan]:
    """Return the clips of a video of ``n_frames`` frames, in order, by the formula above."""
    if n_frames < CLIP_LENGTH:
        return [] if n_frames == 0 or short == "fail" else [ClipSpan(0, n_frames)]
    n_whole = (n_frames - CLIP_LENGTH) // stride + 1
    spans = [ClipSpan(k * stride, k * stride + CLIP_LENGTH) for k in range(n_whole)]
    return spans + _tail_span(n_frames, next_start=n_whole * stride, covered=spans[-1].end, tail=tail)


def _tail_span(n_frames: int, *, next_start: int, covered: int, tail: Tail) -> list[ClipSpan]:
    if tail == "drop" or covered >= n_frames or next_start >= n_frames:
        return []
    return [ClipSpan(next_start, n_frames) if tail == "pad" else ClipSpan(n_frames - CLIP_LENGTH, n_frames)]


class Clip(NamedTuple):
    """One clip: its span, frames uint8 (16, H, W, 3), and the times of its first and last real frame."""

    span: ClipSpan
    frames: NDArray[np.uint8]
    start_seconds: float
    end_seconds: float


@dataclass
class ClipAssembler:
    """Cuts a stream of frames into clips, holding those that later clips need: 16 frames at most.

    ``push`` takes the frames of one video as they come, ``finish`` says that no more will come;
    both yield clips, exactly those of `clip_spans`.
    """

    stride: int
    tail: Tail
    short: Short

    def __post_init__(self) -> None:
        self.n_frames = 0
        self._next_start = 0
        self._held = np.empty(0, np.uint8)  # the last frames of those that came
        self._held_times: list[float] = []

    def push(self, frames: NDArray[np.uint8], times_seconds: list[float]) -> Iterator[Clip]:
        """Take frames uint8 (T, H, W, 3), T ≥ 1, and their times; yield the clips that are now whole.

        The clips' frames may be views: use them before the next call.
        """
        # Clips that follow one another are cut from what came as it came: at a GPU's rate copies count.
        window = np.concatenate([self._held, frames]) if len(self._held) else frames
        times = self._held_times + times_seconds
        self.n_frames += len(frames)
        first = self.n_frames - len(window)  # index in the video of window[0]
        while self._next_start + CLIP_LENGTH <= self.n_frames:
            span = ClipSpan(self._next_start, self._next_start + CLIP_LENGTH)
            start, end = span.start - first, span.end - first
            yield Clip(span, window[start:end], times[start], times[end - 1])
            self._next_start += self.stride
        needed = (
            min(self._next_start, self.n_frames - CLIP_LENGTH) if self.tail == "back" else self._next_start
        )
        kept = max(needed - first, 0)
        self._held, self._held_times = window[kept:].copy(), times[kept:]

    def finish(self) -> Iterator[Clip]:
        """Yield what the policies make of the frames that are left."""
        if self.n_frames == 0:
            return
        if self.n_frames < CLIP_LENGTH:
            spans = clip_spans(self.n_frames, stride=self.stride, tail=self.tail, short=self.short)
        else:
            covered = self._next_start - self.stride + CLIP_LENGTH
            spans = _tail_span(self.n_frames, next_start=self._next_start, covered=covered, tail=self.tail)
        loop = self.n_frames < CLIP_LENGTH and self.short == "loop"
        first = self.n_frames - len(self._held)
        for span in spans:
            start, end = span.start - first, span.end - first
            positions = np.arange(CLIP_LENGTH)
            picked = start + (positions % (end - start) if loop else np.minimum(positions, end - start - 1))
            yield Clip(span, self._held[picked], self._held_times[start], self._held_times[end - 1])
