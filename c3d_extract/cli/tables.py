"""Tables and lists of facts: aligned and wrapped on a terminal, else lines with tabs for other programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from c3d_extract.errors import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["is_terminal", "show_facts", "show_table"]

_WIDEST_NAME = 40


def is_terminal() -> bool:
    """Return whether stdout is read by a person."""
    return sys.stdout.isatty()


def show_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[str] = (),
    wrapped: Collection[str] = (),
    title: str = "",
) -> None:
    """Print a table to stdout.

    Parameters
    ----------
    headings
        One for each column.
    rows
        The cells of each row.
    right
        Headings of columns that are aligned at the right.
    wrapped
        Headings of columns that may be wrapped on a narrow terminal.
    title
        A line above; without a terminal the first cell of each row.
    """
    if not is_terminal():
        first = [title] if title else []
        _put_lines([*(["name"] if title else []), *headings], *([*first, *row] for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 1),
    )
    for heading in headings:
        justify = "right" if heading in right else "left"
        # A long name without blanks is broken, not cut off.
        table.add_column(heading, no_wrap=heading not in wrapped, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(table)


def show_facts(sections: Mapping[str, Mapping[str, str]]) -> None:
    """Print names and values to stdout: the title of a section, which may be empty, to its facts.

    Without a terminal a fact is a line ``title.name``, tab, value.
    """
    if not is_terminal():
        for title, facts in sections.items():
            start = f"{title}." if title else ""
            _put_lines(*((f"{start}{name}", value) for name, value in facts.items()))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", min_width=16, max_width=_WIDEST_NAME)
    table.add_column(overflow="fold")
    for title, facts in sections.items():
        if title:
            table.add_row(Text(title, style="bold"))
        for name, value in facts.items():
            table.add_row(Text(f"{'  ' if title else ''}{printable(name)}"), Text(printable(value)))
    Console(highlight=False).print(table)


def _put_lines(*rows: Sequence[str]) -> None:
    for row in rows:
        click.echo("\t".join(map(printable, row)))
