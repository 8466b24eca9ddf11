"""The backbones by name: the one place where a new one is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract.models.c3d import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.base import Backbone

__all__ = ["BACKBONES", "default_backbone"]

BACKBONES: Mapping[str, Backbone] = {**ARCHITECTURES}
"""Every backbone that a checkpoint can be of, by the name that the checkpoint gives it."""


def default_backbone() -> Backbone:
    """Return the backbone that is assumed where no checkpoint says which: C3D."""
    return BACKBONES["c3d"]
