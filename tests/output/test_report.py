"""The report: a line a video, believed only where it was written with the file."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import h5py
import pytest
from store_samples import identity, is_done, names, open_store, record, video_row, write

from c3d_extract.errors import StoreError
from c3d_extract.output import describe, read_report

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_failure_of_one_output_is_not_believed_by_another(tmp_path: Path) -> None:
    bad = video_row("bad", "failed")
    write(tmp_path / "feats.h5", [video_row("a")])
    write(tmp_path / "feats.hdf5", [video_row("a"), bad])
    with open_store(tmp_path / "feats.h5", identity()) as store:
        assert is_done(store, bad) is None
    shutil.copy(tmp_path / "feats.hdf5.report.jsonl", tmp_path / "feats.report.jsonl")
    with open_store(tmp_path / "feats.h5", identity()) as store:
        assert is_done(store, bad) is None
        assert "feats.report.jsonl is not the report written with feats.h5" in store.warnings[0]
    assert describe(tmp_path / "feats.h5")["report"] is None
    assert describe(tmp_path / "feats.hdf5")["report"]["counts"]["failed"] == 1


def test_a_run_killed_after_its_report_still_knows_what_failed_before_it(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = video_row("bad", "failed")
    write(output, [video_row("a"), bad])
    with open_store(output, identity()) as store, monkeypatch.context() as patch:
        record(store, video_row("b"))
        patch.setattr("c3d_extract.output.assemble.write_table", broken)
        with pytest.raises(StoreError, match="killed"):
            store.finish(complete=True)
    with open_store(output, identity()) as store:
        assert store.warnings == []
        assert is_done(store, bad) == "failed"


def broken(*_: object, **__: object) -> None:
    raise StoreError("killed")


def test_a_report_is_not_believed_because_neither_it_nor_the_file_says_whose_it_is(output: Path) -> None:
    bad = video_row("bad", "failed")
    write(output, [video_row("a"), bad])
    with h5py.File(output, "r+") as file:
        del file.attrs["report_sha256"]
    with open_store(output, identity()) as store:
        assert is_done(store, bad) is None


@pytest.mark.parametrize("content", ["my notes", '{"video": "a", "status": "mine"}\n'])
def test_a_report_of_others_is_not_replaced_unless_asked(output: Path, content: str) -> None:
    report = output.with_name("feats.report.jsonl")
    report.write_text(content)
    with pytest.raises(
        StoreError, match=r"feats\.report\.jsonl: exists but is not a report of c3d-extract.*--overwrite"
    ):
        open_store(output, identity())
    assert report.read_text() == content
    assert names(output.parent) == ["feats.report.jsonl"]
    write(output, [video_row("a")], overwrite=True)
    assert [line["video"] for line in read_report(report)] == ["a"]


def test_the_report_of_an_output_that_was_deleted_is_replaced(output: Path) -> None:
    write(output, [video_row("a")])
    output.unlink()
    write(output, [video_row("b")])
    assert [line["video"] for line in read_report(output.with_name("feats.report.jsonl"))] == ["b"]
