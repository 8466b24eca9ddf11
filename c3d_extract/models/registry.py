"""The backbones by name; a new one is added here only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from c3d_extract.models.c3d import ARCHITECTURES, Architecture
from c3d_extract.models.torchvision import FURTHER_NETWORKS, NETWORKS, VideoNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.base import Backbone

__all__ = ["BACKBONES", "backbone_from_json", "default_backbone"]

BACKBONES: Mapping[str, Backbone] = {**ARCHITECTURES, **NETWORKS, **FURTHER_NETWORKS}
"""Every supported backbone, by its name in checkpoints."""


def default_backbone() -> Backbone:
    """Return the backbone that is assumed if no checkpoint specifies one: C3D."""
    return BACKBONES["c3d"]


def backbone_from_json(values: Mapping[str, Any]) -> Backbone:
    """Return the backbone of which these values are the `Backbone.to_json`.

    Raises
    ------
    WeightsError
        Where they describe no valid network.
    """
    is_video_network = values.get("name") in [*NETWORKS, *FURTHER_NETWORKS]
    return VideoNetwork.from_json(values) if is_video_network else Architecture.from_json(values)
