"""Decoding: OpenCV's frames pixel for pixel, errors counted, nothing opened but the file itself."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import platform
import socket
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from video_samples import moving_frames, write

from c3d_extract.decode import (
    FrameFolder,
    PyAVReader,
    codec_report,
    open_video,
    read_frame_folder,
    safety,
    write_video,
)
from c3d_extract.decode import colour as converting
from c3d_extract.decode.colour import PartialConverter
from c3d_extract.decode.timestamps import Gaps, resample, steady_times
from c3d_extract.errors import VideoError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def read(path: Path, **options: Any) -> tuple[list[NDArray[np.uint8]], PyAVReader]:
    """Return copies of all frames, and the reader they came from."""
    with PyAVReader(path, **options) as reader:
        return [frame.bgr.copy() for frame in reader.frames()], reader


def opencv_frames(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        frames.append(cast("NDArray[np.uint8]", frame))


def why_not(path: Path, **options: Any) -> str:
    """Return the one line that refuses a file, on opening or on reading."""
    with pytest.raises(VideoError) as caught, PyAVReader(path, **options) as reader:
        list(reader.frames())
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- pixels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.mp4", "libx264", "yuv420p"),
        ("a444.mp4", "libx264", "yuv444p"),
        ("a10.mp4", "libx264", "yuv420p10le"),
        ("a.mkv", "ffv1", "gray"),
        ("a422.mkv", "ffv1", "yuv422p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.avi", "rawvideo", "bgr24"),
        ("a.mov", "qtrle", "argb"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.gif", "gif", "rgb8"),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(48, 64), (50, 98)])
def test_frames_are_opencvs(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, height: int, width: int
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    path = write(tmp_path / name, moving_frames(12, height, width), codec=codec, pix_fmt=pix_fmt)
    ours, theirs = read(path)[0], opencv_frames(path)
    assert len(ours) == len(theirs) == 12
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


# Odd sizes: OpenCV takes the same colours, from rows that it pads otherwise.
@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (1, 1), (2, 300), (300, 2)])
def test_frames_of_odd_sizes_are_opencvs(tmp_path: Path, height: int, width: int) -> None:
    path = write(tmp_path / "a.mkv", moving_frames(3, height, width), codec="ffv1", pix_fmt="yuv444p")
    ours, theirs = read(path)[0], opencv_frames(path)
    assert len(ours) == len(theirs) == 3
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


# OpenCV 4.14 and 5.0 cannot convert interlaced frames, and 5.0's wheel has no AV1 decoder; of files with
# several video streams it takes the first, not the best; at damage it may drop one frame more.
_NOT_FOR_OPENCV = {"av1_video.mkv", "corrupted.mp4", "test1.mp4", "nasa_13013.mp4"}


def test_real_videos_give_opencvs_crops(shared_data: Path) -> None:
    """The first 20 frames of every sample, as the network sees them: 1 in 1,000 may differ by one level."""
    sampler = FrameSampler(Preprocessing())
    files = [f for f in sorted((shared_data / "samples").glob("*/*.*")) if f.name not in _NOT_FOR_OPENCV]
    assert len(files) > 20
    for file in files:
        capture, n_different, n_values = cv2.VideoCapture(str(file)), 0, 0
        with PyAVReader(file) as reader:
            for frame, _ in zip(reader.frames(), range(20), strict=False):
                ok, theirs = capture.read()
                assert ok, file
                crop = cv2.resize(theirs, (171, 128))[8:120, 29:141].astype(int)
                difference = np.abs(sampler(frame.bgr) - crop)
                assert difference.max() <= 1, file
                n_different += int(np.count_nonzero(difference))
                n_values += difference.size
        assert n_different <= n_values / 1000, file


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_interlaced_frames_are_taken_as_they_are(tmp_path: Path, codec: str) -> None:
    """OpenCV cannot be asked (see above), so the same pictures, not marked as interlaced, are the oracle."""
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


def test_frames_that_come_out_last_have_their_times_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving_frames(20), codec="libx264")
    with PyAVReader(path) as reader:
        assert [f.pts_seconds for f in reader.frames()] == pytest.approx([i / 25 for i in range(20)])


def test_the_authors_clips_have_their_frame_counts(shared_data: Path) -> None:
    folder = shared_data / "samples" / "facebook_C3D"
    assert len(read(folder / "v_ApplyEyeMakeup_g01_c01.avi")[0]) == 164
    assert len(read(folder / "v_BaseballPitch_g01_c01.avi")[0]) == 107


def test_packed_b_frames_keep_their_order(shared_data: Path) -> None:
    path = shared_data / "nasty" / "fate" / "mpeg4_packed_bframes.avi"
    with PyAVReader(path) as reader:
        stamps = [frame.pts_seconds for frame in reader.frames()]
    theirs = opencv_frames(path)
    ours = read(path)[0]
    assert len(ours) == len(theirs)
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    steady = [t for _, t in steady_times([(0, s) for s in stamps], reader.info.fps)]
    assert all(b > a for a, b in itertools.pairwise(steady))


def test_b_frames_come_in_the_order_they_are_shown(tmp_path: Path) -> None:
    grey = np.stack([np.full((48, 64, 3), 8 * i, np.uint8) for i in range(30)])
    path = write(tmp_path / "b.avi", grey, codec="mpeg4", options={"bf": "2"})
    means = [frame.mean() for frame in read(path)[0]]
    assert len(means) == 30
    assert means == sorted(means)


def turn(path: Path, degrees: int) -> None:
    """Write a rotation into an MP4's track header, as phones do."""
    c, s = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, unit = 1 << 16, 1 << 30
    struct.pack_into(">9i", data, matrix, c * one, s * one, 0, -s * one, c * one, 0, 0, 0, unit)
    path.write_bytes(data)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_videos_are_turned_upright(tmp_path: Path, degrees: int) -> None:
    path = write(tmp_path / "a.mp4", moving_frames(4, 48, 64))
    plain = read(path)[0]
    turn(path, degrees)
    turned, reader = read(path)
    assert all((np.rot90(a, -degrees // 90) == b).all() for a, b in zip(plain, turned, strict=True))
    assert (reader.info.height, reader.info.width) == turned[0].shape[:2]
    theirs = opencv_frames(path)
    assert all((a == b).all() for a, b in zip(turned, theirs, strict=True))


def test_frames_may_change_their_size_midway(tmp_path: Path) -> None:
    small = write(tmp_path / "a.mjpeg", moving_frames(5, 48, 64), codec="mjpeg", pix_fmt="yuvj420p")
    large = write(tmp_path / "b.mjpeg", moving_frames(5, 96, 80), codec="mjpeg", pix_fmt="yuvj420p")
    both = tmp_path / "ab.mjpeg"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    shapes = [frame.shape[:2] for frame in read(both)[0]]
    assert shapes == [(48, 64)] * 5 + [(96, 80)] * 5


def test_frames_do_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    with PyAVReader(write(tmp_path / "a.avi", moving_frames(2))) as reader:
        assert reader._stream.codec_context.thread_count == 1


def test_of_several_video_streams_the_default_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        for height, default in ((96, 0), (48, Disposition.default.value)):
            stream = cast("Any", out.add_stream("mpeg4", rate=25))
            stream.height, stream.width, stream.pix_fmt, stream.disposition = height, 64, "yuv420p", default
        for stream in cast("Any", out.streams.video):
            for rgb in moving_frames(5, stream.height):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            out.mux(stream.encode())
    assert {frame.shape for frame in read(path)[0]} == {(48, 64, 3)}


# --- only the lines that are needed ----------------------------------------------------------------


def crops(path: Path, *, whole: bool) -> tuple[list[NDArray[np.uint8]], list[bool]]:
    """Return the crops of a video, and whether each was made of a part of its frame."""
    sampler = FrameSampler(Preprocessing())
    with PyAVReader(path) as reader:
        frames = reader.frames() if whole else reader.frames(sampler.lines)
        made = [(sampler(f.bgr, size=f.size), f.size is not None) for f in frames]
        assert (reader.info.height, reader.info.width) == (reader._stream.height, reader._stream.width)
    return [crop for crop, _ in made], [part for _, part in made]


def same_crops(path: Path) -> bool:
    """Check the crops of partly converted frames against those of whole ones; say whether any was partial."""
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


def test_where_the_proof_fails_frames_are_converted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose swscale gives other pixels to a smaller frame, the right ones must come out."""
    path = write(tmp_path / "a.avi", moving_frames(3, 122, 166))
    expected = crops(path, whole=True)[0]
    monkeypatch.setattr(converting, "_MAX_PARTIAL_SHARE", 1)
    monkeypatch.setattr(PartialConverter, "_verified", {})
    right = PartialConverter.convert
    monkeypatch.setattr(PartialConverter, "convert", lambda self, frame: right(self, frame) ^ 1)
    ours, partial = crops(path, whole=False)
    assert not any(partial)
    assert all((a == b).all() for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "2"}),
        ("a.mkv", "libx264", {"g": "250"}),
        ("a.ts", "libx264", {"g": "12"}),
        ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
        ("a.mpg", "mpeg1video", {"g": "12"}),
        ("a.m4v", "mpeg4", {"g": "12"}),  # no index and no time stamps to go by
        ("a.nut", "rawvideo", {}),
    ],
)
def test_frames_from_a_time_on_are_those_of_the_whole_video(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, moving_frames(90, 48, 64), codec=codec, options=options)
    with PyAVReader(path) as reader:
        every = [frame.bgr.copy() for frame in reader.frames()]
        fps = reader.info.fps
    for start in (0, 1, 37, 88):
        with PyAVReader(path) as reader:
            late = [frame.bgr.copy() for frame in reader.frames(start_seconds=(start - 0.5) / fps)]
        # AVI counts time from the first packet, and the frame that comes of it may be shown a frame later.
        assert len(every) - start <= len(late) <= len(every) - start + (name == "a.avi" and start > 0)
        assert all((a == b).all() for a, b in zip(late, every[-len(late) :], strict=True))
    with PyAVReader(path) as reader, pytest.raises(VideoError, match="no frame"):
        list(reader.frames(start_seconds=1000))


def test_what_lies_long_before_a_time_is_not_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving_frames(300, 48, 64), codec="libx264", options={"g": "12"})
    with PyAVReader(path) as reader:
        assert len(list(reader.frames(start_seconds=290 / reader.info.fps))) == 10
        assert reader._n_packets < 60


# --- damage -----------------------------------------------------------------------------------------


def damaged(path: Path, at: float, n_bytes: int = 400) -> Path:
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + n_bytes] = np.random.default_rng(1).integers(0, 256, n_bytes, np.uint8).tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.mpg", "mpeg2video")]
)
def test_errors_inside_a_stream_are_counted_and_the_rest_is_kept(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = damaged(write(tmp_path / name, moving_frames(60), codec=codec), 0.5)
    frames, reader = read(path)
    assert 15 <= len(frames) <= 60
    assert reader.n_decode_errors > 0
    trouble = reader.trouble()
    assert trouble is not None
    assert trouble.startswith(("1 decode error: ", f"{reader.n_decode_errors} decode errors, the first: "))


def test_a_sound_video_has_no_trouble(tmp_path: Path) -> None:
    for name, codec in (
        ("a.avi", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.mpg", "mpeg2video"),
    ):
        frames, reader = read(write(tmp_path / name, moving_frames(60), codec=codec))
        assert (len(frames), reader.n_decode_errors, reader.trouble()) == (60, 0, None), name


def cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_truncated_matroska_file_ends_early(tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    frames, reader = read(cut(write(tmp_path / name, moving_frames(100), codec=codec), 0.6))
    assert 30 < len(frames) < 80
    assert reader.n_decode_errors == 0, "FFmpeg itself says nothing"
    trouble = reader.trouble() or ""
    assert trouble.startswith("cut: its element Segment ends at byte ")
    assert "; ends early: " in trouble
    assert trouble.endswith(" s of 4.0 s could be read")


def with_sound(path: Path, frames: NDArray[np.uint8], sound_seconds: int) -> Path:
    with av.open(str(path), "w") as out:
        video = cast("Any", out.add_stream("mpeg4", rate=25))
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        sound = cast("Any", out.add_stream("pcm_s16le", rate=8000, layout="mono"))
        for rgb in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(video.encode())
        for second in range(sound_seconds):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            samples.rate, samples.pts = 8000, 8000 * second
            out.mux(sound.encode(samples))
    return path


def test_sound_that_goes_on_longer_is_no_damage_but_a_cut_is(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mkv", moving_frames(50), sound_seconds=10)
    frames, reader = read(path)
    assert (len(frames), reader.trouble()) == (50, None)
    assert reader.info.duration_seconds == pytest.approx(2.0, abs=0.05), "the picture's, not the sound's"
    path = cut(with_sound(tmp_path / "b.mkv", moving_frames(100), sound_seconds=4), 0.5)
    assert "; ends early" in (read(path)[1].trouble() or "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"just some text\n" * 20, "not a readable video"),
        (b"\0" * 5000, "not a readable video"),
        (b"<!DOCTYPE html><html>404", "a web page, not a video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer"),
        (b"#EXTM3U\n/etc/passwd\n", "a playlist or script"),
        (b"\xef\xbb\xbf#EXTM3U\n", "a playlist or script"),
        (b"\n ffconcat version 1.0\nfile x\n", "a playlist or script"),
        (b"<?xml version='1.0'?><MPD/>", "a playlist or script"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "a playlist or script"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\xff\xffmdat", "cut off: it ends before its index"),
    ],
)
def test_what_is_no_video_is_refused_in_one_clear_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert why_not(path).startswith(reason)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    assert why_not(tmp_path / "fifo.mp4") == "not a regular file"
    assert why_not(tmp_path / "folder.mp4") == "not a regular file"
    assert why_not(tmp_path / "dangling.mp4") == "a broken link"
    assert why_not(tmp_path / "self.mp4").startswith("cannot be read")
    assert why_not(tmp_path / "gone.mp4") == "no such file"
    assert why_not(Path(f"{tmp_path}/nul\0.mp4")).startswith("no such file")


def test_sound_and_cover_pictures_are_no_videos(tmp_path: Path) -> None:
    def make(name: str, *, cover: bool) -> Path:
        with av.open(str(tmp_path / name), "w") as out:
            sound = cast("Any", out.add_stream("aac", rate=44100, layout="mono"))
            picture = cast("Any", out.add_stream("mjpeg", rate=1)) if cover else None
            if picture is not None:
                picture.height, picture.width, picture.pix_fmt = 48, 64, "yuvj420p"
                picture.disposition = Disposition.attached_pic.value
            samples = av.AudioFrame.from_ndarray(
                np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
            )
            samples.rate = 44100
            out.mux(sound.encode(samples))
            out.mux(sound.encode())
            if picture is not None:
                out.mux(picture.encode(av.VideoFrame.from_ndarray(moving_frames(1)[0], format="rgb24")))
        return tmp_path / name

    assert why_not(make("a.mp4", cover=False)) == "no video stream"
    assert why_not(make("b.mp4", cover=True)) == "no video stream, only a cover picture"


def test_an_empty_video_stream_is_said_to_be_one(shared_data: Path) -> None:
    header_alone = next((shared_data / "nasty" / "mp4parse").glob("*cenc-video*"))
    assert why_not(header_alone) == "no frame could be decoded (its video stream is empty)"


def test_protected_files_are_not_decoded_into_noise(shared_data: Path) -> None:
    assert "DRM" in why_not(shared_data / "nasty" / "fate" / "wmv3_wmv_drm.wmv")
    for name in ("h264_mov-3elist-encrypted.mp4", "h264_mov-tenc-only-encrypted.mp4"):
        assert "DRM" in why_not(shared_data / "nasty" / "fate" / name)


def test_frames_that_the_decoder_patched_up_are_counted(shared_data: Path) -> None:
    frames, reader = read(shared_data / "nasty" / "fate" / "h264_empty_edit_5s.mp4")
    assert len(frames) == 100
    assert reader.n_decode_errors == 29, "they show green blocks, and FFmpeg marks them"


@pytest.mark.parametrize("limit", [64 * 48 - 1, 1])
def test_larger_frames_than_allowed_are_refused(tmp_path: Path, limit: int) -> None:
    path = write(tmp_path / "a.avi", moving_frames(2, 48, 64))
    assert why_not(path, max_pixels=limit) == f"frames of 64x48 are larger than --max-pixels {limit}"
    assert len(read(path, max_pixels=64 * 48)[0]) == 2


def test_frames_that_grow_too_large_midway_end_the_video(tmp_path: Path) -> None:
    small = write(tmp_path / "a.m2v", moving_frames(5, 48, 64), codec="mpeg2video")
    large = write(tmp_path / "b.m2v", moving_frames(5, 480, 640), codec="mpeg2video")
    small.write_bytes(small.read_bytes() + large.read_bytes())
    assert "larger than --max-pixels" in why_not(small, max_pixels=100_000)


# --- nothing else is opened --------------------------------------------------------------------------


@contextlib.contextmanager
def never_opened(path: Path) -> Iterator[None]:
    """Let the kernel (inotify) tell whether anyone opened ``path`` meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    in_open = 0x20
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), in_open) >= 0
    try:
        yield
        try:
            events = os.read(descriptor, 4096)
        except BlockingIOError:
            events = b""
        assert not events, f"{path} was opened"
    finally:
        os.close(descriptor)


def test_the_watch_itself_works(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", moving_frames(2))
    with pytest.raises(AssertionError, match="was opened"), never_opened(path):
        read(path)


SCRIPTS = {
    "concat.mp4": "ffconcat version 1.0\nfile '{target}'\n",
    "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{target}\n#EXT-X-ENDLIST\n",
    "dash.mpd": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' "
    "mediaPresentationDuration='PT1S'><Period><AdaptationSet mimeType='video/mp4'><Representation id='0' "
    "bandwidth='1'><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "list.txt": "file '{target}'\n",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_dressed_as_a_video_opens_no_other_file(tmp_path: Path, script: str) -> None:
    target = write(tmp_path / "secret.mkv", moving_frames(20))
    path = tmp_path / script
    path.write_text(SCRIPTS[script].format(target=target))
    with never_opened(target):
        assert why_not(path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_dressed_as_a_video_opens_no_address(tmp_path: Path, script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / script
        path.write_text(SCRIPTS[script].format(target=f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        assert why_not(path)
        with pytest.raises(BlockingIOError):
            server.accept()


HOSTILE = ["a:b.avi", "http:x.avi", "concat:a.avi|b.avi", "-dash.avi", "percent%04d.avi", "pipe:0", "🎬.avi"]


@pytest.mark.parametrize("name", [*HOSTILE, "new\nline.avi", "quote'\".avi", os.fsdecode(b"\xe9.avi")])
def test_a_name_is_a_name_and_nothing_else(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "plain.avi", moving_frames(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))[0]) == 3


# --- time -------------------------------------------------------------------------------------------


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), max_size=40),
    st.sampled_from([25.0, 29.97, 0.0, math.nan, 1000.0]),
)
@settings(max_examples=150, deadline=None)
def test_steady_times_keep_the_order_and_always_grow(stamps: list[float | None], fps: float) -> None:
    steady = list(steady_times(enumerate(stamps), fps))
    assert [item for item, _ in steady] == list(range(len(stamps)))
    times = [time for _, time in steady]
    # Growing, except where a frame's length is lost in the rounding of a huge time.
    assert all(b > a or b == a + 1e-3 for a, b in itertools.pairwise(times))


@given(st.lists(st.integers(0, 1), max_size=30))
def test_steady_times_mend_the_stamps_of_packed_b_frames(swaps: list[int]) -> None:
    stamps = [float(i) for i in range(len(swaps) + 1)]
    for i, swap in enumerate(swaps):
        if swap and stamps[i] == i:  # each stamp moves by one place at most, as 1, 2, 4, 3, 5 do
            stamps[i], stamps[i + 1] = stamps[i + 1], stamps[i]
    assert [time for _, time in steady_times(enumerate(stamps), 1.0)] == sorted(stamps)


def test_missing_stamps_are_one_frame_apart() -> None:
    assert [t for _, t in steady_times([(i, None) for i in range(4)], 10.0)] == pytest.approx(
        [0, 0.1, 0.2, 0.3]
    )
    assert [t for _, t in steady_times([(i, None) for i in range(3)], math.nan)] == pytest.approx(
        [0, 0.04, 0.08]
    )


def shown_at(times: list[float], fps: float, native_fps: float) -> list[int]:
    """Plain oracle: which frame is on screen at k / fps, by looking through all of them."""
    picked, k = [], 0
    end = times[-1] + 1 / native_fps
    while times[0] + k / fps < end - 1e-6:
        moment = times[0] + k / fps
        picked.append(max(i for i, time in enumerate(times) if time <= moment + 1e-6))
        k += 1
    return picked


gaps = st.lists(st.sampled_from([0.01, 0.02, 1 / 30, 0.04, 0.1, 0.5, 2.0]), max_size=25)


@given(gaps, st.sampled_from([1.0, 7.5, 10.0, 15.0, 24.0, 25.0, 29.97, 30.0, 60.0]), st.floats(-5, 5000))
@settings(max_examples=150, deadline=None)
def test_resampling_shows_what_is_on_screen(steps: list[float], fps: float, start: float) -> None:
    times = [start, *(start + float(t) for t in np.cumsum(steps))] if steps else [start]
    out = list(resample(list(enumerate(times)), fps, native_fps=25.0, longest_gap_seconds=3600.0))
    assert [item for item, _ in out] == shown_at(times, fps, 25.0)
    assert [time for _, time in out] == pytest.approx([start + k / fps for k in range(len(out))], abs=1e-6)


@pytest.mark.parametrize("fps", [10.0, 24.0, 25.0, 29.97, 30.0, 59.94])
def test_resampling_to_the_same_rate_changes_nothing(fps: float) -> None:
    frames = [(i, i / fps) for i in range(500)]
    assert [i for i, _ in resample(frames, fps, native_fps=fps, longest_gap_seconds=60.0)] == list(range(500))


def test_a_gap_that_is_too_long_is_not_filled_but_told() -> None:
    gaps = Gaps()
    frames = [(0, 0.0), (1, 60.0), (2, 121.0), (3, 3121.0)]
    # By these stamps a frame takes 3,000 s, so where that is all there is to go by, it is shown once.
    out = [i for i, _ in resample(frames, 1.0, native_fps=1 / 3000, gaps=gaps)]
    assert out == [0] * 60 + [1, 2, 3]
    assert gaps.trouble() == "2 gaps of up to 3000.0 s between frames, too long to be filled"
    assert Gaps().trouble() is None


def test_a_video_cannot_be_made_endless_by_gaps() -> None:
    hostile = ((i, 59.0 * i) for i in itertools.count())
    made = 0
    with pytest.raises(VideoError, match="25 frames a second would be more than"):
        for made, _ in enumerate(resample(hostile, 25.0, native_fps=25.0), start=1):  # noqa: B007
            pass
    assert 90_000 <= made < 100_000


def test_an_hour_of_slides_can_be_resampled() -> None:
    slides = [(i, 30.0 * i) for i in range(120)]
    assert sum(1 for _ in resample(slides, 25.0, native_fps=1 / 30)) == 120 * 30 * 25


def test_a_broken_stamp_does_not_fill_hours() -> None:
    frames = [(0, 0.0), (1, 0.1), (2, 1e9), (3, 1e9 + 0.1)]
    out = [i for i, _ in resample(frames, 10.0, native_fps=10.0, longest_gap_seconds=3600.0)]
    assert out == [0, 1, 2, 3]


def test_variable_frame_times_come_through(tmp_path: Path) -> None:
    pts = [0, 40, 80, 500, 540, 1000, 1040, 1080]
    path = write(tmp_path / "a.mkv", moving_frames(len(pts)), codec="ffv1", pts=pts)
    with PyAVReader(path) as reader:
        assert [frame.pts_seconds for frame in reader.frames()] == pytest.approx([p / 1000 for p in pts])


# --- folders of images --------------------------------------------------------------------------------


def test_the_authors_frame_folders_give_opencvs_images(shared_data: Path) -> None:
    folder = shared_data / "samples" / "facebook_C3D" / "frm" / "v_BaseballPitch_g01_c01"
    files = sorted(folder.glob("*.jpg"))
    ours = list(read_frame_folder(folder))
    assert len(ours) == len(files) == 107
    for file, image in zip(files[::9], ours[::9], strict=True):
        assert (image == cv2.imread(str(file))).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".jpeg"])
def test_images_are_read_in_numeric_order_as_opencv_reads_them(tmp_path: Path, suffix: str) -> None:
    for number, rgb in zip([9, 10, 11, 8], moving_frames(4, 50, 70), strict=True):
        cv2.imwrite(str(tmp_path / f"{number}{suffix}"), rgb)
    (tmp_path / "cover.jpg").write_bytes(b"not numbered, so not read")
    with open_video(tmp_path) as reader:
        assert isinstance(reader, FrameFolder)
        frames = list(reader.frames())
        assert reader.trouble() is None
    assert [f.pts_seconds for f in frames] == [None] * 4
    for number, frame in zip([8, 9, 10, 11], frames, strict=True):
        assert (frame.bgr == cv2.imread(str(tmp_path / f"{number}{suffix}"))).all()


def test_grey_transparent_and_turned_images_are_opencvs(tmp_path: Path) -> None:
    from PIL import Image

    rgb = moving_frames(1, 40, 60)[0]
    cv2.imwrite(str(tmp_path / "1.png"), rgb[..., 0])
    cv2.imwrite(str(tmp_path / "2.png"), np.dstack([rgb, rgb[..., :1]]))
    turned = Image.fromarray(rgb)
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "3.jpg", exif=turned.getexif(), quality=90)
    Image.fromarray(rgb).quantize(16).save(tmp_path / "4.png")
    for number, image in enumerate(read_frame_folder(tmp_path), start=1):
        (file,) = tmp_path.glob(f"{number}.*")
        assert (image == cv2.imread(str(file))).all(), file.name


