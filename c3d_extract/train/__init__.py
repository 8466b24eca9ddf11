"""Training: recipes, lists, clips, the loop.

recipes.py    named sets of hyperparameters
lists.py      class folders, list files, the official lists → labelled videos
data.py       the clip at each position of a run; batches
clip_dataset.py  every clip of some videos, as a dataset for other training loops
augment.py    random changes of a batch on the training device
summary.py    where a clip is how bright, changes and moves: a second task for fc6
network.py    the network during training; batch norm is folded into it afterwards
loop.py       steps, tests and saves
evaluate.py   the test: loss and accuracy
state.py      the setup, the saved state, exact resume
report.py     the log and its plot
processes.py  several processes that train one network
synthetic/    clips drawn by NumPy

Lazy: ``c3d_extract.train.synthetic`` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.train.clip_dataset import ClipDataset, ClipItem
    from c3d_extract.train.data import SyntheticClipSet, VideoClipSet
    from c3d_extract.train.lists import VideoList, read_videos
    from c3d_extract.train.loop import Intervals, Trainer
    from c3d_extract.train.recipes import RECIPES, Recipe
    from c3d_extract.train.report import LogEntry
    from c3d_extract.train.state import TrainingSetup

__all__ = [
    "RECIPES",
    "ClipDataset",
    "ClipItem",
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

_MODULES = {
    "RECIPES": "recipes",
    "ClipDataset": "clip_dataset",
    "ClipItem": "clip_dataset",
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

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
