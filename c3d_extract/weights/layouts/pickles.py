"""Check that the lengths in a pickle are possible, before it is unpickled.

Python's unpickler allocates a string of the length that a pickle states before reading it, and a memo as
long as the largest index that a pickle stores to. Iterating over the opcodes finds both and builds no
objects.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING

from c3d_extract.errors import WeightsError

if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["check_pickle"]


def check_pickle(mapped: mmap) -> None:
    """Raise WeightsError if the pickle at the current position is damaged; restore the position."""
    start = mapped.tell()
    for index, (opcode, argument, _) in enumerate(pickletools.genops(mapped)):  # type: ignore[arg-type]  # reads like a file
        if opcode.name in {"PUT", "LONG_BINPUT"} and int(str(argument)) > index:
            raise WeightsError("damaged: a pickle whose memo is larger than itself")
    mapped.seek(start)
