"""Caffe's model and mean files: C3D's own fork with 5-D blobs, and BVLC's form.

Field numbers (reference: caffe.proto of the fork C3D v1.0 and of BVLC Caffe):

=================  ======================================================  =============================
message            fork                                                    BVLC, C3D v1.1
=================  ======================================================  =============================
NetParameter       layers = 2                                              layers = 2 or layer = 100
V1LayerParameter   name = 4, blobs = 6                                     the same
LayerParameter     –                                                       name = 1, blobs = 7
BlobProto          num, channels, length, height, width = 1–5, data = 6    data = 5, shape = 7 or 1–4
BlobShape          –                                                       dim = 1
=================  ======================================================  =============================

The forms are distinguished by field 5 of a blob: an integer in the fork, packed floats in BVLC's. Reading
one with the other's schema swaps dimensions silently, so the encoding is parsed here directly: no message
is built, and the numbers are copied once, from the mapped file.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.contents import Contents, Layout, TensorSource
from c3d_extract.weights.layouts.protobuf import BYTES, VARINT, Field, fields, varints
from c3d_extract.weights.layouts.res3d import is_res3d, res3d_contents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights.registry import Fc6Order

__all__ = ["LAYOUT", "read_blob"]

_LAYER_NAME = re.compile(r"(conv[1-5][ab]|fc[678])(?:[-_].*)?")  # fc6-1 in the Sports-1M model


class _Blob(NamedTuple):
    shape: tuple[int, ...]
    chunks: list[memoryview]  # packed little-endian float32


@contextmanager
def _open_caffe(path: Path, _fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open a ``.caffemodel`` of either form, of C3D or of Res3D-18."""
    mapped: Any = np.memmap(path, dtype=np.uint8, mode="r")
    layers = [(name, blobs) for name, blobs in _layers(memoryview(mapped)) if blobs]
    sources = {name: [_source(blob, blob.shape) for blob in blobs] for name, blobs in layers}
    yield res3d_contents(sources) if is_res3d(sources) else Contents("caffe", _c3d_sources(layers))


def _c3d_sources(layers: list[tuple[str, list[_Blob]]]) -> dict[str, TensorSource]:
    sources: dict[str, TensorSource] = {}
    for name, blobs in layers:
        match = _LAYER_NAME.fullmatch(name)
        if match is None:
            continue
        layer = match[1]
        if f"{layer}.weight" in sources or len(blobs) != 2:
            raise WeightsError(
                f"layer {name}: {len(blobs)} blobs or a second layer of that name, not weight and bias"
            )
        sources[f"{layer}.weight"] = _shaped(layer, blobs[0], n_axes=5 if layer.startswith("conv") else 2)
        sources[f"{layer}.bias"] = _shaped(layer, blobs[1], n_axes=1)
    if not sources:
        raise WeightsError("no C3D layers in it, if it is a Caffe model at all")
    return sources


def _layers(net: memoryview) -> Iterator[tuple[str, list[_Blob]]]:
    for field in fields(net):
        if field.kind == BYTES and field.number in {2, 100}:
            name_number, blobs_number = (4, 6) if field.number == 2 else (1, 7)
            inside = [part for part in fields(field.data) if part.kind == BYTES]
            name = b"".join(bytes(part.data[:100]) for part in inside if part.number == name_number)
            blobs = [_blob(part.data) for part in inside if part.number == blobs_number]
            yield name.decode("utf-8", "replace"), blobs


def _blob(message: memoryview) -> _Blob:
    parts = list(fields(message))
    bvlc = any(part.number == 5 and part.kind == BYTES for part in parts)
    data_number = 5 if bvlc else 6
    chunks = [part.data for part in parts if part.number == data_number and part.kind == BYTES]
    shape = _shape(parts, n_legacy=4 if bvlc else 5)
    n_numbers, rest = divmod(sum(map(len, chunks)), 4)
    if rest or not chunks or n_numbers != prod(shape):
        raise WeightsError(f"a blob of shape {shape} holds {n_numbers} numbers")
    return _Blob(shape, chunks)


def _shape(parts: list[Field], *, n_legacy: int) -> tuple[int, ...]:
    shapes = [part.data for part in parts if part.number == 7 and part.kind == BYTES]
    if shapes and n_legacy == 4:
        return tuple(
            size
            for field in fields(shapes[-1])
            if field.number == 1
            for size in ([field.integer] if field.kind == VARINT else varints(field.data))
        )
    legacy = {part.number: part.integer for part in parts if part.kind == VARINT}
    return tuple(legacy.get(number, 1) for number in range(1, n_legacy + 1))


def _shaped(layer: str, blob: _Blob, *, n_axes: int) -> TensorSource:
    shape = blob.shape
    while len(shape) > n_axes and shape[0] == 1:  # legacy blobs of FC layers are (1, 1, 1, out, in)
        shape = shape[1:]
    if len(shape) != n_axes:
        raise WeightsError(f"{layer} has a blob of shape {blob.shape}, not of {n_axes} axes")
    return _source(blob, shape)


def _source(blob: _Blob, shape: tuple[int, ...]) -> TensorSource:
    return TensorSource(shape, partial(_numbers, blob, shape))


def _numbers(blob: _Blob, shape: tuple[int, ...]) -> NDArray[np.float32]:
    arrays = [np.frombuffer(chunk, dtype="<f4") for chunk in blob.chunks]
    return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(shape)


def read_blob(message: memoryview) -> NDArray[np.float32]:
    """Return the array of a single blob, as in ``….binaryproto``; five axes in the fork's form."""
    blob = _blob(message)
    return _numbers(blob, blob.shape)


def _has_signature(start: bytes) -> bool:
    return start.startswith((b"\x0a", b"\x12", b"\xa2\x06"))  # name, layers or layer of a NetParameter


LAYOUT = Layout(_has_signature, _open_caffe)
