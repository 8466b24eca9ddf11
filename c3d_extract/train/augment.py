"""Augmentation of batches of synthetic clips on the training device: crops, mirroring, colours, erased parts.

Rendering is what limits training on synthetic clips; with these a rendered clip can be shown several times.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["augment", "mirrored_classes", "size_before"]

_MIRRORED = {"left": "right", "clockwise": "counter-clockwise", "pan-left": "pan-right"}


def size_before(size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns to render clips at: 75 to 100 % of them are about as large as ``size``."""
    return round(size[0] * 8 / 7), round(size[1] * 8 / 7)


def mirrored_classes(labels: tuple[str, ...]) -> list[int]:
    """Return the class that each class becomes in a mirror: ``motion left`` becomes ``motion right``."""
    swaps = _MIRRORED | {right: left for left, right in _MIRRORED.items()}

    def mirrored(label: str) -> str:
        kind, _, name = label.partition(" ")
        other = f"{kind} {swaps.get(name, name)}"
        return other if kind == "motion" and other in labels else label

    return [labels.index(mirrored(label)) for label in labels]


def augment(clips: Tensor, targets: Tensor, size: tuple[int, int], mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Crop, mirror, recolour and partly erase clips at random, alike in all frames of a clip.

    Parameters
    ----------
    clips
        uint8 (N, T, H, W, 3), B, G, R.
    targets
        float (N, classes).
    size
        Rows and columns of the result; crops of 75 to 100 % of the clips' are resized to it.
    mirrored
        int64 (classes,): the class that each class becomes in a mirror, see `mirrored_classes`.

    Returns
    -------
    Float (N, 3, T, rows, columns), levels 0–255, B, G, R; and the targets, exchanged where mirrored.
    """
    flip = torch.rand(len(clips), device=clips.device) < 0.5
    pixels = _cropped(clips, size, flip)
    pixels = _recoloured(pixels)
    pixels = _partly_erased(pixels)
    targets = torch.where(flip[:, None], targets[:, mirrored], targets)
    return pixels, targets


def _cropped(clips: Tensor, size: tuple[int, int], flip: Tensor) -> Tensor:
    n, n_frames = clips.shape[:2]
    scale = _uniform(clips, 0.75, 1.0) * torch.exp(_uniform(clips, -0.1, 0.1))
    aspect = torch.exp(_uniform(clips, -0.1, 0.1))
    across, down = (scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)
    x, y = ((1 - extent) * _uniform(clips, -1, 1) for extent in (across, down))
    zero = torch.zeros_like(x)
    across = torch.where(flip, -across, across)
    maps = torch.stack([torch.stack([across, zero, x], 1), torch.stack([zero, down, y], 1)], 1)
    grid = F.affine_grid(maps, [n, 1, *size], align_corners=False)
    # Frames as channels: one grid serves all frames of a clip.
    frames = clips.permute(0, 4, 1, 2, 3).flatten(1, 2).float()
    seen = F.grid_sample(frames, grid, padding_mode="reflection", align_corners=False)
    return seen.view(n, 3, n_frames, *size)


def _recoloured(pixels: Tensor) -> Tensor:
    n = len(pixels)
    wide = (n, 1, 1, 1, 1)
    gamma = torch.exp(_uniform(pixels, -0.4, 0.4).view(wide))
    gain = torch.exp(0.12 * torch.randn(n, 3, 1, 1, 1, device=pixels.device))
    pixels = 255 * (pixels / 255).clamp(1e-4, 1) ** gamma * gain
    grey = pixels.mean(dim=1, keepdim=True)
    saturation = torch.where(torch.rand(n, device=pixels.device) < 0.15, 0.0, _uniform(pixels, 0.5, 1.4))
    pixels = grey + saturation.view(wide) * (pixels - grey)
    contrast = torch.exp(_uniform(pixels, -0.35, 0.35).view(wide))
    level = pixels.mean(dim=(1, 2, 3, 4), keepdim=True)
    shift = _uniform(pixels, -25, 25).view(wide)
    return (level + shift + contrast * (pixels - level)).clamp(0, 255)


def _partly_erased(pixels: Tensor) -> Tensor:
    """Hide a rectangle of one clip in six behind a plain colour."""
    n, _, _, rows, columns = pixels.shape
    area, aspect = _uniform(pixels, 0.02, 0.15), torch.exp(_uniform(pixels, -1, 1))
    inside = (torch.rand(n, device=pixels.device) < 1 / 6)[:, None, None]
    for axis, (length, part) in enumerate(((rows, area * aspect), (columns, area / aspect))):
        half = part.sqrt() / 2
        place = (torch.arange(length, device=pixels.device) + 0.5) / length
        near = (place[None] - _uniform(pixels, 0, 1)[:, None]).abs() < half[:, None]
        inside = inside & (near[:, :, None] if axis == 0 else near[:, None, :])
    colour = 255 * torch.rand(n, 3, 1, 1, 1, device=pixels.device)
    return torch.where(inside[:, None, None], colour, pixels)


def _uniform(like: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(like), device=like.device).uniform_(low, high)
