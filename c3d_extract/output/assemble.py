"""From the journal, and the file that is extended, to the files of an output."""

from __future__ import annotations

import heapq
import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.output.feature_file import (
    VIDEO_COLUMNS,
    FeatureFile,
    TableRow,
    batches,
    save_basis,
    write_table,
)
from c3d_extract.output.pca_basis import fit, l2_normalised
from c3d_extract.output.resume import read_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.output.feature_file import Kind
    from c3d_extract.output.journal import Journal
    from c3d_extract.output.paths import OutputPaths
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.output.records import JSON, RunIdentity

__all__ = ["Assembler"]


@dataclass
class Assembler:
    """Writes the feature file, and the clip file and the basis where they are asked for.

    All rows pass through in order of name, so the files do not tell in which order, or in how many
    runs, the videos were done.
    """

    paths: OutputPaths
    identity: RunIdentity
    journal: Journal
    l2: bool
    n_components: int | None
    """Components to fit, None for none."""
    basis: PcaBasis | None
    """Given, or kept from the file that is extended; else it is fitted when files are written."""
    unusable: frozenset[str] = frozenset()
    """Videos whose rows in the file that is extended are not kept."""

    def why_not(self, *, complete: bool) -> str | None:
        """Return why nothing can be written yet, None when it can; `PcaError` if it never will."""
        n = self.journal.count_rows()
        if self.n_components is not None and self.basis is None and n < self.n_components:
            lack = f"{self.n_components} components need as many videos, {n} succeeded"
            if complete:
                hint = "they are safe there: add videos, or --overwrite with a smaller --pca"
                raise PcaError(lack, subject=self.paths.journal, hint=hint)
            return f"{lack} so far: no feature file yet, {self.paths.journal.name} keeps them"
        if not complete and self.journal.count() == 0:
            return "no video was finished"
        return None

    def write(self, *, complete: bool, report_sha256: str) -> list[Path]:
        """Write the files, the feature file last; return those that were written."""
        found = read_attributes(self.paths.features, "features")
        is_complete = found.get("complete") and found.get("report_sha256") == report_sha256
        if self.journal.count() == 0 and self._extends and is_complete and not self.unusable:
            return []  # nothing new: the files stay as they are
        written = []
        basis = self.basis
        if self.n_components is not None and basis is None:
            basis = self._fit(self.n_components)
            written.append(self.paths.basis)
        attributes = self._attributes(complete=complete)
        beside = {"report_sha256": report_sha256}
        if self.paths.clips is not None:
            beside["clips_sha256"] = self._write_clips(self.paths.clips, attributes)
            written.append(self.paths.clips)
        self._write_features(basis, attributes, beside)
        return [*written, self.paths.features]

    @property
    def _extends(self) -> bool:
        return bool(self.journal.meta("extends"))

    def _attributes(self, *, complete: bool) -> dict[str, JSON]:
        return {
            "versions": self.identity.versions,
            "settings": self.identity.settings,
            "weights": self.identity.weights,
            "layer_sizes": self.identity.layer_sizes,
            "complete": complete,
        }

    def _fit(self, n_components: int) -> PcaBasis:
        factories = {layer: partial(self._averages, layer) for layer in self.identity.layer_sizes}
        provenance = {"settings": self.identity.settings, "weights": self.identity.weights}
        basis = fit(factories, n_components, name=self.paths.basis.name, provenance=provenance)
        save_basis(self.paths.basis, basis, ledger=self.journal)
        return basis

    def _averages(self, layer: str) -> Iterator[NDArray[np.float32]]:
        for block in batches(row for row in self.journal.rows(self.identity.layer_sizes) if row.features):
            yield self._normalised(np.stack([row.features[layer] for row in block]))

    def _normalised(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        return l2_normalised(X) if self.l2 else X

    def _write_features(
        self, basis: PcaBasis | None, attributes: dict[str, JSON], beside: dict[str, str]
    ) -> None:
        sizes = self.identity.layer_sizes
        if basis is not None:
            sizes = {layer: len(basis.layers[layer].components) for layer in sizes}
            attributes = {**attributes, "pca_basis": basis.name, "pca_sha256": basis.sha256}
        self._write(self.paths.features, self._video_rows(basis), sizes, attributes, beside)

    def _write_clips(self, path: Path, attributes: dict[str, JSON]) -> str:
        """Write the clip file; return its digest."""
        records = (TableRow(*record) for record in self.journal.clips(self.identity.layer_sizes))
        self._write(path, records, self.identity.layer_sizes, attributes, {})
        return str(read_attributes(path, "clips")["content_sha256"])

    def _write(
        self,
        path: Path,
        ours: Iterable[TableRow],
        sizes: dict[str, int],
        attributes: dict[str, JSON],
        beside: dict[str, str],
    ) -> None:
        kind: Kind = "features" if path == self.paths.features else "clips"
        with ExitStack() as files:
            earlier: Iterable[TableRow] = ()
            if self._extends:
                file = files.enter_context(FeatureFile(path))
                _check_sizes(file, sizes)
                earlier = (row for row in file.rows(sizes) if row.video not in self.unusable)
            write_table(
                path,
                kind=kind,
                layers=sizes,
                rows=_merged(ours, earlier),
                attributes=attributes,
                beside=beside,
                ledger=self.journal,
            )

    def _video_rows(self, basis: PcaBasis | None) -> Iterator[TableRow]:
        """Yield the journal's videos as they are to be stored, failed ones without values."""
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
    """Refuse a file whose rows cannot stand beside those of this run, whatever its attributes say."""
    found = {layer: file.size_of(layer) for layer in file.layers}
    if found != sizes:
        reason = f"holds rows of {json.dumps(found)} values, and this run's have {json.dumps(sizes)}"
        raise StoreError(reason, subject=file.path, hint="--overwrite starts afresh")


def _merged(ours: Iterable[TableRow], earlier: Iterable[TableRow]) -> Iterator[TableRow]:
    """Merge two streams sorted by video; a video of ours, even a failed one, hides its earlier rows."""
    tagged = (((row, True) for row in ours), ((row, False) for row in earlier))
    latest = None
    for row, is_ours in heapq.merge(*tagged, key=lambda pair: pair[0].video):  # of equal names ours is first
        if is_ours:
            latest = row.video
        if row.scalars is not None and (is_ours or row.video != latest):
            yield row
