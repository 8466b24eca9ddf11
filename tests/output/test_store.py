"""A run's files, whatever happened to the runs before: killed, interrupted, out of space."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import store_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import (
    NAMES,
    ROWS,
    begin,
    datasets,
    half_done_runs,
    identity,
    is_done,
    names,
    open_store,
    preview_store,
    record,
    run_forked,
    said,
    start_writer,
    video_row,
    write,
)

from c3d_extract.errors import LockedError, StoreError
from c3d_extract.output import RunStore, load_basis, read_report

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.output import Status, VideoRow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run of 25 videos that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert said(start_writer(folder / "feats.h5", 25))[-1] == "finished"
    return folder


def assert_same_datasets(folder: Path, other: Path) -> None:
    for name in ("feats.h5", "clips.h5"):
        assert datasets(folder / name) == datasets(other / name), name
    assert load_basis(folder / "feats.pca.h5").sha256 == load_basis(other / "feats.pca.h5").sha256
    assert [line["video"] for line in read_report(folder / "feats.report.jsonl")] == [
        line["video"] for line in read_report(other / "feats.report.jsonl")
    ]


@pytest.mark.parametrize("name", ["nul\0byte", "half \ud800"])
def test_names_that_cannot_be_stored_are_refused(output: Path, name: str) -> None:
    with open_store(output, identity()) as store, pytest.raises(StoreError, match="name"):
        store.commit(replace(video_row("a"), video=name))


def test_features_of_a_wrong_shape_are_refused(output: Path) -> None:
    with open_store(output, identity()) as store, pytest.raises(ValueError, match="fc6"):
        store.commit(video_row("a", sizes={"fc6": 11, "fc7": 5}))


session = st.tuples(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["ok", "partial", "failed"]), st.integers(0, 2)),
        max_size=5,
    ),
    st.sampled_from(["kill", "interrupt", "finish"]),
    st.booleans(),
)


@settings(max_examples=7, deadline=None)
@given(sessions=st.lists(session, min_size=1, max_size=4))
def test_whatever_the_history_the_last_word_on_each_video_is_in_the_files(
    sessions: list[tuple[list[tuple[str, Status, int]], str, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("history") / "feats.h5"
    clips = output.with_name("clips.h5")
    last: dict[str, VideoRow] = {}
    for videos, end, begun in [*sessions, ([], "finish", False)]:
        with open_store(output, identity(), clips=clips) as store:
            for row in last.values():
                assert is_done(store, row) == row.status
            for name, status, version in videos:
                last[name] = video_row(name, status, version)
                record(store, last[name])
            if begun:  # a video that is cut off in the middle leaves no trace
                store.append_clips(NAMES[0], samples.clip_rows(video_row(NAMES[0], version=9)))
            if end != "kill":
                store.finish(complete=end == "finish")
    plain = output.with_name("plain.h5")
    write(plain, last.values(), clips=plain.with_name("plain_clips.h5"))
    assert datasets(output) == datasets(plain)
    assert datasets(clips) == datasets(plain.with_name("plain_clips.h5"))
    report, expected = (path.with_name(f"{path.stem}.report.jsonl").read_text() for path in (output, plain))
    assert report == expected


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(12)), cuts=st.sets(st.integers(0, 11)), interrupt=st.booleans())
def test_order_and_interruptions_do_not_change_a_byte_of_a_projected_file(
    order: list[int], cuts: set[int], interrupt: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("order")
    rows = samples.sample_rows(12)
    write(folder / "plain.h5", rows, pca=4, l2=True)
    store = open_store(folder / "feats.h5", identity(), pca=4, l2=True)
    for i in order:
        if i in cuts:
            if interrupt:
                store.finish(complete=False)
            store.close()
            store = open_store(folder / "feats.h5", identity(), pca=4, l2=True)
        record(store, rows[i])
    store.finish(complete=True)
    assert datasets(folder / "feats.h5") == datasets(folder / "plain.h5")
    assert load_basis(folder / "feats.pca.h5").sha256 == load_basis(folder / "plain.pca.h5").sha256


def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(tmp_path: Path, uninterrupted: Path) -> None:
    rng = random.Random(4)
    lines: list[str] = []
    for _ in range(6):
        writer = start_writer(tmp_path / "feats.h5", 25, "pause=0.02")
        assert writer.stdout is not None
        heard = [writer.stdout.readline().strip()]
        time.sleep(rng.uniform(0, 0.25))
        writer.kill()
        lines += heard + said(writer)
    lines += said(start_writer(tmp_path / "feats.h5", 25))
    assert lines[-1] == "finished"
    assert lines.count("open") == 7
    finished: set[str] = set()
    for word, _, video in (line.partition(" ") for line in lines):
        assert not (word == "do" and video in finished), f"{video} was done twice"
        finished |= {video} if word == "done" else set()
    assert_same_datasets(tmp_path, uninterrupted)
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("n_files", [1, 2, 3, 4])  # report, basis, clips, features
def test_killed_around_each_rename_a_run_ends_as_if_undisturbed(
    tmp_path: Path, uninterrupted: Path, when: str, n_files: int
) -> None:
    assert run_forked(tmp_path / "feats.h5", 25, f"die={when}:{n_files}") == signal.SIGKILL
    if (tmp_path / "feats.h5").exists():
        assert (when, n_files) == ("after", 4)
        assert_same_datasets(tmp_path, uninterrupted)
    with open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / "clips.h5", pca=4, l2=True) as store:
        assert all(is_done(store, row) == row.status for row in samples.sample_rows(25))
        store.finish(complete=True)
    assert_same_datasets(tmp_path, uninterrupted)
    assert not list(tmp_path.glob("*.partial*"))
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("limit", ["journal", "finish"])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, uninterrupted: Path, limit: str
) -> None:
    lines = said(start_writer(tmp_path / "feats.h5", 25, f"limit={limit}"))
    assert lines[-1].startswith("StoreError: ")
    assert "free space and run again" in lines[-1]
    assert "safe in" in lines[-1]
    assert not (tmp_path / "feats.h5").exists()
    assert not list(tmp_path.glob("*.tmp"))
    done_before = {line for line in lines if line.startswith("done ")}
    again = said(start_writer(tmp_path / "feats.h5", 25))
    assert again[-1] == "finished"
    assert done_before
    assert not done_before & set(again)
    assert_same_datasets(tmp_path, uninterrupted)


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return half_done_runs(tmp_path_factory.mktemp("journals"))


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
    }


def test_a_preview_says_what_is_known_of_each_video_and_changes_nothing(output: Path) -> None:
    write(output, [video_row("done"), video_row("bad", "failed"), video_row("old")])
    begin(output, [video_row("journaled"), video_row("bad too", "failed")])
    changed = video_row("old", version=1)
    before = contents(output.parent)
    rows = [video_row(name) for name in ("done", "bad", "bad too", "journaled", "new")] + [changed]
    with preview_store(output, identity()) as store:
        states = [store.state(row.video, row.size_bytes, row.mtime_ns) for row in rows]
        assert states == ["done", "failed", "failed", "journaled", "new", "changed"]
    assert contents(output.parent) == before


def test_a_preview_sees_what_a_killed_run_finished(half_done: dict[str, Path]) -> None:
    folder = half_done["killed"]
    before = names(folder)
    with preview_store(folder / "feats.h5", identity(), clips=folder / "clips.h5") as store:
        assert [is_done(store, row) for row in ROWS] == ["ok", "ok", "partial", None, None]
    assert names(folder) == before


def test_a_preview_refuses_what_a_run_refuses(output: Path, tmp_path: Path) -> None:
    write(output, [video_row("a")])
    begin(tmp_path / "late.h5", [video_row("a")])
    for path in (output, tmp_path / "late.h5"):
        with pytest.raises(StoreError, match="stride: 16 → 8"):
            preview_store(path, identity(stride=8))
        preview_store(path, None).close()
        with preview_store(path, identity(stride=8), overwrite=True) as store:
            assert is_done(store, video_row("a")) is None
    (tmp_path / "none").mkdir()
    preview_store(tmp_path / "none" / "sub" / "feats.h5", identity(), clips=tmp_path / "none/c.h5").close()
    assert names(tmp_path / "none") == []


def test_a_preview_during_a_run_does_not_break_its_lock(output: Path) -> None:
    clips = output.with_name("clips.h5")
    with open_store(output, identity(), pca=4, l2=True, clips=clips):
        with pytest.raises(LockedError):
            preview_store(output, identity())
        assert said(start_writer(output, 0))[0].startswith("LockedError")
    preview_store(output, identity()).close()


# Opening


@pytest.mark.parametrize("broken", ["_earlier_versions", "_remove_temporary_files", "_begin"])
def test_an_output_that_could_not_be_opened_is_not_left_locked(
    output: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise StoreError("cannot be read")

    clips = output.with_name("clips.h5")
    begin(output, [video_row("a")], clips=clips)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, broken, fail)
        with pytest.raises(StoreError, match="cannot be read") as caught:  # keeps the store alive
            open_store(output, identity(), clips=clips)
    with open_store(output, identity(), clips=clips) as store:
        assert is_done(store, video_row("a")) == "ok"
    assert caught.value.reason == "cannot be read"


@pytest.mark.parametrize("complete", [True, False])
def test_a_resumed_run_knows_the_versions_that_it_was_begun_with(output: Path, complete: bool) -> None:
    write(output, [video_row("a")], complete=complete)
    newer = replace(identity(), versions={"c3d-extract": "9"})
    with open_store(output, newer) as store:
        assert store.versions_before == identity().versions
    with open_store(output, newer, overwrite=True) as store:
        assert store.versions_before == {}
