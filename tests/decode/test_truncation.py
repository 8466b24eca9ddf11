"""Cut files: whenever a file's own structure shows that it is short, its video is not `ok`."""

from __future__ import annotations

import io
import os
import random
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_samples import moving_frames, write

from c3d_extract.decode import PyAVReader, truncation
from c3d_extract.decode.truncation import why_truncated
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_FRAMES = 30


@dataclass(frozen=True)
class Kind:
    """A kind of file: how PyAV writes it, and which bytes begin a part after which a cut cannot be seen."""

    name: str
    codec: str
    pix_fmt: str = "yuv420p"
    container: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    piped: bool = False
    silent: Callable[[bytes], set[int]] = lambda _: set()


def _before(mark: bytes, back: int = 0) -> Callable[[bytes], set[int]]:
    def offsets(data: bytes) -> set[int]:
        found, place = set(), data.find(mark)
        while place >= 0:
            found.add(place - back)
            place = data.find(mark, place + 1)
        return found

    return offsets


def _between_packets(n_bytes: int) -> Callable[[bytes], set[int]]:
    return lambda data: set(range(0, len(data), n_bytes))


KINDS = {
    "gif": Kind("a.gif", "gif", "rgb8"),
    "ogg": Kind("a.ogg", "libvpx"),
    "mjpeg avi": Kind("a.avi", "mjpeg", "yuvj420p"),
    "msvideo1 avi": Kind("a.avi", "msvideo1", "rgb555le"),
    "raw avi": Kind("a.avi", "rawvideo", "bgr24"),
    "mpeg4 avi": Kind("a.avi", "mpeg4"),
    "mpeg4 avi with b-frames": Kind("a.avi", "mpeg4", options={"bf": "2"}),
    "piped avi": Kind("a.avi", "mjpeg", "yuvj420p", container="avi", piped=True, silent=_before(b"00dc")),
    "mkv": Kind("a.mkv", "libx264"),
    "webm": Kind("a.webm", "libvpx"),
    "live mkv": Kind(
        "a.mkv",
        "mjpeg",
        "yuvj420p",
        container_options={"live": "1", "cluster_time_limit": "400"},
        silent=_before(b"\x1f\x43\xb6\x75"),
    ),
    "mp4": Kind("a.mp4", "libx264"),
    "mp4 with its index first": Kind("a.mp4", "libx264", container_options={"movflags": "faststart"}),
    "fragmented mp4": Kind(
        "a.mp4",
        "libx264",
        options={"g": "10"},
        container_options={"movflags": "frag_keyframe+empty_moov"},
        silent=_before(b"moof", 4),
    ),
    "dash mp4": Kind(
        "a.mp4",
        "libx264",
        options={"g": "10"},
        container_options={"movflags": "dash+global_sidx+frag_keyframe"},
    ),
    "mov": Kind("a.mov", "mjpeg", "yuvj420p", container_options={"movflags": "faststart"}),
    "flv": Kind("a.flv", "flv"),
    "mpeg-ts": Kind("a.ts", "mpeg2video", silent=_between_packets(188)),
    "m2ts": Kind(
        "a.ts", "mpeg2video", container_options={"mpegts_m2ts_mode": "1"}, silent=_between_packets(192)
    ),
    "mpeg-ps": Kind("a.mpg", "mpeg2video", silent=_before(b"\0\0\1\xba")),
    "asf": Kind("a.asf", "wmv2"),
    "ivf": Kind("a.ivf", "libvpx"),
    "mxf": Kind("a.mxf", "mpeg2video"),
}


class Pipe:
    """A file that cannot seek, like a pipe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a kind of file to a file of 30 frames, written once."""
    folder = tmp_path_factory.mktemp("whole")

    def make(kind: str) -> Path:
        path = folder / kind.replace(" ", "-") / KINDS[kind].name
        if not path.exists():
            path.parent.mkdir()
            _write(path, KINDS[kind])
        return path

    return make


def _write(path: Path, kind: Kind) -> None:
    if kind.codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {kind.codec}")
    target = Pipe(path) if kind.piped else str(path)
    opened = av.open(
        cast("Any", target), "w", format=kind.container, container_options=kind.container_options
    )
    with opened as out:
        stream = cast("Any", out.add_stream(kind.codec, rate=25, options=kind.options))
        stream.height, stream.width, stream.pix_fmt = 48, 64, kind.pix_fmt
        stream.codec_context.thread_count = 1
        for rgb in moving_frames(N_FRAMES):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        out.mux(stream.encode())
    if isinstance(target, Pipe):
        target.close()


