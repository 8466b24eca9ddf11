"""``c3d-tools classify``: how well a linear SVM tells classes apart by the features of a file."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, printable, put_json, show
from c3d_extract.cli.options import debug_option

if TYPE_CHECKING:
    from c3d_extract.analysis import LinearModel, Recipe, Report, Task

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
    """Return whole numbers from 1, that had commas between them."""
    fields = [] if value is None else [field.strip() for field in value.split(",")]
    if not all(field.isdecimal() and int(field) > 0 for field in fields):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 10,50,100")
    return sorted({int(field) for field in fields})


@click.command("classify", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("features", type=FILE)
@click.option("--layer", default="fc6", show_default=True, metavar="NAME", help="Which features.")
@click.option("--labels", type=FILE, metavar="CSV", help="Lines video,label.  [default: folder names]")
@click.option(
    "--label-pattern", metavar="REGEX", help="Label = what this finds in the name (its first group)."
)
@click.option("--ucf101-lists", type=FOLDER, help="Folder of classInd.txt, trainlist0N.txt, testlist0N.txt.")
@click.option("--split", type=click.IntRange(1, 3), help="Which official split.  [default: 1]")
@click.option("--missing", type=click.Choice(["fail", "skip"]), default="fail", show_default=True,
              help="What to do about videos a list does not label, and labels without video.")  # fmt: skip
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
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@debug_option
@guarded
def command(**words: Any) -> None:
    """Judge FEATURES, a feature file, with a linear SVM: accuracy, classes, confusions."""
    from c3d_extract.analysis import Choices, Recipe, cross_validate, gather, pca_curve
    from c3d_extract.errors import UsageError

    choices = Choices(
        skip_missing=words["missing"] == "skip",
        **{name: words[name] for name in Choices.__dataclass_fields__ if name != "skip_missing"},
    )
    recipe = Recipe(c=words["c"], l2=words["l2"], pca=words["pca"])
    if choices.is_fixed and choices.groups and recipe.c is not None:
        raise UsageError(
            "does nothing here: what is tested is given, and C is not chosen", subject="--groups"
        )
    if words["pca"] and words["pca_curve"]:
        raise UsageError("--pca and --pca-curve exclude each other")
    task = gather(choices)
    report = cross_validate(task.samples, task.splits, recipe)
    curve = pca_curve(task.samples, task.splits, words["pca_curve"], recipe) if words["pca_curve"] else {}
    _warn(task, report)
    if words["as_json"]:
        put_json(_as_json(task, recipe, report, curve))
    else:
        _show(task, recipe, report, curve)
    if words["save"]:
        _save(task, recipe, words["save"])
    if words["plot"]:
        _plot(task, report, curve, words["plot"])


def _warn(task: Task, report: Report) -> None:
    for line in task.notes:
        note(f"Note: {printable(line)}.")
    untested = [row.name for row in report.per_class if not row.n_test]
    if untested:
        shown = ", ".join(map(printable, untested[:5])) + (", …" if len(untested) > 5 else "")
        note(f"Note: {len(untested)} of {len(report.classes)} classes have no test video: {shown}.")
    if report.n_unconverged:
        note(f"Note: the SVM of {report.n_unconverged} folds did not converge; try a smaller --c.")


def _save(task: Task, recipe: Recipe, path: Path) -> None:
    from dataclasses import replace

    from c3d_extract.analysis import fit_recipe, save_model

    model: LinearModel = replace(
        fit_recipe(task.samples.rows(task.train_rows), recipe), features=task.made_from
    )
    save_model(model, path)
    note(f"{path}: {len(model.classes)} classes, fitted on {len(task.train_rows):,} videos, C = {model.c:g}")


def _plot(task: Task, report: Report, curve: dict[int, Report], path: Path) -> None:
    from c3d_extract.analysis import draw_report

    draw_report(report, path, curve=curve, title=f"{task.made_from['layer']}: {_accuracy(report)}")
    note(f"{path}: drawn")


def _as_json(task: Task, recipe: Recipe, report: Report, curve: dict[int, Report]) -> dict[str, Any]:
    return {
        "protocol": task.protocol,
        "features": task.made_from,
        "n_videos": len(task.videos),
        "l2": recipe.l2,
        "c": "auto" if recipe.c is None else recipe.c,
        "pca": recipe.pca,
        **_figures(report),
        "folds": [
            {"name": f.name, "n_train": f.n_train, "n_test": len(f.test), "accuracy": f.accuracy, "c": f.c}
            for f in report.folds
        ],
        "classes": [
            {key: _number(value) for key, value in row._asdict().items()} for row in report.per_class
        ],
        "confusion": report.confusion.tolist(),
        "pca_curve": [{"dimensions": k, **_figures(one)} for k, one in curve.items()],
        "predictions": [
            {
                "video": task.videos[i],
                "fold": f.name,
                "label": report.classes[t],
                "predicted": report.classes[p],
            }
            for f in report.folds
            for i, t, p in zip(f.test, f.truth, f.predicted, strict=True)
        ],
    }


def _figures(report: Report) -> dict[str, float | None]:
    return {
        "accuracy": report.accuracy,
        "accuracy_std": _number(report.accuracy_std),
        "pooled_accuracy": report.pooled_accuracy,
    }


def _number(value: Any) -> Any:
    """NaN is not JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _show(task: Task, recipe: Recipe, report: Report, curve: dict[int, Report]) -> None:
    made = task.made_from
    steps = [f"{made['layer']}, {made['dimension']} dimensions", *(["L2"] if recipe.l2 else [])]
    steps += [f"PCA to {recipe.pca}"] if recipe.pca else []
    used = sorted({fold.c for fold in report.folds})
    chosen = f"C chosen from {used[0]:g} to {used[-1]:g}" if recipe.c is None else f"C = {recipe.c:g}"
    show(f"{len(task.videos):,} videos, {len(report.classes)} classes; {printable(task.protocol)}")
    show(f"{', '.join(steps)}; linear SVM, {chosen}")
    show(f"\naccuracy  {_accuracy(report)}")
    _show_folds(report)
    if curve:
        show("\n  PCA  accuracy")
        for k, one in curve.items():
            show(f"{k:>5}  {_accuracy(one)}")
    _show_classes(report)
    _show_confusions(report)


