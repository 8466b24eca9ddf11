"""JSON of untrusted files."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["parse_json"]

MAX_DEPTH = 32  # our own descriptions have 5


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError where it is not JSON or cannot be written as JSON again.

    Refused are NaN and infinity, which are not JSON, and nesting beyond 32 levels, so that recursive
    functions over the value are safe.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [inner for outer in level for inner in _inside(outer)]:
        depth += 1
    return depth


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
