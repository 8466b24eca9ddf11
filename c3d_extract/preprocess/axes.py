"""Where each line of a resized and cropped frame is sampled, along one axis of the source frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Axis", "line_pairs", "of_needed_lines"]


class Axis(NamedTuple):
    """Two source lines of each output line, and their weights: in 1/2048, or float32."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight_first: NDArray[Any]
    weight_second: NDArray[Any]


def line_pairs(axis: Axis) -> NDArray[np.intp]:
    """Return the lines that an axis needs, ascending, in pairs (2k, 2k + 1)."""
    blocks = np.unique(np.concatenate([axis.first, axis.second]) // 2)
    return (2 * blocks[:, None] + np.arange(2)).ravel()


def of_needed_lines(axis: Axis) -> Axis:
    """Return the axis for a frame that holds only the lines of `line_pairs`."""
    lines = line_pairs(axis)
    first, second = np.searchsorted(lines, axis.first), np.searchsorted(lines, axis.second)
    return axis._replace(first=first, second=second)
