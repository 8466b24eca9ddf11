"""The networks of the C3D family as a module of torch, for every device and for training.

Every convolution is followed by ReLU, has stride 1 and keeps the size by padding. pool1 halves
space only, the other pools halve time and space. Axes N, C, T, H, W throughout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from c3d_extract.models.c3d_shapes import max_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.models.c3d_shapes import C3DShapes

__all__ = ["C3D"]


class C3D(nn.Module):
    """A network of the family; tensors are named as in the authors' prototxt (``conv1a.weight`` …).

    Parameters
    ----------
    architecture
        Description of the network.
    layers
        The layers that will be requested; later ones are not built. None builds all.
    """

    def __init__(self, architecture: C3DShapes, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        for name, shape in architecture.state_shapes(layers).items():
            if not name.endswith(".weight"):
                continue
            if len(shape) == 5:
                out, into, depth, size, _ = shape
                padding = (depth // 2, size // 2, size // 2)
                module: nn.Module = nn.Conv3d(into, out, (depth, size, size), padding=padding)
            else:
                module = nn.Linear(shape[1], shape[0])
            self.add_module(name.removesuffix(".weight"), module)

    def forward(self, clips: Tensor, layers: Sequence[str] = ("fc8",)) -> dict[str, Tensor]:
        """Return the named layers of ``clips``, float (N, 3, T, H, W), as (N, D) each.

        Outputs of convolutions, fc6 and fc7 are after ReLU, because Caffe applies it in place; fc8 is linear,
        ``prob`` its softmax. Maps are flattened in the order C, T, H, W.
        """
        found: dict[str, Tensor] = {}
        x = self.maps(clips, layers, found)
        for name in self.architecture.linear_names(layers):
            x = self.get_submodule(name)(x)
            if name != "fc8":
                x = F.dropout(F.relu(x), 0.5, self.training)
            found[name] = x
        if "prob" in layers:
            found["prob"] = F.softmax(found["fc8"].float(), dim=1)
        return {layer: found[layer] for layer in layers}

    def maps(self, clips: Tensor, layers: Sequence[str], found: dict[str, Tensor]) -> Tensor:
        """Run the convolutions, add the requested maps to ``found`` and return pool5 flattened."""
        x = clips
        for stage, names in enumerate(self.architecture.conv_names, start=1):
            for name in names[:-1]:
                x = F.relu(self.convolve(name, x), inplace=True)
            x = self.convolve(names[-1], x)
            if names[-1] in layers:
                found[names[-1]] = F.relu(x).flatten(1)
            # max(relu(x)) = relu(max(x)), and after the pool ReLU costs an eighth.
            x = F.relu(self.pool(stage, x), inplace=True)
        found["pool5"] = x.flatten(1)
        return found["pool5"]

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply one convolution (training wraps this with batch norm)."""
        y: Tensor = self.get_submodule(name)(x)
        return y

    def pool(self, stage: int, x: Tensor) -> Tensor:
        """Max-pool after a stage; pool5 follows the checkpoint's convention."""
        return max_pool(x, stage, self.architecture.pool5)
