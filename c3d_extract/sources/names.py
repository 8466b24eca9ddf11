"""What each video is called in the output, and how a name becomes text.

A video's name is its path relative to the folder that it was found in, or its address relative to the prefix,
with ``/`` between parts; a file given by itself has its own name. Where two videos would have the same name,
both get the folder above in front, until they differ.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Union
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Place", "address_parts", "free_name", "unique_names", "valid_utf8"]


Place = Union["Path", str]
"""Where a video is: an absolute path, or an address."""


def unique_names(n_parts: Mapping[Place, int]) -> dict[Place, str]:
    """Return a unique name for every path and address.

    Parameters
    ----------
    n_parts
        Absolute paths and addresses, and how many of its last parts make each one's name; more where two
        would be equal.
    """
    depths = dict(n_parts)
    while True:
        names = {place: valid_utf8("/".join(_parts(place)[-depth:])) for place, depth in depths.items()}
        counts = Counter(names.values())
        equal = [p for p, name in names.items() if counts[name] > 1 and depths[p] < len(_parts(p)) - 1]
        if not equal:
            return _numbered(names)
        for place in equal:
            depths[place] += 1


def _parts(place: Place) -> Sequence[str]:
    return address_parts(place) if isinstance(place, str) else place.parts


def address_parts(address: str) -> list[str]:
    """Return the parts of an address, the scheme first; a web server's without the query, and decoded."""
    scheme, _, rest = address.partition("://")
    if scheme.lower() in {"http", "https"}:
        rest = unquote(rest.partition("#")[0].partition("?")[0]).rstrip("/")
    return [scheme, *rest.split("/")]


def _numbered(names: dict[Place, str]) -> dict[Place, str]:
    r"""Add numbers to names that are still equal, such as the byte E9 and a file really called ``\xe9``."""
    taken: dict[str, int] = {}
    for place in sorted(names, key=lambda place: tuple(_parts(place))):
        names[place] = free_name(names[place], taken)
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
