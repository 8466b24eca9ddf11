"""The pictures of TensorBoard's projector: one of each row, in one PNG file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.decode.thumbnails import Wanted, image_sheet, read_all_thumbnails
from c3d_extract.errors import StoreError
from c3d_extract.sources.located import find_file

if TYPE_CHECKING:
    from pathlib import Path

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
    paths = (find_file(root, name) for name in file.videos)
    parts = zip(paths, file.spans(), strict=True)
    wanted = [None if path is None else Wanted(path, span) for path, span in parts]
    found = list(read_all_thumbnails(wanted, n=1, size=(side, side)))
    n_missing = sum(not isinstance(each, list) for each in found)
    if n_missing == len(found):
        raise StoreError(
            "has none of the videos, or none that can be read", subject=root, hint="give another --root"
        )
    pictures = [each[0] if isinstance(each, list) else grey for each in found]
    return Sprite(image_sheet(pictures, n_columns=n_columns, quality=None), side, n_missing)
