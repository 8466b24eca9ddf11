"""One loop that gives the parts of a run to a cluster, and tries again what fails; knows no engine.

Parts commit themselves, so nothing but short messages comes back. At most two parts a slot are handed to the
cluster at a time: enough that a free slot never waits for the loop, and that tasks which wait make an
autoscaler add nodes; few enough for runs of any size.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from c3d_extract.distributed.failed import write_failed
from c3d_extract.distributed.part import PartResult
from c3d_extract.errors import C3DError
from c3d_extract.pipeline.results import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from c3d_extract.distributed.plan import Plan

__all__ = ["Cluster", "Counts", "Driver", "Event", "Failed", "RunState", "Started"]

_PER_SLOT = 2
_WAIT_SECONDS = 1.0  # in which the loop looks at nothing but what has arrived
_LOOK_SECONDS = 0.5  # between looks at all tasks
_SLOTS_SECONDS = 5.0  # between looks at how many slots there are
_KILL_SECONDS = 30.0  # that a task which was killed may take to end; then it is left to itself
_IDLE_SECONDS = 60.0  # without any task running, after which the user is told what the tasks wait for
# A part that is done video by video ends silent processes itself, after one deadline each.
_BY_VIDEO_DEADLINES = 3


class Started(NamedTuple):
    """A task has begun, on a node, in a process."""

    node: str
    pid: int


class Counts(NamedTuple):
    """What a task has done so far."""

    n_videos: int = 0
    n_failed: int = 0
    n_clips: int = 0
    n_frames: int = 0
    n_bytes: int = 0


class Failed(NamedTuple):
    """A task has failed, or its process or its node has ended."""

    reason: str


Event = Started | Counts | PartResult | Failed | C3DError
"""What comes from a task; the last three end it. An error ends the run: every part would have it."""


class Cluster(Protocol):
    """Runs tasks, each in a slot: a share of a node's processors, or a GPU."""

    def n_slots(self) -> int:
        """Return how many tasks can run at a time."""

    def submit(self, number: int, *, by_video: bool) -> Hashable:
        """Hand in a part, to be done at once or video by video; return what the task is called."""

    def wait(self, seconds: float) -> Iterable[tuple[Hashable, Event]]:
        """Wait for events of any task, at most so long, and return those that are there."""

    def kill(self, started: Started) -> None:
        """End the process of a task."""

    def cancel(self, tasks: Sequence[Hashable]) -> None:
        """End tasks, or do not start them; no event of theirs follows."""

    def needs(self) -> str:
        """Say what a task needs of a node."""


@dataclass
class RunState:
    """How far the run has come; ``counts`` are of this run, without parts that were done before."""

    n_parts: int
    counts: Progress
    n_parts_done: int = 0
    n_parts_given_up: int = 0


@dataclass
class _Task:
    """A part that was handed in."""

    number: int
    by_video: bool
    started: Started | None = None
    heard: float = 0.0
    killed: float | None = None
    counts: Counts = field(default_factory=Counts)


