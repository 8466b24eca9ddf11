"""One run's output: each finished video goes into the journal, the files are written at the end."""

from __future__ import annotations

import heapq
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.files import is_temporary_name
from c3d_extract.output import report
from c3d_extract.output.assemble import Assembler
from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.output.journal import Journal
from c3d_extract.output.lock import ClipLock
from c3d_extract.output.paths import OutputPaths
from c3d_extract.output.records import ClipRows, RunIdentity, State, Summary, VideoRow
from c3d_extract.output.resume import NOBODY, Prior, check_basis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.output.pca_basis import PcaBasis

__all__ = ["RunStore"]


class RunStore:
    """Takes the rows of one run and writes its files; a context manager, for one thread.

    Made by `open`. Every method raises `StoreError` where a file cannot be read or written.
    """

    def __init__(self, assembler: Assembler, *, retry_failed: bool) -> None:
        self.paths = assembler.paths
        self.identity = assembler.identity
        self.warnings: list[str] = []
        """What of earlier runs could not be used, and what cannot be promised here."""
        self._journal = assembler.journal
        self._assembler = assembler
        self._retry_failed = retry_failed
        self._clip_lock: ClipLock | None = None
        self._is_open = True

    @classmethod
    def open(
        cls,
        output: Path,
        identity: RunIdentity,
        *,
        clips: Path | None = None,
        overwrite: bool = False,
        retry_failed: bool = False,
        pca: int | None = None,
        basis: PcaBasis | None = None,
        l2: bool = False,
    ) -> Self:
        """Open the output for a run, alone; everything that can be refused is refused here.

        Parameters
        ----------
        output
            The feature file; its folder is made where it is missing.
        identity
            Compared with that of an earlier run on the same output.
        clips
            The clip file, or None for none.
        overwrite
            Forget the earlier run. Its feature file stays until the new one takes its place.
        retry_failed
            Do not count failed videos as done.
        pca
            Fit and apply a basis of that many components.
        basis
            Apply this one.
        l2
            Normalise each video's average, before PCA.

        Raises
        ------
        StoreError
            An output cannot be written, or is not ours; `LockedError` while another run writes it,
            `MismatchError` where it, or the basis, was made with other settings or weights.
        PcaError
            The basis, or the number of components, does not fit the layers.
        UsageError
            Two files would have the same name.
        """
        paths = OutputPaths.of(Path(output), None if clips is None else Path(clips))
        paths.check()
        identity = _settled(identity, pca=pca, basis=basis, l2=l2, clips=clips is not None)
        Prior(paths, pca=pca is not None)  # ours or nothing: looked at before anything is made
        unlocked = paths.make_folders()
        with ExitStack() as undo:
            journal = Journal.open(paths.journal, locks=paths.features.parent not in unlocked)
            store = cls(Assembler(paths, identity, journal, l2, pca, basis), retry_failed=retry_failed)
            undo.callback(store.close)
            store._take_over(overwrite=overwrite, unlocked=unlocked)
            undo.pop_all()
        return store

    @classmethod
    def preview(
        cls,
        output: Path,
        identity: RunIdentity | None,
        *,
        clips: Path | None = None,
        overwrite: bool = False,
        retry_failed: bool = False,
        pca: int | None = None,
        basis: PcaBasis | None = None,
        l2: bool = False,
    ) -> Self:
        """Look at an output as `open` would, and raise what it would, without changing anything there.

        Not for writing: what it does goes into a copy of the journal, which is deleted at the end. Without
        an identity (where the weights are not here yet), no settings are compared.
        """
        paths = OutputPaths.of(Path(output), None if clips is None else Path(clips))
        paths.check()
        if identity is not None:
            identity = _settled(identity, pca=pca, basis=basis, l2=l2, clips=clips is not None)
        journal = Journal.open_copy(paths.journal)
        store = cls(Assembler(paths, identity or NOBODY, journal, l2, pca, basis), retry_failed=retry_failed)
        try:
            store._begin(identity, overwrite=overwrite)
        except BaseException:
            store.close()
            raise
        return store

    def _take_over(self, *, overwrite: bool, unlocked: set[Path]) -> None:
        """Take the clip file, clear away what a killed run left, and begin."""
        for folder in sorted(unlocked):
            where = f"the file system of {folder.absolute()} cannot lock files"
            self.warnings.append(f"{where}: start no second run on the same files")
        lock = self.paths.clip_lock
        if lock is not None and lock.parent not in unlocked:
            self._clip_lock = ClipLock(lock)
        if not self._journal.is_new:
            self._remove_temporary_files()
        self._begin(self.identity, overwrite=overwrite)

    def _begin(self, identity: RunIdentity | None, *, overwrite: bool) -> None:
        # The files are looked at again, now that nobody else can change them.
        prior = Prior(self.paths, pca=self._assembler.n_components is not None)
        kept = prior.begin(self._journal, identity, overwrite=overwrite)
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

    def _remove_temporary_files(self) -> None:
        """Remove the files that a killed run was writing: only names that its journal holds."""
        folders = {path.parent for path in (self.paths.features, self.paths.clips) if path is not None}
        for name in self._journal.meta("temporary"):
            for folder in folders if is_temporary_name(name) else ():
                with suppress(OSError):
                    (folder / name).unlink()
        self._journal.set_meta("temporary", [])

    def versions_before(self) -> dict[str, str]:
        """Return what the run that is gone on with wrote down; this one's own where it is the first."""
        begun = RunIdentity.from_json(self._journal.meta("identity")).versions
        if begun != self.identity.versions or not self.paths.features.exists():
            return begun
        with FeatureFile(self.paths.features) as file:
            return dict(file.attributes.get("versions", {}))

    def state(self, video: str, size_bytes: int, mtime_ns: int) -> State:
        """Say what is known of a video; ``retry_failed`` plays no part.

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
        return None if found.status == "failed" and self._retry_failed else found.status

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

        The last ``row.n_clips`` clips appended for it become its clips; others vanish.
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
            (path, why) of files that were passed over, for the report.

        Raises
        ------
        PcaError
            With ``complete``, where fewer videos succeeded than components are asked for.
        """
        self._journal.drop_orphans()
        try:
            digest = report.write_report(self.paths.report, self._report_lines(skipped), self._journal)
            message = self._assembler.why_not(complete=complete)
            written = [] if message else self._assembler.write(complete=complete, report_sha256=digest)
        except StoreError as error:
            error.hint = f"finished videos are safe in {self.paths.journal.name}: {error.hint or 'run again'}"
            raise
        summary = self._summary((self.paths.report, *written), message)
        if complete:
            self._is_open = False
            with suppress(
                StoreError
            ):  # all is written; the next run sees by the file's digest that this one ended
                self._journal.delete()
            self._release_clips()
        return summary

    def close(self) -> None:
        """Unlock the output. The journal stays for the next run, unless it holds nothing."""
        if not self._is_open:
            return
        self._is_open = False
        with suppress(StoreError):  # what could not be deleted must not hide an earlier error
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
        ours = ((row.video, report.line_of_row(row)) for row in self._journal.rows(self.identity.layer_sizes))
        passed_over = sorted((path, report.line_of_skipped(path, why)) for path, why in skipped)
        streams = (ours, self._journal.earlier_lines(), passed_over)
        latest = None
        for video, line in heapq.merge(*streams, key=lambda pair: pair[0]):  # equal names in this order
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


def _settled(
    identity: RunIdentity, *, pca: int | None, basis: PcaBasis | None, l2: bool, clips: bool
) -> RunIdentity:
    """Add what the store itself makes different, so that it is always compared; raise what cannot be."""
    for layer, size in identity.layer_sizes.items():
        if pca is not None and not 1 <= pca <= size:
            hint = f"ask for 1 to {size}"
            raise PcaError(f"cannot take {pca} components from {size} dimensions", subject=layer, hint=hint)
    if basis is not None:
        check_basis(basis, identity.layer_sizes, identity.weights, {**identity.settings, "l2": l2})
    own = {"l2": l2, "pca": pca, "pca_from_sha256": basis.sha256 if basis else None, "clips": clips}
    return replace(identity, settings={**own, **identity.settings})
