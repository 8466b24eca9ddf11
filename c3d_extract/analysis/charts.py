"""A report as a picture: the confusion matrix and, if there is one, the PCA curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.analysis.linear import optional_module
from c3d_extract.errors import StoreError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from c3d_extract.analysis.protocols import Report

__all__ = ["draw_report"]

MOST_NUMBERS = 25
"""Up to this many classes the cells carry their counts."""
MOST_NAMES = 60
"""Up to this many classes the axes carry the names."""


def draw_report(
    report: Report, path: Path, *, curve: Mapping[int, Report] | None = None, title: str = ""
) -> None:
    """Draw the confusion matrix (shares of each row) and the accuracy for each PCA dimension.

    Parameters
    ----------
    report
        What the matrix is of.
    path
        The picture; its suffix says the format.
    curve
        Dimension → report, as `pca_curve` gives it.
    title
        A line above the matrix.
    """
    figures = optional_module("matplotlib.figure", "plot")
    named = len(report.classes) <= MOST_NAMES
    side = float(np.clip(2.6 + 0.3 * len(report.classes), 4.5, 16)) if named else 9.0
    figure = figures.Figure(figsize=(side + (5.5 if curve else 0.6), side), layout="constrained")
    axes = figure.subplots(1, 2 if curve else 1, squeeze=False, width_ratios=[side, 5] if curve else [1])[0]
    _draw_confusion(axes[0], report, title)
    if curve:
        _draw_curve(axes[1], report, curve)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be drawn: {error}", subject=path) from error


def _draw_confusion(axes: Any, report: Report, title: str) -> None:
    counts = report.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true", title=_plain(title))
    if len(report.classes) <= MOST_NAMES:
        ticks = range(len(report.classes))
        names = [_plain(name) for name in report.classes]
        axes.set_xticks(ticks, names, rotation=90)
        axes.set_yticks(ticks, names)
    if len(report.classes) <= MOST_NUMBERS:
        for row, column in zip(*np.nonzero(counts), strict=True):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=ink)


def _draw_curve(axes: Any, report: Report, curve: Mapping[int, Report]) -> None:
    dimensions = sorted(curve)
    accuracies = [curve[k].accuracy for k in dimensions]
    spread = np.nan_to_num([curve[k].accuracy_std for k in dimensions])
    axes.errorbar(dimensions, accuracies, yerr=spread, marker="o", capsize=3, label="PCA")
    axes.axhline(report.accuracy, color="gray", linestyle="--", label="without PCA")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="PCA dimensions", ylabel="accuracy")
    axes.set_xticks(dimensions, [str(k) for k in dimensions])
    axes.set_box_aspect(0.8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _plain(text: str) -> str:
    return printable(text).replace("$", r"\$")  # which matplotlib would take for a formula
