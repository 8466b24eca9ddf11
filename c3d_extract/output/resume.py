"""What earlier runs left: is it ours, does it fit, and what of it is kept.

Two kinds of run. One *starts afresh* (there was no output, or ``--overwrite``, or such a run is resumed):
all its rows are in the journal. One *extends* a feature file: rows of the file that the journal does not
know are copied into the new file, and a PCA basis fitted for it is kept.
"""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.errors import MismatchError, PcaError, StoreError
from c3d_extract.output import report
from c3d_extract.output.feature_file import FeatureFile, load_basis
from c3d_extract.output.records import JSON, RunIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.output.journal import Journal, Record
    from c3d_extract.output.paths import OutputPaths
    from c3d_extract.output.pca_basis import PcaBasis

__all__ = ["Kept", "Prior", "check_basis", "read_attributes"]

NOBODY = RunIdentity({}, {}, {}, {})


class Kept(NamedTuple):
    """What a run takes over from the files it finds."""

    basis: PcaBasis | None = None
    unusable: frozenset[str] = frozenset()
    """Videos whose rows are not taken over, as they hold features that are not finite."""
    warnings: tuple[str, ...] = ()


COMPARED = (
    *("weights", "mean", "pool5", "colour", "resize", "crop", "std"),
    *("stride", "tail", "short", "fps", "l2"),
)
"""What two features must share to be projected with one basis; see `check_basis`."""


class Prior:
    """The files of an output as a run finds them; raises `StoreError` for any that is not ours."""

    def __init__(self, paths: OutputPaths, *, pca: bool) -> None:
        self.paths = paths
        self.features = read_attributes(paths.features, "features")
        self.clips = read_attributes(paths.clips, "clips") if paths.clips else {}
        self.basis = read_attributes(paths.basis, "pca") if pca else {}
        self._pca = pca

    def begin(self, journal: Journal, identity: RunIdentity | None, *, overwrite: bool) -> Kept:
        """Begin or resume the run in ``journal``; return what of the files is kept.

        Without an identity, nothing is compared: the settings of an earlier run are taken to hold.

        Raises `MismatchError` where an earlier run was made with another identity, `StoreError` where a
        file that is needed is missing or one of another run would be replaced.
        """
        if overwrite:
            self._begin_anew(journal, identity, overwrite=True)
        elif journal.is_new or self._has_finished(journal):
            self._refuse_other_settings(identity)
            self._begin_anew(journal, identity, overwrite=False)
        _refuse_differences(RunIdentity.from_json(journal.meta("identity")), identity, journal.path)
        if journal.meta("extends") and not self.features:
            journal.set_meta("extends", value=False)  # the file is gone: its videos are done again
        if not journal.meta("overwrite"):
            self._refuse_strangers(journal)
        return self._keep(journal, identity) if journal.meta("extends") else Kept()

    def _has_finished(self, journal: Journal) -> bool:
        """Whether the run of this journal was killed between its last file and the journal's deletion."""
        was_written = self.features.get("content_sha256") in journal.meta("written")
        return was_written and bool(self.features.get("complete"))

    def _begin_anew(self, journal: Journal, identity: RunIdentity | None, *, overwrite: bool) -> None:
        # Where an interrupted run's journal is lost, its provisional basis cannot be kept: all is done again.
        usable = bool(self.features) and (not self._pca or bool(self.features.get("complete")))
        names = ("content_sha256", "clips_sha256", "pca_sha256", "run_id")
        meta = {
            "identity": (identity or NOBODY).to_json(),
            "base": [self.features[name] for name in names if name in self.features],
            "extends": usable and not overwrite,
            "overwrite": overwrite,
        }
        journal.reset(meta)

    def _refuse_other_settings(self, identity: RunIdentity | None) -> None:
        if self.features:
            names = ("settings", "weights", "layer_sizes", "versions")
            earlier = RunIdentity(**{name: self.features.get(name, {}) for name in names})
            _refuse_differences(earlier, identity, self.paths.features)

    def _refuse_strangers(self, journal: Journal) -> None:
        """Refuse to replace files of another run, or of nobody we know, that happen to have our names."""
        known = {*journal.meta("written"), *journal.meta("base")}
        found = [(self.paths.features, self.features), (self.paths.clips, self.clips)]
        if not journal.meta("extends"):  # else the basis is kept, and may be older than both runs
            found.append((self.paths.basis, self.basis))
        hint = "move it away, take another name, or --overwrite to replace it"
        for path, attributes in found:
            own = {attributes.get(name) for name in ("content_sha256", "sha256", "run_id")}
            if attributes and not own & known:
                raise StoreError("belongs to another run", subject=path, hint=hint)
        path = self.paths.report
        if path.exists() and not (self.features or report.looks_like_a_report(path)):
            raise StoreError("exists but is no report of ours", subject=path, hint=hint)

    def _keep(self, journal: Journal, identity: RunIdentity | None) -> Kept:
        """Learn which videos the feature file and the report already know; return what else is kept."""
        self._refuse_other_settings(identity)
        if self.paths.clips and not self.clips:
            raise StoreError(
                "the clips of the videos done earlier are missing",
                subject=self.paths.clips,
                hint="put the file back, or --overwrite to start afresh",
            )
        basis = self._kept_basis() if self._pca else None
        unusable = frozenset().union(*map(_not_finite, filter(None, (self.paths.features, self.paths.clips))))
        warnings = []
        if unusable:
            text = "hold features that are not finite: they are dropped, and those videos done again"
            warnings.append(f"the rows of {len(unusable)} videos in {self.paths.features.name} {text}")
        records, warning = self._records_of_report(journal)
        journal.remember(chain(records, self._records_of_features(unusable)))
        return Kept(basis, unusable, (*warnings, *warning))

    def _records_of_features(self, unusable: frozenset[str]) -> Iterator[Record]:
        with FeatureFile(self.paths.features) as file:
            for name, row in file.scalars():
                if name not in unusable:
                    size, mtime = int(row["size_bytes"]), int(row["mtime_ns"])
                    yield name, "ok", size, mtime, True, report.line_of_columns(name, row)

    def _records_of_report(self, journal: Journal) -> tuple[Iterator[Record], list[str]]:
        """Return what the report says, where it was written with the feature file or by this very run."""
        path = self.paths.report
        if not path.exists():
            return iter(()), []
        digest = report.report_digest(path)
        if digest is not None and digest in {self.features.get("report_sha256"), *journal.meta("written")}:
            return _records_of_report(path), []
        why = f"{path.name} is not the report written with {self.paths.features.name}"
        return iter(()), [f"{why}: what failed in earlier runs is tried again"]

    def _kept_basis(self) -> PcaBasis:
        path, hint = self.paths.basis, "put it back, or --overwrite to start afresh"
        try:
            basis = load_basis(path)
        except PcaError as error:
            reason = f"{self.paths.features.name} can only be extended with its basis ({error.reason})"
            raise StoreError(reason, subject=path, hint=hint) from error
        if basis.sha256 != self.features.get("pca_sha256"):
            reason = f"is not the basis {self.paths.features.name} was made with: its sha256 differs"
            raise StoreError(reason, subject=path, hint=hint)
        return basis


