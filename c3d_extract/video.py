"""Probe and decode: the only importer of av (PyAV, FFmpeg).

What is done here, and why, was measured on several hundred real and damaged files:

* Frames are taken in the order of the decoder. Time stamps of packed-B-frame AVIs (all of UCF101) run
  1, 2, 4, 3, … in *correct* order, so they neither order nor reject frames; see `times`.
* One decoder thread. FFmpeg's frame threads give other frames on damaged files, according to the
  number of cores.
* Only containers that hold their own pictures are opened, and only the file itself: a playlist or a
  concat script, whatever its name, could make FFmpeg open other files and addresses.
* An error inside a stream is counted and decoding goes on; nothing is put in place of what is lost.
  Frames that the decoder itself patched up (grey, smeared) are kept, as OpenCV keeps them, and counted.
* A rotation (phone videos) is applied, as OpenCV does. Interlaced frames are taken as they are, both
  fields in one picture.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from c3d_extract.errors import VideoError
from c3d_extract.times import frame_seconds

try:
    from c3d_extract import _kernels
except ImportError:  # there was no C compiler when this was installed
    _kernels = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

__all__ = [
    "FrameFolder",
    "VideoInfo",
    "VideoReader",
    "codec_report",
    "open_video",
    "read_frame_folder",
    "write_video",
]

MAX_PIXELS = 1 << 26
"""Frames of more pixels than this (8192 x 8192) are refused unless asked for: a header can claim any size."""

# Demuxers of files that hold their own pictures. Left out on purpose: concat, hls, dash, sdp, rtsp,
# image2 (patterns), imf, lavfi and devices, which open other files or addresses.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,h261,h263,h264,hevc,vvc,"
    "obu,av1,evc,ivf,m4v,mjpeg,gif,apng,ogg,rm,mxf,nut,yuv4mpegpipe,swf,dv,wtv,nsv,gxf,dirac,vc1,vc1test,film_cpk,"
    "smk,bink,roq,dfa,fli,flic,4xm,amv,avs,cavsvideo,avs2,avs3,ea,idcin,ipmovie,iv8,jv,kux,lmlm4,mm,mtv,mv,nuv,"
    "pva,r3d,rl2,rpl,smjpeg,thp,vivo,wc3movie,xmv,yop,dhav,cine,png_pipe,jpeg_pipe,webp_pipe,gif_pipe,bmp_pipe"
)
# How files begin that are no videos, in small letters, and what to say of them.
_NO_VIDEOS = (
    (
        (
            b"#extm3u",
            b"ffconcat version",
            b"<?xml",
            b"<mpd",
            b"v=0\r\n",
            b"v=0\n",
            b"[playlist]",
            b"[reference]",
        ),
        "a playlist or script, not a video; refused because it could open other files",
    ),
    ((b"<!doctype html", b"<html"), "a web page, not a video"),
    ((b"version https://git-lfs",), "a Git LFS pointer, not the video itself; fetch it with `git lfs pull`"),
)
# Gathering the needed lines costs more than it saves where they are a larger share of the frame. Measured, in
# part against whole: 640x480 (0.37) 1.1, 854x480 (0.28) 0.9, 1280x720 (0.12) 0.5, 1920x1080 (0.05) 0.25.
_WORTH_CUTTING = 0.3
_BICUBIC = Interpolation.BICUBIC  # its name would be looked up for every frame
_MATRICES = {1, 4, 7, 9, 10}  # BT.709, FCC, SMPTE 240M, BT.2020: those that are not BT.601's
# A search goes by packets and may end after the time that was asked for, in some containers by a second.
_SEEK_MARGINS_SECONDS = (1, 10)
_MAX_READ_ERRORS = 100  # in a row; a demuxer that fails that often without a packet will not recover


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


class VideoReader:
    """Decodes one file's frames in decode order.

    Parameters
    ----------
    path
        A regular file; its name is never taken for an address or a pattern.
    max_pixels
        Larger frames are refused.

    Raises
    ------
    VideoError
        Where the file is no video, has no frames, or is not to be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = Path(path)
        self.n_decode_errors = 0
        self.n_frames = 0
        self._n_packets = 0
        self._first_error: str | None = None
        self._max_pixels = max_pixels
        self._reformatter = VideoReformatter()
        self._parts: dict[tuple[Any, ...], _Part | None] = {}
        self._last_pts: float | None = None
        self._first_pts: float | None = None
        _check_regular(self.path)
        self._container = self._open()
        try:
            self._check_not_locked()
            self._stream = self._choose_stream()
            self._time_base = self._stream.time_base  # made anew at every look
            self.info = self._probe()
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
        # An absolute path keeps names such as "http:x.mp4" from being taken for addresses.
        # Container options, because PyAV 15 crashes on `options` where streams turn up late (FLV, MPEG).
        only = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
        path = os.path.abspath(self.path)  # noqa: PTH100
        try:
            return av.open(path, container_options=only, metadata_errors="replace")
        except Exception as error:
            raise VideoError(_why_not_opened(self.path, error), subject=self.path) from error

    def _check_not_locked(self) -> None:
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
        # FFmpeg counts what it allocates, padding and all, so it gets some room; the exact limit is ours.
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
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        return _clock_seconds(self._stream.metadata.get("DURATION", ""))  # Matroska's, where it has one

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise VideoError(
                f"frames of {width}x{height} are larger than --max-pixels {self._max_pixels}",
                subject=self.path,
            )

    def frames(self, lines: Lines | None = None, *, start_seconds: float = 0.0) -> Iterator[Frame]:
        """Yield every frame that can be decoded; errors on the way are counted in ``n_decode_errors``.

        Parameters
        ----------
        lines
            Which rows and columns are needed. Frames may then come with these alone, which is much faster.
        start_seconds
            Frames that are shown earlier than this after the stream's start are left out, and those before
            the nearest key frame not even decoded where the file can be searched. Meant for one clip of a
            long video: what a decoder makes of damaged places may depend on where it began.

        Raises
        ------
        VideoError
            At the end, where no frame came; or where a frame is larger than ``max_pixels``.
        """
        for frame in self._decoded_since(start_seconds) if start_seconds > 0 else self._decoded():
            self._check_size(frame.width, frame.height)
            part = None if lines is None else self._part(frame, lines)
            bgr = self._convert(frame) if part is None else part.convert(frame)
            if bgr is None:
                continue
            size = None if part is None else part.size
            pts_seconds = self._pts_seconds(frame)
            self._note_time(pts_seconds)
            if self.n_frames == 0:
                height, width = size or bgr.shape[:2]
                self.info = VideoInfo(width, height, *_rest(self.info))
            self.n_frames += 1
            yield Frame(bgr, pts_seconds, size)
            del bgr  # the next frame gets the same memory, which the cache still holds
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
        """Yield frames from some place on that is not after ``start``, which is a time stamp in seconds."""
        for margin in _SEEK_MARGINS_SECONDS:
            frames = self._decoded()
            earliest = self._first_after_search(start - margin, frames)
            pts_seconds = None if earliest is None else self._pts_seconds(earliest)
            if earliest is not None and pts_seconds is not None and pts_seconds <= start:
                yield earliest
                yield from frames
                return
        self.close()
        self._container = self._open()
        self._stream = self._choose_stream()
        yield from self._decoded()

    def _first_after_search(self, seconds: float, frames: Iterator[VideoFrame]) -> VideoFrame | None:
        try:
            self._container.seek(int(seconds * av.time_base))
        except Exception:  # noqa: BLE001 - not every file can be searched; see _packets
            return None
        return next(frames, None)

    def _pts_seconds(self, frame: VideoFrame) -> float | None:
        # Not frame.time: frames that come out when the decoder is flushed have no time base of their own.
        if frame.pts is None or self._time_base is None:
            return None
        return frame.pts * self._time_base.numerator / self._time_base.denominator

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield packets to the end of the file, the empty one that flushes the decoder included."""
        packets = self._container.demux(self._stream)
        in_a_row = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - PyAV raises whatever fits the errno: PermissionError, ValueError, …
                self._count(_plain(error))
                in_a_row += 1
                if in_a_row == _MAX_READ_ERRORS:
                    yield cast("Packet[VideoStream]", Packet())
                    return
                packets = self._container.demux(self._stream)
            else:
                in_a_row = 0
                yield packet

    def _decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        if not packet.size and packet.dts is not None:
            return []  # a picture that was dropped when it was recorded; to FFmpeg it would mean the end
        self._n_packets += packet.size > 0
        try:
            frames = self._stream.codec_context.decode(packet if packet.size else None)
        except EOFError:
            return []  # the decoder was flushed already
        except Exception as error:  # noqa: BLE001 - see _packets
            self._count(_plain(error))
            return []
        for frame in frames:
            if frame.is_corrupt:
                self._count("a frame with damaged or missing parts")
        return frames

    def _convert(self, frame: VideoFrame) -> NDArray[np.uint8] | None:
        # One reformatter for the whole video keeps its swscale context; a new one a frame costs three
        # times as much. Full size, and bicubic where chroma must be interpolated: then pixels equal OpenCV's.
        try:
            converted = self._reformatter.reformat(
                _progressive(frame), format="bgr24", interpolation=_BICUBIC, **_colours(frame)
            )
            bgr = _pixels(converted, 3)
        except Exception as error:  # noqa: BLE001 - see _packets
            self._count(_plain(error))
            return None
        turns = round(frame.rotation / 90) % 4
        return np.rot90(bgr, turns) if turns else bgr  # rotation is counter-clockwise, as rot90 turns

    def _part(self, frame: VideoFrame, lines: Lines) -> _Part | None:
        """Return what converts the needed lines of such frames alone, or None where that cannot be done."""
        kind = _kind(frame)
        if kind not in self._parts:
            rows, columns = lines(frame.height, frame.width)
            share = len(rows) * len(columns) / (frame.height * frame.width)
            cut = share <= _WORTH_CUTTING and _can_be_cut(frame)
            self._parts[kind] = _Part.proven(frame, rows, columns) if cut else None
        return self._parts[kind]

    def _count(self, error: str) -> None:
        self.n_decode_errors += 1
        if self._first_error is None:
            self._first_error = error

    def _note_time(self, pts_seconds: float | None) -> None:
        if pts_seconds is not None:
            self._first_pts = pts_seconds if self._first_pts is None else min(self._first_pts, pts_seconds)
            self._last_pts = pts_seconds if self._last_pts is None else max(self._last_pts, pts_seconds)

    def trouble(self) -> str | None:
        """Say what was wrong with a video that was read to its end, or None.

        Truncated Matroska files end without any error, so a video that stops well before the length
        that its own stream states counts as damaged too.
        """
        if self.n_decode_errors:
            many = (
                f"{self.n_decode_errors} decode errors, the first"
                if self.n_decode_errors > 1
                else "1 decode error"
            )
            return f"{many}: {self._first_error}"
        stated = self.info.duration_seconds
        alone = self._stream_duration() is not None or len(self._container.streams) == 1
        if not alone or self._first_pts is None or self._last_pts is None or math.isnan(stated):
            return None
        # Some containers count the length from their first frame, some from zero: the more lenient.
        read = self._last_pts - min(self._first_pts, 0.0) + frame_seconds(self.info.fps)
        if stated - read > max(1.0, 0.1 * stated):
            return f"ends early: {read:.1f} s of {stated:.1f} s could be read"
        return None


_OLD_SWSCALE = int(av.__version__.split(".")[0]) < 17  # PyAV 17 went from sws_scale to sws_scale_frame


def _colours(frame: VideoFrame) -> dict[str, Any]:
    """Return what makes every PyAV convert alike: one thread, the matrix that the frame is tagged with."""
    if not _OLD_SWSCALE:
        return {"threads": 1}
    if frame.colorspace not in _MATRICES:
        return {}
    return {
        "src_colorspace": frame.colorspace,
        "dst_colorspace": Colorspace.ITU601,  # heeded only where the two differ; means nothing for RGB
        "src_color_range": ColorRange.JPEG if frame.color_range == ColorRange.JPEG else ColorRange.MPEG,
    }


def _progressive(frame: VideoFrame) -> VideoFrame:
    """Return the frame without its mark as interlaced.

    New versions of swscale convert the two fields apart, old ones and so every OpenCV that can read
    such videos (up to 4.10) do not.
    """
    if not frame.interlaced_frame:
        return frame
    plain = av.VideoFrame(frame.width, frame.height, frame.format.name)
    plain.colorspace, plain.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, plain.planes, strict=True):
        n_bytes = min(source.line_size, target.line_size)
        _rows(target, n_bytes)[:] = _rows(source, n_bytes)
    return plain


def _rows(plane: Any, n_bytes: int) -> NDArray[np.uint8]:
    """View a plane as uint8 (rows, bytes)."""
    return np.ndarray((plane.height, n_bytes), np.uint8, plane, strides=(plane.line_size, 1))


_Kind = tuple[str, int, int, int, int]


def _kind(frame: VideoFrame) -> _Kind:
    return frame.format.name, frame.height, frame.width, int(frame.colorspace), int(frame.color_range)


def _can_be_cut(frame: VideoFrame) -> bool:
    if frame.format.name not in {"yuv420p", "yuvj420p"} or frame.height % 2 or frame.width % 2:
        return False
    return not frame.rotation and all(plane.line_size > 0 for plane in frame.planes)


class _Part:
    """Converts the needed lines of 4:2:0 frames, put together in a small frame of their own.

    With chroma at half size and even sides, swscale gives each pixel from its own luma and its block's
    chroma, so leaving lines out changes no other. That holds for its vector code on x86; to be sure of
    it on any machine, it is tried on noise of the same kind first, once in every process.
    """

    _tried: ClassVar[dict[tuple[_Kind, bytes, bytes], bool]] = {}

    def __init__(self, frame: VideoFrame, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        self.size = frame.height, frame.width
        self._n_columns = len(columns)
        blocks = [(lines[::2] // 2).astype(np.int32) for lines in (rows, columns)]
        self._luma, self._chroma = (rows.astype(np.int32), blocks[1], 2), (blocks[0], blocks[1], 1)
        width = -(-len(columns) // 16) * 16  # whole vectors
        self._small = av.VideoFrame(width, len(rows), frame.format.name)
        self._small.colorspace, self._small.color_range = frame.colorspace, frame.color_range
        self._targets = [_rows(plane, plane.line_size) for plane in self._small.planes]
        for target in self._targets:
            target[:] = 128
        self._reformatter = VideoReformatter()
        self._colours = _colours(self._small)

    @classmethod
    def proven(cls, frame: VideoFrame, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> _Part | None:
        """Return one for frames such as this, or None where its pixels are not those of the whole frame."""
        part = cls(frame, rows, columns)
        key = (_kind(frame), rows.tobytes(), columns.tobytes())
        if key not in cls._tried:
            noise = _noise(frame)
            whole = VideoReformatter().reformat(
                noise, format="bgr24", interpolation=_BICUBIC, **_colours(noise)
            )
            expected = _pixels(whole, 3)[rows][:, columns]
            cls._tried[key] = bool((part.convert(noise)[..., :3] == expected).all())
        return part if cls._tried[key] else None

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the needed lines of a frame as uint8 (rows, columns, 4); valid until the next call."""
        places = self._luma, self._chroma, self._chroma
        for plane, target, (rows, columns, width) in zip(frame.planes, self._targets, places, strict=True):
            _gather(_rows(plane, plane.width), rows, columns, target, width)
        made = self._reformatter.reformat(self._small, format="bgra", interpolation=_BICUBIC, **self._colours)
        return _pixels(made, 4)[:, : self._n_columns]


