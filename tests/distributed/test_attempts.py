"""A part that fails: tried again, done video by video in a process of its own, and at last given up."""

from __future__ import annotations

import json
import multiprocessing
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import MEAN

from c3d_extract import Extractor, FeatureFile
from c3d_extract.cli.extract import command as extract
from c3d_extract.cli.info import command as info
from c3d_extract.distributed import attempts as attempts_module
from c3d_extract.distributed import by_video as by_video_module
from c3d_extract.distributed.attempts import attempt_part
from c3d_extract.distributed.by_video import PartGivenUpError, run_by_video
from c3d_extract.distributed.failed import read_failed, write_failed
from c3d_extract.distributed.part import PartResult, run_part
from c3d_extract.distributed.plan import Plan, plan_run
from c3d_extract.errors import LockedError, MismatchError, StoreError, UsageError
from c3d_extract.output import read_report
from c3d_extract.settings import ExtractSettings
from c3d_extract.sources.find import find_videos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

N_VIDEOS = 6
PATIENCE_SECONDS = 60.0  # a process that is silent for longer hangs, however busy this machine is


@pytest.fixture(scope="module")
def extractor(narrow_weights: Path) -> Iterator[Extractor]:
    with faults.load(str(narrow_weights)) as made:
        yield made


@pytest.fixture
def plan(extractor: Extractor, videos: Path, tmp_path: Path) -> Plan:
    """A run of one part."""
    return plan_run(tmp_path / "RUN", find_videos([videos]).videos, extractor.identity())


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def expected(extractor: Extractor, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature file of a run on one machine."""
    path = tmp_path_factory.mktemp("expected") / "feats.h5"
    list(extractor.extract_files([videos], path))
    return path


def check_part(plan: Plan, expected: Path, failed: dict[str, str] | None = None) -> None:
    """Check that part 0 has every video's features to the bit, but for the failed ones, and why they are."""
    failed = failed or {}
    with FeatureFile(plan.folder.address(plan.output(0))) as part, FeatureFile(expected) as whole:
        assert part.videos == [name for name in whole.videos if name not in failed]
        rows = [i for i, name in enumerate(whole.videos) if name not in failed]
        np.testing.assert_array_equal(part["fc6"], whole["fc6"][rows])
    lines = read_report(Path(plan.folder.address(plan.report(0))))
    assert len(lines) == N_VIDEOS
    assert {line["video"]: line["error"] for line in lines if line["status"] == "failed"} == failed


def raising(n_times: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the first attempts raise; return a list that grows with every attempt."""
    tried: list[int] = []

    def attempt(*arguments: Any, **options: Any) -> PartResult:
        tried.append(1)
        if len(tried) <= n_times:
            raise error
        return run_part(*arguments, **options)

    monkeypatch.setattr(attempts_module, "run_part", attempt)
    return tried


def unused() -> Extractor:
    raise AssertionError("no process is needed")


def test_a_part_that_raises_is_tried_again(
    plan: Plan,
    extractor: Extractor,
    scratch: Path,
    expected: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = raising(2, OSError("the network disk is gone for a moment"), monkeypatch)
    result = attempt_part(extractor, unused, plan, 0, scratch=scratch)
    assert (len(tried), result.n_videos, result.given_up) == (3, N_VIDEOS, None)
    assert (
        caplog.messages == ["part 0: OSError: the network disk is gone for a moment; it is tried again"] * 2
    )
    check_part(plan, expected)
    assert not list(scratch.iterdir()), "scratch is left clean"
    assert attempt_part(extractor, unused, plan, 0, scratch=scratch).was_done


@pytest.mark.parametrize(
    "error",
    [LockedError("used"), MismatchError("differs", differences=["a"]), UsageError("no"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_what_another_attempt_would_not_change_is_raised_at_once_and_not_counted(
    plan: Plan, extractor: Extractor, scratch: Path, expected: Path, error: BaseException
) -> None:
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            tried = raising(1, error, patch)
            with pytest.raises(type(error)):
                attempt_part(extractor, unused, plan, 0, scratch=scratch, retries=1)
        assert len(tried) == 1
    attempt_part(extractor, unused, plan, 0, scratch=scratch, retries=1)
    check_part(plan, expected)


def attempt_in_a_process(load: Callable[[], Extractor], plan: Plan, scratch: Path) -> int | None:
    """Attempt part 0 in another process, without its attempt video by video; return its exit code."""
    process = multiprocessing.get_context("spawn").Process(target=attempt_once, args=(load, plan, scratch))
    process.start()
    process.join()
    return process.exitcode


def attempt_once(load: Callable[[], Extractor], plan: Plan, scratch: Path) -> None:
    with load() as extractor:
        attempt_part(extractor, load, plan, 0, scratch=scratch, retries=2)


def test_a_video_that_ends_every_process_is_given_up_alone(
    plan: Plan, narrow_weights: Path, extractor: Extractor, scratch: Path, expected: Path
) -> None:
    load = partial(faults.load, str(narrow_weights), {"b/one.mp4": "SIGKILL"})
    for _ in range(2):
        assert attempt_in_a_process(load, plan, scratch) == -signal.SIGKILL
    counts: list[int] = []
    # An attempt in this process would end it: the count of the two that were killed forbids that.
    result = attempt_part(
        extractor, load, plan, 0, scratch=scratch, retries=2, progress=lambda now: counts.append(now.n_clips)
    )
    assert result == PartResult(0, was_done=False, n_videos=N_VIDEOS, n_failed=1)
    reason = "ended its process: SIGKILL (out of memory, or killed by hand); tried alone 2 times"
    check_part(plan, expected, {"b/one.mp4": reason})
    assert counts[-1] > 0
    assert not list(scratch.iterdir()), "scratch is left clean"


def test_a_video_that_stops_its_process_once_is_read_by_the_next(
    plan: Plan, narrow_weights: Path, scratch: Path, expected: Path, tmp_path: Path
) -> None:
    fault = {"b/short.mp4": f"once:{tmp_path / 'stopped'}:SIGSTOP"}
    load = partial(faults.load, str(narrow_weights), fault)
    run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=10)
    assert (tmp_path / "stopped").exists()
    check_part(plan, expected)


def test_a_video_that_raises_is_given_up_with_its_error(
    plan: Plan, narrow_weights: Path, scratch: Path, expected: Path
) -> None:
    load = partial(faults.load, str(narrow_weights), {"long.mp4": "raise"})
    run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=PATIENCE_SECONDS)
    check_part(plan, expected, {"long.mp4": "RuntimeError: injected; tried alone 2 times"})


def test_a_video_that_ended_its_process_and_the_watcher_is_known_to_the_next_run(
    plan: Plan, narrow_weights: Path, scratch: Path, expected: Path
) -> None:
    folder = scratch / plan.scratch_name(0)
    folder.mkdir()
    load = partial(faults.load, str(narrow_weights))
    for _ in range(2):
        by_video_module._Notes(folder).begin("mid.mp4")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(by_video_module._Run, "result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=PATIENCE_SECONDS)
    run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=PATIENCE_SECONDS)
    check_part(
        plan, expected, {"mid.mp4": "ended its process and the one that started it; tried alone 2 times"}
    )


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_part_whose_process_never_starts_is_given_up_and_the_run_goes_on(
    plan: Plan, extractor: Extractor, scratch: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(2, RuntimeError("no"), monkeypatch)
    load = partial(faults.load, "", {"*": "SIGKILL"})
    result = attempt_part(extractor, load, plan, 0, scratch=scratch, retries=2)
    killed = "ended its process: SIGKILL (out of memory, or killed by hand)"
    assert result.given_up == killed
    (failed,) = read_failed(plan)
    assert (failed.number, failed.n_attempts) == (0, 5)
    assert failed.reasons == ("RuntimeError: no", "RuntimeError: no", killed, killed, killed)
    assert failed.host
    assert not plan.is_done(0)
    assert not list(scratch.iterdir()), "the next run begins it anew"
    attempt_part(extractor, unused, plan, 0, scratch=scratch)
    check_part(plan, expected)
    assert read_failed(plan) == [], "a part that was done since is not failed"


def test_where_video_after_video_is_given_up_the_videos_are_not_the_cause(
    plan: Plan, narrow_weights: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_video_module, "_MOST_IN_A_ROW", 2)
    load = partial(faults.load, str(narrow_weights), dict.fromkeys(["a/one.mp4", "a/two.mp4"], "raise"))
    with pytest.raises(PartGivenUpError, match="RuntimeError: injected"):
        run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=PATIENCE_SECONDS)


def test_errors_of_every_part_come_back_from_the_process(
    plan: Plan, narrow_weights: Path, scratch: Path
) -> None:
    load = partial(faults.load, str(narrow_weights), batch_size=2)
    with pytest.raises(MismatchError, match=r"batches of 4 → .* batches of 2"):
        run_by_video(load, plan, 0, scratch=scratch, deadline_seconds=PATIENCE_SECONDS)


def test_a_record_that_cannot_be_read_is_named(plan: Plan) -> None:
    write_failed(plan, 0, ["no"])
    plan.folder.write("failed/000000.json", b"{}")
    with pytest.raises(StoreError, match=r"000000\.json: cannot be read"):
        read_failed(plan)


def test_videos_are_read_in_turn_and_refused_ones_not_at_all(
    extractor: Extractor, videos: Path, expected: Path, tmp_path: Path
) -> None:
    names: list[str | None] = []
    outcomes = list(
        extractor.extract_files(
            [videos], tmp_path / "feats.h5", refused={"mid.mp4": "no"}, at_video=names.append
        )
    )
    assert [(each.video, each.error) for each in outcomes if each.status == "failed"] == [("mid.mp4", "no")]
    with FeatureFile(tmp_path / "feats.h5") as file, FeatureFile(expected) as whole:
        rows = [i for i, name in enumerate(whole.videos) if name != "mid.mp4"]
        assert names == [*(whole.videos[i] for i in rows), None]
        np.testing.assert_array_equal(file["fc6"], whole["fc6"][rows])


def test_on_the_command_line_a_part_that_is_given_up_leaves_the_others_and_exit_code_3(
    videos: Path, narrow_weights: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **options: object) -> PartResult:
        raise PartGivenUpError(["the disk is gone"])

    tried = raising(4, RuntimeError("no"), monkeypatch)
    monkeypatch.setattr(attempts_module, "run_by_video", fail)
    arguments = [
        videos, "-o", tmp_path / "RUN", "--shard", "0/1", "--part-size", 3, "--retries", 4,
        "--scratch", scratch, "--weights", narrow_weights, "--mean", MEAN, "--device", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(extract, list(map(str, arguments)))
    assert result.exit_code == 3, result.output
    assert "part 0: given up: the disk is gone" in result.stderr
    assert "part 1: 3 videos" in result.stderr
    assert len(tried) == 5
    reasons = json.loads((tmp_path / "RUN" / "failed" / "000000.json").read_text())["reasons"]
    assert reasons == ["RuntimeError: no"] * 4 + ["the disk is gone"]
    shown = CliRunner().invoke(info, [str(tmp_path / "RUN")])
    assert "given up: 0\tthe disk is gone" in shown.stdout


@pytest.mark.parametrize("arguments", [["--retries", "0", "--shard", "0/1"], ["--retries", "2"]])
def test_retries_are_of_parts_and_at_least_one(arguments: list[str]) -> None:
    result = CliRunner().invoke(extract, arguments)
    assert result.exit_code == 2
    assert "--retries" in result.stderr


def test_settings_are_those_of_the_plan(plan: Plan, narrow_weights: Path, scratch: Path) -> None:
    with Extractor.from_weights(
        narrow_weights, ExtractSettings(stride=8), mean=MEAN, device="cpu", workers=1
    ) as other:
        with pytest.raises(MismatchError, match="stride: 16 → 8"):
            attempt_part(other, unused, plan, 0, scratch=scratch)
        with pytest.raises(UsageError, match="--retries: must be at least 1"):
            attempt_part(other, unused, plan, 0, scratch=scratch, retries=0)
