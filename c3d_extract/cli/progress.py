"""Progress of a run and of downloads, on stderr: a bar on a terminal, else a plain line every 30 s."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from c3d_extract.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from c3d_extract.pipeline import Progress as Counts

__all__ = ["FetchBar", "RunBar", "clock", "rates", "step_bars", "step_status"]

_PLAIN_SECONDS = 30.0  # between lines where stderr is no terminal


def clock(seconds: float) -> str:
    """Return ``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rates(counts: Counts) -> str:
    """Return rates and the time left, which is estimated from the sizes of the files."""
    seconds = max(counts.seconds, 1e-6)
    text = f"{counts.n_clips / seconds:.1f} clips/s, {counts.n_frames / seconds:.0f} frames/s"
    if 0 < counts.n_bytes_finished < counts.n_bytes:
        left = seconds * (counts.n_bytes - counts.n_bytes_finished) / counts.n_bytes_finished
        text += f", {clock(left)} left"
    return text + (f", {counts.n_failed} failed" if counts.n_failed else "")


class _Rates(ProgressColumn):
    counts: Counts | None = None
    parts = ""

    def render(self, task: object) -> Text:
        del task
        starting = self.counts is None or not self.counts.n_clips
        return Text(self.parts + ("starting" if self.counts is None or starting else rates(self.counts)))


class RunBar:
    """Shows the progress of a run; ``say`` prints a line above it."""

    def __init__(self, *, quiet: bool) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live = not quiet and self.console.is_terminal
        self._rates = _Rates(table_column=Column(no_wrap=True))
        self._last_line = time.monotonic()
        self._task: TaskID | None = None
        columns = (
            TextColumn("{task.completed:.0f}/{task.total:.0f} videos"),
            BarColumn(bar_width=14),
            self._rates,
        )
        self._bar = Progress(*columns, console=self.console, transient=True, disable=not self._live)

    def __enter__(self) -> Self:
        if self._live:  # before rich 14.3 even a disabled bar ends with an empty line
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._bar.stop()

    def say(self, line: str, style: str = "") -> None:
        """Print one line above the bar, unless quiet."""
        if not self._quiet:
            self.console.print(Text(printable(line), style=style))

    def update(self, counts: Counts, parts: str = "") -> None:
        """Take new counts; ``parts`` says how many parts of a run are done."""
        done = counts.n_skipped + counts.n_finished
        if self._live:
            self._rates.counts, self._rates.parts = counts, parts
            if self._task is None:
                self._task = self._bar.add_task("videos", total=counts.n_videos)
            self._bar.update(self._task, completed=done)
        elif not self._quiet and time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(Text(f"{done}/{counts.n_videos} videos, {parts}{rates(counts)}"))


@contextlib.contextmanager
def step_bars(*, quiet: bool) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show steps of work on a terminal: what is yielded takes what is done and how much it is.

    It returns a function that takes how much of it was done since it was called last.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:.0f} %"),
    )
    console = Console(stderr=True, highlight=False)
    is_live = not quiet and console.is_terminal
    bar = Progress(*columns, console=console, transient=True, disable=not is_live)

    def step(what: str, total: int) -> Callable[[int], None]:
        task = bar.add_task(what, total=total)
        return lambda n: bar.advance(task, n)

    with bar if is_live else contextlib.nullcontext():
        yield step


class FetchBar:
    """Shows downloads; prints nothing until the first bytes of one arrive."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None and sys.stderr.isatty():
            self._bar.stop()

    def __call__(self, name: str, n_done: int, n_total: int | None) -> None:
        """Take the state of one file's download, in bytes."""
        if self._quiet:
            return
        if self._bar is None:
            columns = (
                TextColumn("fetching {task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
            if sys.stderr.isatty():
                self._bar.start()
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(name, total=n_total)
            if not sys.stderr.isatty():
                Console(stderr=True).print(f"fetching {name}", highlight=False, markup=False)
        self._bar.update(self._tasks[name], completed=n_done, total=n_total)


@contextlib.contextmanager
def step_status() -> Iterator[Callable[[str], object]]:
    """Yield a function that shows the step that is running; it shows nothing where stderr is no terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda step: status.update(Text(printable(step)))