class Driver:
    """Does all parts of a plan that are not done.

    Parameters
    ----------
    cluster
        Runs them.
    plan
        The plan.
    retries
        How often a part is tried before it is tried once video by video, and then given up.
    deadline_seconds
        A task that has started and shows no progress for so long is killed.
    say
        Called with a line, where something deserves one.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        *,
        retries: int,
        deadline_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._retries = retries
        self._deadline_seconds = deadline_seconds
        self._say = say
        todo = sorted(set(range(len(plan.parts))) - plan.finished().keys())
        self._todo = deque((number, False) for number in todo)  # number, video by video
        self._tasks: dict[Hashable, _Task] = {}
        self._reasons: dict[int, list[str]] = {}
        self._slots = (0, -_SLOTS_SECONDS)  # how many, and when that was looked up
        self._active = self._looked = time.monotonic()
        self._finished: Counter[str] = Counter()
        n_videos = sum(part.n_videos for part in plan.parts)
        n_todo = sum(plan.parts[number].n_videos for number in todo)
        n_bytes = sum(plan.parts[number].n_bytes for number in todo)
        self.state = RunState(
            len(plan.parts),
            Progress(n_videos=n_videos, n_skipped=n_videos - n_todo, n_bytes=n_bytes),
            n_parts_done=len(plan.parts) - len(todo),
        )

    def run(self, report: Callable[[RunState], None] = lambda _: None) -> RunState:
        """Do them; ``report`` is called about twice a second. Returns when each is done or given up.

        Raises
        ------
        C3DError
            What every part would have, such as a device unlike the planned one; or where a part that is given
            up cannot be recorded. Tasks that run are cancelled, as they are by Ctrl-C.
        """
        try:
            while self._todo or self._tasks:
                self._submit()
                for name, event in self._cluster.wait(_WAIT_SECONDS):
                    if name in self._tasks:
                        self._take(name, self._tasks[name], event)
                self._look(report)
            self._count()
            report(self.state)
        except BaseException:
            self._cluster.cancel(list(self._tasks))
            raise
        return self.state

    def _submit(self) -> None:
        while self._todo and len(self._tasks) < _PER_SLOT * self._n_slots():
            number, by_video = self._todo.popleft()
            self._tasks[self._cluster.submit(number, by_video=by_video)] = _Task(number, by_video)

    def _n_slots(self) -> int:
        n, looked = self._slots
        now = time.monotonic()
        if now - looked >= _SLOTS_SECONDS:
            n = max(1, self._cluster.n_slots())
            self._slots = (n, now)
        return n

    def _take(self, name: Hashable, task: _Task, event: Event) -> None:
        task.heard = self._active = time.monotonic()
        if isinstance(event, C3DError):
            raise event
        if isinstance(event, Started):
            task.started = event
        elif isinstance(event, Counts):
            task.counts = event
        elif isinstance(event, Failed):
            del self._tasks[name]
            self._fail(task, event.reason)
        else:
            del self._tasks[name]
            self._finish(task, event)

    def _finish(self, task: _Task, result: PartResult) -> None:
        part = self._plan.parts[task.number]
        self._reasons.pop(task.number, None)
        self.state.n_parts_done += 1
        found = {"n_videos": part.n_videos, "n_bytes": part.n_bytes, "n_failed": result.n_failed}
        self._finished.update(found, n_clips=task.counts.n_clips, n_frames=task.counts.n_frames)
        if result.n_failed:
            report = self._plan.folder.address(self._plan.report(task.number))
            self._say(
                f"part {task.number}: {result.n_failed} of {part.n_videos} videos failed (see {report})"
            )

    def _fail(self, task: _Task, reason: str) -> None:
        if task.killed is not None:
            reason = f"made no progress for {self._deadline_seconds:g} s"
        reasons = self._reasons.setdefault(task.number, [])
        reasons.append(reason)
        if task.by_video:
            write_failed(self._plan, task.number, reasons)
            self.state.n_parts_given_up += 1
            self._say(f"part {task.number}: given up: {reason}")
            return
        by_video = len(reasons) >= self._retries
        then = "video by video" if by_video else "again"
        self._say(f"part {task.number}: {reason}; it is tried {then}")
        self._todo.appendleft((task.number, by_video))  # the largest parts are the first

    def _look(self, report: Callable[[RunState], None]) -> None:
        """Look at every task, but not after each of the thousands of events a second that there may be."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._check_silent()
            self._count()
            report(self.state)

    def _check_silent(self) -> None:
        """Kill tasks that show no progress; leave those to themselves that do not end then."""
        now = time.monotonic()
        for name, task in list(self._tasks.items()):
            if task.started is None:
                continue
            if task.killed is not None:
                if now - task.killed > _KILL_SECONDS:
                    self._cluster.cancel([name])
                    self._take(name, task, Failed(""))
            elif now - task.heard > self._deadline_seconds * (_BY_VIDEO_DEADLINES if task.by_video else 1):
                task.killed = now
                self._cluster.kill(task.started)
        if now - self._active > _IDLE_SECONDS and not any(task.started for task in self._tasks.values()):
            self._active = now
            self._say(f"no part has begun for {_IDLE_SECONDS:g} s: each needs {self._cluster.needs()}")

    def _count(self) -> None:
        counts, running = self.state.counts, [task.counts for task in self._tasks.values()]
        finished = self._finished
        counts.n_finished = finished["n_videos"] + sum(each.n_videos for each in running)
        counts.n_failed = finished["n_failed"] + sum(each.n_failed for each in running)
        counts.n_clips = finished["n_clips"] + sum(each.n_clips for each in running)
        counts.n_frames = finished["n_frames"] + sum(each.n_frames for each in running)
        counts.n_bytes_finished = finished["n_bytes"] + sum(each.n_bytes for each in running)
