"""Pictures of many videos in a few JPEG files, within a size that a page can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from c3d_extract.decode.thumbnails import image_sheet, read_all_thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.decode.thumbnails import Wanted

    Strip = list[NDArray[np.uint8]]

__all__ = ["Thumbnails", "make_thumbnails"]

_SIZES = ((100, 5, (128, 96)), (500, 5, (96, 72)), (2000, 5, (64, 48)))
"""Up to how many videos, pictures of each, and their width and height; of more videos there is one each."""
_SMALLEST = (1, (64, 48))
MOST_BYTES = 9_500_000
"""Of all sheets: with them a page has less than 15 MB."""
_QUALITIES = (75, 60, 45, 30, 20)
_SHEET_SIDE = 4096  # pixels; phones decode no larger pictures


@dataclass(frozen=True)
class Thumbnails:
    """Sheets of pictures, JPEG files, and where each row's pictures are.

    Attributes
    ----------
    sheets
        The files.
    places
        The number of each row's first picture, None where it has none.
    failed
        Rows whose video could not be read, and why.
    layout
        What a page needs to find a picture by its number.
    """

    sheets: list[bytes]
    places: list[int | None]
    failed: dict[int, str]
    layout: dict[str, Any]


def make_thumbnails(
    wanted: Sequence[Wanted | None], on_video: Callable[[], None] = lambda: None
) -> Thumbnails:
    """Make the pictures of rows, None for those without; ``on_video`` is called after each row."""
    n_frames, size = _shape(sum(row is not None for row in wanted))
    strips: list[Strip] = []
    places: list[int | None] = []
    failed: dict[int, str] = {}
    for number, found in enumerate(read_all_thumbnails(wanted, n=n_frames, size=size)):
        if isinstance(found, str):
            failed[number] = found
        places.append(len(strips) * n_frames if isinstance(found, list) else None)
        strips += [found] if isinstance(found, list) else []
        on_video()
    columns, rows = (_SHEET_SIDE // side for side in size)
    layout = {"width": size[0], "height": size[1], "columns": columns, "perSheet": columns * rows}
    pictures = [picture for strip in strips for picture in strip]
    return Thumbnails(_sheets(pictures, columns, rows), places, failed, layout | {"frames": n_frames})


def _shape(n_videos: int) -> tuple[int, tuple[int, int]]:
    """Return how many pictures of each video, and their width and height."""
    return next(((n, size) for most, n, size in _SIZES if n_videos <= most), _SMALLEST)


def _sheets(pictures: Strip, columns: int, rows: int) -> list[bytes]:
    """Return JPEG files, of the best quality at which all of them are small enough."""
    starts = range(0, len(pictures), columns * rows)
    for quality in _QUALITIES:
        sheets = [
            image_sheet(pictures[start : start + columns * rows], n_columns=columns, quality=quality)
            for start in starts
        ]
        if sum(map(len, sheets)) <= MOST_BYTES:
            break
    return sheets
