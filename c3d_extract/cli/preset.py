"""``c3d-extract --preset NAME``: what a preset takes is extracted, and then exported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from c3d_extract.cli.common import note, printable
from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from c3d_extract.cli.extract_options import Options
    from c3d_extract.output.export import Preset

__all__ = ["Planned", "plan_preset", "refuse_other_formats"]

_OTHER_FORMATS = {".csv": "csv", ".parquet": "parquet", ".npy": "npy", ".npz": "npy"}
"""Suffix → the preset that writes such files."""


def refuse_other_formats(options: Options) -> None:
    """Raise UsageError where an output's name is that of another format than HDF5."""
    for option, name in (("-o", options.output), ("--clips", options.clips)):
        preset = _OTHER_FORMATS.get(Path(name or "").suffix.lower())
        is_target = option == "-o" and options.preset is not None
        if preset is not None and not is_target:
            hint = f"name a file that ends in .h5; c3d-tools export {preset} then writes such files from it"
            raise UsageError("the output is HDF5", subject=f"{option} {name}", hint=hint)


@dataclass(frozen=True)
class Planned:
    """A run that ends with an export."""

    preset: Preset
    target: Path
    """The folder or file to export to."""
    options: Options
    """Of the run: what the preset takes is filled in, and its files are beside the target."""

    def introduce(self) -> None:
        """Print what the preset set."""
        options = self.options
        layers = [f"--layer {layer}" for layer in options.layer]
        stride = [] if options.stride is None else [f"--stride {options.stride}"]
        crops = [] if options.crops == "centre" else [f"--crops {options.crops}"]
        chosen = " ".join([*layers, *stride, *crops, f"-o {options.output}", f"--clips {options.clips}"])
        note(
            f"Preset {self.preset.name}: {printable(chosen)}, then exported to {printable(str(self.target))}"
        )

    def export(self) -> None:
        """Write the preset's files from those of the run, in the place of an earlier export of it."""
        from c3d_extract.output.export import ExportOptions, export_features

        basis = None if self.options.pca_from is None else Path(self.options.pca_from)
        how = ExportOptions(basis=basis, overwrite=True)
        warnings = export_features(self.preset, Path(str(self.options.clips)), self.target, how)
        if not self.options.quiet:
            for warning in warnings:
                note(f"Warning: {warning}")
            note(f"{self.options.clips} → {self.target}")


def plan_preset(options: Options) -> Planned:
    """Return the run that ``--preset`` stands for.

    Raises
    ------
    UsageError
        Where there is no such preset, or an option that was given conflicts with it.
    StoreError
        Where something else is in the place of the export.
    """
    from c3d_extract.output.export import find_preset

    preset = find_preset(str(options.preset))
    _check(options, preset)
    needs = preset.needs
    target = Path(options.output)
    run = replace(
        options,
        output=f"{target}.h5",
        clips=options.clips or f"{target}.clips.h5",
        layer=options.layer or needs.layers[:1],
        stride=needs.stride if options.stride is None else options.stride,
        crops=options.crops or needs.crops,
    )
    _check_target(run, target)
    return Planned(preset, target, run)


def _check(options: Options, preset: Preset) -> None:
    needs = preset.needs
    source = click.get_current_context().get_parameter_source("output")
    if source is ParameterSource.DEFAULT:
        one_file = f"the file to write, such as {preset.file_name}"
        what = "the folder to write" if preset.file_name is None else one_file
        raise UsageError(f"needs -o, {what}", subject=f"--preset {preset.name}")
    for option, value, wanted in _conflicts(options, preset):
        raise UsageError(f"is {value}, and {preset.name} takes {wanted}", subject=option)
    if needs.basis is not None and options.pca_from is None:
        raise UsageError(f"needs --pca-from {needs.basis}", subject=f"--preset {preset.name}")


def _conflicts(options: Options, preset: Preset) -> list[tuple[str, object, object]]:
    """Return (option, its value, what the preset takes) for each that was given and conflicts."""
    needs, found = preset.needs, list[tuple[str, object, object]]()
    if options.layer and needs.layers and not set(needs.layers) >= set(options.layer):
        found.append(("--layer", ", ".join(options.layer), " or ".join(needs.layers)))
    if len(options.layer) > 1 and not needs.several_layers:
        found.append(("--layer", ", ".join(options.layer), "one layer"))
    if options.stride is not None and needs.stride not in {None, options.stride}:
        found.append(("--stride", options.stride, needs.stride))
    if needs.rows == "clips" and options.crops not in {None, needs.crops}:
        found.append(("--crops", options.crops, needs.crops))
    if options.pca is not None:
        found.append(("--pca", options.pca, "the clips as they are"))
    if options.pca_from is not None and needs.basis is None:
        found.append(("--pca-from", options.pca_from, "the clips as they are"))
    for option, value in (("--shard", options.shard), ("--ray", options.ray)):
        if value is not None:
            found.append((option, value, "a run that is not in parts: merge, then c3d-tools export"))
    return found


def _check_target(run: Options, target: Path) -> None:
    """Refuse what is there already, unless an earlier run of this command left it."""
    from c3d_extract.output.paths import check_local

    check_local(target)
    earlier = any(Path(f"{run.output}{ending}").exists() for ending in ("", ".partial"))
    if target.exists() and not earlier and not run.overwrite:
        raise StoreError("exists already", subject=target, hint="choose another -o, or --overwrite")
