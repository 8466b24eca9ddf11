"""C3D and the family of its architecture search, from one description.

References: D. Tran et al., Learning Spatiotemporal Features with 3D Convolutional Networks (ICCV
2015, arXiv 1412.0767), Section 3.1 for the family, Section 3.3 for C3D; and the authors' feature
extraction network (C3D v1.0 prototxt), whose layer names are used here.

Every convolution is followed by ReLU, has stride 1 and keeps the size by padding. pool1 halves
space only, the other pools halve time and space. Axes N, C, T, H, W throughout.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import Tensor, nn
from torch.nn import functional as F

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ARCHITECTURES", "C3D", "Architecture", "Pool5", "max_pool"]

Pool5 = Literal["ceil", "symmetric"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A network of the family: five stages of convolutions and a pool, then fc6, fc7, fc8.

    Attributes
    ----------
    name
        What it is called in a checkpoint and on the command line.
    filters
        Filters of each convolution, grouped by stage: ``((64,), (128,), (256, 256), …)``.
    depths
        Temporal kernel size d of each stage; kernels are d x spatial x spatial.
    hidden
        Outputs of fc6 and fc7.
    n_classes
        Outputs of fc8, or None where a checkpoint has no fc8.
    pool5
        How the 7x7 map is pooled to 4x4: ``ceil`` as Caffe does (0 1|2 3|4 5|6), or ``symmetric``
        padding by one as many ports do (0|1 2|3 4|5 6). A property of the checkpoint.
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
    def fps(self) -> float | None:
        """None: C3D takes frames as they are decoded, as the authors' tool does."""
        return None

    @property
    def default_layer(self) -> str:
        """fc6, the descriptor of the paper's Section 4."""
        return "fc6"

    @property
    def default_stride(self) -> int:
        """Clips that follow each other without a gap: the example of C3D v1.0."""
        return self.clip[0]

    @property
    def preprocessing(self) -> Preprocessing:
        """The authors' resize to 128 x 171 and centre crop of 112 x 112, in proportion to the clip."""
        _, rows, columns = self.clip
        return Preprocessing(resize=(rows * 128 // 112, columns * 171 // 112), crop=(rows, columns))

    @property
    def input_weight(self) -> str:
        """The kernels of conv1a."""
        return f"{self.conv_names[0][0]}.weight"

    @property
    def conv_names(self) -> tuple[tuple[str, ...], ...]:
        """The convolutions of each stage: ``(("conv1a",), …, ("conv5a", "conv5b"))``."""
        return tuple(
            tuple(f"conv{stage}{'abcd'[i]}" for i in range(len(group)))
            for stage, group in enumerate(self.filters, start=1)
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that can be asked for, in the order of the network."""
        named = (self.conv_names[-1][-1], "pool5", "fc6", "fc7")
        return named if self.n_classes is None else (*named, "fc8", "prob")

    def check_layers(self, layers: Sequence[str]) -> None:
        """Raise UsageError unless every layer is one of `layers`."""
        for layer in layers:
            if layer not in self.layers:
                known = ", ".join(self.layers)
                why = (
                    "this checkpoint has no fc8"
                    if layer in {"fc8", "prob"}
                    else f"unknown layer of {self.name}"
                )
                raise UsageError(f"{why}; known: {known}", subject=f"--layer {layer}")

    def map_shapes(self) -> dict[str, Shape]:
        """Output shape (C, T, H, W) of every convolution and pool, for one clip."""
        shapes: dict[str, Shape] = {}
        time, height, width = self.clip
        for stage, (names, filters) in enumerate(zip(self.conv_names, self.filters, strict=True), start=1):
            for name, channels in zip(names, filters, strict=True):
                shapes[name] = (channels, time, height, width)
            time = time if stage == 1 else ceil(time / 2) if stage == 5 else time // 2
            height, width = (self._pooled(size, stage) for size in (height, width))
            shapes[f"pool{stage}"] = (filters[-1], time, height, width)
        return shapes

    def _pooled(self, size: int, stage: int) -> int:
        if stage < 5:
            return size // 2
        return ceil(size / 2) if self.pool5 == "ceil" else size // 2 + 1

    def layer_size(self, layer: str) -> int:
        """Length D of a layer's flattened output."""
        sizes = {"fc6": self.hidden[0], "fc7": self.hidden[1], "fc8": self.n_classes, "prob": self.n_classes}
        size = sizes.get(layer)
        return prod(self.map_shapes()[layer]) if size is None else size

    def state_shapes(self, layers: Sequence[str] | None = None) -> dict[str, Shape]:
        """Name and shape of every tensor, or of those ``layers`` need; kernels are (out, in, T, H, W)."""
        shapes: dict[str, Shape] = {}
        channels = 3
        for names, filters, depth in zip(self.conv_names, self.filters, self.depths, strict=True):
            for name, out in zip(names, filters, strict=True):
                shapes[f"{name}.weight"] = (out, channels, depth, self.spatial, self.spatial)
                shapes[f"{name}.bias"] = (out,)
                channels = out
        inputs = prod(self.map_shapes()["pool5"])
        outputs = {"fc6": self.hidden[0], "fc7": self.hidden[1], "fc8": self.n_classes}
        for name in self.linear_names(layers):
            out_or_none = outputs[name]
            if out_or_none is not None:
                shapes[f"{name}.weight"] = (out_or_none, inputs)
                shapes[f"{name}.bias"] = (out_or_none,)
                inputs = out_or_none
        return shapes

    def linear_names(self, layers: Sequence[str] | None = None) -> tuple[str, ...]:
        """Name the fully connected layers that ``layers`` need (all when None)."""
        names = ("fc6", "fc7") if self.n_classes is None else ("fc6", "fc7", "fc8")
        if layers is None:
            return names
        asked = {"fc8" if layer == "prob" else layer for layer in layers}
        last = max((names.index(name) for name in asked if name in names), default=-1)
        return names[: last + 1]

    def n_parameters(self) -> int:
        """Parameters, weights and biases together."""
        return sum(prod(shape) for shape in self.state_shapes().values())

    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of each layer for one clip."""
        maps = self.map_shapes()
        return {
            name.removesuffix(".weight"): prod(shape) * prod(maps.get(name.removesuffix(".weight"), (1,))[1:])
            for name, shape in self.state_shapes().items()
            if name.endswith(".weight")
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` takes back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave; WeightsError says what is wrong with it."""
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
        """Raise WeightsError where the description makes no network."""
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
        if self.pool5 not in ("ceil", "symmetric") or len(self.clip) != 3:
            raise WeightsError("pool5 is 'ceil' or 'symmetric', clip is three sizes", subject=self.name)
        if not (16 <= self.clip[0] <= 64 and all(32 <= n <= 1024 for n in self.clip[1:])):
            raise WeightsError("a clip has 16 to 64 frames of 32 to 1024 rows and columns", subject=self.name)

    def scaled(self, width: float) -> Self:
        """Return the net with its filters and hidden outputs multiplied by ``width``, at least 4 each."""

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
"""The networks of the paper by name: C3D and the six of Section 3.1."""


class C3D(nn.Module):
    """A network of the family; tensors are named as in the authors' prototxt (``conv1a.weight`` …).

    Parameters
    ----------
    architecture
        What to build.
    layers
        The layers that will be asked for; later ones are not built. None builds all.
    """

    def __init__(self, architecture: Architecture, layers: Sequence[str] | None = None) -> None:
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

        Convolutions and fc6, fc7 are after ReLU, as Caffe's in-place ReLU leaves them; fc8 is linear,
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
        """Run the convolutions; put the maps that are asked for into ``found``; return pool5 flattened."""
        x = clips
        for stage, names in enumerate(self.architecture.conv_names, start=1):
            for name in names[:-1]:
                x = F.relu(self.convolve(name, x), inplace=True)
            x = self.convolve(names[-1], x)
            if names[-1] in layers:
                found[names[-1]] = F.relu(x).flatten(1)
            # max(relu(x)) = relu(max(x)): ReLU after the pool gives the same values on an eighth of the map.
            x = F.relu(self.pool(stage, x), inplace=True)
        found["pool5"] = x.flatten(1)
        return found["pool5"]

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply one convolution (training wraps this with batch norm)."""
        y: Tensor = self.get_submodule(name)(x)
        return y

    def pool(self, stage: int, x: Tensor) -> Tensor:
        """Max-pool after a stage; pool5 rounds as the checkpoint's dialect says."""
        return max_pool(x, stage, self.architecture.pool5)


def max_pool(x: Tensor, stage: int, pool5: Pool5) -> Tensor:
    """Max-pool (N, C, T, H, W) after ``stage``, 1 to 5."""
    if stage == 1:
        return F.max_pool3d(x, (1, 2, 2))
    if stage < 5:
        return F.max_pool3d(x, 2)
    if pool5 == "ceil":
        return F.max_pool3d(x, 2, ceil_mode=True)
    return F.max_pool3d(x, 2, padding=(0, 1, 1))
