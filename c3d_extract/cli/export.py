"""``c3d-tools export``: features in the layouts that other people's code loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, show
from c3d_extract.cli.completion import complete_preset
from c3d_extract.cli.options import debug_option, layer_option, overwrite_option, quiet_option
from c3d_extract.cli.tables import is_terminal, show_table
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from c3d_extract.output.export import Preset

__all__ = ["command"]

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("preset", required=False, shell_complete=complete_preset)
@click.argument("features", required=False, type=EXISTING)
@click.option("--list", "as_list", is_flag=True, help="List the presets: what loads them, what they take.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE",
    help="The folder to write, or the file where the preset is one file.",
)
@layer_option("The layer, where FEATURES has several that fit.")
@click.option(
    "--pca-from",
    "basis",
    type=EXISTING,
    help="Project every row with a basis: a saved one, or ActivityNet's.",
)
@click.option("--keep-suffix", is_flag=True, help="Keep .mp4 and the like in names, as TACoS has them.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the videos lie, for pictures of them in TensorBoard's projector.",
)
@overwrite_option("Replace files of an earlier export.")
@quiet_option
@debug_option
@guarded
def command(
    preset: str | None, features: Path | None, output: Path | None, *, as_list: bool, **options: Any
) -> None:
    """Write FEATURES, a clip file, in the layout of PRESET.

    Clip files are made by c3d-extract --clips FILE; c3d-extract --preset PRESET does both steps.
    """
    from c3d_extract.output.export import PRESETS

    if as_list:
        _list(list(PRESETS.values()))
        return
    _export(preset, features, output, **options)


def _export(
    name: str | None, features: Path | None, output: Path | None, *, quiet: bool, debug: bool, **options: Any
) -> None:
    del debug
    from c3d_extract.output.export import ExportOptions, export_features, find_preset

    if name is None:
        raise UsageError("needs a preset and a clip file", subject="export", hint="--list lists the presets")
    preset = find_preset(name)
    if features is None:
        raise UsageError("needs a clip file", subject=name, hint="c3d-extract --clips FILE makes one")
    if output is None:
        what = "a folder" if preset.file_name is None else f"a file, such as {preset.file_name}"
        raise UsageError(f"needs -o, {what}", subject=name)
    warnings = export_features(preset, features, output, ExportOptions(**options))
    if not quiet:
        for warning in warnings:
            note(f"Warning: {warning}")
        note(f"{features} → {output}")


def _list(presets: list[Preset]) -> None:
    """Print what each preset is for and what it takes, on a terminal in lines of at most 80 characters."""
    if not is_terminal():
        show_table(("name", "for", "rows", "writes", "options"), map(_described, presets))
        return
    for preset in presets:
        name, purpose, rows, target, options = _described(preset)
        lines = [f"{name:14}{purpose}", f"{'':14}{rows} → {target}", f"{'':14}{options}"]
        show("\n".join(lines if options else lines[:2]))


def _described(preset: Preset) -> tuple[str, str, str, str, str]:
    """Return name, purpose, the rows it takes, what it writes, and the options to extract for it."""
    from c3d_extract.output.export import recipe

    needs = preset.needs
    options = [f"{name} {value}" for name, value in recipe(needs).items()]
    options += [] if needs.basis is None else [f"--pca-from {needs.basis}"]
    rows = "clips" if needs.rows == "clips" else "clips or videos"
    return preset.name, preset.purpose, rows, preset.file_name or "a folder", " ".join(options)