def _gather(
    plane: NDArray[np.uint8],
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    out: NDArray[np.uint8],
    width: int,
) -> None:
    """Copy these rows of a plane, and of them these columns of ``width`` bytes, to where ``out`` begins."""
    if _kernels is not None:
        _kernels.gather(plane, rows, columns, out, width)
    else:
        of_width = plane.take(rows, axis=0).view(np.dtype(f"u{width}"))
        out[:, : width * len(columns)] = of_width.take(columns, axis=1).view(np.uint8)


def _noise(like: VideoFrame) -> VideoFrame:
    """Return a frame of the same kind with every value from 0 to 255 in it, the same noise every 32 rows."""
    noise = av.VideoFrame(like.width, like.height, like.format.name)
    noise.colorspace, noise.color_range = like.colorspace, like.color_range
    for seed, plane in enumerate(noise.planes):
        values = _rows(plane, plane.line_size)
        count = np.arange(32 * plane.line_size, dtype=np.uint32) + np.uint32(977 * seed)
        tile = (count * np.uint32(2654435761) >> np.uint32(23)).astype(np.uint8).reshape(32, -1)
        for start in range(0, len(values), 32):
            rows = values[start : start + 32]
            rows[:] = tile[: len(rows)]
    return noise


def _pixels(frame: VideoFrame, n_channels: int) -> NDArray[np.uint8]:
    plane = cast("Any", frame.planes[0])
    shape, strides = (frame.height, frame.width, n_channels), (plane.line_size, n_channels, 1)
    return np.ndarray(shape, np.uint8, plane, strides=strides)


