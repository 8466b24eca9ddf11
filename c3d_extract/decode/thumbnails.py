"""Small pictures of videos, and sheets of them as image files."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.decode.images import FrameFolder
from c3d_extract.decode.reader import open_video
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Wanted", "image_sheet", "read_all_thumbnails", "read_thumbnails"]


class Wanted(NamedTuple):
    """A video to make pictures of, and which part of it, in seconds."""

    path: Path
    span: tuple[float, float]


def read_all_thumbnails(
    wanted: Iterable[Wanted | None], *, n: int, size: tuple[int, int]
) -> Iterator[list[NDArray[np.uint8]] | str | None]:
    """Yield the pictures of each video, as `read_thumbnails` returns them, or why it has none.

    None stays None. Videos are read by as many threads as there are cores.
    """

    def read(one: Wanted | None) -> list[NDArray[np.uint8]] | str | None:
        try:
            return one and read_thumbnails(one.path, one.span, n=n, size=size)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a video, it has no picture
            return str(error)

    # FFmpeg and libjpeg work outside Python's lock. What they read was decoded before, for the table.
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        yield from threads.map(read, wanted)


def read_thumbnails(
    path: str | os.PathLike[str], span: tuple[float, float], *, n: int, size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    """Return pictures of a video, spread evenly over a part of it, in order.

    Parameters
    ----------
    path
        A video file, or a folder of numbered images.
    span
        The part, in seconds from the start; of a folder of images it is always the whole.
    n
        How many: the middle of each n-th of the part.
    size
        Width and height. What is too wide or too high after scaling is cut off on both sides.

    Returns
    -------
    pictures
        uint8 (height, width, 3), R, G, B; the first frame where the video ends before its place.

    Raises
    ------
    VideoError
        Where the video cannot be read.
    """
    places = [(i + 0.5) / n for i in range(n)]
    return [_scaled(frame, size) for frame in _frames_at(path, span, places)]


def _frames_at(
    path: str | os.PathLike[str], span: tuple[float, float], places: Sequence[float]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frame at each place, from 0 to 1; B, G, R."""
    start, end = span
    for place in places:
        with open_video(path) as reader:
            if isinstance(reader, FrameFolder):
                frames = reader.frames(first=int(place * len(reader)))
            else:
                frames = reader.frames(start_seconds=start + place * (end - start))
            try:
                yield next(frames).bgr
                continue
            except (StopIteration, VideoError):  # the container states a longer duration than it has
                pass
        with open_video(path) as reader:
            yield next(reader.frames()).bgr


def _scaled(bgr: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    image = Image.fromarray(np.ascontiguousarray(bgr[:, :, ::-1]))
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.BILINEAR))


def image_sheet(pictures: Sequence[NDArray[np.uint8]], *, n_columns: int, quality: int | None) -> bytes:
    """Return a file of pictures of one size, uint8 (H, W, 3), R, G, B, placed row by row.

    JPEG of a quality of 1 to 95, or PNG where ``quality`` is None.
    """
    from PIL import Image

    height, width = pictures[0].shape[:2]
    n_rows = -(-len(pictures) // n_columns)
    sheet = np.zeros((n_rows * height, min(n_columns, len(pictures)) * width, 3), np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, n_columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(sheet).save(file, "PNG")
    else:
        Image.fromarray(sheet).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
