"""What a file is, by its name and its first bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = [
    "VIDEO_SUFFIXES",
    "is_archive",
    "is_compressed_archive",
    "is_frame_folder",
    "is_numbered_image",
    "why_not_a_video",
    "why_not_a_video_by_name",
]

_VIDEO_NAMES = """
    3g2 3gp amv asf avi avif divx dv f4v flv gif h264 h265 hevc ivf m2ts m2v m3u8 m4v mjpeg mjpg mkv mov mp4
    mpe mpeg mpg mts mxf nut obu ogm ogv qt rm rmvb swf ts vob webm wmv xvid y4m
"""
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO_NAMES.split())
"""Suffixes of video files, in small letters."""

_NUMBERED_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_IMAGE_SUFFIXES = _NUMBERED_SUFFIXES | {".bmp", ".tif", ".tiff", ".webp", ".ppm", ".heic", ".heif", ".cr3"}
# Named separately because their first bytes are those of a video's container.
_AUDIO_SUFFIXES = frozenset({".m4a", ".m4b", ".mka", ".oga", ".opus", ".spx", ".wma", ".weba"})
_ARCHIVE_SUFFIX = ".tar"
_COMPRESSED_NAMES = """
    gz tgz bz2 tbz tbz2 xz txz lzma tlz lz lz4 zst tzst z taz
"""
_COMPRESSED_SUFFIXES = frozenset(_COMPRESSED_NAMES.split())
_NO_VIDEO_NAME = "not a video by its name"
_PICTURE = "a picture"
# The first bytes of containers, for files whose name says nothing: offset and bytes.
_SIGNATURES = (
    (4, b"ftyp"),
    (8, b"AVI "),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"FLV"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),  # MPEG-1/2 video
    (0, b"GIF8"),
    (0, b"\x30\x26\xb2\x75"),  # ASF, WMV
    (0, b".RMF"),
)


def is_numbered_image(name: str) -> bool:
    """Return whether a file name is that of one frame: digits and the suffix of an image."""
    path = Path(name)
    return path.suffix.lower() in _NUMBERED_SUFFIXES and path.stem.isdecimal() and path.stem.isascii()


def is_frame_folder(folder: Path) -> bool:
    """Return whether a folder holds numbered images."""
    try:
        with os.scandir(folder) as entries:
            return any(is_numbered_image(entry.name) for entry in entries)
    except OSError:
        return False


def is_archive(name: str) -> bool:
    """Return whether a file name is that of an uncompressed tar archive."""
    return name.lower().endswith(_ARCHIVE_SUFFIX)


def is_compressed_archive(name: str) -> bool:
    """Return whether a file name is that of a compressed tar archive, such as ``x.tar.gz`` or ``x.tgz``."""
    stem, _, last = name.lower().rpartition(".")
    return last in _COMPRESSED_SUFFIXES and (last.startswith("t") or is_archive(stem))  # .tgz is .tar.gz


def why_not_a_video(file: Path) -> str | None:
    """Return why a file that was found in a folder is ignored, or None where it is a video."""
    why = why_not_a_video_by_name(file.name)
    if why == _PICTURE:
        return f"{why}; --frame-folders reads folders of numbered ones"
    return _why_not_by_content(file) if why == _NO_VIDEO_NAME else why


def why_not_a_video_by_name(name: str) -> str | None:
    """Return why an object or a member is ignored, by the name below what was searched, or None."""
    *folders, last = name.split("/")
    suffix = Path(last).suffix.lower()
    if last.startswith("."):
        return "a hidden file"
    if any(folder.startswith(".") for folder in folders):
        return "in a hidden folder"
    if suffix in VIDEO_SUFFIXES:
        return None
    if is_archive(last):
        return "an archive; name it, or a pattern such as 'shards/*.tar', to read its members"
    if suffix in _IMAGE_SUFFIXES:
        return _PICTURE
    return "a sound file" if suffix in _AUDIO_SUFFIXES else _NO_VIDEO_NAME


def _why_not_by_content(file: Path) -> str | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return "not a regular file"
        with file.open("rb") as opened:
            head = opened.read(16)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if any(head[offset:].startswith(signature) for offset, signature in _SIGNATURES):
        return None
    return "not a video by its name, nor by its first bytes"