def _clock_seconds(text: str) -> float | None:
    """Return the seconds of ``00:00:04.000000000``, or None."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def _rest(info: VideoInfo) -> tuple[float, float, str, str]:
    return info.fps, info.duration_seconds, info.codec, info.container


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise VideoError("a broken link" if path.is_symlink() else "no such file", subject=path) from error
    except ValueError as error:  # a NUL in the name
        raise VideoError("no such file: not a file name", subject=path) from error
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}", subject=path) from error
    if not stat.S_ISREG(mode):
        raise VideoError("not a regular file", subject=path)


def _why_not_opened(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror}"
    if not head:
        return "an empty file"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for marks, why in _NO_VIDEOS:
        if start.startswith(marks):
            return why
    if head[4:8] == b"ftyp" and not _has_box(path, {b"moov", b"moof", b"meta"}):
        return "cut off: it ends before its index (the moov box)"
    if getattr(error, "errno", None) == errno.EINVAL:  # its demuxer is not among those allowed
        return "not a kind of video file that is opened here"
    return f"not a readable video: {_plain(error)}"


def _has_box(path: Path, kinds: set[bytes]) -> bool:
    """Say whether an MP4 file holds one of these boxes at its top level, whole or not."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            if head[4:] in kinds:
                return True
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:
                return False
            file.seek(size - 8, os.SEEK_CUR)
    return False


