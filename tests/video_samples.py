"""Small videos for tests, rendered here so that nothing but PyAV is needed, and ways to read them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest

from c3d_extract.decode import PyAVReader
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def moving_frames(n_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 (T, H, W, 3): a textured ground that drifts, so that every frame differs."""
    ground = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    ground = (ground // 2 + np.linspace(0, 127, width).astype(np.uint8)[None, :, None]).astype(np.uint8)
    return np.stack([np.roll(ground, (i, 2 * i), (0, 1)) for i in range(n_frames)])


def write(
    path: Path,
    frames: NDArray[np.uint8],
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    container: str | None = None,
    options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    flags: str | None = None,
) -> Path:
    """Write frames uint8 (T, H, W, 3), R, G, B, as one video stream; ``pts`` in 1/1000 s where given."""
    if codec == "libx264":  # the same bytes on every processor
        options = {"x264-params": "cpu-independent=1"} | (options or {})
    with av.open(str(path), "w", format=container) as out:
        stream = cast("Any", out.add_stream(codec, rate=Fraction(fps), options=options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[index], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def read(path: Path, **options: Any) -> tuple[list[NDArray[np.uint8]], PyAVReader]:
    """Return copies of all frames, and the reader they came from."""
    with PyAVReader(path, **options) as reader:
        return [frame.bgr.copy() for frame in reader.frames()], reader


def why_not(path: Path, **options: Any) -> str:
    """Return the one line that refuses a file, on opening or on reading."""
    with pytest.raises(VideoError) as caught, PyAVReader(path, **options) as reader:
        list(reader.frames())
    assert "\n" not in caught.value.reason
    return caught.value.reason


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


class MeanColour:
    """A FrameTransform: the mean of each channel. Here, because decoder processes import it by its name."""

    shape = (1, 1, 3)

    def lines(self, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.arange(height), np.arange(width)

    def tables(self, height: int, width: int) -> None:
        """No line of the frame is sampled more than another."""

    def __call__(self, frame: NDArray[np.uint8], *, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        del size
        mean: NDArray[np.uint8] = frame[..., :3].mean(axis=(0, 1), keepdims=True).astype(np.uint8)
        return mean
