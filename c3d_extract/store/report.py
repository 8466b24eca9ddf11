"""``feats.report.jsonl``: one line of JSON a video, sorted by name."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import StoreError
from c3d_extract.store.files import replacing

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from c3d_extract.store.records import VideoRow

__all__ = [
    "iterate_report",
    "line_of_columns",
    "line_of_row",
    "line_of_skipped",
    "read_report",
    "write_report",
]

COUNTS = ("n_clips", "n_frames", "n_padded_frames", "n_decode_errors")


def read_report(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the report's lines, ``video`` and ``status`` in each; `StoreError` where it cannot be read."""
    try:
        return list(iterate_report(path))
    except (OSError, ValueError) as error:
        raise StoreError(f"the report cannot be read ({error})", subject=path) from error


def iterate_report(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the report's lines; OSError or ValueError where it is missing or damaged."""
    with open(path, encoding="utf-8", newline="\n") as file:  # noqa: PTH123 - takes any path-like
        for text in file:
            line = json.loads(text)
            if not isinstance(line, dict) or not {"video", "status"} <= line.keys():
                raise ValueError(f"not a line of a report: {text[:40]!r}")
            yield line


def write_report(path: Path, lines: Iterable[str]) -> None:
    """Write the report, replacing it in one step."""
    # Half a surrogate pair, as in a name that is not UTF-8, becomes its escape, which JSON reads back.
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(f"{line}\n".encode(errors="backslashreplace") for line in lines)


def line_of_row(row: VideoRow) -> str:
    """Return the line of a video of this run."""
    counts = {name: getattr(row, name) for name in (*COUNTS, "size_bytes", "mtime_ns")}
    return _line(row.video, row.status, row.error, row.seconds, counts)


def line_of_columns(video: str, columns: Mapping[str, float]) -> str:
    """Return the line of a video of which only the feature file knows."""
    return _line(video, "ok", None, math.nan, columns)


def line_of_skipped(video: str, why: str) -> str:
    """Return the line of a file that was passed over."""
    return _line(video, "skipped", why, math.nan, {})


def _line(video: str, status: str, error: str | None, seconds: float, counts: Mapping[str, float]) -> str:
    line = {
        "video": video,
        "status": status,
        "error": error,
        **{name: counts.get(name, 0) for name in COUNTS},
        "seconds": None if math.isnan(seconds) else round(seconds, 3),
        "size_bytes": counts.get("size_bytes"),
        "mtime_ns": counts.get("mtime_ns"),
    }
    return json.dumps(line, ensure_ascii=False)
