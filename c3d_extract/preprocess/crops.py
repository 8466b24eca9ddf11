"""Position of crops in a resized frame: the centre, or torchvision's five or ten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FrameCrops", "centre_offset", "distinct_corners", "rounded_centre_offset"]

Size = tuple[int, int]
"""Rows and columns."""
Frames = TypeVar("Frames", bound=Any)  # a NumPy array or a tensor

# torchvision mirrors the frame, then cuts: the first crop of the mirrored frame is the mirrored second crop.
# Where the margins are odd, the centre of the mirrored frame is a crop of its own.
_MIRRORED = (1, 0, 3, 2, 5)


def centre_offset(frame: Size, crop: Size) -> Size:
    """Return the first row and first column of the centre crop, both sizes given as (rows, columns).

    Halves are rounded down, as Caffe's integer division does (data_transformer.cpp).
    """
    return (frame[0] - crop[0]) // 2, (frame[1] - crop[1]) // 2


def rounded_centre_offset(frame: Size, crop: Size) -> Size:
    """Return the same as torchvision's ``center_crop`` does, which rounds halves to the even number."""
    return round((frame[0] - crop[0]) / 2), round((frame[1] - crop[1]) / 2)


def distinct_corners(frame: Size, crop: Size) -> list[Size]:
    """Return the first rows and columns of all crops that differ in more than their direction.

    Top left, top right, bottom left, bottom right, centre, and the centre of the mirrored frame.
    """
    bottom, right = frame[0] - crop[0], frame[1] - crop[1]
    row, column = rounded_centre_offset(frame, crop)
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (row, column), (row, right - column)]


def _in_order(distinct: list[Size], n: int) -> tuple[Size, ...]:
    return tuple([*distinct[:5], *(distinct[i] for i in _MIRRORED)][:n])


@dataclass(frozen=True)
class FrameCrops:
    """Where the crops of a clip lie in the frames that a decoder hands over.

    Those are whole resized frames where all videos have them in one size. Where the size follows from the
    video's aspect ratio, they are the distinct crops below one another, so that memory has one size.

    Attributes
    ----------
    frame
        Rows and columns of those frames.
    size
        Rows and columns of a crop.
    corners
        First row and column of each crop, in the order of torchvision's ``FiveCrop`` and ``TenCrop``; those
        from the sixth on are mirrored.
    are_stacked
        Whether the frames are crops below one another.
    """

    frame: Size
    size: Size
    corners: tuple[Size, ...]
    are_stacked: bool

    @classmethod
    def whole(cls, frame: Size, size: Size, n: int) -> Self:
        """Return the first ``n`` crops of whole frames."""
        return cls(frame, size, _in_order(distinct_corners(frame, size), n), are_stacked=False)

    @classmethod
    def stacked(cls, size: Size, n: int) -> Self:
        """Return the first ``n`` crops of frames that are the distinct crops below one another."""
        n_blocks, rows = 5 if n == 5 else 6, size[0]
        corners = _in_order([(rows * block, 0) for block in range(6)], n)
        return cls((rows * n_blocks, size[1]), size, corners, are_stacked=True)

    @property
    def n(self) -> int:
        """Crops of each clip."""
        return len(self.corners)

    def is_mirrored(self, crop: int) -> bool:
        """Return whether a crop is mirrored, its left column last."""
        return crop >= 5

    def window(self, frames: Frames, crop: int) -> Frames:
        """Return the pixels of a crop before they are mirrored: a view of frames (…, rows, columns, 3)."""
        (top, left), (rows, columns) = self.corners[crop], self.size
        found: Frames = frames[..., top : top + rows, left : left + columns, :]
        return found

    def cut(self, frames: NDArray[Any], crop: int) -> NDArray[Any]:
        """Return a crop: a view of frames (…, rows, columns, 3)."""
        window: NDArray[Any] = self.window(frames, crop)
        return window[..., ::-1, :] if self.is_mirrored(crop) else window

    def means(self, cropped: NDArray[np.float32], resized: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Return the mean of each crop, float32 (n, 3, T, H, W), or one for all of them, (1, 3, T, H, W).

        Parameters
        ----------
        cropped
            float32 (3, T, H, W), each of T, H, W that of the cropped clip or 1.
        resized
            float32 (3, T, rows, columns) of whole resized frames, where there is such a mean: then each crop
            has the mean of its own pixels, as in Caffe, which subtracts before it crops and mirrors.
        """
        if cropped.shape[2:] == (1, 1):
            return cropped[None]
        whole = cropped if resized is None or self.are_stacked else resized
        frames = np.moveaxis(whole, 0, -1)
        if whole is resized:
            found = [self.cut(frames, crop) for crop in range(self.n)]
        else:
            found = [frames[:, :, ::-1] if self.is_mirrored(crop) else frames for crop in range(self.n)]
        return np.ascontiguousarray(np.moveaxis(np.stack(found), -1, 1))
