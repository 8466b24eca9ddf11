"""Resuming: what of earlier runs is kept, done again, or refused."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import store_samples as samples
from store_samples import (
    ROWS,
    SIZES,
    begin,
    datasets,
    identity,
    is_done,
    names,
    open_store,
    record,
    run_forked,
    said,
    start_writer,
    video_row,
    write,
)

from c3d_extract.errors import StoreError
from c3d_extract.files import is_temporary_name
from c3d_extract.output import FeatureFile, write_table

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_not_merged_but_done_again(output: Path, value: float) -> None:
    clips = output.with_name("clips.h5")
    write(output, [video_row(name) for name in "abc"], clips=clips)
    with h5py.File(output, "r+") as file:
        file["fc7"][0, 3] = value
    with h5py.File(clips, "r+") as file:
        file["fc6"][-1, 0] = value
    with open_store(output, identity(), clips=clips) as store:
        assert [is_done(store, video_row(name)) for name in "abc"] == [None, "ok", None]
        assert "the rows of 2 videos in feats.h5 have features that are not finite" in store.warnings[0]
        record(store, video_row("a"))
        store.finish(complete=True)
    with FeatureFile(output) as file, FeatureFile(clips) as clip_file:
        assert file.videos == ["a", "b"]
        assert set(clip_file.videos) == {"a", "b"}
        np.testing.assert_array_equal(file["fc7"][0], video_row("a").features["fc7"])


def test_a_file_is_rid_of_rows_that_are_not_finite_even_if_nothing_is_new(output: Path) -> None:
    write(output, [video_row("a"), video_row("b")])
    with h5py.File(output, "r+") as file:
        file["fc6"][0] = np.nan
    assert write(output, []).n_rows == 1


def test_temporary_files_of_others_are_not_touched(output: Path) -> None:
    for name in ("feats.h5.tmp", "feats.report.jsonl.tmp", f".c3d-extract-{'0' * 32}.tmp"):
        output.with_name(name).write_text("mine")
    target = output.with_name("thesis")
    target.write_text("mine")
    output.with_name("clips.h5.tmp").symlink_to(target)
    before = names(output.parent)
    write(output, ROWS, clips=output.with_name("clips.h5"), complete=False)
    write(output, ROWS, clips=output.with_name("clips.h5"))
    ours = ["clips.h5", "feats.h5", "feats.report.jsonl"]
    assert names(output.parent) == sorted([*before, *ours])
    assert {output.with_name(name).read_text() for name in before} == {"mine"}


def test_what_a_killed_run_was_writing_is_removed_by_the_next(output: Path) -> None:
    assert run_forked(output, 5, "die=before:4") == signal.SIGKILL
    (left,) = (name for name in names(output.parent) if name.endswith(".tmp"))
    assert is_temporary_name(left)
    stranger = output.with_name(f".c3d-extract-{'0' * 32}.tmp")
    stranger.write_text("mine")
    said(start_writer(output, 5))
    assert [name for name in names(output.parent) if name.endswith(".tmp")] == [stranger.name]


def test_a_clip_file_belongs_to_one_feature_file(tmp_path: Path) -> None:
    clips = tmp_path / "clips.h5"
    begin(tmp_path / "late.h5", [video_row("c")], clips=clips)
    write(tmp_path / "one.h5", [video_row("a")], clips=clips)
    with pytest.raises(StoreError, match=r"clips\.h5: belongs to another run"):  # begun before there was one
        open_store(tmp_path / "late.h5", identity(), clips=clips)
    write(tmp_path / "two.h5", [video_row("b")], clips=clips, overwrite=True)
    with pytest.raises(StoreError, match=r"clips\.h5: belongs to another run"):
        open_store(tmp_path / "one.h5", identity(), clips=clips)
    write(tmp_path / "two.h5", [video_row("c")], clips=clips)


def test_a_clip_file_that_says_nothing_of_its_run_is_nobodys(output: Path) -> None:
    clips = output.with_name("clips.h5")
    write_table(clips, kind="clips", layers=SIZES, rows=[], attributes={})
    with h5py.File(clips, "r+") as file:
        del file.attrs["content_sha256"]
    with pytest.raises(StoreError, match=r"clips\.h5: belongs to another run"):
        open_store(output, identity(), clips=clips)
