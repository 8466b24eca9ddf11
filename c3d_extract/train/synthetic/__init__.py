"""Endless labelled clips made from nothing: moving shapes and jointed figures.

Clip ``i`` of a seed is the same whenever and wherever it is made, so a sampler's state is one number.
"""

from __future__ import annotations

from c3d_extract.train.synthetic.clips import KINDS, SyntheticClips, render_video
from c3d_extract.train.synthetic.figures import ACTIONS
from c3d_extract.train.synthetic.shapes import MOTIONS, REVERSALS, SHAPES

__all__ = ["ACTIONS", "KINDS", "MOTIONS", "REVERSALS", "SHAPES", "SyntheticClips", "render_video"]
