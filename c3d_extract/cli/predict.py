"""``c3d-tools predict``: name the class of videos, or of every video of a feature file."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import EXIT_SOME_FAILED, guarded, note, printable, put_json, refuse_given
from c3d_extract.cli.completion import complete_weights
from c3d_extract.cli.extracted import extracted_like, extraction_options, loading
from c3d_extract.cli.options import debug_option, json_option
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.analysis import LinearClassifier, Predictions
    from c3d_extract.pipeline import Extractor, Outcome

__all__ = ["command"]

_HDF5 = b"\x89HDF\r\n\x1a\n"

_EXAMPLES = """\b
Examples:
  c3d-tools predict svm.safetensors feats.h5       # a classifier, on features that are there
  c3d-tools predict svm.safetensors clip.mp4 more/ # on videos: files, folders, quoted globs
  c3d-tools predict sports1m clip.mp4 --top 5      # the network's own classes
"""


@click.command("predict", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("model", shell_complete=complete_weights)
@click.argument("inputs", metavar="FEATURES|VIDEO...", nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True, help="Classes named for each video."
)
@extraction_options("MODEL", "the training features")
@json_option
@debug_option
@guarded
def command(model: str, inputs: tuple[str, ...], **options: Any) -> None:
    """Name the classes of videos with MODEL; write lines video,label,score.

    MODEL is a classifier saved by `classify --save`, or a checkpoint (a registered name or a file), whose own
    classes are named then. A classifier's score is the signed distance to the class's hyperplane: above 0
    means "this class"; a checkpoint's is the probability, averaged over the clips. Features of other weights,
    another layer or another PCA than a classifier was trained on are refused.

    Where videos lie in folders named as classes, the accuracy is told.
    """
    from c3d_extract.analysis import is_classifier, load_classifier

    if not is_classifier(Path(model)):
        predictions, outcomes = _with_checkpoint(model, inputs, options)
    else:
        classifier = load_classifier(Path(model))
        predictions, outcomes = _with_classifier(classifier, inputs, options)
        _warn_of_training(predictions, classifier)
    _put(predictions, options["top"], as_json=options["as_json"])
    _note_accuracy(*predictions.in_class_folders(outcomes), of=len(predictions.videos))
    for outcome in outcomes:
        if outcome.status != "ok":
            note(f"{outcome.status}: {printable(outcome.video)}: {outcome.error}")
    if any(outcome.status == "failed" for outcome in outcomes):
        sys.exit(EXIT_SOME_FAILED)


def _with_classifier(
    classifier: LinearClassifier, inputs: Sequence[str], options: dict[str, Any]
) -> tuple[Predictions, list[Outcome]]:
    from c3d_extract.analysis import classify_features

    if _is_hdf5(inputs[0]):
        _check_alone(inputs, options)
        return classify_features(classifier, Path(inputs[0])), []
    with extracted_like(classifier.provenance, inputs, options) as (features, outcomes):
        return classify_features(classifier, features), outcomes


def _with_checkpoint(
    model: str, inputs: Sequence[str], options: dict[str, Any]
) -> tuple[Predictions, list[Outcome]]:
    from c3d_extract.analysis import probabilities, write_features
    from c3d_extract.pipeline import Extractor

    refuse_given(options, ("weights", "pca_from"), "goes with a saved classifier alone")
    if _is_hdf5(inputs[0]):
        raise UsageError(
            "holds features, which a saved classifier takes; a checkpoint takes videos", subject=inputs[0]
        )
    extractor: Extractor
    with (
        Extractor.from_weights(model, layers="prob", **loading(options)) as extractor,
        TemporaryDirectory(prefix="c3d-") as folder,
    ):
        features = Path(folder) / "feats.h5"
        outcomes = write_features(extractor, inputs, features)
        return probabilities(extractor, features), outcomes


def _is_hdf5(path: str) -> bool:
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _check_alone(inputs: Sequence[str], options: dict[str, Any]) -> None:
    if len(inputs) > 1:
        raise UsageError("is a feature file; give it alone", subject=inputs[0])
    refuse_given(options, ("weights", "mean", "pca_from"), "is for videos, not for features")


def _warn_of_training(predictions: Predictions, classifier: LinearClassifier) -> None:
    n = predictions.n_trained_on(classifier)
    if n:
        many = f"{n} of {len(predictions.videos)} videos are ones that the model was trained on"
        note(f"Warning: {many}; how well it does on them says nothing about others.")


def _note_accuracy(n: int, n_right: int, *, of: int) -> None:
    if n:
        which = "" if n == of else " in folders named as classes"
        note(f"accuracy {n_right / n:.3f} ({n_right} of {n} videos{which})")


def _put(predictions: Predictions, top: int, *, as_json: bool) -> None:
    classes = predictions.classes
    found = list(zip(predictions.videos, predictions.labels, predictions.scores, strict=True))
    if as_json:
        put_json(
            [
                {"video": video, "label": label, "scores": dict(zip(classes, map(float, row), strict=True))}
                for video, label, row in found
            ]
        )
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video", "label", "score"))
    for video, _, row in found:
        best = sorted(range(len(classes)), key=lambda i: -row[i])[:top]
        writer.writerows((video, classes[i], f"{row[i]:.4f}") for i in best)
    click.echo(text.getvalue(), nl=False)
