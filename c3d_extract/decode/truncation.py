"""Detect truncated files from their container structure; nothing is decoded here.

FFmpeg reads a truncated file as if it ended there: most demuxers report nothing, and the AVI
demuxer even estimates the length from the remaining size. But nearly every container states the sizes
of its parts, or marks its end. Each function here follows those sizes from element to element, without
reading their contents, and reports the first inconsistency. Where a container states no size (a transport
stream cut between two packets, a live Matroska file between two clusters, any raw stream), nothing is found.

Intact files may have irregularities: recorders that cannot seek back leave sizes at 0 or all ones, and some
programs leave the rest of a disk sector after the last element. Neither counts as truncation.

Formats: Microsoft's AVI RIFF reference and OpenDML 1.02; RFC 8794 and 9559 (EBML, Matroska); ISO/IEC
14496-12 (MP4); Adobe's FLV 10.1 specification; ISO/IEC 13818-1 (MPEG-TS and PS); GIF89a; RFC 3533 (Ogg);
Microsoft's ASF specification; SMPTE ST 336 and 377-1 (MXF).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from c3d_extract.decode.base import one_line
from c3d_extract.decode.safety import open_bytes
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

    from c3d_extract.decode.opened import OpenedFile

__all__ = ["why_truncated"]

_MAX_ELEMENTS = 1_000_000  # per file; a hostile file can contain any number of empty elements
_UNKNOWN = (0, 0xFFFFFFFF)  # sizes in an AVI whose writer could not seek back to fill them in


class _FileBytes:
    """Random access to the bytes of a file, at any offset."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self.size = size

    def at(self, offset: int, n_bytes: int) -> bytes:
        """Return ``n_bytes`` starting at ``offset``, fewer where the file ends before."""
        if not 0 <= offset < self.size:
            return b""
        self._file.seek(offset)
        return self._file.read(n_bytes)

    def lacks(self, end: int, what: str) -> str | None:
        """Return a message where ``what`` extends beyond the file's end, else None."""
        if end <= self.size:
            return None
        return f"cut: {what} ends at byte {end}, the file has {self.size}"

    def zeros_at(self, offset: int) -> str | None:
        """Return a message where there are only zeros where an element should begin, else None."""
        head = self.at(offset, 16)
        if len(head) < 16 or any(head):
            return None
        return f"incomplete: only zeros from byte {offset} on, the file has {self.size}"


def why_truncated(video: Path | OpenedFile, container: str, n_bytes: int) -> str | None:
    """Return the evidence that a file is truncated, or None.

    Parameters
    ----------
    video
        The file; it is opened again. Or a file object that can seek.
    container
        FFmpeg's short name of its format.
    n_bytes
        Its size when it was opened for decoding.
    """
    try:
        with open_bytes(video) as file:
            data = _FileBytes(file, file.seek(0, os.SEEK_END))
            if data.size != n_bytes:
                return f"changed while it was read: from {n_bytes} to {data.size} bytes"
            check = _CHECKS.get(container)
            return None if check is None else check(data)
    except VideoError as error:
        return f"changed while it was read: {error.reason}"
    except OSError as error:
        return f"its end cannot be read: {one_line(error)}"


def _avi(data: _FileBytes) -> str | None:
    """RIFF: chunks, each with a name and a size; OpenDML puts one RIFF after another."""
    start = 0
    while data.at(start, 4) == b"RIFF" and start < data.size:
        size = int.from_bytes(data.at(start + 4, 4), "little")
        end = data.size if size in _UNKNOWN else start + 8 + size
        # Some writers include the RIFF's own eight-byte header in its size.
        why = data.lacks(end - 8, "its RIFF") or _chunks(data, start + 12, end)
        if why or size in _UNKNOWN:
            return why
        start = end + size % 2
    return None


def _chunks(data: _FileBytes, offset: int, end: int) -> str | None:
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 8)
        if offset >= end or not head:
            return None
        if zeros := data.zeros_at(offset):
            return zeros
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"LIST" and size in _UNKNOWN:
            offset += 12
            continue
        if why := data.lacks(offset + 8 + size, f"its chunk {_name(head[:4])}"):
            return why if _is_name(head[:4]) else None
        offset += 8 + size + size % 2
    return None


