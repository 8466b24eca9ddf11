"""``c3d-extract`` as a user calls it: the card's calls, exit codes, and one clear line for each wrong use."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS, MEAN

from c3d_extract.cli.extract import command
from c3d_extract.cli.extract_options import _read_list
from c3d_extract.errors import UsageError
from c3d_extract.output import RunStore

if TYPE_CHECKING:
    from pathlib import Path


class Call(Protocol):
    def __call__(self, *words: object, weights: str | None = None) -> Result: ...


@pytest.fixture
def run(narrow_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command in an empty folder, with the narrow checkpoint unless told otherwise."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object, weights: str | None = None) -> Result:
        chosen = ["--weights", weights or str(narrow_weights), "--mean", MEAN, "--device", "cpu"]
        return CliRunner().invoke(command, [*chosen, *map(str, words)], catch_exceptions=False)

    return call


def last_line(result: Result) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_the_cards_first_call(run: Call, videos: Path, tmp_path: Path) -> None:
    result = run(videos, "-o", "feats.h5")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "6 videos: 6 done" in last_line(result)
    with h5py.File("feats.h5") as file:
        assert file["fc6"][:].shape == (6, 256)
        assert file["video"].asstr()[:].tolist() == sorted(LENGTHS)
        lengths = {len(file[name]) for name in file}
        dtypes = {name: file[name].dtype for name in file if name != "video"}
    assert lengths == {6}
    counts = dict.fromkeys(("n_clips", "n_frames", "n_padded_frames", "n_decode_errors"), np.dtype("i8"))
    keys = dict.fromkeys(("size_bytes", "mtime_ns"), np.dtype("i8"))
    times = dict.fromkeys(("fps", "duration_seconds"), np.dtype("f8"))
    sizes = dict.fromkeys(("width", "height"), np.dtype("i4"))
    assert dtypes == {"fc6": np.dtype("f4"), **counts, **keys, **times, **sizes}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["feats.h5", "feats.report.jsonl"]


def test_the_cards_second_call_takes_the_current_folder(run: Call, videos: Path, tmp_path: Path) -> None:
    for copy in range(2):
        shutil.copytree(videos, tmp_path / f"copy{copy}")
    result = run("--layer", "fc6", "--pca", 10)
    assert result.exit_code == 0, result.output
    with h5py.File("feats.h5") as file:
        assert file["fc6"].shape == (12, 10)
        assert file["video"].asstr()[0] == "copy0/a/one.mp4"
    assert (tmp_path / "feats.pca.h5").exists()
    again = run("--layer", "fc6", "--pca", 10)
    assert again.exit_code == 0
    assert "12 skipped" in last_line(again)
    assert "passed over" not in last_line(again), "its own files are no news"


def test_a_failed_video_exits_with_3_and_has_its_line_in_the_report(
    run: Call, videos: Path, tmp_path: Path
) -> None:
    shutil.copytree(videos / "a", tmp_path / "in")
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    (tmp_path / "in" / "notes.txt").write_text("not meant")
    result = run("in", "-o", "out/feats.h5", "--json")
    assert result.exit_code == 3
    assert "failed: bad.mp4: not a readable video" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["failed"] == [{"video": "bad.mp4", "error": summary["failed"][0]["error"]}]
    lines = [json.loads(line) for line in (tmp_path / "out" / "feats.report.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines if not line["video"].endswith(".txt")] == ["failed", "ok", "ok"]
    assert [line["status"] for line in lines if line["video"].endswith(".txt")] == ["skipped"]
    # What failed is remembered, and tried again only when asked, or when the file has changed.
    assert "3 skipped" in last_line(run("in", "-o", "out/feats.h5"))
    assert "2 skipped" in last_line(run("in", "-o", "out/feats.h5", "--retry-failed"))
    shutil.copy(videos / "a" / "one.mp4", tmp_path / "in" / "bad.mp4")
    mended = run("in", "-o", "out/feats.h5")
    assert mended.exit_code == 0
    assert "(3 rows)" in last_line(mended)
    assert "1 of them again, as their files changed" in last_line(mended)


def test_nothing_usable_exits_with_1(run: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    result = run("bad.mp4")
    assert result.exit_code == 1
    assert last_line(result).startswith("Error: none of the 1 videos could be read")


def test_strict_counts_a_damaged_video_as_failed(run: Call, videos: Path, tmp_path: Path) -> None:
    data = bytearray((videos / "long.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "hole.mp4").write_bytes(data)
    lenient = run("hole.mp4", "-o", "lenient.h5")
    assert lenient.exit_code == 0
    assert "partial: hole.mp4" in lenient.stderr
    assert run("hole.mp4", "-o", "strict.h5", "--strict").exit_code == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 2, "Error: nowhere: no such file or folder"),
        (["*.mp4"], 2, "Error: *.mp4: no file matches this pattern"),
        (["."], 2, "Error: no videos found"),
        (["--from-file", "gone.txt"], 2, "Error: --from-file gone.txt: cannot be read"),
        (["VIDEOS", "--layer", "fc9"], 2, "unknown layer of c3d; known: conv5b, pool5, fc6, fc7, fc8, prob"),
        (["VIDEOS", "--stride", "0"], 2, "Error: --stride: must be at least 1, not 0"),
        (["VIDEOS", "--pca", "50"], 1, "Error: --pca 50: needs at least 50 videos, and there are 6"),
        (["VIDEOS", "--pca", "3", "--pca-from", "x.h5"], 2, "Error: --pca: fits a basis"),
        (["VIDEOS", "--pca-from", "gone.h5"], 1, "gone.h5"),
        (["VIDEOS", "--device", "cuda"], 1, "Error: --device cuda: no CUDA device is usable here"),
        (["VIDEOS", "--precision", "fp16"], 1, "Error: --precision fp16: only on a GPU"),
        (["VIDEOS", "--fps", "-1"], 2, "Error: --fps: must be above 0"),
        (["VIDEOS", "-o", "VIDEOS"], 1, "is a folder"),
        (["VIDEOS", "-o", "/proc/feats.h5"], 1, "Error: /proc"),
        (["VIDEOS", "--clips", "feats.h5"], 2, "--clips needs a file of its own"),
        (["VIDEOS", "--mean", "1,2"], 1, "Error:"),
    ],
)
def test_wrong_use_gets_one_line_and_leaves_nothing(
    run: Call, videos: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    result = run(*(str(videos) if word == "VIDEOS" else word for word in words))
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert says in errors[0]
    assert not list(tmp_path.iterdir())


def test_other_settings_on_the_same_output_are_named(run: Call, videos: Path, tmp_path: Path) -> None:
    assert run(videos / "a").exit_code == 0
    before = (tmp_path / "feats.h5").read_bytes()
    result = run(videos / "a", "--stride", 8, "--l2")
    assert result.exit_code == 1
    assert "stride: 16 → 8" in last_line(result)
    assert "l2: false → true" in last_line(result)
    assert (tmp_path / "feats.h5").read_bytes() == before
    assert run(videos / "a", "--stride", 8, "--overwrite").exit_code == 0


def test_a_file_that_is_not_ours_is_never_replaced(run: Call, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.h5").write_text("years of work")
    result = run(videos, "-o", "thesis.h5", "--overwrite")
    assert result.exit_code == 1
    assert "not a file of c3d-extract" in last_line(result)
    assert (tmp_path / "thesis.h5").read_text() == "years of work"


def test_a_checkpoint_that_does_not_fit_is_refused_with_what_is_missing(
    run: Call, videos: Path, narrow_weights: Path, tmp_path: Path
) -> None:
    import torch

    state = torch.load(narrow_weights, weights_only=True)
    del state["conv3b.bias"]
    torch.save(state, tmp_path / "missing.pickle")
    assert "conv3b.bias" in last_line(run(videos, weights="missing.pickle"))
    state = torch.load(narrow_weights, weights_only=True)
    state["fc6.weight"] = state["fc6.weight"][:, :-1]
    torch.save(state, tmp_path / "shape.pickle")
    assert "fc6" in last_line(run(videos, weights="shape.pickle"))


def test_weights_that_are_not_here_say_what_to_fetch_and_how_to_go_on(
    run: Call, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    result = run(videos, weights="sports1m")
    assert result.exit_code == 1
    assert "conv3d_deepnetA_sport1m_iter_1900000" in last_line(result)
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in last_line(result)
    assert "motion-mini" in last_line(result)


def test_lists_of_paths_fail_one_by_one(run: Call, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{videos}/mid.mp4\n\n{videos}/gone.mp4\r\n")
    result = run("--from-file", "list.txt")
    assert result.exit_code == 3
    assert "failed: gone.mp4: no such file" in result.stderr


def test_a_line_that_can_be_no_path_costs_itself_alone(run: Call, videos: Path, tmp_path: Path) -> None:
    too_long = b"x" * 10_000_000
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf%s/mid.mp4\na\0b.mp4\n%s\n" % (bytes(videos), too_long))
    result = run("--from-file", "list.txt")
    assert result.exit_code == 3
    report = [json.loads(line) for line in (tmp_path / "feats.report.jsonl").read_text().splitlines()]
    assert {line["video"]: line["status"] for line in report} == {
        "a\\x00b.mp4": "failed",
        "mid.mp4": "ok",
        too_long.decode(): "failed",
    }
    assert max(map(len, result.stderr.splitlines())) < 5000, "a terminal gets the beginning of such a name"


def test_a_list_from_a_closed_stdin_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="--from-file -: stdin is closed"):
        _read_list("-")


def test_a_dry_run_lists_and_writes_nothing(run: Call, videos: Path, tmp_path: Path) -> None:
    result = run(videos, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == sorted(LENGTHS)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_a_run_would_do_with_each_video(run: Call, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos / "a", tmp_path / "in")
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    assert run("in").exit_code == 3
    shutil.copy(videos / "mid.mp4", tmp_path / "in" / "new.mp4")
    shutil.copy(videos / "mid.mp4", tmp_path / "in" / "two.mp4")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("feats.*")}
    result = run("in", "--dry-run", "-v")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["new.mp4", "two.mp4\tchanged"]
    assert "skipped: one.mp4: done" in result.stderr
    assert "Would extract fc6 of 2 of 4 videos" in result.stderr
    assert "To do: 1 new, 1 changed since they were done\n" in result.stderr
    assert "Skipped: 1 failed before, 1 done\n" in result.stderr
    retry = run("in", "--dry-run", "--retry-failed", "--json")
    states = {entry["video"]: entry["state"] for entry in json.loads(retry.stdout)["todo"]}
    assert states == {"bad.mp4": "failed", "new.mp4": "new", "two.mp4": "changed"}
    assert json.loads(retry.stdout)["counts"]["done"] == 1
    other = run("in", "--dry-run", "--stride", 8)
    assert other.exit_code == 1
    assert "stride: 16 → 8" in last_line(other)
    assert run("in", "--dry-run", "--pca", 50, "-o", "x.h5").exit_code == 1
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("feats.*")}


def test_a_dry_run_without_weights_says_what_it_could_not_compare(
    run: Call, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(videos / "a").exit_code == 0
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    result = run(videos / "a", "--dry-run", weights="sports1m")
    assert result.exit_code == 0
    assert "earlier runs are taken to have had the same settings" in result.stderr
    assert "Skipped: 2 done" in last_line(result)
    assert not (tmp_path / "torch").exists()


def test_two_runs_of_one_command_write_the_same_bytes(run: Call, videos: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        words = ["-o", f"{name}/feats.h5", "--clips", f"{name}/clips.h5", "--pca", 3, "--l2"]
        assert run(videos, *words).exit_code == 0
    for file in ("feats.h5", "clips.h5", "feats.pca.h5"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_damaged_row_of_an_unfinished_run_is_said_and_done_again(
    run: Call, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "finish", stop)
        assert run(videos).exit_code == 130
    with sqlite3.connect("feats.h5.partial") as journal:
        journal.execute("UPDATE videos SET features = zeroblob(1024) WHERE video = 'mid.mp4'")
    journal.close()
    result = run(videos, "--json")
    assert result.exit_code == 0
    says = "the rows of 1 videos in feats.h5.partial are damaged: those videos are processed again"
    assert f"Warning: {says}" in result.stderr
    assert says in json.loads(result.stdout)["warnings"]
    assert "6 videos: 1 done, 5 skipped" in last_line(result)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("option", ["-o", "--clips"])
def test_an_output_that_is_a_fifo_is_refused_at_once(
    run: Call, videos: Path, tmp_path: Path, option: str
) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    for more in ([], ["--dry-run"]):
        result = run(videos, option, "pipe.h5", *more, weights="not looked at")
        assert result.exit_code == 1
        assert last_line(result) == "Error: pipe.h5: is a FIFO; move it away, or name another file"


def test_a_file_from_the_far_future_is_done_and_then_skipped(run: Call, videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "mid.mp4", tmp_path / "late.mp4")
    os.utime(tmp_path / "late.mp4", (10**10, 10**10))  # the year 2286
    if (tmp_path / "late.mp4").stat().st_mtime_ns < 2**63:
        pytest.skip("this file system holds no such time")
    assert run("late.mp4").exit_code == 0
    assert "1 skipped as finished before" in last_line(run("late.mp4"))
    with h5py.File("feats.h5") as file:
        assert file["mtime_ns"][:].tolist() == [2**63 - 1]


def test_quiet_says_nothing_and_verbose_says_where_the_time_went(run: Call, videos: Path) -> None:
    assert run(videos, "-q", "-o", "q.h5").output == ""
    loud = run(videos, "-v", "-o", "v.h5")
    assert "ok: long.mp4: 100 frames, 6 clips" in loud.stderr
    where = loud.stderr[loud.stderr.index("Time: ") :].splitlines()
    stages = ["network", "decoders", "hand-over", "storing"]
    assert [line.split()[0] for line in where[1:]] == stages
    assert max(map(len, where)) <= 80
