"""JSON from files that are not trusted."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

__all__ = ["JSON", "parse_json"]

JSON: TypeAlias = Any
"""What ``json`` reads and writes: None, bool, int, float, str, lists and dicts of them."""

MAX_DEPTH = 32  # what this package writes is at most 5 deep


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError where it is not JSON or cannot be written as JSON again.

    Refused are NaN and infinity, which RFC 8259 does not allow, and nesting beyond 32 levels: code that
    walks over the values recurses once per level, and Python's stack ends at some 1,000.
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
