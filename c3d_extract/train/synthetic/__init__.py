"""Endless labelled synthetic clips: moving shapes (shapes.py) and jointed figures (figures.py, actions.py).

Clip ``i`` of a seed is always the same, so a sampler's state is one number. Between processors, NumPy's sines
may differ in the last bit, and rarely a pixel does.
"""

from __future__ import annotations

from c3d_extract.train.synthetic.actions import ACTIONS
from c3d_extract.train.synthetic.clips import KINDS, SyntheticClips, render_video
from c3d_extract.train.synthetic.shapes import MOTIONS, REVERSALS, SHAPES

__all__ = ["ACTIONS", "KINDS", "MOTIONS", "REVERSALS", "SHAPES", "SyntheticClips", "render_video"]
