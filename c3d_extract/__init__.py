"""C3D video descriptors with the original tool's numbers.

What a caller may want to know beside results and errors is logged under ``c3d_extract``, by `logging`.

Lazy: importing the package imports neither torch nor h5py nor av; each name is imported on first use.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.analysis import VideoFeatures
    from c3d_extract.errors import C3DError
    from c3d_extract.models.c3d import ARCHITECTURES, C3D, Architecture
    from c3d_extract.output import FeatureFile, load_basis, read_report
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline import Extraction, Extractor, Features, Outcome, Progress
    from c3d_extract.settings import ExtractSettings
    from c3d_extract.train import ClipDataset
    from c3d_extract.weights import Checkpoint, load_checkpoint, save_checkpoint

_MODULES = {
    "ARCHITECTURES": "models.c3d",
    "Architecture": "models.c3d",
    "C3D": "models.c3d",
    "C3DError": "errors",
    "Checkpoint": "weights",
    "ClipDataset": "train",
    "ExtractSettings": "settings",
    "Extraction": "pipeline",
    "Extractor": "pipeline",
    "FeatureFile": "output",
    "Features": "pipeline",
    "Outcome": "pipeline",
    "PcaBasis": "output.pca_basis",
    "Progress": "pipeline",
    "VideoFeatures": "analysis",
    "load_basis": "output",
    "load_checkpoint": "weights",
    "read_report": "output",
    "save_checkpoint": "weights",
}

__version__ = "0.1.0"
__all__ = [
    "ARCHITECTURES",
    "C3D",
    "Architecture",
    "C3DError",
    "Checkpoint",
    "ClipDataset",
    "ExtractSettings",
    "Extraction",
    "Extractor",
    "FeatureFile",
    "Features",
    "Outcome",
    "PcaBasis",
    "Progress",
    "VideoFeatures",
    "__version__",
    "load_basis",
    "load_checkpoint",
    "read_report",
    "save_checkpoint",
]

# Messages go where the program that imports this sends them, and nowhere by default.
logging.getLogger(__name__).addHandler(logging.NullHandler())
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