def _is_name(kind: bytes) -> bool:
    return len(kind) == 4 and all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in kind)


def _name(kind: bytes) -> str:
    return kind.decode("latin-1").strip()


_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"


def _matroska(data: _FileBytes) -> str | None:
    """EBML: elements, each with an identifier and a size; the sizes of Segment and Cluster may be unknown."""
    offset, end = 0, data.size
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 12)
        if offset >= end or not head:
            return None
        # The first byte's leading zero bits state a field's length (RFC 8794, 4); a zero byte gives 9.
        n_name = 9 - head[0].bit_length()
        n_size = 9 - head[n_name].bit_length() if n_name < len(head) else 8
        if n_name > 4 or n_size > 8:
            return data.zeros_at(offset)
        if n_name + n_size > len(head):
            return f"cut: in the head of an element, at byte {data.size}"
        kind, unknown = head[:n_name], (1 << 7 * n_size) - 1
        size = int.from_bytes(head[n_name : n_name + n_size], "big") & unknown
        start = offset + n_name + n_size
        is_open = size == unknown and kind in (_SEGMENT, _CLUSTER)
        what = {_SEGMENT: "Segment", _CLUSTER: "Cluster"}.get(kind, kind.hex())
        if not is_open and (why := data.lacks(start + size, f"its element {what}")):
            return why
        if kind == _SEGMENT and not is_open:
            end = start + size
        offset = start if is_open or kind == _SEGMENT else start + size
    return None


_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide uuid udta meta mfra sidx ssix emsg pdin pnot PICT prft".split()
)


def _mp4(data: _FileBytes) -> str | None:
    """ISO base media: boxes, each with a size and a name; ``sidx`` states the sizes of later fragments."""
    offset, in_fragments = 0, False
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 16)
        if zeros := data.zeros_at(offset):
            return zeros
        if len(head) < 8:
            return f"cut: in the head of a box, at byte {data.size}" if head and in_fragments else None
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        if kind not in _BOXES or size < 8:
            return None  # the box extends to the end, or this follows the last box
        in_fragments = in_fragments or kind in (b"moof", b"styp", b"sidx")
        why = data.lacks(offset + size, f"its box {_name(kind)}")
        if why is None and kind == b"sidx":
            why = data.lacks(_indexed_end(data, offset, size), "the part that its sidx box lists")
        if why:
            return why
        offset += size
    return None


def _indexed_end(data: _FileBytes, offset: int, size: int) -> int:
    """Return where the last fragment ends that a ``sidx`` box lists (ISO/IEC 14496-12, 8.16.3)."""
    body = data.at(offset + 8, min(size - 8, 1 << 20))
    wide = body[:1] == b"\x01"
    if len(body) < (32 if wide else 24):
        return 0
    first = struct.unpack_from(">Q" if wide else ">I", body, 20 if wide else 16)[0]
    references = body[32 if wide else 24 :]
    n_listed = min(struct.unpack_from(">H", body, 30 if wide else 22)[0], len(references) // 12)
    sizes = struct.iter_unpack(">III", references[: 12 * n_listed])
    return int(offset + size + first + sum(entry & 0x7FFFFFFF for entry, _, _ in sizes))


def _flv(data: _FileBytes) -> str | None:
    """FLV: tags, each followed by its own size; the first tag may state the file's size."""
    head = data.at(0, 1 << 12)
    found = head.find(b"\x00\x08filesize\x00")
    if found >= 0 and len(head) >= found + 19:
        stated = struct.unpack_from(">d", head, found + 11)[0]
        if data.size < stated < 1 << 60:
            return data.lacks(int(stated), "what its header states")
    last = int.from_bytes(data.at(data.size - 4, 4), "big")
    tag = data.at(data.size - 4 - last, 4) if 11 <= last < data.size else b""
    if len(tag) == 4 and int.from_bytes(tag[1:], "big") == last - 11:
        return None
    return _tags(data, int.from_bytes(head[5:9], "big") + 4)


def _tags(data: _FileBytes, offset: int) -> str | None:
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 4)
        if not head:
            return None
        if zeros := data.zeros_at(offset):
            return zeros
        if head[0] & 0x1F not in (8, 9, 18):
            return None
        end = offset + 11 + int.from_bytes(head[1:], "big") + 4
        if why := data.lacks(end if len(head) == 4 else offset + 15, "its last tag"):
            return why
        offset = end
    return None


