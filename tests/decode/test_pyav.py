"""Reading with PyAV: OpenCV's frames pixel for pixel, errors counted, the right stream and times."""

from __future__ import annotations

import itertools
import math
import struct
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from video_samples import cut, moving_frames, read, why_not, write

from c3d_extract.decode import (
    PyAVReader,
    codec_report,
)
from c3d_extract.decode.timestamps import steady_times
from c3d_extract.errors import VideoError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def opencv_frames(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        frames.append(cast("NDArray[np.uint8]", frame))


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


# Odd sizes: OpenCV reads the same colours, from rows that it pads differently.
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


def test_frames_returned_by_the_final_flush_have_their_times_too(tmp_path: Path) -> None:
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
        # AVI counts time from the first packet, and its frame may be shown one frame later.
        assert len(every) - start <= len(late) <= len(every) - start + (name == "a.avi" and start > 0)
        assert all((a == b).all() for a, b in zip(late, every[-len(late) :], strict=True))
    with PyAVReader(path) as reader, pytest.raises(VideoError, match="no frame"):
        list(reader.frames(start_seconds=1000))


def test_frames_long_before_a_time_are_not_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving_frames(300, 48, 64), codec="libx264", options={"g": "12"})
    with PyAVReader(path) as reader:
        assert len(list(reader.frames(start_seconds=290 / reader.info.fps))) == 10
        assert reader._n_packets < 60


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


def test_an_intact_video_has_no_trouble(tmp_path: Path) -> None:
    for name, codec in (
        ("a.avi", "mpeg4"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.mpg", "mpeg2video"),
    ):
        frames, reader = read(write(tmp_path / name, moving_frames(60), codec=codec))
        assert (len(frames), reader.n_decode_errors, reader.trouble()) == (60, 0, None), name


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


def test_longer_audio_is_not_damage_but_a_cut_is(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "a.mkv", moving_frames(50), sound_seconds=10)
    frames, reader = read(path)
    assert (len(frames), reader.trouble()) == (50, None)
    assert reader.info.duration_seconds == pytest.approx(2.0, abs=0.05), "the picture's, not the sound's"
    path = cut(with_sound(tmp_path / "b.mkv", moving_frames(100), sound_seconds=4), 0.5)
    assert "; ends early" in (read(path)[1].trouble() or "")


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


def test_an_empty_video_stream_is_reported_as_empty(shared_data: Path) -> None:
    header_alone = next((shared_data / "nasty" / "mp4parse").glob("*cenc-video*"))
    assert why_not(header_alone) == "no frame could be decoded (its video stream is empty)"


def test_protected_files_are_not_decoded_into_noise(shared_data: Path) -> None:
    assert "DRM" in why_not(shared_data / "nasty" / "fate" / "wmv3_wmv_drm.wmv")
    for name in ("h264_mov-3elist-encrypted.mp4", "h264_mov-tenc-only-encrypted.mp4"):
        assert "DRM" in why_not(shared_data / "nasty" / "fate" / name)


def test_frames_that_the_decoder_concealed_are_counted(shared_data: Path) -> None:
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


def test_variable_frame_times_come_through(tmp_path: Path) -> None:
    pts = [0, 40, 80, 500, 540, 1000, 1040, 1080]
    path = write(tmp_path / "a.mkv", moving_frames(len(pts)), codec="ffv1", pts=pts)
    with PyAVReader(path) as reader:
        assert [frame.pts_seconds for frame in reader.frames()] == pytest.approx([p / 1000 for p in pts])


def test_facts_of_a_file(tmp_path: Path) -> None:
    with PyAVReader(write(tmp_path / "a.avi", moving_frames(50), fps=10)) as reader:
        info = reader.info
    assert (info.width, info.height, info.fps, info.duration_seconds) == (64, 48, 10.0, 5.0)
    assert (info.codec, info.container) == ("mpeg4", "avi")


def test_the_codec_report_names_common_decoders() -> None:
    assert codec_report()["mpeg4"]
