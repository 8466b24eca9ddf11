"""A part that may fail: tried again, then done video by video, then given up, so that the run goes on."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from c3d_extract.distributed.by_video import OF_EVERY_PART, PartGivenUpError, reason_of, run_by_video
from c3d_extract.distributed.failed import write_failed
from c3d_extract.distributed.part import PartResult, run_part
from c3d_extract.errors import UsageError
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from c3d_extract.distributed.plan import Plan
    from c3d_extract.pipeline import Extractor, Progress

__all__ = ["DEADLINE_SECONDS", "RETRIES", "attempt_part", "give_up"]

_log = logging.getLogger(__name__)

RETRIES = 3
"""How often a part is tried before it is done video by video."""
DEADLINE_SECONDS = 600.0
"""How long a part that is done video by video may finish no batch and no video."""
_KILLED = "its process was ended from outside (killed, out of memory or without power)"


def attempt_part(
    extractor: Extractor,
    load: Callable[[], Extractor],
    plan: Plan,
    number: int,
    *,
    scratch: Path,
    retries: int = RETRIES,
    deadline_seconds: float = DEADLINE_SECONDS,
    progress: Callable[[Progress], None] | None = None,
) -> PartResult:
    """Do a part as `run_part` does; where that fails, try again, and at last video by video.

    Attempts are counted on scratch before they begin, so that one that ends its process is counted, too. A
    video that ends its process even alone is recorded as failed; a part that cannot be committed all the
    same is recorded in ``RUN/failed/`` and in the result.

    Parameters
    ----------
    extractor, plan, number, scratch, progress
        As `run_part` takes them.
    load
        Makes such an Extractor in another process; picklable.
    retries
        Attempts before the part is done video by video, at least 1.
    deadline_seconds
        A process that does the part video by video, and finishes no batch and no video for so long, is ended.

    Raises
    ------
    UsageError, MismatchError, LockedError, WeightsError, DeviceError
        As `run_part`: another attempt would not change them.
    StoreError
        Where scratch cannot be written, or the part can neither be committed nor be recorded as given up.
    """
    if retries < 1:
        raise UsageError(f"must be at least 1, not {retries}", subject="--retries")
    folder = scratch / plan.scratch_name(number)
    log = _Attempts(folder / "attempts.json")
    if plan.is_done(number):
        return run_part(extractor, plan, number, scratch=scratch)  # which checks that it is of this run
    while log.count() < retries:
        log.begin()
        try:
            return run_part(extractor, plan, number, scratch=scratch, progress=progress)
        except (*OF_EVERY_PART, KeyboardInterrupt, SystemExit):
            log.withdraw()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts may not have it
            log.fail(reason_of(error))
            _log.warning("part %d: %s; it is tried again", number, reason_of(error))
    try:
        return run_by_video(
            load, plan, number, scratch=scratch, deadline_seconds=deadline_seconds, progress=progress
        )
    except PartGivenUpError as error:
        return give_up(plan, number, [*log.reasons(), *error.reasons], scratch)


def give_up(plan: Plan, number: int, reasons: list[str], scratch: Path) -> PartResult:
    """Record a part as given up, and remove its scratch folder: the next run begins it anew."""
    write_failed(plan, number, reasons)
    shutil.rmtree(scratch / plan.scratch_name(number), ignore_errors=True)
    n_videos = plan.parts[number].n_videos
    return PartResult(number, was_done=False, n_videos=n_videos, n_failed=0, given_up=reasons[-1])


class _Attempts:
    """The attempts at a part on this machine: why each failed, None for one that has not ended.

    Parameters
    ----------
    path
        In the part's folder on scratch, which is removed when the part is committed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int:
        """Return how many were begun."""
        return len(self._read())

    def reasons(self) -> list[str]:
        """Return why each failed."""
        return [_KILLED if reason is None else reason for reason in self._read()]

    def begin(self) -> None:
        """Count an attempt, before it begins."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write([*self._read(), None])

    def withdraw(self) -> None:
        """Count the last attempt no longer: it did not fail for a reason of its own."""
        self._end([])

    def fail(self, reason: str) -> None:
        """Record why the last attempt failed."""
        self._end([reason])

    def _end(self, last: list[str]) -> None:
        attempts = self._read()
        if attempts:  # none where another process has committed the part since
            self._write([*attempts[:-1], *last])

    def _read(self) -> list[str | None]:
        with suppress(FileNotFoundError):
            found: list[str | None] = json.loads(self._path.read_text())
            return found
        return []

    def _write(self, attempts: list[str | None]) -> None:
        with writing_output(self._path) as file:
            file.write(json.dumps(attempts).encode())
