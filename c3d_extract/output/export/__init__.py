"""Exports: features in the layouts that other people's code loads.

- ``base.py`` what a preset is, and what it is given
- ``names.py`` from a video's name to that of a file
- ``fit.py`` whether a file's features are what a preset takes
- ``arrays.py``, ``segments.py``, ``several_crops.py``, ``hdf5_files.py``, ``tables.py`` the presets
- ``run.py`` `export_features`

To add a preset, add it to ``PRESETS`` of one of these modules, or of a new one that `run.PRESETS` names.
"""

from __future__ import annotations

from c3d_extract.output.export.base import Needs, Preset
from c3d_extract.output.export.fit import recipe
from c3d_extract.output.export.run import PRESETS, ExportOptions, export_features, find_preset

__all__ = ["PRESETS", "ExportOptions", "Needs", "Preset", "export_features", "find_preset", "recipe"]
