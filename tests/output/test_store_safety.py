"""The store against damage and strangers: flipped bits, links, FIFOs, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import socket
import sqlite3
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import store_samples as samples
from store_samples import (
    SIZES,
    identity,
    is_done,
    open_store,
    preview_store,
    record,
    said,
    start_writer,
    video_row,
    write,
)

from c3d_extract.errors import LockedError, StoreError, UsageError
from c3d_extract.files import is_temporary_name, replacing
from c3d_extract.output import FeatureFile, OutputPaths, describe, read_report, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.output import VideoRow

ROWS = samples.sample_rows(5)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "feats.h5"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
    }


# A damaged journal


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a whole run, of one left after three of five videos, and of one killed there."""
    root = tmp_path_factory.mktemp("journals")
    folders = {name: root / name for name in ("whole", "left", "killed")}
    write(folders["whole"] / "feats.h5", ROWS, clips=folders["whole"] / "clips.h5")
    with open_store(folders["left"] / "feats.h5", identity(), clips=folders["left"] / "clips.h5") as store:
        for row in ROWS[:3]:
            record(store, row)
        shutil.copytree(folders["left"], folders["killed"])  # what kill -9 leaves
    return folders


def go_on(folder: Path) -> tuple[int, list[str]]:
    """Finish the run in a folder; return how many videos were done, and the warnings."""
    n = 0
    with open_store(folder / "feats.h5", identity(), clips=folder / "clips.h5") as store:
        for row in ROWS:
            if is_done(store, row) is None:
                record(store, row)
                n += 1
        store.finish(complete=True)
        return n, store.warnings


def try_damage(half_done: dict[str, Path], folder: Path, kind: str, file: str, data: bytes) -> int | None:
    """Go on with a damaged journal; return how many videos were done, None where it was refused."""
    shutil.copytree(half_done[kind], folder)
    (folder / file).write_bytes(data)
    refusal: StoreError | None = None
    try:
        n, warnings = go_on(folder)
    except StoreError as error:
        refusal = error
    if refusal is not None:
        assert "\n" not in str(refusal)
        assert "feats.h5.partial" in str(refusal)
        return None
    for name in ("feats.h5", "clips.h5"):
        assert (folder / name).read_bytes() == (half_done["whole"] / name).read_bytes()
    if n > 2 and len(data) == (half_done[kind] / file).stat().st_size and file.endswith(".partial"):
        assert "in feats.h5.partial are damaged: those videos are done again" in warnings[0]
    return n


class Hasty(sqlite3.Connection):
    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *values)


@pytest.mark.parametrize(
    ("kind", "file", "flips", "cuts"),
    [("left", "feats.h5.partial", 110, 28), ("killed", "feats.h5.partial-wal", 40, 12)],
)
def test_damage_to_a_journal_never_changes_the_files(
    half_done: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    file: str,
    flips: int,
    cuts: int,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # 190 runs, and no power fails in a test
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Hasty))
    rng = random.Random(3)
    sound = (half_done[kind] / file).read_bytes()
    ends = []
    for trial in range(flips + cuts):
        data = bytearray(sound)
        if trial < flips:
            at = rng.choice([i for i, byte in enumerate(sound) if byte])
            data[at] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(sound)) :]
        ends.append(try_damage(half_done, tmp_path / str(trial), kind, file, bytes(data)))
    assert set(ends) & {3, 4, 5}, "some damage means that videos are done again"
    assert kind == "killed" or {None, 2} < set(ends), "some is refused, and some hits what nobody reads"


def test_a_damaged_name_in_a_table_or_an_index_costs_at_most_its_own_video(
    half_done: dict[str, Path], tmp_path: Path
) -> None:
    sound = (half_done["left"] / "feats.h5.partial").read_bytes()
    name, at, ends = ROWS[1].video.encode(), -1, []
    while (at := sound.find(name, at + 1)) >= 0:
        data = sound[:at] + b"F" + sound[at + 1 :]
        ends.append(try_damage(half_done, tmp_path / str(at), "left", "feats.h5.partial", data))
    assert len(ends) > 3
    assert set(ends) == {2, 3}


