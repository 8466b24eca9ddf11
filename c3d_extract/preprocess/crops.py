"""Position of crops in a resized frame."""

from __future__ import annotations

__all__ = ["centre_offset", "rounded_centre_offset"]


def centre_offset(frame: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Return the first row and first column of the centre crop, both sizes given as (rows, columns).

    Halves are rounded down, as Caffe's integer division does (data_transformer.cpp).
    """
    return (frame[0] - crop[0]) // 2, (frame[1] - crop[1]) // 2


def rounded_centre_offset(frame: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Return the same as torchvision's ``center_crop`` does, which rounds halves to the even number."""
    return round((frame[0] - crop[0]) / 2), round((frame[1] - crop[1]) / 2)
