"""Charts: the confusion matrix with its counts, names that can be read, the PCA curve."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
from matplotlib.figure import Figure
from matplotlib.text import Text

from c3d_extract.analysis import Evaluation, check_figure_path, draw_evaluation
from c3d_extract.analysis.classify import FoldResult
from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.transforms import BboxBase


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
    draw_evaluation(evaluation(3), tmp_path / "p.png", curve=curve, chance=1 / 3)
    (axes,) = (axes for axes in figures[0].axes if axes.get_ylabel() == "accuracy")
    line, *_, level, chance = (np.asarray(line.get_xydata()) for line in axes.get_lines())
    assert line.tolist() == [[2, 0.5], [50, 0.5]]
    assert set(level[:, 1]) == {0.5}
    assert set(chance[:, 1]) == {1 / 3}
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] >= 1


def test_a_long_title_is_wrapped_and_all_that_is_written_is_on_the_picture(
    tmp_path: Path, figures: list[Figure]
) -> None:
    title = ["fc6: accuracy 0.500, chance 0.500", f"trained on {'a' * 40}.h5, tested on {'b' * 40}.h5"]
    draw_evaluation(evaluation(2), tmp_path / "p.png", curve={2: evaluation(2)}, title=title)
    (figure,) = figures
    figure.draw_without_rendering()
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    heading = next(text for text in figure.findobj(Text) if text.get_text().startswith(title[0]))
    assert heading.get_text().startswith(f"{title[0]}\ntrained on")
    written = [heading, *(label for label in labels if label.get_text())]
    assert len(written) == 6
    assert [text for text in written if not _contains(figure.bbox, text.get_window_extent())] == []


def _contains(outer: BboxBase, inner: BboxBase) -> bool:
    return bool(outer.containsx(inner.x0) and outer.containsx(inner.x1)) and bool(
        outer.containsy(inner.y0) and outer.containsy(inner.y1)
    )


def test_colours_run_from_nothing_to_a_whole_class_and_show_a_rare_confusion(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw_evaluation(evaluation(3), tmp_path / "p.png")
    (image,) = figures[0].axes[0].images
    assert image.get_clim() == pytest.approx((0, 1))
    colours = np.asarray(image.cmap(image.norm(np.array([0, 0.01, 1]))))
    none, rare, whole = colours[:, :3].sum(axis=1)
    assert none == 3  # white
    assert whole < rare < 2.75


@pytest.mark.parametrize("name", ["p.bmp", "p"])
def test_a_path_of_no_format_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: no format of a picture; name a .png"):
        check_figure_path(tmp_path / name)
    with pytest.raises(StoreError, match="its folder is not there"):
        check_figure_path(tmp_path / "nowhere" / "p.png")
    check_figure_path(tmp_path / "p.PNG")


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_figure: Figure, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "p.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(StoreError, match="the disk is full"):
        draw_evaluation(evaluation(2), tmp_path / "p.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
