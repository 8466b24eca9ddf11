"""Every backbone by its name: the one place where a new one is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract.models.c3d import ARCHITECTURES

if TYPE_CHECKING:
    from c3d_extract.models.base import Backbone

__all__ = ["default_backbone"]


def default_backbone() -> Backbone:
    """Return the backbone that is assumed where no checkpoint says which: C3D."""
    return ARCHITECTURES["c3d"]
