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

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.settings import Short, Tail

__all__ = ["Clip", "ClipAssembler", "ClipSpan", "FrameBlock", "Piece", "clip_spans"]


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


class FrameBlock:
    """Consecutive frames of a video, in memory that is used again when nothing needs them any more.

    Parameters
    ----------
    frames
        uint8 (T, H, W, 3).
    release
        Called when the last user of the frames is done, by that user's thread.
    """

    __slots__ = ("_lock", "_n_users", "_release", "frames")

    def __init__(self, frames: NDArray[np.uint8], release: Callable[[], None] = lambda: None) -> None:
        self.frames = frames
        self._release = release
        self._n_users = 1
        self._lock = threading.Lock()

    def retain(self) -> None:
        """Count one more user."""
        with self._lock:
            self._n_users += 1

    def release(self) -> None:
        """Count one user less."""
        with self._lock:
            self._n_users -= 1
            is_free = self._n_users == 0
        if is_free:
            self._release()


class Piece(NamedTuple):
    """The frames ``[start, end)`` of a block."""

    block: FrameBlock
    start: int
    end: int

    @property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 (end - start, H, W, 3)."""
        return self.block.frames[self.start : self.end]


class Clip(NamedTuple):
    """One clip; it uses its blocks until it is released.

    Attributes
    ----------
    span
        Which frames of the video it has.
    pieces
        Its frames, L together, in their order; those that are repeated are in several.
    start_seconds, end_seconds
        Times of its first and of its last frame that is not padding.
    crop
        Which crop of its frames it is, from 0.
    """

    span: ClipSpan
    pieces: tuple[Piece, ...]
    start_seconds: float
    end_seconds: float
    crop: int = 0

    def release(self) -> None:
        """Let go of the frames."""
        for piece in self.pieces:
            piece.block.release()


@dataclass
class ClipAssembler:
    """Cuts a stream of frames into clips, holding the blocks that later clips need.

    `push` takes the frames of one video in order, `finish` ends the video; both yield clips,
    exactly those of `clip_spans`, each once for every crop. No frame is copied.
    """

    length: int
    stride: int
    tail: Tail
    short: Short
    n_crops: int = 1

    def __post_init__(self) -> None:
        self.n_frames = 0
        self._next_start = 0
        self._held: deque[_Held] = deque()

    def push(self, block: FrameBlock, times_seconds: list[float]) -> Iterator[Clip]:
        """Take a block of T ≥ 1 frames and their times; yield the clips that are now whole."""
        self._held.append(_Held(self.n_frames, block, times_seconds))
        self.n_frames += len(times_seconds)
        while self._next_start + self.length <= self.n_frames:
            span = ClipSpan(self._next_start, self._next_start + self.length, self.length)
            yield from self._clips(span, self._pieces(span.start, span.end))
            self._next_start += self.stride
        needed = self._first_needed()
        while self._held and self._held[0].end <= needed:
            self._held.popleft().block.release()

    def _first_needed(self) -> int:
        """Return the first frame that a later clip can begin with."""
        if self.tail == "back":
            return min(self._next_start, self.n_frames - self.length)
        return self._next_start

    def finish(self) -> Iterator[Clip]:
        """Yield what the policies make of the frames that are left, and let go of all blocks."""
        for span in self._last_spans():
            pieces = self._pieces(span.start, span.end)
            if self.n_frames < self.length and self.short == "loop":
                n_whole, rest = divmod(self.length, self.n_frames)
                pieces = [*pieces * n_whole, *self._pieces(span.start, span.start + rest)]
            else:
                pieces += self._pieces(span.end - 1, span.end) * span.n_padded_frames
            yield from self._clips(span, pieces)
        self.close()

    def close(self) -> None:
        """Let go of all blocks."""
        while self._held:
            self._held.popleft().block.release()

    def _clips(self, span: ClipSpan, pieces: list[Piece]) -> Iterator[Clip]:
        frames, start, end = tuple(pieces), self._time(span.start), self._time(span.end - 1)
        for crop in range(self.n_crops):
            for piece in pieces:
                piece.block.retain()
            yield Clip(span, frames, start, end, crop)

    def _pieces(self, start: int, end: int) -> list[Piece]:
        return [
            Piece(held.block, max(start - held.start, 0), min(end, held.end) - held.start)
            for held in self._held
            if held.start < end and start < held.end
        ]

    def _time(self, frame: int) -> float:
        return next(held.times[frame - held.start] for held in self._held if frame < held.end)

    def _last_spans(self) -> list[ClipSpan]:
        if self.n_frames < self.length:
            return clip_spans(
                self.n_frames, self.length, stride=self.stride, tail=self.tail, short=self.short
            )
        last = _tail_span(
            self.n_frames, self.length, next_start=self._next_start, stride=self.stride, tail=self.tail
        )
        return [] if last is None else [last]


class _Held(NamedTuple):
    """A block whose frames begin with the video's frame ``start``."""

    start: int
    block: FrameBlock
    times: list[float]

    @property
    def end(self) -> int:
        return self.start + len(self.times)
