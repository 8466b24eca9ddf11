"""Plots of an evaluation: the confusion matrix and the accuracy for each number of PCA dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from c3d_extract.analysis.figures import plain_text, save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from c3d_extract.analysis.classify import Evaluation

__all__ = ["draw_evaluation"]

MOST_COUNTS = 25
"""Up to this many classes, the cells show their counts."""
MOST_NAMES = 150
"""Up to this many classes, the axes show the names."""


def draw_evaluation(
    evaluation: Evaluation, path: Path, *, curve: Mapping[int, Evaluation] | None = None, title: str = ""
) -> None:
    """Draw the confusion matrix and, if there is one, the ``curve`` of `pca_curve`.

    The suffix of ``path`` determines the format. Raises StoreError if the file cannot be written.
    """
    n = len(evaluation.classes)
    # Inches: a line of 7-point type takes 0.16.
    side = 4.5 + 0.3 * n if n <= MOST_COUNTS else 6 + 0.16 * n if n <= MOST_NAMES else 9.0
    figure = Figure(figsize=(side + (5.5 if curve else 0.6), side), layout="constrained")
    axes = figure.subplots(1, 2 if curve else 1, squeeze=False, width_ratios=[side, 5] if curve else [1])[0]
    _draw_confusion(axes[0], evaluation, title)
    if curve:
        _draw_curve(axes[1], evaluation, curve)
    save_figure(figure, path)


def _draw_confusion(axes: Any, evaluation: Evaluation, title: str) -> None:
    """Colour by the share of the true class; a cell's number is its count."""
    counts = evaluation.confusion
    named, counted = len(counts) <= MOST_NAMES, len(counts) <= MOST_COUNTS
    names = [plain_text(name[:36]) for name in evaluation.classes] if named else None
    display = ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), display_labels=names
    )
    display.plot(
        ax=axes,
        cmap="Blues",
        include_values=counted,
        xticks_rotation="vertical",
        colorbar=False,
        im_kw={"vmin": 0, "vmax": 1},
    )
    if counted:
        for text, count in zip(display.text_.ravel(), counts.ravel(), strict=True):
            text.set_text(str(count) if count else "")
    if not named:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(labelsize=10 if counted else 7)
    axes.set(xlabel="predicted", ylabel="true", title=plain_text(title))
    axes.figure.colorbar(display.im_, ax=axes, aspect=40, label="share of the true class")


def _draw_curve(axes: Any, evaluation: Evaluation, curve: Mapping[int, Evaluation]) -> None:
    dimensions = sorted(curve)
    accuracies = [curve[k].accuracy for k in dimensions]
    spread = np.nan_to_num([curve[k].accuracy_std for k in dimensions])
    axes.errorbar(dimensions, accuracies, yerr=spread, marker="o", capsize=3, label="PCA")
    axes.axhline(evaluation.accuracy, color="gray", linestyle="--", label="without PCA")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="PCA dimensions", ylabel="accuracy", box_aspect=0.8)
    axes.set_xticks(dimensions, [str(k) for k in dimensions], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
