"""The contents of a checkpoint file of any layout, under the names of the authors' prototxt."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from c3d_extract.errors import WeightsError
from c3d_extract.models.c3d import Architecture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import Pool5
    from c3d_extract.models.torchvision import VideoNetwork
    from c3d_extract.weights.registry import Fc6Order

__all__ = [
    "CONVOLUTIONS",
    "LINEAR",
    "Contents",
    "Layout",
    "Shape",
    "TensorSource",
    "c3d_architecture",
    "check_tensors",
    "is_finite",
    "one_line",
    "read_state",
]

Shape = tuple[int, ...]

CONVOLUTIONS = ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
LINEAR = ("fc6", "fc7", "fc8")
_STAGES = ((0,), (1,), (2, 3), (4, 5), (6, 7))  # indices into CONVOLUTIONS


def one_line(error: BaseException) -> str:
    """Return a library's error as one short line."""
    text = " ".join(str(error).split())[:120]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class TensorSource(NamedTuple):
    """One tensor of a file: its shape in the model, and a function that reads it in that shape.

    The result may be a view of the file, of any floating-point type; `read_state` copies it once.
    """

    shape: Shape
    read: Callable[[], torch.Tensor | NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Contents:
    """The contents of a file; valid while the file is open.

    Attributes
    ----------
    layout
        Name of the layout, as in the registry.
    sources
        Tensors under the model's names (C3D: ``conv1a.weight``, …, ``fc8.bias``).
    header
        The description inside a file of this package.
    network
        The network, where it is not of C3D's family.
    notes
        Remarks about this file for the user.
    """

    layout: str
    sources: Mapping[str, TensorSource]
    header: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())
    network: VideoNetwork | None = None

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors."""
        return {name: source.shape for name, source in self.sources.items()}


class Layout(NamedTuple):
    """One layout of checkpoint files: how to recognise and open it.

    ``matches`` takes the first 64 bytes of a file. ``open`` takes the file and, for layouts that keep
    channels last, the order in which fc6 expects the pool5 map; its result is valid inside the context.
    """

    matches: Callable[[bytes], bool]
    open: Callable[[Path, Fc6Order | None], AbstractContextManager[Contents]]


def c3d_architecture(shapes: Mapping[str, Shape], pool5: Pool5) -> Architecture:
    """Infer a C3D network of any widths from the shapes of its tensors; fc8 may be missing."""
    wanted = [f"{name}.{part}" for name in (*CONVOLUTIONS, "fc6", "fc7") for part in ("weight", "bias")]
    _check_none_missing((name for name in wanted if name not in shapes), "C3D network")
    for name in (*CONVOLUTIONS, *LINEAR):
        n_axes = 5 if name in CONVOLUTIONS else 2
        if len(shapes.get(f"{name}.weight", (0,) * n_axes)) != n_axes:
            raise WeightsError(f"{name}.weight has shape {_by(shapes[f'{name}.weight'])}, not {n_axes} axes")
    kernels = [shapes[f"{name}.weight"] for name in CONVOLUTIONS]
    architecture = Architecture(
        name="c3d",
        filters=tuple(tuple(kernels[i][0] for i in stage) for stage in _STAGES),
        depths=tuple(kernels[stage[0]][2] for stage in _STAGES),
        hidden=(shapes["fc6.weight"][0], shapes["fc7.weight"][0]),
        n_classes=shapes["fc8.weight"][0] if "fc8.weight" in shapes else None,
        pool5=pool5,
        spatial=kernels[0][3],
    )
    architecture.check()
    check_tensors(shapes, architecture)
    return architecture


def check_tensors(shapes: Mapping[str, Shape], backbone: Backbone) -> None:
    """Raise WeightsError if a tensor of the network is missing or has another shape."""
    wanted = backbone.state_shapes()
    network = "C3D network" if isinstance(backbone, Architecture) else backbone.name
    _check_none_missing((name for name in wanted if name not in shapes), network)
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise WeightsError(f"{name} has shape {_by(shapes[name])}, but the network needs {_by(shape)}")


def read_state(contents: Contents, wanted: Mapping[str, Shape], file_size: int) -> dict[str, torch.Tensor]:
    """Read the given tensors as float32, contiguous, in newly allocated memory.

    A number takes at least two bytes in a file. A header that claims more numbers than fit is refused before
    anything is allocated.
    """
    n_numbers = sum(prod(contents.sources[name].shape) for name in wanted)
    if 2 * n_numbers > file_size:
        raise WeightsError(f"claims {n_numbers:,} numbers, more than its {file_size:,} bytes can hold")
    return {name: _own_float32(name, contents.sources[name].read()) for name in wanted}


def _own_float32(name: str, read: torch.Tensor | NDArray[np.floating[Any]]) -> torch.Tensor:
    own = torch.empty(read.shape, dtype=torch.float32)
    if isinstance(read, torch.Tensor):
        own.copy_(read)
    else:
        with np.errstate(all="ignore"):  # float32 overflow gives infinity, which is refused below
            np.copyto(own.numpy(), read, casting="same_kind")
    if not is_finite(own):
        raise WeightsError(f"{name} has values that are not finite")
    return own


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all values are finite."""
    # A sum with an infinity or NaN is never finite, and a sum takes 1/20 of the time. If it is not finite,
    # it may have overflowed, so values are checked, in parts because isfinite() allocates.
    return bool(torch.isfinite(tensor.sum())) or all(
        bool(torch.isfinite(part).all()) for part in torch.split(tensor.view(-1), 1 << 20)
    )


def _check_none_missing(names: Iterable[str], network: str) -> None:
    missing = list(names)
    if missing:
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        raise WeightsError(f"not a whole {network}: lacks {', '.join(missing[:4])}{more}")


def _by(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
