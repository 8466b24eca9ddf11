"""One run's output: what is finished is in the journal, what is asked for is written at the end.

Two kinds of run. One *starts afresh* (there was no output, or ``--overwrite``, or an interrupted one is
resumed): all its rows are in the journal. One *extends* a finished feature file: rows of the file that the
journal does not know are copied into the new file.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract import pca as pca_module
from c3d_extract.errors import MismatchError, PcaError, StoreError, UsageError
from c3d_extract.store import report
from c3d_extract.store.files import (
    VIDEO_COLUMNS,
    FeatureFile,
    TableRow,
    load_basis,
    save_basis,
    write_table,
)
from c3d_extract.store.journal import ROWS_AT_ONCE, Journal
from c3d_extract.store.records import JSON, ClipRows, RunIdentity, Summary, VideoRow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Self

    from numpy.typing import NDArray

    from c3d_extract.pca import PcaBasis

__all__ = ["OutputPaths", "RunStore"]


@dataclass(frozen=True)
class OutputPaths:
    """The files of one output; all names derive from the feature file's."""

    features: Path
    clips: Path | None = None

    @property
    def journal(self) -> Path:
        """``feats.h5.partial``: there while a run is not finished."""
        return self.features.with_name(f"{self.features.name}.partial")

    @property
    def report(self) -> Path:
        """``feats.report.jsonl``."""
        return self.features.with_name(f"{self.features.stem}.report.jsonl")

    @property
    def basis(self) -> Path:
        """``feats.pca.h5``."""
        return self.features.with_name(f"{self.features.stem}.pca.h5")

    def check(self) -> None:
        """Raise unless the names differ, the folders can be written, and nothing is in the way."""
        if self.clips is not None and self.clips.resolve() in {
            path.resolve() for path in (self.features, self.journal, self.report, self.basis)
        }:
            raise UsageError("--clips and --output need files of their own", subject=self.clips)
        for path in filter(None, (self.features, self.clips)):
            if path.is_dir():
                raise StoreError("is a folder", subject=path, hint="name a file with -o")
            _check_writable(path.parent)


