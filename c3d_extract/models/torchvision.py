"""torchvision's video networks, by torchvision's own builders and weights records, and others of its blocks.

What a record says is read from it: address, hash, labels, preprocessing, accuracy. A record states clip
length and frame rate in prose only, and not which of its modules is the descriptor; `_Family` does.

Features are taken by forward hooks and not by torchvision's ``create_feature_extractor``: that drops calls
whose result is unused (``eliminate_dead_code``), and so what both MViTs add in place. Measured with random
weights, the output of their ``norm`` is off by 7 % and 120 %.

Axes N, C, T, H, W unless said otherwise. Only this module and video_resnets import torchvision.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.models.cpu_module import CpuModule
from c3d_extract.models.video_resnets import r2plus1d_34, res3d_18
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from c3d_extract.models.base import Shape

__all__ = [
    "FURTHER_NETWORKS",
    "INPUT_WEIGHTS",
    "NETWORKS",
    "Published",
    "VideoModel",
    "VideoNetwork",
    "mean_of",
    "published",
    "recognise",
]

_MAX_CLASSES = 1 << 16
_MAX_CPU_ELEMENTS = 1 << 29  # in memory: 2 GiB in fp32


class _Family(NamedTuple):
    """What torchvision's records do not say of networks of one kind."""

    n_frames: int
    fps: float | None
    strides: tuple[int, int, int]
    """Frames, rows and columns of the clip for each place of the last map."""
    map_layer: str
    """The module whose output is the last map, and the name of that layer."""
    to_map: Callable[[Tensor], Tensor]
    """From that output to (N, C, …)."""
    descriptor: str
    """Name of the layer before the classifier."""
    descriptor_module: str
    to_descriptor: Callable[[Tensor], Tensor]
    """From that module's output to (N, C)."""
    head: str
    """The module that is the classifier."""
    input_weight: str
    build: Callable[..., nn.Module] | None = None
    """What builds a network that torchvision does not list."""
    takes: str = ""
    """For such a network: the listed one with the same preprocessing; empty where it has `_CAFFE`'s."""
    tensors_of: str = ""
    """The network with tensors of the same shapes, if this is that one with other clips."""
    frame_step: int = 1


def _unchanged(x: Tensor) -> Tensor:
    return x


def _average(x: Tensor) -> Tensor:
    return x.mean((2, 3, 4))


def _tokens_to_map(x: Tensor) -> Tensor:
    """From (N, 1 + places, C), class token first."""
    return x[:, 1:].transpose(1, 2)


def _class_token(x: Tensor) -> Tensor:
    return x[:, 0]


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


_RESNET = _Family(
    n_frames=16,
    fps=15.0,
    strides=(8, 16, 16),
    map_layer="layer4",
    to_map=_unchanged,
    descriptor="avgpool",
    descriptor_module="avgpool",
    to_descriptor=_average,
    head="fc",
    input_weight="stem.0.weight",
)
_S3D = _Family(
    n_frames=16,
    fps=15.0,
    strides=(8, 32, 32),
    map_layer="features",
    to_map=_unchanged,
    descriptor="avgpool",
    descriptor_module="avgpool",
    to_descriptor=_average,
    head="classifier",
    input_weight="features.0.0.0.weight",
)
_MVIT = _Family(
    n_frames=16,
    fps=7.5,
    strides=(2, 32, 32),
    map_layer="norm",
    to_map=_tokens_to_map,
    descriptor="class_token",
    descriptor_module="norm",
    to_descriptor=_class_token,
    head="head",
    input_weight="conv_proj.weight",
)
_SWIN = _Family(
    n_frames=32,
    fps=15.0,
    strides=(2, 32, 32),
    map_layer="norm",
    to_map=_channels_first,
    descriptor="avgpool",
    descriptor_module="avgpool",
    to_descriptor=_average,
    head="head",
    input_weight="patch_embed.proj.weight",
)
_R2PLUS1D_34 = _RESNET._replace(n_frames=32, fps=None, build=r2plus1d_34, takes="r2plus1d_18")
_RES3D_18 = _RESNET._replace(n_frames=8, fps=None, build=res3d_18, frame_step=2)
_CAFFE = Preprocessing(), (128.0, 128.0, 128.0)
"""Preprocessing and mean of Res3D-18: C3D's, with one number for the mean (its prototxt)."""
_FAMILIES = {
    "r3d_18": _RESNET,
    "mc3_18": _RESNET,
    "r2plus1d_18": _RESNET,
    "s3d": _S3D,
    "mvit_v1_b": _MVIT,
    "mvit_v2_s": _MVIT,
    "swin3d_t": _SWIN,
    "swin3d_s": _SWIN,
    "swin3d_b": _SWIN,
    "r2plus1d_34": _R2PLUS1D_34,
    "r2plus1d_34_clip8": _R2PLUS1D_34._replace(n_frames=8, tensors_of="r2plus1d_34"),
    "tsp_r2plus1d_34": _R2PLUS1D_34._replace(n_frames=16, fps=15.0, tensors_of="r2plus1d_34"),
    "res3d_18": _RES3D_18,
}


