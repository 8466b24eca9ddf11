"""The journal: finished videos of a run, in an SQLite file next to the output, locked for one writer.

Every row has a digest of all its values; a video's row also has a digest of its clips' digests. Rows that do
not match their digest when the journal is opened are deleted, and those videos are processed again.

A transaction is open from the first clip of a video to its `Journal.commit`: a killed run leaves complete
videos only, and nothing of videos that were being decoded. The journal is in WAL mode with
``synchronous = FULL``, in which a commit returns after fsync of the log (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.errors import StoreError
from c3d_extract.output.lock import (
    inode,
    journal_damaged,
    locked_connection,
    locked_error,
    store_errors,
)
from c3d_extract.output.schema import (
    CLIP_COLUMNS,
    JOURNAL_COLUMNS,
    JOURNAL_VERSION,
    ClipRows,
    Column,
    TableRow,
    VideoRow,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from c3d_extract.strict_json import JSON

__all__ = ["SIDE_FILES", "EarlierVideo", "FinishedVideo", "Journal"]

APPLICATION_ID = int.from_bytes(b"C3D%d" % JOURNAL_VERSION)  # in the header of the file
WITHOUT_DIGESTS = int.from_bytes(b"C3D1")
ROWS_AT_ONCE = 256
SIDE_FILES = ("-wal", "-journal")  # SQLite keeps these next to an open database, and after a kill


def _definitions(columns: Mapping[str, Column]) -> str:
    return ", ".join(
        f"{name} {column.sql_type}{' PRIMARY KEY' if name == 'video' else ''}"
        for name, column in columns.items()
    )


_VIDEO_VALUES = (*JOURNAL_COLUMNS, "features", "last_clip", "clips_digest")
_CLIP_VALUES = ("video", *CLIP_COLUMNS, "features")
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT, digest BLOB)",
    (
        f"CREATE TABLE videos ({_definitions(JOURNAL_COLUMNS)}, features BLOB, last_clip INTEGER,"
        " clips_digest BLOB, digest BLOB)"
    ),
    (
        f"CREATE TABLE clips (id INTEGER PRIMARY KEY, video TEXT, {_definitions(CLIP_COLUMNS)},"
        " features BLOB, digest BLOB)"
    ),
    "CREATE INDEX clips_by_video ON clips (video, start_frame, id)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
META = ("identity", "base", "extends", "overwrite", "temporary", "written")
# Feature-file rows and report lines of earlier runs; a TEMP table is dropped with the connection.
EARLIER_TABLE = (
    "CREATE TEMP TABLE earlier (video TEXT PRIMARY KEY, status TEXT, size_bytes INTEGER, mtime_ns INTEGER,"
    " has_row INTEGER, line TEXT)"
)

# Journals that this process has open, by device and inode: POSIX drops all of a process's locks on a file
# when the process closes any descriptor of it (https://sqlite.org/howtocorrupt.html, 2.2).
_open_here: set[tuple[int, int] | None] = set()


class FinishedVideo(NamedTuple):
    """A finished video; valid while its file has this size and modification time."""

    status: str
    size_bytes: int
    mtime_ns: int
    in_journal: bool
    """Whether the current run finished it; False for an earlier run that wrote its files."""


class EarlierVideo(NamedTuple):
    """A video as recorded in the files of earlier runs."""

    video: str
    status: str
    size_bytes: int
    mtime_ns: int
    has_row: bool
    """Whether it has a row in the feature file."""
    report_line: str


class Journal:
    """The open journal of one output; one thread only.

    Created by `open` or `open_copy`. Every method raises `StoreError` if the file cannot be read or written.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, folder: tempfile.TemporaryDirectory[str] | None
    ) -> None:
        self.path = path
        self.n_damaged = 0
        """Videos whose rows or clips did not match their digests when the journal was opened."""
        self.n_not_finite = 0
        """Videos with features that are not finite."""
        self._db = connection
        self._temporary_folder = folder
        """Folder of the file, if it is a copy."""
        self._inode = inode(path)
        if folder is None:
            _open_here.add(self._inode)
        # Text that is not UTF-8 is damaged: decode it without an error, so that its digest is compared.
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        self._prepare()

    @classmethod
    def open(cls, path: Path, *, locks: bool = True, durable: bool = True) -> Self:
        """Open or create the journal at ``path`` and lock it, unless the file system has no ``locks``.

        If not ``durable``, a commit does not wait for the disk: committed videos survive a kill of
        the process, but not a power loss.

        Raises `LockedError` while another process (or another store of this one) holds it, `StoreError`
        where it is damaged or cannot be written.
        """
        _refuse_foreign_side_files(path)
        opened = cls(path, locked_connection(path, locks=locks), None)
        if not durable:
            with opened._errors():
                opened._db.execute("PRAGMA synchronous = OFF")
        return opened

    @classmethod
    def open_copy(cls, path: Path) -> Self:
        """Open a copy of the journal, or an empty one if there is none; the output is not changed."""
        if path.exists() and inode(path) in _open_here:
            raise locked_error(path)  # a copy closes a descriptor, which releases the lock
        folder = tempfile.TemporaryDirectory(prefix="c3d-extract-")
        copy = Path(folder.name) / path.name
        try:
            with store_errors(path):
                for ending in ("", *SIDE_FILES):
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
            return cls(path, locked_connection(copy, locks=True), folder)
        except BaseException:
            folder.cleanup()
            raise

    def _prepare(self) -> None:
        """Delete damaged rows; `StoreError` where other parts are damaged, or the file is not a journal."""
        try:
            with self._errors():
                has_tables = self._has_our_tables()
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(EARLIER_TABLE)
                if has_tables:
                    self._repair()
        except MemoryError as error:  # a damaged length field
            self._close()
            raise journal_damaged(self.path, "a row is too long") from error
        except BaseException:
            self._close()
            raise

    def _has_our_tables(self) -> bool:
        """Return whether there are tables; `StoreError` where they are not those of this version."""
        (found,) = self._db.execute("PRAGMA application_id").fetchone()
        tables = [sql for (sql,) in self._db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        hint = "move it away, or choose another -o"
        if found == WITHOUT_DIGESTS:
            reason = "was started by an older version, whose rows have no checksums"
            raise StoreError(reason, subject=self.path, hint=f"finish it with that version, {hint}")
        if (tables or found) and found != APPLICATION_ID:
            raise StoreError("is not a journal of this version", subject=self.path, hint=hint)
        if found and sorted(tables) != sorted(SCHEMA[:-1]):
            raise journal_damaged(self.path, "its tables are not those it was created with")
        return bool(tables)

    def _repair(self) -> None:
        """Rebuild damaged indexes and delete bad rows, in one transaction; `StoreError` where that fails."""
        verdict = self._integrity()
        with self._transaction():
            if verdict != "ok":
                self._db.execute("REINDEX")
            self._delete_bad_rows()
            if verdict != "ok" and self._integrity() != "ok":
                raise journal_damaged(self.path, verdict)
            for key in META:
                self.meta(key)

    def _integrity(self) -> str:
        """Return SQLite's first error in pages or indexes, which no digest covers, or ``ok``."""
        (verdict,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        return " ".join(verdict.split()).removeprefix("*** in database main *** ")

    def _delete_bad_rows(self) -> None:
        bad: list[tuple[int]] = []
        columns = ", ".join(_VIDEO_VALUES)
        for rowid, digest, *values in self._stream(f"SELECT rowid, digest, {columns} FROM videos"):  # noqa: S608
            is_intact, is_finite = self._check_video(digest, values)
            self.n_damaged += not is_intact
            self.n_not_finite += is_intact and not is_finite
            if not (is_intact and is_finite):
                bad.append((rowid,))
        self._db.executemany("DELETE FROM videos WHERE rowid = ?", bad)

    def _check_video(self, digest: bytes, values: list[Any]) -> tuple[bool, bool]:
        """Return whether a video's row and clips match their digests, and whether all features are finite."""
        if digest != _digest(*values):
            return False, False
        video, (features, last_clip, clips_digest) = values[0], values[-3:]
        query = f"SELECT digest, {', '.join(_CLIP_VALUES)} FROM clips WHERE video = ? AND id <= ? ORDER BY id"  # noqa: S608
        digests, is_finite = [], _is_finite(features)
        for digest_of_clip, *clip in self._db.execute(query, (video, last_clip)):
            if digest_of_clip != _digest(*clip):
                return False, False
            digests.append(digest_of_clip)
            is_finite = is_finite and _is_finite(clip[-1])
        return _digest(*digests) == clips_digest, is_finite

    @property
    def is_new(self) -> bool:
        """Whether it has no tables yet."""
        return not self._number("SELECT count(*) FROM sqlite_master")

    def reset(self, meta: Mapping[str, JSON]) -> None:
        """Delete every row and start with ``meta``, in one transaction."""
        with self._errors(), self._transaction():
            if self.is_new:
                for statement in SCHEMA:
                    self._db.execute(statement)
            for table in ("meta", "videos", "clips"):
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
            for key, value in {**meta, "temporary": [], "written": []}.items():
                self.set_meta(key, value)
        self.n_damaged = self.n_not_finite = 0

    def meta(self, key: str) -> JSON:
        """Return the value stored under ``key``; `StoreError` where it is missing or damaged."""
        with self._errors():
            found = self._db.execute("SELECT value, digest FROM meta WHERE key = ?", (key,)).fetchone()
        if found is None or found[1] != _digest(key, found[0]):
            raise journal_damaged(self.path, f"its entry {key} does not match its checksum")
        return json.loads(found[0])

    def set_meta(self, key: str, value: JSON) -> None:
        """Store ``value`` under ``key``."""
        text = json.dumps(value)
        with self._errors():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, text, _digest(key, text)))

    def note_temporary(self, path: Path) -> None:
        """Record the name of a temporary file before it is created."""
        self.set_meta("temporary", [*self.meta("temporary"), path.name])

    def note_written(self, digest: str) -> None:
        """Record the digest of a file before it is put in place."""
        self.set_meta("written", [*self.meta("written"), digest])

    def finished(self, video: str) -> FinishedVideo | None:
        """Return the record of a video in this run, else in an earlier run, else None."""
        query = "SELECT status, size_bytes, mtime_ns FROM {} WHERE video = ?"
        with self._errors():
            for table in ("videos", "earlier"):
                row = self._db.execute(query.format(table), (video,)).fetchone()
                if row is not None:
                    return FinishedVideo(str(row[0]), int(row[1]), int(row[2]), in_journal=table == "videos")
        return None

    def append_clips(self, video: str, rows: ClipRows) -> None:
        """Add clips to the open transaction; they are durable with the next `commit`."""
        layers = [np.ascontiguousarray(values, "<f4") for values in rows.features.values()]
        columns = [(column, getattr(rows, name)) for name, column in CLIP_COLUMNS.items()]
        clips = [
            (
                video,
                *(_to_sql(column, values[i]) for column, values in columns),
                b"".join(values[i].tobytes() for values in layers),
            )
            for i in range(len(rows.start_frame))
        ]
        marks = ", ".join("?" * (len(_CLIP_VALUES) + 1))
        insert = f"INSERT INTO clips ({', '.join(_CLIP_VALUES)}, digest) VALUES ({marks})"  # noqa: S608 - constants
        with self._errors():
            self._begin()
            self._db.executemany(insert, [(*values, _digest(*values)) for values in clips])

    def commit(self, rows: Sequence[VideoRow], *, n_crops: int) -> None:
        """Store finished videos, each with the last ``n_clips`` clips appended for it, durably.

        ``n_crops`` rows were appended for each of those clips, 0 where clips are not kept.
        In one transaction: each waits for the disk, which takes longer than all else.
        """
        with self._errors():
            self._begin()
            for row in rows:
                self._insert(row, row.n_clips * n_crops if row.status != "failed" else 0)
            self._db.execute("COMMIT")

    def _insert(self, row: VideoRow, n_rows: int) -> None:
        blob = b"".join(np.ascontiguousarray(values, "<f4").tobytes() for values in row.features.values())
        kept = self._keep_clips(row.video, n_rows)
        columns = (_to_sql(column, getattr(row, name)) for name, column in JOURNAL_COLUMNS.items())
        values = (*columns, blob, *kept)
        marks = ", ".join("?" * (len(values) + 1))
        insert = f"INSERT OR REPLACE INTO videos VALUES ({marks})"  # noqa: S608 - only question marks
        self._db.execute(insert, (*values, _digest(*values)))

    def _keep_clips(self, video: str, n_clips: int) -> tuple[int, bytes]:
        """Delete all but the last ``n_clips`` clips of a video; return the last one's id and their digest."""
        query = "SELECT id, digest FROM clips WHERE video = ? ORDER BY id DESC LIMIT ?"
        kept = self._db.execute(query, (video, n_clips)).fetchall()[::-1]
        if len(kept) < n_clips:
            self._db.execute("ROLLBACK")
            raise ValueError(f"{video}: {n_clips} clips, but only {len(kept)} rows were appended")
        first = kept[0][0] if kept else 2**62
        self._db.execute("DELETE FROM clips WHERE video = ? AND id < ?", (video, first))
        return (kept[-1][0] if kept else 0), _digest(*(digest for _, digest in kept))

    def drop_uncommitted_clips(self) -> None:
        """Delete the clips of videos that were never committed."""
        committed = "coalesce((SELECT last_clip FROM videos WHERE videos.video = clips.video), 0)"
        with self._errors():
            self._begin()
            self._db.execute(f"DELETE FROM clips WHERE id > {committed}")  # noqa: S608 - a constant
            self._db.execute("COMMIT")

    def rows(self, layer_sizes: Mapping[str, int]) -> Iterator[VideoRow]:
        """Yield every video of this run, sorted by name, failed ones with no features."""
        query = f"SELECT digest, {', '.join(_VIDEO_VALUES)} FROM videos ORDER BY video"  # noqa: S608 - constants
        for digest, *values in self._stream(query):
            self._compare(digest, values)
            columns, blob = values[: len(JOURNAL_COLUMNS)], values[len(JOURNAL_COLUMNS)]
            named = dict(zip(JOURNAL_COLUMNS, _from_sql(JOURNAL_COLUMNS, columns), strict=True))
            features = dict(zip(layer_sizes, _split(blob, layer_sizes), strict=True)) if blob else {}
            yield VideoRow(**named, features=features)

    def clips(self, layer_sizes: Mapping[str, int]) -> Iterator[TableRow]:
        """Yield every clip of this run, sorted by video and start; an empty row for a video without clips."""
        columns = ", ".join(f"clips.{name}" for name in ("digest", *_CLIP_VALUES))
        query = (
            f"SELECT videos.video, {columns} FROM videos LEFT JOIN clips USING (video)"  # noqa: S608 - constants
            " ORDER BY videos.video, start_frame, id"
        )
        for video, digest, *values in self._stream(query):
            if digest is None:
                yield TableRow(video, None, [])
                continue
            self._compare(digest, values)
            scalars = tuple(_from_sql(CLIP_COLUMNS, values[1:-1]))
            yield TableRow(video, scalars, _split(values[-1], layer_sizes))

    def _compare(self, digest: bytes, values: list[Any]) -> None:
        if digest != _digest(*values):
            raise journal_damaged(self.path, f"the row of {values[0]} does not match its checksum")

    def add_earlier(self, videos: Iterable[EarlierVideo]) -> None:
        """Add the videos recorded in the files of earlier runs.

        A row of the feature file replaces a report line unless both are of the same version of the video.
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
        with self._errors(), self._transaction():
            self._db.executemany(merge, videos)
            self._db.execute(
                "DELETE FROM earlier WHERE NOT has_row AND status <> 'failed'"
            )  # its row is gone

    def earlier_lines(self) -> Iterator[tuple[Any, ...]]:
        """Yield (video, report line) of earlier runs, sorted by name."""
        yield from self._stream("SELECT video, line FROM earlier ORDER BY video")

    def counts(self) -> dict[str, int]:
        """Return the number of videos by status, including those of earlier runs."""
        query = (
            "SELECT status, count(*) FROM (SELECT video, status FROM videos UNION ALL SELECT video, status"
            " FROM earlier WHERE video NOT IN (SELECT video FROM videos)) GROUP BY status"
        )
        with self._errors():
            return dict(self._db.execute(query).fetchall())

    def count(self) -> int:
        """Return the number of videos that this run has finished."""
        return self._number("SELECT count(*) FROM videos")

    def count_rows(self) -> int:
        """Return the number of videos of this run that have features."""
        return self._number("SELECT count(*) FROM videos WHERE status <> 'failed'")

    def _number(self, query: str) -> int:
        with self._errors():
            (n,) = self._db.execute(query).fetchone()
        return int(n)

    def close(self) -> None:
        """Close and unlock; uncommitted rows are discarded."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._close()

    def delete(self) -> None:
        """Delete the journal; the lock is held until the file is deleted."""
        with self._errors():
            # Leave WAL mode first, which removes the -wal file: once the journal's name is free,
            # another run may create its own -wal file.
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.execute("PRAGMA journal_mode = DELETE")
            if os.name == "nt":  # Windows cannot delete an open file, so no other writer can take the name
                self._db.close()
            if self._temporary_folder is None:
                self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        self._db.close()
        if self._temporary_folder is not None:
            self._temporary_folder.cleanup()
        else:
            _open_here.discard(self._inode)

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
        with self._errors():
            cursor = self._db.execute(query)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield from rows

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return store_errors(self.path)