class RunStore:
    """Takes the rows of one run and writes its files; a context manager, for one thread.

    Raises `StoreError` where a file cannot be read or written, `LockedError` while another run writes the
    same output, `MismatchError` where the output was made with other settings or weights.
    """

    def __init__(self, paths: OutputPaths, identity: RunIdentity, journal: Journal) -> None:
        self.paths = paths
        self.identity = identity
        self._journal = journal
        self._retry_failed = False
        self._pca: int | None = None
        self._basis: PcaBasis | None = None  # given, or kept from the file that is extended
        self._fitted: PcaBasis | None = None
        self._l2 = False
        self._open = True

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
        """
        paths = OutputPaths(Path(output), None if clips is None else Path(clips))
        identity = _with_store_settings(identity, pca=pca, basis=basis, l2=l2, clips=clips is not None)
        _check_basis(identity, pca, basis, l2=l2)
        paths.check()
        _read_attributes(paths.features, "features")  # ours or nothing, before a journal is made
        with ExitStack() as undo:
            store = cls(paths, identity, Journal.open(paths.journal))
            undo.callback(store.close)
            store._retry_failed, store._pca, store._basis, store._l2 = retry_failed, pca, basis, l2
            store._start(overwrite=overwrite)
            undo.pop_all()
        return store

    def is_done(self, video: str, size_bytes: int, mtime_ns: int) -> str | None:
        """Return the status of a video that needs no work, None for one to be done.

        None as well where the file's size or time changed, and for failed ones with ``retry_failed``.
        """
        found = self._journal.finished(video)
        if found is None or found[1:] != (size_bytes, mtime_ns):
            return None
        return None if found[0] == "failed" and self._retry_failed else found[0]

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
        self._journal.commit(replace(row, features=features), with_clips=self.paths.clips is not None)

    def finish(self, *, complete: bool, skipped: Sequence[tuple[str, str]] = ()) -> Summary:
        """Write the files; with ``complete`` the journal is deleted after that.

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
            report.write_report(self.paths.report, self._report_lines(skipped))
            message = self._why_not(complete=complete)
            written = [] if message else self._write_tables(complete=complete)
        except StoreError as error:
            error.hint = f"finished videos are safe in {self.paths.journal}: free space and run again"
            raise
        counts = self._journal.counts()
        n_rows = _count_rows(self.paths.features)
        if complete:
            self._open = False
            self._journal.delete()
        return Summary(
            written=(self.paths.report, *written),
            n_rows=n_rows,
            n_ok=counts.get("ok", 0),
            n_partial=counts.get("partial", 0),
            n_failed=counts.get("failed", 0),
            message=message,
        )

    def close(self) -> None:
        """Unlock the output. The journal stays for the next run, unless it holds nothing."""
        if not self._open:
            return
        self._open = False
        with suppress(StoreError):  # a journal that cannot be deleted is not worth hiding another error
            if self._journal.is_new or not (self._journal.count() or self._journal.meta("overwrite")):
                self._journal.delete()
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # What was there before

    def _start(self, *, overwrite: bool) -> None:
        found = _read_attributes(self.paths.features, "features")
        if overwrite:
            self._reset(None, overwrite=True)
        elif self._journal.is_new or (
            found.get("complete") and found.get("run_id") == self._journal.meta("run_id")
        ):
            self._reset(found, overwrite=False)  # no journal, or one whose run has finished
        self._check_identity(found)
        self._check_neighbours(found)
        if self._extends and not found:
            self._journal.set_meta("extends", False)  # the file is gone: its videos are done again
        if self._extends:
            self._keep_basis(found)
            self._remember()

    def _reset(self, found: dict[str, JSON] | None, *, overwrite: bool) -> None:
        # A provisional basis of a lost journal cannot be kept: all its videos are projected anew.
        usable = bool(found) and bool(found.get("complete") or self._pca is None) if found else False
        if found:
            self._refuse_differences(RunIdentity(**_identity_attributes(found)), self.paths.features)
        self._journal.reset(
            {
                "identity": self.identity.to_json(),
                "run_id": uuid.uuid4().hex,
                "base_run_id": found.get("run_id") if found else None,
                "extends": usable,
                "overwrite": overwrite,
            }
        )

    @property
    def _extends(self) -> bool:
        return bool(self._journal.meta("extends"))

    def _check_identity(self, found: dict[str, JSON]) -> None:
        kept = RunIdentity.from_json(self._journal.meta("identity"))
        self._refuse_differences(kept, self.paths.journal)
        if self._extends and found:
            self._refuse_differences(RunIdentity(**_identity_attributes(found)), self.paths.features)

    def _refuse_differences(self, earlier: RunIdentity, path: Path) -> None:
        if differences := earlier.differences(self.identity):
            raise MismatchError(
                "was made with other settings",
                differences=differences,
                subject=path,
                hint="take another -o, or --overwrite to start afresh",
            )

    def _check_neighbours(self, found: dict[str, JSON]) -> None:
        """Refuse to replace files of another run that happen to have our names."""
        clips = _read_attributes(self.paths.clips, "clips") if self.paths.clips else {}
        basis = _read_attributes(self.paths.basis, "pca") if self._pca else {}
        if self._extends and found and self.paths.clips and not clips:
            raise StoreError(
                "the clips of the videos done earlier are missing",
                subject=self.paths.clips,
                hint="put the file back, or --overwrite to start afresh",
            )
        if self._journal.meta("overwrite"):
            return
        known = {self._journal.meta("run_id"), self._journal.meta("base_run_id")}
        named = ((self.paths.features, found), (self.paths.clips, clips), (self.paths.basis, basis))
        for path, attributes in named:
            if attributes and not self._same_run(attributes, known):
                raise StoreError(
                    "belongs to another run",
                    subject=path,
                    hint="move it away, take another name, or --overwrite to replace it",
                )

    def _same_run(self, attributes: dict[str, JSON], known: set[JSON]) -> bool:
        # A basis is kept while its file is extended, so it may be older than the run that made the file.
        return attributes.get("run_id") in known or (attributes.get("kind") == "pca" and self._extends)

    def _keep_basis(self, found: dict[str, JSON]) -> None:
        if self._pca is None:
            return
        expected = found.get("pca_sha256")
        try:
            self._basis = load_basis(self.paths.basis)
        except PcaError as error:
            raise StoreError(
                f"more videos need the basis the file was made with ({error.reason})",
                subject=self.paths.basis,
                hint="put it back, or --overwrite to start afresh",
            ) from error
        if self._basis.sha256 != expected:
            raise StoreError(
                f"is not the basis {self.paths.features.name} was made with (its sha256 differs)",
                subject=self.paths.basis,
                hint="put the right one back, or --overwrite to start afresh",
            )

    def _remember(self) -> None:
        """Learn which videos the feature file and the report already know."""
        with FeatureFile(self.paths.features) as file:
            rows = (
                (
                    name,
                    "ok",
                    int(row["size_bytes"]),
                    int(row["mtime_ns"]),
                    True,
                    report.line_of_columns(name, row),
                )
                for name, row in file.scalars()
            )
            self._journal.remember(chain(_lines_of_report(self.paths.report), rows))

    # What is written

    def _why_not(self, *, complete: bool) -> str | None:
        """Return why no feature file is to be written, None when one is."""
        n = self._journal.count_rows()
        if self._pca is not None and self._basis is None and n < self._pca:
            lack = f"{self._pca} components need as many videos, {n} succeeded"
            if complete:
                raise PcaError(
                    lack,
                    subject=self.paths.journal,
                    hint="they are safe there: add videos, or --overwrite with a smaller --pca",
                )
            return f"{lack} so far: no feature file yet, the journal keeps them"
        if not complete and self._journal.count() == 0:
            return "no video was finished"
        return None

    def _write_tables(self, *, complete: bool) -> list[Path]:
        found = _read_attributes(self.paths.features, "features")
        if self._journal.count() == 0 and self._extends and found.get("complete"):
            return []  # nothing new: the files stay as they are
        written = []
        if self._pca is not None and self._basis is None:
            written.append(self._fit_basis())
        attributes = self._attributes(complete=complete)
        with ExitStack() as files:
            if self.paths.clips is not None:
                rows = _merged(self._clip_rows(), self._earlier_rows(self.paths.clips, files))
                sizes = self.identity.layer_sizes
                write_table(self.paths.clips, kind="clips", layers=sizes, rows=rows, attributes=attributes)
                written.append(self.paths.clips)
            rows = _merged(self._video_rows(), self._earlier_rows(self.paths.features, files))
            sizes = self._written_sizes()
            attributes |= self._basis_attributes()
            write_table(self.paths.features, kind="features", layers=sizes, rows=rows, attributes=attributes)
        return [*written, self.paths.features]

    def _fit_basis(self) -> Path:
        factories = {layer: partial(self._averages, layer) for layer in self.identity.layer_sizes}
        provenance = {"settings": self.identity.settings, "weights": self.identity.weights}
        basis = pca_module.fit(factories, self._pca or 0, name=self.paths.basis.name, provenance=provenance)
        save_basis(self.paths.basis, basis, {"run_id": self._journal.meta("run_id")})
        self._fitted = basis
        return self.paths.basis

    def _averages(self, layer: str) -> Iterator[NDArray[np.float32]]:
        for block in _in_blocks(row for row in self._journal.rows(self.identity.layer_sizes) if row.features):
            yield self._normalised(np.stack([row.features[layer] for row in block]))

    def _normalised(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return pca_module.l2_normalised(X) if self._l2 else X

    def _attributes(self, *, complete: bool) -> dict[str, JSON]:
        return {
            "run_id": self._journal.meta("run_id"),
            "versions": self.identity.versions,
            "settings": self.identity.settings,
            "weights": self.identity.weights,
            "layer_sizes": self.identity.layer_sizes,
            "complete": complete,
        }

    @property
    def _projection(self) -> PcaBasis | None:
        return self._basis or self._fitted

    def _basis_attributes(self) -> dict[str, JSON]:
        basis = self._projection
        return {} if basis is None else {"pca_basis": basis.name, "pca_sha256": basis.sha256}

    def _written_sizes(self) -> dict[str, int]:
        sizes, basis = self.identity.layer_sizes, self._projection
        return sizes if basis is None else {layer: len(basis.layers[layer].components) for layer in sizes}

    def _video_rows(self) -> Iterator[TableRow]:
        layers, basis = list(self.identity.layer_sizes), self._projection
        for block in _in_blocks(self._journal.rows(self.identity.layer_sizes)):
            good = [row for row in block if row.features]
            final = []
            for layer in layers if good else ():
                X = self._normalised(np.stack([row.features[layer] for row in good]))
                final.append(X if basis is None else basis.layers[layer].apply(X))
            vectors = {row.video: [X[i] for X in final] for i, row in enumerate(good)}
            for row in block:
                scalars = tuple(getattr(row, name) for name in VIDEO_COLUMNS) if row.features else None
                yield TableRow(row.video, scalars, vectors.get(row.video, []))

    def _clip_rows(self) -> Iterator[TableRow]:
        return (TableRow(*record) for record in self._journal.clips(self.identity.layer_sizes))

    def _earlier_rows(self, path: Path, files: ExitStack) -> Iterable[TableRow]:
        return files.enter_context(FeatureFile(path)).rows() if self._extends else ()

    def _report_lines(self, skipped: Sequence[tuple[str, str]]) -> Iterator[str]:
        ours = ((row.video, report.line_of_row(row)) for row in self._journal.rows(self.identity.layer_sizes))
        passed_over = sorted((path, report.line_of_skipped(path, why)) for path, why in skipped)
        latest = None
        for video, line in heapq.merge(
            ours, self._journal.earlier_lines(), passed_over, key=lambda pair: pair[0]
        ):  # of equal names the first comes first
            if video != latest:
                yield line
            latest = video

    def _checked(
        self, features: dict[str, NDArray[np.float32]], leading: tuple[int, ...]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the features in the order of the identity's layers; ValueError where a shape is wrong."""
        for layer, size in self.identity.layer_sizes.items():
            shape = features[layer].shape if layer in features else None
            if shape != (*leading, size):
                raise ValueError(f"{layer}: {shape} instead of {(*leading, size)}")
        return {layer: features[layer] for layer in self.identity.layer_sizes}


def _merged(ours: Iterable[TableRow], earlier: Iterable[TableRow]) -> Iterator[TableRow]:
    """Merge two streams sorted by video; a video of ours, even a failed one, hides its earlier rows."""
    latest = None
    tagged = heapq.merge(
        ((row, True) for row in ours), ((row, False) for row in earlier), key=lambda pair: pair[0].video
    )
    for row, is_ours in tagged:  # of equal names ours comes first
        if is_ours:
            latest = row.video
        if row.scalars is not None and (is_ours or row.video != latest):
            yield row


def _in_blocks(rows: Iterable[VideoRow]) -> Iterator[list[VideoRow]]:
    block: list[VideoRow] = []
    for row in rows:
        block.append(row)
        if len(block) == ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _with_store_settings(
    identity: RunIdentity, *, pca: int | None, basis: PcaBasis | None, l2: bool, clips: bool
) -> RunIdentity:
    """Add to the settings what the store itself makes different, so that it is always compared."""
    own = {"l2": l2, "pca": pca, "pca_from_sha256": basis.sha256 if basis else None, "clips": clips}
    return replace(identity, settings={**own, **identity.settings})


def _check_basis(identity: RunIdentity, pca: int | None, basis: PcaBasis | None, *, l2: bool) -> None:
    if basis is not None:
        basis.check_takes(identity.layer_sizes)
        _check_provenance(basis, identity.weights, l2=l2)
    for layer, size in identity.layer_sizes.items():
        if pca is not None and not 1 <= pca <= size:
            raise PcaError(f"cannot take {pca} components from {size} dimensions", subject=layer)


def _check_provenance(basis: PcaBasis, weights: dict[str, JSON], *, l2: bool) -> None:
    """Refuse a basis that was fitted on another network's features, or on unlike ones."""
    was = {"weights sha256": basis.provenance.get("weights", {}).get("sha256")}
    was |= {"l2": basis.provenance.get("settings", {}).get("l2")}
    is_now = {"weights sha256": weights.get("sha256"), "l2": l2}
    differences = [
        f"{k}: {v} → {is_now[k]}" for k, v in was.items() if None not in {v, is_now[k]} and v != is_now[k]
    ]
    if differences:
        raise MismatchError(
            "the basis was fitted on other features", differences=differences, subject=basis.name or None
        )


def _read_attributes(path: Path, kind: str) -> dict[str, JSON]:
    """Return the attributes of a file of ours, {} where there is none; `StoreError` for anything else."""
    if not path.exists():
        return {}
    hint = "c3d-extract replaces only its own files: move it away, or take another name"
    try:
        if kind == "pca":
            return dict(load_basis(path).provenance)
        with FeatureFile(path) as file:
            attributes = file.attributes
    except (StoreError, PcaError) as error:
        raise StoreError(f"exists but is not ours ({error.reason})", subject=path, hint=hint) from error
    if attributes["kind"] != kind:
        raise StoreError(f"exists but holds {attributes['kind']}, not {kind}", subject=path, hint=hint)
    return attributes


def _identity_attributes(attributes: dict[str, JSON]) -> dict[str, JSON]:
    return {key: attributes.get(key, {}) for key in ("settings", "weights", "layer_sizes", "versions")}


def _lines_of_report(path: Path) -> Iterator[tuple[str, str, int, int, bool, str]]:
    """Yield what a report says, up to the first damage: what is not known is done again."""
    try:
        for line in report.iterate_report(path):
            if line["status"] in {"ok", "partial", "failed"}:
                size, mtime = int(line["size_bytes"]), int(line["mtime_ns"])
                yield line["video"], line["status"], size, mtime, False, json.dumps(line, ensure_ascii=False)
    except (OSError, ValueError, KeyError, TypeError):
        return


def _count_rows(path: Path) -> int:
    if not path.exists():
        return 0
    with FeatureFile(path) as file:
        return len(file)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"the folder cannot be written ({error.strerror or error})",
            subject=folder,
            hint="take another -o",
        ) from error
