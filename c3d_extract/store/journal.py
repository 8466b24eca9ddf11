"""The journal: what a run has finished, in an SQLite file beside the output, and the one-writer lock.

The lock is SQLite's own exclusive locking mode, held from opening to closing: it needs no shared memory
and vanishes with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import LockedError, StoreError
from c3d_extract.store.records import JSON, ClipRows, VideoRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ClipRecord", "Journal"]

APPLICATION_ID = 0x43334431  # "C3D1": changes with the tables below
ROWS_AT_ONCE = 256

_ROW_FIELDS = [f.name for f in fields(VideoRow) if f.name != "features"]
_TYPES = {"video": "TEXT PRIMARY KEY", "status": "TEXT", "error": "TEXT"}
_REALS = ("seconds", "fps", "duration_seconds")
_COLUMNS = ", ".join(
    f"{name} {_TYPES.get(name, 'REAL' if name in _REALS else 'INTEGER')}" for name in _ROW_FIELDS
)
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)",
    f"CREATE TABLE videos ({_COLUMNS}, features BLOB, last_clip INTEGER)",
    (
        "CREATE TABLE clips (id INTEGER PRIMARY KEY AUTOINCREMENT, video TEXT, start_frame INTEGER,"
        " end_frame INTEGER, start_seconds REAL, end_seconds REAL, features BLOB)"
    ),
    "CREATE INDEX clips_by_video ON clips (video, start_frame, id)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
# What earlier runs left, for this session only: rows of the feature file, lines of the report.
EARLIER = (
    "CREATE TEMP TABLE earlier (video TEXT PRIMARY KEY, status TEXT, size_bytes INTEGER, mtime_ns INTEGER,"
    " has_row INTEGER, line TEXT)"
)

ClipRecord = tuple[str, "tuple[int, int, float, float] | None", "list[NDArray[np.float32]]"]
"""Video, (start frame, end frame, start seconds, end seconds), features; None for a video without clips."""


class Journal:
    """The open journal of one output; one thread only."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open or create the journal at ``path`` and lock it.

        Raises `LockedError` while another process (or another store of this one) holds it, `StoreError`
        where it is damaged or cannot be written.
        """
        while True:
            connection = _locked_connection(path)
            if connection is not None:
                journal = cls(path, connection)
                try:
                    journal._prepare()
                except BaseException:
                    connection.close()
                    raise
                return journal

    def _prepare(self) -> None:
        with self._guarded():
            (found,) = self._db.execute("PRAGMA application_id").fetchone()
            (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if n_tables and found != APPLICATION_ID:
                raise StoreError(
                    "is not a journal of this version",
                    subject=self.path,
                    hint="move it away, or take another -o",
                )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(EARLIER)

    @property
    def is_new(self) -> bool:
        """Whether nothing has been written into it."""
        with self._guarded():
            (n_tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return not n_tables

    def reset(self, meta: Mapping[str, JSON]) -> None:
        """Forget every row and start with ``meta``, in one transaction."""
        with self._guarded(), self._transaction():
            if self.is_new:
                for statement in SCHEMA:
                    self._db.execute(statement)
            for table in ("meta", "videos", "clips"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - the names stand in the line above
            for key, value in meta.items():
                self.set_meta(key, value)

    def meta(self, key: str) -> JSON:
        """Return what was kept under ``key``."""
        with self._guarded():
            (text,) = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(text)

    def set_meta(self, key: str, value: JSON) -> None:
        """Keep ``value`` under ``key``."""
        with self._guarded():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def finished(self, video: str) -> tuple[str, int, int] | None:
        """Return (status, size_bytes, mtime_ns) of a video of this run, else of an earlier one, else None."""
        query = "SELECT status, size_bytes, mtime_ns FROM {} WHERE video = ?"
        with self._guarded():
            for table in ("videos", "earlier"):
                row = self._db.execute(query.format(table), (video,)).fetchone()
                if row is not None:
                    return str(row[0]), int(row[1]), int(row[2])
        return None

    def append_clips(self, video: str, rows: ClipRows) -> None:
        """Add clips to the open transaction; they are durable with the next `commit`."""
        layers = [np.ascontiguousarray(values, "<f4") for values in rows.features.values()]
        scalars = (rows.start_frame, rows.end_frame, rows.start_seconds, rows.end_seconds)
        records = [
            (
                video,
                *(column[i].item() for column in scalars),
                b"".join(values[i].tobytes() for values in layers),
            )
            for i in range(len(rows.start_frame))
        ]
        insert = (
            "INSERT INTO clips (video, start_frame, end_frame, start_seconds, end_seconds, features)"
            " VALUES (?, ?, ?, ?, ?, ?)"
        )
        with self._guarded():
            self._begin()
            self._db.executemany(insert, records)

    def commit(self, row: VideoRow, *, with_clips: bool) -> None:
        """Store one finished video with the last ``row.n_clips`` clips appended for it, durably."""
        blob = b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in row.features.values())
        n_clips = row.n_clips if with_clips and row.status != "failed" else 0
        values = [_plain(getattr(row, name)) for name in _ROW_FIELDS]
        marks = ", ".join("?" * (len(values) + 2))
        with self._guarded():
            self._begin()
            last_clip = self._keep_clips(row.video, n_clips)
            self._db.execute(f"INSERT OR REPLACE INTO videos VALUES ({marks})", (*values, blob, last_clip))  # noqa: S608 - only question marks
            self._db.execute("COMMIT")

    def _keep_clips(self, video: str, n_clips: int) -> int:
        """Delete all but the last ``n_clips`` clips of a video; return the id of the last, 0 for none."""
        query = "SELECT id FROM clips WHERE video = ? ORDER BY id DESC LIMIT ?"
        ids = [clip for (clip,) in self._db.execute(query, (video, n_clips))]
        if len(ids) < n_clips:
            self._db.execute("ROLLBACK")
            raise ValueError(f"{video}: {n_clips} clips, but only {len(ids)} rows were appended")
        first = ids[-1] if ids else 2**62
        self._db.execute("DELETE FROM clips WHERE video = ? AND id < ?", (video, first))
        return ids[0] if ids else 0

    def drop_orphans(self) -> None:
        """Delete the clips of videos that were begun and never committed."""
        committed = "coalesce((SELECT last_clip FROM videos WHERE videos.video = clips.video), 0)"
        with self._guarded():
            self._begin()
            self._db.execute(f"DELETE FROM clips WHERE id > {committed}")  # noqa: S608 - a constant
            self._db.execute("COMMIT")

    def rows(self, layer_sizes: Mapping[str, int]) -> Iterator[VideoRow]:
        """Yield every video of this run, sorted by name, failed ones with no features."""
        query = f"SELECT {', '.join(_ROW_FIELDS)}, features FROM videos ORDER BY video"  # noqa: S608 - constants
        for *values, blob in self._stream(query):
            named = dict(zip(_ROW_FIELDS, values, strict=True))
            named |= {name: np.nan for name in _REALS if named[name] is None}  # SQLite has no NaN
            features = dict(zip(layer_sizes, _split(blob, layer_sizes), strict=True)) if blob else {}
            yield VideoRow(**named, features=features)

    def clips(self, layer_sizes: Mapping[str, int]) -> Iterator[ClipRecord]:
        """Yield every clip of this run, sorted by video and start; videos without clips once, empty."""
        query = (
            "SELECT videos.video, start_frame, end_frame, start_seconds, end_seconds, clips.features"
            " FROM videos LEFT JOIN clips USING (video) ORDER BY videos.video, start_frame, id"
        )
        for video, start, end, *times, blob in self._stream(query):
            if blob is None:
                yield video, None, []
            else:
                start_s, end_s = (np.nan if time is None else time for time in times)
                yield video, (start, end, start_s, end_s), _split(blob, layer_sizes)

    def remember(self, records: Iterable[tuple[str, str, int, int, bool, str]]) -> None:
        """Take (video, status, size_bytes, mtime_ns, has_row, report line) of earlier runs.

        A report line gives way to a row of the feature file unless both speak of the same file.
        """
        merge = (
            "INSERT INTO earlier VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (video) DO UPDATE SET has_row = 1,"
            " status = iif(same, status, excluded.status), line = iif(same, line, excluded.line),"
            " size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns"
        ).replace(
            "same",
            "earlier.status <> 'failed' AND earlier.size_bytes = excluded.size_bytes"
            " AND earlier.mtime_ns = excluded.mtime_ns",
        )
        with self._guarded(), self._transaction():
            self._db.executemany(merge, records)
            self._db.execute(
                "DELETE FROM earlier WHERE NOT has_row AND status <> 'failed'"
            )  # its row is gone

    def earlier_lines(self) -> Iterator[tuple[Any, ...]]:
        """Yield (video, report line) of earlier runs, sorted by name."""
        yield from self._stream("SELECT video, line FROM earlier ORDER BY video")

    def counts(self) -> dict[str, int]:
        """Return how many videos there are by status, those of earlier runs included."""
        query = (
            "SELECT status, count(*) FROM (SELECT video, status FROM videos UNION ALL SELECT video, status"
            " FROM earlier WHERE video NOT IN (SELECT video FROM videos)) GROUP BY status"
        )
        with self._guarded():
            return dict(self._db.execute(query).fetchall())

    def count(self) -> int:
        """Return how many videos this run has finished."""
        with self._guarded():
            (n,) = self._db.execute("SELECT count(*) FROM videos").fetchone()
        return int(n)

    def count_rows(self) -> int:
        """Return how many videos of this run have features."""
        with self._guarded():
            (n,) = self._db.execute("SELECT count(*) FROM videos WHERE status <> 'failed'").fetchone()
        return int(n)

    def close(self) -> None:
        """Close and unlock; what was not committed is forgotten."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._db.close()

    def delete(self) -> None:
        """Delete the journal; the lock is held until it is gone."""
        with self._guarded():
            # Leaving WAL mode removes the -wal file first: once the name is free, others may create theirs.
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.execute("PRAGMA journal_mode = DELETE")
            if os.name == "nt":  # an open file cannot be deleted there, nor can two writers race for its name
                self._db.close()
            self.path.unlink(missing_ok=True)
        self._db.close()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        with self._guarded():
            cursor = self._db.execute(query)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield from rows

    def _guarded(self) -> contextlib.AbstractContextManager[None]:
        return _guarded(self.path)


