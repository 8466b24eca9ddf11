"""The decoder's interfaces, and the values that they exchange.

A `VideoReader` reads one file; to support another format, add a class with this interface and one line in
``reader.py``. A `Decoder` reads many files and yields `DecodeEvent` values; it applies to each frame a
`FrameTransform` that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "NOT_READY_SECONDS",
    "DecodeEvent",
    "DecodeOptions",
    "Decoder",
    "Frame",
    "FrameTransform",
    "FramesDecoded",
    "Lease",
    "Lines",
    "NextVideo",
    "SlotsExhausted",
    "VideoFailed",
    "VideoInfo",
    "VideoRead",
    "VideoReader",
    "one_line",
]

MAX_PIXELS = 1 << 26
"""Frames of more pixels than this (8192 x 8192) are refused by default: a header can claim any size."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container states about the stream that is read, before anything is decoded.

    Attributes
    ----------
    width, height
        Pixels, after the rotation where it is known before decoding, else as coded.
    fps
        Average frames per second, NaN where unknown.
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
    """One decoded frame, with the rotation applied.

    Attributes
    ----------
    bgr
        uint8 (H, W, 3) in the order B, G, R, which may be overwritten when the next frame is read; or what a
        transform made of it, uint8 of the transform's shape.
    pts_seconds
        The time stamp, or None.
    """

    bgr: NDArray[np.uint8]
    pts_seconds: float | None


Lines = Callable[[int, int], tuple["NDArray[np.intp]", "NDArray[np.intp]"]]
"""A function from a frame's height and width to the rows and columns needed, in pairs (2k, 2k + 1)."""


class VideoReader(Protocol):
    """An open video; a context manager.

    Opening and reading raise VideoError where the video cannot be read. Damage inside it is counted,
    and reading continues.
    """

    info: VideoInfo
    n_frames: int
    """Number of frames read so far."""
    n_decode_errors: int

    def frames(self, transform: FrameTransform | None = None) -> Iterator[Frame]:
        """Yield every frame, in order, transformed where there is a transform."""

    def trouble(self) -> str | None:
        """Return, in one line, what was wrong with a video that was read to its end, or None."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class FrameTransform(Protocol):
    """A function applied to each frame as soon as it is decoded, in the process that decodes it.

    It is pickled for decoder processes, and copied (``copy.copy``) for each decoder in this process,
    whose threads must not share its buffers.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a result, (rows, columns, channels), for frames of any size."""

    def lines(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the rows and columns of a frame of this size that the result depends on, as `Lines`."""

    def tables(self, height: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Return how rows and columns of the result are sampled, int32 (4, n) each; None for others.

        First and second line, and their weights in 1/2048, as OpenCV's 8-bit bilinear resize takes them.
        """

    def __call__(self, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return uint8 of `shape`, in an array of its own.

        Parameters
        ----------
        frame
            uint8 (H, W, 3), B, G, R; or its rows and columns `lines` alone, then also (H', W', 4).
        size
            Rows and columns of the whole frame, where ``frame`` holds only the `lines` of it.
        """


@dataclass(frozen=True)
class DecodeOptions:
    """Options that apply to every video.

    Attributes
    ----------
    transform
        Applied to each frame.
    n_frames
        Frames per `FramesDecoded`, 1 or more: a clip's length.
    max_pixels
        Larger frames are refused.
    fps
        Frames per second to resample to, or None for the frames as they are decoded.
    frame_step
        Every how many of the decoded frames one is taken; 1 where ``fps`` is given.
    """

    transform: FrameTransform
    n_frames: int
    max_pixels: int = MAX_PIXELS
    fps: float | None = None
    frame_step: int = 1


class Lease:
    """The right to read frames in memory that a decoder will use again.

    Parameters
    ----------
    release
        Gives the memory back; may be called from any thread.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self.release = release
        self.is_held = False

    def hold(self) -> Callable[[], None]:
        """Keep the frames until the returned function is called, from any thread."""
        self.is_held = True
        return self.release


@dataclass(frozen=True)
class FramesDecoded:
    """Some consecutive frames of a video.

    Attributes
    ----------
    task
        The video's number.
    frames
        uint8 (T, *shape of the transform), 1 ≤ T ≤ `DecodeOptions.n_frames`; B, G, R. Valid until the next
        event is requested, where `lease` is held until it is released: the memory is used again.
    times_seconds
        When each is shown, increasing.
    lease
        Keeps the frames.
    """

    task: int
    frames: NDArray[np.uint8]
    times_seconds: list[float]
    lease: Lease


@dataclass(frozen=True)
class SlotsExhausted:
    """Decoders wait: all their memory is held by whoever reads the frames."""


@dataclass(frozen=True)
class VideoRead:
    """A video was read to its end; ``trouble`` says what was wrong with it, or None."""

    task: int
    info: VideoInfo
    n_decoded: int
    n_decode_errors: int
    trouble: str | None
    seconds: float


@dataclass(frozen=True)
class VideoFailed:
    """A video could not be read; frames of it that were already yielded must be discarded."""

    task: int
    reason: str
    seconds: float


DecodeEvent = FramesDecoded | VideoRead | VideoFailed | SlotsExhausted

NextVideo = tuple[int, "Path"] | VideoFailed | None
"""A task and its path; a video that failed before it could be decoded; None: ask again, none is ready yet."""

NOT_READY_SECONDS = 0.02
"""How soon a decoder with nothing else to do asks again for a video that is not ready yet."""


class Decoder(Protocol):
    """Decodes many videos, for one run at a time."""

    def run(
        self, videos: Iterable[NextVideo], stopped: threading.Event | None = None
    ) -> Generator[DecodeEvent, None, None]:
        """Decode videos, ``(task, path)`` pairs or the rest of `NextVideo`, and yield events as they occur.

        The events of one task are in frame order and end with VideoRead or VideoFailed; those of several
        tasks may be interleaved. Setting ``stopped`` ends the run soon. When the run ends, leases that are
        still held end too.
        """

    def close(self) -> None:
        """End running processes and free resources."""


def one_line(error: Exception) -> str:
    """Return a library error's message, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