def _transport_stream(data: _FileBytes) -> str | None:
    """MPEG-TS: packets of 188 bytes, in some files with 4 more before or 16 more after each."""
    start = max(data.size - 192 * 204, 0)
    tail = data.at(start, 192 * 204)
    filled = tail.rstrip(b"\0")
    if len(tail) - len(filled) > 3 * 204 and (not filled or _last_packet(filled) is not None):
        return f"incomplete: only zeros from byte {start + len(filled)} on, the file has {data.size}"
    last = _last_packet(tail)
    if last is None:
        return None
    offset, size = last
    n_present = len(tail) - offset
    return None if n_present in (188, size) else f"cut: its last packet has {n_present} of {size} bytes"


def _last_packet(tail: bytes) -> tuple[int, int] | None:
    """Return the offset of the last packet and the packet size, or None where these are no packets."""
    # Every packet begins with the sync byte 0x47.
    for size in (188, 192, 204):
        for phase in range(min(size, len(tail))):
            marks = tail[phase::size]
            if len(marks) > 3 and marks.count(0x47) == len(marks):
                return phase + (len(marks) - 1) * size, size
    return None


def _program_stream(data: _FileBytes) -> str | None:
    """MPEG-PS: packs and packets, each with a start code and a size, checked from a pack near the end."""
    start = max(data.size - (1 << 17), 0)
    tail = data.at(start, 1 << 17)
    offset = tail.find(b"\0\0\1\xba")
    while offset >= 0:
        end = _chain_end(tail, offset)
        if end is not None:
            return data.lacks(start + end, "its last packet")
        offset = tail.find(b"\0\0\1\xba", offset + 4)
    return None


def _chain_end(tail: bytes, offset: int) -> int | None:
    """Return where the last packet ends, or None where something else follows a packet."""
    while offset < len(tail):
        head = tail[offset : offset + 14]
        if not b"\0\0\1".startswith(head[:3]) or (len(head) > 3 and head[3] < 0xB9):
            return None
        if head[3:4] == b"\xb9":
            return len(tail)  # the end code; anything may follow it
        if head[3:4] == b"\xba":
            offset += 12 if head[4:] and head[4] >> 6 == 0 else 14 + (head[13] & 7 if len(head) == 14 else 0)
        else:
            offset += 6 + int.from_bytes(head[4:6], "big")
    return offset


def _gif(data: _FileBytes) -> str | None:
    """GIF: blocks of sub-blocks, each with a size, and a trailer."""
    head = data.at(0, 13)
    offset = 13 + _n_colours_bytes(head[10:11])
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 10)
        if zeros := data.zeros_at(offset):
            return zeros
        kind = head[:1]
        if kind == b"\x3b":
            return None
        if kind == b"\x21":
            offset = _after_sub_blocks(data, offset + 2)
        elif kind == b"\x2c":
            offset = _after_sub_blocks(data, offset + 11 + _n_colours_bytes(head[9:10]))
        elif kind:
            offset += 1  # stray bytes between blocks, which FFmpeg also skips
        else:
            return f"cut: it ends at byte {data.size} without a trailer"
    return None


def _n_colours_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _after_sub_blocks(data: _FileBytes, offset: int) -> int:
    for _ in range(_MAX_ELEMENTS):
        size = data.at(offset, 1)
        if not size or not size[0]:
            return offset + 1
        offset += 1 + size[0]
    return offset


_OGG_VIDEOS = (b"\x80theora", b"OVP80", b"BBCD", b"\x01video")


