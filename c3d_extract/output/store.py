"""One run's output: finished videos are added to the journal, the files are written at the end."""

from __future__ import annotations

import heapq
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from c3d_extract.errors import StoreError
from c3d_extract.files import is_temporary_name
from c3d_extract.output import report
from c3d_extract.output.assemble import Assembler
from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.output.identity import NO_IDENTITY, RunIdentity
from c3d_extract.output.journal import Journal
from c3d_extract.output.lock import ClipLock
from c3d_extract.output.resume import EarlierFiles
from c3d_extract.settings import CROPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.output.options import StoreOptions
    from c3d_extract.output.schema import ClipRows, VideoRow

__all__ = ["RunStore", "State", "Summary"]

State = Literal["new", "changed", "failed", "journaled", "done"]
"""State of a video before a run; see `RunStore.state`."""


@dataclass(frozen=True)
class Summary:
    """Result of a run."""

    written: tuple[Path, ...]
    """The files that were written, the feature file last; it is missing if it could not be written."""
    n_rows: int
    """Rows of the feature file after the run; 0 if there is none."""
    n_ok: int
    n_partial: int
    n_failed: int
    """Videos by status, including those of earlier runs on this output."""
    message: str | None = None
    """Why no feature file was written; None if one was."""


class RunStore:
    """Collects the rows of one run and writes its files; a context manager, for one thread.

    Created by `open`. Every method raises `StoreError` where a file cannot be read or written.
    """

    def __init__(self, options: StoreOptions, assembler: Assembler, journal: Journal) -> None:
        self.paths = assembler.paths
        self.identity = assembler.identity
        self.warnings: list[str] = []
        """Data of earlier runs that cannot be used, and guarantees that do not hold here."""
        self.versions_before: dict[str, str] = {}
        """Versions, device and batch size recorded by the resumed run; empty with ``overwrite``."""
        self._options = options
        self._journal = journal
        self._assembler = assembler
        self._clip_lock: ClipLock | None = None
        self._is_open = True
        crops: Any = self.identity.settings.get("crops", "centre")
        self._n_crops = CROPS[crops]

    @classmethod
    def open(cls, options: StoreOptions, identity: RunIdentity) -> Self:
        """Open the output for a run, exclusively; all checks are done here.

        Parameters
        ----------
        options
            Which files to write, and how.
        identity
            Compared with that of an earlier run on the same output.

        Raises
        ------
        StoreError
            An output cannot be written, or is of another program; `LockedError` while another run writes
            it, `MismatchError` where it, or the basis, was made with other settings or weights.
        PcaError
            The basis, or the number of components, does not fit the layers.
        UsageError
            Two files would have the same name.
        """
        paths = options.paths()
        paths.check()
        identity = options.complete(identity)
        # Checked before any file is created, and in `_begin` again, when no other run can change them.
        EarlierFiles(paths, pca=options.pca is not None)
        unlocked = paths.make_folders()
        with ExitStack() as undo:
            journal = Journal.open(
                paths.journal, locks=paths.features.parent not in unlocked, durable=options.durable
            )
            assembler = Assembler(paths, identity, journal, options.l2, options.pca, options.basis)
            store = cls(options, assembler, journal)
            undo.callback(store.close)
            store._take_over(unlocked)
            undo.pop_all()
        return store

    @classmethod
    def preview(cls, options: StoreOptions, identity: RunIdentity | None) -> Self:
        """Check an output as `open` does, and raise the same errors, without changing any file.

        Not for writing: changes are made in a copy of the journal, which is deleted at the end. Without
        an identity (if the weights are not downloaded yet), no settings are compared.
        """
        paths = options.paths()
        paths.check()
        if identity is not None:
            identity = options.complete(identity)
        with ExitStack() as undo:
            journal = Journal.open_copy(paths.journal)
            assembler = Assembler(
                paths, identity or NO_IDENTITY, journal, options.l2, options.pca, options.basis
            )
            store = cls(options, assembler, journal)
            undo.callback(store.close)
            store._begin(identity)
            undo.pop_all()
        return store

    def _take_over(self, unlocked: set[Path]) -> None:
        """Lock the clip file, remove temporary files of a killed run, and begin."""
        for folder in sorted(unlocked):
            where = f"the file system of {folder.absolute()} cannot lock files"
            self.warnings.append(f"{where}: do not start a second run on the same files")
        lock = self.paths.clip_lock
        if lock is not None and lock.parent not in unlocked:
            self._clip_lock = ClipLock(lock)
        if not self._journal.is_new:
            self._remove_temporary_files()
        self._begin(self.identity)
        if not self._options.overwrite:
            self.versions_before = self._earlier_versions()

    def _begin(self, identity: RunIdentity | None) -> None:
        earlier = EarlierFiles(self.paths, pca=self._options.pca is not None)
        kept = earlier.begin(self._journal, identity, overwrite=self._options.overwrite)
        self._assembler.basis = self._assembler.basis or kept.basis
        self._assembler.unusable = kept.unusable
        name = self.paths.journal.name
        for n, what in (
            (self._journal.n_damaged, "are damaged"),
            (self._journal.n_not_finite, "have features that are not finite"),
        ):
            if n:
                text = f"the rows of {n} videos in {name} {what}: those videos are processed again"
                self.warnings.append(text)
        self.warnings += kept.warnings

    def _earlier_versions(self) -> dict[str, str]:
        recorded = RunIdentity.from_json(self._journal.meta("identity")).versions
        if recorded != self.identity.versions or not self.paths.features.exists():
            return recorded
        with FeatureFile(self.paths.features) as file:
            return dict(file.attributes.get("versions", {}))

    def _remove_temporary_files(self) -> None:
        """Remove the files that a killed run was writing: only those named in its journal."""
        folders = {path.parent for path in (self.paths.features, self.paths.clips) if path is not None}
        for name in self._journal.meta("temporary"):
            for folder in folders if is_temporary_name(name) else ():
                with suppress(OSError):
                    (folder / name).unlink()
        self._journal.set_meta("temporary", [])

    def state(self, video: str, size_bytes: int, mtime_ns: int) -> State:
        """Return the state of a video, regardless of ``retry_failed``.

        ``done``: in the feature file; ``journaled``: in the journal; ``failed``: failed; ``changed``:
        finished when its file had another size or modification time; ``new``: none of these.
        """
        found = self._journal.finished(video)
        if found is None:
            return "new"
        if (found.size_bytes, found.mtime_ns) != (size_bytes, mtime_ns):
            return "changed"
        if found.status == "failed":
            return "failed"
        return "journaled" if found.in_journal else "done"

    def is_done(self, video: str, size_bytes: int, mtime_ns: int) -> str | None:
        """Return the status of a finished video, None for one that must be processed.

        Also None if the file's size or time has changed, and for failed videos with ``retry_failed``.
        """
        found = self._journal.finished(video)
        if found is None or (found.size_bytes, found.mtime_ns) != (size_bytes, mtime_ns):
            return None
        return None if found.status == "failed" and self._options.retry_failed else found.status

    def has_changed(self, video: str, size_bytes: int, mtime_ns: int) -> bool:
        """Return whether a finished video of this name had another size or time: it is processed again."""
        return self.state(video, size_bytes, mtime_ns) == "changed"

    def append_clips(self, video: str, rows: ClipRows) -> None:
        """Add clips of a video that is being read, in order; they are kept once it is committed.

        Does nothing without a clip file.
        """
        if self.paths.clips is not None:
            features = self._checked(rows.features, leading=(len(rows.start_frame),))
            self._journal.append_clips(video, replace(rows, features=features))

    def commit(self, *rows: VideoRow) -> None:
        """Store finished videos; all are on disk when this returns, unless not ``durable``.

        The last ``n_clips`` clips appended for each, with every crop, become its clips; earlier ones, of an
        attempt that failed, are deleted.
        """
        n_crops = 0 if self.paths.clips is None else self._n_crops
        self._journal.commit([self._storable(row) for row in rows], n_crops=n_crops)

    def _storable(self, row: VideoRow) -> VideoRow:
        if "\0" in row.video:
            raise StoreError("a video's name contains a NUL character", subject=ascii(row.video))
        features = {} if row.status == "failed" else self._checked(row.features, leading=())
        error = row.error and row.error.encode(errors="backslashreplace").decode()  # it may quote any bytes
        return replace(row, features=features, error=error)

    def finish(self, *, complete: bool, skipped: Sequence[tuple[str, str]] = ()) -> Summary:
        """Write the files; with ``complete``, then delete the journal and close the store.

        Parameters
        ----------
        complete
            False after an interruption: it is recorded in the file, and the journal stays for the next run.
        skipped
            (path, reason) of skipped files, for the report.

        Raises
        ------
        PcaError
            With ``complete``, if fewer videos succeeded than components are requested.
        """
        self._journal.drop_uncommitted_clips()
        try:
            digest = report.write_report(self.paths.report, self._report_lines(skipped), self._journal)
            message = self._assembler.reason_not_to_write(complete=complete)
            written = [] if message else self._assembler.write(complete=complete, report_sha256=digest)
        except StoreError as error:
            error.hint = f"finished videos are safe in {self.paths.journal.name}: {error.hint or 'run again'}"
            raise
        summary = self._summary((self.paths.report, *written), message)
        if complete:
            self._is_open = False
            # All files are written. If the journal cannot be deleted, the next run recognises by its
            # digests that this run is finished.
            with suppress(StoreError):
                self._journal.delete()
            self._release_clips()
        return summary

    def close(self) -> None:
        """Unlock the output. The journal stays for the next run, unless it is empty."""
        if not self._is_open:
            return
        self._is_open = False
        with suppress(StoreError):  # an error here must not replace an earlier one
            if self._journal.is_new or not (self._journal.count() or self._journal.meta("overwrite")):
                self._journal.delete()
        self._journal.close()
        self._release_clips()

    def _release_clips(self) -> None:
        if self._clip_lock is not None:
            self._clip_lock.release()
        self._clip_lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _report_lines(self, skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
        of_journal = (
            (row.video, report.line_of_row(row)) for row in self._journal.rows(self.identity.layer_sizes)
        )
        of_skipped = sorted((path, report.line_of_skipped(path, why)) for path, why in skipped)
        streams = (of_journal, self._journal.earlier_lines(), of_skipped)
        latest = None
        # heapq.merge is stable: of equal names the journal's line comes first, and the others are dropped.
        for video, line in heapq.merge(*streams, key=lambda pair: pair[0]):
            if video != latest:
                yield line
            latest = video

    def _summary(self, written: tuple[Path, ...], message: str | None) -> Summary:
        counts = self._journal.counts()
        n_rows = 0
        if self.paths.features.exists():
            with FeatureFile(self.paths.features) as file:
                n_rows = len(file)
        n_ok, n_partial, n_failed = (counts.get(status, 0) for status in ("ok", "partial", "failed"))
        return Summary(written, n_rows, n_ok, n_partial, n_failed, message)

    def _checked(
        self, features: dict[str, NDArray[np.float32]], leading: tuple[int, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the features in the order of the identity's layers; ValueError where a shape is wrong."""
        for layer, size in self.identity.layer_sizes.items():
            shape = features[layer].shape if layer in features else None
            if shape != (*leading, size):
                raise ValueError(f"{layer}: {shape} instead of {(*leading, size)}")
        return {layer: features[layer] for layer in self.identity.layer_sizes}
