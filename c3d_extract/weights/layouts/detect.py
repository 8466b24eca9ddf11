"""Choice of the reader for a file, by its content and never by its name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts import caffe, caffe2, keras, native, pytorch, tensorflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.weights.layouts.contents import Contents, Layout
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["open_contents"]

# Safetensors first: its first eight bytes are a length and may equal any other signature.
_LAYOUTS = (native.LAYOUT, caffe2.LAYOUT, pytorch.LAYOUT, keras.LAYOUT, tensorflow.LAYOUT, caffe.LAYOUT)
_LEVELDB_END = bytes.fromhex("57fb808b247547db")  # leveldb's table magic, little endian


@contextmanager
def open_contents(path: Path, fc6_order: Fc6Order | None = None) -> Iterator[Contents]:
    """Open a checkpoint of any known layout.

    Parameters
    ----------
    fc6_order
        For layouts that keep channels last: the order in which fc6 expects the pool5 map.

    Raises
    ------
    WeightsError
        If the file cannot be read, with the file as its subject.
    """
    try:
        with _layout(path).open(path, fc6_order) as contents:
            yield contents
    except WeightsError as error:
        if error.subject is not None:
            raise
        raise WeightsError(error.reason, subject=path, hint=error.hint) from error
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror or error}", subject=path) from error


def _layout(path: Path) -> Layout:
    start, end = _ends(path)
    _check_not_something_else(start, end)
    for layout in _LAYOUTS:
        if layout.matches(start):
            return layout
    raise WeightsError(f"of no layout we read (it starts with {start[:8].hex(' ')})")


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(-min(8, len(start)), 2)
        return start, file.read()


def _check_not_something_else(start: bytes, end: bytes) -> None:
    if not start:
        raise WeightsError("an empty file")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError("a Git LFS pointer, not the file itself", hint="fetch it with `git lfs pull`")
    if start.lstrip()[:5].lower() in {b"<!doc", b"<html"}:
        raise WeightsError("a web page, not a checkpoint: the download asked for a confirmation or failed")
    if end == _LEVELDB_END:
        raise WeightsError(
            "a TensorFlow checkpoint", hint="export its variables to an npy dictionary or h5 first"
        )
