"""Probe and decode one file with PyAV (FFmpeg)."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import av
from av.packet import Packet
from av.stream import Disposition

from c3d_extract.decode.base import MAX_PIXELS, Frame, VideoInfo, one_line
from c3d_extract.decode.opened import OpenedFile
from c3d_extract.decode.safety import CONTAINERS, check_regular, why_not_opened
from c3d_extract.decode.sampling import FrameSampling
from c3d_extract.decode.timestamps import frame_seconds
from c3d_extract.decode.truncation import why_truncated
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from c3d_extract.decode.base import FrameTransform

__all__ = ["FFMPEG_VERSION", "PyAVReader", "codec_report"]

FFMPEG_VERSION: str = av.ffmpeg_version_info

# Tags may be in any encoding. PyAV 19 keeps their bytes, as surrogates, and has no such argument.
_TAGS: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
# Seeking goes by packets and may end after the requested time, in some containers by a second.
_SEEK_MARGINS_SECONDS = (1, 10)
_AVI_PLACEHOLDER = (
    1 << 30
)  # the frame count that FFmpeg writes into an AVI's header until it knows the real one
_MAX_READ_ERRORS = 100  # consecutive; a demuxer that fails that often without a packet will not recover


class PyAVReader:
    """Decodes one file's frames in decode order; a `c3d_extract.decode.base.VideoReader`.

    Parameters
    ----------
    path
        A regular file, whose name is never interpreted as a URL or a pattern; or a file object.
    max_pixels
        Larger frames are refused.

    Raises
    ------
    VideoError
        Where the file is not a video, has no frames, or may not be opened.
    """

    def __init__(self, path: str | os.PathLike[str] | OpenedFile, *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = path if isinstance(path, OpenedFile) else Path(path)
        self.n_decode_errors = 0
        self.n_frames = 0
        self._n_packets = 0
        self._n_missing = 0  # of the packets that an index lists
        self._first_error: str | None = None
        self._max_pixels = max_pixels
        self._last_pts: float | None = None
        self._first_pts: float | None = None
        self._end_ticks: int | None = None  # of the packet that ends last, in units of the stream's time base
        self._n_bytes = self.path.size if isinstance(self.path, OpenedFile) else check_regular(self.path)
        self._container = self._open()
        try:
            self._check_not_encrypted()
            self._stream = self._choose_stream()
            self._time_base = self._stream.time_base  # PyAV creates a new Fraction at every access
            self.info = self._probe()
            # Read now, because reading it from a closed container is an error since PyAV 19.
            self._states_own_length = self._stream_duration() is not None or len(self._container.streams) == 1
            # FFmpeg's own list of samples, after edits; those of other containers are not complete.
            self._n_missing = len(self._stream.index_entries) if self.info.container == "mov" else 0
            self._check_size(self.info.width, self.info.height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> InputContainer:
        path: OpenedFile | str
        if isinstance(self.path, OpenedFile):
            path, protocols = self.path, ""  # none: nothing but the file object is read
            path.rewind()
        else:
            # FFmpeg would open a relative path such as "http:x.mp4" as a URL.
            path, protocols = os.path.abspath(self.path), "file"  # noqa: PTH100
        # Passed as container options, because it is the demuxer that opens further files.
        allowed = {"protocol_whitelist": protocols, "format_whitelist": CONTAINERS}
        try:
            return cast("InputContainer", av.open(path, "r", container_options=allowed, **_TAGS))
        except Exception as error:
            raise VideoError(why_not_opened(self.path, error), subject=self.path) from error

    def _check_not_encrypted(self) -> None:
        # FFmpeg would decode the scrambled bytes of a protected Windows Media file into noise.
        if "ASF_Protection_Type" in self._container.metadata:
            raise VideoError("protected against copying (DRM), so it cannot be decoded", subject=self.path)

    def _choose_stream(self) -> VideoStream:
        videos = list(self._container.streams.video)
        moving = [s for s in videos if not s.disposition & Disposition.attached_pic]
        if not moving:
            raise VideoError(
                "no video stream, only a cover picture" if videos else "no video stream", subject=self.path
            )
        known = [s for s in moving if getattr(s, "codec_context", None) is not None]
        if not known:
            raise VideoError("no decoder for its video codec", subject=self.path)
        # FFmpeg's choice: default disposition first, then the stream with more frames and a higher bit rate.
        best = self._container.streams.best("video")
        stream = next((s for s in known if best is not None and s.index == best.index), known[0])
        stream.codec_context.thread_count = 1
        # FFmpeg's limit counts allocated pixels, padding included, so it must be larger than the exact limit,
        # which _check_size enforces.
        stream.codec_context.options = {"max_pixels": str(2 * self._max_pixels + (1 << 20))}
        return stream

    def _probe(self) -> VideoInfo:
        stream, context = self._stream, self._stream.codec_context
        fps = float(stream.average_rate) if stream.average_rate else math.nan
        codec = context.codec.canonical_name  # "av1", whichever decoder of it this FFmpeg has
        return VideoInfo(
            context.width,
            context.height,
            fps,
            self._duration(),
            codec,
            self._container.format.name.split(",")[0],
        )

    def _duration(self) -> float:
        own = self._stream_duration()
        if own is not None:
            return own
        return math.nan if self._container.duration is None else self._container.duration / av.time_base

    def _stream_duration(self) -> float | None:
        length = self._stream.duration
        if self._container.format.name == "avi" and length is not None:
            if self._stream.frames >= _AVI_PLACEHOLDER:
                return math.nan
            # FFmpeg shortens the length by the share of the file that is missing.
            length = max(length, self._stream.frames)
        # An unknown time base is None, since PyAV 19 a rational that is false.
        if length is not None and self._stream.time_base:
            return float(length * self._stream.time_base)
        return _clock_seconds(self._stream.metadata.get("DURATION", ""))  # Matroska's, where it has one

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoError(
                f"frames of {width}x{height} are larger than --max-pixels {self._max_pixels}",
                subject=self.path,
            )

    def frames(
        self, transform: FrameTransform | None = None, *, start_seconds: float = 0.0
    ) -> Iterator[Frame]:
        """Yield every frame that can be decoded; errors are counted in ``n_decode_errors``.

        Parameters
        ----------
        transform
            Applied to each frame, in one pass with the conversion where that makes the same pixels.
        start_seconds
            Frames shown earlier than this after the stream's start are left out, and those before the
            nearest key frame are not even decoded where the file is seekable. Meant for one clip of a long
            video: the frames at damaged places may depend on where decoding began.

        Raises
        ------
        VideoError
            At the end, where there was no frame; or where a frame is larger than ``max_pixels``.
        """
        if start_seconds > 0:
            self._n_missing = 0
        sampling = FrameSampling(transform)
        for frame in self._decoded_since(start_seconds) if start_seconds > 0 else self._decoded():
            self._check_size(frame.width, frame.height)
            image = self._sampled(sampling, frame)
            if image is None:
                continue
            pts_seconds = self._pts_seconds(frame)
            self._note_time(pts_seconds)
            if self.n_frames == 0:
                self._note_size(frame)
            self.n_frames += 1
            yield Frame(image, pts_seconds)
            del image  # so that the next frame reuses the memory, which is still in the CPU cache
        if self.n_frames == 0:
            why = self._first_error or ("" if self._n_packets else "its video stream is empty")
            raise VideoError(f"no frame could be decoded{why and f' ({why})'}", subject=self.path)

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            yield from self._decode(packet)

    def _decoded_since(self, seconds: float) -> Iterator[VideoFrame]:
        first = float((self._stream.start_time or 0) * (self._time_base or 0))
        for frame in self._decoded_from_before(first + seconds):
            pts_seconds = self._pts_seconds(frame)
            if pts_seconds is None or pts_seconds >= first + seconds:
                yield frame

    def _decoded_from_before(self, start: float) -> Iterator[VideoFrame]:
        """Yield frames from a position that is not after ``start``, a time stamp in seconds."""
        for margin in _SEEK_MARGINS_SECONDS:
            frames = self._decoded()
            earliest = self._first_after_seek(start - margin, frames)
            pts_seconds = None if earliest is None else self._pts_seconds(earliest)
            if earliest is not None and pts_seconds is not None and pts_seconds <= start:
                yield earliest
                yield from frames
                return
        self.close()
        self._container = self._open()
        self._stream = self._choose_stream()
        yield from self._decoded()

    def _first_after_seek(self, seconds: float, frames: Iterator[VideoFrame]) -> VideoFrame | None:
        try:
            self._container.seek(int(seconds * av.time_base))
        except Exception:  # noqa: BLE001 - not every file is seekable; see _packets
            return None
        return next(frames, None)

    def _pts_seconds(self, frame: VideoFrame) -> float | None:
        # Not frame.time: frames returned when the decoder is flushed have no time base of their own.
        if frame.pts is None or not self._time_base:
            return None
        return frame.pts * self._time_base.numerator / self._time_base.denominator

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield packets to the end of the file, including the empty one that flushes the decoder."""
        packets = self._container.demux(self._stream)
        in_a_row = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - PyAV raises the type that fits the errno: PermissionError, ValueError, …
                self._count_error(one_line(error))
                in_a_row += 1
                if in_a_row == _MAX_READ_ERRORS:
                    yield cast("Packet[VideoStream]", Packet())
                    return
                packets = self._container.demux(self._stream)
            else:
                in_a_row = 0
                yield packet

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        self._n_missing -= packet.size > 0 or packet.dts is not None
        if not packet.size and packet.dts is not None:
            return []  # a frame dropped while recording; FFmpeg would take the empty packet for the end
        self._n_packets += packet.size > 0
        if packet.pts is not None and packet.duration:
            end = packet.pts + packet.duration
            self._end_ticks = end if self._end_ticks is None else max(self._end_ticks, end)
        # FFmpeg would try to decode the scrambled bytes, and return noise.
        if packet.has_sidedata("encryption_info"):
            self._count_error("encrypted (DRM)")
            return []
        try:
            frames = self._stream.codec_context.decode(packet if packet.size else None)
        except EOFError:
            return []  # the decoder was flushed already
        except Exception as error:  # noqa: BLE001 - see _packets
            self._count_error(one_line(error))
            return []
        for frame in frames:
            if frame.is_corrupt:
                self._count_error("a frame with damaged or missing parts")
        return frames

    def _note_size(self, frame: VideoFrame) -> None:
        is_turned = round(frame.rotation / 90) % 2 == 1
        width, height = (frame.height, frame.width) if is_turned else (frame.width, frame.height)
        self.info = replace(self.info, width=width, height=height)

    def _sampled(self, sampling: FrameSampling, frame: VideoFrame) -> NDArray[np.uint8] | None:
        try:
            return sampling(frame)
        except Exception as error:  # noqa: BLE001 - see _packets
            self._count_error(one_line(error))
            return None

    def _count_error(self, error: str) -> None:
        self.n_decode_errors += 1
        if self._first_error is None:
            self._first_error = error

    def _note_time(self, pts_seconds: float | None) -> None:
        if pts_seconds is not None:
            self._first_pts = pts_seconds if self._first_pts is None else min(self._first_pts, pts_seconds)
            self._last_pts = pts_seconds if self._last_pts is None else max(self._last_pts, pts_seconds)

    def trouble(self) -> str | None:
        """Return everything that was wrong with a video that was read to its end, in one line, or None.

        A truncated file seldom causes a decode error, so its structure is checked too; and a video that
        ends well before the length that its stream states is reported as damaged.
        """
        n_bytes = self._n_bytes
        cut = None if n_bytes is None else why_truncated(self.path, self.info.container, n_bytes)
        missing = (
            f"its index lists {self._n_missing} more frames than there are" if self._n_missing > 0 else None
        )
        return "; ".join(filter(None, (self._decode_errors(), cut, missing, self._early_end()))) or None

    def _decode_errors(self) -> str | None:
        if self.n_decode_errors < 2:
            return f"1 decode error: {self._first_error}" if self.n_decode_errors else None
        return f"{self.n_decode_errors} decode errors, the first: {self._first_error}"

    def _early_end(self) -> str | None:
        stated = self.info.duration_seconds
        if not self._states_own_length or math.isnan(stated):
            return None
        if self._first_pts is None or self._last_pts is None:
            return None
        step = frame_seconds(self.info.fps)
        # Some containers count the length from their first frame, some from zero: use the more lenient.
        end = self._last_pts + step
        if self._end_ticks is not None and self._time_base:
            end = max(end, float(self._end_ticks * self._time_base))
        read = end - min(self._first_pts, 0.0)
        # Of 190 intact files, none was short by more than one frame; headers can be off by one or two more.
        if stated - read > max(0.2, 3 * step, 0.05 * stated):
            return f"ends early: {read:.1f} s of {stated:.1f} s could be read"
        return None


def _clock_seconds(text: str) -> float | None:
    """Return the seconds of ``00:00:04.000000000``, or None."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def codec_report() -> dict[str, bool]:
    """Return which of the common video decoders this build of FFmpeg has."""
    common = (
        "h264",
        "hevc",
        "av1",
        "libdav1d",
        "vp9",
        "vp8",
        "mpeg4",
        "mpeg2video",
        "mjpeg",
        "wmv3",
        "prores",
    )
    return {name: name in av.codecs_available for name in common}
