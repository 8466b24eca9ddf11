"""Only the file itself is opened, and what is not a video is refused in one line."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from video_samples import moving_frames, read, why_not, write

if TYPE_CHECKING:
    from collections.abc import Iterator


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
def test_what_is_not_a_video_is_refused_in_one_clear_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert why_not(path).startswith(reason)


def test_what_is_not_a_file_is_refused_without_blocking(tmp_path: Path) -> None:
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


@contextlib.contextmanager
def never_opened(path: Path) -> Iterator[None]:
    """Check through inotify that no process opens ``path`` meanwhile."""
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
def test_a_script_named_as_a_video_opens_no_other_file(tmp_path: Path, script: str) -> None:
    target = write(tmp_path / "secret.mkv", moving_frames(20))
    path = tmp_path / script
    path.write_text(SCRIPTS[script].format(target=target))
    with never_opened(target):
        assert why_not(path)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_named_as_a_video_opens_no_url(tmp_path: Path, script: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / script
        path.write_text(SCRIPTS[script].format(target=f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"))
        assert why_not(path)
        with pytest.raises(BlockingIOError):
            server.accept()


HOSTILE = ["a:b.avi", "http:x.avi", "concat:a.avi|b.avi", "-dash.avi", "percent%04d.avi", "pipe:0", "🎬.avi"]


@pytest.mark.parametrize("name", [*HOSTILE, "new\nline.avi", "quote'\".avi", os.fsdecode(b"\xe9.avi")])
def test_a_name_is_never_interpreted(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "plain.avi", moving_frames(3)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))[0]) == 3
