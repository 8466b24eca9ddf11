"""A network's layers as a table: shapes, parameters and multiply-adds, counted by torch without data."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.models.base import Shape

__all__ = ["LayerRow", "layer_rows"]

_DEPTH = 2  # blocks of a stage are shown, and not what is in a block


class LayerRow(NamedTuple):
    """A layer: its output for one clip, without the axis of clips, its weights and biases, its cost."""

    name: str
    output: Shape
    n_parameters: int
    multiply_adds: int


def layer_rows(build: Callable[[], nn.Module], clip: Shape) -> list[LayerRow]:
    """Return the modules of the first two levels that have weights or change their input's shape, in order.

    Parameters
    ----------
    build
        Builds the network, whose tensors have no data then.
    clip
        Frames, rows and columns of its input.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second to import

    with torch.device("meta"), torch.inference_mode():
        model, x = build().eval(), torch.empty(1, 3, *clip)
        shapes: dict[str, tuple[Shape, Shape]] = {}
        for name, module in model.named_modules():
            if name and _is_shown(name, module):
                module.register_forward_hook(partial(_note_shapes, shapes, name))
        with FlopCounterMode(display=False) as count:
            model(x)
    operations = {name: sum(of.values()) for name, of in count.get_flop_counts().items()}
    rows = []
    for name, (before, after) in shapes.items():
        n_parameters = sum(p.numel() for p in model.get_submodule(name).parameters())
        if n_parameters or after != before:
            cost = operations.get(f"{type(model).__name__}.{name}", 0) // 2
            rows.append(LayerRow(name, after, n_parameters, cost))
    return rows


def _is_shown(name: str, module: nn.Module) -> bool:
    depth = name.count(".") + 1
    return depth == _DEPTH or (depth < _DEPTH and not list(module.children()))


def _note_shapes(
    shapes: dict[str, tuple[Shape, Shape]],
    name: str,
    _module: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor | tuple[Tensor, ...],
) -> None:
    # MViT's blocks return their output with its size.
    tensor = output if isinstance(output, Tensor) else output[0]
    shapes[name] = tuple(inputs[0].shape[1:]), tuple(tensor.shape[1:])
