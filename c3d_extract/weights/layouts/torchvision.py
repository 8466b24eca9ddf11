"""Finding one of torchvision's video networks in a loaded object, by the names and shapes of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from c3d_extract.models.torchvision import INPUT_WEIGHTS, recognise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from c3d_extract.models.torchvision import VideoNetwork

__all__ = ["FoundNetwork", "find_video_network"]


class FoundNetwork(NamedTuple):
    """A network, and its tensors under torchvision's names."""

    network: VideoNetwork
    tensors: dict[str, torch.Tensor]
    n_ignored: int
    """Other tensors of floating-point numbers."""


def find_video_network(states: Iterable[Mapping[str, Any]]) -> FoundNetwork | None:
    """Return the first network that one of the mappings holds, with any prefix of its names, or None.

    Raises
    ------
    WeightsError
        If a mapping holds a part of one.
    """
    for state in states:
        floating = {
            name: value
            for name, value in state.items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        }
        for prefix in _prefixes(floating):
            tensors = {
                name[len(prefix) :]: value for name, value in floating.items() if name.startswith(prefix)
            }
            network = recognise({name: tuple(value.shape) for name, value in tensors.items()})
            if network is not None:
                wanted = {name: tensors[name] for name in network.state_shapes()}
                return FoundNetwork(network, wanted, len(floating) - len(wanted))
    return None


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return what stands before the name of a first convolution: mostly nothing, or ``module.``."""
    found = {
        name.removesuffix(weight)
        for name in names
        for weight in INPUT_WEIGHTS
        if name == weight or name.endswith(f".{weight}")
    }
    return sorted(found, key=len)
