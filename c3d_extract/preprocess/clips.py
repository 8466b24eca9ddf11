"""Pure arithmetic: which frames form which clip, and what happens at the end of the video.

A video of T frames, clips of L frames (C3D: L = 16), a stride of S frames between clip starts::

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

__all__ = ["Clip", "ClipAssembler", "ClipSpan", "clip_spans"]


class ClipSpan(NamedTuple):
    """The frames ``[start, end)`` of one clip of ``length`` frames; fewer where the rest is padding."""

    start: int
    end: int
    length: int

    @property
    def n_padded_frames(self) -> int:
        """How many frames of the clip repeat others."""
        return self.length - (self.end - self.start)


def clip_spans(n_frames: int, length: int, *, stride: int, tail: Tail, short: Short) -> list[ClipSpan]:
    """Return the clips of a video, in order, by the formula above.

    Parameters
    ----------
    n_frames
        Frames of the video, 0 or more.
    length
        Frames of a clip.
    stride
        Frames between clip starts, 1 or more.
    tail, short
        The policies.
    """
    if n_frames < length:
        return [] if n_frames == 0 or short == "fail" else [ClipSpan(0, n_frames, length)]
    n_whole = (n_frames - length) // stride + 1
    spans = [ClipSpan(k * stride, k * stride + length, length) for k in range(n_whole)]
    last = _tail_span(n_frames, length, next_start=n_whole * stride, stride=stride, tail=tail)
    return spans if last is None else [*spans, last]


def _tail_span(n_frames: int, length: int, *, next_start: int, stride: int, tail: Tail) -> ClipSpan | None:
    """Return the clip for the frames after the last whole one; ``next_start`` is a stride after its start."""
    if tail == "drop" or next_start - stride + length >= n_frames or next_start >= n_frames:
        return None
    return ClipSpan(next_start if tail == "pad" else n_frames - length, n_frames, length)


class Clip(NamedTuple):
    """One clip.

    Attributes
    ----------
    span
        Which frames of the video it has.
    frames
        uint8 (L, H, W, 3).
    start_seconds, end_seconds
        Times of its first and of its last frame that is not padding.
    """

    span: ClipSpan
    frames: NDArray[np.uint8]
    start_seconds: float
    end_seconds: float


@dataclass
class ClipAssembler:
    """Cuts a stream of frames into clips, holding those that later clips need: ``length`` frames at most.

    `push` takes the frames of one video in order, `finish` ends the video; both yield clips,
    exactly those of `clip_spans`.
    """

    length: int
    stride: int
    tail: Tail
    short: Short

    def __post_init__(self) -> None:
        self.n_frames = 0
        self._next_start = 0
        self._held = np.empty(0, np.uint8)  # the last frames that came
        self._held_times: list[float] = []

    def push(self, frames: NDArray[np.uint8], times_seconds: list[float]) -> Iterator[Clip]:
        """Take frames uint8 (T, H, W, 3), T ≥ 1, and their times; yield the clips that are now whole.

        The clips' frames may be views: use them before the next call.
        """
        # Clips that do not overlap are views of what came, without a copy: at a GPU's rate copies count.
        window = np.concatenate([self._held, frames]) if len(self._held) else frames
        times = self._held_times + times_seconds
        self.n_frames += len(frames)
        first = self.n_frames - len(window)  # the frame of the video that window[0] is
        while self._next_start + self.length <= self.n_frames:
            span = ClipSpan(self._next_start, self._next_start + self.length, self.length)
            start, end = span.start - first, span.end - first
            yield Clip(span, window[start:end], times[start], times[end - 1])
            self._next_start += self.stride
        kept = max(self._first_needed() - first, 0)
        # A copy: a view would keep all pushed frames alive, and these are overwritten by the decoder.
        self._held, self._held_times = window[kept:].copy(), times[kept:]

    def _first_needed(self) -> int:
        """Return the first frame that a later clip can begin with."""
        if self.tail == "back":
            return min(self._next_start, self.n_frames - self.length)
        return self._next_start

    def finish(self) -> Iterator[Clip]:
        """Yield what the policies make of the frames that are left."""
        is_short = self.n_frames < self.length
        for span in self._last_spans():
            first = self.n_frames - len(self._held)
            start, end = span.start - first, span.end - first
            positions = np.arange(self.length)
            if is_short and self.short == "loop":
                picked = start + positions % (end - start)
            else:
                picked = start + np.minimum(positions, end - start - 1)
            yield Clip(span, self._held[picked], self._held_times[start], self._held_times[end - 1])

    def _last_spans(self) -> list[ClipSpan]:
        if self.n_frames < self.length:
            return clip_spans(
                self.n_frames, self.length, stride=self.stride, tail=self.tail, short=self.short
            )
        last = _tail_span(
            self.n_frames, self.length, next_start=self._next_start, stride=self.stride, tail=self.tail
        )
        return [] if last is None else [last]
