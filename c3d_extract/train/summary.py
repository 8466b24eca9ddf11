"""A clip's summary: where it is how bright, changes, and moves. Learned beside the labels, from fc6.

Labels alone teach a network to forget what does not tell them apart, such as where in the picture something
happens; a network that also predicts these numbers keeps it. They are computed from the clip itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SUMMARY_SIZE", "clip_summary", "summary_loss"]

_GRID = 7  # places across and down
_PIXELS = 28  # rows and columns that frames are averaged to first: motion is small there, and noise weak
_FLAT = 2e-4  # added to the gradients' squares, so that flow of a flat place is 0

SUMMARY_SIZE = 3 * _GRID**2 + _GRID**2 + 4**3 + 2 * _GRID**2
"""Numbers in a summary."""


class _Scale(NamedTuple):
    """Mean and deviation over augmented synthetic clips, rounded."""

    mean: float
    deviation: float


_COLOUR, _CHANGE = _Scale(0.46, 0.25), _Scale(-4.2, 1.5)
_ENERGY, _FLOW = _Scale(-4.7, 1.1), _Scale(0.0, 0.3)


def clip_summary(levels: Tensor) -> Tensor:
    """Return the summary of clips, about as large as standard normal numbers, clamped to -4 to 4.

    Parameters
    ----------
    levels
        Float (N, 3, T, H, W), 0-255.

    Returns
    -------
    Float (N, `SUMMARY_SIZE`): the mean colour at each of 7x7 places; the logarithm of the grey level's
    deviation over time at each; the logarithm of the absolute change between frames at each of 4x4x4 times
    and places; the flow across and down at each of 7x7 places, in 28ths of the frame.
    """
    colour = F.adaptive_avg_pool2d(levels.mean(dim=2) / 255, _GRID)
    frames = F.adaptive_avg_pool2d(levels.mean(dim=1) / 255, _PIXELS)  # (N, T, 28, 28)
    change = F.adaptive_avg_pool2d(frames.std(dim=1, keepdim=True), _GRID).add(1e-3).log()
    steps = frames[:, 1:] - frames[:, :-1]
    energy = F.adaptive_avg_pool3d(steps.abs()[:, None], 4).add(1e-3).log()
    parts = ((colour, _COLOUR), (change, _CHANGE), (energy, _ENERGY), (_flow(frames, steps), _FLOW))
    standard = [((part - scale.mean) / scale.deviation).flatten(1) for part, scale in parts]
    return torch.cat(standard, dim=1).clamp(-4, 4)


def _flow(frames: Tensor, steps: Tensor) -> Tensor:
    """Return the flow (N, 2, 7, 7), pixels a frame, that explains the steps best (Lucas and Kanade)."""
    middle = (frames[:, 1:] + frames[:, :-1]) / 2
    across = F.pad((middle[..., 2:] - middle[..., :-2]) / 2, (1, 1))
    down = F.pad((middle[..., 2:, :] - middle[..., :-2, :]) / 2, (0, 0, 1, 1))

    def place(product: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(product.mean(dim=1, keepdim=True), _GRID)

    xx, yy, xy = place(across**2) + _FLAT, place(down**2) + _FLAT, place(across * down)
    xt, yt = place(across * steps), place(down * steps)
    determinant = xx * yy - xy**2
    flow = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant
    return flow.clamp(-1.5, 1.5)


def summary_loss(found: Tensor, expected: Tensor) -> Tensor:
    """Return the Huber loss of summaries (N, `SUMMARY_SIZE`): summed over clips, averaged over numbers."""
    return F.smooth_l1_loss(found, expected, reduction="sum") / SUMMARY_SIZE
