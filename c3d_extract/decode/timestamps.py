"""Frame times, and resampling to another frame rate; nothing is read or decoded here.

Time stamps of packed-B-frame AVIs (all of UCF101) run 1, 2, 4, 3, 5, … in *correct* decode order, and
damaged files have arbitrary stamps: frames keep their order here, and their times are made increasing.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LONGEST_GAP_SECONDS", "Gaps", "frame_seconds", "resample", "steady_times"]

LONGEST_GAP_SECONDS = 60.0
"""The longest time a frame can be on screen when a video is resampled; longer gaps are reported, not filled.

Slides and screen recordings have such gaps, and 60 s of one picture are 1,500 frames at 25 frames
per second. More repetitions add no information, and a damaged or hostile stamp can state any time.
"""

_FALLBACK_FPS = 25.0  # FFmpeg's default where a raw stream states no rate
# Limits of resampling: one hour of a still picture at 25 frames per second; 1 frame per second to 60.
_MAX_OUTPUT_FRAMES, _MAX_OUTPUT_PER_INPUT = 90_000, 60
_SAME_MOMENT_SECONDS = 1e-6  # rounding: at equal rates, k / fps and the frame's own time are the same moment
_REORDER_DEPTH = 4  # frames; stamps of packed B-frames are out of order by fewer

Item = TypeVar("Item")


def frame_seconds(fps: float) -> float:
    """Return the duration of one frame in seconds; 1/25 where the rate is 0 or NaN."""
    return 1 / fps if fps > 0 and math.isfinite(fps) else 1 / _FALLBACK_FPS


def steady_times(frames: Iterable[tuple[Item, float | None]], fps: float) -> Iterator[tuple[Item, float]]:
    """Yield the frames in their order, each with a time in seconds; times are strictly increasing.

    The i-th frame gets the i-th smallest stamp of its neighbourhood, so that stamps 1, 2, 4, 3, 5 of
    packed B-frames become 1, 2, 3, 4, 5; a missing or backward stamp becomes the previous time plus
    1 / fps.

    Parameters
    ----------
    frames
        Pairs of any object and its time stamp in seconds, or None.
    fps
        Frames per second where stamps are missing; NaN or 0 counts as 25.
    """
    step = frame_seconds(fps)
    waiting: deque[tuple[Item, float | None]] = deque()
    stamps: list[float] = []
    last: float | None = None

    def pop() -> tuple[Item, float]:
        item, stamp = waiting.popleft()
        time = None if stamp is None else heapq.heappop(stamps)
        if time is None or (last is not None and time <= last):
            time = 0.0 if last is None else last + step
        return item, time

    for item, stamp in frames:
        waiting.append((item, stamp))
        if stamp is not None:
            heapq.heappush(stamps, stamp)
        if len(waiting) > _REORDER_DEPTH:
            popped = pop()
            last = popped[1]
            yield popped
    while waiting:
        popped = pop()
        last = popped[1]
        yield popped


@dataclass
class Gaps:
    """Gaps between time stamps that were not filled."""

    n_gaps: int = 0
    longest_seconds: float = 0.0

    def note(self, seconds: float) -> None:
        """Count one more gap."""
        self.n_gaps += 1
        self.longest_seconds = max(self.longest_seconds, seconds)

    def trouble(self) -> str | None:
        """Return the number and the longest of the gaps in one line, or None."""
        if not self.n_gaps:
            return None
        many = "1 gap" if self.n_gaps == 1 else f"{self.n_gaps} gaps"
        return f"{many} of up to {self.longest_seconds:.1f} s between frames, too long to be filled"


def resample(
    frames: Iterable[tuple[Item, float]],
    fps: float,
    *,
    native_fps: float,
    longest_gap_seconds: float = LONGEST_GAP_SECONDS,
    gaps: Gaps | None = None,
) -> Iterator[tuple[Item, float]]:
    """Resample by time: output k shows the frame that is on screen k / fps seconds after the first.

    A frame stays on screen until the next one's time, the last one for 1 / native_fps. A gap longer
    than ``longest_gap_seconds`` is not filled, but noted in ``gaps``: the frame is shown for
    1 / native_fps, or once where that is also too long.

    Raises
    ------
    VideoError
        Where the output would have more than 90,000 frames plus 60 per input frame.
    """
    step = frame_seconds(native_fps)
    step = step if step <= longest_gap_seconds else 1 / fps
    shown = _with_durations(frames, step, longest_gap_seconds, Gaps() if gaps is None else gaps)
    start = 0.0  # seconds since the first frame at which the frame appears
    n_out = 0
    for n_in, (item, time, seconds) in enumerate(shown, start=1):
        while n_out / fps < start + seconds - _SAME_MOMENT_SECONDS:
            if n_out >= _MAX_OUTPUT_FRAMES + _MAX_OUTPUT_PER_INPUT * n_in:
                raise VideoError(f"{fps:g} frames per second would turn {n_in} frames into more than {n_out}")
            yield item, time + n_out / fps - start
            n_out += 1
        start += seconds


def _with_durations(
    frames: Iterable[tuple[Item, float]], step: float, longest_gap_seconds: float, gaps: Gaps
) -> Iterator[tuple[Item, float, float]]:
    """Yield each frame with its time and how long it is shown, ``step`` for the last and before long gaps."""
    shown: tuple[Item, float] | None = None
    for item, time in frames:
        if shown is not None:
            gap = time - shown[1]
            if gap > longest_gap_seconds:
                gaps.note(gap)
                gap = step
            yield *shown, gap
        shown = item, time
    if shown is not None:
        yield *shown, step
