"""Which reader a file needs, by its content and never by its name."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from c3d_extract.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from c3d_extract.weights.layouts.contents import Contents
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["open_contents"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NPY = b"\x93NUMPY"
_SAFETENSORS_HEADER = 100_000_000  # bytes; the format's own limit
_SSTABLE_END = bytes.fromhex("57fb808b247547db")  # leveldb's table magic, little endian


@contextmanager
def open_contents(path: Path, fc6_order: Fc6Order | None = None) -> Iterator[Contents]:
    """Open a checkpoint of any layout we read.

    Parameters
    ----------
    fc6_order
        For layouts that keep channels last: the order in which fc6 expects the pool5 map.

    Raises
    ------
    WeightsError
        With the file as its subject, whatever is wrong with it.
    """
    try:
        with _reader(path, fc6_order) as contents:
            yield contents
    except WeightsError as error:
        if error.subject is not None:
            raise
        raise WeightsError(error.reason, subject=path, hint=error.hint) from error
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", subject=path) from error


def _reader(path: Path, fc6_order: Fc6Order | None) -> AbstractContextManager[Contents]:
    start, end = _ends(path)
    _refuse_what_is_no_checkpoint(start, end)
    # Eight bytes of length, then JSON; first, because the length may begin as any other magic does.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _SAFETENSORS_HEADER:
        return _opened("native", "open_safetensors", path)
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return _opened("pytorch", "open_torch", path)
    if start.startswith(_HDF5):
        return _opened("keras", "open_keras", path, fc6_order)
    if start.startswith(_NPY):
        return _opened("tensorflow", "open_npy", path, fc6_order)
    if start.startswith((b"\x0a", b"\x12", b"\xa2\x06")):  # name, layers or layer of a NetParameter
        return _opened("caffe", "open_caffe", path)
    raise WeightsError(f"of no layout we read (it starts with {start[:8].hex(' ')})")


def _opened(module: str, name: str, *arguments: object) -> AbstractContextManager[Contents]:
    opened: AbstractContextManager[Contents] = getattr(
        importlib.import_module(f"{__package__}.{module}"), name
    )(*arguments)
    return opened


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(-min(8, len(start)), 2)
        return start, file.read()


def _refuse_what_is_no_checkpoint(start: bytes, end: bytes) -> None:
    if not start:
        raise WeightsError("an empty file")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError("a Git LFS pointer, not the file itself", hint="fetch it with `git lfs pull`")
    if start.lstrip()[:5].lower() in {b"<!doc", b"<html"}:
        raise WeightsError("a web page, not a checkpoint: the download asked for a confirmation or failed")
    if end == _SSTABLE_END:
        raise WeightsError(
            "a TensorFlow checkpoint", hint="export its variables to an npy dictionary or h5 first"
        )
