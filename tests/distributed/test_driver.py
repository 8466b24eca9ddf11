"""The loop that gives parts to a cluster, with a cluster that is none."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from c3d_extract.distributed import driver as driver_module
from c3d_extract.distributed.driver import Counts, Driver, Event, Failed, Started
from c3d_extract.distributed.failed import read_failed
from c3d_extract.distributed.part import PartResult
from c3d_extract.distributed.plan import Plan, PlannedPart
from c3d_extract.distributed.run_folder import open_run_folder
from c3d_extract.errors import MismatchError, StoreError
from c3d_extract.output import RunIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

N_VIDEOS = 10


@dataclass
class FakeCluster:
    """Answers at once: ``behave`` gives the events of a part's n-th task, n from 0."""

    behave: Callable[[int, int], list[Event]]
    slots: int = 2
    submitted: list[tuple[int, bool]] = field(default_factory=list)
    killed: list[Started] = field(default_factory=list)
    cancelled: list[Hashable] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    pids: dict[Hashable, int] = field(default_factory=dict)
    most_in_flight: int = 0
    in_flight: set[Hashable] = field(default_factory=set)
    waiting: deque[tuple[Hashable, Event]] = field(default_factory=deque)

    def n_slots(self) -> int:
        return self.slots

    def submit(self, number: int, *, by_video: bool) -> Hashable:
        name = len(self.submitted)
        n_before = self.counts[number]
        self.counts[number] += 1
        self.submitted.append((number, by_video))
        self.in_flight.add(name)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        self.waiting += [(name, event) for event in self.behave(number, n_before)]
        return name

    def wait(self, seconds: float) -> list[tuple[Hashable, Event]]:
        if not self.waiting:
            time.sleep(min(seconds, 0.01))
            return []
        name, event = self.waiting.popleft()
        if isinstance(event, Started):
            self.pids[name] = event.pid
        if not isinstance(event, Started | Counts):
            self.in_flight.discard(name)
        return [(name, event)]

    def kill(self, started: Started) -> None:
        self.killed.append(started)
        (task,) = [name for name in self.in_flight if self.pids.get(name) == started.pid]
        self.waiting.append((task, Failed("its process ended")))

    def cancel(self, tasks: Sequence[Hashable]) -> None:
        self.cancelled += tasks

    def needs(self) -> str:
        return "2 CPUs"


