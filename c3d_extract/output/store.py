"""One run's output: each finished video goes into the journal, the files are written at the end."""

from __future__ import annotations

import heapq
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from c3d_extract.errors import StoreError
from c3d_extract.files import is_temporary_name
from c3d_extract.output import report
from c3d_extract.output.assemble import Assembler
from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.output.identity import NO_IDENTITY, RunIdentity
from c3d_extract.output.journal import Journal
from c3d_extract.output.lock import ClipLock
from c3d_extract.output.resume import EarlierFiles

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
"""What is known of a video before a run; see `RunStore.state`."""


@dataclass(frozen=True)
class Summary:
    """What a run left behind."""

    written: tuple[Path, ...]
    """The files that were put in place, the feature file last; without it when nothing could be written."""
    n_rows: int
    """Rows of the feature file as it is now; 0 when there is none."""
    n_ok: int
    n_partial: int
    n_failed: int
    """Videos by status, those of earlier runs on this output included."""
    message: str | None = None
    """Why no feature file was written, if so."""


class RunStore:
    """Takes the rows of one run and writes its files; a context manager, for one thread.

    Made by `open`. Every method raises `StoreError` where a file cannot be read or written.
    """

    def __init__(self, options: StoreOptions, assembler: Assembler, journal: Journal) -> None:
        self.paths = assembler.paths
        self.identity = assembler.identity
        self.warnings: list[str] = []
        """What of earlier runs could not be used, and what cannot be guaranteed here."""
        self.versions_before: dict[str, str] = {}
        """Versions, device and batch size that the run that is resumed recorded; empty with ``overwrite``."""
        self._options = options
        self._journal = journal
        self._assembler = assembler
        self._clip_lock: ClipLock | None = None
        self._is_open = True

    @classmethod
    def open(cls, options: StoreOptions, identity: RunIdentity) -> Self:
        """Open the output for a run, exclusively; everything that can be refused is refused here.

        Parameters
        ----------
        options
            Which files, and how.
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
        # Looked at before anything is made, and in `_begin` again, when no other run can change them.
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
        """Look at an output as `open` would, and raise what it would, without changing anything there.

        Not for writing: what it does goes into a copy of the journal, which is deleted at the end. Without
        an identity (where the weights are not downloaded yet), no settings are compared.
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
        """Lock the clip file, remove what a killed run left, and begin."""
        for folder in sorted(unlocked):
            where = f"the file system of {folder.absolute()} cannot lock files"
            self.warnings.append(f"{where}: start no second run on the same files")
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
            (self._journal.n_not_finite, "hold features that are not finite"),
        ):
            if n:
                self.warnings.append(f"the rows of {n} videos in {name} {what}: those videos are done again")
        self.warnings += kept.warnings

    def _earlier_versions(self) -> dict[str, str]:
        begun = RunIdentity.from_json(self._journal.meta("identity")).versions
        if begun != self.identity.versions or not self.paths.features.exists():
            return begun
        with FeatureFile(self.paths.features) as file:
            return dict(file.attributes.get("versions", {}))

    def _remove_temporary_files(self) -> None:
        """Remove the files that a killed run was writing: only names that its journal holds."""
        folders = {path.parent for path in (self.paths.features, self.paths.clips) if path is not None}
        for name in self._journal.meta("temporary"):
            for folder in folders if is_temporary_name(name) else ():
                with suppress(OSError):
                    (folder / name).unlink()
        self._journal.set_meta("temporary", [])

    def state(self, video: str, size_bytes: int, mtime_ns: int) -> State:
        """Say what is known of a video, whatever ``retry_failed``.

        ``done`` is in the feature file, ``journaled`` in the journal; ``failed`` failed; ``changed`` was
        finished when its file had another size or time; ``new`` is none of them.
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
        """Return the status of a video that needs no work, None for one to be done.

        None as well where the file's size or time changed, and for failed ones with ``retry_failed``.
        """
        found = self._journal.finished(video)
        if found is None or (found.size_bytes, found.mtime_ns) != (size_bytes, mtime_ns):
            return None
        return None if found.status == "failed" and self._options.retry_failed else found.status

    def has_changed(self, video: str, size_bytes: int, mtime_ns: int) -> bool:
        """Say whether a finished video of this name had another size or time: it will be done again."""
        return self.state(video, size_bytes, mtime_ns) == "changed"

    def append_clips(self, video: str, rows: ClipRows) -> None:
        """Add clips of a video that is being read, in order; they count once it is committed.

        Does nothing without a clip file.
        """
        if self.paths.clips is not None:
            features = self._checked(rows.features, leading=(len(rows.start_frame),))
            self._journal.append_clips(video, replace(rows, features=features))

    def commit(self, row: VideoRow) -> None:
        """Store a finished video; it is on the disk when this returns.

        The last ``row.n_clips`` clips appended for it become its clips; earlier ones, of an attempt that
        failed, are deleted.
        """
        if "\0" in row.video:
            raise StoreError("a video's name holds a NUL character", subject=ascii(row.video))
        features = {} if row.status == "failed" else self._checked(row.features, leading=())
        error = row.error and row.error.encode(errors="backslashreplace").decode()  # it may quote any bytes
        self._journal.commit(
            replace(row, features=features, error=error), with_clips=self.paths.clips is not None
        )

    def finish(self, *, complete: bool, skipped: Sequence[tuple[str, str]] = ()) -> Summary:
        """Write the files; with ``complete`` the journal is deleted after that, and the store closed.

        Parameters
        ----------
        complete
            False after an interruption: the file says so, and the journal stays for the next run.
        skipped
            (path, why) of files that were skipped, for the report.

        Raises
        ------
        PcaError
            With ``complete``, where fewer videos succeeded than components are asked for.
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
            # All is written. A journal that could not be deleted holds the digests of these files, by which
            # the next run sees that this one ended.
            with suppress(StoreError):
                self._journal.delete()
            self._release_clips()
        return summary

    def close(self) -> None:
        """Unlock the output. The journal stays for the next run, unless it holds nothing."""
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
