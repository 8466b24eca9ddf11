"""What the server imports and computes once, from which `training_samples.start` forks its processes.

Importing torch takes seconds, and torch._dynamo, which torch imports in the first step of an optimizer, takes
as long again.
"""

from __future__ import annotations

import matplotlib.figure
import torch._dynamo
import training_samples

import c3d_extract.train.loop
import c3d_extract.train.processes
from c3d_extract.train.synthetic import SyntheticClips

__all__ = ["c3d_extract", "matplotlib", "torch", "training_samples"]

for kind in ("shapes", "figures"):
    SyntheticClips(kind, 0, (2, 16, 16)).clip(0)  # noise and textures are made once a process