def begin(output: Path, rows: list[VideoRow], **options: Any) -> None:
    """Commit rows and leave the run unfinished."""
    with open_store(output, identity(), **options) as store:
        for row in rows:
            record(store, row)


def change_journal(output: Path, *statements: str) -> None:
    connection = sqlite3.connect(output.with_name(f"{output.name}.partial"))
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE videos SET features = zeroblob(68) WHERE video = 'a'",
        "UPDATE videos SET n_frames = n_frames + 1 WHERE video = 'a'",
        "UPDATE videos SET status = 'partial' WHERE video = 'a'",
        "UPDATE videos SET fps = NULL WHERE video = 'a'",
        "UPDATE videos SET video = 'c' WHERE video = 'a'",
        "UPDATE clips SET features = zeroblob(68) WHERE video = 'a' AND start_frame = 0",
        "UPDATE clips SET start_frame = 99 WHERE video = 'a' AND start_frame = 0",
        "DELETE FROM clips WHERE video = 'a' AND start_frame = 0",
    ],
)
def test_a_row_that_was_changed_is_done_again_and_the_run_says_so(output: Path, statement: str) -> None:
    clips, rows = output.with_name("clips.h5"), [video_row("a"), video_row("b")]
    begin(output, rows, clips=clips)
    change_journal(output, statement)
    with open_store(output, identity(), clips=clips) as store:
        assert store.state("a", rows[0].size_bytes, rows[0].mtime_ns) == "new"
        assert is_done(store, rows[1]) == "ok"
        assert store.warnings == [
            "the rows of 1 videos in feats.h5.partial are damaged: those videos are done again"
        ]
        record(store, rows[0])
        store.finish(complete=True)
    write(output.with_name("plain.h5"), rows, clips=output.with_name("plain_clips.h5"))
    assert clips.read_bytes() == output.with_name("plain_clips.h5").read_bytes()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE meta SET value = 'true' WHERE key = 'extends'", "its entry extends does not agree"),
        ("UPDATE meta SET value = '{' WHERE key = 'identity'", "its entry identity does not agree"),
        ("DELETE FROM meta WHERE key = 'base'", "its entry base does not agree"),
        ("ALTER TABLE videos RENAME COLUMN width TO breadth", "its tables are not those"),
        ("DROP INDEX clips_by_video", "its tables are not those"),
    ],
)
def test_a_journal_whose_settings_are_damaged_is_one_line(output: Path, statement: str, says: str) -> None:
    begin(output, [video_row("a")])
    change_journal(output, statement)
    with pytest.raises(StoreError, match=says) as caught:
        open_store(output, identity())
    assert "move it away and run again" in str(caught.value)


def test_a_journal_of_an_older_version_is_refused_with_the_reason(output: Path) -> None:
    begin(output, [video_row("a")])
    change_journal(output, f"PRAGMA application_id = {0x43334431}")
    with pytest.raises(StoreError, match=r"feats\.h5\.partial: was begun by an older version"):
        open_store(output, identity())


# Features that are not finite


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
        assert "the rows of 2 videos in feats.h5 hold features that are not finite" in store.warnings[0]
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


def test_rows_of_the_journal_that_are_not_finite_are_done_again(output: Path) -> None:
    row = video_row("a")
    begin(output, [replace(row, features={**row.features, "fc7": np.full(5, np.inf, np.float32)})])
    with open_store(output, identity()) as store:
        assert is_done(store, row) is None
        assert "hold features that are not finite: those videos are done again" in store.warnings[0]


# Files of equal runs


