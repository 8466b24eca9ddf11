"""Checkpoints: a registry of public ones, readers for their layouts, verified downloads, a native format.

Lazy: reading the registry or fetching a file imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.weights.checkpoint import Checkpoint
    from c3d_extract.weights.fetch import cache_folder, fetch_file, local_path
    from c3d_extract.weights.layouts.native import save_checkpoint
    from c3d_extract.weights.load import load_checkpoint
    from c3d_extract.weights.means import read_mean
    from c3d_extract.weights.registry import RegistryEntry, find_entry, load_registry

_MODULES = {
    "Checkpoint": "checkpoint",
    "RegistryEntry": "registry",
    "cache_folder": "fetch",
    "fetch_file": "fetch",
    "find_entry": "registry",
    "load_checkpoint": "load",
    "local_path": "fetch",
    "read_mean": "means",
    "load_registry": "registry",
    "save_checkpoint": "layouts.native",
}

__all__ = [
    "Checkpoint",
    "RegistryEntry",
    "cache_folder",
    "fetch_file",
    "find_entry",
    "load_checkpoint",
    "load_registry",
    "local_path",
    "read_mean",
    "save_checkpoint",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
