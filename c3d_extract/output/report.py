"""``feats.report.jsonl``: one line of JSON per video, sorted by name."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import StoreError
from c3d_extract.files import writing_output
from c3d_extract.output.schema import REPORT_COLUMNS
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from c3d_extract.files import FileLog
    from c3d_extract.output.schema import Column, VideoRow

__all__ = [
    "DONE",
    "iterate_report",
    "line_of_columns",
    "line_of_row",
    "line_of_skipped",
    "line_of_values",
    "looks_like_a_report",
    "read_report",
    "report_digest",
    "write_report",
]

DONE = frozenset({"ok", "partial", "failed"})
"""Statuses of videos; all other lines are of files that are not videos."""


def read_report(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the report's lines, ``video`` and ``status`` in each; `StoreError` where it cannot be read."""
    try:
        return list(iterate_report(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"the report cannot be read ({error})", subject=path) from error


def iterate_report(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the report's lines; OSError or ValueError where it is missing or damaged."""
    if not Path(path).is_file():  # opening a FIFO would block forever
        raise FileNotFoundError(errno.ENOENT, "no such file", os.fspath(path))
    with open(path, encoding="utf-8", newline="\n") as file:  # noqa: PTH123 - takes any path-like
        for text in file:
            line = parse_json(text)
            if not isinstance(line, dict) or not {"video", "status"} <= line.keys():
                raise ValueError(f"not a line of a report: {text[:40]!r}")
            yield line


def write_report(path: Path, lines: Iterable[str], log: FileLog | None = None) -> str:
    """Write the report, replacing it atomically; return its digest, see `report_digest`."""
    digest = hashlib.sha256()
    with writing_output(path, log) as file:
        for line in lines:
            digest.update(_digested(json.loads(line)))
            # A lone surrogate, from a name that is not UTF-8, is written as an escape that JSON can read.
            file.write(f"{line}\n".encode(errors="backslashreplace"))
        if log is not None:
            log.note_written(digest.hexdigest())
    return digest.hexdigest()


def report_digest(path: Path) -> str | None:
    """Return the digest of the results in a report, None where it cannot be read.

    Seconds and error messages are excluded: runs of the same videos with the same statuses have the same
    digest.
    """
    digest = hashlib.sha256()
    try:
        for line in iterate_report(path):
            digest.update(_digested(line))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def looks_like_a_report(path: Path) -> bool:
    """Return whether every line of a file has the keys of a report line; True for an empty file."""
    try:
        return all(line.keys() == REPORT_COLUMNS.keys() for line in iterate_report(path))
    except (OSError, ValueError):
        return False


def line_of_row(row: VideoRow) -> str:
    """Return the line of a video of this run."""
    return _line({name: getattr(row, name) for name in REPORT_COLUMNS})


def line_of_columns(video: str, columns: Mapping[str, float]) -> str:
    """Return the line of a video that only the feature file records."""
    return _line({**columns, "video": video, "status": "ok"})


def line_of_skipped(path: str, why: str) -> str:
    """Return the line of a file that was skipped."""
    return _line({"video": path, "status": "skipped", "error": why})


def line_of_values(values: Mapping[str, Any]) -> str:
    """Return the line whose parsed values are ``values``."""
    return json.dumps({name: values.get(name) for name in REPORT_COLUMNS}, ensure_ascii=False)


def _line(values: Mapping[str, Any]) -> str:
    reported = {name: _reported(values.get(name), column) for name, column in REPORT_COLUMNS.items()}
    return json.dumps(reported, ensure_ascii=False)


def _reported(value: Any, column: Column) -> Any:
    if value is None:
        return 0 if column.report == "zero" else None
    if column.sql_type != "REAL":
        return value
    return None if math.isnan(value) else round(value, 3)  # JSON has no NaN; milliseconds are enough


def _digested(line: Mapping[str, Any]) -> bytes:
    if line["status"] not in DONE:
        return b""
    return json.dumps([line.get(name) for name in ("video", "status", "size_bytes", "mtime_ns")]).encode()