def test_equal_runs_write_equal_bytes_in_whatever_order_and_however_often_interrupted(tmp_path: Path) -> None:
    rows = samples.sample_rows(12)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clips = tmp_path / name / "clips.h5"
        if name == "two":
            write(tmp_path / name / "feats.h5", rows[7:], clips=clips, pca=4, l2=True, complete=False)
            rows = rows[6::-1]
        write(tmp_path / name / "feats.h5", rows, clips=clips, pca=4, l2=True)
    for file in names(tmp_path / "one"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_file_that_was_extended_has_the_bytes_of_one_made_at_once(output: Path) -> None:
    write(output, ROWS[::2])
    write(output, ROWS[1::2])
    write(output.with_name("once.h5"), ROWS)
    assert output.read_bytes() == output.with_name("once.h5").read_bytes()


def test_the_digest_in_a_file_depends_on_its_rows_and_settings(tmp_path: Path) -> None:
    found = set()
    for i, (row, stride) in enumerate([("a", 16), ("b", 16), ("a", 8)]):
        write(tmp_path / f"{i}.h5", [video_row(row)], identity=identity(stride=stride))
        with FeatureFile(tmp_path / f"{i}.h5") as file:
            found.add(file.attributes["content_sha256"])
    assert len(found) == 3


# Names beside the output


def test_no_two_outputs_share_a_name() -> None:
    outputs = ["feats.h5", "feats.hdf5", "feats", "feats.partial", "feats.report", "feats.pca", "feats.H5"]
    every = [path.name for name in outputs for path in OutputPaths(Path(name)).every]
    assert len(set(every) - set(outputs)) == 3 * len(outputs) - 1  # the journal of feats is feats.partial
    assert OutputPaths(Path("feats.h5")).report == Path("feats.report.jsonl")
    assert OutputPaths(Path("feats.h5")).basis == Path("feats.pca.h5")
    assert OutputPaths(Path("feats.hdf5")).report == Path("feats.hdf5.report.jsonl")
    assert OutputPaths(Path("feats")).report == Path("feats-report.jsonl")


@pytest.mark.parametrize(("first", "second"), [("a.hdf5", "a.hdf5.h5"), ("a.hdf5.h5", "a.hdf5")])
@pytest.mark.parametrize("finished", [True, False])
def test_the_two_names_that_could_share_a_report_are_not_used_together(
    tmp_path: Path, first: str, second: str, finished: bool
) -> None:
    (write if finished else begin)(tmp_path / first, [video_row("a")])
    with pytest.raises(UsageError, match=rf"its report would be a\.hdf5\.report\.jsonl, .* of {first}"):
        open_store(tmp_path / second, identity())


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


# Files of others


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
    start_writer(output, 5, "die=before:4").communicate()
    (left,) = (name for name in names(output.parent) if name.endswith(".tmp"))
    assert is_temporary_name(left)
    stranger = output.with_name(f".c3d-extract-{'0' * 32}.tmp")
    stranger.write_text("mine")
    said(start_writer(output, 5))
    assert [name for name in names(output.parent) if name.endswith(".tmp")] == [stranger.name]


def test_a_new_file_is_opened_exclusively_and_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
    link, target = tmp_path / f".c3d-extract-{'0' * 32}.tmp", tmp_path / "target"
    link.symlink_to(target)
    with pytest.raises(FileExistsError), replacing(tmp_path / "x"):
        pass
    assert link.is_symlink()
    assert not target.exists()


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with replacing(tmp_path / "x") as file:
            file.write(b"content")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x").read_bytes() == b"content"


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(TypeError), replacing(tmp_path / "x") as file:
        file.writelines([b"new", None])  # type: ignore[list-item]
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("content", ["my notes", '{"video": "a", "status": "mine"}\n'])
def test_a_report_of_others_is_not_replaced_unless_asked(output: Path, content: str) -> None:
    report = output.with_name("feats.report.jsonl")
    report.write_text(content)
    with pytest.raises(
        StoreError, match=r"feats\.report\.jsonl: exists but is no report of ours.*--overwrite"
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


@pytest.mark.parametrize("ending", [".partial", ".partial-wal", ".partial-journal"])
def test_files_beside_the_journal_that_are_not_sqlites_are_refused(output: Path, ending: str) -> None:
    stranger = output.with_name(f"feats.h5{ending}")
    stranger.write_text("my thesis")
    with pytest.raises(StoreError, match=stranger.name):
        open_store(output, identity())
    assert stranger.read_text() == "my thesis"


# Not files


def a_link(path: Path) -> None:
    path.symlink_to(path.with_name("thesis"))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the length of its name is limited


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a symbolic link": a_link,
    "a socket": a_socket,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["feats.h5", "clips.h5", "feats.h5.partial", "feats.report.jsonl", "feats.pca.h5", "clips.h5.partial"],
)
def test_what_is_no_file_is_refused_at_once(output: Path, name: str, kind: str) -> None:
    if kind == "a symbolic link" and name in {"feats.h5", "clips.h5"}:
        pytest.skip("followed")
    path = output.with_name(name)
    KINDS[kind](path)
    for open_output in (open_store, preview_store):
        with pytest.raises(StoreError, match=f"{name}: is {kind}"):
            open_output(output, identity(), clips=output.with_name("clips.h5"), pca=2, overwrite=True)
    assert names(output.parent) == [name]


def test_a_device_and_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="/dev/null: is a device"):
        open_store(Path("/dev/null"), identity())
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StoreError, match="is a symbolic link"):
        open_store(tmp_path / "a", identity())
    with pytest.raises(StoreError, match="is a folder"):
        open_store(Path(), identity())


