"""Plots of an evaluation: the confusion matrix and the accuracy for each number of PCA dimensions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from c3d_extract.analysis.figures import plain_text, save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from c3d_extract.analysis.classify import Evaluation

__all__ = ["draw_evaluation"]

MOST_COUNTS = 25
"""Up to this many classes, the cells show their counts."""
MOST_NAMES = 150
"""Up to this many classes, the axes show the names."""
_CURVE_INCHES = 5.5
_PAD_INCHES = 0.08  # twice the default, at which the lowest label is on the edge of the picture
_LETTERS_PER_INCH = 9  # of a title


def draw_evaluation(
    evaluation: Evaluation,
    path: Path,
    *,
    curve: Mapping[int, Evaluation] | None = None,
    chance: float | None = None,
    title: Sequence[str] = (),
) -> None:
    """Draw the confusion matrix and, if there is one, the ``curve`` of `pca_curve`.

    The suffix of ``path`` determines the format; ``chance`` is the accuracy of guessing, ``title`` the lines
    above. Raises StoreError if the file cannot be written.
    """
    n = len(evaluation.classes)
    # Inches: a line of 7-point type takes 0.16.
    side = 4.5 + 0.3 * n if n <= MOST_COUNTS else 6 + 0.16 * n if n <= MOST_NAMES else 9.0
    widths = [side + 0.6] + ([_CURVE_INCHES] if curve else [])
    figure = Figure(figsize=(sum(widths), side + 0.4))
    figure.set_layout_engine("constrained", h_pad=_PAD_INCHES, w_pad=_PAD_INCHES)
    # Each has a layout of its own, which neither shrinks the other.
    parts = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_confusion(parts[0].subplots(), evaluation)
    if curve:
        _draw_curve(parts[1].subplots(), evaluation, curve, chance)
    letters = int(figure.get_figwidth() * _LETTERS_PER_INCH)
    lines = [part for line in title for part in textwrap.wrap(line, letters)]
    figure.suptitle("\n".join(map(plain_text, lines)))
    save_figure(figure, path)


def _draw_confusion(axes: Any, evaluation: Evaluation) -> None:
    """Colour by the share of the true class; a cell's number is its count."""
    counts = evaluation.confusion
    named, counted = len(counts) <= MOST_NAMES, len(counts) <= MOST_COUNTS
    names = [plain_text(name[:36]) for name in evaluation.classes] if named else None
    display = ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), display_labels=names
    )
    display.plot(
        ax=axes,
        cmap=_colours(),
        include_values=counted,
        xticks_rotation="vertical",
        colorbar=False,
        im_kw={"vmin": np.finfo(np.float32).tiny, "vmax": 1},
    )
    if counted:
        for text, count in zip(display.text_.ravel(), counts.ravel(), strict=True):
            text.set_text(str(count) if count else "")
    if not named:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(labelsize=10 if counted else 7)
    axes.set(xlabel="predicted class", ylabel="true class", anchor="N")
    share = axes.figure.colorbar(display.im_, ax=axes, aspect=40, shrink=0.6, label="share of the true class")
    share.set_ticks(np.linspace(0, 1, 6), labels=[f"{tick:.1f}" for tick in np.linspace(0, 1, 6)])


def _colours() -> Colormap:
    """Return blues that tell a rare confusion from none, which is white."""
    return ListedColormap(mpl.colormaps["Blues"](np.linspace(0.15, 1, 256))).with_extremes(under="white")


def _draw_curve(
    axes: Any, evaluation: Evaluation, curve: Mapping[int, Evaluation], chance: float | None
) -> None:
    dimensions = sorted(curve)
    accuracies = [curve[k].accuracy for k in dimensions]
    spread = np.nan_to_num([curve[k].accuracy_std for k in dimensions])
    axes.errorbar(dimensions, accuracies, yerr=spread, marker="o", capsize=3, label="PCA")
    axes.axhline(evaluation.accuracy, color="gray", linestyle="--", label="without PCA")
    if chance is not None:
        axes.axhline(chance, color="gray", linestyle=":", label=f"chance, {chance:.3f}")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="PCA dimensions", ylabel="accuracy")
    axes.set(box_aspect=0.8, anchor="N")
    axes.set_xticks(dimensions, [str(k) for k in dimensions], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
