"""Resuming: checks that earlier files are of this package and match this run, and decides what is kept.

A run either *starts from scratch* (no output existed, or ``--overwrite``, or such a run is resumed): all its
rows are in the journal. Or it *extends* a feature file: rows of the file that the journal does not have are
copied into the new file, and a PCA basis fitted for it is kept.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.output import report
from c3d_extract.output.basis_file import load_basis
from c3d_extract.output.feature_file import FeatureFile, read_attributes
from c3d_extract.output.identity import NO_IDENTITY, RunIdentity, refuse_differences
from c3d_extract.output.journal import EarlierVideo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.output.journal import Journal
    from c3d_extract.output.paths import OutputPaths
    from c3d_extract.output.pca_basis import PcaBasis

__all__ = ["EarlierFiles", "Kept"]


class Kept(NamedTuple):
    """What a run keeps of the files of earlier runs."""

    basis: PcaBasis | None = None
    unusable: frozenset[str] = frozenset()
    """Videos whose rows are not kept, as they hold features that are not finite."""
    warnings: tuple[str, ...] = ()


class EarlierFiles:
    """The files of an output before a run; raises `StoreError` for one that this package did not write."""

    def __init__(self, paths: OutputPaths, *, pca: bool) -> None:
        self.paths = paths
        self.features = read_attributes(paths.features, "features")
        self.clips = read_attributes(paths.clips, "clips") if paths.clips else {}
        self.basis = read_attributes(paths.basis, "pca") if pca else {}
        self._pca = pca

    def begin(self, journal: Journal, identity: RunIdentity | None, *, overwrite: bool) -> Kept:
        """Start or resume the run in ``journal``; return what is kept of the files.

        Without an identity, nothing is compared: earlier runs are assumed to have the same settings.

        Raises `MismatchError` where an earlier run was made with another identity, `StoreError` where a
        required file is missing or a file of another run would be replaced.
        """
        if overwrite:
            self._start(journal, identity, overwrite=True)
        elif journal.is_new or self._has_finished(journal):
            self._refuse_other_settings(identity)
            self._start(journal, identity, overwrite=False)
        refuse_differences(RunIdentity.from_json(journal.meta("identity")), identity, journal.path)
        if journal.meta("extends") and not self.features:
            journal.set_meta("extends", value=False)  # the file was deleted: its videos are processed again
        if not journal.meta("overwrite"):
            self._refuse_foreign_files(journal)
        return self._keep(journal, identity) if journal.meta("extends") else Kept()

    def _has_finished(self, journal: Journal) -> bool:
        """Return whether the run was killed after its last file, before deleting the journal."""
        was_written = self.features.get("content_sha256") in journal.meta("written")
        return was_written and bool(self.features.get("complete"))

    def _start(self, journal: Journal, identity: RunIdentity | None, *, overwrite: bool) -> None:
        # If the journal of an interrupted run is lost, its provisional basis is not kept: start over.
        usable = bool(self.features) and (not self._pca or bool(self.features.get("complete")))
        names = ("content_sha256", "clips_sha256", "pca_sha256", "run_id")
        meta = {
            "identity": (identity or NO_IDENTITY).to_json(),
            "base": [self.features[name] for name in names if name in self.features],
            "extends": usable and not overwrite,
            "overwrite": overwrite,
        }
        journal.reset(meta)

    def _refuse_other_settings(self, identity: RunIdentity | None) -> None:
        if self.features:
            refuse_differences(RunIdentity.from_attributes(self.features), identity, self.paths.features)

    def _refuse_foreign_files(self, journal: Journal) -> None:
        """Refuse to replace files that another run or program wrote under the names of this output."""
        known = {*journal.meta("written"), *journal.meta("base")}
        found = [(self.paths.features, self.features), (self.paths.clips, self.clips)]
        if not journal.meta("extends"):  # otherwise the basis is kept, and may be older than both runs
            found.append((self.paths.basis, self.basis))
        hint = "move it away, choose another name, or --overwrite to replace it"
        for path, attributes in found:
            own = {attributes.get(name) for name in ("content_sha256", "sha256", "run_id")}
            if attributes and not own & known:
                raise StoreError("belongs to another run", subject=path, hint=hint)
        path = self.paths.report
        if path.exists() and not (self.features or report.looks_like_a_report(path)):
            raise StoreError("exists but is not a report of c3d-extract", subject=path, hint=hint)

    def _keep(self, journal: Journal, identity: RunIdentity | None) -> Kept:
        """Add the videos that earlier runs finished to the journal; return what else is kept."""
        self._refuse_other_settings(identity)
        if self.paths.clips and not self.clips:
            raise StoreError(
                "the clips of the videos done earlier are missing",
                subject=self.paths.clips,
                hint="restore the file, or --overwrite to start from scratch",
            )
        basis = self._kept_basis() if self._pca else None
        unusable = frozenset().union(*map(_not_finite, filter(None, (self.paths.features, self.paths.clips))))
        warnings = []
        if unusable:
            text = "have features that are not finite: they are dropped, and those videos processed again"
            warnings.append(f"the rows of {len(unusable)} videos in {self.paths.features.name} {text}")
        of_report, warning = self._videos_of_report(journal)
        journal.add_earlier(chain(of_report, self._videos_of_features(unusable)))
        return Kept(basis, unusable, (*warnings, *warning))

    def _videos_of_features(self, unusable: frozenset[str]) -> Iterator[EarlierVideo]:
        with FeatureFile(self.paths.features) as file:
            for name, row in file.scalars():
                if name not in unusable:
                    size, mtime = int(row["size_bytes"]), int(row["mtime_ns"])
                    line = report.line_of_columns(name, row)
                    yield EarlierVideo(name, "ok", size, mtime, has_row=True, report_line=line)

    def _videos_of_report(self, journal: Journal) -> tuple[Iterator[EarlierVideo], list[str]]:
        """Return the report's videos if it was written with the feature file or by this run, and warnings."""
        path = self.paths.report
        if not path.exists():
            return iter(()), []
        digest = report.report_digest(path)
        if digest is not None and digest in {self.features.get("report_sha256"), *journal.meta("written")}:
            return _videos_of_report(path), []
        why = f"{path.name} is not the report written with {self.paths.features.name}"
        return iter(()), [f"{why}: videos that failed in earlier runs are retried"]

    def _kept_basis(self) -> PcaBasis:
        path, hint = self.paths.basis, "restore it, or --overwrite to start from scratch"
        try:
            basis = load_basis(path)
        except PcaError as error:
            reason = f"{self.paths.features.name} can only be extended with its basis ({error.reason})"
            raise StoreError(reason, subject=path, hint=hint) from error
        if basis.sha256 != self.features.get("pca_sha256"):
            reason = f"is not the basis of {self.paths.features.name}: its sha256 differs"
            raise StoreError(reason, subject=path, hint=hint)
        return basis


def _not_finite(path: Path) -> set[str]:
    """Return the videos of a file whose features are not all finite."""
    with FeatureFile(path) as file:
        return {row.video for row in file.rows() if not all(np.isfinite(x).all() for x in row.vectors)}


def _videos_of_report(path: Path) -> Iterator[EarlierVideo]:
    for line in report.iterate_report(path):
        if line["status"] in report.DONE:
            size, mtime = int(line["size_bytes"]), int(line["mtime_ns"])
            text = json.dumps(line, ensure_ascii=False)
            yield EarlierVideo(
                str(line["video"]), line["status"], size, mtime, has_row=False, report_line=text
            )
