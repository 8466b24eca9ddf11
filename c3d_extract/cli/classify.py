"""``c3d-tools classify``: how well a linear SVM classifies the videos of a feature file."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, printable, put_json, show
from c3d_extract.cli.options import debug_option, json_option, layer_option, missing_option
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from c3d_extract.analysis import Baselines, ClassifierSettings, Evaluation, Experiment

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)
N_CONFUSIONS = 10
MATRIX_WIDTH = 78

_EXAMPLES = """\b
Examples:
  c3d-tools classify feats.h5                      # labels: folder names
  c3d-tools classify feats.h5 --groups '_(g\\d+)_'  # leave one group out
  c3d-tools classify train.h5 --test test.h5 --save svm.safetensors
  c3d-tools classify feats.h5 --ucf101-lists ucfTrainTestlist --protocol ucf101
  c3d-tools classify feats.h5 --pca-curve 10,50,100,500 --plot curve.png
"""


def _read_c(_ctx: click.Context, _param: click.Parameter, value: str) -> float | None:
    """Return a positive number; None for ``auto``."""
    if value == "auto":
        return None
    with contextlib.suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise click.BadParameter(f"{value!r} is neither a positive number nor auto")


def _read_dimensions(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int]:
    """Return the numbers of a comma-separated list, sorted; each is a whole number from 1."""
    fields = [] if value is None else [field.strip() for field in value.split(",")]
    if not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 10,50,100")
    return sorted({int(field) for field in fields})


@click.command("classify", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("features", type=FILE)
@layer_option("Which features.  [default: the first layer of the file]")
@click.option("--labels", type=FILE, metavar="CSV", help="Lines video,label.  [default: folder names]")
@click.option(
    "--label-pattern", metavar="REGEX", help="Label: what this matches in the name (its first group)."
)
@click.option("--ucf101-lists", type=FOLDER, help="Folder of classInd.txt, trainlist0N.txt, testlist0N.txt.")
@click.option("--split", type=click.IntRange(1, 3), help="Which official split.  [default: 1]")
@missing_option("Videos that a list does not label, and labels without a video.")
@click.option("--test", type=FILE, help="Train on FEATURES, test on this file.")
@click.option(
    "--groups",
    metavar="REGEX",
    help="Videos of one group stay together; without --folds, leave one group out.",
)
@click.option("--folds", type=click.IntRange(min=2), help="Cross-validation.  [default: 5, without --groups]")
@click.option("--protocol", type=click.Choice(["ucf101", "leave-one-out"]),
              help="ucf101: all three splits. leave-one-out: Maryland, YUPENN.")  # fmt: skip
@click.option(
    "--l2/--no-l2", default=True, show_default=True, help="L2-normalise each video's features, as the paper."
)
@click.option(
    "--c",
    callback=_read_c,
    metavar="NUMBER|auto",
    default="1",
    show_default=True,
    help="The SVM's C; auto: inner cross-validation.",
)
@click.option(
    "--pca", type=click.IntRange(min=1), metavar="K", help="Reduce to K dimensions, fitted in training."
)
@click.option(
    "--pca-curve",
    callback=_read_dimensions,
    metavar="K,K,…",
    help="Accuracy for each of these PCA dimensions as well.",
)
@click.option(
    "--save", type=OUTPUT, help="Save a model for `predict`: fitted on the training part, or on all."
)
@click.option("--plot", type=OUTPUT, help="Draw the confusion matrix and the PCA curve.")
@json_option
@debug_option
@guarded
def command(**options: Any) -> None:
    """Evaluate FEATURES, a feature file, with a linear SVM: accuracy, classes, confusions."""
    from c3d_extract.analysis import (
        ClassifierSettings,
        ExperimentOptions,
        baselines,
        cross_validate,
        pca_curve,
        prepare_experiment,
    )

    if options["plot"]:
        from c3d_extract.analysis import check_figure_path  # matplotlib is not needed otherwise

        check_figure_path(options["plot"])
    settings = ClassifierSettings(c=options["c"], l2=options["l2"], pca=options["pca"])
    fixed = options["test"] or options["ucf101_lists"]
    if fixed and options["groups"] and settings.c is not None:
        reason = "does nothing here: what is tested is given, and C is not chosen"
        raise UsageError(reason, subject="--groups")
    if options["pca"] and options["pca_curve"]:
        raise UsageError("--pca and --pca-curve exclude each other")
    names = set(ExperimentOptions.__dataclass_fields__) & set(options)
    chosen = {name: options[name] for name in names}
    experiment = prepare_experiment(ExperimentOptions(**chosen, skip_missing=options["missing"] == "skip"))
    samples, splits = experiment.samples, experiment.splits
    evaluation = cross_validate(samples, splits, settings)
    curve = pca_curve(samples, splits, options["pca_curve"], settings)
    compared_with = baselines(samples, splits)
    _warn(experiment, evaluation)
    # Before the text, whose reader may leave: classify … | head
    if options["save"]:
        _save(experiment, settings, options["save"])
    if options["plot"]:
        _plot(experiment, evaluation, curve, compared_with.chance, options["plot"])
    if options["as_json"]:
        put_json(_as_json(experiment, settings, evaluation, curve, compared_with))
    else:
        _show(experiment, settings, evaluation, curve, compared_with)


def _warn(experiment: Experiment, evaluation: Evaluation) -> None:
    for line in experiment.notes:
        note(f"Note: {printable(line)}.")
    n_tested = evaluation.confusion.sum(axis=1)
    untested = [name for name, n in zip(evaluation.classes, n_tested, strict=True) if not n]
    if untested:
        shown = ", ".join(map(printable, untested[:5])) + (", …" if len(untested) > 5 else "")
        note(f"Note: {len(untested)} of {len(evaluation.classes)} classes have no test video: {shown}.")
    if n_unconverged := sum(not fold.converged for fold in evaluation.folds):
        note(f"Note: the SVM of {n_unconverged} folds did not converge; try a smaller --c.")


def _save(experiment: Experiment, settings: ClassifierSettings, path: Path) -> None:
    from c3d_extract.analysis import fit_classifier, save_classifier

    rows = experiment.samples.rows(experiment.train_rows)
    trained_on = [(experiment.videos[i], experiment.sizes[i]) for i in experiment.train_rows]
    classifier = fit_classifier(rows, settings, provenance=experiment.provenance, trained_on=trained_on)
    save_classifier(classifier, path)
    n_classes, n_videos = len(classifier.classes), len(rows.labels)
    note(f"{path}: {n_classes} classes, fitted on {n_videos:,} videos, C = {classifier.c:g}")


def _plot(
    experiment: Experiment, evaluation: Evaluation, curve: dict[int, Evaluation], chance: float, path: Path
) -> None:
    from c3d_extract.analysis import draw_evaluation

    layer, n_videos = experiment.provenance["layer"], len(experiment.videos)
    title = (
        f"{layer}: accuracy {_accuracy(evaluation)}, chance {chance:.3f}",
        f"{n_videos:,} videos, {len(evaluation.classes)} classes; {experiment.protocol}",
    )
    draw_evaluation(evaluation, path, curve=curve, chance=chance, title=title)
    note(f"{path}: drawn")


def _as_json(
    experiment: Experiment,
    settings: ClassifierSettings,
    evaluation: Evaluation,
    curve: dict[int, Evaluation],
    compared_with: Baselines,
) -> dict[str, Any]:
    return {
        "protocol": experiment.protocol,
        "features": experiment.provenance,
        "n_videos": len(experiment.videos),
        "l2": settings.l2,
        "c": "auto" if settings.c is None else settings.c,
        "pca": settings.pca,
        **_figures(evaluation),
        "folds": [
            {"name": f.name, "n_train": f.n_train, "n_test": len(f.test), "accuracy": f.accuracy, "c": f.c}
            for f in evaluation.folds
        ],
        "classes": [
            {"name": name, "n_test": int(n), "precision": _number(p), "recall": _number(r), "f1": _number(f1)}
            for name, (p, r, f1, n) in zip(evaluation.classes, evaluation.per_class.tolist(), strict=True)
        ],
        "confusion": evaluation.confusion.tolist(),
        "pca_curve": [{"dimensions": k, **_figures(curve[k])} for k in sorted(curve)],
        "chance": compared_with.chance,
        "majority": compared_with.majority,
        "predictions": [
            {"video": experiment.videos[i], "fold": f.name, "label": truth, "predicted": predicted}
            for f in evaluation.folds
            for i, truth, predicted in zip(f.test, f.truth.tolist(), f.predicted.tolist(), strict=True)
        ],
    }


def _figures(evaluation: Evaluation) -> dict[str, float | None]:
    std, pooled = _number(evaluation.accuracy_std), evaluation.pooled_accuracy
    return {"accuracy": evaluation.accuracy, "accuracy_std": std, "pooled_accuracy": pooled}


def _number(value: float) -> float | None:
    """Return None for NaN, which is not JSON."""
    return None if math.isnan(value) else value


def _show(
    experiment: Experiment,
    settings: ClassifierSettings,
    evaluation: Evaluation,
    curve: dict[int, Evaluation],
    compared_with: Baselines,
) -> None:
    provenance, classes = experiment.provenance, evaluation.classes
    steps = [f"{provenance['layer']}, {provenance['dimension']} dimensions"]
    steps += ["L2"] * settings.l2 + [f"PCA to {settings.pca}"] * bool(settings.pca)
    used = sorted({fold.c for fold in evaluation.folds})
    chosen = f"C chosen from {used[0]:g} to {used[-1]:g}" if settings.c is None else f"C = {settings.c:g}"
    n_videos, protocol = len(experiment.videos), printable(experiment.protocol)
    show(f"{n_videos:,} videos, {len(classes)} classes; {protocol}")
    show(f"{', '.join(steps)}; linear SVM, {chosen}")
    show(f"\naccuracy  {_accuracy(evaluation)}")
    show(f"  chance {compared_with.chance:.3f}, the most frequent class {compared_with.majority:.3f}")
    if 1 < len(evaluation.folds) <= 12:
        for f in evaluation.folds:
            show(f"  fold {printable(f.name):<8} {f.accuracy:.3f}  {len(f.test)} tested on {f.n_train}")
    if curve:
        show("\n  PCA  accuracy")
        for k in sorted(curve):
            show(f"{k:>5}  {_accuracy(curve[k])}")
    show(f"\n{evaluation.class_table}")
    _show_confusions(evaluation)


def _accuracy(evaluation: Evaluation) -> str:
    """Return the mean, how far the folds spread, and over how many."""
    folds, accuracy = evaluation.folds, f"{evaluation.accuracy:.3f}"
    if len(folds) == 1:
        return f"{accuracy} ({(folds[0].truth == folds[0].predicted).sum()} of {len(folds[0].test)})"
    spread = evaluation.accuracy_std
    return f"{accuracy}{'' if math.isnan(spread) else f' ± {spread:.3f}'} over {len(folds)} folds"


def _show_confusions(evaluation: Evaluation) -> None:
    """Print the matrix where it fits, else the most frequent confusions."""
    counts, classes = evaluation.confusion, [printable(name) for name in evaluation.classes]
    cell = max(len(str(counts.max())), len(str(len(counts)))) + 1
    width = min(max(map(len, classes)), 24)
    if 6 + width + cell * len(counts) <= MATRIX_WIDTH:
        show("  confusion: row = true class, column = predicted")
        show(" " * (6 + width) + "".join(f"{i:>{cell}}" for i in range(1, len(counts) + 1)))
        for i, (name, row) in enumerate(zip(classes, counts, strict=True), start=1):
            show(f"  {i:>2} {name[:24]:<{width}} " + "".join(f"{n or '·':>{cell}}" for n in row))
        return
    pairs = {(i, j): int(counts[i, j]) for i, j in zip(*counts.nonzero(), strict=True) if i != j}
    most_frequent = sorted(pairs, key=lambda pair: -pairs[pair])[:N_CONFUSIONS]
    show(f"  the {len(most_frequent)} most frequent of {len(pairs)} confusions (all: --json)")
    for i, j in most_frequent:
        show(f"  {pairs[i, j]:>5}  {classes[i]} predicted as {classes[j]}")
