"""Checks on files before they are opened, and the reasons why others are refused."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from c3d_extract.decode.base import one_line
from c3d_extract.decode.opened import OpenedFile
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO, BinaryIO

__all__ = ["CONTAINERS", "check_regular", "open_bytes", "open_regular", "why_not_opened"]

# Demuxers of files that hold their own frames. Deliberately omitted: concat, hls, dash, sdp, rtsp,
# image2 (patterns), imf, lavfi and devices, which open other files or URLs.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,live_flv,h261,h263,h264,hevc,vvc,"
    "obu,av1,evc,ivf,m4v,mjpeg,gif,apng,ogg,rm,mxf,nut,yuv4mpegpipe,swf,dv,wtv,nsv,gxf,dirac,vc1,vc1test,film_cpk,"
    "smk,bink,roq,dfa,fli,flic,4xm,amv,avs,cavsvideo,avs2,avs3,ea,idcin,ipmovie,iv8,jv,kux,lmlm4,mm,mtv,mv,nuv,"
    "pva,r3d,rl2,rpl,smjpeg,thp,vivo,wc3movie,xmv,yop,dhav,cine,png_pipe,jpeg_pipe,webp_pipe,gif_pipe,bmp_pipe"
)
# First bytes, in lower case, of files that are not videos, and the reason to report.
_NOT_VIDEOS = (
    (
        (
            b"#extm3u",
            b"ffconcat version",
            b"<?xml",
            b"<mpd",
            b"v=0\r\n",
            b"v=0\n",
            b"[playlist]",
            b"[reference]",
        ),
        "a playlist or script, not a video; refused because it could open other files",
    ),
    ((b"<!doctype html", b"<html"), "a web page, not a video"),
    ((b"version https://git-lfs",), "a Git LFS pointer, not the video itself; fetch it with `git lfs pull`"),
)


def check_regular(path: Path) -> int:
    """Return a file's size in bytes; raise VideoError where it is not a regular file or `stat` fails."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise VideoError("a broken link" if path.is_symlink() else "no such file", subject=path) from error
    except ValueError as error:  # a NUL in the name
        raise VideoError("no such file: not a file name", subject=path) from error
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}", subject=path) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError("not a regular file", subject=path)
    return status.st_size


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes; raise VideoError, without blocking, where it is anything else.

    A pipe that replaces the file after it was checked is opened without waiting for a writer, and then
    refused. A device is not opened, because opening one can have side effects (a tape rewinds).
    """
    check_regular(path)
    try:
        file = open(path, "rb", opener=_non_blocking)  # noqa: SIM115 - closed by the caller
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}", subject=path) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise VideoError("not a regular file", subject=path)
    return file


def _non_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def open_bytes(video: Path | OpenedFile) -> IO[bytes]:
    """Open a regular file as `open_regular` does, or view a file object."""
    return video.view() if isinstance(video, OpenedFile) else open_regular(video)


def why_not_opened(video: Path | OpenedFile, error: Exception) -> str:
    """Return why FFmpeg did not open a file, from the file's first bytes or else from FFmpeg's ``error``."""
    try:
        with open_bytes(video) as file:
            head = file.read(64)
    except (VideoError, OSError) as unreadable:
        return (
            unreadable.reason
            if isinstance(unreadable, VideoError)
            else f"cannot be read: {one_line(unreadable)}"
        )
    if not head:
        return "an empty file"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginnings, why in _NOT_VIDEOS:
        if start.startswith(beginnings):
            return why
    if head[4:8] == b"ftyp" and not _has_box(video, {b"moov", b"moof", b"meta"}):
        return "cut off: it ends before its index (the moov box)"
    if getattr(error, "errno", None) == errno.EINVAL:  # its demuxer is not among those allowed
        return "not a supported kind of video file"
    return f"not a readable video: {one_line(error)}"


def _has_box(video: Path | OpenedFile, kinds: set[bytes]) -> bool:
    """Return whether an MP4 file has one of these boxes at its top level, complete or not."""
    with open_bytes(video) as file:
        while len(head := file.read(8)) == 8:
            if head[4:] in kinds:
                return True
            size = int.from_bytes(head[:4], "big")
            if size == 1:  # a 64-bit size follows
                size = int.from_bytes(file.read(8), "big") - 8
            if size < 8:
                return False
            file.seek(size - 8, os.SEEK_CUR)
    return False
