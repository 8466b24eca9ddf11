"""Writes the files of an output from the journal and the feature file that is extended."""

from __future__ import annotations

import heapq
import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.files import FileLog
from c3d_extract.output.basis_file import save_basis
from c3d_extract.output.feature_file import FeatureFile, read_attributes
from c3d_extract.output.pca_basis import fit, l2_normalised
from c3d_extract.output.schema import VIDEO_COLUMNS, TableRow
from c3d_extract.output.table import batches, write_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.output.identity import RunIdentity
    from c3d_extract.output.paths import OutputPaths
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.output.schema import Kind, VideoRow
    from c3d_extract.strict_json import JSON

__all__ = ["Assembler"]


class RowSource(FileLog, Protocol):
    """Where the rows come from: a run's `Journal`, or the finished parts of a distributed run."""

    def rows(self, layer_sizes: Mapping[str, int]) -> Iterator[VideoRow]:
        """Yield every video, sorted by name, failed ones with no features; may be called several times."""

    def clips(self, layer_sizes: Mapping[str, int]) -> Iterator[TableRow]:
        """Yield every clip, sorted by video and start; a row without scalars for a video without clips."""

    def count(self) -> int:
        """Return the number of videos."""

    def count_rows(self) -> int:
        """Return the number of videos that have features."""

    def meta(self, key: str) -> JSON:
        """Return, for ``extends``, whether the rows of an existing output are kept."""


