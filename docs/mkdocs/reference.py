"""The page of all commands, made from what their ``--help`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from c3d_extract.cli.extract import command as c3d_extract
from c3d_extract.cli.tools import COMMANDS, LazyGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = 80
HEAD = """# Commands

What `--help` prints, of every command; this page is made from it whenever the site is built.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name: groups, then what is in them."""
    yield "c3d-extract", c3d_extract
    tools = LazyGroup(COMMANDS, "Tools around c3d-extract.")
    yield from _below("c3d-tools", click.version_option("")(tools))


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for word in command.list_commands(context):
            child = command.get_command(context, word)
            if child is not None:
                yield from _below(f"{name} {word}", child)


def help_text(name: str, command: click.Command) -> str:
    """Return what ``NAME --help`` prints, at most `COLUMNS` wide."""
    context = click.Context(command, info_name=name, max_content_width=COLUMNS, terminal_width=COLUMNS)
    return command.get_help(context).rstrip()


def page() -> str:
    """Return the whole page as Markdown."""
    sections = (f"## {name}\n\n```text\n{help_text(name, command)}\n```\n" for name, command in commands())
    return "\n".join((HEAD, *sections))
