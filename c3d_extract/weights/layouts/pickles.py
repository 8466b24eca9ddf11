"""What is checked of a pickle before any unpickler sees it: that its lengths are possible.

Python's unpickler allocates a string of the length that a pickle announces before it reads it, and a memo
as long as the largest index that a pickle puts into it. A walk over the opcodes finds both, and
builds nothing.
"""

from __future__ import annotations

import pickletools
from typing import TYPE_CHECKING

from c3d_extract.errors import WeightsError

if TYPE_CHECKING:
    from mmap import mmap

__all__ = ["check_pickle"]


def check_pickle(mapped: mmap) -> None:
    """Raise where the pickle at the current position is damaged, and go back to it."""
    start = mapped.tell()
    for index, (opcode, argument, _) in enumerate(pickletools.genops(mapped)):  # type: ignore[arg-type]  # reads like a file
        if opcode.name in {"PUT", "LONG_BINPUT"} and int(str(argument)) > index:
            raise WeightsError("damaged: a pickle whose memo is larger than itself")
    mapped.seek(start)
