"""A forward pass on a device: from a backbone and uint8 clips to features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from c3d_extract.compute.devices import memory_format
from c3d_extract.models.instantiate import built_with

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from c3d_extract.compute.clip_frames import ClipCrops, Pieces
    from c3d_extract.models.base import Backbone
    from c3d_extract.preprocess.crops import FrameCrops
    from c3d_extract.weights import Checkpoint

__all__ = ["ClipInput", "build_model", "forward", "input_weights"]


def input_weights(checkpoint: Checkpoint, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors that ``layers`` need, for clips whose channels are B, G, R."""
    backbone = checkpoint.backbone
    weights = {name: checkpoint.state[name] for name in backbone.state_shapes(layers)}
    if checkpoint.preprocessing.colour == "rgb":
        # Flipping the input channels of the first kernels once is cheaper than flipping each batch.
        weights[backbone.input_weight] = weights[backbone.input_weight].flip(1)
    return weights


def build_model(
    backbone: Backbone,
    layers: Sequence[str],
    weights: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> nn.Module:
    """Return the network on ``device``, in ``dtype``, ready for inference; weights are shared if possible."""

    def build() -> nn.Module:
        faster = backbone.cuda_network(layers) if device.type == "cuda" else None
        return backbone.build(layers) if faster is None else faster

    model = built_with(build, weights)
    model = model.to(device, dtype).to(memory_format=memory_format(device))
    return model.eval().requires_grad_(False)


def forward(model: nn.Module, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return each layer's features, float32 (N, D), of float32 (N, T, H, W, 3)."""
    dtype = next(model.parameters()).dtype
    # (N, T, H, W, 3) viewed as (N, 3, T, H, W) is channels_last_3d already: nothing is copied.
    x = x.to(dtype).permute(0, 4, 1, 2, 3).contiguous(memory_format=memory_format(x.device))
    found: dict[str, Tensor] = model(x, layers)
    return {layer: value.float() for layer, value in found.items()}


class ClipInput:
    """Converts uint8 clips to the network's input; the mean is subtracted on the device.

    Parameters
    ----------
    means
        float32 (n, 3, T, H, W), of each crop, or (1, 3, T, H, W) for all; see `FrameCrops.means`.
    std
        Divisors of B, G, R.
    device
        Of the clips.
    """

    def __init__(
        self, means: NDArray[np.float32], std: tuple[float, float, float], device: torch.device
    ) -> None:
        self._means = torch.from_numpy(means).permute(0, 2, 3, 4, 1).contiguous().to(device)
        divisor = torch.tensor(std, dtype=torch.float32, device=device)
        self._std = None if std == (1.0, 1.0, 1.0) else divisor

    def __call__(self, clips: Tensor, crops: ClipCrops | None = None) -> Tensor:
        """Return float32 (N, T, H, W, 3) for uint8 of the same shape, on the same device.

        ``crops`` says what the first clips are cut from; the others are padding.
        """
        means = self._means[:1]
        if len(self._means) > 1 and crops is not None:
            numbers = [*crops.numbers, *[0] * (len(clips) - len(crops.numbers))]
            means = self._means.index_select(0, torch.tensor(numbers, device=means.device))
        return self._normalised(clips.to(torch.float32), means)

    def of_pieces(self, pieces: Pieces, crops: FrameCrops | None = None, crop: int = 0) -> Tensor:
        """Return float32 (T, H, W, 3) of one clip, on a CPU; its frames are read where they lie."""
        n_frames = sum(piece.end - piece.start for piece in pieces)
        size = pieces[0].frames.shape[1:3] if crops is None else crops.size
        x = torch.empty((n_frames, *size, 3), dtype=torch.float32)
        at = 0
        for piece in pieces:
            frames = torch.from_numpy(piece.frames)
            chosen = frames if crops is None else crops.window(frames, crop)
            x[at : at + len(frames)].copy_(chosen)
            at += len(frames)
        x = x.flip(2) if crops is not None and crops.is_mirrored(crop) else x
        return self._normalised(x, self._means[crop if len(self._means) > 1 else 0])

    def _normalised(self, x: Tensor, mean: Tensor) -> Tensor:
        x = x.sub_(mean)
        return x if self._std is None else x.div_(self._std)
