"""One export: checks, then files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.output.basis_file import check_basis, load_basis
from c3d_extract.output.derive import refuse_projected, settings_of_rows
from c3d_extract.output.export import arrays, hdf5_files, segments, several_crops, tables
from c3d_extract.output.export.base import Job
from c3d_extract.output.export.fit import check_fit, chosen_layers
from c3d_extract.output.feature_file import FeatureFile
from c3d_extract.output.paths import check_local

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.output.export.base import Preset
    from c3d_extract.output.pca_basis import PcaBasis

__all__ = ["PRESETS", "ExportOptions", "export_features", "find_preset"]

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for module in (arrays, segments, several_crops, hdf5_files, tables)
    for preset in module.PRESETS
}


@dataclass(frozen=True)
class ExportOptions:
    """How an export goes."""

    layer: str | None = None
    """The layer to export; None takes the preset's, or the file's only one."""
    basis: Path | None = None
    """A PCA basis to project each row with."""
    keep_suffix: bool = False
    """Keep ``.mp4`` and the like in names."""
    overwrite: bool = False
    """Replace files of an earlier export."""
    root: Path | None = None
    """The folder of the videos; only for a preset that has pictures of them."""


def find_preset(name: str) -> Preset:
    """Return the preset of that name; `UsageError` where there is none."""
    if name not in PRESETS:
        raise UsageError("no such preset", subject=name, hint=f"there are {', '.join(PRESETS)}")
    return PRESETS[name]


def export_features(
    preset: Preset, source: Path, output: Path, options: ExportOptions | None = None
) -> list[str]:
    """Write the features of a feature or clip file in a preset's layout; return warnings.

    Each file appears in one step. One video is in memory at a time.

    Parameters
    ----------
    preset
        Of `find_preset`.
    source
        The clip file, or for some presets the feature file.
    output
        The folder, or the file where the preset is one file.

    Raises
    ------
    UsageError
        Where the features do not fit the preset; the line says how to extract instead.
    StoreError
        Where the source cannot be read, a file exists already or cannot be written, two videos would have
        one file, or a video's name would lead out of the folder.
    PcaError, MismatchError
        Where the basis does not fit the features.
    """
    options = options or ExportOptions()
    if options.root is not None and preset.name != tables.PICTURED:
        raise UsageError(f"is for pictures, which {tables.PICTURED} has alone", subject="--root")
    with FeatureFile(source) as file:
        layers = chosen_layers(preset, file, options.layer)
        basis = None if options.basis is None else _fitting_basis(options.basis, file, layers)
        job = Job(file, output, layers, basis, options.keep_suffix, options.root)
        check_fit(preset, job)
        _check_targets(preset, job, overwrite=options.overwrite)
        preset.write(job)
        return _warnings(preset, job) + job.warnings


def _fitting_basis(path: Path, file: FeatureFile, layers: Sequence[str]) -> PcaBasis:
    refuse_projected(file)
    basis = load_basis(path)
    sizes = {layer: file.size_of(layer) for layer in layers}
    check_basis(basis, sizes, file.attributes.get("weights", {}), settings_of_rows(file))
    return basis


def _check_targets(preset: Preset, job: Job, *, overwrite: bool) -> None:
    """Raise `StoreError` where something is in the way of a file; nothing has been written yet."""
    check_local(job.output)
    root = job.output.resolve()
    if root.is_dir() and preset.file_name is not None:
        raise StoreError("is a folder", subject=job.output, hint=f"name a file, such as {preset.file_name}")
    if root == Path(job.file.path).resolve():
        raise StoreError("is the input as well", subject=job.output, hint="name another with -o")
    taken: dict[Path, str] = {}
    for video, path in preset.targets(job):
        if path in taken:
            hint = "try --keep-suffix, or export them from files of their own"
            reason = f"{taken[path]} and {video} would both be {path.name}"
            raise StoreError(reason, subject=path.parent, hint=hint)
        taken[path] = video or path.name
        folder = path if path.is_dir() else path.parent
        if not folder.resolve().is_relative_to(root if preset.file_name is None else root.parent):
            raise StoreError("leads out of the folder, by a link", subject=path)
        if path.exists() and not overwrite:
            raise StoreError("exists already", subject=path, hint="name another with -o, or --overwrite")


def _warnings(preset: Preset, job: Job) -> list[str]:
    found = []
    if not job.file.attributes.get("complete", True):
        found.append(f"{job.file.path} is of an interrupted run: run it again, and export again")
    wanted = preset.needs.size
    sizes = {job.size_of(layer) for layer in job.layers} - {wanted}
    if wanted is not None:
        loader = f"what loads {preset.name} expects {wanted}"
        found += [f"rows have {size} values, and {loader}" for size in sorted(sizes)]
    return found
