"""The zoo: records of public checkpoints, readers for their layouts, download with check, our own format.

Lazy: reading records or fetching a file imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.weights.fetch import cache_folder, fetch_file, local_path
    from c3d_extract.weights.layouts.native import save_checkpoint
    from c3d_extract.weights.load import Checkpoint, load_checkpoint
    from c3d_extract.weights.means import read_mean
    from c3d_extract.weights.registry import Record, find_record, load_registry

_MODULES = {
    "Checkpoint": "load",
    "Record": "registry",
    "cache_folder": "fetch",
    "fetch_file": "fetch",
    "find_record": "registry",
    "load_checkpoint": "load",
    "local_path": "fetch",
    "read_mean": "means",
    "load_registry": "registry",
    "save_checkpoint": "layouts.native",
}

__all__ = [
    "Checkpoint",
    "Record",
    "cache_folder",
    "fetch_file",
    "find_record",
    "load_checkpoint",
    "load_registry",
    "local_path",
    "read_mean",
    "save_checkpoint",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
