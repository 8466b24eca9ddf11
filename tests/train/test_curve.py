"""The curve of a training: whole iterations, accuracies from 0 to 1, and what guessing gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from c3d_extract.train.evaluate import chance_accuracy
from c3d_extract.train.report import Evaluation, LogEntry, TrainingLog, draw_curve
from c3d_extract.train.synthetic import KINDS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("n", [1, 3, 2000])
def test_iterations_are_whole_and_accuracies_run_from_0_to_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    log = TrainingLog(tmp_path / "log.csv")
    for iteration in (1, 2, n):
        entry = LogEntry(iteration, 2.0, 0.4, 0.01, 10.0)
        entry.add_test(Evaluation(1.9, 0.45, 0.5, []))
        log.add(entry)
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_args, **_kwargs: saved.append(figure))
    draw_curve(log.path, tmp_path / "curve.png", title="c3d\ntest accuracy 0.500", chance=0.25)
    saved[0].draw_without_rendering()
    loss, accuracy = saved[0].axes
    for axes in (loss, accuracy):
        ticks = axes.get_xticks()
        assert ticks.tolist() == np.round(ticks).tolist()
        assert all(
            label.get_text().replace(",", "").lstrip("−-").isdigit() for label in axes.get_xticklabels()
        )
    assert loss.get_ylim()[0] == 0
    assert loss.get_ylim()[1] > 2
    assert accuracy.get_ylim() == (0, 1.02)
    lines = accuracy.get_lines()
    shown = {str(line.get_label()): np.asarray(line.get_ydata())[-1] for line in lines}
    assert shown == {"training, clips": 0.4, "test, clips": 0.45, "test, videos": 0.5, "chance, 0.250": 0.25}


def test_guessing_is_compared_with_where_each_clip_has_one_label_of_all() -> None:
    assert chance_accuracy(("hug", "kick")) == 0.5
    assert chance_accuracy(KINDS["motion"]) == 1 / len(KINDS["motion"])
    assert chance_accuracy(KINDS["all"]) is None