@dataclass
class Assembler:
    """Writes the feature file, and the clip file and the basis where they are requested.

    Rows are sorted by name, so the files do not depend on the order in which the videos were processed, nor
    on the number of runs.
    """

    paths: OutputPaths
    identity: RunIdentity
    journal: RowSource
    l2: bool
    n_components: int | None
    """Components to fit, None for none."""
    basis: PcaBasis | None
    """Given, or loaded for the file that is extended; otherwise fitted when files are written."""
    unusable: frozenset[str] = frozenset()
    """Videos whose rows in the file that is extended are not kept."""

    def reason_not_to_write(self, *, complete: bool) -> str | None:
        """Return why nothing can be written yet, None if it can; `PcaError` where it never can."""
        n = self.journal.count_rows()
        if self.n_components is not None and self.basis is None and n < self.n_components:
            reason = f"{self.n_components} components need as many videos, {n} succeeded"
            if complete:
                hint = "they are safe there: add videos, or --overwrite with a smaller --pca"
                raise PcaError(reason, subject=self.paths.journal, hint=hint)
            return f"{reason} so far: no feature file yet, {self.paths.journal.name} keeps them"
        if not complete and self.journal.count() == 0:
            return "no video was finished"
        return None

    def write(self, *, complete: bool, report_sha256: str) -> list[Path]:
        """Write the files, the feature file last; return their paths."""
        found = read_attributes(self.paths.features, "features")
        is_complete = found.get("complete") and found.get("report_sha256") == report_sha256
        if self.journal.count() == 0 and self._extends and is_complete and not self.unusable:
            return []  # nothing new: the files stay as they are
        written = []
        basis = self.basis
        if self.n_components is not None and basis is None:
            basis = self._fit(self.n_components)
            written.append(self.paths.basis)
        attributes = {**self.identity.to_attributes(), "complete": complete}
        companions = {"report_sha256": report_sha256}
        if self.paths.clips is not None:
            companions["clips_sha256"] = self._write_clips(self.paths.clips, attributes)
            written.append(self.paths.clips)
        self._write_features(basis, attributes, companions)
        return [*written, self.paths.features]

    @property
    def _extends(self) -> bool:
        return bool(self.journal.meta("extends"))

    def _fit(self, n_components: int) -> PcaBasis:
        factories = {layer: partial(self._averages, layer) for layer in self.identity.layer_sizes}
        provenance = {"settings": self.identity.settings, "weights": self.identity.weights}
        basis = fit(factories, n_components, name=self.paths.basis.name, provenance=provenance)
        save_basis(self.paths.basis, basis, log=self.journal)
        return basis

    def _averages(self, layer: str) -> Iterator[NDArray[np.float32]]:
        for block in batches(row for row in self.journal.rows(self.identity.layer_sizes) if row.features):
            yield self._normalised(np.stack([row.features[layer] for row in block]))

    def _normalised(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return l2_normalised(X).astype(np.float32) if self.l2 else X

    def _write_features(
        self, basis: PcaBasis | None, attributes: dict[str, JSON], companions: dict[str, str]
    ) -> None:
        """Write the feature file; ``companions`` are the digests of the files that belong to it."""
        sizes = self.identity.layer_sizes
        if basis is not None:
            sizes = {layer: len(basis.layers[layer].components) for layer in sizes}
            attributes = {**attributes, "pca_basis": basis.name, "pca_sha256": basis.sha256}
        self._write("features", self._video_rows(basis), sizes, {**attributes, **companions})

    def _write_clips(self, path: Path, attributes: dict[str, JSON]) -> str:
        """Write the clip file; return its digest."""
        sizes = self.identity.layer_sizes
        self._write("clips", self.journal.clips(sizes), sizes, attributes)
        return str(read_attributes(path, "clips")["content_sha256"])

    def _write(
        self, kind: Kind, rows: Iterable[TableRow], sizes: dict[str, int], attributes: dict[str, JSON]
    ) -> None:
        """Write a table of the journal's rows, and those of the file that is extended."""
        path = self.paths.clips if kind == "clips" and self.paths.clips else self.paths.features
        with ExitStack() as files:
            earlier: Iterable[TableRow] = ()
            if self._extends:
                file = files.enter_context(FeatureFile(path))
                _check_sizes(file, sizes)
                earlier = (row for row in file.rows(sizes) if row.video not in self.unusable)
            merged = _merged(rows, earlier)
            write_table(path, kind=kind, layers=sizes, rows=merged, attributes=attributes, log=self.journal)

    def _video_rows(self, basis: PcaBasis | None) -> Iterator[TableRow]:
        """Yield the journal's videos as they are stored in the file, failed ones without values."""
        layers = list(self.identity.layer_sizes)
        for block in batches(self.journal.rows(self.identity.layer_sizes)):
            good = [row for row in block if row.features]
            final = []
            for layer in layers if good else ():
                X = self._normalised(np.stack([row.features[layer] for row in good]))
                final.append(X if basis is None else basis.layers[layer].apply(X))
            vectors = {row.video: [X[i] for X in final] for i, row in enumerate(good)}
            for row in block:
                scalars = tuple(getattr(row, name) for name in VIDEO_COLUMNS) if row.features else None
                yield TableRow(row.video, scalars, vectors.get(row.video, []))


def _check_sizes(file: FeatureFile, sizes: dict[str, int]) -> None:
    """Refuse a file whose rows have other sizes than those of this run, whatever its attributes say."""
    found = {layer: file.size_of(layer) for layer in file.layers}
    if found != sizes:
        reason = f"holds rows of {json.dumps(found)} values, and this run's have {json.dumps(sizes)}"
        raise StoreError(reason, subject=file.path, hint="--overwrite starts from scratch")


def _merged(of_journal: Iterable[TableRow], earlier: Iterable[TableRow]) -> Iterator[TableRow]:
    """Merge two streams sorted by video; a video of the journal, even a failed one, replaces earlier rows."""
    tagged = (((row, True) for row in of_journal), ((row, False) for row in earlier))
    latest = None
    # heapq.merge is stable: of rows of one video, those of the journal come first.
    for row, is_of_journal in heapq.merge(*tagged, key=lambda pair: pair[0].video):
        if is_of_journal:
            latest = row.video
        if row.scalars is not None and (is_of_journal or row.video != latest):
            yield row
