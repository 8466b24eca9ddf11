"""Frames that a program has already, read as one video."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from c3d_extract.decode.base import MAX_PIXELS, Frame, VideoInfo
from c3d_extract.errors import UsageError, VideoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from c3d_extract.decode.base import FrameTransform

__all__ = ["FrameReader", "FrameSequence"]


class FrameSequence:
    """Frames of one video, from an array or from anything that yields them.

    Parameters
    ----------
    frames
        Each uint8 (H, W, 3), a NumPy array, a tensor on any device, or what `numpy.asarray` takes; asked for
        one at a time, once.
    colour
        The order of their channels.
    fps
        Frames per second.
    name
        What messages call it.

    Attributes
    ----------
    error
        What asking for the next frame raised, or what was wrong with one; None. The video then fails.
    """

    def __init__(
        self, frames: Iterable[object], *, colour: Literal["bgr", "rgb"], fps: float, name: str = "<frames>"
    ) -> None:
        self.frames = frames
        self.colour = colour
        self.fps = fps
        self.name = name
        self.error: Exception | None = None

    def __str__(self) -> str:
        return self.name

    def forget(self) -> None:
        """Let go of the frames."""
        self.frames = ()

    def arrays(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, uint8 (H, W, 3), B, G, R."""
        try:
            for number, frame in enumerate(self.frames):
                bgr = self._checked(frame, number)
                yield bgr if self.colour == "bgr" else bgr[:, :, ::-1]
        except Exception as error:
            self.error = error
            raise VideoError(f"its frames end with {type(error).__name__}", subject=self) from error

    def _checked(self, frame: Any, number: int) -> NDArray[np.uint8]:
        # A tensor, which NumPy takes from the CPU alone.
        array = np.asarray(frame.detach().cpu() if hasattr(frame, "detach") else frame)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            found = f"{array.dtype} {array.shape}" if hasattr(frame, "shape") else type(frame).__name__
            raise UsageError(f"frame {number} is not uint8 (H, W, 3) but {found}", subject=self)
        return array


class FrameReader:
    """Reads a `FrameSequence`; a `c3d_extract.decode.base.VideoReader`."""

    n_decode_errors = 0

    def __init__(self, sequence: FrameSequence, *, max_pixels: int = MAX_PIXELS) -> None:
        self.n_frames = 0
        self.info = VideoInfo(0, 0, sequence.fps, math.nan, "rawvideo", "frames")
        self._sequence = sequence
        self._max_pixels = max_pixels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: no file is open."""

    def trouble(self) -> str | None:
        """Return None: nothing can be missing."""
        return None

    def frames(self, transform: FrameTransform | None = None) -> Iterator[Frame]:
        """Yield the frames, transformed where there is a transform.

        Raises
        ------
        VideoError
            Where there is none, where one is larger than ``max_pixels``, or is no frame.
        """
        for bgr in self._sequence.arrays():
            height, width = bgr.shape[:2]
            if height * width > self._max_pixels:
                reason = f"frames of {width}x{height} are larger than --max-pixels {self._max_pixels}"
                raise VideoError(reason, subject=self._sequence)
            if self.n_frames == 0:
                self.info = replace(self.info, width=width, height=height)
            seconds = self.n_frames / self.info.fps
            self.n_frames += 1
            yield Frame(bgr if transform is None else transform(bgr), seconds)
        if self.n_frames == 0:
            raise VideoError("has no frames", subject=self._sequence)
