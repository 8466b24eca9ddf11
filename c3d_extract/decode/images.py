"""Folders of numbered images, read as one video."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from c3d_extract.decode.base import MAX_PIXELS, Frame, VideoInfo, one_line
from c3d_extract.decode.safety import open_regular
from c3d_extract.errors import VideoError
from c3d_extract.sources.kinds import is_numbered_image

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from PIL.Image import Image

    from c3d_extract.decode.base import FrameTransform

__all__ = ["FrameFolder", "read_frame_folder"]

# By default Pillow tries all its readers, and its EPS reader starts Ghostscript.
_FORMATS = ("JPEG", "PNG")


class FrameFolder:
    """A folder of numbered images read as one video, in numeric order (as the authors' ``%06d.jpg``).

    It is a `c3d_extract.decode.base.VideoReader`. Images are decoded by Pillow's libjpeg, whose pixels
    equal OpenCV's; FFmpeg's differ by up to 16 grey levels. Frames have no time stamps.
    """

    n_decode_errors = 0

    def __init__(self, path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        self.path = Path(path)
        self.n_frames = 0
        self._max_pixels = max_pixels
        try:
            self._files = _numbered_images(self.path)
        except OSError as error:
            raise VideoError(f"cannot be listed: {error.strerror}", subject=self.path) from error
        if not self._files:
            raise VideoError("no numbered images in this folder", subject=self.path)
        self.info = VideoInfo(0, 0, math.nan, math.nan, self._files[0].suffix.lstrip("."), "frames")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def trouble(self) -> str | None:
        """Return how many numbers between the first and the last are missing or occur twice, or None."""
        numbers = [int(file.stem) for file in self._files]
        n_twice = len(numbers) - len(set(numbers))
        if n_twice:
            return f"{n_twice} images share their number with another"
        missing = numbers[-1] - numbers[0] + 1 - len(numbers)
        return f"{missing} images missing between {numbers[0]} and {numbers[-1]}" if missing else None

    def frames(
        self,
        transform: FrameTransform | None = None,
        *,
        first: int = 0,
    ) -> Iterator[Frame]:
        """Yield the images, transformed where there is a transform, from index ``first`` (from 0) on.

        Raises
        ------
        VideoError
            Where an image cannot be decoded; it names the image.
        """
        for file in self._files[first:]:
            bgr = _read_image(file, self._max_pixels)
            if self.n_frames == 0:
                self.info = replace(self.info, width=bgr.shape[1], height=bgr.shape[0])
            self.n_frames += 1
            yield Frame(bgr if transform is None else transform(bgr), None)


def _numbered_images(folder: Path) -> list[Path]:
    """Return the images of ``folder`` whose names are numbers, in numeric order."""
    numbered = [file for file in folder.iterdir() if is_numbered_image(file.name)]
    return sorted(numbered, key=lambda file: (int(file.stem), file.name))


def _read_image(file: Path, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with open_regular(file) as data, Image.open(data, formats=_FORMATS) as image:
            _check_image(image, max_pixels)
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise VideoError(f"{file.name}: neither a JPEG nor a PNG image", subject=file.parent) from error
    except VideoError as error:
        raise VideoError(f"{file.name}: {error.reason}", subject=file.parent) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(
            f"{file.name}: not a readable image ({one_line(error)})", subject=file.parent
        ) from error
    return rgb[:, :, ::-1]


def _check_image(image: Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise VideoError(f"{image.width}x{image.height} is larger than --max-pixels {max_pixels}")
    if image.mode.startswith(("I", "F")):
        raise VideoError("more than 8 bits per channel")


def read_frame_folder(path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of a `FrameFolder` as uint8 (H, W, 3), B, G, R, in numeric order."""
    with FrameFolder(path) as folder:
        for frame in folder.frames():
            yield frame.bgr
