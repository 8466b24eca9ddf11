"""The record of a run: a CSV line for each report, and the curve drawn from it."""

from __future__ import annotations

import csv
import dataclasses
from typing import TYPE_CHECKING

from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.train.loop import Report

__all__ = ["TrainingLog", "draw_curve"]

COLUMNS = (
    "iteration",
    "loss",
    "accuracy",
    "rate",
    "clips_per_second",
    "n_failures",
    "test_loss",
    "test_clips",
    "test_videos",
)


class TrainingLog:
    """``log.csv`` of a run: one line a report, empty fields where nothing was tested."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, report: Report) -> None:
        """Append a line."""
        values = dataclasses.asdict(report) | {"n_failures": len(report.failures)}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(["" if values[name] is None else _short(values[name]) for name in COLUMNS])

    def cut_after(self, iteration: int) -> None:
        """Drop the lines that a resumed run will write again; StoreError where the file is none of ours."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        if not text:  # killed before its first line
            self.path.unlink()
            return
        head, *lines = text.splitlines(keepends=True)
        if head.strip() != ",".join(COLUMNS):
            raise StoreError("is no log of a training", subject=self.path, hint="name another folder")
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= iteration]
        self.path.write_text(head + "".join(kept), encoding="utf-8")

    def read(self) -> dict[str, list[float | None]]:
        """Return the columns by name."""
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in COLUMNS}


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def draw_curve(log: Path, picture: Path) -> None:
    """Draw loss and accuracy over the iterations; UsageError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "the curve needs matplotlib", hint="pip install 'c3d-extract[plot]' and run the command again"
        ) from error
    columns = TrainingLog(log).read()
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ("loss", "test_loss")), (right, ("accuracy", "test_clips", "test_videos"))):
        for name in names:
            points = [
                (x, y) for x, y in zip(columns["iteration"], columns[name], strict=True) if y is not None
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    label=name.replace("_", " "),
                    marker="." if "test" in name else None,
                )
        axes.set_xlabel("iteration")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    left.set_ylabel("loss")
    right.set_ylim(0, 1)
    right.set_ylabel("accuracy")
    figure.savefig(picture, dpi=120)
