"""The pictures of TensorBoard's projector: one of each row, in one PNG file."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.decode.thumbnails import image_sheet, read_thumbnails
from c3d_extract.errors import StoreError
from c3d_extract.sources.located import find_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.output.feature_file import FeatureFile

__all__ = ["Sprite", "make_sprite"]

_LARGEST = 8192  # pixels of a side that TensorBoard's projector takes
_USUAL = 64


class Sprite(NamedTuple):
    """A PNG file of square pictures, placed row by row in a square; ``side`` is that of one, in pixels."""

    png: bytes
    side: int
    n_missing: int
    """Rows whose video is not there or cannot be read; their picture is grey."""


def make_sprite(file: FeatureFile, root: Path) -> Sprite:
    """Return a picture of each row: the middle frame of the clip, or of the video, which lies below ``root``.

    Raises
    ------
    StoreError
        Where no picture can be made.
    """
    n_columns = max(1, math.ceil(math.sqrt(len(file))))
    side = min(_USUAL, _LARGEST // n_columns)
    grey = np.full((side, side, 3), 128, np.uint8)

    def picture(row: tuple[str, float, float]) -> NDArray[np.uint8] | None:
        name, *span = row
        path = find_file(root, name)
        if path is None:
            return None
        try:
            return read_thumbnails(path, (span[0], span[1]), n=1, size=(side, side))[0]
        except Exception:  # noqa: BLE001 - whatever is wrong with a video, it has no picture
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        found = list(threads.map(picture, _spans(file)))
    n_missing = sum(each is None for each in found)
    if n_missing == len(found):
        raise StoreError(
            "has none of the videos, or none that can be read", subject=root, hint="give another --root"
        )
    pictures = [grey if each is None else each for each in found]
    return Sprite(image_sheet(pictures, n_columns=n_columns, quality=None), side, n_missing)


def _spans(file: FeatureFile) -> Iterator[tuple[str, float, float]]:
    """Yield each row's video, and which part of it the row is of, in seconds."""
    names = (name.decode() for name in file["video"])
    if file.kind == "clips":
        yield from zip(names, file["start_seconds"].tolist(), file["end_seconds"].tolist(), strict=True)
    else:
        durations = np.nan_to_num(file["duration_seconds"]).tolist()
        yield from ((name, 0.0, duration) for name, duration in zip(names, durations, strict=True))