def _refuse_foreign_side_files(path: Path) -> None:
    """Refuse to create a journal where SQLite would treat another program's file as its own."""
    if path.exists() and path.stat().st_size:
        return
    begins = {"-wal": (b"\x37\x7f\x06",), "-journal": (b"\xd9\xd5\x05\xf9", b"\0\0\0\0")}
    for ending in SIDE_FILES:
        side = path.with_name(f"{path.name}{ending}")
        with store_errors(side), contextlib.suppress(FileNotFoundError), side.open("rb") as file:
            if (head := file.read(4)) and not head.startswith(begins[ending]):
                hint = "move it away, or choose another -o"
                raise StoreError("exists but was not written by SQLite", subject=side, hint=hint)


def _digest(*values: Any) -> bytes:
    """Return 16 bytes that depend on every bit of the values: None, int, float, str or bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode()
        digest.update(b"%s %d " % (type(value).__name__.encode(), len(data)))
        digest.update(data)
    return digest.digest()


def _is_finite(features: bytes) -> bool:
    return bool(np.isfinite(np.frombuffer(features, "<f4")).all())


def _to_sql(column: Column, value: Any) -> Any:
    """Return a value as SQLite will return it: digests are computed from such values."""
    if column.sql_type == "INTEGER":
        return int(value)
    if column.sql_type == "TEXT":
        return value
    number = float(value)
    return None if np.isnan(number) else number  # SQLite stores NaN as NULL anyway


def _from_sql(columns: Mapping[str, Column], values: Iterable[Any]) -> Iterator[Any]:
    for column, value in zip(columns.values(), values, strict=True):
        yield np.nan if value is None and column.sql_type == "REAL" else value


def _split(blob: bytes, layer_sizes: Mapping[str, int]) -> list[NDArray[np.float32]]:
    values = np.frombuffer(blob, "<f4")
    return np.split(values, np.cumsum(list(layer_sizes.values()))[:-1])
