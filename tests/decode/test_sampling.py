"""Crops straight from a frame's planes, or from its needed lines alone, equal those of whole frames."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_samples import moving_frames, write

from c3d_extract.decode import PyAVReader, colour, sampling
from c3d_extract.decode.colour import PartialConverter, noise_like
from c3d_extract.decode.sampling import ColumnTable, FrameSampling, InPart, OnePass, Whole
from c3d_extract.errors import VideoError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

has_kernel = pytest.mark.skipif(sampling.sample_planes is None, reason="no C compiler, or no AVX2")
BEST = InPart if sampling.sample_planes is None else OnePass


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "sample_planes", None)


def crops(path: Path, *, whole: bool) -> tuple[list[NDArray[np.uint8]], set[type]]:
    """Return the crops of a video, and how they were made."""
    sampler, ways = FrameSampler(Preprocessing()), set()
    choose = FrameSampling._choose

    def noted(self: FrameSampling, frame: VideoFrame) -> Any:
        way = choose(self, frame)
        ways.add(type(way))
        return way

    with PyAVReader(path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameSampling, "_choose", noted)
        frames = reader.frames(None if whole else sampler)
        made = [sampler(frame.bgr) if whole else frame.bgr for frame in frames]
        assert (reader.info.height, reader.info.width) == (reader._stream.height, reader._stream.width)
    return made, ways


def ways_to_the_same_crops(path: Path) -> set[type]:
    """Compare with the crops of frames that are converted whole; return how ours were made."""
    (ours, ways), (expected, _) = crops(path, whole=False), crops(path, whole=True)
    assert len(ours) == len(expected) > 0
    assert all((a == b).all() for a, b in zip(ours, expected, strict=True))
    return ways


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_no_way_changes_a_pixel(half_height: int, half_width: int, seed: int) -> None:
    height, width = 2 * half_height, 2 * half_width
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = write(Path(folder) / "a.nut", moving_frames(2, height, width, seed), codec="rawvideo")
        # A line of chroma that is shorter than a vector is left to swscale.
        assert ways_to_the_same_crops(path) <= ({BEST} if width >= 32 else {BEST, InPart, Whole})
        patch.setattr(sampling, "sample_planes", None)
        patch.setattr(colour, "_MAX_PARTIAL_SHARE", 1)
        assert ways_to_the_same_crops(path) <= {InPart, Whole}


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
def test_without_the_kernel_large_frames_are_converted_in_part(
    tmp_path: Path, without_kernel: None, size: tuple[int, int], in_part: bool
) -> None:
    path = write(tmp_path / "a.avi", moving_frames(2, *size), codec="mpeg4", options={"qscale": "2"})
    assert ways_to_the_same_crops(path) == {InPart if in_part else Whole}


@pytest.mark.parametrize(
    ("pix_fmt", "height", "width"),
    [("yuv444p", 48, 64), ("yuv420p", 47, 64), ("yuv420p", 48, 63), ("gray", 48, 64)],
)
def test_other_frames_are_converted_whole(tmp_path: Path, pix_fmt: str, height: int, width: int) -> None:
    frames = moving_frames(3, height, width)
    path = write(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt=pix_fmt)
    assert ways_to_the_same_crops(path) == {Whole}


@pytest.mark.parametrize("way", ["kernel", "in part"])
def test_real_and_damaged_videos_give_the_same_crops(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "in part":
        monkeypatch.setattr(colour, "_MAX_PARTIAL_SHARE", 1)
        monkeypatch.setattr(sampling, "sample_planes", None)
    files = [*(shared_data / "samples").glob("*/*.mp4"), *(shared_data / "nasty" / "fate").glob("h264_*.mp4")]
    n_frames = 0
    for file in sorted(files):
        with contextlib.suppress(VideoError):
            sampler = FrameSampler(Preprocessing())
            with PyAVReader(file) as one, PyAVReader(file) as other:
                pairs = zip(one.frames(sampler), other.frames(), strict=True)
                for ours, whole in itertools.islice(pairs, 15):
                    assert (ours.bgr == sampler(whole.bgr)).all(), file
                    n_frames += 1
    assert n_frames > 200


@has_kernel
@pytest.mark.parametrize("matrix", [1, 2, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p"])
def test_every_matrix_and_range_is_done_in_one_pass(matrix: int, pix_fmt: str) -> None:
    frame = av.VideoFrame(64, 48, pix_fmt)
    frame.colorspace = matrix
    rng = np.random.default_rng(matrix)
    for plane in frame.planes:
        plane.update(rng.bytes(plane.buffer_size))
    transform = FrameSampler(Preprocessing())
    way = OnePass.verified(frame, transform)
    assert way is not None
    assert (way(frame) == Whole(transform, colour.Converter())(frame)).all()


@has_kernel
def test_where_the_kernel_makes_other_pixels_it_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine whose swscale rounds otherwise, the right pixels are returned."""
    path = write(tmp_path / "a.avi", moving_frames(3, 122, 166))
    right = OnePass.__call__
    monkeypatch.setattr(OnePass, "_factors", {})
    monkeypatch.setattr(OnePass, "__call__", lambda self, frame: right(self, frame) ^ 1)
    assert ways_to_the_same_crops(path) == {Whole}