def planned(folder: Path, n_parts: int) -> Plan:
    identity = RunIdentity({"precision": "fp32"}, {}, {"fc6": 4096}, {})
    parts = tuple(PlannedPart(N_VIDEOS, 1000, f"{number:06d}") for number in range(n_parts))
    return Plan(open_run_folder(folder), "plan", identity, False, False, parts, "0" * 64)


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Look at all tasks after every event; at intervals as they are where speed is measured."""
    if "500" not in request.node.name:
        monkeypatch.setattr(driver_module, "_LOOK_SECONDS", 0.0)


def done(number: int, n_failed: int = 0) -> PartResult:
    return PartResult(number, was_done=False, n_videos=N_VIDEOS, n_failed=n_failed)


def make(cluster: FakeCluster, plan: Plan, **options: Any) -> tuple[Driver, list[str]]:
    lines: list[str] = []
    values: dict[str, Any] = {"retries": 3, "deadline_seconds": 60.0, "say": lines.append} | options
    return Driver(cluster, plan, **values), lines


def test_every_part_is_done_once_the_largest_first_with_two_tasks_a_slot(tmp_path: Path) -> None:
    cluster = FakeCluster(lambda number, _: [Started("n", 1), done(number)], slots=3)
    driver, lines = make(cluster, planned(tmp_path, 20))
    state = driver.run()
    assert cluster.submitted == [(number, False) for number in range(20)]
    assert cluster.most_in_flight == 6
    assert (state.n_parts_done, state.n_parts_given_up, lines) == (20, 0, [])


def test_parts_that_are_done_are_not_handed_in(tmp_path: Path) -> None:
    plan = planned(tmp_path, 4)
    plan.folder.write(plan.output(2), b"")
    cluster = FakeCluster(lambda number, _: [done(number)])
    driver, _ = make(cluster, plan)
    assert (driver.state.n_parts_done, driver.state.counts.n_skipped) == (1, N_VIDEOS)
    driver.run()
    assert [number for number, _ in cluster.submitted] == [0, 1, 3]


def test_counts_are_of_what_is_finished_and_of_what_runs(tmp_path: Path) -> None:
    def behave(number: int, _: int) -> list[Event]:
        return [Started("n", 1), Counts(4, 1, 40, 640, 400), Counts(10, 2, 100, 1600, 1000), done(number, 2)]

    seen: list[tuple[int, int, int, int]] = []
    driver, lines = make(FakeCluster(behave, slots=1), planned(tmp_path, 3))
    state = driver.run(
        lambda now: seen.append(
            (now.counts.n_finished, now.counts.n_clips, now.counts.n_bytes_finished, now.counts.n_failed)
        )
    )
    assert seen == sorted(seen), "nothing is counted twice, and nothing goes back"
    assert (4, 40, 400, 1) in seen
    assert seen[-1] == (30, 300, 3000, 6)
    assert state.counts.n_bytes == 3000
    assert lines[0].startswith("part 0: 2 of 10 videos failed (see ")


def test_a_part_that_fails_is_tried_again_then_video_by_video_then_given_up(tmp_path: Path) -> None:
    def behave(number: int, n_before: int) -> list[Event]:
        if number == 1:
            return [Started("n", 1), Failed(f"reason {n_before}")]
        if number == 2 and n_before < 3:
            return [Started("n", 1), Failed("its node was lost")]
        return [Started("n", 1), done(number)]

    cluster, plan = FakeCluster(behave), planned(tmp_path, 4)
    driver, lines = make(cluster, plan)
    state = driver.run()
    assert (state.n_parts_done, state.n_parts_given_up) == (3, 1)
    for number in (1, 2):
        tries = [by_video for each, by_video in cluster.submitted if each == number]
        assert tries == [False, False, False, True]
    (failed,) = read_failed(plan)
    assert (failed.number, failed.reasons) == (1, tuple(f"reason {i}" for i in range(4)))
    assert "part 2: its node was lost; it is tried again" in lines
    assert "part 1: reason 2; it is tried video by video" in lines
    assert "part 1: given up: reason 3" in lines


def test_a_task_that_is_silent_is_killed_and_tried_again(tmp_path: Path) -> None:
    def behave(number: int, n_before: int) -> list[Event]:
        begun: list[Event] = [Started("node", 100 + n_before), Counts(1)]
        return begun if number == 0 and n_before == 0 else [*begun, done(number)]

    cluster = FakeCluster(behave)
    driver, lines = make(cluster, planned(tmp_path, 2), deadline_seconds=0.1)
    assert driver.run().n_parts_done == 2
    assert cluster.killed == [Started("node", 100)]
    assert lines == ["part 0: made no progress for 0.1 s; it is tried again"]


def test_a_task_that_has_not_started_waits_without_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_IDLE_SECONDS", 0.1)
    cluster = FakeCluster(lambda *_: [])
    driver, lines = make(cluster, planned(tmp_path, 1), deadline_seconds=0.01)
    until = time.monotonic() + 0.3

    def start_later(_: Any) -> None:
        if time.monotonic() > until and not cluster.waiting:
            cluster.waiting += [(0, Started("n", 1)), (0, done(0))]

    assert driver.run(start_later).n_parts_done == 1
    assert cluster.killed == []
    assert lines[0] == "no part has begun for 0.1 s: each needs 2 CPUs"


def test_a_task_that_outlasts_its_kill_is_left_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_KILL_SECONDS", 0.1)

    class Stuck(FakeCluster):
        def kill(self, started: Started) -> None:
            self.killed.append(started)

    def behave(number: int, n_before: int) -> list[Event]:
        begun: list[Event] = [Started("n", n_before)]
        return [*begun, done(number)] if n_before else begun

    cluster = Stuck(behave)
    driver, _ = make(cluster, planned(tmp_path, 1), deadline_seconds=0.1)
    assert driver.run().n_parts_done == 1
    assert cluster.cancelled == [0]


@pytest.mark.parametrize(
    "error", [MismatchError("is unlike", differences=["a"]), StoreError("no"), KeyboardInterrupt()], ids=repr
)
def test_what_every_part_would_have_ends_the_run_and_cancels_the_rest(
    tmp_path: Path, error: BaseException
) -> None:
    class Ending(FakeCluster):
        def wait(self, seconds: float) -> list[tuple[Hashable, Event]]:
            if isinstance(error, KeyboardInterrupt):
                raise error
            return super().wait(seconds)

    cluster = Ending(lambda number, _: [Started("n", 1), done(number) if number == 0 else error])  # type: ignore[list-item]
    driver, _ = make(cluster, planned(tmp_path, 5), retries=1)
    with pytest.raises(type(error)):
        driver.run()
    assert set(cluster.cancelled) >= {2, 3}


def test_slots_that_appear_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_SLOTS_SECONDS", 0.0)
    cluster = FakeCluster(lambda number, _: [done(number)], slots=0)
    driver, _ = make(cluster, planned(tmp_path, 30))

    def grow(now: Any) -> None:
        cluster.slots = 4 if now.n_parts_done >= 5 else 0

    driver.run(grow)
    assert cluster.most_in_flight == 8


def test_a_hundred_thousand_parts_pass_at_500_a_second(tmp_path: Path) -> None:
    cluster = FakeCluster(lambda number, _: [Started("n", 1), Counts(), done(number)], slots=100)
    driver, _ = make(cluster, planned(tmp_path, 100_000))
    started = time.process_time()  # of this process alone, on machines that do other things
    assert driver.run().n_parts_done == 100_000
    assert time.process_time() - started < 100_000 / 500
