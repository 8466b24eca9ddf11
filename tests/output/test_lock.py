"""One writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from store_samples import (
    ROWS,
    begin,
    datasets,
    identity,
    names,
    open_store,
    record,
    said,
    start_writer,
    video_row,
    write,
)

from c3d_extract.errors import LockedError, StoreError
from c3d_extract.output.lock import locked_connection, partial_path


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
    writers = [start_writer(output, 0, "hold=1", "wait=1", stdin=subprocess.PIPE) for _ in range(5)]
    assert [writer.stdout and writer.stdout.readline() for writer in writers] == ["ready\n"] * 5
    for writer in writers:
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
    answers = [writer.stdout.readline().split(":")[0].strip() for writer in writers if writer.stdout]
    for writer in writers:
        writer.communicate()
    assert sorted(answers) == ["LockedError"] * 4 + ["open"]


def test_who_only_tried_to_lock_at_the_same_time_does_not_keep_the_first_from_it(output: Path) -> None:
    journal = partial_path(output)
    other = sqlite3.connect(journal, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN")
    other.execute("SELECT * FROM t").fetchall()  # a shared lock, which every attempt holds for a moment
    gives_up = threading.Timer(0.1, other.close)
    gives_up.start()
    locked_connection(journal, locks=True).close()
    gives_up.join()


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


def test_a_journal_is_not_taken_for_the_lock_of_a_clip_file(tmp_path: Path) -> None:
    begin(tmp_path / "clips.h5", [video_row("a")])
    with pytest.raises(StoreError, match=r"clips\.h5\.partial: is the journal of an unfinished run"):
        open_store(tmp_path / "feats.h5", identity(), clips=tmp_path / "clips.h5")
    assert names(tmp_path) == ["clips.h5.partial"]


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
            advice = "do not start a second run on the same files"
            assert store.warnings[0].endswith(f"cannot lock files: {advice}")
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
