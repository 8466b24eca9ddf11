"""A part whose attempts all failed, done video by video in a process of its own, so that it costs few videos.

The process reads one video at a time and notes each on scratch before it is read. Where the process ends, or
is silent for too long, the noted video is the suspect: the next process begins with it. A video that does so
twice is given up, and recorded as failed; the part is committed with everything else.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.decode.process import end_with_parent
from c3d_extract.distributed.child import Child, ChildEndedError
from c3d_extract.distributed.part import PartResult, run_part
from c3d_extract.errors import (
    C3DError,
    DeviceError,
    LockedError,
    MismatchError,
    UsageError,
    WeightsError,
    printable,
)
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from c3d_extract.distributed.plan import Plan
    from c3d_extract.pipeline import Extractor, Progress

__all__ = ["OF_EVERY_PART", "PartGivenUpError", "main", "reason_of", "run_by_video"]

OF_EVERY_PART = (UsageError, MismatchError, LockedError, WeightsError, DeviceError)
"""Errors that another attempt would not change, and that other parts have as well."""
_TRIES = 2
_MOST_IN_A_ROW = 8  # videos given up with none read in between: the machine is the cause, not the videos
_MOST_OUTSIDE = 3  # ends of the process while it was at no video
_REPORT_SECONDS = 0.5


class PartGivenUpError(C3DError):
    """A part cannot be done, not even video by video; ``reasons`` has those of all processes.

    Parameters
    ----------
    reasons
        At least one.
    """

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__(reasons[-1])


class _Request(NamedTuple):
    """What a child is to do."""

    load: Callable[[], Extractor]
    plan: Plan
    number: int
    scratch: Path
    refused: dict[str, str]


def reason_of(error: Exception) -> str:
    """Return an error as one line; of those that are not ours with the name of their class."""
    return str(error) if isinstance(error, C3DError) else printable(f"{type(error).__name__}: {error}")


def run_by_video(
    load: Callable[[], Extractor],
    plan: Plan,
    number: int,
    *,
    scratch: Path,
    deadline_seconds: float,
    progress: Callable[[Progress], None] | None = None,
) -> PartResult:
    """Do a part video by video, in a process of its own, and commit it.

    Parameters
    ----------
    load
        Makes the Extractor; picklable.
    plan, number, scratch, progress
        As `run_part` takes them.
    deadline_seconds
        A process that finishes no batch and no video for so long is ended.

    Raises
    ------
    PartGivenUpError
        Where videos are not the cause, or too many are.
    UsageError, MismatchError, LockedError, WeightsError, DeviceError
        As `run_part`.
    """
    notes = _Notes(scratch / plan.scratch_name(number))
    if notes.noted() is not None:
        notes.blame("ended its process and the one that started it")
    n_in_a_row = 0
    while True:
        refused = notes.refused()
        run = _Run(_Request(load, plan, number, scratch, refused), progress)
        try:
            return run.result(deadline_seconds)
        except ChildEndedError as error:
            notes.blame(str(error))
        except BaseException:  # such as Ctrl-C: the video is not the cause
            notes.forget()
            raise
        n_in_a_row = (n_in_a_row if run.n_begun < 2 else 0) + len(notes.refused()) - len(refused)
        if n_in_a_row >= _MOST_IN_A_ROW or len(notes.outside()) >= _MOST_OUTSIDE:
            raise PartGivenUpError([*notes.outside(), *notes.refused().values()])


class _Run:
    """One process that does what is left of a part; ``n_begun`` counts the videos that it came to."""

    def __init__(self, request: _Request, progress: Callable[[Progress], None] | None) -> None:
        self._request = request
        self._progress = progress or (lambda _: None)
        self.n_begun = 0

    def result(self, deadline_seconds: float) -> PartResult:
        """Run it; ChildEndedError where it ends early, or fails for a reason that may be a video's."""
        with Child(self._request, deadline_seconds=deadline_seconds) as child:
            while True:
                message = child.receive()
                if isinstance(message, PartResult):
                    return message
                if isinstance(message, Exception):
                    raise message
                self._note(message)

    def _note(self, message: Progress | str) -> None:
        if isinstance(message, str):
            self.n_begun += 1
        else:
            self._progress(message)


class _Notes:
    """What is known of the videos of a part that is done video by video; on scratch, so that it outlasts us.

    Parameters
    ----------
    folder
        Of the part, on scratch.
    """

    def __init__(self, folder: Path) -> None:
        self._at = folder / "video.json"
        self._ends = folder / "ends.json"

    def begin(self, video: str | None) -> None:
        """Note the video that is about to be read, None where there is none."""
        if video is None:
            self.forget()
        else:
            self._at.write_text(json.dumps(video))

    def forget(self) -> None:
        """Remove that note."""
        self._at.unlink(missing_ok=True)

    def noted(self) -> str | None:
        """Return the video that a process was at when it ended, if it was at any."""
        with suppress(FileNotFoundError, ValueError):  # half written: the video had not been begun
            return str(json.loads(self._at.read_text()))
        return None

    def blame(self, reason: str) -> None:
        """Record why a process ended, for the video that it was at, if it was at any."""
        ends = [*self._read(), (self.noted(), reason)]
        self._ends.parent.mkdir(parents=True, exist_ok=True)
        with writing_output(self._ends) as file:
            file.write(json.dumps(ends).encode())
        self.forget()

    def refused(self) -> dict[str, str]:
        """Return the videos that ended as many processes as are allowed, each with the last reason."""
        ends = [(video, reason) for video, reason in self._read() if video is not None]
        counts = Counter(video for video, _ in ends)
        return {
            video: f"{reason}; tried alone {_TRIES} times"
            for video, reason in ends
            if counts[video] >= _TRIES
        }

    def outside(self) -> list[str]:
        """Return why processes ended that were at no video."""
        return [reason for video, reason in self._read() if video is None]

    def _read(self) -> list[tuple[str | None, str]]:
        with suppress(FileNotFoundError):
            return [(video, reason) for video, reason in json.loads(self._ends.read_text())]
        return []


def main(parent: int, connection: int) -> None:
    """Do what a parent asks for, in a process of its own.

    Parameters
    ----------
    parent
        Its process number; this process ends with it.
    connection
        The descriptor of a pipe to it.
    """
    end_with_parent(parent)
    with Connection(connection) as pipe:
        request = pipe.recv()
        try:
            pipe.send(_work(request, pipe))
        except OF_EVERY_PART as error:
            pipe.send(error)
        except Exception as error:  # noqa: BLE001 - the parent decides whether a video is the cause
            pipe.send(ChildEndedError(reason_of(error)))


def _work(request: _Request, pipe: Connection) -> PartResult:
    notes = _Notes(request.scratch / request.plan.scratch_name(request.number))

    def at_video(video: str | None) -> None:
        notes.begin(video)
        if video is not None:
            pipe.send(video)

    reports = _Reports(pipe)
    with request.load() as extractor:
        result = run_part(
            extractor,
            request.plan,
            request.number,
            scratch=request.scratch,
            progress=reports.take,
            options={"refused": request.refused, "at_video": at_video},
        )
    reports.send()  # the last counts
    return result


class _Reports:
    """Sends counts to the parent, not after every batch."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._latest: Progress | None = None
        self._sent = -math.inf

    def take(self, progress: Progress) -> None:
        self._latest = progress
        if time.monotonic() - self._sent >= _REPORT_SECONDS:
            self.send()

    def send(self) -> None:
        if self._latest is not None:
            self._pipe.send(self._latest)
            self._sent = time.monotonic()
