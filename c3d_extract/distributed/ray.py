"""A cluster of Ray: one stateless task a part, whose process and network are kept for the next.

Nothing travels through Ray's object store but small tuples: workers read the plan themselves, and commit
themselves. Ray notices processes and nodes that end; those that hang are noticed by `Driver`, to which a task
sends its counts as a generator.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import platform
import shutil
import signal
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from c3d_extract.distributed.by_video import OF_EVERY_PART, PartGivenUpError, reason_of, run_by_video
from c3d_extract.distributed.driver import Counts, Failed, Started
from c3d_extract.distributed.part import run_part
from c3d_extract.distributed.plan import read_plan
from c3d_extract.errors import C3DError, DeviceError, LockedError, StoreError, UsageError, printable
from c3d_extract.pipeline import suitable_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from c3d_extract.distributed.driver import Event
    from c3d_extract.distributed.part import PartResult
    from c3d_extract.distributed.plan import Plan
    from c3d_extract.output import RunIdentity
    from c3d_extract.pipeline import Extractor, Progress

__all__ = ["Job", "RayCluster", "Share", "connect"]

_REPORT_SECONDS = 2.0
_REACH_SECONDS = 10.0
_IDLE_SECONDS = 60.0  # between lines that say what is waited for
# The worker of a driver that was killed may hold a part for a moment, until Ray has ended it.
_LOCKED_SECONDS = 60.0


class Share(NamedTuple):
    """What a task takes of a node."""

    n_cpus: int
    n_gpus: int

    def of(self, n_cpus: float, n_gpus: float) -> int:
        """Return how many tasks a node of so many CPUs and GPUs runs at a time."""
        n = int(n_cpus // self.n_cpus)
        return min(n, int(n_gpus // self.n_gpus)) if self.n_gpus else n


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share; small, and picklable.

    Attributes
    ----------
    folder
        Address of the run's folder.
    load
        Makes the Extractor; takes ``fetch_progress``, as `Extractor.from_weights` does.
    scratch
        A folder on a local disk of every node; None for its temporary folder.
    deadline_seconds
        As `run_by_video` takes it.
    """

    folder: str
    load: Callable[..., Extractor]
    scratch: Path | None
    deadline_seconds: float


@contextlib.contextmanager
def connect(address: str) -> Iterator[None]:
    """Connect to a cluster: ``auto`` is that of RAY_ADDRESS or of this machine, else one is started here.

    Raises
    ------
    UsageError
        Where Ray is not installed, or the address is Ray Client's.
    DeviceError
        Where the cluster cannot be reached.
    """
    ray = _ray()
    if address.startswith("ray://"):
        hint = "run this command on a node of the cluster, or by `ray job submit`, with --ray=auto"
        raise UsageError("addresses of Ray Client are not supported", subject=f"--ray {address}", hint=hint)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    before = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    try:
        _start(ray, address, options)
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"no cluster can be reached ({_first_line(error)})"
        raise DeviceError(reason, subject=f"--ray {address}", hint="see `ray status`") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        hint = "pip install ray here and on every node"
        raise UsageError("Ray is not installed", subject="--ray", hint=hint) from error
    return ray


def _start(ray: Any, address: str, options: dict[str, Any]) -> None:
    _check_reachable(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
    try:
        ray.init(address=address, **options)
    except ConnectionError:
        if address != "auto" or os.environ.get("RAY_ADDRESS"):
            raise
        # On this machine alone: the ports of Ray run code for whoever reaches them.
        ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, **options)