def _plain(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]


class FrameFolder:
    """A folder of numbered images read as one video, in numeric order (the authors' ``%06d.jpg`` dumps).

    Images are decoded by Pillow's libjpeg, which gives OpenCV's pixels; FFmpeg's differ by up to
    16 grey levels. Frames carry no time stamps.
    """

    n_decode_errors = 0

    def __init__(self, path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = Path(path)
        self.n_frames = 0
        self._max_pixels = max_pixels
        try:
            self._files = frame_files(self.path)
        except OSError as error:
            raise VideoError(f"cannot be listed: {error.strerror}", subject=self.path) from error
        if not self._files:
            raise VideoError("no numbered images in this folder", subject=self.path)
        self.info = VideoInfo(0, 0, math.nan, math.nan, self._files[0].suffix.lstrip("."), "frames")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is kept open."""

    def trouble(self) -> str | None:
        """Say how many numbers are missing or doubled between the first and the last, or None."""
        numbers = [int(file.stem) for file in self._files]
        doubled = len(numbers) - len(set(numbers))
        if doubled:
            return f"{doubled} images share their number with another"
        missing = numbers[-1] - numbers[0] + 1 - len(numbers)
        return f"{missing} images missing between {numbers[0]} and {numbers[-1]}" if missing else None

    def frames(self, lines: Lines | None = None) -> Iterator[Frame]:  # noqa: ARG002 - images come whole
        """Yield the images; one that cannot be decoded ends the video with a VideoError that names it."""
        for file in self._files:
            bgr = _read_image(file, self._max_pixels)
            if self.n_frames == 0:
                self.info = VideoInfo(bgr.shape[1], bgr.shape[0], *_rest(self.info))
            self.n_frames += 1
            yield Frame(bgr, None)


def frame_files(folder: Path) -> list[Path]:
    """Return the images of ``folder`` whose names are numbers, in numeric order."""
    images = [f for f in folder.iterdir() if f.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    numbered = [f for f in images if f.stem.isdecimal() and f.stem.isascii()]
    return sorted(numbered, key=lambda f: (int(f.stem), f.name))


def _read_image(file: Path, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width}x{image.height}"
                raise VideoError(
                    f"{file.name}: {size} is larger than --max-pixels {max_pixels}", subject=file.parent
                )
            if image.mode.startswith(("I", "F")):
                raise VideoError(f"{file.name}: more than 8 bits a pixel", subject=file.parent)
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(
            f"{file.name}: not a readable image ({_plain(error)})", subject=file.parent
        ) from error
    return rgb[:, :, ::-1]


def read_frame_folder(path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of a folder as uint8 (H, W, 3), B, G, R, in numeric order."""
    with FrameFolder(path) as folder:
        for frame in folder.frames():
            yield frame.bgr


def open_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> VideoReader | FrameFolder:
    """Open a video file, or a folder of numbered images."""
    return (
        FrameFolder(path, max_pixels=max_pixels)
        if Path(path).is_dir()
        else VideoReader(path, max_pixels=max_pixels)
    )


def write_video(path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: int) -> None:
    """Write frames uint8 (H, W, 3), R, G, B, even sizes, as H.264 where FFmpeg has it, else MPEG-4."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
    with av.open(os.path.abspath(path), "w", format="mp4") as container:  # noqa: PTH100
        stream = cast("VideoStream", container.add_stream(codec, rate=Fraction(fps), options=options))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for index, rgb in enumerate(frames):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))
            )
        container.mux(stream.encode())


def codec_report() -> dict[str, bool]:
    """Say which of the common video decoders this build of FFmpeg has."""
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
