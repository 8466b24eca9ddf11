"""Finding one of torchvision's video networks in a loaded object, by the names and shapes of its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from c3d_extract.models.torchvision import INPUT_WEIGHTS, recognise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from c3d_extract.models.torchvision import VideoNetwork

__all__ = ["FoundNetwork", "find_video_network"]


_FEATURES = "features."
_WITH_CLASSIFIER_BESIDE = {"r2plus1d_34": "tsp_r2plus1d_34"}
"""TSP runs this network on other clips than the weights that it began with."""


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
            classifier = _classifier_beside(floating, prefix)
            network = recognise({name: tuple(value.shape) for name, value in (tensors | classifier).items()})
            if network is not None:
                wanted = {name: (tensors | classifier)[name] for name in network.state_shapes()}
                found = replace(network, name=_WITH_CLASSIFIER_BESIDE.get(network.name, network.name))
                return FoundNetwork(found if classifier else network, wanted, len(floating) - len(wanted))
    return None


def _classifier_beside(floating: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return TSP's classifier of actions, which is beside ``features.`` and not in it, as torchvision's."""
    root = prefix.removesuffix(_FEATURES)
    if root == prefix:
        return {}
    names = next((name for name in ("fc", "fc1") if f"{root}{name}.weight" in floating), None)
    parts = () if names is None else ("weight", "bias")
    found = {f"fc.{part}": floating.get(f"{root}{names}.{part}") for part in parts}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return what stands before the name of a first convolution: mostly nothing, or ``module.``."""
    found = {
        name.removesuffix(weight)
        for name in names
        for weight in INPUT_WEIGHTS
        if name == weight or name.endswith(f".{weight}")
    }
    return sorted(found, key=len)
