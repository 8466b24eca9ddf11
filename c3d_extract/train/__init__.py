"""Training: recipes, lists, clips, the loop.

recipes.py    every number, under a name
lists.py      class folders, list files, the official lists → labelled videos
data.py       which clip a position of a run is; batches of them
network.py    the network while it is trained; batch norm folded away afterwards
loop.py       steps, tests and saves
evaluate.py   the test: loss and right answers
state.py      what is trained, its state on the disk, exact resume
report.py     the log and its curve
processes.py  several processes that train one network
synthetic/    clips drawn by NumPy

Lazy: ``c3d_extract.train.synthetic`` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.train.data import SyntheticClipSet, VideoClipSet
    from c3d_extract.train.lists import VideoList, read_videos
    from c3d_extract.train.loop import Intervals, Trainer
    from c3d_extract.train.recipes import RECIPES, Recipe
    from c3d_extract.train.report import LogEntry
    from c3d_extract.train.state import TrainingSetup

__all__ = [
    "RECIPES",
    "Intervals",
    "LogEntry",
    "Recipe",
    "SyntheticClipSet",
    "Trainer",
    "TrainingSetup",
    "VideoClipSet",
    "VideoList",
    "read_videos",
]

_HOMES = {
    "RECIPES": "recipes",
    "Intervals": "loop",
    "LogEntry": "report",
    "Recipe": "recipes",
    "SyntheticClipSet": "data",
    "Trainer": "loop",
    "TrainingSetup": "state",
    "VideoClipSet": "data",
    "VideoList": "lists",
    "read_videos": "lists",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
