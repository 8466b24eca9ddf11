"""One part of a run: extracted on scratch by the single-machine pipeline, committed with one rename or PUT.

A part is done when its feature file is there. So it may be run twice, at the same time too, and no scheduler
has to promise that it runs once: both write the same bytes under the same name.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output import OutputPaths, write_table
from c3d_extract.output.feature_file import read_attributes
from c3d_extract.sources.find import Found

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from c3d_extract.distributed.plan import Plan
    from c3d_extract.output import Summary
    from c3d_extract.pipeline import Extractor, Progress
    from c3d_extract.pipeline.run import RunOptions
    from c3d_extract.strict_json import JSON

__all__ = ["PartResult", "numbers_of_shard", "run_part"]


class PartResult(NamedTuple):
    """The result of a part.

    ``was_done`` where it was committed before, and nothing was counted; ``given_up`` says why it was not
    committed, whatever was tried.
    """

    number: int
    was_done: bool
    n_videos: int
    n_failed: int
    given_up: str | None = None


def numbers_of_shard(plan: Plan, index: int, n_shards: int) -> list[int]:
    """Return the parts of the shard ``index`` (from 0) of ``n_shards``: every n-th, the largest first.

    Raises
    ------
    UsageError
        Where there is no such shard.
    """
    if not 0 <= index < n_shards:
        raise UsageError(f"shards of {n_shards} are 0 to {n_shards - 1}, not {index}", subject="--shard")
    return list(range(index, len(plan.parts), n_shards))


def run_part(
    extractor: Extractor,
    plan: Plan,
    number: int,
    *,
    scratch: Path,
    progress: Callable[[Progress], None] | None = None,
    options: RunOptions | None = None,
) -> PartResult:
    """Extract a part, unless it is done, and commit it.

    Parameters
    ----------
    extractor
        Must extract as the plan says; L2 and PCA are applied when parts are merged.
    plan, number
        Which part.
    scratch
        A folder on a local disk. An interrupted part is resumed there, where the folder is still there.
    progress
        Called after every batch and every video.
    options
        Of the part's run: ``refused`` and ``at_video``.

    Raises
    ------
    MismatchError
        Where the extractor would extract otherwise than planned.
    LockedError
        Where another process on this machine works on the same part.
    StoreError
        Where the plan cannot be read, or the part not be written.
    """
    plan.check_same(extractor.identity(), with_clips=plan.with_clips)
    if plan.is_done(number):
        return PartResult(number, was_done=True, n_videos=plan.parts[number].n_videos, n_failed=0)
    folder = scratch / plan.scratch_name(number)
    own = OutputPaths(folder / "part.h5", folder / "clips.h5" if plan.with_clips else None)
    run: RunOptions = {
        **(options or {}),
        "clips": own.clips,
        "progress": progress,
        "durable": False,
        "scratch": scratch,
    }
    extraction = extractor.extract_found(Found(plan.videos(number)), own.features, **run)
    for _ in extraction:
        pass
    if extraction.summary is None:
        raise StoreError("the part was not finished", subject=own.features)
    _commit(plan, number, own, extraction.summary)
    shutil.rmtree(folder, ignore_errors=True)
    counts = extraction.progress
    return PartResult(number, was_done=False, n_videos=counts.n_videos, n_failed=counts.n_failed)


def _commit(plan: Plan, number: int, own: OutputPaths, summary: Summary) -> None:
    """Put the part's files in place, the feature file last: its existence means that the part is done."""
    layers = plan.identity.layer_sizes
    if summary.n_rows == 0:  # every video failed: the part is done all the same
        attributes: dict[str, JSON] = {**plan.identity.to_attributes(), "complete": True}
        if own.clips is not None:
            write_table(own.clips, kind="clips", layers=layers, rows=(), attributes=attributes)
            attributes["clips_sha256"] = read_attributes(own.clips, "clips")["content_sha256"]
        write_table(own.features, kind="features", layers=layers, rows=(), attributes=attributes)
    plan.folder.put(plan.report(number), own.report)
    clips = plan.clips(number)
    if own.clips is not None and clips is not None:
        plan.folder.put(clips, own.clips)
    plan.folder.put(plan.output(number), own.features)
