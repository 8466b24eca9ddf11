"""What is known of a video, and what a frame of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_PIXELS", "Frame", "Lines", "VideoInfo", "plain"]

MAX_PIXELS = 1 << 26
"""Frames of more pixels than this (8192 x 8192) are refused unless asked for: a header can claim any size."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of the stream that is read, before anything is decoded.

    Attributes
    ----------
    width, height
        Pixels, upright (after the rotation, where it is known beforehand, else as coded).
    fps
        Average frames a second, NaN where unknown.
    duration_seconds
        Length of the stream, else of the container; NaN where unknown.
    codec, container
        FFmpeg's short names.
    """

    width: int
    height: int
    fps: float
    duration_seconds: float
    codec: str
    container: str


class Frame(NamedTuple):
    """One decoded frame, upright.

    Attributes
    ----------
    bgr
        uint8 (H, W, 3) in the order B, G, R.
    pts_seconds
        Its time stamp, or None.
    size
        None; or the frame's rows and columns where ``bgr`` holds only the lines that were asked for,
        as uint8 (H', W', 4) with a fourth byte that means nothing.
    """

    bgr: NDArray[np.uint8]
    pts_seconds: float | None
    size: tuple[int, int] | None = None


Lines = Callable[[int, int], tuple["NDArray[np.intp]", "NDArray[np.intp]"]]
"""From a frame's height and width to the rows and columns of it that are needed, in pairs (2k, 2k + 1)."""


def plain(error: Exception) -> str:
    """Return what a library's error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
