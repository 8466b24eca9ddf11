"""The backbones by name; a new one is added here only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.models.torchvision import FURTHER_NETWORKS, NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.base import Backbone

__all__ = ["BACKBONES", "default_backbone"]

BACKBONES: Mapping[str, Backbone] = {**ARCHITECTURES, **NETWORKS, **FURTHER_NETWORKS}
"""Every supported backbone, by its name in checkpoints."""


def default_backbone() -> Backbone:
    """Return the backbone that is assumed if no checkpoint specifies one: C3D."""
    return BACKBONES["c3d"]
