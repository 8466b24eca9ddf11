"""Reading protobuf's encoding from a buffer, without copying and without trusting its lengths.

Reference: the protobuf encoding guide (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BYTES", "FIXED32", "FIXED64", "VARINT", "Field", "fields", "varints"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 100_000  # a network has dozens; a file of unpacked floats would take minutes


class Field(NamedTuple):
    """One field of a message: its number, its type in the encoding, and an integer or the bytes."""

    number: int
    kind: int
    integer: int
    data: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message; raise WeightsError if it is not valid protobuf."""
    position = 0
    for _ in range(_MAX_FIELDS):
        if position == len(message):
            return
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            integer, position = _varint(message, position)
            yield Field(number, kind, integer, message[:0])
            continue
        if kind == BYTES:
            length, position = _varint(message, position)
        else:
            length = {FIXED64: 8, FIXED32: 4}.get(kind, -1)
        if number == 0 or length < 0 or length > len(message) - position:
            raise WeightsError("damaged: its protobuf fields do not fit into the file")
        yield Field(number, kind, 0, message[position : position + length])
        position += length
    raise WeightsError("too many protobuf fields for a network")


def varints(packed: memoryview) -> list[int]:
    """Return the integers of a packed field."""
    found, position = [], 0
    while position < len(packed):
        value, position = _varint(packed, position)
        found.append(value)
    return found


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    # Seven bits per byte, the lowest first; ten bytes hold 64 bits.
    for shift, byte in zip(range(0, 70, 7), message[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise WeightsError("damaged: a protobuf number does not end")
