"""Charts: the confusion matrix with its counts, names that can be read, the PCA curve."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from c3d_extract.analysis import Evaluation, draw_evaluation
from c3d_extract.analysis.classify import FoldResult

if TYPE_CHECKING:
    from pathlib import Path


def evaluation(n_classes: int) -> Evaluation:
    """Return two tests of every class, one of them taken for the next class."""
    names = np.array([f"HandstandPushups$_{i:03}" for i in range(n_classes)])
    truth, predicted = np.concatenate([names, names]), np.concatenate([names, np.roll(names, -1)])
    fold = FoldResult("1", 10, np.arange(2 * n_classes), truth, predicted, 1.0, converged=True)
    return Evaluation(tuple(names.tolist()), (fold,))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_args, **_kwargs: saved.append(figure))
    return saved


@pytest.mark.parametrize("n_classes", [2, 101])
def test_names_of_classes_do_not_overlap(tmp_path: Path, figures: list[Figure], n_classes: int) -> None:
    draw_evaluation(evaluation(n_classes), tmp_path / "p.png")
    figures[0].draw_without_rendering()
    axes = figures[0].axes[0]
    rows, columns = (
        [label.get_window_extent() for label in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis)
    )
    assert len(rows) == len(columns) == n_classes
    # Rows run downwards, columns to the right; 6 points are the least that is easily read.
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(rows))
    assert all(left.x1 <= right.x0 for left, right in pairwise(columns))
    assert float(axes.yaxis.get_ticklabels()[0].get_fontsize()) >= 6
    inside = figures[0].bbox
    assert min(box.x0 for box in rows) >= inside.x0
    assert min(box.y0 for box in columns) >= inside.y0


def test_cells_carry_counts_where_they_fit(tmp_path: Path, figures: list[Figure]) -> None:
    for n_classes in (3, 26):
        draw_evaluation(evaluation(n_classes), tmp_path / "p.png")
    counts = [text.get_text() for text in figures[0].axes[0].texts]
    assert counts == ["1", "1", "", "", "1", "1", "1", "", "1"]
    assert not figures[1].axes[0].texts


def test_hundreds_of_classes_are_drawn_without_names(tmp_path: Path, figures: list[Figure]) -> None:
    draw_evaluation(evaluation(160), tmp_path / "p.png")
    assert not figures[0].axes[0].get_xticks().size


def test_the_curve_shows_each_dimension_and_the_accuracy_without(
    tmp_path: Path, figures: list[Figure]
) -> None:
    curve = {k: evaluation(3) for k in (50, 2)}
    draw_evaluation(evaluation(3), tmp_path / "p.png", curve=curve)
    line, *_, level = (np.asarray(line.get_xydata()) for line in figures[0].axes[1].get_lines())
    assert line.tolist() == [[2, 0.5], [50, 0.5]]
    assert set(level[:, 1]) == {0.5}
