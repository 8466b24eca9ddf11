"""Lists of paths and addresses, as ``--from-file`` reads them: text, or a column of a Parquet table."""

from __future__ import annotations

import codecs
import os

from c3d_extract.errors import UsageError
from c3d_extract.parquet import read_text_column

__all__ = ["listed_paths"]


_COLUMNS = ("address", "url", "uri", "path", "video", "file")


def listed_paths(text: bytes, *, subject: object) -> list[str]:
    """Return the paths of a list, one per line; bytes that are not UTF-8 become surrogates, as in file names.

    Parameters
    ----------
    text
        The list; or a Parquet file, of which the column called address, url, uri, path, video or file is
        read, or the only one of text.
    subject
        What the list is called in an error.

    Raises
    ------
    UsageError
        Where it is UTF-16 or UTF-32, by its byte order mark or by its many zero bytes; or a Parquet file that
        cannot be read, or has no such column.
    """
    if text.startswith(b"PAR1"):
        return list(read_text_column(text, _COLUMNS, subject=subject))
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _is_half_zero(text):
        raise UsageError("is UTF-16 or UTF-32, not UTF-8", subject=subject, hint="save it as UTF-8")
    lines = (os.fsdecode(line.rstrip(b"\r")) for line in text.removeprefix(codecs.BOM_UTF8).split(b"\n"))
    return [line for line in lines if line.strip()]


def _is_half_zero(text: bytes) -> bool:
    """Return whether most bytes at even or at odd offsets are zero, as in UTF-16 without its mark."""
    halves = (text[0::2], text[1::2])
    return any(half.count(0) > len(half) / 2 for half in halves)
