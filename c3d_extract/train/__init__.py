"""Training: recipes, lists, clips, the loop.

recipes.py   every number, under a name
lists.py     class folders, list files, the official lists → labelled videos
data.py      which clip a position of the run is
network.py   the net while it is trained; batch norm folded away afterwards
loop.py      steps, tests, checkpoints, exact resume, several processes
log.py       the CSV and the curve
"""

from __future__ import annotations

from c3d_extract.train.data import SyntheticSource, VideoSource
from c3d_extract.train.lists import VideoList, read_videos
from c3d_extract.train.loop import Plan, Report, Trainer
from c3d_extract.train.recipes import RECIPES, Recipe

__all__ = [
    "RECIPES",
    "Plan",
    "Recipe",
    "Report",
    "SyntheticSource",
    "Trainer",
    "VideoList",
    "VideoSource",
    "read_videos",
]
