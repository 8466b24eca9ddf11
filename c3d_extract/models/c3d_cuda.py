"""C3D on an NVIDIA GPU: the same function as `c3d_extract.models.c3d_net.C3D`, for inference.

Three optimisations, each measured in ``benchmarks/RESULTS.md``:

- A bias is added after the pool: max(x) + b = max(x + b) in any rounding, and a pooled map has an eighth of
  the elements. Not a bit changes.
- Maps of even size are pooled by torch's maximum over axes, which takes half the time of its pooling: that
  writes the place of each maximum as well. Not a bit changes.
- conv1a takes its frames as channels of one image, filled up with zeros: for three channels cuDNN has only a
  kernel without tensor cores. The sums are in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch.nn import functional as F

from c3d_extract.models.c3d_net import C3D

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

__all__ = ["CudaC3D"]

_CHANNELS = 16  # what tensor cores take at a time in half precision


class CudaC3D(C3D):
    """A network of the family for inference; arguments and results as those of `C3D`."""

    def maps(self, clips: Tensor, layers: Sequence[str], found: dict[str, Tensor]) -> Tensor:
        """Run the convolutions, add the requested maps to ``found`` and return pool5 flattened."""
        x = clips
        for stage, names in enumerate(self.architecture.conv_names, start=1):
            for name in names[:-1]:
                x = self.convolve(name, x).add_(self._bias(name)).relu_()
            x = self.convolve(names[-1], x)
            bias = self._bias(names[-1])
            if names[-1] in layers:
                found[names[-1]] = F.relu(x + bias).flatten(1)
            x = self.pool(stage, x).add_(bias).relu_()
        found["pool5"] = x.flatten(1)
        return found["pool5"]

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply one convolution, without its bias."""
        convolution = cast("nn.Conv3d", self.get_submodule(name))
        if x.shape[1] < _CHANNELS:
            return _convolve_planes(x, convolution.weight)
        padding = cast("tuple[int, ...]", convolution.padding)
        return F.conv3d(x, convolution.weight, padding=padding)

    def pool(self, stage: int, x: Tensor) -> Tensor:
        """Max-pool after a stage."""
        n, channels, *sizes = x.shape
        window = (1 if stage == 1 else 2, 2, 2)
        if any(size % k for size, k in zip(sizes, window, strict=True)):
            return super().pool(stage, x)
        split = [n for size, k in zip(sizes, window, strict=True) for n in (size // k, k)]
        # (N, T, H, W, C) is the order in memory.
        pooled = x.permute(0, 2, 3, 4, 1).reshape(n, *split, channels).amax((2, 4, 6))
        return pooled.permute(0, 4, 1, 2, 3)

    def _bias(self, name: str) -> Tensor:
        return cast("Tensor", self.get_submodule(name).bias).view(-1, 1, 1, 1)


def _convolve_planes(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve (N, C, T, H, W) with (O, C, D, K, K) as images of D · C channels, with padding, stride 1."""
    n, channels, n_frames, height, width = x.shape
    depth, size = kernels.shape[2], kernels.shape[3]
    planes = _stacked_planes(x, depth)
    by_plane = kernels.permute(0, 2, 1, 3, 4).flatten(1, 2)
    filled = F.pad(by_plane, (0, 0, 0, 0, 0, planes.shape[1] - depth * channels))
    maps = F.conv2d(planes, filled.contiguous(memory_format=torch.channels_last), padding=size // 2)
    maps = maps.permute(0, 2, 3, 1).reshape(n, n_frames, height, width, -1)
    return maps.permute(0, 4, 1, 2, 3)


def _stacked_planes(x: Tensor, depth: int) -> Tensor:
    """Return the frames around each frame as its channels: (N · T, D · C and zeros, H, W)."""
    n, channels, n_frames, height, width = x.shape
    n_channels = -(-depth * channels // _CHANNELS) * _CHANNELS
    planes = x.new_zeros((n, n_frames, height, width, n_channels))
    frames = x.permute(0, 2, 3, 4, 1)
    for place in range(depth):
        shift = place - depth // 2
        first, last = max(0, -shift), n_frames - max(0, shift)
        part = planes[:, first:last, :, :, place * channels : (place + 1) * channels]
        part.copy_(frames[:, first + shift : last + shift])
    return planes.flatten(0, 1).permute(0, 3, 1, 2)
