"""Objects and members of archives become local files, ahead of the decoders.

Decoders read local files alone: they have no credentials, and what a playlist among the videos names is not
within their reach. So each video is fetched whole, with one request, by a thread of the main process, into a
folder of its own under a number; its own name is never the name of a file. It is deleted as soon as it is
decoded. What is fetched ahead is bounded in bytes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections import deque
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self

from c3d_extract.errors import C3DError, StoreError, UsageError, VideoError
from c3d_extract.files import DISK_FULL
from c3d_extract.object_store import StoredObject, fetch_object
from c3d_extract.sources.kinds import VIDEO_SUFFIXES
from c3d_extract.sources.scratch import ScratchFolder
from c3d_extract.sources.source import mtime_ns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from c3d_extract.sources.source import Source

__all__ = ["MAX_STAGED_BYTES", "N_THREADS", "Staged", "Staging"]

MAX_STAGED_BYTES = 1 << 31
"""Bytes that are staged or being fetched, at most; one larger video is staged alone."""
N_THREADS = 8
"""Videos that are fetched at a time."""

_LEAST_BYTES = 1 << 16  # that a video counts for: it bounds the number of files, and unknown sizes
_COPY_BYTES = 1 << 20
_JOIN_SECONDS = 1.0  # at the end; a thread that waits for a server for longer ends with the process


class Staged(NamedTuple):
    """A video that can be decoded, or the reason why it cannot be fetched."""

    task: int
    path: Path
    error: str | None = None


class _Begun(NamedTuple):
    """A video that is being fetched; ``since``: how many had begun, where no other was held, else None."""

    task: int
    since: int | None


class Staging:
    """Makes local files of the videos of a run; a context manager, to be iterated over once.

    Each item is a `Staged` video, in the order in which they become ready; or None where none is ready yet.
    Iterating raises StoreError where the scratch folder cannot be written.

    Parameters
    ----------
    sources
        The videos; a task is a place in this sequence.
    scratch
        Where a folder for the files is made; None for the system's temporary folder.
    n_threads, max_bytes
        How many videos are fetched at a time, and how many bytes are staged.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        scratch: Path | None = None,
        *,
        n_threads: int = N_THREADS,
        max_bytes: int = MAX_STAGED_BYTES,
    ) -> None:
        self._sources = sources
        self._scratch = Path(tempfile.gettempdir()) if scratch is None else scratch
        self._max_bytes = max_bytes
        self._local = deque(task for task, source in enumerate(sources) if not source.needs_staging)
        others = [(task, source) for task, source in enumerate(sources) if source.needs_staging]
        self._todo = deque(task for task, source in others if source.error is None)
        self._ready = deque(
            Staged(task, source.path, source.error) for task, source in others if source.error
        )
        self._n_awaited = len(others)
        self._held: dict[int, int] = {}  # task → bytes, of what is being fetched or not released yet
        self._n_begun = 0
        self._error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._folder: ScratchFolder | None = None
        self._files = Path()
        # Daemons: a server that does not answer must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"c3d-staging-{number}", daemon=True)
            for number in range(n_threads)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and delete the files."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._folder is not None:
            self._folder.close()

    def __iter__(self) -> Iterator[Staged | None]:
        if self._todo:
            self._start()
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                item = self._next()
                if item is None and not self._n_awaited:
                    return
            yield item

    def _start(self) -> None:
        try:
            self._folder = ScratchFolder(self._scratch)
        except OSError as error:
            raise self._not_written(error) from error
        self._files = self._folder.path
        for thread in self._threads[: len(self._todo)]:
            thread.start()

    def _next(self) -> Staged | None:
        if self._ready:  # before local ones: decoding it makes room for the next
            self._n_awaited -= 1
            return self._ready.popleft()
        if self._local:
            task = self._local.popleft()
            return Staged(task, self._sources[task].path)
        return None

    def release(self, task: int) -> None:
        """Delete the file of a video that has been decoded."""
        with self._changed:
            if task in self._held:
                self._delete(task)
                del self._held[task]
                self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (begun := self._begin()) is not None:
                item = self._staged(begun)
                if item is not None:
                    self._finish(item)
        except BaseException as error:  # noqa: BLE001 - raised again where the videos are asked for
            with self._changed:
                self._error = self._error or error
                self._stopped = True
                self._changed.notify_all()

    def _begin(self) -> _Begun | None:
        """Wait for room for the next video; None where there is none left."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._todo or self._has_room())
            if self._stopped or not self._todo:
                return None
            task = self._todo.popleft()
            self._n_begun += 1
            since = None if self._held else self._n_begun
            self._held[task] = self._n_bytes(task)
            return _Begun(task, since)

    def _n_bytes(self, task: int) -> int:
        return max(self._sources[task].size_bytes, _LEAST_BYTES)

    def _has_room(self) -> bool:
        return not self._held or sum(self._held.values()) + self._n_bytes(self._todo[0]) <= self._max_bytes

    def _finish(self, item: Staged) -> None:
        with self._changed:
            self._ready.append(item)
            if item.error is not None:
                self._delete(item.task)
                del self._held[item.task]
                self._changed.notify_all()

    def _staged(self, begun: _Begun) -> Staged | None:
        """Fetch a video; None where the disk is full and it is tried again when there is more room."""
        path = self._path(begun.task)
        try:
            self._fetch(self._sources[begun.task], path)
        except UsageError:  # of the machine, such as a package that is missing: no video is the cause
            raise
        except C3DError as error:
            return Staged(begun.task, path, error.reason)
        except OSError as error:  # of the local disk; others are errors of ours by now
            if error.errno in DISK_FULL and self._put_back(begun):
                return None
            raise self._not_written(error) from error
        except Exception as error:  # noqa: BLE001 - an unexpected error fails this video only
            return Staged(begun.task, path, f"cannot be fetched: {type(error).__name__}: {error}")
        return Staged(begun.task, path)

    def _put_back(self, begun: _Begun) -> bool:
        """Try a video again when others have been decoded; return False where there are no others."""
        with self._changed:
            self._delete(begun.task)
            del self._held[begun.task]
            if begun.since == self._n_begun:
                return False
            # What the others take is all that the disk is known to have room for.
            self._max_bytes = min(self._max_bytes, sum(self._held.values()))
            self._todo.appendleft(begun.task)
            self._changed.notify_all()
            return True

    def _fetch(self, source: Source, path: Path) -> None:
        if source.address is None:
            self._copy_member(source, path)
            return
        # -1, unknown: a member's size is not the archive's, and 0 is that of what could not be examined.
        size = -1 if source.offset is not None else source.size_bytes or -1
        stored = StoredObject(source.address, size, source.mtime_ns, source.etag)
        n_bytes = None if source.offset is None else source.size_bytes
        fetch_object(stored, path, start=source.offset or 0, n_bytes=n_bytes)

    def _copy_member(self, source: Source, path: Path) -> None:
        """Copy a member of a local archive; OSError is of the scratch folder, errors of reading are ours."""
        left = source.size_bytes
        with _opened(source) as archive, path.open("wb") as copy:
            while left and not self._stopped:
                data = _read(archive, min(left, _COPY_BYTES))
                copy.write(data)
                left -= len(data)

    def _path(self, task: int) -> Path:
        suffix = PurePath(self._sources[task].name).suffix.lower()
        return self._files / f"{task:06d}{suffix if suffix in VIDEO_SUFFIXES else ''}"

    def _delete(self, task: int) -> None:
        with contextlib.suppress(OSError):
            self._path(task).unlink()

    def _not_written(self, error: OSError) -> StoreError:
        hint = "free space, or name another folder with --scratch"
        return StoreError(
            f"videos cannot be put there ({error.strerror or error})", subject=self._scratch, hint=hint
        )


def _opened(source: Source) -> BinaryIO:
    """Open a member's archive where its data begin; VideoError where it was changed since it was searched."""
    try:
        file = source.path.open("rb")
        if mtime_ns(os.fstat(file.fileno())) != source.mtime_ns:
            file.close()
            raise VideoError("the archive was changed since it was searched")
        file.seek(source.offset or 0)
    except OSError as error:
        raise VideoError(f"the archive cannot be read: {error.strerror}") from error
    return file


def _read(archive: BinaryIO, n_bytes: int) -> bytes:
    try:
        data = archive.read(n_bytes)
    except OSError as error:
        raise VideoError(f"the archive cannot be read: {error.strerror}") from error
    if not data:
        raise VideoError("the archive was cut off since it was searched")
    return data