def read_attributes(path: Path, kind: str) -> dict[str, JSON]:
    """Return the attributes of a file of ours, {} where there is none; `StoreError` for anything else."""
    if not path.exists():
        return {}
    hint = "only files of c3d-extract are replaced: move it away, or take another name"
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


def check_basis(
    basis: PcaBasis, layer_sizes: dict[str, int], weights: dict[str, JSON], settings: dict[str, JSON]
) -> None:
    """Refuse a basis of other layers or sizes, or fitted on features made in another way.

    Compared are the weights, their mean, colour, pool5 and preprocessing, and the settings that decide which
    frames make a row: stride, tail, short, fps, l2. The precision is not: all are within 1 % of fp32.

    Raises
    ------
    PcaError
        A layer is missing or of another size, or one side does not say what would be compared.
    MismatchError
        The features differ; it names how.
    """
    basis.check_takes(layer_sizes)
    fitted_on = basis.provenance.get("weights", {})
    was, now = _made_of(fitted_on, basis.provenance.get("settings", {})), _made_of(weights, settings)
    subject = basis.name or None
    for made, whose in ((was, "those it was fitted on"), (now, "those to be projected")):
        if unknown := [name for name in COMPARED if name not in made]:
            reason = (
                f"the basis cannot be compared with the features: {whose} do not say {', '.join(unknown)}"
            )
            raise PcaError(
                reason, subject=subject, hint="extract them again, and fit a basis on the new file"
            )
    differences = [
        f"{name}: {_told(name, was, fitted_on)} → {_told(name, now, weights)}"
        for name in COMPARED
        if was[name] != now[name]
    ]
    if differences:
        hint = "fit one on features made as these are"
        raise MismatchError(
            "the basis was fitted on other features", differences=differences, subject=subject, hint=hint
        )


def _made_of(weights: dict[str, JSON], settings: dict[str, JSON]) -> dict[str, JSON]:
    """Return what decides the numbers of features, as far as it is known, under the names that users know."""
    record = weights.get("record")
    how = record.get("preprocessing") if isinstance(record, dict) else None
    parts = how if isinstance(how, dict) else {}
    found = {name: parts[name] for name in ("resize", "crop", "std") if name in parts}
    found |= {name: weights[name] for name in ("pool5", "colour") if name in weights} | settings
    sums = {name: weights.get(f"{name}_sha256") for name in ("weights", "mean")}
    found |= {name: value for name, value in sums.items() if value}
    made = {name: found[name] for name in COMPARED if name in found}
    return dict(json.loads(json.dumps(made)))  # tuples become lists, as they do in a file


def _told(name: str, made: dict[str, JSON], weights: dict[str, JSON]) -> str:
    value = made[name]
    if name in {"weights", "mean"}:
        return f"{weights.get(name, 'unnamed')} (sha256 {str(value)[:12]})"
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_differences(earlier: RunIdentity, identity: RunIdentity | None, path: Path) -> None:
    if identity is None:
        return
    if differences := earlier.differences(identity):
        hint = "take another -o, or --overwrite to start afresh"
        if len(differences) == 1 and differences[0].startswith("precision: "):
            # auto takes another on another machine: a run may have moved.
            hint = f"go on with --precision {earlier.settings['precision']}, {hint}"
        raise MismatchError("was made with other settings", differences=differences, subject=path, hint=hint)


def _not_finite(path: Path) -> set[str]:
    """Return the videos of a file with a value in their features that is not finite."""
    with FeatureFile(path) as file:
        return {row.video for row in file.rows() if not all(np.isfinite(x).all() for x in row.vectors)}


def _records_of_report(path: Path) -> Iterator[Record]:
    for line in report.iterate_report(path):
        if line["status"] in report.DONE:
            size, mtime = int(line["size_bytes"]), int(line["mtime_ns"])
            text = json.dumps(line, ensure_ascii=False)
            yield str(line["video"]), line["status"], size, mtime, False, text