def _accuracy(report: Report) -> str:
    """Return the mean, how far the folds spread, and over how many."""
    n = len(report.folds)
    if n == 1:
        fold = report.folds[0]
        return f"{report.accuracy:.3f} ({(fold.truth == fold.predicted).sum()} of {len(fold.test)})"
    spread = "" if math.isnan(report.accuracy_std) else f" ± {report.accuracy_std:.3f}"
    return f"{report.accuracy:.3f}{spread} over {n} folds"


def _show_folds(report: Report) -> None:
    if 1 < len(report.folds) <= 12:
        for fold in report.folds:
            name, n_test = printable(fold.name), len(fold.test)
            show(f"  fold {name:<8} {fold.accuracy:.3f}  {n_test} tested on {fold.n_train}")


def _show_classes(report: Report) -> None:
    width = max(5, *(min(len(printable(name)), 36) for name in report.classes))
    show(f"\n  {'class':<{width}}  tested  precision  recall     F1")
    for row in report.per_class:
        cells = [
            f"{'–' if math.isnan(x) else format(x, '.3f'):>{w}}"
            for x, w in ((row.precision, 9), (row.recall, 6), (row.f1, 5))
        ]
        show(f"  {printable(row.name)[:36]:<{width}}  {row.n_test:>6}  {'  '.join(cells)}")


def _show_confusions(report: Report) -> None:
    """Print the matrix where it fits, else the confusions that occur most."""
    counts, classes = report.confusion, [printable(name) for name in report.classes]
    cell = max(len(str(counts.max())), len(str(len(counts)))) + 1
    width = min(max(map(len, classes)), 24)
    if 6 + width + cell * len(counts) <= MATRIX_WIDTH:
        show("\n  confusion: row = true class, column = predicted")
        show(" " * (6 + width) + "".join(f"{i:>{cell}}" for i in range(1, len(counts) + 1)))
        for i, (name, row) in enumerate(zip(classes, counts, strict=True), start=1):
            show(f"  {i:>2} {name[:24]:<{width}} " + "".join(f"{n or '·':>{cell}}" for n in row))
        return
    wrong = sorted(
        (
            (int(counts[i, j]), i, j)
            for i in range(len(counts))
            for j in range(len(counts))
            if i != j and counts[i, j]
        ),
        key=lambda found: (-found[0], found[1:]),
    )
    show(f"\n  the {min(N_CONFUSIONS, len(wrong))} commonest of {len(wrong)} confusions (all: --json)")
    for n, i, j in wrong[:N_CONFUSIONS]:
        show(f"  {n:>5}  {classes[i]} taken for {classes[j]}")
