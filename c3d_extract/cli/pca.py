"""``c3d-tools pca``: fit a basis on a feature file, or apply one."""

from __future__ import annotations

from pathlib import Path

import click

from c3d_extract.cli.common import guarded, note
from c3d_extract.cli.completion import complete_layer
from c3d_extract.cli.groups import SuggestingGroup
from c3d_extract.cli.options import debug_option, overwrite_option

__all__ = ["command"]

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.group("pca", cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Fit a PCA basis on a feature file, or apply one."""


@command.command("fit")
@click.argument("features", type=EXISTING)
@click.option(
    "-k", "--components", "n_components", type=click.IntRange(min=1), required=True, help="How many."
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The basis file to write.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_layer,
    help="Only this layer; repeatable. Default: all.",
)
@overwrite_option("Replace an earlier output.")
@debug_option
@guarded
def fit_command(
    features: Path, *, n_components: int, output: Path, layers: tuple[str, ...], overwrite: bool, debug: bool
) -> None:
    """Fit a basis of K components on the rows of FEATURES, a feature or clip file."""
    del debug
    from c3d_extract.output import describe, fit_basis

    fit_basis(features, n_components, output, layers=layers, overwrite=overwrite)
    for layer, part in describe(output)["layers"].items():
        share = f"{part['explained_variance_ratio']:.1%} of the variance of {part['n_samples']:,} rows"
        note(f"{output}: {layer} {part['n_dimensions']} → {part['n_components']} dimensions, {share}")


@command.command("apply")
@click.argument("features", type=EXISTING)
@click.option(
    "--basis", type=EXISTING, required=True, help="A basis file: of pca fit, or of a run with --pca."
)
@click.option("-o", "--output", type=OUTPUT, required=True, help="The file to write.")
@overwrite_option("Replace an earlier output.")
@debug_option
@guarded
def apply_command(features: Path, *, basis: Path, output: Path, overwrite: bool, debug: bool) -> None:
    """Project all layers of FEATURES, a feature or clip file, into a new file of the same kind."""
    del debug
    from c3d_extract.output import apply_basis

    n_rows = apply_basis(features, basis, output, overwrite=overwrite)
    note(f"{output}: {n_rows:,} rows projected with {basis}")
