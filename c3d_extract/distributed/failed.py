"""Parts that were given up: ``RUN/failed/000007.json`` says how often each was tried, and why it failed."""

from __future__ import annotations

import json
import platform
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import StoreError
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.distributed.plan import Plan

__all__ = ["FailedPart", "read_failed", "write_failed"]

_FOLDER = "failed"


class FailedPart(NamedTuple):
    """A part that was given up, by the last run that tried it."""

    number: int
    n_attempts: int
    reasons: tuple[str, ...]
    """Of the attempts, in their order."""
    host: str
    """The machine that gave it up."""


def write_failed(plan: Plan, number: int, reasons: Sequence[str]) -> None:
    """Record that a part was given up, with the reason of every attempt.

    Raises
    ------
    StoreError, RemoteError
        Where that cannot be written.
    """
    values = {"part": number, "n_attempts": len(reasons), "reasons": list(reasons), "host": platform.node()}
    plan.folder.write(f"{_FOLDER}/{number:06d}.json", json.dumps(values, indent=1).encode())


def read_failed(plan: Plan) -> list[FailedPart]:
    """Return the parts that were given up and not done since, by number.

    Raises
    ------
    StoreError, RemoteError
        Where a record cannot be read.
    """
    names = sorted(plan.folder.times(_FOLDER))
    found = [_read(plan, f"{_FOLDER}/{name}") for name in names if name.endswith(".json")]
    finished = plan.finished() if found else {}
    return [part for part in found if part.number not in finished]


def _read(plan: Plan, name: str) -> FailedPart:
    try:
        values = parse_json(plan.folder.read(name) or b"")
        return FailedPart(
            int(values["part"]), int(values["n_attempts"]), tuple(values["reasons"]), str(values["host"])
        )
    except (ValueError, LookupError, TypeError) as error:
        raise StoreError(f"cannot be read ({error})", subject=plan.folder.address(name)) from error
