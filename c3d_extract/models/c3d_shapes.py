"""The tensors of the C3D family: their names, their shapes, and how maps are pooled.

Reference: the authors' feature extraction network (C3D v1.0 prototxt), whose layer names are used here.
Axes N, C, T, H, W throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Literal

from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from c3d_extract.models.base import Shape

__all__ = ["C3DShapes", "Pool5", "max_pool"]

Pool5 = Literal["ceil", "symmetric", "floor"]


@dataclass(frozen=True)
class C3DShapes:
    """Five stages of convolutions, each followed by a pool, then fc6, fc7, fc8.

    Attributes
    ----------
    name
        Name of the network in a checkpoint and on the command line.
    filters
        Filters of each convolution, grouped by stage: ``((64,), (128,), (256, 256), …)``.
    depths
        Temporal kernel size d of each stage; kernels are d x spatial x spatial.
    hidden
        Outputs of fc6 and fc7.
    n_classes
        Outputs of fc8, or None where a checkpoint has no fc8.
    pool5
        How the 7x7 map is pooled: ``ceil`` to 4x4 as Caffe does (0 1|2 3|4 5|6), ``symmetric`` to 4x4 by
        padding by one as many ports do (0|1 2|3 4|5 6), or ``floor`` to 3x3 as Caffe2 does (0 1|2 3|4 5). A
        property of the checkpoint.
    spatial
        Spatial kernel size.
    clip
        Frames, rows and columns of the input.
    """

    name: str
    filters: tuple[tuple[int, ...], ...]
    depths: tuple[int, ...]
    hidden: tuple[int, int]
    n_classes: int | None
    pool5: Pool5 = "ceil"
    spatial: int = 3
    clip: tuple[int, int, int] = (16, 112, 112)

    @property
    def conv_names(self) -> tuple[tuple[str, ...], ...]:
        """The convolutions of each stage: ``(("conv1a",), …, ("conv5a", "conv5b"))``."""
        return tuple(
            tuple(f"conv{stage}{'abcd'[i]}" for i in range(len(group)))
            for stage, group in enumerate(self.filters, start=1)
        )

    def map_shapes(self) -> dict[str, Shape]:
        """Return the output shape (C, T, H, W) of every convolution and pool, for one clip."""
        shapes: dict[str, Shape] = {}
        time, height, width = self.clip
        for stage, (names, filters) in enumerate(zip(self.conv_names, self.filters, strict=True), start=1):
            for name, channels in zip(names, filters, strict=True):
                shapes[name] = (channels, time, height, width)
            # pool1 halves space only (the paper's Section 3.1); Caffe rounds the last pool up.
            up = stage == 5 and self.pool5 != "floor"
            time = time if stage == 1 else ceil(time / 2) if up else time // 2
            height, width = (self._pooled_size(size, stage) for size in (height, width))
            shapes[f"pool{stage}"] = (filters[-1], time, height, width)
        return shapes

    def _pooled_size(self, size: int, stage: int) -> int:
        if stage < 5 or self.pool5 == "floor":
            return size // 2
        return ceil(size / 2) if self.pool5 == "ceil" else size // 2 + 1

    def state_shapes(self, layers: Sequence[str] | None = None) -> dict[str, Shape]:
        """Return the name and shape of every tensor, or of those that ``layers`` need.

        Kernels are (out, in, T, H, W).
        """
        shapes: dict[str, Shape] = {}
        channels = 3
        for names, filters, depth in zip(self.conv_names, self.filters, self.depths, strict=True):
            for name, out in zip(names, filters, strict=True):
                shapes[f"{name}.weight"] = (out, channels, depth, self.spatial, self.spatial)
                shapes[f"{name}.bias"] = (out,)
                channels = out
        return shapes | self._linear_shapes(layers)

    def _linear_shapes(self, layers: Sequence[str] | None) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        inputs = prod(self.map_shapes()["pool5"])
        outputs = {"fc6": self.hidden[0], "fc7": self.hidden[1], "fc8": self.n_classes}
        for name in self.linear_names(layers):
            out = outputs[name]
            if out is not None:
                shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inputs), (out,)
                inputs = out
        return shapes

    def linear_names(self, layers: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the fully connected layers that ``layers`` need (all when None)."""
        names = ("fc6", "fc7") if self.n_classes is None else ("fc6", "fc7", "fc8")
        if layers is None:
            return names
        requested = {"fc8" if layer == "prob" else layer for layer in layers}
        last = max((names.index(name) for name in requested if name in names), default=-1)
        return names[: last + 1]

    def parameter_counts(self) -> dict[str, int]:
        """Return the number of weights and biases of each layer."""
        counts: dict[str, int] = {}
        for name, shape in self.state_shapes().items():
            layer = name.partition(".")[0]
            counts[layer] = counts.get(layer, 0) + prod(shape)
        return counts

    def n_parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum(self.parameter_counts().values())

    def multiply_adds(self) -> dict[str, int]:
        """Return the multiply-adds of each layer for one clip."""
        maps = self.map_shapes()
        return {
            name.removesuffix(".weight"): prod(shape) * prod(maps.get(name.removesuffix(".weight"), (1,))[1:])
            for name, shape in self.state_shapes().items()
            if name.endswith(".weight")
        }


def max_pool(x: Tensor, stage: int, pool5: Pool5) -> Tensor:
    """Max-pool (N, C, T, H, W) after ``stage``, 1 to 5."""
    if stage == 1:
        return F.max_pool3d(x, (1, 2, 2))
    if stage < 5 or pool5 == "floor":
        return F.max_pool3d(x, 2)
    if pool5 == "ceil":
        return F.max_pool3d(x, 2, ceil_mode=True)
    return F.max_pool3d(x, 2, padding=(0, 1, 1))
