"""A file object is read as a file is, nothing else is opened, and what it does wrong stays its own."""

from __future__ import annotations

import io
import os
import socket
from typing import TYPE_CHECKING, Any

import av
import pytest
from test_safety import SCRIPTS, never_opened
from video_samples import moving_frames, write

from c3d_extract.decode import OpenedFile, PyAVReader, file_of_bytes, pyav
from c3d_extract.errors import UsageError, VideoError

if TYPE_CHECKING:
    from pathlib import Path


def why_not(data: bytes) -> str:
    with pytest.raises(VideoError) as caught, PyAVReader(OpenedFile(io.BytesIO(data))) as reader:
        list(reader.frames())
    return caught.value.reason


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_playlist_in_memory_opens_no_file(tmp_path: Path, script: str) -> None:
    target = write(tmp_path / "secret.mkv", moving_frames(20))
    with never_opened(target):
        assert why_not(SCRIPTS[script].format(target=target).encode())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_playlist_in_memory_opens_no_address(script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        assert why_not(SCRIPTS[script].format(target=address).encode())
        with pytest.raises(BlockingIOError):
            server.accept()


def test_even_a_container_that_opens_files_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The list of containers is one door; without protocols there is nothing behind it.
    target = write(tmp_path / "secret.mkv", moving_frames(20))
    data = f"ffconcat version 1.0\nfile '{target}'\n".encode()
    options = {"safe": "0"}
    with av.open(io.BytesIO(data), "r", format="concat", options=options) as unguarded:
        assert len(list(unguarded.decode(video=0))) == 20
    monkeypatch.setattr(pyav, "CONTAINERS", "concat")
    real: Any = av.open
    monkeypatch.setattr(av, "open", lambda *args, **more: real(*args, **more, options=options))
    with never_opened(target):
        assert why_not(data)


def test_an_mp4_without_its_index_is_named_as_in_a_file() -> None:
    assert why_not(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\xff\xffmdat").startswith(
        "cut off: it ends before"
    )


def test_a_cut_video_in_memory_is_found_out(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.avi", moving_frames(30)).read_bytes()
    with PyAVReader(OpenedFile(io.BytesIO(whole[:-3000]))) as reader:
        list(reader.frames())
        assert "cut: its RIFF ends at byte" in str(reader.trouble())
    with PyAVReader(OpenedFile(io.BytesIO(whole))) as reader:
        list(reader.frames())
        assert reader.trouble() is None


def test_a_name_gives_ffmpeg_the_suffix_alone(tmp_path: Path) -> None:
    # FFmpeg knows raw JPEG frames by the suffix, and would take an address for what it says.
    data = write(tmp_path / "a.mjpeg", moving_frames(3), codec="mjpeg", pix_fmt="yuvj420p").read_bytes()
    file: Any = io.BytesIO(data)
    file.name = "http://127.0.0.1:1/a.mjpeg"
    opened = OpenedFile(file)
    assert (str(opened), opened.name) == ("http://127.0.0.1:1/a.mjpeg", "video.mjpeg")
    with PyAVReader(opened) as reader:
        assert len(list(reader.frames())) == 3


def test_a_file_object_is_read_from_its_beginning_and_stays_open(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", moving_frames(5))
    with path.open("rb") as file:
        file.seek(100)
        with PyAVReader(OpenedFile(file)) as reader:
            assert len(list(reader.frames())) == 5
            assert reader.trouble() is None
        assert not file.closed


class Wrong:
    """Ignores how much it was asked for, or gives no bytes."""

    def __init__(self, data: object) -> None:
        self.data = data

    def read(self, _n: int, /) -> Any:
        if isinstance(self.data, Exception):
            raise self.data
        return self.data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 10_000_000, "returned 10000000 bytes"),  # PyAV would write beyond its memory
        ("text", "is open as text"),
        (None, r"returned NoneType, not bytes"),
        (7, "returned int, not bytes"),
    ],
)
def test_what_a_file_object_does_wrong_is_kept_and_ends_it(data: object, message: str) -> None:
    opened = OpenedFile(Wrong(data))
    with pytest.raises(VideoError):
        PyAVReader(opened)
    with pytest.raises(UsageError, match=message):
        raise opened.error or AssertionError


def test_what_it_raises_is_kept_and_it_is_asked_no_more() -> None:
    opened = OpenedFile(Wrong(OSError("unplugged")))
    assert opened.read(10) == b""
    assert opened.read(10) == b""
    assert str(opened.error) == "unplugged"


@pytest.mark.parametrize("data", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789")])
def test_bytes_of_any_kind_are_read_in_place(data: Any) -> None:
    file: Any = file_of_bytes(data)
    assert file.seekable()
    assert file.read(4) == b"0123"
    assert (file.seek(-2, os.SEEK_END), file.read(9), file.read(9)) == (8, b"89", b"")
    assert (file.seek(2), file.seek(3, os.SEEK_CUR), file.tell(), file.read(2)) == (2, 5, 5, b"56")
    if isinstance(data, bytearray):
        data[:2] = b"ab"
        file.seek(0)
        assert file.read(3) == b"ab2"