def test_troubles_of_image_folders_are_told(tmp_path: Path) -> None:
    def frames(*names: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name in names:
            cv2.imwrite(str(folder / name), moving_frames(1)[0])
        return folder

    assert FrameFolder(frames("1.png", "2.png", "5.png")).trouble() == "2 images missing between 1 and 5"
    assert FrameFolder(frames("1.png", "01.png")).trouble() == "1 images share their number with another"
    with pytest.raises(VideoError, match="no numbered images"):
        FrameFolder(frames("a.png"))
    with pytest.raises(VideoError, match=r"3\.jpg: 64x48 is larger than --max-pixels 100"):
        list(FrameFolder(frames("3.jpg"), max_pixels=100).frames())
    broken = frames("1.jpg", "2.jpg")
    cut(broken / "2.jpg", 0.5)
    with pytest.raises(VideoError, match=r"2\.jpg: not a readable image"):
        list(FrameFolder(broken).frames())
    deep = frames("1.png")
    cv2.imwrite(str(deep / "1.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(VideoError, match=r"1\.png: more than 8 bits a pixel"):
        list(FrameFolder(deep).frames())


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_an_image_never_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    frames, programs, marker = tmp_path / "frames", tmp_path / "bin", tmp_path / "started"
    frames.mkdir()
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\n: > '{marker}'\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    # Pillow looks it up once in a process, since 10.1.
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None, raising=False)
    (frames / "000001.jpg").write_bytes(EPS)
    with pytest.raises(VideoError, match=r"000001\.jpg: neither a JPEG nor a PNG image"):
        list(read_frame_folder(frames))
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "socket", "link to a device", "folder"])
def test_what_is_no_file_in_a_frame_folder_is_refused_without_waiting(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    monkeypatch.chdir(frames)
    cv2.imwrite("1.png", moving_frames(1)[0])
    if kind == "fifo":
        os.mkfifo("2.png")
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        Path("2.png").symlink_to(tmp_path / "fifo")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("2.png")
    elif kind == "link to a device":
        Path("2.png").symlink_to("/dev/zero")
    else:
        Path("2.png").mkdir()
    with pytest.raises(VideoError, match=r"2\.png: not a regular file"):
        list(read_frame_folder(frames))


def test_a_pipe_that_takes_a_files_place_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "1.png")
    monkeypatch.setattr(safety, "check_regular", lambda _: None)  # it was a file when it was looked at
    with pytest.raises(VideoError, match=r"1\.png: not a regular file"):
        list(read_frame_folder(tmp_path))


# --- the rest -----------------------------------------------------------------------------------------


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    frames = moving_frames(7, 48, 64)
    smooth = np.stack([cv2.GaussianBlur(frame, (9, 9), 4) for frame in frames])
    write_video(tmp_path / "a:b.mp4", smooth, 25)
    got, reader = read(tmp_path / "a:b.mp4")
    assert (reader.info.width, reader.info.height, reader.info.fps) == (64, 48, 25.0)
    # Chroma at half size and a lossy codec: a few grey levels.
    assert np.abs(np.stack(got)[..., ::-1].astype(int) - smooth).mean() < 6


def test_facts_of_a_file(tmp_path: Path) -> None:
    with PyAVReader(write(tmp_path / "a.avi", moving_frames(50), fps=10)) as reader:
        info = reader.info
    assert (info.width, info.height, info.fps, info.duration_seconds) == (64, 48, 10.0, 5.0)
    assert (info.codec, info.container) == ("mpeg4", "avi")


def test_the_codec_report_names_common_decoders() -> None:
    assert codec_report()["mpeg4"]
