"""Decode one video into events: read, transform, time and resample its frames."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from c3d_extract.decode.base import FramesDecoded, Lease, VideoFailed, VideoRead
from c3d_extract.decode.reader import open_in_memory, open_video
from c3d_extract.decode.timestamps import LONGEST_GAP_SECONDS, Gaps, frame_seconds, resample, steady_times
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions, VideoInfo, VideoReader
    from c3d_extract.decode.reader import InMemoryVideo

__all__ = ["decode_video", "failure_reason", "resampled"]

Item = TypeVar("Item")

_NO_LEASE = Lease(lambda: None)  # the memory is that of `next_buffer`


def decode_video(
    task: int,
    video: Path | InMemoryVideo,
    options: DecodeOptions,
    *,
    next_buffer: Callable[[], NDArray[np.uint8]],
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[DecodeEvent]:
    """Decode one video; yield its frames and then, in every case, a VideoRead or a VideoFailed.

    Parameters
    ----------
    task, video
        The video's number, and its path or what is in memory of it.
    options
        The decoder's options.
    next_buffer
        Returns memory for the next frames, uint8 (``options.n_frames``, *shape of the transform).
    on_frame
        Called after each decoded frame, even where resampling drops it.
    """
    started = time.monotonic()
    gaps = Gaps()
    end: VideoRead | VideoFailed
    try:
        with _open(video, options.max_pixels) as reader:
            timed = steady_times(_transformed(reader, options, on_frame), reader.info.fps)
            if options.fps is not None:
                timed = resampled(timed, reader.info, options.fps, gaps)
            taken = islice(timed, 0, None, options.frame_step)
            yield from _buffered(task, taken, next_buffer)
            trouble = "; ".join(filter(None, (reader.trouble(), gaps.trouble()))) or None
            counts = reader.n_frames, reader.n_decode_errors
            end = VideoRead(task, reader.info, *counts, trouble, time.monotonic() - started)
    except Exception as error:  # noqa: BLE001 - an unexpected error fails this video only
        end = VideoFailed(task, failure_reason(error), time.monotonic() - started)
    yield end


def _open(video: Path | InMemoryVideo, max_pixels: int) -> VideoReader:
    if isinstance(video, Path):
        return open_video(video, max_pixels=max_pixels)
    return open_in_memory(video, max_pixels=max_pixels)


def _transformed(
    reader: VideoReader, options: DecodeOptions, on_frame: Callable[[], None]
) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    for frame in reader.frames(options.transform):
        on_frame()
        yield frame.bgr, frame.pts_seconds


def resampled(
    timed: Iterable[tuple[Item, float]], info: VideoInfo, fps: float, gaps: Gaps | None = None
) -> Iterator[tuple[Item, float]]:
    """Resample a video's frames, as `steady_times` yields them, by time; see `timestamps.resample`."""
    return resample(timed, fps, native_fps=info.fps, longest_gap_seconds=_longest_gap(info), gaps=gaps)


def _longest_gap(info: VideoInfo) -> float:
    """Return the longest time one frame can be on screen: at most the video's stated duration."""
    duration = info.duration_seconds
    stated = duration + frame_seconds(info.fps) if duration > 0 else LONGEST_GAP_SECONDS
    return min(stated, LONGEST_GAP_SECONDS)


def _buffered(
    task: int,
    timed: Iterator[tuple[NDArray[np.uint8], float]],
    next_buffer: Callable[[], NDArray[np.uint8]],
) -> Iterator[FramesDecoded]:
    """Copy frames into buffers; yield each full one, and the rest at the end."""
    times: list[float] = []
    for frame, time_seconds in timed:
        if not times:
            buffer = next_buffer()
        buffer[len(times)] = frame
        times.append(time_seconds)
        if len(times) == len(buffer):
            yield FramesDecoded(task, buffer, times, _NO_LEASE)
            times = []
    if times:
        yield FramesDecoded(task, buffer[: len(times)], times, _NO_LEASE)


def failure_reason(error: Exception) -> str:
    """Return why a video failed, as one line of valid UTF-8 even where a file name is not."""
    if isinstance(error, VideoError):
        reason = error.reason
    elif isinstance(error, MemoryError):
        reason = "not enough memory to decode it"
    else:
        reason = f"decoder error: {type(error).__name__}: {error}"
    return " ".join(reason.encode("utf-8", "backslashreplace").decode("utf-8").splitlines())