def test_where_parts_have_other_pixels_frames_are_converted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_kernel: None
) -> None:
    path = write(tmp_path / "a.avi", moving_frames(3, 122, 166))
    monkeypatch.setattr(colour, "_MAX_PARTIAL_SHARE", 1)
    monkeypatch.setattr(PartialConverter, "_verified", {})
    right = PartialConverter.convert
    monkeypatch.setattr(PartialConverter, "convert", lambda self, frame: right(self, frame) ^ 1)
    assert ways_to_the_same_crops(path) == {Whole}


@given(st.integers(1, 100), st.integers(32, 600), st.integers(0, 1000))
def test_a_column_table_names_the_pixels_of_each_column(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = np.sort(rng.integers(0, width, n))
    second = np.minimum(first + rng.integers(0, 2, n), width - 1)
    columns = np.array([first, second, *rng.integers(0, 2049, (2, n))], np.int32)
    table = ColumnTable.of(columns, width)
    starts = np.where(table.windows[..., None] >= 0, table.windows[..., None], table.pairs).repeat(2, axis=2)
    in_pair = np.arange(16) // 2 * 2 * (table.windows[..., None] < 0)
    found = (starts.reshape(*table.inside.shape[:2], -1)[..., :16] + table.inside - in_pair).reshape(2, -1, 2)
    assert found.shape[1] == -(-n // 16) * 16
    np.testing.assert_array_equal(found[0, :n].T, columns[:2])
    np.testing.assert_array_equal(found[1], found[0] // 2)
    np.testing.assert_array_equal(table.weights.reshape(-1, 2)[:n].T, columns[2:])
    assert (table.windows + 16 <= [[width], [width // 2]]).all()
    assert (table.pairs + 2 <= np.array([width, width // 2])[:, None, None]).all()


@has_kernel
def test_the_kernel_refuses_what_would_read_or_write_outside() -> None:
    frame = noise_like(av.VideoFrame(64, 48, "yuv420p"))
    way = OnePass.verified(frame, FrameSampler(Preprocessing()))
    assert way is not None
    planes: Any = tuple(frame.planes)
    sizes: Any = tuple(plane.line_size for plane in planes)
    given: Any = way._given
    sample: Any = sampling.sample_planes
    rows, pairs, windows, inside, weights, factors = given
    out = np.empty((112, 112, 3), np.uint8)
    sample(planes, sizes, *given, out)

    def changed(k: int, where: tuple[int, ...], value: int) -> tuple[Any, ...]:
        arrays = [array.copy() for array in given]
        arrays[k][where] = value
        return (*arrays, out)

    wrong: list[tuple[Any, ...]] = [
        *(changed(0, (k, -1), v) for k in (0, 1) for v in (-1, 48)),
        *(changed(0, (k, -1), v) for k in (2, 3) for v in (-1, 2049)),
        *(changed(1, (k, -1, -1), v) for k in (0, 1) for v in (-1, sizes[k] - 1)),
        *(changed(2, (k, -1), v) for k in (0, 1) for v in (-2, sizes[k] - 15)),
        (rows, pairs[:, :-1].copy(), windows, inside, weights, factors, out),
        (rows, pairs, windows[:1].copy(), inside, weights, factors, out),
        (rows, pairs, windows, inside[:1].copy(), weights, factors, out),
        (rows, pairs, windows, inside, weights[:-1].copy(), factors, out),
        (rows, pairs, windows, inside, weights, factors[:5].copy(), out),
        (rows[:, :-1].copy(), pairs, windows, inside, weights, factors, out),
        (rows, pairs, windows, inside, weights, factors, np.empty((112, 113, 3), np.uint8)),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="do not fit together"):
            sample(planes, sizes, *arguments)
    for k in range(3):
        short = tuple(
            bytes(plane)[: plane.buffer_size // 2] if i == k else plane for i, plane in enumerate(planes)
        )
        for other in ((short, sizes), (planes, tuple(8 if i == k else s for i, s in enumerate(sizes)))):
            with pytest.raises(ValueError, match="do not fit together"):
                sample(*other, *given, out)