def _check_reachable(address: str) -> None:
    """Raise OSError at once where nothing listens at HOST:PORT; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()


class RayCluster:
    """The cluster that this process is connected to, as `Driver` takes it.

    Parameters
    ----------
    device
        As the command line names it: ``cpu`` takes no GPU, ``auto`` takes GPUs where there are any.
    """

    def __init__(self, device: str) -> None:
        self._ray = _ray()
        self.share = self._suitable_share(device)
        self._job: Job | None = None
        self._started: dict[Any, Started | None] = {}  # by the stream of a task that has not ended
        self._submitted = self._remote(part_events, num_returns="streaming")

    def _suitable_share(self, device: str) -> Share:
        """Return one GPU and its share of the CPUs, or all CPUs of the smallest node."""
        nodes = self._nodes()
        with_gpus = [(cpus, gpus) for cpus, gpus in nodes if gpus >= 1]
        if device != "cpu" and (with_gpus or device != "auto"):
            return Share(max(1, min((int(cpus // gpus) for cpus, gpus in with_gpus), default=1)), 1)
        return Share(max(1, min((int(cpus) for cpus, _ in nodes if cpus >= 1), default=1)), 0)

    def _nodes(self) -> list[tuple[float, float]]:
        """Return the CPUs and GPUs of every node that is there."""
        found = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in found]

    def _remote(self, function: Callable[..., Any], **options: Any) -> Any:
        # Ray repeats nothing by itself: it would repeat a part that ends its process without end. With
        # max_calls=0 the process and its network stay; on a GPU they would otherwise end with every task.
        share = {"num_cpus": self.share.n_cpus, "num_gpus": self.share.n_gpus}
        return self._ray.remote(max_retries=0, max_calls=0, **share, **options)(function)

    @property
    def n_workers(self) -> int:
        """Decoders of a task, where the user does not say how many."""
        return suitable_workers("cuda" if self.share.n_gpus else "cpu", cores=self.share.n_cpus)

    def identify(self, load: Callable[..., Extractor], say: Callable[[str], None]) -> tuple[RunIdentity, str]:
        """Return what an Extractor of this cluster is, and on which machine it was made; waits for a slot.

        Raises
        ------
        C3DError
            What making it raised, or where no worker can make anything.
        """
        ref = self._remote(_identify).remote(load)
        while not self._ray.wait([ref], timeout=_IDLE_SECONDS)[0]:
            say(f"waiting for a node with {self.needs()}")
        try:
            found: tuple[RunIdentity, str] | C3DError = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise _unusable(error) from error
        if isinstance(found, C3DError):
            raise found
        return found

    def begin(self, job: Job) -> None:
        """Set what tasks do."""
        self._job = job

    def n_slots(self) -> int:  # noqa: D102 - see Cluster, for all of them
        return sum(self.share.of(cpus, gpus) for cpus, gpus in self._nodes())

    def needs(self) -> str:  # noqa: D102
        gpu = " and a GPU" if self.share.n_gpus else ""
        return f"{self.share.n_cpus} CPUs of one node{gpu}"

    def submit(self, number: int, *, by_video: bool) -> Hashable:  # noqa: D102
        stream: Hashable = self._submitted.remote(self._job, number, by_video)
        self._started[stream] = None
        return stream

    def wait(self, seconds: float) -> list[tuple[Hashable, Event]]:  # noqa: D102
        streams = list(self._started)
        if not streams:
            return []
        ready, _ = self._ray.wait(streams, timeout=seconds, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
        return [(stream, self._next(stream)) for stream in ready]

    def _next(self, stream: Any) -> Event:
        try:
            event: Event = self._ray.get(next(stream))
        except StopIteration:
            event = Failed("it ended without a result")
        except self._ray.exceptions.RayError as error:
            event = self._of_error(error, self._started.get(stream))
        if isinstance(event, Started):
            self._started[stream] = event
        elif not isinstance(event, Counts):
            del self._started[stream]
        return event

    def _of_error(self, error: Exception, started: Started | None) -> Event:
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.RayTaskError):
            if started is None:  # it could not even begin, nor could any other
                return _unusable(error)
            return Failed(_cause(error))
        if isinstance(error, exceptions.OutOfMemoryError):
            return Failed("its process was ended by Ray, since its node was out of memory")
        if isinstance(error, exceptions.NodeDiedError) or (started and not self._is_alive(started.node)):
            return Failed("its node was lost")
        return Failed("its process ended (killed, or out of memory)")

    def _is_alive(self, node: str) -> bool:
        return any(each["NodeID"] == node and each["Alive"] for each in self._ray.nodes())

    def kill(self, started: Started) -> None:  # noqa: D102
        strategies = self._ray.util.scheduling_strategies
        there = strategies.NodeAffinitySchedulingStrategy(started.node, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
        self._ray.remote(**options)(_kill).remote(started.pid)

    def cancel(self, tasks: Sequence[Hashable]) -> None:  # noqa: D102
        for stream in tasks:
            self._started.pop(stream, None)
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(stream, force=True)


def _first_line(error: object) -> str:
    return printable(next(iter(str(error).splitlines()), type(error).__name__))


def _cause(error: Any) -> str:
    """Return the error of a task in one line, without Ray's account of it."""
    cause = getattr(error, "cause", None) or error
    return _first_line(f"{type(cause).__name__}: {cause}")


