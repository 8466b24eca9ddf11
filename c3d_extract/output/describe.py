"""Description of a feature, clip or basis file as plain values, for ``c3d-tools info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import PcaError, StoreError
from c3d_extract.output.basis_file import load_basis
from c3d_extract.output.feature_file import FeatureFile, kind_of
from c3d_extract.output.paths import OutputPaths
from c3d_extract.output.report import read_report, report_digest
from c3d_extract.output.schema import SUMMED_COLUMNS

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from c3d_extract.output.pca_basis import LayerBasis

__all__ = ["as_text", "describe", "recorded", "report_lines"]


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the contents of a feature, clip or basis file, as values that JSON can hold.

    For a feature file also the totals, and from its report the number of videos by status and the errors
    of failed videos. Raises `StoreError` where the file is missing, damaged or of another program.
    """
    if kind_of(path) == "pca":
        return _describe_basis(Path(path))
    with FeatureFile(path) as file:
        described = {
            "file": str(path),
            "kind": file.kind,
            "complete": file.attributes.get("complete", False),
            "n_rows": len(file),
            "layers": {layer: file.size_of(layer) for layer in file.layers},
            "pca": {key: file.attributes.get(f"pca_{key}", "") for key in ("basis", "sha256")}
            if _projected(file)
            else {},
            **{name: file.attributes.get(name, {}) for name in ("settings", "weights", "versions")},
            "totals": _totals(file),
        }
        report_sha256 = file.attributes.get("report_sha256")
    if described["kind"] == "features":
        described["report"] = _report(Path(path), report_sha256)
    return described


def _projected(file: FeatureFile) -> bool:
    return "pca_sha256" in file.attributes


def _totals(file: FeatureFile) -> dict[str, float]:
    if file.kind == "clips":
        n_clips = int((file.column("crop") == 0).sum()) if file.has_crops else len(file)
        return {"n_videos": len(set(file.videos)), "n_clips": n_clips}
    return {"n_videos": len(file)} | {name: _total(file, name) for name in SUMMED_COLUMNS}


def _total(file: FeatureFile, name: str) -> float:
    values = file.column(name)
    if values.dtype.kind != "f":
        return int(values.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.nansum(values))
    if not np.isfinite(total):
        raise StoreError(f"the sum of {name} is not finite", subject=file.path)
    return total


def _report(features: Path, digest: str | None) -> dict[str, Any] | None:
    """Return a summary of the report, None where it was not written with the file."""
    lines = report_lines(features, digest)
    if lines is None:
        return None
    statuses = [line["status"] for line in lines]
    return {
        "counts": {status: statuses.count(status) for status in ("ok", "partial", "failed", "skipped")},
        "failures": [
            {"video": str(line["video"]), "error": line.get("error")}
            for line in lines
            if line["status"] == "failed"
        ],
    }


def report_lines(features: Path, digest: str | None) -> list[dict[str, Any]] | None:
    """Return the lines of the report beside a feature file, None where it was not written with the file.

    Parameters
    ----------
    digest
        The file's attribute ``report_sha256``.
    """
    path = OutputPaths.of(features).report
    return read_report(path) if digest is not None and report_digest(path) == digest else None


def recorded(facts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the settings, weights and versions in `describe`'s facts, or a file's attributes, as text.

    What else is known of the checkpoint, its ``record``, is long and left out.
    """
    return {
        title: {name: as_text(value) for name, value in (facts.get(title) or {}).items() if name != "record"}
        for title in ("settings", "weights", "versions")
    }


def as_text(value: Any) -> str:
    """Return a value as people read it: text as it is, else JSON but for yes, no and none."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _describe_basis(path: Path) -> dict[str, Any]:
    try:
        basis = load_basis(path)
    except PcaError as error:
        raise StoreError(error.reason, subject=path) from error
    return {
        "file": str(path),
        "kind": "pca",
        "sha256": basis.sha256,
        "layers": {layer: _describe_layer(part) for layer, part in basis.layers.items()},
        "settings": basis.provenance.get("settings", {}),
        "weights": basis.provenance.get("weights", {}),
    }


def _describe_layer(basis: LayerBasis) -> dict[str, float]:
    kept, total = float(basis.explained_variance.sum()), basis.total_variance
    return {
        "n_dimensions": len(basis.mean),
        "n_components": len(basis.components),
        "n_samples": basis.n_samples,
        "explained_variance_ratio": min(kept / total, 1.0) if total > 0 else 1.0,
    }
