"""Pure arithmetic: when each frame is on screen, and which frames another rate shows.

Time stamps of packed-B-frame AVIs (all of UCF101) run 1, 2, 4, 3, 5, … in *correct* decode order, and
broken files have any stamps at all: frames keep their order here, and times are made to grow.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["frame_seconds", "resample", "steady_times"]

_FALLBACK_FPS = 25.0  # FFmpeg's own where a raw stream states no rate
_REORDER_DEPTH = 4  # frames by which stamps of packed B-frames can be out of order, with room to spare

Item = TypeVar("Item")


def frame_seconds(fps: float) -> float:
    """Return the seconds of one frame; 1/25 where the rate is 0 or NaN."""
    return 1 / fps if fps > 0 and math.isfinite(fps) else 1 / _FALLBACK_FPS


def steady_times(frames: Iterable[tuple[Item, float | None]], fps: float) -> Iterator[tuple[Item, float]]:
    """Give every frame a time in seconds that grows, leaving the frames in their order.

    The i-th frame gets the i-th smallest stamp of its neighbourhood, so that stamps 1, 2, 4, 3, 5 of
    packed B-frames become 1, 2, 3, 4, 5; a missing or backward stamp becomes the time before plus
    1 / fps.

    Parameters
    ----------
    frames
        Pairs of anything and its time stamp in seconds, or None.
    fps
        Frames a second where stamps say nothing; NaN or 0 counts as 25.
    """
    step = frame_seconds(fps)
    waiting: deque[tuple[Item, float | None]] = deque()
    stamps: list[float] = []
    last: float | None = None

    def take() -> tuple[Item, float]:
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
            taken = take()
            last = taken[1]
            yield taken
    while waiting:
        taken = take()
        last = taken[1]
        yield taken


def resample(
    frames: Iterable[tuple[Item, float]], fps: float, *, native_fps: float, longest_gap_seconds: float
) -> Iterator[tuple[Item, float]]:
    """Resample by time: output k shows the frame that is on screen k / fps seconds after the first.

    A frame stays on screen until the next one's time, the last one for 1 / native_fps. A gap longer
    than ``longest_gap_seconds`` is a broken stamp: the frame is shown for 1 / native_fps.
    """
    step = frame_seconds(native_fps)
    shown: Item = cast("Any", None)
    shown_time: float | None = None
    on_screen = 0.0  # seconds since the first frame at which `shown` appeared
    n_out = 0
    # Rounding guard: at equal rates, k / fps and the frame's own time are the same moment.
    guard = 1e-6
    for item, time in frames:
        if shown_time is not None:
            gap = time - shown_time
            until = on_screen + (gap if gap <= longest_gap_seconds else step)
            while n_out / fps < until - guard:
                yield shown, shown_time + n_out / fps - on_screen
                n_out += 1
            on_screen = until
        shown, shown_time = item, time
    if shown_time is not None:
        while n_out / fps < on_screen + step - guard:
            yield shown, shown_time + n_out / fps - on_screen
            n_out += 1
