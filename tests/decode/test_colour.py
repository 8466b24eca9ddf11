"""Conversion: OpenCV's colours, and converting only the needed lines of large frames changes no pixel."""

from __future__ import annotations

import contextlib
import itertools
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_samples import moving_frames, read, write

from c3d_extract.decode import (
    PyAVReader,
)
from c3d_extract.decode import colour as converting
from c3d_extract.decode.colour import PartialConverter
from c3d_extract.errors import VideoError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_frames_are_not_deinterlaced(tmp_path: Path, codec: str) -> None:
    """OpenCV cannot serve as oracle (see above); the same frames, not marked as interlaced, do."""
    options = (
        {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264-params": "tff=1:fake-interlaced=1"}
    )
    path = write(tmp_path / "a.mkv", moving_frames(6, 96, 64), codec=codec, options=options)
    with PyAVReader(path) as reader:
        decoded = [frame for packet in reader._packets() for frame in reader._decode(packet)]
    assert any(frame.interlaced_frame for frame in decoded)
    for frame, ours in zip(decoded, read(path)[0], strict=True):
        plain = av.VideoFrame(frame.width, frame.height, "yuv420p")
        for source, target in zip(frame.planes, plain.planes, strict=True):
            lines = np.frombuffer(cast("Any", source), np.uint8).reshape(source.height, source.line_size)
            padded = np.zeros((target.height, target.line_size), np.uint8)
            padded[:, : target.width] = lines[:, : target.width]
            target.update(padded.tobytes())
        expected = plain.reformat(format="bgr24", interpolation="BICUBIC").to_ndarray()
        assert (ours == expected).all()


@pytest.mark.parametrize("matrix", [1, 2, 6, 7, 9])
@pytest.mark.parametrize("value_range", [1, 2])
def test_colours_follow_the_matrix_and_range_of_the_file(
    tmp_path: Path, matrix: int, value_range: int
) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        stream = cast("Any", out.add_stream("libx264", rate=25, options={"qp": "10"}))
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, value_range
        flat = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(flat.planes, (120, 80, 190), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        out.mux(stream.encode(flat))
        out.mux(stream.encode())
    blue, green, red = read(path)[0][0][32, 32].astype(float)
    k_red, k_blue = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    full = value_range == 2
    y = 120 if full else (120 - 16) * 255 / 219
    u, v = ((80 - 128), (190 - 128)) if full else ((80 - 128) * 255 / 224, (190 - 128) * 255 / 224)
    expected_red = y + 2 * (1 - k_red) * v
    expected_blue = y + 2 * (1 - k_blue) * u
    expected_green = (y - k_red * expected_red - k_blue * expected_blue) / (1 - k_red - k_blue)
    # The coder may move a plane by a level, which the matrix makes two; a wrong matrix would be 10 and more.
    assert (blue, green, red) == pytest.approx((expected_blue, expected_green, min(expected_red, 255)), abs=3)


def crops(path: Path, *, whole: bool) -> tuple[list[NDArray[np.uint8]], list[bool]]:
    """Return the crops of a video, and whether each was made from a part of its frame."""
    sampler = FrameSampler(Preprocessing())
    with PyAVReader(path) as reader:
        frames = reader.frames() if whole else reader.frames(sampler.lines)
        made = [(sampler(f.bgr, size=f.size), f.size is not None) for f in frames]
        assert (reader.info.height, reader.info.width) == (reader._stream.height, reader._stream.width)
    return [crop for crop, _ in made], [part for _, part in made]


def same_crops(path: Path) -> bool:
    """Compare the crops of partly and of wholly converted frames; return whether any was partial."""
    (ours, partial), (expected, _) = crops(path, whole=False), crops(path, whole=True)
    assert len(ours) == len(expected) > 0
    assert all((a == b).all() for a, b in zip(ours, expected, strict=True))
    return any(partial)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_converting_the_needed_lines_alone_changes_no_pixel(
    half_height: int, half_width: int, seed: int
) -> None:
    height, width = 2 * half_height, 2 * half_width
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "_MAX_PARTIAL_SHARE", 1)
        path = write(Path(folder) / "a.nut", moving_frames(2, height, width, seed), codec="rawvideo")
        partial = same_crops(path)
        patch.setattr(converting, "_kernels", None)  # as where it could not be compiled
        assert same_crops(path) == partial
    if platform.machine() == "x86_64":
        assert partial, "the fast way must be the one that is taken"


@pytest.mark.parametrize(
    ("size", "in_part"),
    [
        ((240, 320), False),
        ((568, 320), False),
        ((360, 640), False),
        ((720, 1280), True),
        ((1080, 1920), True),
        ((2, 4096), True),
        ((4096, 2), True),
    ],
)
def test_large_frames_are_converted_in_part(tmp_path: Path, size: tuple[int, int], in_part: bool) -> None:
    path = write(tmp_path / "a.avi", moving_frames(2, *size), codec="mpeg4", options={"qscale": "2"})
    assert same_crops(path) == (in_part and platform.machine() == "x86_64")


@pytest.mark.parametrize(
    ("pix_fmt", "height", "width"),
    [("yuv444p", 48, 64), ("yuv420p", 47, 64), ("yuv420p", 48, 63), ("gray", 48, 64)],
)
def test_other_frames_are_converted_whole(tmp_path: Path, pix_fmt: str, height: int, width: int) -> None:
    frames = moving_frames(3, height, width)
    assert not same_crops(write(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt=pix_fmt))


def test_real_and_damaged_videos_give_the_same_crops_in_part(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_MAX_PARTIAL_SHARE", 1)
    files = [*(shared_data / "samples").glob("*/*.mp4"), *(shared_data / "nasty" / "fate").glob("h264_*.mp4")]
    n_partial = 0
    for file in sorted(files):
        with contextlib.suppress(VideoError):
            sampler = FrameSampler(Preprocessing())
            with PyAVReader(file) as one, PyAVReader(file) as other:
                pairs = zip(one.frames(sampler.lines), other.frames(), strict=True)
                for part, whole in itertools.islice(pairs, 15):
                    assert (sampler(part.bgr, size=part.size) == sampler(whole.bgr)).all(), file
                    n_partial += part.size is not None
    assert n_partial > 200


def test_where_verification_fails_frames_are_converted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose swscale converts smaller frames differently, the correct pixels are returned."""
    path = write(tmp_path / "a.avi", moving_frames(3, 122, 166))
    expected = crops(path, whole=True)[0]
    monkeypatch.setattr(converting, "_MAX_PARTIAL_SHARE", 1)
    monkeypatch.setattr(PartialConverter, "_verified", {})
    right = PartialConverter.convert
    monkeypatch.setattr(PartialConverter, "convert", lambda self, frame: right(self, frame) ^ 1)
    ours, partial = crops(path, whole=False)
    assert not any(partial)
    assert all((a == b).all() for a, b in zip(ours, expected, strict=True))
