"""How far a run in parts has come, from the files that are there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from c3d_extract.distributed.failed import read_failed
from c3d_extract.distributed.plan import existing_plan
from c3d_extract.output import read_report

if TYPE_CHECKING:
    import os

    from c3d_extract.strict_json import JSON

__all__ = ["describe_run"]


def describe_run(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is known of a run, as plain values.

    ``parts_failed`` are those of ``parts_missing`` that were given up, and why.
    ``videos_per_second`` and ``seconds_left`` are estimated from the times of the parts' files, None before
    two parts are done.

    Raises
    ------
    StoreError
        Where the folder holds no run, or a report cannot be read.
    """
    plan = existing_plan(folder)
    numbers = range(len(plan.parts))
    finished = plan.finished()
    done = sorted((time, number) for number, time in finished.items())
    statuses: Counter[str] = Counter()
    with plan.folder.copies() as local:
        for _, number in done:
            statuses.update(line["status"] for line in read_report(local(plan.report(number))))
    n_videos, n_done = sum(part.n_videos for part in plan.parts), sum(statuses.values())
    rate = _rate([(time, plan.parts[number].n_videos) for time, number in done])
    missing: list[JSON] = [number for number in numbers if number not in finished]
    return {
        "folder": plan.folder.address(),
        "kind": "run",
        "n_parts": len(numbers),
        "n_parts_done": len(done),
        "parts_missing": missing,
        "parts_failed": {part.number: part.reasons[-1] for part in read_failed(plan)},
        "n_videos": n_videos,
        "n_videos_done": n_done,
        "statuses": dict(statuses),
        "videos_per_second": rate,
        "seconds_left": None if rate is None else (n_videos - n_done) / rate,
        "settings": plan.identity.settings,
        "weights": plan.identity.weights,
        "versions": plan.identity.versions,
    }


def _rate(done: list[tuple[float, int]]) -> float | None:
    """Return videos per second since the first part was done; ``done`` holds (time, videos), sorted."""
    if len(done) < 2 or done[-1][0] <= done[0][0]:
        return None
    return sum(n_videos for _, n_videos in done[1:]) / (done[-1][0] - done[0][0])
