"""Bytes, file objects, arrays, tensors and generators of frames give the features of the file, to the bit."""

from __future__ import annotations

import gc
import io
import mmap
import weakref
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from conftest import LENGTHS, moving_square
from tiny_network import tiny_checkpoint

from c3d_extract import Extractor, ExtractSettings
from c3d_extract.decode import open_video
from c3d_extract.errors import UsageError, VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract import Features

REAL = [
    "samples/facebook_C3D/v_BaseballPitch_g01_c01.avi",
    "samples/PaddleVideo/example.avi",
    "samples/decord/video_90.mov",  # turned by a quarter
    "samples/decord/unordered.mov",
    "samples/imageio/newtonscradle.gif",
    "samples/imageio/realshort.mp4",
    "samples/torchcodec/h264_10bits.mp4",
    "samples/torchcodec/av1_video.mkv",
    "nasty/fate/theora_offset_test.mp4",  # Ogg, whatever its name
    "nasty/fate/mpeg2video_roundup1414.mp4",  # an MPEG program stream, cut
    "nasty/fate/rv10_sipr_5k0.mp4",  # RealMedia
    "nasty/fate/vp9_vp90-2-05-resize.mp4",  # IVF, of several sizes
]
BY_OPENCV = REAL[:2] + REAL[5:6]


@pytest.fixture(scope="module")
def extractor() -> Iterator[Extractor]:
    with make() as made:
        yield made


def make(**settings: Any) -> Extractor:
    return Extractor(
        tiny_checkpoint(), ExtractSettings(**({"stride": 8} | settings)), device="cpu", precision="fp32"
    )


def assert_equal(found: Features, expected: Features) -> None:
    np.testing.assert_array_equal(found.clips, expected.clips)
    np.testing.assert_array_equal(found.start_frames, expected.start_frames)
    np.testing.assert_array_equal(found.end_frames, expected.end_frames)
    assert found.outcome.n_frames == expected.outcome.n_frames


def frames_of(path: Path) -> Iterator[NDArray[np.uint8]]:
    with open_video(path) as reader:
        for frame in reader.frames():
            yield frame.bgr.copy()


@pytest.mark.parametrize("name", REAL)
def test_a_real_video_gives_the_same_features_however_it_is_given(
    shared_data: Path, extractor: Extractor, name: str
) -> None:
    path = shared_data / name
    expected = extractor.extract(path)
    encoded = path.read_bytes()
    with path.open("rb") as file:
        for given in (encoded, bytearray(encoded), io.BytesIO(encoded), file):
            found = extractor.extract(given)
            assert_equal(found, expected)
            np.testing.assert_array_equal(found.start_seconds, expected.start_seconds)
            np.testing.assert_array_equal(found.end_seconds, expected.end_seconds)
            assert (found.outcome.status, found.outcome.error) == (
                expected.outcome.status,
                expected.outcome.error,
            )
        assert not file.closed
    assert_equal(extractor.extract(frames_of(path), colour="bgr", fps=25), expected)
    frames = list(frames_of(path))
    assert_equal(extractor.extract(frames, colour="bgr", fps=25), expected)
    if len({frame.shape for frame in frames}) == 1:
        array = np.stack(frames)
        rgb = torch.from_numpy(array.copy()).flip(3)
        assert_equal(extractor.extract(array, colour="bgr", fps=25), expected)
        assert_equal(extractor.extract(rgb, colour="rgb", fps=25), expected)


def opencvs(capture: cv2.VideoCapture) -> Iterator[Any]:
    while (read := capture.read())[0]:
        yield read[1]


@pytest.mark.parametrize("name", BY_OPENCV)
def test_opencvs_frames_give_the_features_of_the_file(
    shared_data: Path, extractor: Extractor, name: str
) -> None:
    capture = cv2.VideoCapture(str(shared_data / name))
    found = extractor.extract(opencvs(capture), colour="bgr", fps=25)
    assert_equal(found, extractor.extract(shared_data / name))


def test_several_at_once_come_in_their_order_whatever_they_are(extractor: Extractor, videos: Path) -> None:
    names = list(LENGTHS)
    expected = [extractor.extract(videos / name) for name in names]
    given: list[Any] = [
        videos / names[0],
        (videos / names[1]).read_bytes(),
        list(frames_of(videos / names[2])),
        str(videos / names[3]),
        io.BytesIO((videos / names[4]).read_bytes()),
        frames_of(videos / names[5]),
    ]
    found = extractor.extract_batch(given, colour="bgr", fps=25)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.clips, other.clips)
    assert [one.outcome.video for one in found] == [
        "one.mp4",
        "<bytes>",
        "<frames>",
        "short.mp4",
        "<file>",
        "<frames>",
    ]
    assert found[0].outcome.path == videos / names[0]
    assert found[1].outcome.path == "<bytes>"
    assert extractor.extract_batch([]) == []


