"""How the clips of a video become its one descriptor.

The descriptor of the paper is the average over the clips (Tran et al. 2015, Section 4). Another rule is
another class with the methods of `Aggregate` and a line in `AGGREGATES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AGGREGATES", "Aggregate", "Mean", "aggregated"]


class Aggregate(Protocol):
    """Takes the clips of one video in their order and gives one vector; one for each video and layer."""

    def add(self, clips: NDArray[np.float32]) -> None:
        """Take the features of the next clips, float32 (N, D); they may be overwritten afterwards."""

    def result(self) -> NDArray[np.float32]:
        """Return the descriptor, float32 (D,), of the clips so far, of which there is at least one."""


class Mean:
    """The average over the clips.

    Summed in float64, clip by clip, so that the size of batches does not change a bit of it: a resumed run
    has other batches than an uninterrupted one.
    """

    def __init__(self) -> None:
        self._n = 0
        self._total: NDArray[np.float64] = np.zeros(0)

    def add(self, clips: NDArray[np.float32]) -> None:
        """Take the features of the next clips, float32 (N, D)."""
        if self._n == 0:
            self._total = np.zeros(clips.shape[1])
        for clip in clips:
            self._total += clip
        self._n += len(clips)

    def result(self) -> NDArray[np.float32]:
        """Return the average of the clips so far, float32 (D,)."""
        mean: NDArray[np.float32] = (self._total / self._n).astype(np.float32)
        return mean


AGGREGATES: dict[str, type[Aggregate]] = {"mean": Mean}
"""Every rule by its name."""


def aggregated(clips: NDArray[np.float32], rule: str = "mean") -> NDArray[np.float32]:
    """Return the descriptor of a video, float32 (D,), from its clips, float32 (N, D), N ≥ 1."""
    found = AGGREGATES[rule]()
    found.add(clips)
    return found.result()
