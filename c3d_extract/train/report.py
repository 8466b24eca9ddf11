"""The log of a run: measurements during training, their CSV file, and its plot."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from c3d_extract.errors import StoreError, UsageError
from c3d_extract.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Evaluation", "LogEntry", "TrainingLog", "draw_curve"]

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


class Evaluation(NamedTuple):
    """Mean loss, and accuracy on single clips and on each video's mean; why videos could not be read."""

    loss: float
    clips: float
    videos: float
    failures: list[str]


@dataclass
class LogEntry:
    """Measurements since the last entry: a line of ``log.csv``.

    Attributes
    ----------
    iteration
        Iterations done.
    loss, accuracy
        Mean over the training clips since the last entry; accuracy is the share of correct predictions
        (see `count_correct`).
    rate, clips_per_second
        Learning rate and speed.
    failures
        Videos that could not be read since the last entry, one line each.
    test_loss, test_clips, test_videos
        Mean loss, and accuracy on single clips and on the mean prediction of each video's clips; None if
        nothing was tested.
    """

    iteration: int
    loss: float
    accuracy: float
    rate: float
    clips_per_second: float
    failures: list[str] = field(default_factory=list)
    test_loss: float | None = None
    test_clips: float | None = None
    test_videos: float | None = None

    def add_test(self, found: Evaluation) -> None:
        """Add the results of a test."""
        self.test_loss, self.test_clips, self.test_videos = found.loss, found.clips, found.videos
        self.failures.extend(found.failures)


class TrainingLog:
    """``log.csv`` of a run: one line per entry, empty fields if nothing was tested."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, entry: LogEntry) -> None:
        """Append a line."""
        values = dataclasses.asdict(entry) | {"n_failures": len(entry.failures)}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            writer.writerow(["" if values[name] is None else _short(values[name]) for name in COLUMNS])

    def cut_after(self, iteration: int) -> None:
        """Remove the lines that a resumed run will write again; raise StoreError if it is another file."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        if not text:  # killed before its first line
            self.path.unlink()
            return
        head, *lines = text.splitlines(keepends=True)
        # A file that is not a training log is refused, not replaced.
        if head.strip() != ",".join(COLUMNS):
            raise StoreError("is no log of a training", subject=self.path, hint="name another folder")
        # A line without its end was cut off by a kill, in the middle of an append.
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= iteration]
        with replacing(self.path) as file:
            file.write((head + "".join(kept)).encode())

    def read(self) -> dict[str, list[float | None]]:
        """Return the columns by name."""
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in COLUMNS}


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def draw_curve(log: Path, picture: Path, *, title: str = "", chance: float | None = None) -> None:
    """Draw loss and accuracy over the iterations.

    Parameters
    ----------
    log, picture
        The ``log.csv`` of a run, and the file to write, whose suffix is the format.
    title
        The lines above.
    chance
        The accuracy of guessing, drawn as a line.

    Raises
    ------
    UsageError
        If matplotlib is not installed.
    StoreError
        If the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure

        from c3d_extract.analysis.figures import plain_text, save_figure
    except ImportError as error:
        hint = "pip install matplotlib and run the command again"
        raise UsageError("the curve needs matplotlib", hint=hint) from error
    columns = TrainingLog(log).read()
    figure = Figure(figsize=(9, 4), layout="constrained")
    figure.suptitle("\n".join(map(plain_text, title.split("\n"))), fontsize=11)
    left, right = figure.subplots(1, 2)
    _draw_lines(left, columns, {"loss": "training", "test_loss": "test"})
    left.set_ylim(0, 1.05 * left.get_ylim()[1])
    left.set_ylabel("loss")
    accuracies = {"accuracy": "training, clips", "test_clips": "test, clips", "test_videos": "test, videos"}
    _draw_lines(right, columns, accuracies)
    if chance is not None:
        right.axhline(chance, color="gray", linestyle=":", label=f"chance, {chance:.3f}")
    right.set_ylim(0, 1.02)
    right.set_ylabel("accuracy")
    for axes in (left, right):
        axes.legend()
    save_figure(figure, picture)


def _draw_lines(axes: Any, columns: dict[str, list[float | None]], labels: dict[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    for name, label in labels.items():
        pairs = zip(columns["iteration"], columns[name], strict=True)
        points = [(x, y) for x, y in pairs if y is not None]
        if points:
            marker = "." if "test" in name or len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("iteration")
    axes.grid(visible=True, alpha=0.3)
