"""Networks that take over tensors which are in memory already."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

__all__ = ["built_with"]

Module = TypeVar("Module", bound=nn.Module)


def built_with(build: Callable[[], Module], state: Mapping[str, Tensor]) -> Module:
    """Return what ``build`` makes, with the tensors of ``state``, which are shared and not copied."""
    with torch.device("meta"):  # allocate no memory for weights that are replaced below
        module = build()
    module.load_state_dict(state, assign=True)
    return module
