"""Convert decoded frames to B, G, R as OpenCV does; of large frames only the needed rows and columns.

Like ``pyav.py`` this module imports PyAV, because it works on PyAV's frames; it opens no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from c3d_extract.decode.base import Lines

__all__ = [
    "Converter",
    "FrameKind",
    "PartialConverter",
    "has_independent_blocks",
    "kind_of",
    "noise_like",
]

# Above this share of the frame, gathering the needed lines costs more than it saves. Measured
# time, partial / whole: 640x480 (share 0.37) 1.1, 854x480 (0.28) 0.9, 1280x720 (0.12) 0.5, 1920x1080 (0.05)
# 0.25.
_MAX_PARTIAL_SHARE = 0.3
_BICUBIC = Interpolation.BICUBIC  # a name (str) would be looked up again for every frame


class Converter:
    """Converts the frames of one video.

    One reformatter for the whole video reuses its swscale context; a new one per frame takes three times as
    long.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._partial: dict[FrameKind, PartialConverter | None] = {}

    def whole(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return a whole frame, rotated, as uint8 (H, W, 3), B, G, R; PyAV's errors are not caught."""
        # Without scaling, and bicubic for chroma interpolation: then pixels equal OpenCV's.
        converted = self._reformatter.reformat(
            _progressive(frame), format="bgr24", interpolation=_BICUBIC, threads=1
        )
        bgr = _pixels(converted, 3)
        turns = round(frame.rotation / 90) % 4
        return np.rot90(bgr, turns) if turns else bgr  # rotation is counter-clockwise, as rot90 turns

    def partial(self, frame: VideoFrame, lines: Lines) -> PartialConverter | None:
        """Return a converter for the needed lines of such frames, or None to convert whole frames."""
        kind = kind_of(frame)
        if kind not in self._partial:
            rows, columns = lines(frame.height, frame.width)
            share = len(rows) * len(columns) / (frame.height * frame.width)
            worth_it = share <= _MAX_PARTIAL_SHARE and has_independent_blocks(frame)
            self._partial[kind] = PartialConverter.verified(frame, rows, columns) if worth_it else None
        return self._partial[kind]


def _progressive(frame: VideoFrame) -> VideoFrame:
    """Return the frame without its interlaced flag.

    New versions of swscale convert the two fields separately; old ones do not, nor does any OpenCV that can
    read such videos (up to 4.10).
    """
    if not frame.interlaced_frame:
        return frame
    progressive = av.VideoFrame(frame.width, frame.height, frame.format.name)
    progressive.colorspace, progressive.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, progressive.planes, strict=True):
        n_bytes = min(source.line_size, target.line_size)
        _rows(target, n_bytes)[:] = _rows(source, n_bytes)
    return progressive


def _rows(plane: Any, n_bytes: int) -> NDArray[np.uint8]:
    """View a plane as uint8 (rows, bytes)."""
    return np.ndarray((plane.height, n_bytes), np.uint8, plane, strides=(plane.line_size, 1))


FrameKind = tuple[str, int, int, int, int]
"""What decides how a frame is converted: pixel format, height, width, colour space, range."""


def kind_of(frame: VideoFrame) -> FrameKind:
    """Return the kind of a frame."""
    return frame.format.name, frame.height, frame.width, int(frame.colorspace), int(frame.color_range)


def has_independent_blocks(frame: VideoFrame) -> bool:
    """Return whether swscale computes each block of 2x2 pixels from that block of the frame only."""
    if frame.format.name not in {"yuv420p", "yuvj420p"} or frame.height % 2 or frame.width % 2:
        return False
    return not frame.rotation and all(plane.line_size > 0 for plane in frame.planes)


class PartialConverter:
    """Converts the needed lines of 4:2:0 frames, gathered in a small frame.

    With chroma at half size and even sides, swscale computes each pixel from its own luma and its block's
    chroma, so omitting lines does not change the others. That holds for its vector code on x86; for other
    machines it is verified first on noise in the same pixel format, once per process.
    """

    _verified: ClassVar[dict[tuple[FrameKind, bytes, bytes], bool]] = {}

    def __init__(self, frame: VideoFrame, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        self.size = frame.height, frame.width
        self._n_columns = len(columns)
        blocks = [(lines[::2] // 2).astype(np.int32) for lines in (rows, columns)]
        self._luma, self._chroma = (rows.astype(np.int32), blocks[1], 2), (blocks[0], blocks[1], 1)
        width = -(-len(columns) // 16) * 16  # rounded up: swscale's vector code needs whole vectors
        self._small = av.VideoFrame(width, len(rows), frame.format.name)
        self._small.colorspace, self._small.color_range = frame.colorspace, frame.color_range
        self._targets = [_rows(plane, plane.line_size) for plane in self._small.planes]
        for target in self._targets:
            target[:] = 128
        self._reformatter = VideoReformatter()

    @classmethod
    def verified(cls, frame: VideoFrame, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Self | None:
        """Return a converter for such frames, or None where its pixels differ from those of whole frames."""
        partial = cls(frame, rows, columns)
        key = (kind_of(frame), rows.tobytes(), columns.tobytes())
        if key not in cls._verified:
            noise = noise_like(frame)
            whole = VideoReformatter().reformat(noise, format="bgr24", interpolation=_BICUBIC, threads=1)
            expected = _pixels(whole, 3)[rows][:, columns]
            cls._verified[key] = bool((partial.convert(noise)[..., :3] == expected).all())
        return partial if cls._verified[key] else None

    def convert(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the needed lines of a frame, uint8 (rows, columns, 4); valid until the next call."""
        blocks = self._luma, self._chroma, self._chroma
        for plane, target, (rows, columns, width) in zip(frame.planes, self._targets, blocks, strict=True):
            _gather(_rows(plane, plane.width), rows, columns, target, width)
        bgra = self._reformatter.reformat(self._small, format="bgra", interpolation=_BICUBIC, threads=1)
        return _pixels(bgra, 4)[:, : self._n_columns]


def _gather(
    plane: NDArray[np.uint8],
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    out: NDArray[np.uint8],
    width: int,
) -> None:
    """Copy the given rows and columns (``width`` bytes each) of a plane to the start of ``out``."""
    blocks = plane.take(rows, axis=0).view(np.dtype(f"u{width}"))
    out[:, : width * len(columns)] = blocks.take(columns, axis=1).view(np.uint8)


def noise_like(like: VideoFrame) -> VideoFrame:
    """Return a frame of the same kind that contains every value from 0 to 255 and repeats every 32 rows."""
    noise = av.VideoFrame(like.width, like.height, like.format.name)
    noise.colorspace, noise.color_range = like.colorspace, like.color_range
    for seed, plane in enumerate(noise.planes):
        values = _rows(plane, plane.line_size)
        # Knuth's multiplicative hash of a counter; bits 23 to 30 become the pixel values.
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
