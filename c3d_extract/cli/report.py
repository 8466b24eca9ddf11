"""``c3d-tools report``: a page on what a run did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from c3d_extract.cli.common import guarded, note
from c3d_extract.cli.options import debug_option, layer_option, quiet_option
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from c3d_extract.pages.report import ClassResult

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)

_EXAMPLES = """\b
Examples:
  c3d-tools report feats.h5                 # writes report.html
  c3d-tools report feats.h5 --classify      # classes: folders
  c3d-tools report feats.h5 --labels labels.csv
"""


@click.command("report", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("features", type=FILE)
@click.option(
    "-o", "--output", type=OUTPUT, default="report.html", show_default=True, help="The page to write."
)
@click.option("--classify", is_flag=True, help="A confusion matrix, as `classify` makes it of folder names.")
@click.option("--labels", type=FILE, metavar="CSV", help="The same of lines video,label.")
@layer_option("What is classified.  [default: the first layer of the file]")
@quiet_option
@debug_option
@guarded
def command(
    features: Path, *, output: Path, classify: bool, labels: Path | None, layer: str | None, quiet: bool,
    debug: bool,
) -> None:  # fmt: skip
    """Write a page on FEATURES, a feature file, and on the report beside it.

    It says which videos failed and why, with which weights and settings, and shows lengths, rates and times.
    The page is one file that needs no network.
    """
    del debug
    from c3d_extract.pages.report import write_report_page

    if layer is not None and not (classify or labels):
        raise UsageError("needs --classify or --labels", subject="--layer")
    classes = _classified(features, labels, layer) if classify or labels else None
    notes = write_report_page(features, output, classes)
    for text in notes:
        note(f"Note: {text}.")
    if not quiet:
        note(f"{features} → {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _classified(features: Path, labels: Path | None, layer: str | None) -> ClassResult:
    from c3d_extract.analysis import ExperimentOptions, baselines, cross_validate, prepare_experiment
    from c3d_extract.pages.report import ClassResult

    experiment = prepare_experiment(ExperimentOptions(features, layer, labels=labels))
    evaluation = cross_validate(experiment.samples, experiment.splits)
    for text in experiment.notes:
        note(f"Note: {text}.")
    return ClassResult(experiment, evaluation, baselines(experiment.samples, experiment.splits).chance)
