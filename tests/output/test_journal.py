"""The journal against damage: what cannot be trusted is done again, or refused in one line."""

from __future__ import annotations

import random
import shutil
import sqlite3
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from store_samples import ROWS, begin, half_done_runs, identity, is_done, open_store, record, video_row, write

from c3d_extract.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


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


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return half_done_runs(tmp_path_factory.mktemp("journals"))


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
        assert "in feats.h5.partial are damaged: those videos are processed again" in warnings[0]
    return n


@pytest.mark.parametrize(
    ("kind", "file", "flips", "cuts"),
    [("left", "feats.h5.partial", 60, 14), ("killed", "feats.h5.partial-wal", 24, 8)],
)
def test_damage_to_a_journal_never_changes_the_files(
    half_done: dict[str, Path],
    tmp_path: Path,
    kind: str,
    file: str,
    flips: int,
    cuts: int,
) -> None:
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
            "the rows of 1 videos in feats.h5.partial are damaged: those videos are processed again"
        ]
        record(store, rows[0])
        store.finish(complete=True)
    write(output.with_name("plain.h5"), rows, clips=output.with_name("plain_clips.h5"))
    assert clips.read_bytes() == output.with_name("plain_clips.h5").read_bytes()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE meta SET value = 'true' WHERE key = 'extends'", "its entry extends does not match"),
        ("UPDATE meta SET value = '{' WHERE key = 'identity'", "its entry identity does not match"),
        ("DELETE FROM meta WHERE key = 'base'", "its entry base does not match"),
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
    with pytest.raises(StoreError, match=r"feats\.h5\.partial: was started by an older version"):
        open_store(output, identity())


def test_rows_of_the_journal_that_are_not_finite_are_done_again(output: Path) -> None:
    row = video_row("a")
    begin(output, [replace(row, features={**row.features, "fc7": np.full(5, np.inf, np.float32)})])
    with open_store(output, identity()) as store:
        assert is_done(store, row) is None
        assert "have features that are not finite: those videos are processed again" in store.warnings[0]


@pytest.mark.parametrize("ending", [".partial", ".partial-wal", ".partial-journal"])
def test_files_beside_the_journal_that_are_not_sqlites_are_refused(output: Path, ending: str) -> None:
    stranger = output.with_name(f"feats.h5{ending}")
    stranger.write_text("my thesis")
    with pytest.raises(StoreError, match=stranger.name):
        open_store(output, identity())
    assert stranger.read_text() == "my thesis"


def test_a_commit_returns_when_the_row_is_on_the_disk(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []

    class Listening(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            statements.append(sql)
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Listening))
    begin(output, [video_row("a")])
    durable = ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"]
    assert [sql for sql in statements if sql in durable] == durable
    insert = next(i for i, sql in enumerate(statements) if sql.startswith("INSERT OR REPLACE INTO videos"))
    assert statements[insert + 1] == "COMMIT"