@dataclass(frozen=True)
class VideoNetwork:
    """One of torchvision's video networks; implements `Backbone`.

    Attributes
    ----------
    name
        Name of torchvision's builder.
    n_classes
        Outputs of the classifier; None for the builder's default.
    """

    name: str
    n_classes: int | None = None

    @property
    def _family(self) -> _Family:
        return _FAMILIES[self.name]

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the input."""
        return (self._family.n_frames, *self.preprocessing.crop)

    @property
    def fps(self) -> float | None:
        """Frames per second that the weights were evaluated at."""
        return self._family.fps

    @property
    def frame_step(self) -> int:
        """Which of the decoded frames are taken: every ``frame_step``-th."""
        return self._family.frame_step

    @property
    def tensors_of(self) -> str:
        """The network that a file of such tensors is taken for."""
        return self._family.tensors_of or self.name

    @property
    def layers(self) -> tuple[str, ...]:
        """The last map (C, T, H, W), the descriptor, and the classifier's output before and after softmax."""
        return self._family.map_layer, self._family.descriptor, "logits", "prob"

    @property
    def default_layer(self) -> str:
        """The vector that the classifier takes."""
        return self._family.descriptor

    @property
    def default_stride(self) -> int:
        """The clip length, for consecutive clips without overlap."""
        return self._family.n_frames

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing that the record of the network's default weights says."""
        if self._family.build is not None and not self._family.takes:
            return _CAFFE[0]
        return published()[self._family.takes or self.name].preprocessing

    @property
    def input_weight(self) -> str:
        """The kernels of the first convolution."""
        return self._family.input_weight

    @property
    def variant(self) -> dict[str, str]:
        """Nothing: name and weights say everything."""
        return {}

    def layer_size(self, layer: str) -> int:
        """Return the length D of a layer's flattened output."""
        n_classes, size = self._head_shape
        if layer in {"logits", "prob"}:
            return n_classes
        if layer == self._family.descriptor:
            return size
        return size * prod(n // by for n, by in zip(self.clip, self._family.strides, strict=True))

    def n_channels(self, layer: str) -> int:
        """Return the number of channels of the last map, or a layer's length."""
        return self.layer_size(self._family.descriptor if layer == self._family.map_layer else layer)

    @property
    def _head_shape(self) -> Shape:
        shapes, head = self.state_shapes(), f"{self._family.head}."
        return next(shape for name, shape in shapes.items() if name.startswith(head) and len(shape) > 1)[:2]

    def check_layers(self, layers: Sequence[str]) -> None:
        """Raise UsageError unless every layer is one of `layers`."""
        for layer in layers:
            if layer not in self.layers:
                known = ", ".join(self.layers)
                raise UsageError(f"unknown layer of {self.name}; known: {known}", subject=f"--layer {layer}")

    def state_shapes(self, layers: Sequence[str] | None = None) -> dict[str, Shape]:
        """Return the name and shape of every floating-point tensor, or of those that ``layers`` need."""
        shapes = _state_shapes(self)
        if _needs_head(layers):
            return shapes
        head = f"{self._family.head}."
        return {name: shape for name, shape in shapes.items() if not name.startswith(head)}

    def to_json(self) -> dict[str, Any]:
        """Return its description as JSON values."""
        described = {"name": self.name, "n_classes": self.layer_size("logits"), "clip": list(self.clip)}
        return described | {"fps": self.fps, "torchvision": version("torchvision")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from the values of `to_json`; raise WeightsError if they are invalid."""
        n_classes = values.get("n_classes")
        if not isinstance(n_classes, int):
            raise WeightsError(f"not a description of a {values['name']}: its classes are {n_classes!r}")
        network = cls(values["name"]).with_classes(n_classes)
        if values.get("clip") != list(network.clip):
            raise WeightsError(
                f"a {network.name} takes clips of {network.clip}, not of {values.get('clip')!r}"
            )
        return network

    def with_classes(self, n_classes: int) -> Self:
        """Return the network with a classifier for ``n_classes``."""
        if not 0 < n_classes <= _MAX_CLASSES:
            raise WeightsError(f"a {self.name} has 1 to {_MAX_CLASSES} classes, not {n_classes}")
        return replace(self, n_classes=n_classes)

    def n_parameters(self) -> int:
        """Return the number of weights and biases."""
        return _n_parameters(self)

    def peak_elements(self) -> int:
        """Return the elements that the largest operation reads and writes, doubled for its workspace."""
        return 2 * _largest_operation(self)

    def operations(self) -> int:
        """Return the floating-point operations of one clip; a multiply-add counts as two."""
        return _operations(self)

    def cpu_batch_size(self, threads: int) -> int:
        """Return the batch size for a CPU: a clip for each core, as far as memory is bounded."""
        return max(1, min(threads, _MAX_CPU_ELEMENTS // self.peak_elements()))

    def build(self, layers: Sequence[str] | None = None) -> VideoModel:
        """Build the network with random weights; see `VideoModel`."""
        return VideoModel(self, layers)

    def cuda_network(self, layers: Sequence[str]) -> None:
        """Return None: torch's own modules are used."""
        del layers

    def cpu_network(
        self,
        layers: Sequence[str],
        state: Mapping[str, Tensor],
        *,
        dtype: torch.dtype,
        batch_size: int,
        threads: int,
    ) -> CpuModule:
        """Return torch's own modules, of which each core computes a clip."""
        build = partial(self.build, layers)
        threads = min(threads, batch_size)
        return CpuModule(build, layers, state, dtype=dtype, clips_together=1, threads=threads)

    def build_torchvision(self) -> nn.Module:
        """Return torchvision's model, with random weights on torch's current default device."""
        _import_torchvision()
        if self._family.build is not None:
            classes = {} if self.n_classes is None else {"n_classes": self.n_classes}
            return self._family.build(**classes)
        from torchvision.models import get_model

        given = {} if self.n_classes is None else {"num_classes": self.n_classes}
        model: nn.Module = get_model(self.name, weights=None, **given)
        return model


def _import_torchvision() -> None:
    """Import torchvision with tensors made on a CPU: with "meta", torch 2.6 cannot import its compiler."""
    with torch.device("cpu"):
        import torchvision.models  # noqa: F401


def _needs_head(layers: Sequence[str] | None) -> bool:
    return layers is None or bool({"logits", "prob"} & set(layers))


class VideoModel(nn.Module):
    """A network of torchvision whose ``forward`` returns layers; tensors are named as torchvision's.

    Its state is what a state dict of torchvision holds of floating-point numbers. The others follow from the
    network, and are never taken from a file: they are indices.

    Parameters
    ----------
    network
        Description of the network.
    layers
        The layers that will be requested; the classifier is not built for others. None builds all.
    """

    def __init__(self, network: VideoNetwork, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        family = self._family = _FAMILIES[network.name]
        self.model = network.build_torchvision()
        _define_window_indices(self.model)
        pool = self.model.get_submodule(family.descriptor_module)
        if isinstance(pool, nn.AvgPool3d):
            setattr(self.model, family.descriptor_module, _InFp32(pool))
        if not _needs_head(layers):
            setattr(self.model, family.head, nn.Identity())
        self._running = threading.local()  # runs in several threads share the network
        for module in {family.map_layer, family.descriptor_module}:
            self.model.get_submodule(module).register_forward_hook(partial(self._keep, module))

    def _keep(self, module: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._running.outputs[module] = output

    def forward(self, clips: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the named layers of ``clips``, float (N, 3, T, H, W), as (N, D) each."""
        family = self._family
        outputs: dict[str, Tensor] = {}
        self._running.outputs = outputs
        logits = self.model(clips)
        del self._running.outputs
        found = {"logits": logits}
        if family.map_layer in layers:
            found[family.map_layer] = family.to_map(outputs[family.map_layer]).flatten(1)
        if family.descriptor in layers:
            found[family.descriptor] = family.to_descriptor(outputs[family.descriptor_module])
        if "prob" in layers:
            found["prob"] = logits.float().softmax(1)
        return {layer: found[layer] for layer in layers}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the floating-point tensors under torchvision's names."""
        state = self.model.state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` returns."""
        return self.model.load_state_dict(dict(state_dict), strict, assign)


class _InFp32(nn.Module):
    """Computes a module in fp32: a CPU has no AvgPool3d in bfloat16 (S3D)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the module's output in the type of ``x``."""
        output: Tensor = self.module(x.float())
        return output.to(x.dtype)


def _define_window_indices(model: nn.Module) -> None:
    """Give Swin's tables of relative positions their values on a CPU, whatever torch's default device is."""
    attention: Any
    for attention in model.modules():
        if hasattr(attention, "define_relative_position_index"):
            with torch.device("cpu"):
                attention.define_relative_position_index()
            index = attention.relative_position_index
            attention.register_buffer("relative_position_index", index, persistent=False)


@cache
def _state_shapes(network: VideoNetwork) -> dict[str, Shape]:
    with torch.device("meta"):
        state = network.build_torchvision().state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if value.is_floating_point()}


class _LargestOperation(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many elements the largest operation reads and writes."""

    n_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        self.n_elements = max(self.n_elements, sum(tensor.numel() for tensor in tensors))
        return result


@cache
def _n_parameters(network: VideoNetwork) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in network.build_torchvision().parameters())


@cache
def _largest_operation(network: VideoNetwork) -> int:
    largest = _LargestOperation()  # type: ignore[no-untyped-call]
    with largest:
        _run_without_data(network)
    return largest.n_elements


@cache
def _operations(network: VideoNetwork) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second to import

    with FlopCounterMode(display=False) as count:
        _run_without_data(network)
    return int(count.get_total_flops())


def _run_without_data(network: VideoNetwork) -> None:
    """Run the network on one clip, all tensors without data."""
    with torch.device("meta"), torch.inference_mode():
        network.build_torchvision().eval()(torch.empty(1, 3, *network.clip))


class Published(NamedTuple):
    """Weights that torchvision's records name.

    Attributes
    ----------
    name
        The network's for its default weights, else the file's without the hash.
    network, preprocessing, labels
        What they are the weights of, what it takes, and the names of its classes.
    mean
        Grey levels 0–255 that are subtracted, B, G, R.
    url, file, sha256
        Address, file name, and the first digits of the hash.
    trained_on, facts
        The data set, and what else the record says: accuracy, cost (16 frames), size, origin.
    """

    name: str
    network: VideoNetwork
    preprocessing: Preprocessing
    labels: list[str]
    mean: tuple[float, float, float]
    url: str
    file: str
    sha256: str
    trained_on: str
    facts: dict[str, Any]

    @property
    def mean_name(self) -> str:
        """The mean as text."""
        return ",".join(f"{value:.9g}" for value in self.mean)


@cache
def published() -> dict[str, Published]:
    """Return every record of torchvision's video networks, by name.

    Raises
    ------
    WeightsError
        If torchvision cannot be imported.
    """
    try:
        from torchvision.models import get_model_weights
    except Exception as error:  # with a torch of another build its C++ part fails in its own ways
        why = " ".join(str(error).split())[:120]
        hint = "install the torchvision that belongs to this torch"
        raise WeightsError(f"cannot be imported: {why}", subject="torchvision", hint=hint) from error
    found = []
    for network in NETWORKS:
        records: Any = get_model_weights(network)
        found += [_published(network, record, is_default=record is records.DEFAULT) for record in records]
    return {weights.name: weights for weights in found}


def _published(network: str, record: Any, *, is_default: bool) -> Published:
    file = urlsplit(record.url).path.rpartition("/")[2]
    stem, sha256 = re.fullmatch(r"(.+)-([0-9a-f]+)\.\w+", file).groups()  # type: ignore[union-attr]
    meta, transform = record.meta, record.transforms()
    labels = list(meta["categories"])
    trained_on, accuracy = next(iter(meta.get("_metrics", {"": {}}).items()))
    return Published(
        name=network if is_default else stem,
        network=VideoNetwork(network, len(labels)),
        preprocessing=_preprocessing(transform),
        labels=labels,
        mean=_reversed_levels(transform.mean),
        url=record.url,
        file=file,
        sha256=sha256,
        trained_on=trained_on,
        facts={
            "accuracy": accuracy,
            "gigaflops": meta.get("_ops"),
            "size_mib": meta.get("_file_size"),
            "parameters": meta.get("num_params"),
            "recipe": meta.get("recipe"),
            "about": meta.get("_docs"),
        },
    )


def _preprocessing(transform: Any) -> Preprocessing:
    """Return what torchvision's VideoClassification transform does."""
    resize, crop = transform.resize_size, transform.crop_size
    return Preprocessing(
        resize=(resize[0], resize[-1]),
        crop=(crop[0], crop[1]),
        colour="rgb",
        std=_reversed_levels(transform.std),
        resampling="torchvision",
        keeps_aspect=len(resize) == 1,
    )


def _reversed_levels(values: Sequence[float]) -> tuple[float, float, float]:
    """Return R, G, B on a scale of 0–1 as B, G, R on one of 0–255."""
    red, green, blue = (255 * value for value in values)
    return blue, green, red


def recognise(shapes: Mapping[str, Shape]) -> VideoNetwork | None:
    """Return the network whose tensors have these names and shapes, of any number of classes, or None.

    Raises
    ------
    WeightsError
        If it looks like one, and a tensor is missing or has another shape.
    """
    candidates = [
        VideoNetwork(name, _n_classes(shapes, family))
        for name, family in _FAMILIES.items()
        if _has_input(shapes, family) and not family.tensors_of
    ]
    if not candidates:
        return None
    # A smaller Swin's tensors are among a larger one's: the closest is what has most in common.
    closest = max(candidates, key=lambda network: _n_common(shapes, network) - len(_wrong(shapes, network)))
    wrong = _wrong(shapes, closest)
    if wrong:
        raise WeightsError(_why_not(closest.name, shapes, wrong[0], closest.state_shapes()[wrong[0]]))
    return closest


def _wrong(shapes: Mapping[str, Shape], network: VideoNetwork) -> list[str]:
    return [name for name, shape in network.state_shapes().items() if shapes.get(name) != shape]


def _n_common(shapes: Mapping[str, Shape], network: VideoNetwork) -> int:
    return len(network.state_shapes().keys() & shapes.keys())


def _has_input(shapes: Mapping[str, Shape], family: _Family) -> bool:
    shape = shapes.get(family.input_weight, ())
    return len(shape) == 5 and shape[1] == 3


def _n_classes(shapes: Mapping[str, Shape], family: _Family) -> int | None:
    head = f"{family.head}."
    found = [shape for name, shape in shapes.items() if name.startswith(head) and len(shape) > 1]
    return found[0][0] if found else None


def _why_not(network: str, shapes: Mapping[str, Shape], name: str, wanted: Shape) -> str:
    given = shapes.get(name)
    if given is None:
        return f"not a whole {network}: lacks {name}"
    here, there = ("x".join(map(str, shape)) or "()" for shape in (given, wanted))
    return f"not a {network}: {name} has shape {here}, but the network needs {there}"


def mean_of(network: VideoNetwork) -> tuple[float, float, float]:
    """Return the grey levels that are subtracted, B, G, R."""
    family = _FAMILIES[network.name]
    return published()[family.takes or network.name].mean if family.takes or not family.build else _CAFFE[1]


NETWORKS = {name: VideoNetwork(name) for name, family in _FAMILIES.items() if family.build is None}
"""The networks that torchvision lists, by name."""

FURTHER_NETWORKS = {name: VideoNetwork(name) for name in _FAMILIES if name not in NETWORKS}
"""Networks built from torchvision's blocks, by name."""

INPUT_WEIGHTS = tuple(sorted({family.input_weight for family in _FAMILIES.values()}))
"""Names of the kernels of first convolutions."""
