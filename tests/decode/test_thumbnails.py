"""Small pictures of videos, and sheets of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from c3d_extract.decode import open_video, write_video
from c3d_extract.decode.thumbnails import image_sheet, read_thumbnails
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def darkening(tmp_path: Path) -> Path:
    """Fifty grey frames of 96x64, from white to black in two seconds."""
    frames = [np.full((64, 96, 3), 255 - 5 * i, np.uint8) for i in range(50)]
    write_video(tmp_path / "grey.mp4", frames, fps=25)
    return tmp_path / "grey.mp4"


def test_pictures_are_spread_evenly_over_the_part(darkening: Path) -> None:
    pictures = read_thumbnails(darkening, (0, 2), n=5, size=(32, 24))
    assert [picture.shape for picture in pictures] == [(24, 32, 3)] * 5
    for picture, frame in zip(pictures, (5, 15, 25, 35, 45), strict=True):
        assert abs(picture.mean() - (255 - 5 * frame)) <= 6
    (last,) = read_thumbnails(darkening, (1.8, 2), n=1, size=(32, 24))
    assert last.mean() < 30


def test_a_video_that_is_shorter_than_stated_gives_its_first_frame(darkening: Path) -> None:
    (picture,) = read_thumbnails(darkening, (60, 80), n=1, size=(32, 24))
    assert picture.mean() > 250


def test_frames_keep_their_shape_and_colours(tmp_path: Path) -> None:
    frame = np.zeros((64, 192, 3), np.uint8)
    frame[:, 64:128] = 200, 40, 20  # the middle, which alone remains of a frame so wide
    write_video(tmp_path / "wide.mp4", [frame] * 5, fps=25)
    (picture,) = read_thumbnails(tmp_path / "wide.mp4", (0, 0), n=1, size=(32, 32))
    np.testing.assert_allclose(picture[8:-8, 8:-8].mean((0, 1)), (200, 40, 20), atol=12)


def test_a_folder_of_images_is_a_video(tmp_path: Path) -> None:
    for i in range(10):
        Image.fromarray(np.full((30, 40, 3), 20 * i, np.uint8)).save(tmp_path / f"{i:06}.png")
    pictures = read_thumbnails(tmp_path, (0, 0), n=5, size=(20, 15))
    assert [int(picture.mean()) for picture in pictures] == [20, 60, 100, 140, 180]


def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError):
        read_thumbnails(tmp_path / "no.mp4", (0, 1), n=1, size=(8, 8))


def test_a_sheet_holds_its_pictures_row_by_row(videos: Path) -> None:
    with open_video(videos / "long.mp4") as reader:
        frames = [np.ascontiguousarray(frame.bgr[:, :, ::-1]) for frame in reader.frames()][:7]
    with Image.open(io.BytesIO(image_sheet(frames, n_columns=3, quality=90))) as image:
        assert (image.format, image.size) == ("JPEG", (3 * 64, 3 * 48))
        sheet = np.asarray(image).astype(int)
    for i, frame in enumerate(frames):
        row, column = divmod(i, 3)
        part = sheet[row * 48 : (row + 1) * 48, column * 64 : (column + 1) * 64]
        assert abs(part - frame).mean() < 8
    assert sheet[96:, 64:].max() < 30