# The clip file


def test_two_runs_at_a_time_cannot_share_a_clip_file(tmp_path: Path) -> None:
    clips = tmp_path / "clips.h5"
    with open_store(tmp_path / "one.h5", identity(), clips=clips) as store:
        for overwrite in (False, True):
            with pytest.raises(LockedError, match=r"clips\.h5: another run is writing this output"):
                open_store(tmp_path / "two.h5", identity(), clips=clips, overwrite=overwrite)
        assert not (tmp_path / "two.h5.partial").exists()
        record(store, video_row("a"))
        store.finish(complete=True)
    assert names(tmp_path) == ["clips.h5", "one.h5", "one.report.jsonl"]


def test_the_lock_of_a_clip_file_goes_with_its_process(tmp_path: Path) -> None:
    holder = start_writer(tmp_path / "one.h5", 0, "hold=1", stdin=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(LockedError, match=r"clips\.h5"):
        open_store(tmp_path / "two.h5", identity(), clips=tmp_path / "clips.h5")
    holder.kill()
    holder.communicate()
    write(tmp_path / "two.h5", [video_row("a")], clips=tmp_path / "clips.h5")
    assert names(tmp_path) == [
        "clips.h5",
        "one.h5.partial",
        "one.h5.partial-wal",
        "two.h5",
        "two.report.jsonl",
    ]


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


def test_a_journal_is_not_taken_for_the_lock_of_a_clip_file(tmp_path: Path) -> None:
    begin(tmp_path / "clips.h5", [video_row("a")])
    with pytest.raises(StoreError, match=r"clips\.h5\.partial: is the journal of an unfinished run"):
        open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / "clips.h5")
    assert names(tmp_path) == ["clips.h5.partial"]


# File systems


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_files_cannot_be_locked_a_run_says_so_and_goes_on(
    output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    clips = output.with_name("clips.h5")
    for part in (ROWS[:2], ROWS[2:]):
        with open_store(output, identity(), clips=clips) as store:
            assert store.warnings[0].endswith("cannot lock files: start no second run on the same files")
            for row in part:
                record(store, row)
    assert write(output, [], clips=clips).n_rows == 4
    assert names(output.parent) == ["clips.h5", "feats.h5", "feats.report.jsonl"]


def test_other_errors_of_locks_are_told(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(StoreError, match=r"cannot be written \(Input/output error"):
        open_store(output, identity())


@pytest.mark.parametrize(
    ("code", "is_error"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EACCES, False), (errno.EIO, True)],
)
def test_a_folder_that_cannot_be_synced_is_no_failure(
    output: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_error: bool
) -> None:
    sync = os.fsync

    def sync_files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - pathlib calls os.fsync nowhere
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    if is_error:
        with pytest.raises(StoreError, match="Input/output error"):
            write(output, [video_row("a")])
    else:
        assert write(output, [video_row("a")]).n_rows == 1


# A look without a touch


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
