"""Folders of numbered images give OpenCV's pixels, and no other file is opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_samples import cut, moving_frames

from c3d_extract.decode import (
    FrameFolder,
    open_video,
    read_frame_folder,
    safety,
)
from c3d_extract.errors import VideoError


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


def test_grey_transparent_and_rotated_images_are_opencvs(tmp_path: Path) -> None:
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


def test_troubles_of_image_folders_are_reported(tmp_path: Path) -> None:
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
    with pytest.raises(VideoError, match=r"1\.png: more than 8 bits per channel"):
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
    # Since 10.1, Pillow looks it up once per process.
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None, raising=False)
    (frames / "000001.jpg").write_bytes(EPS)
    with pytest.raises(VideoError, match=r"000001\.jpg: neither a JPEG nor a PNG image"):
        list(read_frame_folder(frames))
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "socket", "link to a device", "folder"])
def test_a_special_file_in_a_frame_folder_is_refused_without_blocking(
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


def test_a_pipe_that_replaces_a_file_is_refused_without_blocking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "1.png")
    monkeypatch.setattr(safety, "check_regular", lambda _: None)  # it was a file when it was looked at
    with pytest.raises(VideoError, match=r"1\.png: not a regular file"):
        list(read_frame_folder(tmp_path))