def _locked_connection(path: Path) -> sqlite3.Connection | None:
    """Return a connection that holds the lock, or None when the file was deleted under it (try again)."""
    with _guarded(path):
        # Not opened where it exists: closing any descriptor of a file drops this process's locks on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        before = _inode(path)
        connection = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")  # the lock stays, that is what the mode is for
        except sqlite3.Error:
            connection.close()
            if before == _inode(path):
                raise
            return None
        if before is not None and before == _inode(path):
            return connection
        connection.close()  # its owner finished and deleted it between the two looks
        return None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except UnicodeEncodeError as error:
        raise StoreError("a video's name is not valid UTF-8", subject=ascii(error.object)) from error
    except OSError as error:
        raise StoreError(
            f"cannot be written ({error.strerror or error})",
            subject=path,
            hint="choose another -o or free the way",
        ) from error


def _translated(error: sqlite3.Error, path: Path) -> StoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return LockedError(
            "another run is writing this output",
            subject=path.with_name(path.name.removesuffix(".partial")),
            hint="wait for it, or take another -o",
        )
    if code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        return StoreError(
            f"the journal is damaged ({error})",
            subject=path,
            hint="move it away and run again: what it held is done anew, the feature file stays",
        )
    return StoreError(
        f"the journal cannot be written ({error})",
        subject=path,
        hint="videos finished before are safe in it: free space and run again",
    )


def _plain(value: Any) -> Any:
    """Return a Python number for one of numpy's, which SQLite would store as bytes."""
    return value.item() if isinstance(value, np.generic) else value


def _split(blob: bytes, layer_sizes: Mapping[str, int]) -> list[NDArray[np.float32]]:
    values = np.frombuffer(blob, "<f4")
    return np.split(values, np.cumsum(list(layer_sizes.values()))[:-1])
