"""Runs on real Ray nodes. Not collected by name: test_ray.py runs this file in a network of its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from conftest import MEAN
from ray.cluster_utils import Cluster

from c3d_extract import Extractor, FeatureFile
from c3d_extract.distributed.driver import Driver, RunState
from c3d_extract.distributed.failed import read_failed
from c3d_extract.distributed.merge import MergeOptions, merge_parts
from c3d_extract.distributed.plan import Plan, plan_run
from c3d_extract.distributed.ray import Job, RayCluster, connect
from c3d_extract.output import read_report
from c3d_extract.sources.find import find_videos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.ray

PATIENCE_SECONDS = 90.0
KILLED = "its process ended (killed, or out of memory)"
DRIVE = "import sys; from c3d_extract.cli.extract import main; main()"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A cluster of a head without CPUs, and two nodes of one each."""
    head = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)  # parts of it have no types
    for _ in range(2):
        add_node(cluster)
    yield cluster
    cluster.shutdown()


def add_node(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")


@pytest.fixture
def address(nodes: Cluster) -> str:
    found: str = nodes.address
    return found


@pytest.fixture
def cluster(address: str) -> Iterator[RayCluster]:
    with connect(address):
        yield RayCluster("cpu")


@pytest.fixture(scope="module")
def expected(narrow_weights: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature file and the clip file of a run on one machine."""
    folder = tmp_path_factory.mktemp("expected")
    with faults.load(str(narrow_weights)) as extractor:
        list(extractor.extract_files([videos], folder / "feats.h5", clips=folder / "clips.h5"))
    return folder / "feats.h5"


@pytest.fixture
def plan(narrow_weights: Path, videos: Path, tmp_path: Path) -> Plan:
    """Three parts of two videos, with clips."""
    with faults.load(str(narrow_weights)) as extractor:
        identity = extractor.identity()
    return plan_run(tmp_path / "RUN", find_videos([videos]).videos, identity, with_clips=True, part_size=2)


def check_merged(folder: Path, expected: Path, failed: dict[str, str] | None = None) -> None:
    """Check that the merged run equals the one on one machine to the bit, but for the videos that failed."""
    failed = failed or {}
    merged = folder.parent / "merged.h5"
    merge_parts(folder, merged, MergeOptions(clips=folder.parent / "merged.clips.h5", overwrite=True))
    for one, other in (
        (merged, expected),
        (folder.parent / "merged.clips.h5", expected.with_name("clips.h5")),
    ):
        with FeatureFile(one) as a, FeatureFile(other) as b:
            kept = [i for i, name in enumerate(b.videos) if name not in failed]
            assert a.videos == [b.videos[i] for i in kept]
            for name in [*a.layers, *a._columns]:
                np.testing.assert_array_equal(a[name], b[name][kept], err_msg=name)
    lines = read_report(merged.with_name("merged.report.jsonl"))
    assert {line["video"]: line["error"] for line in lines if line["status"] == "failed"} == failed


def drive(
    cluster: RayCluster, plan: Plan, load: Callable[..., Extractor], **options: Any
) -> tuple[RunState, list[str]]:
    values: dict[str, Any] = {"retries": 2, "deadline_seconds": PATIENCE_SECONDS} | options
    scratch = Path(plan.folder.address()).parent
    cluster.begin(Job(plan.folder.address(), load, scratch, PATIENCE_SECONDS))
    lines: list[str] = []
    return Driver(cluster, plan, say=lines.append, **values).run(), lines


def with_fault(weights: Path, **fault: str) -> partial[Extractor]:
    names = {"long": "long.mp4", "short": "b/short.mp4", "mid": "mid.mp4"}
    return partial(faults.load, str(weights), {names[name]: value for name, value in fault.items()})


def wait_for(path: Path) -> int:
    """Wait for the process number that a fault writes."""
    wait_until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def command(videos: Path, weights: Path, folder: Path, address: str, *more: object) -> list[str]:
    given = [
        videos, "-o", folder, f"--ray={address}", "--weights", weights, "--mean", MEAN, "--device", "cpu",
        "--precision", "fp32", "--batch-size", 4, "--part-size", 2, "--clips", "yes",
        "--scratch", folder.parent, *more,
    ]  # fmt: skip
    return [sys.executable, "-c", DRIVE, *map(str, given)]


def test_the_command_line_on_two_nodes_equals_one_machine_to_the_bit(
    address: str, videos: Path, narrow_weights: Path, expected: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "RUN"
    done = subprocess.run(
        command(videos, narrow_weights, folder, address), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 parts are done" in done.stderr
    assert f"c3d-tools merge {folder}" in done.stderr
    check_merged(folder, expected)


@pytest.fixture(scope="module")
def clips_of_long(narrow_weights: Path, videos: Path) -> Any:
    with faults.load(str(narrow_weights)) as extractor:
        return extractor.extract(videos / "long.mp4").clips


def test_an_extractor_in_a_task_of_ones_own(
    cluster: RayCluster, narrow_weights: Path, videos: Path, clips_of_long: Any
) -> None:
    del cluster
    import ray

    @ray.remote
    def clips(weights: str, video: str) -> Any:
        with faults.load(weights) as extractor:
            return extractor.extract(video).clips, extractor.extract(Path(video).read_bytes()).clips

    task = clips.remote(str(narrow_weights), str(videos / "long.mp4"))
    for found in ray.get(task, timeout=PATIENCE_SECONDS):
        np.testing.assert_array_equal(found, clips_of_long)


def test_the_python_of_the_pipelines_page_with_ray_data(
    cluster: RayCluster, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del cluster
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text("utf-8")
    (block,) = (
        each for each in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "import ray" in each
    )
    shutil.copytree(videos, tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block.replace("sports1m", "motion-mini"), "pipelines.md", "exec"), names)  # noqa: S102
    found = {Path(row["path"]).name: row["features"] for row in names["table"]}
    with Extractor.from_weights("motion-mini", device="cpu") as extractor:
        expected = extractor.extract(videos / "a" / "two.mp4").mean()
    assert len(names["table"]) == 4
    np.testing.assert_array_equal(found["two.mp4"], expected)


def test_a_worker_that_is_killed_costs_one_attempt(
    cluster: RayCluster, plan: Plan, narrow_weights: Path, expected: Path, tmp_path: Path
) -> None:
    load = with_fault(narrow_weights, long=f"once:{tmp_path / 'killed'}:SIGKILL")
    state, lines = drive(cluster, plan, load)
    assert (state.n_parts_done, state.n_parts_given_up) == (3, 0)
    assert lines == [f"part 0: {KILLED}; it is tried again"]
    check_merged(tmp_path / "RUN", expected)


def test_a_worker_that_is_stopped_is_killed_after_the_deadline(
    cluster: RayCluster, plan: Plan, narrow_weights: Path, expected: Path, tmp_path: Path
) -> None:
    load = with_fault(narrow_weights, long=f"once:{tmp_path / 'stopped'}:SIGSTOP")
    state, lines = drive(cluster, plan, load, deadline_seconds=12.0)
    assert state.n_parts_done == 3
    assert lines == ["part 0: made no progress for 12 s; it is tried again"]
    check_merged(tmp_path / "RUN", expected)


def test_a_video_that_ends_every_process_and_one_that_raises_are_given_up_alone(
    cluster: RayCluster, plan: Plan, narrow_weights: Path, expected: Path, tmp_path: Path
) -> None:
    load = with_fault(narrow_weights, long="SIGKILL", short="raise")
    state, lines = drive(cluster, plan, load, retries=1)
    assert (state.n_parts_done, state.counts.n_failed) == (3, 2)
    assert f"part 0: {KILLED}; it is tried video by video" in lines
    assert any("RuntimeError: injected; it is tried video by video" in line for line in lines)
    killed = "ended its process: SIGKILL (out of memory, or killed by hand); tried alone 2 times"
    raised = "RuntimeError: injected; tried alone 2 times"
    check_merged(tmp_path / "RUN", expected, {"long.mp4": killed, "b/short.mp4": raised})


def test_a_part_that_cannot_be_done_at_all_is_recorded_and_the_others_are_done(
    cluster: RayCluster, plan: Plan, narrow_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / plan.scratch_name(1)).write_text("a file in the place of the part's folder on scratch")
    state, _ = drive(cluster, plan, with_fault(narrow_weights), retries=1)
    assert (state.n_parts_done, state.n_parts_given_up) == (2, 1)
    (failed,) = read_failed(plan)
    assert (failed.number, failed.n_attempts) == (1, 2)


def test_a_lost_node_costs_one_attempt(
    nodes: Cluster, cluster: RayCluster, plan: Plan, narrow_weights: Path, expected: Path, tmp_path: Path
) -> None:
    load = with_fault(narrow_weights, long=f"once:{tmp_path / 'asleep'}:sleep")

    def lose() -> None:
        worker = wait_for(tmp_path / "asleep")
        raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        (node,) = [each for each in nodes.worker_nodes if raylet in pids_of(each)]
        nodes.remove_node(node, allow_graceful=False)

    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(lose)
        state, lines = drive(cluster, plan, load)
        lost.result()
    assert state.n_parts_done == 3
    assert "part 0: its node was lost; it is tried again" in lines
    check_merged(tmp_path / "RUN", expected)
    add_node(nodes)


def pids_of(node: Any) -> list[int]:
    return [each.process.pid for each in node.all_processes["raylet"]]


@pytest.mark.parametrize("n_committed", [0, 1])
def test_a_driver_that_is_killed_is_continued_by_the_same_command(
    nodes: Cluster, videos: Path, narrow_weights: Path, expected: Path, tmp_path: Path, n_committed: int
) -> None:
    folder = tmp_path / "RUN"
    line = command(videos, narrow_weights, folder, nodes.address)
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: len(finished(folder)) >= n_committed and (folder / "run.json").exists())
        driver.kill()
    before = {path: path.stat().st_mtime_ns for path in finished(folder)}
    assert len(before) >= n_committed
    again = subprocess.run(line, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was committed stays"
    check_merged(folder, expected)


def test_ctrl_c_leaves_what_is_committed_and_says_how_to_continue(
    nodes: Cluster, videos: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    for copy in range(20):  # enough that some are left
        shutil.copytree(videos, tmp_path / "videos" / str(copy))
    folder = tmp_path / "RUN"
    line = command(tmp_path / "videos", narrow_weights, folder, nodes.address)
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as driver:
        wait_until(lambda: len(finished(folder)) >= 1)
        driver.send_signal(signal.SIGINT)
        _, shown = driver.communicate()
    assert driver.returncode == 130
    assert "of 60 parts are done. The same command continues from here." in shown
    assert "Traceback" not in shown
    subprocess.run([*line, "--quiet"], check=True)
    assert len(finished(folder)) == 60


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def finished(folder: Path) -> list[Path]:
    return [path for path in (folder / "parts").glob("*.h5") if not path.name.endswith("clips.h5")]
