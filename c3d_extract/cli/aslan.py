"""``c3d-tools aslan``: tell pairs of videos of the same action from others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, put_json, show
from c3d_extract.cli.completion import complete_layer
from c3d_extract.cli.options import debug_option, json_option, missing_option

if TYPE_CHECKING:
    from c3d_extract.analysis import PairsEvaluation

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("aslan")
@click.argument("features", type=FILE)
@click.option(
    "--pairs",
    "pairs_file",
    type=FILE,
    required=True,
    help="ASLAN's View2.mat (action_splits_pairs), or lines split,first,second,same (1 or 0).",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_layer,
    help="Repeatable.  [default: prob, fc7, fc6, pool5]",
)
@click.option(
    "--c", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="The SVM's C."
)
@missing_option("Pairs with a video that is not in the file.")
@json_option
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

    The twelve (dis)similarities of the ASLAN paper per layer and pair, standardised, and a linear SVM; each
    split is tested with an SVM trained on all others. View2.mat names its samples by number: a video's is
    the four digits at the end of its name, as in 0001.avi.
    """
    del debug
    from c3d_extract.analysis import evaluate_pairs, read_layer, read_pairs
    from c3d_extract.analysis.aslan import LAYERS

    tables = [read_layer(features, layer) for layer in layers or LAYERS]
    pairs = read_pairs(pairs_file, tables[0].videos, skip=missing == "skip")
    if pairs.n_missing:
        note(f"Note: ignored {pairs.n_missing} pairs without a video.")
    evaluation = evaluate_pairs([table.X for table in tables], pairs, c=c)
    if evaluation.n_unconverged:
        note(f"Note: the SVM of {evaluation.n_unconverged} splits did not converge; try a smaller --c.")
    names = list(layers or LAYERS)
    if as_json:
        put_json({"layers": names, "n_pairs": len(pairs.same), "c": c, **_figures(evaluation)})
        return
    show(f"{len(pairs.same):,} pairs in {len(evaluation.splits)} splits; {', '.join(names)}")
    show(f"accuracy {evaluation.accuracy:.3f} ± {evaluation.standard_error:.3f} (standard error)")
    show(f"area under the ROC curve {evaluation.auc:.3f}")


def _figures(evaluation: PairsEvaluation) -> dict[str, Any]:
    splits = zip(evaluation.splits, evaluation.accuracies.tolist(), evaluation.aucs.tolist(), strict=True)
    return {
        "accuracy": evaluation.accuracy,
        "standard_error": evaluation.standard_error,
        "auc": evaluation.auc,
        "splits": [{"split": split, "accuracy": a, "auc": auc} for split, a, auc in splits],
    }