def test_in_a_batch_each_video_fails_alone(extractor: Extractor, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    given: list[Any] = [tmp_path / "text.mp4", videos / "a/one.mp4", b"nothing", io.BytesIO(b"")]
    found = extractor.extract_batch(given, return_exceptions=True)
    assert [type(each).__name__ for each in found] == ["VideoError", "Features", "VideoError", "VideoError"]
    assert (
        str(found[0])
        == f"{tmp_path / 'text.mp4'}: not a readable video: Invalid data found when processing input"
    )
    assert str(found[2]).startswith("<bytes>: not a readable video")
    assert str(found[3]) == "<file>: an empty file"
    with pytest.raises(VideoError, match=r"text\.mp4: not a readable video"):
        extractor.extract_batch(given)


def test_times_are_those_of_the_given_rate_and_frames_are_resampled_by_it() -> None:
    frames = np.stack(moving_square(50))
    with make(stride=16) as extractor:
        found = extractor.extract(frames, colour="rgb", fps=10)
        np.testing.assert_allclose(found.start_seconds, [0, 1.6, 3.2])
        np.testing.assert_allclose(found.end_seconds, [0.7, 2.3, 3.9])
    with make(fps=5) as resampled:
        found = resampled.extract(frames, colour="rgb", fps=10)
        np.testing.assert_array_equal(found.clips, resampled.extract(frames[::2], colour="rgb", fps=5).clips)
        assert found.outcome.n_frames == 25


def test_frames_are_asked_for_as_they_are_needed_and_not_kept(extractor: Extractor) -> None:
    living: list[weakref.ref[Any]] = []
    most = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for i in range(600):
            frame = np.full((48, 64, 3), i % 256, np.uint8)
            living.append(weakref.ref(frame))
            if i % 50 == 0:
                gc.collect()
                most = max(most, sum(ref() is not None for ref in living))
            yield frame

    assert extractor.extract(frames(), colour="rgb", fps=25).outcome.n_frames == 600
    assert most <= 3


def test_bytes_are_not_copied(extractor: Extractor, videos: Path) -> None:
    data = (videos / "mid.mp4").read_bytes()
    expected = extractor.extract(data).clips
    with (
        (videos / "mid.mp4").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        with memoryview(mapped) as view:
            np.testing.assert_array_equal(extractor.extract(view).clips, expected)
        np.testing.assert_array_equal(extractor.extract(mapped).clips, expected)


class Unseekable(io.RawIOBase):
    """A pipe or a response of a web server: read once, in order."""

    def __init__(self, data: bytes, fails_at: int = 1 << 40) -> None:
        self.file, self.fails_at = io.BytesIO(data), fails_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self.file.tell() >= self.fails_at:
            raise ConnectionResetError("the other side is gone")
        return self.file.readinto(memoryview(buffer)[:4096])


def test_a_stream_that_cannot_seek_is_read_in_order(
    extractor: Extractor, shared_data: Path, videos: Path
) -> None:
    path = shared_data / REAL[7]
    assert_equal(extractor.extract(Unseekable(path.read_bytes())), extractor.extract(path))
    with pytest.raises(VideoError, match="<file>: "):  # this one's index is at its end
        extractor.extract(Unseekable((videos / "mid.mp4").read_bytes()))
    with pytest.raises(ConnectionResetError, match="the other side is gone"):
        extractor.extract(Unseekable(path.read_bytes(), fails_at=5_000))


def failing() -> Iterator[NDArray[np.uint8]]:
    yield from moving_square(20)
    raise RuntimeError("the camera was unplugged")


def test_what_an_iterator_raises_is_raised_as_it_is(extractor: Extractor, videos: Path) -> None:
    with pytest.raises(RuntimeError, match="the camera was unplugged"):
        extractor.extract(failing(), colour="rgb", fps=25)
    found = extractor.extract_batch(
        [failing(), iter(moving_square(16))], colour="rgb", fps=25, return_exceptions=True
    )
    assert [type(each).__name__ for each in found] == ["RuntimeError", "Features"]


FRAMES = np.zeros((20, 48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (FRAMES, {"fps": 25}, '<array>: say how frames are coloured; colour="rgb" or "bgr"'),
        (FRAMES, {"colour": "rgb"}, "<array>: say how many frames there are a second"),
        (FRAMES, {"colour": "rgb", "fps": 0}, "say how many frames"),
        (FRAMES, {"colour": "rgb", "fps": float("nan")}, "say how many frames"),
        (FRAMES, {"colour": "RGB", "fps": 25}, "say how frames are coloured"),
        (FRAMES[0], {"colour": "rgb", "fps": 25}, r"<array>: is of shape \(48, 64, 3\); uint8 \(T, H"),
        (FRAMES.transpose(0, 3, 1, 2), {"colour": "rgb", "fps": 25}, r"permute\(0, 2, 3, 1\)"),
        (FRAMES.astype(np.float32), {"colour": "rgb", "fps": 25}, "frame 0 is not uint8 .* but float32"),
        ([FRAMES[0], {}], {"colour": "rgb", "fps": 25}, r"<frames>: frame 1 is not uint8 .* but dict"),
        (b"x", {"colour": "rgb"}, "colour= and fps=: are of frames alone"),
        ("a.mp4", {"fps": 25}, "colour= and fps=: are of frames alone"),
        (["a.mp4", "b.mp4"], {}, "extract_batch takes several videos"),
        (7, {}, "is no video: a int"),
        (io.StringIO("text"), {}, "<file>: is open as text; open it in binary mode"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_refused_in_one_line(
    extractor: Extractor, given: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        extractor.extract(given, **options)


def test_frames_without_pixels_or_with_too_many_fail() -> None:
    with make(max_pixels=3000) as extractor:
        with pytest.raises(VideoError, match="frames of 64x48 are larger than --max-pixels 3000"):
            extractor.extract(FRAMES, colour="rgb", fps=25)
        with pytest.raises(VideoError, match="<array>: has no frames"):
            extractor.extract(FRAMES[:0], colour="rgb", fps=25)


@pytest.mark.parametrize("given", [lambda path: path, lambda path: path.read_bytes()])
def test_an_extractor_that_is_closed_takes_nothing(videos: Path, given: Callable[[Path], Any]) -> None:
    extractor = make()
    extractor.close()
    with pytest.raises(UsageError, match="is closed"):
        extractor.extract(given(videos / "a/one.mp4"))