def _ogg(data: _FileBytes) -> str | None:
    """Ogg: pages; the first and the last page of each stream are marked."""
    offset, is_open = 0, set[bytes]()
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 27 + 255 + 8)
        if zeros := data.zeros_at(offset):
            return zeros
        if head[:4] != b"OggS" or len(head) < 27:
            break
        n_parts, flags, stream = head[26], head[5], head[14:18]
        start = offset + 27 + n_parts
        if why := data.lacks(start + sum(head[27 : 27 + n_parts]), "its last page"):
            return why
        if flags & 2 and head[27 + n_parts :].startswith(_OGG_VIDEOS):
            is_open.add(stream)
        if flags & 4:
            is_open.discard(stream)
        offset = start + sum(head[27 : 27 + n_parts])
    return "cut: the page that ends the stream is missing" if is_open else None


_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the File Properties Object


def _asf(data: _FileBytes) -> str | None:
    """ASF: objects, each with a GUID and a size; one in the header states the file's size."""
    head = data.at(0, 30)
    offset, n_objects = 30, int.from_bytes(head[24:28], "little")
    for _ in range(min(n_objects, 1000)):
        name, size, stated, n_packets, flags, n_bytes = _asf_fields(data.at(offset, 100))
        if name == _ASF_FILE and flags & 1:
            return None
        if name == _ASF_FILE:
            first = int.from_bytes(head[16:24], "little") + 50
            last = first + (n_packets - 1) * n_bytes
            return data.lacks(stated, "what its header states") or data.zeros_at(last)
        if size < 24:
            return None
        offset += size
    return None


def _asf_fields(head: bytes) -> tuple[bytes, int, int, int, int, int]:
    """Return an object's GUID and size; for File Properties also file size, packets, flags, packet size."""
    return struct.unpack("<16sQ16xQ8xQ24xII4x", head.ljust(100, b"\0"))


def _ivf(data: _FileBytes) -> str | None:
    """IVF: frames, each after a header of 12 bytes that begins with its size."""
    offset = int.from_bytes(data.at(6, 2), "little")
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 12)
        if not head:
            return None
        if zeros := data.zeros_at(offset):
            return zeros
        size = int.from_bytes(head[:4], "little")
        if why := data.lacks(offset + 12 + size, "its last frame"):
            return why
        offset += 12 + size
    return None


_MXF_KEY = b"\x06\x0e\x2b\x34"
_MXF_HEADER = b"\x0d\x01\x02\x01\x01\x02"  # a header partition's key, from its ninth byte on


def _mxf(data: _FileBytes) -> str | None:
    """MXF: elements, each with a key of 16 bytes and a size; the first may state the offset of the last."""
    offset = first = data.at(0, 1 << 16).find(_MXF_KEY)
    for _ in range(_MAX_ELEMENTS):
        head = data.at(offset, 25)
        if head and len(head) < 17:
            return f"cut: in the head of an element, at byte {data.size}"
        if not head.startswith(_MXF_KEY):
            return data.zeros_at(offset)
        n_size = head[16] & 0x7F if head[16] & 0x80 else 0
        start = offset + 17 + n_size
        size = int.from_bytes(head[17 : 17 + n_size], "big") if n_size else head[16]
        if why := data.lacks(start + size, "its last element"):
            return why
        if head[8:14] == _MXF_HEADER:
            footer = int.from_bytes(data.at(start + 24, 8), "big")
            if why := data.lacks(first + footer + 1, "what its header lists"):
                return why
        offset = start + size
    return None


_CHECKS: dict[str, Callable[[_FileBytes], str | None]] = {
    "avi": _avi,
    "matroska": _matroska,
    "mov": _mp4,
    "flv": _flv,
    "live_flv": _flv,
    "kux": _flv,
    "mpegts": _transport_stream,
    "gif": _gif,
    "ogg": _ogg,
    "asf": _asf,
    "ivf": _ivf,
    "mpeg": _program_stream,
    "mxf": _mxf,
}
