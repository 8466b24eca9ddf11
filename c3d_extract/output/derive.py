"""Files derived from finished files: a basis fitted on a feature file, a feature file projected on one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import PcaError, StoreError, UsageError
from c3d_extract.output.basis_file import check_basis, load_basis, save_basis
from c3d_extract.output.feature_file import FeatureFile, read_attributes
from c3d_extract.output.pca_basis import PcaBasis, fit
from c3d_extract.output.schema import TableRow
from c3d_extract.output.table import NOT_COPIED, batches, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from c3d_extract.output.schema import Kind
    from c3d_extract.strict_json import JSON

__all__ = ["apply_basis", "fit_basis", "refuse_projected", "settings_of_rows"]


def fit_basis(
    features: Path, n_components: int, output: Path, *, layers: Sequence[str] = (), overwrite: bool = False
) -> PcaBasis:
    """Fit a basis on the rows of a feature or clip file and save it; for all layers unless some are named.

    Raises `PcaError` where the file holds too few rows or is projected already.
    """
    _check_output(output, "pca", overwrite=overwrite, source=features)
    with FeatureFile(features) as file:
        refuse_projected(file)
        factories = {layer: partial(file.blocks, layer) for layer in layers or file.layers}
        for layer in factories:
            file.size_of(layer)  # raises for an unknown layer, before any work
        provenance = {"settings": settings_of_rows(file), "weights": file.attributes.get("weights", {})}
        basis = fit(factories, n_components, name=output.name, provenance=provenance)
    save_basis(output, basis)
    return basis


def apply_basis(features: Path, basis_path: Path, output: Path, *, overwrite: bool = False) -> int:
    """Project all layers of a feature or clip file into a new file; return the number of rows.

    Raises `PcaError` and `MismatchError` as `check_basis` does; clips are never L2-normalised.
    """
    basis = load_basis(basis_path)
    with FeatureFile(features) as file:
        refuse_projected(file)
        kind: Kind = "features" if file.kind == "features" else "clips"
        _check_output(output, kind, overwrite=overwrite, source=features)
        settings, weights = settings_of_rows(file), file.attributes.get("weights", {})
        check_basis(basis, {layer: file.size_of(layer) for layer in file.layers}, weights, settings)
        copied = {name: value for name, value in file.attributes.items() if name not in NOT_COPIED}
        own: dict[str, JSON] = {"pca_basis": basis.name, "pca_sha256": basis.sha256}
        own |= {"settings": {**settings, "pca_from_sha256": basis.sha256}}
        sizes = {layer: len(basis.layers[layer].components) for layer in file.layers}
        return write_table(
            output, kind=kind, layers=sizes, rows=_projected(file, basis), attributes=copied | own
        )


def _projected(file: FeatureFile, basis: PcaBasis) -> Iterator[TableRow]:
    for block in batches(file.rows()):
        parts = [
            basis.layers[layer].apply(np.stack([row.vectors[i] for row in block]))
            for i, layer in enumerate(file.layers)
        ]
        for i, row in enumerate(block):
            yield TableRow(row.video, row.scalars, [part[i] for part in parts])


def settings_of_rows(file: FeatureFile) -> dict[str, JSON]:
    """Return the settings that apply to the rows of this file: clips are never normalised."""
    settings = dict(file.attributes.get("settings", {}))
    return {**settings, "l2": bool(settings.get("l2")) and file.kind == "features"}


def refuse_projected(file: FeatureFile) -> None:
    """Raise `PcaError` where the rows of a file are projected already."""
    if "pca_sha256" in file.attributes:
        reason = f"its rows are projected already, with {file.attributes.get('pca_basis')}"
        raise PcaError(reason, subject=file.path, hint="use a file made without --pca")


def _check_output(output: Path, kind: str, *, overwrite: bool, source: Path) -> None:
    if output.resolve() == source.resolve():
        raise UsageError("is the input as well", subject=output, hint="name another file with -o")
    if read_attributes(output, kind) and not overwrite:
        raise StoreError("exists already", subject=output, hint="name another file, or --overwrite")
