"""``c3d-tools predict``: name the class of every video of a feature file with a saved model."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import click

from c3d_extract.cli.common import guarded, put_json
from c3d_extract.cli.options import debug_option, json_option

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("predict")
@click.argument("model", type=FILE)
@click.argument("features", type=FILE)
@json_option
@debug_option
@guarded
def command(model: Path, features: Path, *, as_json: bool, debug: bool) -> None:
    """Apply MODEL, saved by `classify --save`, to FEATURES; write lines video,label,score.

    The score is the signed distance to the class's hyperplane: above 0 means "this class". Features of
    other weights, another layer or another PCA than the model was trained on are refused.
    """
    del debug
    from c3d_extract.analysis import load_classifier, read_layer, require_same_features

    classifier = load_classifier(model)
    table = read_layer(features, str(classifier.provenance.get("layer")))
    require_same_features(classifier.provenance, table.provenance, subject=features)
    scores, classes = classifier.scores(table.X), classifier.classes
    rows = list(zip(table.videos, [classes[i] for i in scores.argmax(axis=1)], scores, strict=True))
    if as_json:
        put_json(
            [
                {"video": video, "label": label, "scores": dict(zip(classes, row.tolist(), strict=True))}
                for video, label, row in rows
            ]
        )
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "label", "score"))
    writer.writerows((video, label, f"{row.max():.4f}") for video, label, row in rows)
    click.echo(text.getvalue(), nl=False)
