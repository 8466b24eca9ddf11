"""Groups of commands that suggest the name that was meant, and a command whose options are in groups."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDEST_NAME = 30  # longer ones are on a line of their own, see click's write_dl

__all__ = ["GroupedCommand", "LazyGroup", "SuggestingGroup"]


class SuggestingGroup(click.Group):
    """A group that suggests commands for a name that is none.

    Newer versions of click do so for commands that are imported already.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the first argument."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}.{self.suggestion(args[0], names)}")
        return super().resolve_command(ctx, args)

    def suggestion(self, name: str, names: Sequence[str]) -> str:
        """Return a sentence on which of ``names`` may be meant, or nothing."""
        close = difflib.get_close_matches(name, names)
        return f" Did you mean {' or '.join(close)}?" if close else ""


class LazyGroup(SuggestingGroup):
    """A group that imports a command's module when it is called.

    Parameters
    ----------
    commands
        Name → the module that holds a click command ``command``, and its one-line help.
    help_text
        What the group is for.
    elsewhere
        Name → what to say of a command that is another program.
    """

    def __init__(
        self,
        commands: Mapping[str, tuple[str, str]],
        help_text: str,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(help=help_text, context_settings={"help_option_names": ["-h", "--help"]})
        self._lazy = commands
        self._elsewhere = elsewhere or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were given."""
        del ctx
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        del ctx
        if cmd_name not in self._lazy:
            return None
        command = import_module(self._lazy[cmd_name][0]).command
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command

    def suggestion(self, name: str, names: Sequence[str]) -> str:
        """Return the program that a name is a command of, else as `SuggestingGroup`."""
        return f" {self._elsewhere[name]}" if name in self._elsewhere else super().suggestion(name, names)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


class GroupedCommand(click.Command):
    """A command whose help lists its options in groups.

    Parameters
    ----------
    groups
        Title → the names of its parameters, in the order that they are listed; the options that are in none
        come last.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.groups = groups

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group as a section."""
        records = {
            param.name: record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None
        }
        width = min(_WIDEST_NAME, max(len(name) for name, _ in records.values()))
        grouped = {name for names in self.groups.values() for name in names}
        other = [name for name in records if name not in grouped]
        for title, names in {**self.groups, "Other": other}.items():
            with formatter.section(title):
                # Padded, so that the texts of all sections begin in one column.
                formatter.write_dl([(records[name][0].ljust(width), records[name][1]) for name in names])
