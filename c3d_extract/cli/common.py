"""What every command shares: one line for an error, data on stdout, messages on stderr."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from c3d_extract.cli.streams import StdoutLostError, keep_streams
from c3d_extract.errors import C3DError, FetchError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "EXIT_FATAL",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "guarded",
    "note",
    "printable",
    "put_json",
    "refuse_given",
    "run_program",
    "show",
]

_MOST_IN_LINE = 2  # answers of servers in an error of one line
_WIDTH, _HEIGHT = 80, 24
EXIT_FATAL, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130

P = ParamSpec("P")
R = TypeVar("R")


def note(message: str) -> None:
    """Print a message to stderr."""
    click.echo(_escaped(message), err=True)


def show(text: str) -> None:
    """Print text for people to stdout; data is written there by `put_json` or as it is."""
    click.echo(_escaped(text))


def _escaped(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def put_json(values: Any) -> None:
    """Write one JSON document to stdout; control characters are escaped."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    click.echo("".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text))


def refuse_given(options: Mapping[str, Any], names: Iterable[str], why: str) -> None:
    """Raise UsageError, which says ``why``, for an option that is given and would do nothing."""
    for name in names:
        if options[name] is not None:
            raise UsageError(why, subject=f"--{name.replace('_', '-')}")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn an error of ours into one line ``Error: …`` and the exit code that the README names.

    The command must take ``debug`` (see `cli.options`), which shows the traceback as well.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except C3DError as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            sys.exit(_report_error(error))
        except KeyboardInterrupt:
            note("Interrupted.")
            sys.exit(EXIT_INTERRUPTED)

    return run


def _report_error(error: C3DError) -> int:
    """Print an error in one line and return its exit code; nothing where stdout's reader exited."""
    if isinstance(error, FetchError) and len(error.answers) > _MOST_IN_LINE:
        note(_as_list(error))
    elif not (isinstance(error, StdoutLostError) and error.reader_left):
        note(f"Error: {error}")
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FATAL


def _as_list(error: FetchError) -> str:
    """Return what many addresses answered, in lines that fit a screen of 80x24 together."""
    todo = [printable(part) for part in (error.hint or "").split("; ") if part]
    left = _HEIGHT - 2 - len(error.answers) - sum(-(-len(part) // _WIDTH) for part in todo)
    answers = []
    for answer in error.answers:
        text = f"  {printable(answer)}"
        n_rows = 2 if len(text) > _WIDTH and left > 0 else 1
        left -= n_rows - 1
        room = n_rows * _WIDTH
        answers.append(text if len(text) <= room else f"{text[: room - 1]}…")
    return "\n".join([f"Error: {error.subject}: {error.summary}:", *answers, *todo])


def run_program(command: click.Command, name: str) -> None:
    """Run a command as the program ``name``, which may lose its standard streams (see `streams`)."""
    keep_streams()
    try:
        command(prog_name=name)
    except StdoutLostError as error:  # while click itself wrote, such as the help
        sys.exit(_report_error(error))