def read(path: Path) -> tuple[str, int, str | None]:
    """Return what the report would state for a file: its status, its frames, and the reason."""
    try:
        with PyAVReader(path) as reader:
            n_frames = sum(1 for _ in reader.frames())
            trouble = reader.trouble()
    except VideoError as error:
        return "failed", 0, error.reason
    return ("ok" if trouble is None else "partial"), n_frames, trouble


def cut(path: Path, n_bytes: int, folder: Path) -> Path:
    target = folder / path.name
    target.write_bytes(path.read_bytes()[:n_bytes])
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_ok(made: Callable[[str], Path], kind: str) -> None:
    assert read(made(kind)) == ("ok", N_FRAMES, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lost_frames_is_never_ok(made: Callable[[str], Path], kind: str, tmp_path: Path) -> None:
    """Cut at any offset except those (see the next test) at which the file shows no damage."""
    whole = made(kind)
    data = whole.read_bytes()
    places = np.random.default_rng(0).integers(1, len(data), 40)
    for place in {*map(int, places), len(data) - 1, len(data) // 2} - KINDS[kind].silent(data):
        status, n_frames, _ = read(cut(whole, place, tmp_path))
        assert status != "ok" or n_frames == N_FRAMES, f"{place} of {len(data)} bytes: {n_frames} frames"


@pytest.mark.parametrize("kind", ["mpeg-ts", "m2ts", "live mkv", "fragmented mp4", "piped avi", "mpeg-ps"])
def test_a_cut_between_two_parts_of_a_file_that_states_no_size_cannot_be_seen(
    made: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    """docs/limits.md states this limit; where this test fails, it lists too many undetected cuts."""
    whole = made(kind)
    places = sorted(KINDS[kind].silent(whole.read_bytes()))
    assert any(
        why_truncated(path, container, place) is None
        for place in places[1:]
        for path in [cut(whole, place, tmp_path)]
        for container in [_container(whole)]
    )


def _container(path: Path) -> str:
    with PyAVReader(path) as reader:
        return reader.info.container


def test_a_cut_clip_of_ucf101_is_never_ok(shared_data: Path, tmp_path: Path) -> None:
    whole = shared_data / "samples" / "facebook_C3D" / "v_BaseballPitch_g01_c01.avi"
    size = whole.stat().st_size
    assert why_truncated(whole, "avi", size) is None
    places = np.random.default_rng(0).integers(1, size, 60)
    for place in map(int, places):
        assert "cut: its RIFF ends at byte" in (
            why_truncated(cut(whole, place, tmp_path), "avi", place) or ""
        )
    statuses = [read(cut(whole, int(place), tmp_path))[0] for place in places[:5]]
    assert "ok" not in statuses


def test_of_the_real_files_only_truncated_ones_are_reported_as_such(shared_data: Path) -> None:
    """Four are first pieces of longer files (the FATE collection keeps its samples small), one is hostile."""
    called = set()
    for path in sorted(shared_data.rglob("*.*")):
        if path.suffix in {".avi", ".mp4", ".mov", ".mkv", ".gif", ".avif", ".jpeg", ".png"}:
            try:
                container = _container(path)
            except VideoError:
                continue
            if why_truncated(path, container, path.stat().st_size) is not None:
                called.add(path.name)
    assert called == {
        "cinepak_catfight-cvid-pal8-partial.mp4",
        "h264_displaymatrix.mp4",
        "mp4parse_tests_unknown_mdat_in_oversized_meta.avif",
        "mpeg2video_roundup1414.mp4",
        "vp8_RRSF49-short.mp4",
    }


def test_a_cut_avi_keeps_the_length_that_its_header_states(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    """FFmpeg makes it shorter, by the share of the file that is missing."""
    whole = made("mjpeg avi")
    with PyAVReader(cut(whole, whole.stat().st_size // 2, tmp_path)) as reader:
        assert reader.info.duration_seconds == pytest.approx(N_FRAMES / 25)


def test_an_avi_from_a_pipe_states_no_length(made: Callable[[str], Path]) -> None:
    with PyAVReader(made("piped avi")) as reader:
        assert np.isnan(reader.info.duration_seconds)


def test_where_the_structure_says_nothing_the_stated_length_counts(tmp_path: Path) -> None:
    """A Matroska file of open size, cut between two clusters: the loss of 0.4 s is reported."""
    path = tmp_path / "a.mkv"
    _write(path, Kind("a.mkv", "mjpeg", "yuvj420p", container_options={"cluster_time_limit": "600"}))
    data = bytearray(path.read_bytes())
    size = data.index(b"\x18\x53\x80\x67") + 4
    data[size : size + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    assert read(path) == ("ok", N_FRAMES, None)
    path.write_bytes(data[: max(_before(b"\x1f\x43\xb6\x75")(bytes(data)))])
    assert read(path) == ("partial", 21, "ends early: 0.8 s of 1.2 s could be read")


def test_a_sample_that_an_mp4_lists_and_lacks_is_reported(tmp_path: Path) -> None:
    """Where the box of the samples extends to the end of the file, and the cut is between two samples."""
    path = tmp_path / "a.mp4"
    _write(path, Kind("a.mp4", "mjpeg", "yuvj420p", container_options={"movflags": "faststart"}))
    data = bytearray(path.read_bytes())
    size = data.index(b"mdat") - 4
    data[size : size + 4] = bytes(4)
    path.write_bytes(data)
    assert read(path) == ("ok", N_FRAMES, None)
    with av.open(str(path)) as container:
        last = container.streams.video[0].index_entries[-1].pos
    path.write_bytes(data[:last])
    assert read(path) == ("partial", N_FRAMES - 1, "its index lists 1 more frames than there are")
    with PyAVReader(path) as reader:
        assert len(list(reader.frames(start_seconds=20 / 25))) == 9
        assert reader.trouble() is None, "what is not read is not missed"


def test_errors_and_a_cut_are_both_reported(made: Callable[[str], Path], tmp_path: Path) -> None:
    whole = made("mp4 with its index first")
    trouble = read(cut(whole, whole.stat().st_size * 3 // 4, tmp_path))[2] or ""
    assert trouble.startswith("1 decode error: ")
    assert f"; cut: its box mdat ends at byte {whole.stat().st_size}" in trouble


@pytest.mark.parametrize(
    "kind", ["gif", "mjpeg avi", "webm", "mp4 with its index first", "fragmented mp4", "flv", "mpeg-ts"]
)
def test_a_download_whose_rest_is_still_zeros_is_not_ok(
    made: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    data = made(kind).read_bytes()
    path = tmp_path / KINDS[kind].name
    for tenth in range(3, 9):
        there = len(data) * tenth // 10
        path.write_bytes(data[:there] + bytes(len(data) - there))
        assert read(path)[0] != "ok", tenth


# --- intact, but irregular -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [bytes(500), b"\0\0LIST\xff\xff\xff\x7fmovi" * 9, random.Random(0).randbytes(200)],
    ids=["zeros", "lists", "noise"],
)
@pytest.mark.parametrize("kind", ["mjpeg avi", "mkv", "mp4", "gif"])
def test_data_after_the_last_element_is_not_a_cut(
    made: Callable[[str], Path], kind: str, rest: bytes, tmp_path: Path
) -> None:
    """Real AVIs have the rest of a disk sector there, and cameras append their own data to an MP4."""
    path = tmp_path / KINDS[kind].name
    path.write_bytes(made(kind).read_bytes() + rest)
    if not (kind == "mp4" and not any(rest)):  # there, zeros could be those of a download
        assert why_truncated(path, _container(path), path.stat().st_size) is None


def test_a_riff_whose_size_includes_its_header_is_not_a_cut(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    data = bytearray(made("mjpeg avi").read_bytes())
    struct.pack_into("<I", data, 4, len(data))
    assert look("avi", bytes(data)) is None
    struct.pack_into("<I", data, 4, len(data) + 1)
    assert "its RIFF" in (look("avi", bytes(data)) or "")


# --- each container's own statements -------------------------------------------------------------------


def look(container: str, data: bytes) -> str | None:
    """Check bytes as if they were a file."""
    return truncation._CHECKS[container](truncation._FileBytes(io.BytesIO(data), len(data)))


def riff(kind: bytes, content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + kind + content


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def test_every_riff_of_an_opendml_file_is_checked() -> None:
    movi = chunk(b"LIST", b"movi" + chunk(b"00dc", b"x" * 101))
    data = riff(b"AVI ", movi) + riff(b"AVIX", movi) + riff(b"AVIX", movi)
    assert look("avi", data) is None
    assert "cut: its RIFF ends at byte" in (look("avi", data[:-20]) or "")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_a_box_of_64_bits_and_one_that_reaches_to_the_end_are_understood() -> None:
    long = struct.pack(">I4sQ", 1, b"mdat", 16 + 100) + bytes(100)
    assert look("mov", box(b"ftyp", b"isom") + long) is None
    assert "its box mdat" in (look("mov", (box(b"ftyp", b"isom") + long)[:-1]) or "")
    assert look("mov", box(b"ftyp", b"isom") + struct.pack(">I4s", 0, b"mdat") + bytes(7)) is None


@pytest.mark.parametrize("version", [0, 1])
def test_fragments_that_a_sidx_box_lists_must_be_there(version: int) -> None:
    fragment = box(b"moof", b"m" * 50) + box(b"mdat", b"d" * 100)
    times = struct.pack(">QQ" if version else ">II", 0, 0)
    listed = struct.pack(">HH", 0, 2) + 2 * struct.pack(">III", len(fragment), 1, 0)
    head = box(b"sidx", struct.pack(">B3xII", version, 1, 1000) + times + listed)
    assert look("mov", head + 2 * fragment) is None
    assert "its sidx box lists" in (look("mov", head + fragment) or "")


def test_an_flv_must_have_the_size_that_it_states(made: Callable[[str], Path], tmp_path: Path) -> None:
    """Also where it was cut between two tags."""
    data = made("flv").read_bytes()
    last_tag = int.from_bytes(data[-4:], "big") + 4
    trouble = read(cut(made("flv"), len(data) - last_tag, tmp_path))[2]
    assert f"cut: what its header states ends at byte {len(data)}" in (trouble or "")


def test_a_broadcast_asf_states_no_size(made: Callable[[str], Path]) -> None:
    data = bytearray(made("asf").read_bytes())
    flags = data.index(truncation._ASF_FILE) + 88
    assert "what its header states" in (look("asf", bytes(data[:-10])) or "")
    data[flags] |= 1
    assert look("asf", bytes(data[:-10])) is None


# --- nothing hostile -----------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_arbitrary_bytes_cause_no_exception(made: Callable[[str], Path], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([k for k in KINDS if KINDS[k].codec in av.codecs_available]))
    start = bytearray(made(kind).read_bytes()[: data.draw(st.integers(0, 3000))])
    for place in data.draw(st.lists(st.integers(0, max(len(start) - 1, 0)), max_size=8)):
        if start:
            start[place] = data.draw(st.integers(0, 255))
    content = bytes(start) + data.draw(st.binary(max_size=200))
    for container in truncation._CHECKS:
        found = look(container, content)
        assert found is None or "\n" not in found


@pytest.mark.parametrize(
    ("container", "data"),
    [
        ("avi", riff(b"AVI ", b"JUNK\0\0\0\0" * 5000)),
        ("matroska", b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + b"\xec\x80" * 5000),
        ("mov", box(b"free", b"") * 5000),
        ("ogg", (b"OggS" + bytes(23)) * 5000),
        ("gif", b"GIF89a" + bytes(7) + b"\x21\xf9\0" * 5000),
        ("mxf", (b"\x06\x0e\x2b\x34" + bytes(13)) * 5000),
        ("ivf", b"DKIF\0\0\x20\0" + bytes(24) + (bytes(11) + b"1") * 5000),
    ],
)
def test_the_number_of_elements_followed_is_limited(
    container: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truncation, "_MAX_ELEMENTS", 100)
    at = truncation._FileBytes.at
    places = []

    def noted(self: Any, place: int, n_bytes: int) -> bytes:
        places.append(place)
        return at(self, place, n_bytes)

    monkeypatch.setattr(truncation._FileBytes, "at", noted)
    look(container, data)
    assert 50 < len(places) < 1000


def test_a_file_that_is_replaced_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", moving_frames(5))
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"more")
    assert why_truncated(path, "avi", size) == f"changed while it was read: from {size} to {size + 4} bytes"
    path.unlink()
    os.mkfifo(path)
    assert why_truncated(path, "avi", size) == "changed while it was read: not a regular file"
    path.unlink()
    assert why_truncated(path, "avi", size) == "changed while it was read: no such file"