def _unusable(error: Exception) -> DeviceError:
    hint = "install c3d-extract in the same version on every node"
    return DeviceError(f"cannot run parts ({_cause(error)})", subject="a Ray worker", hint=hint)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# What follows runs in the workers.

_extractors: dict[bytes, Extractor] = {}


def _extractor(
    load: Callable[..., Extractor], fetch_progress: Callable[..., None] | None = None
) -> Extractor:
    """Return the Extractor of this process; made when it is first needed, and kept for the next task."""
    key = pickle.dumps(load)
    if key not in _extractors:
        for other in _extractors.values():
            other.close()
        _extractors.clear()
        _extractors[key] = load(fetch_progress=fetch_progress)
    return _extractors[key]


@cache  # it may have megabytes, and never changes
def _plan(folder: str) -> Plan:
    plan = read_plan(folder)
    if plan is None:
        raise StoreError("holds no planned run on this node", subject=folder, hint="every node must see it")
    return plan


def _identify(load: Callable[..., Extractor]) -> tuple[RunIdentity, str] | C3DError:
    try:
        return _extractor(load).identity(), platform.node()
    except C3DError as error:
        return error


def part_events(job: Job, number: int, by_video: bool) -> Iterator[Event]:
    """Do a part, in a worker; yield what happens, its result last."""
    yield Started(_ray().get_runtime_context().get_node_id(), os.getpid())
    work = _Work(job, number, by_video=by_video)
    thread = threading.Thread(target=work.run, name="c3d-part", daemon=True)
    thread.start()
    n_seen = 0
    while thread.is_alive():
        thread.join(_REPORT_SECONDS)
        if work.n_changes != n_seen:  # where nothing changed, the silence is to be noticed
            n_seen = work.n_changes
            yield work.counts
    yield work.outcome


class _Work:
    """One part, done in a thread, while the task's own thread reports."""

    def __init__(self, job: Job, number: int, *, by_video: bool) -> None:
        self._job = job
        self._number = number
        self._by_video = by_video
        self._scratch = job.scratch or Path(tempfile.gettempdir())
        self.counts = Counts()
        self.n_changes = 0
        self.outcome: Event = Failed("its thread ended")

    def run(self) -> None:
        until = time.monotonic() + _LOCKED_SECONDS
        while True:
            try:
                self.outcome = self._by_videos() if self._by_video else self._at_once()
            except LockedError as error:
                if time.monotonic() < until:
                    time.sleep(1.0)
                    continue
                self.outcome = Failed(str(error))
            except OF_EVERY_PART as error:
                self.outcome = error
            except Exception as error:  # noqa: BLE001 - the driver decides what becomes of the part
                self.outcome = Failed(reason_of(error))
            return

    def _at_once(self) -> PartResult:
        extractor = _extractor(self._job.load, lambda *_: self._change())
        plan = _plan(self._job.folder)
        return run_part(extractor, plan, self._number, scratch=self._scratch, progress=self._take)

    def _by_videos(self) -> PartResult:
        plan = _plan(self._job.folder)
        try:
            return run_by_video(
                self._job.load,
                plan,
                self._number,
                scratch=self._scratch,
                deadline_seconds=self._job.deadline_seconds,
                progress=self._take,
            )
        except PartGivenUpError:
            shutil.rmtree(self._scratch / plan.scratch_name(self._number), ignore_errors=True)
            raise

    def _take(self, now: Progress) -> None:
        self.counts = Counts(
            now.n_skipped + now.n_finished, now.n_failed, now.n_clips, now.n_frames, now.n_bytes_finished
        )
        self._change()

    def _change(self) -> None:
        self.n_changes += 1
