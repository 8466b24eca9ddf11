"""Pickles, read without running code in them and without trusting lengths in them.

Python's unpickler allocates a string of the length that a pickle states before reading it, and a memo as
long as the largest index that a pickle stores to. Iterating over the opcodes finds both and builds no
objects.
"""

from __future__ import annotations

import pickle
import pickletools
from math import prod
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.contents import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["PickledArray", "as_text", "check_pickle", "load_arrays", "read_mapped"]


def check_pickle(mapped: mmap) -> None:
    """Raise WeightsError if the pickle at the current position is damaged; restore the position."""
    start = mapped.tell()
    for index, (opcode, argument, _) in enumerate(pickletools.genops(mapped)):  # type: ignore[arg-type]  # reads like a file
        if opcode.name in {"PUT", "LONG_BINPUT"} and int(str(argument)) > index:
            raise WeightsError("damaged: a pickle whose memo is larger than itself")
    mapped.seek(start)


def read_mapped(path: Path, read: Callable[[mmap], Any], what: str) -> Any:
    """Return what ``read`` makes of a file; raise WeightsError where it is no ``what`` that can be read."""
    try:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
            return read(mapped)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or malicious pickle can raise anything
        raise WeightsError(f"not a readable {what} ({one_line(error)})") from error


def as_text(key: object) -> str:
    """Return a key of a dictionary; strings of Python 2 come as bytes."""
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def load_arrays(mapped: mmap) -> Any:
    """Return what the pickle at the current position holds; arrays and containers of them alone.

    Arrays are `PickledArray`; strings of Python 2 come as bytes.

    Raises
    ------
    WeightsError
        If it asks for anything else. Python's unpickler may raise other exceptions where it is damaged.
    """
    check_pickle(mapped)
    return _Unpickler(mapped, encoding="bytes").load()


class PickledArray:
    """Stand-in for numpy.ndarray that checks the state in the pickle."""

    array: NDArray[Any]
    objects: list[Any] | None = None

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list) and isinstance(dtype, _DType) and dtype.code == "O":
            self.objects = data
            return
        sizes = tuple(int(size) for size in shape)
        if (
            not isinstance(data, bytes)
            or min(sizes, default=1) < 0
            or prod(sizes) * dtype.real.itemsize != len(data)
        ):
            raise WeightsError(f"damaged: an array of shape {sizes} does not have the bytes for it")
        self.array = np.frombuffer(data, dtype.real).reshape(sizes, order="F" if fortran else "C")


class _DType:
    """Stand-in for numpy.dtype: floating point, or the object array that contains the dictionary."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if self.code not in {"f2", "f4", "f8", "O", "O8"}:
            raise WeightsError(f"holds values of type {self.code[:20]!r}, not floating-point numbers")
        self.code = self.code.replace("O8", "O")
        self.order = "<"

    @property
    def real(self) -> np.dtype[Any]:
        if self.code == "O":
            raise WeightsError("damaged: an array of objects with bytes")
        return np.dtype(self.order + self.code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"


class _Bytes:
    """Stand-in for ``_codecs.encode``, with which pickle protocol 2 stores bytes."""

    def __new__(cls, text: str, *_: object) -> Self:
        return text.encode("latin-1")  # type: ignore[return-value]


class _Unpickler(pickle.Unpickler):
    _known = {  # noqa: RUF012  # never changed
        **{(f"numpy.{core}.multiarray", "_reconstruct"): PickledArray for core in ("core", "_core")},
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _Bytes,
    }

    def find_class(self, module: str, name: str, /) -> Any:
        found = self._known.get((module, name))
        if found is None:
            raise WeightsError(f"refused: it asks for {module}.{name}, and only arrays are read")
        return found

    def persistent_load(self, _pid: Any, /) -> Any:
        raise WeightsError("refused: it refers to something outside itself")
