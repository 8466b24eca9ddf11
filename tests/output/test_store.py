"""The store: nothing is lost, nothing is half-written, nothing of others is touched."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import store_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from store_samples import (
    SIZES,
    datasets,
    identity,
    is_done,
    open_store,
    record,
    said,
    start_writer,
    video_row,
    write,
)

from c3d_extract.errors import LockedError, MismatchError, PcaError, StoreError, UsageError
from c3d_extract.output import FeatureFile, RunIdentity, load_basis, read_report, write_table
from c3d_extract.output.pca_basis import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from c3d_extract.output import Status, VideoRow

NAMES = ["b", "a/ü b.avi", "line\nbreak", "a", "Z", "日本/🎬.mp4"]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "feats.h5"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a run of 60 videos that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert said(start_writer(folder / "feats.h5", 60))[-1] == "finished"
    return folder


def assert_same_datasets(folder: Path, other: Path) -> None:
    for name in ("feats.h5", "clips.h5"):
        assert datasets(folder / name) == datasets(other / name), name
    assert load_basis(folder / "feats.pca.h5").sha256 == load_basis(other / "feats.pca.h5").sha256
    assert [line["video"] for line in read_report(folder / "feats.report.jsonl")] == [
        line["video"] for line in read_report(other / "feats.report.jsonl")
    ]


# The files


def test_feature_file_is_a_row_table_as_designed(output: Path) -> None:
    summary = write(output, [video_row(name) for name in NAMES] + [video_row("bad", "failed")])
    assert (summary.n_rows, summary.n_ok, summary.n_failed) == (6, 6, 1)
    assert summary.written[-1] == output
    types = {"fps": "f8", "duration_seconds": "f8", "width": "i4", "height": "i4", "fc6": "f4", "fc7": "f4"}
    types |= dict.fromkeys(("n_clips", "n_frames", "n_padded_frames", "n_decode_errors"), "i8")
    types |= dict.fromkeys(("size_bytes", "mtime_ns"), "i8")
    with h5py.File(output) as file:
        assert {name: data.dtype.str[1:] for name, data in file.items() if name != "video"} == types
        assert {len(data) for data in file.values()} == {6}
        assert h5py.check_string_dtype(file["video"].dtype) == ("utf-8", None)
        assert file["video"].asstr()[:].tolist() == sorted(NAMES)
        expected = np.stack([video_row(name).features["fc6"] for name in sorted(NAMES)])
        np.testing.assert_array_equal(file["fc6"][:], expected)
        assert np.isnan(file["duration_seconds"][:]).all()
        assert json.loads(file.attrs["settings"])["stride"] == 16
        assert file.attrs["format"] == "c3d-extract"
        assert file.attrs["format_version"] == 1
        assert bool(file.attrs["complete"]) is True


def test_reader_gives_arrays_names_and_attributes(output: Path) -> None:
    write(output, [video_row(name) for name in NAMES])
    with FeatureFile(output) as file:
        assert (len(file), file.videos, file.layers, file.kind) == (
            6,
            sorted(NAMES),
            ["fc6", "fc7"],
            "features",
        )
        assert file["fc7"].shape == (6, 5)
        assert file["fc7"].dtype == np.float32
        assert file.column("n_frames").tolist() == [100] * 6
        assert file.attributes["weights"]["weights_sha256"] == "00ff"
        np.testing.assert_array_equal(np.concatenate(list(file.blocks("fc6"))), file["fc6"])
        with pytest.raises(StoreError, match="has no fc8, only"):
            file["fc8"]


def test_clip_file_holds_raw_clips_in_order(output: Path) -> None:
    clips = output.with_name("clips.h5")
    write(output, [video_row(name) for name in NAMES], clips=clips, l2=True)
    expected = [(name, 16 * i) for name in sorted(NAMES) for i in range(video_row(name).n_clips)]
    with FeatureFile(clips) as file:
        assert file.kind == "clips"
        assert list(zip(file.videos, file.column("start_frame").tolist(), strict=True)) == expected
        np.testing.assert_array_equal(file["fc6"][0], video_row("Z").features["fc6"])
        assert file.column("end_frame").dtype == np.int64
        assert file.column("end_seconds")[0] == 0.64


def test_hugging_face_loads_every_row(output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load_dataset = pytest.importorskip("datasets").load_dataset
    clips = output.with_name("clips.h5")
    write(output, [video_row(name) for name in NAMES], clips=clips)
    table = load_dataset("hdf5", data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["video"][:] == sorted(NAMES)
    np.testing.assert_array_equal(np.float32(table[1]["fc6"]), video_row(sorted(NAMES)[1]).features["fc6"])
    table = load_dataset("hdf5", data_files=str(clips), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(table) == sum(video_row(name).n_clips for name in NAMES)


def test_report_has_a_line_a_video_sorted(output: Path) -> None:
    with open_store(output, identity()) as store:
        for row in (video_row("z"), video_row("b", "failed"), video_row("c", "partial")):
            record(store, row)
        store.finish(complete=True, skipped=[("notes.txt", "not a video"), ("a", "twice")])
    lines = read_report(output.with_name("feats.report.jsonl"))
    assert [(line["video"], line["status"]) for line in lines] == [
        ("a", "skipped"),
        ("b", "failed"),
        ("c", "partial"),
        ("notes.txt", "skipped"),
        ("z", "ok"),
    ]
    assert lines[1]["error"] == "decoder crashed: SIGSEGV"
    assert lines[4] == {
        "video": "z",
        "status": "ok",
        "error": None,
        "n_clips": video_row("z").n_clips,
        "n_frames": 100,
        "n_padded_frames": 3,
        "n_decode_errors": 0,
        "seconds": 0.25,
        "size_bytes": 1000,
        "mtime_ns": 1_700_000_000_000_000_000,
    }


def test_messages_may_quote_names_that_are_no_text(output: Path) -> None:
    with open_store(output, identity()) as store:
        store.commit(replace(video_row("a", "failed"), error="cannot open half \udcff"))
        store.finish(complete=True, skipped=[("half \udcfe", "not a video")])
    lines = read_report(output.with_name("feats.report.jsonl"))
    assert lines[0]["error"] == r"cannot open half \udcff"
    assert lines[1]["video"] == "half \udcfe"


def test_numbers_of_numpy_are_numbers_in_the_file(output: Path) -> None:
    row = replace(video_row("a"), n_frames=np.int64(7), fps=np.float64(12.5), width=np.int32(4))  # type: ignore[arg-type]
    write(output, [row])
    with FeatureFile(output) as file:
        assert [file.column(name)[0] for name in ("n_frames", "fps", "width")] == [7, 12.5, 4]


def test_a_run_in_which_all_videos_fail_leaves_an_empty_table(output: Path) -> None:
    assert write(output, [video_row("a", "failed")]).n_rows == 0
    with FeatureFile(output) as file:
        assert file["fc6"].shape == (0, 12)
        assert file.videos == []


@pytest.mark.parametrize("name", ["nul\0byte", "half \ud800"])
def test_names_that_cannot_be_stored_are_refused(output: Path, name: str) -> None:
    with open_store(output, identity()) as store, pytest.raises(StoreError, match="name"):
        store.commit(replace(video_row("a"), video=name))


def test_features_of_a_wrong_shape_are_refused(output: Path) -> None:
    with open_store(output, identity()) as store, pytest.raises(ValueError, match="fc6"):
        store.commit(video_row("a", sizes={"fc6": 11, "fc7": 5}))


# Resume

FINAL = "finish"
session = st.tuples(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["ok", "partial", "failed"]), st.integers(0, 2)),
        max_size=5,
    ),
    st.sampled_from(["kill", "interrupt", "finish"]),
    st.booleans(),
)


@settings(max_examples=10, deadline=None)
@given(sessions=st.lists(session, min_size=1, max_size=5))
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
        writer = start_writer(tmp_path / "feats.h5", 60, "pause=0.01")
        assert writer.stdout is not None
        heard = [writer.stdout.readline().strip()]
        time.sleep(rng.uniform(0, 0.25))
        writer.kill()
        lines += heard + said(writer)
    lines += said(start_writer(tmp_path / "feats.h5", 60))
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
    assert said(start_writer(tmp_path / "feats.h5", 60, f"die={when}:{n_files}"))[-1] != "finished"
    if (tmp_path / "feats.h5").exists():
        assert (when, n_files) == ("after", 4)
        assert_same_datasets(tmp_path, uninterrupted)
    with open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / "clips.h5", pca=4, l2=True) as store:
        assert all(is_done(store, row) == row.status for row in samples.sample_rows(60))
        store.finish(complete=True)
    assert_same_datasets(tmp_path, uninterrupted)
    assert not list(tmp_path.glob("*.partial*"))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_finished_file_is_extended_and_its_rows_stay(output: Path) -> None:
    rows = samples.sample_rows(10)
    write(output, rows[:6])
    before = output.read_bytes()
    with open_store(output, identity()) as store:
        assert [is_done(store, row) for row in rows] == [
            "ok",
            "ok",
            "partial",
            "ok",
            "failed",
            "ok",
            *[None] * 4,
        ]
        for row in rows[6:]:
            record(store, row)
        assert output.read_bytes() == before  # untouched until the end
        assert store.finish(complete=True).n_rows == 8
    write(output.with_name("plain.h5"), rows)
    assert datasets(output) == datasets(output.with_name("plain.h5"))


def test_tables_of_several_blocks_are_merged_whole(output: Path) -> None:
    clips = output.with_name("clips.h5")
    rows = [video_row(f"{i:04d}") for i in range(700)]  # blocks hold 256
    write(output, rows[::2], clips=clips)
    write(output, [*rows[1::2], video_row("0300", "failed", version=1)], clips=clips)
    kept = [row for row in rows if row.video != "0300"]
    with FeatureFile(output) as file, FeatureFile(clips) as clip_file:
        assert file.videos == [row.video for row in kept]
        np.testing.assert_array_equal(file["fc6"], np.stack([row.features["fc6"] for row in kept]))
        assert clip_file.videos == [row.video for row in kept for _ in range(row.n_clips)]
        expected = np.concatenate([samples.clip_rows(row).features["fc7"] for row in kept])
        np.testing.assert_array_equal(clip_file["fc7"], expected)


def test_when_nothing_is_new_the_files_stay_as_they_are(output: Path) -> None:
    write(output, [video_row("a")])
    before = output.stat()
    summary = write(output, [])
    assert output.stat() == before
    assert summary.n_rows == 1
    assert output not in summary.written


def test_a_changed_file_is_done_again_and_its_old_row_gives_way(output: Path) -> None:
    clips = output.with_name("clips.h5")
    write(output, [video_row("a"), video_row("b")], clips=clips)
    changed = video_row("a", version=1)
    with open_store(output, identity(), clips=clips) as store:
        assert is_done(store, changed) is None
        record(store, changed)
        store.finish(complete=True)
    with FeatureFile(output) as file, FeatureFile(clips) as clip_file:
        np.testing.assert_array_equal(file["fc6"][0], changed.features["fc6"])
        assert clip_file.videos.count("a") == changed.n_clips
    write(output, [video_row("a", "failed", version=2)], clips=clips)
    with FeatureFile(output) as file, FeatureFile(clips) as clip_file:
        assert file.videos == ["b"]
        assert set(clip_file.videos) == {"b"}


def test_failed_videos_are_remembered_until_asked_for_again(output: Path) -> None:
    bad = video_row("bad", "failed")
    write(output, [video_row("a"), bad])
    with open_store(output, identity()) as store:
        assert is_done(store, bad) == "failed"
        assert is_done(store, video_row("bad", "failed", version=1)) is None
    with open_store(output, identity(), retry_failed=True) as store:
        assert is_done(store, bad) is None
        assert is_done(store, video_row("a")) == "ok"
        record(store, video_row("bad"))
        store.finish(complete=True)
    with FeatureFile(output) as file:
        assert file.videos == ["a", "bad"]


@pytest.mark.parametrize("report", [None, "", "{ no json", '{"video": "bad"}\n', "[1]\n", b"\xff\xfe"])
def test_without_a_sound_report_failed_videos_are_tried_again(
    output: Path, report: str | bytes | None
) -> None:
    bad = video_row("bad", "failed")
    write(output, [video_row("a"), bad])
    path = output.with_name("feats.report.jsonl")
    path.unlink()
    if report is not None:
        path.write_bytes(report if isinstance(report, bytes) else report.encode())
    with open_store(output, identity()) as store:
        assert is_done(store, bad) is None
        assert is_done(store, video_row("a")) == "ok"
        record(store, video_row("c"))
        store.finish(complete=True)
    assert [line["video"] for line in read_report(path)] == ["a", "c"]


def test_a_damaged_report_is_one_clear_line(output: Path) -> None:
    path = output.with_name("feats.report.jsonl")
    path.write_text("{")
    with pytest.raises(StoreError, match="the report cannot be read"):
        read_report(path)


def test_only_the_clips_of_the_attempt_that_counted_stay(output: Path) -> None:
    clips = output.with_name("clips.h5")
    row = video_row("a")
    with open_store(output, identity(), clips=clips) as store:
        store.append_clips("a", samples.clip_rows(video_row("a", version=5)))  # the worker died here
        record(store, row)
        store.append_clips("b", samples.clip_rows(video_row("b")))
        store.commit(video_row("b", "failed"))
        store.append_clips("c", samples.clip_rows(video_row("c")))  # never committed
        store.commit(replace(video_row("d"), n_clips=0))
        store.finish(complete=True)
    with FeatureFile(clips) as file:
        assert file.videos == ["a"] * row.n_clips
        np.testing.assert_array_equal(file["fc6"][0], row.features["fc6"])


def test_an_interruption_before_any_video_leaves_nothing_behind(output: Path) -> None:
    with open_store(output, identity()) as store:
        assert store.finish(complete=False).message == "no video was finished"
    assert [path.name for path in output.parent.iterdir()] == ["feats.report.jsonl"]


def test_an_interrupted_run_says_so_in_the_file(output: Path) -> None:
    write(output, [video_row("a")], complete=False)
    with FeatureFile(output) as file:
        assert file.attributes["complete"] is False
    assert output.with_name("feats.h5.partial").exists()
    write(output, [])
    with FeatureFile(output) as file:
        assert file.attributes["complete"] is True
        assert file.videos == ["a"]


def test_the_rows_of_a_file_whose_journal_is_lost_are_kept(output: Path) -> None:
    write(output, [video_row("a")], complete=False)
    output.with_name("feats.h5.partial").unlink()
    assert write(output, [video_row("b")]).n_rows == 2


def test_a_feature_file_that_was_deleted_is_made_again(output: Path) -> None:
    write(output, [video_row("a")])
    write(output, [video_row("b")], complete=False)
    output.unlink()
    with open_store(output, identity()) as store:
        assert is_done(store, video_row("a")) is None
        assert is_done(store, video_row("b")) == "ok"


# Overwrite


def test_overwrite_keeps_the_old_file_until_the_new_one_is_whole(output: Path) -> None:
    write(output, [video_row("old")])
    before = datasets(output)
    with open_store(output, identity(stride=8), overwrite=True) as store:
        assert is_done(store, video_row("old")) is None
        record(store, video_row("new"))
        assert datasets(output) == before
    with open_store(output, identity(stride=8)) as store:  # resumed after a kill, without --overwrite
        assert is_done(store, video_row("old")) is None
        assert is_done(store, video_row("new")) == "ok"
        store.finish(complete=True)
    with FeatureFile(output) as file:
        assert file.videos == ["new"]


def test_an_overwrite_killed_before_its_first_video_is_still_one(output: Path) -> None:
    write(output, [video_row("old")])
    open_store(output, identity(), overwrite=True).close()
    with open_store(output, identity()) as store:
        assert is_done(store, video_row("old")) is None


def test_overwrite_forgets_the_journal(output: Path) -> None:
    write(output, [video_row("old")], complete=False)
    with open_store(output, identity(), overwrite=True) as store:
        assert is_done(store, video_row("old")) is None


# What is refused


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_and_named(output: Path, complete: bool) -> None:
    write(output, [video_row("a")], complete=complete)
    others = identity(stride=8, tail="pad", extra=1)
    other = replace(others, weights=others.weights | {"weights_sha256": "11"})
    with pytest.raises(MismatchError, match="--overwrite") as caught:
        open_store(output, other)
    assert caught.value.differences == [
        "stride: 16 → 8",
        "tail: drop → pad",
        "extra: none → 1",
        "weights weights_sha256: 00ff → 11",
    ]
    open_store(output, replace(identity(), versions={"c3d-extract": "9"})).close()  # only informs


def test_a_run_that_moved_to_a_machine_of_another_precision_is_told_how_to_go_on(output: Path) -> None:
    write(output, [video_row("a")], complete=False, identity=identity(precision="bf16"))
    with pytest.raises(MismatchError, match=r"precision: bf16 → fp32.*go on with --precision bf16"):
        open_store(output, identity(precision="fp32"))


@pytest.mark.parametrize("option", [{"l2": True}, {"pca": 1}, {"clips": Path("clips.h5")}])
def test_what_the_store_itself_makes_different_is_compared_too(output: Path, option: dict[str, Any]) -> None:
    write(output, [video_row("a")])
    if "clips" in option:
        option = {"clips": output.with_name("clips.h5")}
    with pytest.raises(MismatchError, match=next(iter(option))):
        open_store(output, identity(), **option)
    assert not output.with_name("feats.h5.partial").exists()


def test_layers_of_other_sizes_are_a_difference() -> None:
    other = replace(identity(), layer_sizes={"fc6": 12, "fc7": 6})
    assert identity().differences(other) == ["size of fc7: 5 → 6"]
    assert identity().differences(identity()) == []


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("which", ["feats.h5", "clips.h5", "feats.pca.h5"])
@pytest.mark.parametrize("content", ["text", "hdf5", "other kind", "empty"])
def test_files_of_others_are_never_replaced(output: Path, which: str, content: str, overwrite: bool) -> None:
    victim = output.with_name(which)
    if content == "text":
        victim.write_text("my thesis")
    elif content == "empty":
        victim.touch()
    elif content == "hdf5":
        with h5py.File(victim, "w") as file:
            file["fc6"] = np.zeros(3)
    else:
        kind = "clips" if which == "feats.h5" else "features"
        write_table(victim, kind=kind, layers=SIZES, rows=[], attributes={})  # type: ignore[arg-type]
    before = victim.read_bytes()
    with pytest.raises(StoreError, match=which):
        open_store(output, identity(), clips=output.with_name("clips.h5"), pca=2, overwrite=overwrite)
    assert victim.read_bytes() == before
    assert [path.name for path in output.parent.iterdir()] == [which]


def test_a_clip_file_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    clips = tmp_path / "clips.h5"
    write(tmp_path / "one.h5", [video_row("a")], clips=clips)
    with pytest.raises(StoreError, match="belongs to another run"):
        open_store(tmp_path / "two.h5", identity(), clips=clips)
    write(tmp_path / "two.h5", [video_row("b")], clips=clips, overwrite=True)


def test_extending_without_the_clip_file_is_refused(output: Path) -> None:
    clips = output.with_name("clips.h5")
    write(output, [video_row("a")], clips=clips)
    clips.unlink()
    with pytest.raises(StoreError, match=r"clips\.h5: the clips of the videos done earlier are missing"):
        open_store(output, identity(), clips=clips)


def test_paths_that_cannot_work_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a folder"):
        open_store(tmp_path / "folder", identity())
    with pytest.raises(StoreError, match="the folder cannot be written"):
        open_store(tmp_path / "file" / "feats.h5", identity())
    for clips in ("feats.h5", "folder/../feats.h5", "feats.h5.partial", "feats.pca.h5", "feats.report.jsonl"):
        with pytest.raises(UsageError, match="--clips needs a file of its own"):
            open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / clips)
    write(tmp_path / "new" / "sub" / "feats.h5", [video_row("a")])  # missing folders are made
    assert (tmp_path / "new" / "sub" / "feats.h5").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="the folder cannot be written"):
        open_store(tmp_path / "feats.h5", identity())


@pytest.mark.parametrize(
    "content", [b"this is no database, but long enough to be looked at" * 20, b"SQLite format 3\0"]
)
def test_a_damaged_journal_is_one_clear_line(output: Path, content: bytes) -> None:
    journal = output.with_name("feats.h5.partial")
    journal.write_bytes(content)
    with pytest.raises(StoreError, match=r"feats\.h5\.partial.*move it away"):
        open_store(output, identity())
    assert journal.read_bytes() == content


def test_somebody_elses_database_is_no_journal(output: Path) -> None:
    journal = output.with_name("feats.h5.partial")
    with sqlite3.connect(journal) as database:
        database.execute("CREATE TABLE diary (day)")
    database.close()
    with pytest.raises(StoreError, match="is not a journal of this version"):
        open_store(output, identity(), overwrite=True)


@pytest.mark.parametrize("content", [None, b"text", b"\x89HDF\r\n\x1a\n"])
def test_reading_what_is_no_feature_file_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read as a feature file") as caught:
        FeatureFile(path)
    assert "\n" not in str(caught.value)


# One writer


def test_a_second_process_is_refused_and_a_killed_one_lets_go(output: Path) -> None:
    holder = start_writer(output, 0, "hold=1", stdin=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    for overwrite in (False, True):
        with pytest.raises(LockedError, match=r"feats\.h5: another run is writing this output"):
            open_store(output, identity(), overwrite=overwrite)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    open_store(output, identity(), clips=output.with_name("clips.h5"), pca=4, l2=True).close()


def test_of_many_that_start_at_once_one_gets_the_output(output: Path) -> None:
    moment = time.time() + 3
    writers = [start_writer(output, 0, "hold=1", f"at={moment}", stdin=subprocess.PIPE) for _ in range(5)]
    answers = []
    for writer in writers:
        assert writer.stdout is not None
        answers.append(writer.stdout.readline().split(":")[0].strip())
    for writer in writers:
        writer.communicate()
    assert sorted(answers) == ["LockedError"] * 4 + ["open"]


def test_the_same_process_is_refused_too_and_does_not_break_the_lock(output: Path) -> None:
    with open_store(output, identity(), pca=4, l2=True, clips=output.with_name("clips.h5")):
        with pytest.raises(LockedError):
            open_store(output, identity())
        assert said(start_writer(output, 0))[0].startswith("LockedError")


def test_a_journal_deleted_by_its_owner_meanwhile_is_not_taken_for_a_lock(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, calls = sqlite3.connect, []

    def connect_late(path: Path, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(path, **options)
        calls.append(path)
        if len(calls) == 1:
            Path(path).unlink()  # as its owner does when it has finished
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_late)
    with open_store(output, identity()) as store:
        assert len(calls) == 2
        record(store, video_row("a"))
        monkeypatch.undo()
        with pytest.raises(LockedError):
            open_store(output, identity())
        store.finish(complete=True)
    assert datasets(output)["video"][0] == ["a"]


def test_a_symbolic_link_leads_to_the_same_lock(output: Path) -> None:
    link = output.with_name("link.h5")
    link.symlink_to(output)
    with open_store(output, identity()), pytest.raises(LockedError):
        open_store(link, identity())


# Full disks


@pytest.mark.parametrize("limit", ["journal", "finish"])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    tmp_path: Path, uninterrupted: Path, limit: str
) -> None:
    lines = said(start_writer(tmp_path / "feats.h5", 60, f"limit={limit}"))
    assert lines[-1].startswith("StoreError: ")
    assert "free space and run again" in lines[-1]
    assert "safe in" in lines[-1]
    assert not (tmp_path / "feats.h5").exists()
    assert not list(tmp_path.glob("*.tmp"))
    done_before = {line for line in lines if line.startswith("done ")}
    again = said(start_writer(tmp_path / "feats.h5", 60))
    assert again[-1] == "finished"
    assert done_before
    assert not done_before & set(again)
    assert_same_datasets(tmp_path, uninterrupted)


def test_an_error_while_the_table_is_written_leaves_the_old_one(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(output, [video_row("a")])
    before = output.read_bytes()
    with open_store(output, identity()) as store:
        record(store, video_row("b"))
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Dataset, "resize", broken_resize)
            with pytest.raises(StoreError, match=r"feats\.h5: the disk is full; finished videos are safe"):
                store.finish(complete=True)
        assert output.read_bytes() == before
        assert not list(output.parent.glob("*.tmp"))
        assert store.finish(complete=True).n_rows == 2  # the store is still good


def broken_resize(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


# PCA


def plain_matrix(rows: list[VideoRow], layer: str) -> np.ndarray[Any, Any]:
    X = np.stack([row.features[layer] for row in sorted(rows, key=lambda row: row.video) if row.features])
    return X.astype(np.float64)


def test_projection_in_the_file_is_that_of_scikit_learn_on_normalised_averages(output: Path) -> None:
    rows = samples.sample_rows(20)
    write(output, rows, pca=4, l2=True)
    for layer in SIZES:
        X = plain_matrix(rows, layer)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        expected = PCA(4, svd_solver="full").fit_transform(X)
        with FeatureFile(output) as file:
            signs = np.sign((file[layer] * expected).sum(axis=0))
            np.testing.assert_allclose(file[layer] * signs, expected, atol=1e-4)  # the project's bar; float32


def test_ten_videos_give_ten_components(output: Path) -> None:
    summary = write(output, [video_row(f"{i}") for i in range(10)], identity=wide(), pca=10)
    assert summary.n_rows == 10
    with FeatureFile(output) as file:
        assert file["fc6"].shape == (10, 10)
        assert file.attributes["pca_basis"] == "feats.pca.h5"
        assert file.attributes["pca_sha256"] == load_basis(output.with_name("feats.pca.h5")).sha256


def wide() -> RunIdentity:
    return replace(identity(), layer_sizes={"fc6": 12})


def test_a_file_that_is_extended_keeps_its_basis_and_its_rows(output: Path) -> None:
    rows = [video_row(f"{i:02d}") for i in range(14)]
    write(output, rows[::2], pca=3)
    basis = output.with_name("feats.pca.h5")
    with FeatureFile(output) as file:
        before, old_basis = dict(zip(file.videos, file["fc6"], strict=True)), basis.read_bytes()
    write(output, rows[1::4], pca=3, complete=False)
    write(output, rows[3::4], pca=3)
    assert basis.read_bytes() == old_basis
    with FeatureFile(output) as file:
        after = dict(zip(file.videos, file["fc6"], strict=True))
    assert len(after) == 14
    loaded = load_basis(basis)
    for row in rows:
        expected = before.get(row.video, loaded.layers["fc6"].apply(row.features["fc6"][None])[0])
        np.testing.assert_array_equal(after[row.video], expected)


def test_extending_needs_the_very_basis(output: Path, tmp_path: Path) -> None:
    write(output, [video_row(f"{i}") for i in range(5)], pca=3)
    other = tmp_path / "other.h5"
    write(other, [video_row(f"x{i}") for i in range(5)], pca=3)
    basis = output.with_name("feats.pca.h5")
    shutil.copy(tmp_path / "other.pca.h5", basis)
    with pytest.raises(StoreError, match=r"feats\.pca\.h5: is not the basis"):
        open_store(output, identity(), pca=3)
    basis.unlink()
    with pytest.raises(StoreError, match=r"feats\.pca\.h5: feats\.h5 can only be extended with its basis"):
        open_store(output, identity(), pca=3)


def test_too_few_videos_for_the_components(output: Path) -> None:
    summary = write(output, [video_row("a"), video_row("b", "failed")], pca=3, complete=False)
    assert summary.message is not None
    assert "1 succeeded so far" in summary.message
    assert not output.exists()
    with open_store(output, identity(), pca=3) as store:
        record(store, video_row("c"))
        with pytest.raises(PcaError, match="3 components need as many videos, 2 succeeded"):
            store.finish(complete=True)
    assert output.with_name("feats.h5.partial").exists()
    assert len(read_report(output.with_name("feats.report.jsonl"))) == 3
    assert write(output, [video_row("d")], pca=3).n_rows == 3


def test_more_components_than_dimensions_are_refused_before_any_work(output: Path) -> None:
    with pytest.raises(PcaError, match="--pca 6: fc7 has only 5 dimensions; ask for 1 to 5"):
        open_store(output, identity(), pca=6)
    assert not list(output.parent.iterdir())


def test_a_given_basis_projects_the_same_rows_in_any_number_of_runs(output: Path, tmp_path: Path) -> None:
    rows = samples.sample_rows(20)
    write(output, rows, pca=4, l2=True)
    basis = load_basis(output.with_name("feats.pca.h5"))
    again = tmp_path / "again.h5"
    for part in (rows[:3], rows[3:15], rows[15:]):
        write(again, part, basis=basis, l2=True)
    assert datasets(again) == datasets(output)
    with FeatureFile(again) as file:
        assert file.attributes["pca_basis"] == "feats.pca.h5"
    assert not (tmp_path / "again.pca.h5").exists()


def test_a_given_basis_must_fit_and_stay_the_same(output: Path) -> None:
    rows = [video_row(f"{i}") for i in range(8)]

    def averages(layer: str) -> Iterator[Any]:
        yield np.stack([row.features[layer] for row in rows])

    factories = {layer: lambda layer=layer: averages(layer) for layer in SIZES}
    provenance = {"weights": identity().weights, "settings": identity(l2=False).settings}
    three, two = (fit(factories, k, name="b.pca.h5", provenance=provenance) for k in (3, 2))
    write(output, rows, basis=three)
    with pytest.raises(MismatchError, match="pca_from_sha256"):
        open_store(output, identity(), basis=two)
    with pytest.raises(MismatchError, match="l2: false → true"):
        open_store(output, identity(), basis=three, l2=True)
    other = replace(identity(), weights=identity().weights | {"weights_sha256": "11"})
    with pytest.raises(MismatchError, match=r"weights: random \(sha256 00ff\) → random \(sha256 11\)"):
        open_store(output, other, basis=three)
    with pytest.raises(PcaError, match="no basis for layer fc8"):
        open_store(output, replace(identity(), layer_sizes={"fc8": 4}), basis=three)


def test_a_lost_journal_of_a_projected_run_means_all_is_done_again(output: Path) -> None:
    rows = [video_row(f"{i}") for i in range(6)]
    write(output, rows[:4], pca=3, complete=False)
    output.with_name("feats.h5.partial").unlink()
    with open_store(output, identity(), pca=3) as store:
        assert is_done(store, rows[0]) is None
        for row in rows:
            record(store, row)
        store.finish(complete=True)
    write(output.with_name("plain.h5"), rows, pca=3)
    assert datasets(output) == datasets(output.with_name("plain.h5"))
