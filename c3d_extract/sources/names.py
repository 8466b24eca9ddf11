"""What each video is called in the output, and how a name becomes text.

A video's name is its path relative to the folder it was found in, with ``/`` between parts; a file given by
itself has its own name. Where two videos would have the same name, both get the folder above in front, until
they differ.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["free_name", "unique_names", "valid_utf8"]


def unique_names(n_parts: Mapping[Path, int]) -> dict[Path, str]:
    """Return a unique name for every path.

    Parameters
    ----------
    n_parts
        Absolute paths, and how many of its last parts make each one's name; more where two would be equal.
    """
    depths = dict(n_parts)
    while True:
        names = {path: valid_utf8("/".join(path.parts[-depth:])) for path, depth in depths.items()}
        counts = Counter(names.values())
        equal = [p for p, name in names.items() if counts[name] > 1 and depths[p] < len(p.parts) - 1]
        if not equal:
            return _numbered(names)
        for path in equal:
            depths[path] += 1


def _numbered(names: dict[Path, str]) -> dict[Path, str]:
    r"""Add numbers to names that are still equal, such as the byte E9 and a file really called ``\xe9``."""
    taken: dict[str, int] = {}
    for path in sorted(names):
        names[path] = free_name(names[path], taken)
    return names


def free_name(name: str, taken: dict[str, int]) -> str:
    """Return the name, with a number where it is taken, and note it in ``taken`` (name → last number)."""
    free = name
    while free in taken:
        taken[name] += 1
        free = f"{name}~{taken[name]}"
    taken[free] = 1
    return free


def valid_utf8(name: str) -> str:
    r"""Make a name valid UTF-8 without NUL: what cannot be in a file's name becomes ``\xNN``."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # half a surrogate pair, which no byte of a file name is decoded to
        raw = name.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
