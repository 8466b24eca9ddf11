"""Sections with checks and tables of numbers, and how they are written: JSON, text, Markdown."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import textwrap
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Status = Literal["running", "ok", "failed", "skipped"]
Rows = list[dict[str, Any]]

WIDTH = 80
HEADINGS = {
    "clips_per_second": "clips/s",
    "frames_per_second": "frames/s",
    "tflops": "TFLOP/s",
    "of_product": "of product",
    "times_eager": "x eager",
    "peak_gib": "GiB",
    "main_ms": "main ms/clip",
    "one_minus_cosine": "1 - cosine",
}
"""Columns whose heading is not their key with spaces."""


class NotPossible(Exception):  # noqa: N818 - it ends a section without anything being wrong
    """What a section needs is not there; it is skipped with this reason."""


@dataclass
class Check:
    """One statement that must be true; ``why`` holds the numbers, or the reason."""

    name: str
    status: Status
    why: str = ""


@dataclass
class Section:
    """What one section found. Every change is saved at once: a process that is killed loses nothing."""

    name: str
    title: str
    status: Status = "running"
    why: str = ""
    seconds: float = 0.0
    began: float = 0.0  # by the clock that all processes of a machine share
    checks: list[Check] = field(default_factory=list)
    tables: dict[str, Rows] = field(default_factory=dict)
    save: Callable[[Section], None] = field(default=lambda _: None, repr=False, compare=False)

    def check(self, name: str, passed: bool, why: str = "") -> None:
        """Record whether something is true."""
        self.checks.append(Check(name, "ok" if passed else "failed", why))
        self.save(self)

    def skip(self, name: str, why: str) -> None:
        """Record that something was not checked."""
        self.checks.append(Check(name, "skipped", why))
        self.save(self)

    def row(self, table: str, **values: Any) -> None:
        """Add a line to a table."""
        self.tables.setdefault(table, []).append(values)
        self.save(self)

    def end(self, status: Status = "ok", why: str = "") -> None:
        """Close the section; a failed check makes it failed."""
        failed = status == "ok" and any(check.status == "failed" for check in self.checks)
        self.status, self.why = "failed" if failed else status, why
        self.seconds = time.monotonic() - self.began if self.began else 0.0
        self.save(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        names = [entry.name for entry in dataclasses.fields(self) if entry.name not in {"save", "checks"}]
        plain = {name: getattr(self, name) for name in names}
        return plain | {"checks": [dataclasses.asdict(check) for check in self.checks]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Section:
        """Build from the values of `to_json`."""
        checks = [Check(**check) for check in values["checks"]]
        return cls(**{**values, "checks": checks})


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step: whoever reads it meanwhile sees the old text or the new."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)  # noqa: PTH105 - one step, also where the target exists


def save_in(folder: Path) -> Callable[[Section], None]:
    """Return what saves a section in a folder, under its name."""
    return lambda section: write_whole(folder / f"{section.name}.json", json.dumps(section.to_json()))


def load_from(folder: Path, name: str) -> Section | None:
    """Return a section as it was last saved, or None."""
    with contextlib.suppress(OSError):
        return Section.from_json(json.loads((folder / f"{name}.json").read_text("utf-8")))
    return None


def one_line(error: BaseException) -> str:
    """Return an error's kind and the first line of its message."""
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def shown(value: Any) -> str:
    """Return a number as a reader wants it: three digits, or no fraction from 1,000."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _cells(rows: Rows) -> list[list[str]]:
    """Headings and rows as text."""
    columns = _columns(rows)
    headings = [HEADINGS.get(name, name.replace("_", " ")) for name in columns]
    return [headings, *([shown(row.get(name)) for name in columns] for row in rows)]


def _text_table(title: str, rows: Rows) -> Iterator[str]:
    cells = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield f"  {title}"
    for line in cells:
        padded = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        yield from _wrapped("    " + "  ".join(padded), "      ")


def _wrapped(line: str, indent: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, drop_whitespace=True)


def as_text(section: Section) -> str:
    """Return a section for a terminal of 80 columns."""
    why = f": {section.why}" if section.why else ""
    lines = _wrapped(f"{section.title} [{section.status}, {section.seconds:.0f} s]{why}", "  ")
    for check in section.checks:
        detail = f" ({check.why})" if check.why else ""
        lines += _wrapped(f"  {check.status:>7}  {check.name}{detail}", " " * 11)
    for title, rows in section.tables.items():
        lines += _text_table(title, rows)
    return "\n".join(lines)


def as_markdown(header: dict[str, Any], sections: Sequence[Section]) -> str:
    """Return the whole run for RESULTS.md."""
    lines = [f"### {header['device']}", "", f"`{header['command']}`", ""]
    for section in sections:
        why = f": {section.why}" if section.why else ""
        lines += [f"**{section.title}** ({section.status}{why})", ""]
        lines += [
            f"- {check.status}: {check.name} ({check.why or 'as expected'})" for check in section.checks
        ]
        lines += [""] if section.checks else []
        for title, rows in section.tables.items():
            lines += [f"{title}:", "", *_markdown_table(rows), ""]
    return "\n".join(lines)


def _markdown_table(rows: Rows) -> list[str]:
    headings, *cells = ([cell.replace("|", "\\|") for cell in line] for line in _cells(rows))
    ruler = ["---"] * len(headings)
    return [f"| {' | '.join(line)} |" for line in (headings, ruler, *cells)]
