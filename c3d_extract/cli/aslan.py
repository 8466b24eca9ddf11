"""``c3d-tools aslan``: tell pairs of videos of the same action from others."""

from __future__ import annotations

from pathlib import Path

import click

from c3d_extract.cli.common import guarded, note, put_json, show
from c3d_extract.cli.options import debug_option

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("aslan")
@click.argument("features", type=FILE)
@click.option("--pairs", "pairs_file", type=FILE, required=True,
              help="ASLAN's View2.mat, or lines split,first,second,same (1 or 0).")  # fmt: skip
@click.option(
    "--layer", "layers", multiple=True, metavar="NAME", help="Repeatable.  [default: prob, fc7, fc6, pool5]"
)
@click.option(
    "--c", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="The SVM's C."
)
@click.option("--missing", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
              help="What to do about pairs whose video is not in the file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@debug_option
@guarded
def command(
    features: Path,
    *,
    pairs_file: Path,
    layers: tuple[str, ...],
    c: float,
    missing: str,
    as_json: bool,
    debug: bool,
) -> None:
    """Tell pairs of the same action from others, by FEATURES of several layers (ASLAN's protocol).

    Twelve similarities a layer and a pair, standardised, and a linear SVM; each split is tested with an
    SVM trained on all others. The twelve are ours: the benchmark's own list could not be consulted.
    """
    del debug
    from c3d_extract.analysis import judge_pairs, read_layer, read_pairs
    from c3d_extract.analysis.aslan import LAYERS

    tables = [read_layer(features, layer) for layer in layers or LAYERS]
    pairs = read_pairs(pairs_file, tables[0].videos, skip=missing == "skip")
    if pairs.n_missing:
        note(f"Note: left out {pairs.n_missing} pairs without a video.")
    report = judge_pairs([table.X for table in tables], pairs, c=c)
    if report.n_unconverged:
        note(
            f"Note: the SVM of {report.n_unconverged} splits stopped before its tolerance; try a smaller --c."
        )
    if as_json:
        folds = zip(report.splits, report.accuracies.tolist(), report.aucs.tolist(), strict=True)
        put_json({
            "layers": list(layers or LAYERS),
            "n_pairs": len(pairs.same),
            "c": c,
            "accuracy": report.accuracy,
            "standard_error": report.standard_error,
            "auc": report.auc,
            "splits": [{"split": split, "accuracy": a, "auc": auc} for split, a, auc in folds],
        })  # fmt: skip
        return
    show(f"{len(pairs.same):,} pairs in {len(report.splits)} splits; {', '.join(layers or LAYERS)}")
    show(f"accuracy {report.accuracy:.3f} ± {report.standard_error:.3f} (standard error)")
    show(f"area under the ROC curve {report.auc:.3f}")
