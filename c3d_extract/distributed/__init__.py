"""Runs in parts, for several processes and machines, by any scheduler.

plan.py      which videos each part has; written once
part.py      one part: extracted on scratch, committed with one rename
attempts.py  a part that may fail: tried again, then video by video, then given up
by_video.py  a part done video by video, in a process of its own (child.py)
failed.py    the parts that were given up
driver.py    gives parts to a cluster, and tries again what fails; knows no engine
ray.py       a cluster of Ray
merge.py     parts to one output
status.py    how far a run has come

Another scheduler needs three calls::

    plan = plan_run(folder, find_videos(["videos/"]).videos, extractor.identity())
    for number in range(len(plan.parts)):  # in any process, in any order, any number of times
        run_part(extractor, plan, number, scratch=Path("/tmp"))
    merge_parts(folder, Path("feats.h5"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract._lazy import lazy_names

if TYPE_CHECKING:
    from c3d_extract.distributed.merge import MergeOptions, merge_parts
    from c3d_extract.distributed.part import PartResult, run_part
    from c3d_extract.distributed.plan import Plan, plan_run, read_plan
    from c3d_extract.distributed.status import describe_run

_MODULES = {
    "MergeOptions": "merge",
    "PartResult": "part",
    "Plan": "plan",
    "describe_run": "status",
    "merge_parts": "merge",
    "plan_run": "plan",
    "read_plan": "plan",
    "run_part": "part",
}

__all__ = [
    "MergeOptions",
    "PartResult",
    "Plan",
    "describe_run",
    "merge_parts",
    "plan_run",
    "read_plan",
    "run_part",
]

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
