"""C3D and the networks of its architecture search, from one description.

References: D. Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks (ICCV
2015, arXiv 1412.0767), Section 3.1 for the family, Section 3.3 for C3D; and the authors' feature
extraction network (C3D v1.0 prototxt).

Every convolution is followed by ReLU, has stride 1 and keeps the size by padding. pool1 halves
space only, the other pools halve time and space. Axes N, C, T, H, W throughout.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Self

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.c3d_cpu import CLIPS_TOGETHER, CpuC3D
from c3d_extract.models.c3d_cuda import CudaC3D
from c3d_extract.models.c3d_net import C3D
from c3d_extract.models.c3d_shapes import C3DShapes, Pool5
from c3d_extract.models.cpu_module import CpuModule
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import Tensor

__all__ = ["ARCHITECTURES", "C3D", "Architecture", "Pool5"]

_MIN_CPU_BATCH = 8  # fc6 reads 134 MB of weights per batch: 6 ms per clip for 4 clips, 3 for 8, 2 for 16
_WIDE = 32  # filters of conv1a; for narrower networks torch's own modules are as fast


@dataclass(frozen=True)
class Architecture(C3DShapes):
    """A network of the family: five stages of convolutions and a pool, then fc6, fc7, fc8.

    Implements `Backbone`. Its attributes are those of `C3DShapes`: ``name``, ``filters``, ``depths``,
    ``hidden``, ``n_classes``, ``pool5``, ``spatial``, ``clip``.
    """

    @property
    def fps(self) -> float | None:
        """None: C3D uses every decoded frame, as the authors' tool does."""
        return None

    @property
    def frame_step(self) -> int:
        """1: every decoded frame is used."""
        return 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose features can be extracted, in the order of the network."""
        named = (self.conv_names[-1][-1], "pool5", "fc6", "fc7")
        return named if self.n_classes is None else (*named, "fc8", "prob")

    @property
    def default_layer(self) -> str:
        """fc6, the descriptor of the paper's Section 4."""
        return "fc6"

    @property
    def default_stride(self) -> int:
        """The clip length, for consecutive clips without overlap, as in the example of C3D v1.0."""
        return self.clip[0]

    @property
    def preprocessing(self) -> Preprocessing:
        """The authors' resize to 128 x 171 and centre crop of 112 x 112, scaled to the clip's size."""
        _, rows, columns = self.clip
        return Preprocessing(resize=(rows * 128 // 112, columns * 171 // 112), crop=(rows, columns))

    @property
    def input_weight(self) -> str:
        """The kernels of conv1a."""
        return f"{self.conv_names[0][0]}.weight"

    @property
    def variant(self) -> dict[str, str]:
        """How pool5 rounds."""
        return {"pool5": self.pool5}

    def layer_size(self, layer: str) -> int:
        """Return the length D of a layer's flattened output."""
        sizes = {"fc6": self.hidden[0], "fc7": self.hidden[1], "fc8": self.n_classes, "prob": self.n_classes}
        size = sizes.get(layer)
        return prod(self.map_shapes()[layer]) if size is None else size

    def n_channels(self, layer: str) -> int:
        """Return the number of filters of a convolution or pool, or a layer's length."""
        shape = self.map_shapes().get(layer)
        return self.layer_size(layer) if shape is None else shape[0]

    def check_layers(self, layers: Sequence[str]) -> None:
        """Raise UsageError unless every layer is one of `layers`."""
        for layer in layers:
            if layer not in self.layers:
                known = ", ".join(self.layers)
                no_fc8 = layer in {"fc8", "prob"}
                why = "this checkpoint has no fc8" if no_fc8 else f"unknown layer of {self.name}"
                raise UsageError(f"{why}; known: {known}", subject=f"--layer {layer}")

    def operations(self) -> int:
        """Return the floating-point operations of one clip; a multiply-add counts as two."""
        return 2 * sum(self.multiply_adds().values())

    def peak_elements(self) -> int:
        """Return the number of elements of conv1a's input and output, doubled for cuDNN's workspace."""
        frames, rows, columns = self.clip
        return 2 * (self.filters[0][0] + 3) * frames * rows * columns

    def cpu_batch_size(self, threads: int) -> int:
        """Return the batch size for a CPU on which ``threads`` cores work."""
        return max(_MIN_CPU_BATCH, CLIPS_TOGETHER * threads)

    def build(self, layers: Sequence[str] | None = None) -> C3D:
        """Build the network with random weights; see `C3D`."""
        return C3D(self, layers)

    def cuda_network(self, layers: Sequence[str]) -> CudaC3D:
        """Return `CudaC3D`, with uninitialised weights."""
        return CudaC3D(self, layers)

    def cpu_network(
        self,
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        batch_size: int,
        threads: int,
    ) -> CpuC3D | CpuModule:
        """Return `CpuC3D`, or torch's modules for a network so narrow that its maps fit into the cache."""
        if self.filters[0][0] >= _WIDE:
            return CpuC3D(self, layers, state, dtype=dtype, batch_size=batch_size, threads=threads)
        build = functools.partial(self.build, layers)
        together = min(CLIPS_TOGETHER, batch_size)
        return CpuModule(build, layers, state, dtype=dtype, clips_together=together, threads=threads)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` accepts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from the values of `to_json`; raise WeightsError if they are invalid."""
        try:
            arch = cls(
                name=str(values["name"]),
                filters=tuple(tuple(int(n) for n in group) for group in values["filters"]),
                depths=tuple(int(d) for d in values["depths"]),
                hidden=(int(values["hidden"][0]), int(values["hidden"][1])),
                n_classes=None if values["n_classes"] is None else int(values["n_classes"]),
                pool5=values.get("pool5", "ceil"),
                spatial=int(values.get("spatial", 3)),
                clip=tuple(int(n) for n in values.get("clip", (16, 112, 112))),  # type: ignore[arg-type]
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise WeightsError(f"not a description of an architecture: {error!r}") from error
        arch.check()
        return arch

    def check(self) -> None:
        """Raise WeightsError unless the description is of a valid network."""
        sizes = [n for group in self.filters for n in group] + list(self.hidden) + [self.n_classes or 1]
        odd = all(d % 2 == 1 and 0 < d <= 15 for d in (*self.depths, self.spatial))
        if len(self.filters) != 5 or len(self.depths) != 5 or not odd:
            raise WeightsError("an architecture has five stages with odd kernel sizes", subject=self.name)
        if not all(1 <= len(group) <= 4 for group in self.filters) or not all(
            0 < n <= 1 << 16 for n in sizes
        ):
            raise WeightsError(
                "an architecture has 1 to 4 convolutions a stage and 1 to 65536 outputs a layer"
            )
        if self.pool5 not in ("ceil", "symmetric", "floor") or len(self.clip) != 3:
            raise WeightsError("pool5 is ceil, symmetric or floor, clip is three sizes", subject=self.name)
        if not (16 <= self.clip[0] <= 64 and all(32 <= n <= 1024 for n in self.clip[1:])):
            raise WeightsError("a clip has 16 to 64 frames of 32 to 1024 rows and columns", subject=self.name)

    def with_classes(self, n_classes: int) -> Self:
        """Return the network with fc8 for ``n_classes``; raise WeightsError where they are too many."""
        network = replace(self, n_classes=n_classes)
        network.check()
        return network

    def scaled(self, width: float) -> Self:
        """Return the network with its filters and hidden outputs multiplied by ``width``, at least 4 each."""

        def times(n: int) -> int:
            return max(4, round(n * width))

        groups = tuple(tuple(times(n) for n in group) for group in self.filters)
        return replace(self, filters=groups, hidden=(times(self.hidden[0]), times(self.hidden[1])))


def _depth_net(name: str, *depths: int) -> Architecture:
    # Section 3.1: five conv+pool stages of 64, 128, 256, 256, 256 filters, two FC of 2048, 101 classes.
    return Architecture(
        name,
        filters=((64,), (128,), (256,), (256,), (256,)),
        depths=depths,
        hidden=(2048, 2048),
        n_classes=101,
    )


ARCHITECTURES: dict[str, Architecture] = {
    arch.name: arch
    for arch in (
        Architecture(
            "c3d",
            filters=((64,), (128,), (256, 256), (512, 512), (512, 512)),
            depths=(3, 3, 3, 3, 3),
            hidden=(4096, 4096),
            n_classes=487,
        ),
        *(_depth_net(f"depth-{d}", d, d, d, d, d) for d in (1, 3, 5, 7)),
        _depth_net("increasing", 3, 3, 5, 5, 7),
        _depth_net("decreasing", 7, 5, 5, 3, 3),
    )
}
"""The networks of the paper by name: C3D and those of Section 3.1."""
