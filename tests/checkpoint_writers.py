"""Checkpoints of every public layout, written without the package's readers or any library of theirs.

Each writer takes a state under the model's names (float32 arrays) and applies the layout's axes by plain
loops. Caffe's bytes are put together from the field numbers of its proto files.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

State = dict[str, "NDArray[np.float32]"]

CONVOLUTIONS = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Weights of the size He's rule gives, so that activations stay of order 1 through the network."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)
    return state


# PyTorch ---------------------------------------------------------------------------------------------

DAVIDEA = {"conv1a": "conv1", "conv2a": "conv2"}
JFZHANG95 = {
    **dict(zip(CONVOLUTIONS, [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)], strict=True)),
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
MMACTION2 = {name: f"{name}.conv" for name in CONVOLUTIONS} | {"fc8": "cls_head.fc_cls"}


def write_torch(
    path: Path,
    state: State,
    names: dict[str, str],
    *,
    legacy: bool = False,
    prefix: str = "",
    wrapper: str = "",
) -> None:
    """Write under other names; ``backbone.`` in a prefix does not go before a classifier."""
    renamed: dict[str, Any] = {}
    for name, array in state.items():
        layer, part = name.rsplit(".", 1)
        stored = names.get(layer, layer)
        before = prefix.replace("backbone.", "") if stored.startswith("cls_head") else prefix
        renamed[f"{before}{stored}.{part}"] = torch.from_numpy(array)
    content = {wrapper: renamed, "epoch": 7, "meta": {"note": "text"}} if wrapper else renamed
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


# Caffe -----------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _message(number: int, *parts: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(sum(map(len, parts))) + b"".join(parts)


def fork_blob(array: NDArray[np.float32]) -> bytes:
    """BlobProto of C3D v1.0: num, channels, length, height, width = 1–5, data = 6."""
    sizes = [1] * (5 - array.ndim) + list(array.shape)
    header = b"".join(_integer(number, size) for number, size in enumerate(sizes, start=1))
    return header + _message(6, array.astype("<f4").tobytes())


def bvlc_blob(array: NDArray[np.float32]) -> bytes:
    """BlobProto of BVLC Caffe: shape = 7 with packed dim = 1, data = 5."""
    dims = _message(1, b"".join(_varint(size) for size in array.shape))
    return _message(7, dims) + _message(5, array.astype("<f4").tobytes())


def caffe_bytes(state: State, form: str) -> bytes:
    """NetParameter: V1 layers = 2 of the fork, V1 layers with BVLC blobs, or BVLC's layer = 100."""
    fc = "{}-1" if form == "fork" else "{}"
    out = [_message(1, b"DeepConv3DNet")]
    make = fork_blob if form == "fork" else bvlc_blob
    for layer in dict.fromkeys(name.split(".")[0] for name in state):
        name = (fc.format(layer) if layer.startswith("fc") else layer).encode()
        blobs = [make(state[key]) for key in (f"{layer}.weight", f"{layer}.bias") if key in state]
        if form == "bvlc":
            out.append(
                _message(
                    100,
                    _message(1, name),
                    _message(2, b"Convolution"),
                    *(_message(7, blob) for blob in blobs),
                )
            )
        else:
            kind = _integer(5, 14 if layer.startswith("fc") else 30)
            out.append(
                _message(
                    2, _message(2, b"data"), _message(4, name), kind, *(_message(6, blob) for blob in blobs)
                )
            )
            out.append(_message(2, _message(2, name), _message(4, b"relu_" + name), _integer(5, 18)))
    return b"".join(out)


# Channels last ---------------------------------------------------------------------------------------


def tensorflow_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, in, T, H, W) → (T, H, W, in, out)."""
    n_out, n_in, *size = kernel.shape
    out = np.empty((*size, n_in, n_out), np.float32)
    for t in range(size[0]):
        for h in range(size[1]):
            for w in range(size[2]):
                out[t, h, w] = kernel[:, :, t, h, w].T
    return out


def mirrored_kernel(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """As Theano keeps it: axes as they are, every kernel turned round in T, H and W."""
    out = np.empty_like(kernel)
    n_t, n_h, n_w = kernel.shape[2:]
    for t in range(n_t):
        for h in range(n_h):
            for w in range(n_w):
                out[:, :, t, h, w] = kernel[:, :, n_t - 1 - t, n_h - 1 - h, n_w - 1 - w]
    return out


def permuted_fc6(matrix: NDArray[np.float32], order: str) -> NDArray[np.float32]:
    """(out, C·4·4) → (inputs, out), the inputs in the order C, H, W or H, W, C."""
    if order == "chw":
        return np.ascontiguousarray(matrix.T)
    n_channels = matrix.shape[1] // 16
    out = np.empty(matrix.shape[::-1], np.float32)
    for h in range(4):
        for w in range(4):
            for c in range(n_channels):
                out[(h * 4 + w) * n_channels + c] = matrix[:, (c * 4 + h) * 4 + w]
    return out


def _channels_last(name: str, array: NDArray[np.float32], order: str) -> NDArray[np.float32]:
    if array.ndim == 5:
        return tensorflow_kernel(array)
    if array.ndim == 2:
        return permuted_fc6(array, order if name == "fc6.weight" else "chw")
    return array


def write_keras(path: Path, state: State, *, order: str = "hwc", whole_model: bool = False) -> None:
    """Keras 2 on TensorFlow: a group a layer, ``kernel:0`` and ``bias:0`` inside a group of the same name."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["backend"] = b"tensorflow"
        for name, array in state.items():
            layer, part = name.split(".")
            layer = DAVIDEA.get(layer, layer)
            root[f"{layer}/{layer}/{'kernel:0' if part == 'weight' else 'bias:0'}"] = _channels_last(
                name, array, order
            )
        root.create_group("flatten_1")


def write_theano(path: Path, state: State, *, backend: bytes | None = None) -> None:
    """Keras 1, channels first; kernels mirrored unless the backend says TensorFlow."""
    with h5py.File(path, "w") as file:
        if backend is not None:
            file.attrs["backend"] = backend
        for name, array in state.items():
            layer, part = name.split(".")
            layer = DAVIDEA.get(layer, layer)
            stored = array.T if array.ndim == 2 else array
            if array.ndim == 5 and backend != b"tensorflow":
                stored = mirrored_kernel(array)
            file[f"{layer}/{layer}_{'W' if part == 'weight' else 'b'}"] = stored


C3D_TENSORFLOW = dict(
    zip(
        [*CONVOLUTIONS, "fc6", "fc7", "fc8"],
        ["c1", "c2", "c3a", "c3b", "c4a", "c4b", "c5a", "c5b", "d1", "d2", "out"],
        strict=True,
    )
)


def tensorflow_dictionary(state: State, order: str) -> State:
    """Names of C3D-tensorflow: ``var_name/wc1`` and ``var_name/bc1`` …"""
    renamed = {}
    for name, array in state.items():
        layer, part = name.split(".")
        renamed[f"var_name/{part[0]}{C3D_TENSORFLOW[layer]}"] = _channels_last(name, array, order)
    return renamed


def write_npy(path: Path, state: State, *, order: str = "chw", protocol: int | None = None) -> None:
    """``np.save`` of a dictionary; with ``protocol`` 2 as Python 2 wrote it."""
    content: Any = tensorflow_dictionary(state, order)
    with path.open("wb") as file:
        if protocol is None:
            np.save(file, content, allow_pickle=True)
            return
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
        header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        wrapped = np.empty((), object)
        wrapped[()] = content
        pickle.dump(wrapped, file, protocol=protocol)


RES3D_CONVOLUTIONS = {
    "conv1": (64, 3, 3, 7, 7),
    **{f"res2{block}_branch{branch}": (64, 64, 3, 3, 3) for block in "ab" for branch in ("2a", "2b")},
    "res2a_branch1": (64, 64, 1, 1, 1),
    **{
        f"res{stage}{block}_branch{branch}": (
            out,
            out // 2 if (block, branch) == ("a", "2a") else out,
            *(3, 3, 3),
        )
        for stage, out in ((3, 128), (4, 256), (5, 512))
        for block in "ab"
        for branch in ("2a", "2b")
    },
    **{f"res{stage}a_branch1": (out, out // 2, 1, 1, 1) for stage, out in ((3, 128), (4, 256), (5, 512))},
}
"""Convolutions of C3D v1.1's Res3D-18 by the names of its prototxt."""


def res3d_layers(n_classes: int = 487, seed: int = 0) -> dict[str, list[NDArray[np.float32]]]:
    """Random blobs of every layer; a BatchNorm's are sums over the number in its third."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, shape in RES3D_CONVOLUTIONS.items():
        of = name.removeprefix("res") if name != "conv1" else "_conv1"
        spread = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        layers[name] = [rng.standard_normal(shape, dtype=np.float32) * spread]
        mean, variance = rng.uniform(-5, 5, shape[0]), rng.uniform(50, 150, shape[0])
        layers[f"bn{of}"] = [
            mean.astype(np.float32),
            variance.astype(np.float32),
            np.array([99.97], np.float32),
        ]
        scale, shift = rng.uniform(0.5, 1, shape[0]), rng.uniform(-0.1, 0.1, shape[0])
        layers[f"scale{of}"] = [scale.astype(np.float32), shift.astype(np.float32)]
    matrix = rng.standard_normal((n_classes, 512), dtype=np.float32) * np.float32(0.05)
    layers["fc8"] = [matrix, rng.standard_normal(n_classes, dtype=np.float32)]
    return layers


def caffe_model(layers: dict[str, list[NDArray[np.float32]]]) -> bytes:
    """A NetParameter of BVLC's form with these layers, and some without blobs."""
    out = [
        _message(1, b"C3D-ResNet18-Sports1M"),
        _message(100, _message(1, b"data"), _message(2, b"VideoData")),
    ]
    for name, blobs in layers.items():
        parts = (_message(7, bvlc_blob(blob)) for blob in blobs)
        out.append(_message(100, _message(1, name.encode()), _message(2, b"Layer"), *parts))
        out.append(_message(100, _message(1, f"{name}_relu".encode()), _message(2, b"ReLU")))
    return b"".join(out)


# Caffe2 ----------------------------------------------------------------------------------------------


def _whole_number(value: int) -> bytes:
    if value < 256:
        return b"K" + bytes([value])
    return b"M" + struct.pack("<H", value) if value < 1 << 16 else b"J" + struct.pack("<i", value)


def _text_of_python2(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def _array_of_python2(array: NDArray[np.float32]) -> bytes:
    """The opcodes of protocol 2 that Python 2's pickle wrote for an array."""
    shape = b"(" + b"".join(map(_whole_number, array.shape)) + b"t"
    kind = b"cnumpy\ndtype\n" + _text_of_python2("f4") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + _text_of_python2("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _text_of_python2("b") + b"\x87R"
    )
    content = array.astype("<f4").tobytes()
    return empty + b"(K\x01" + shape + kind + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"


def python2_pickle(blobs: State) -> bytes:
    """``pickle.dumps({"blobs": blobs}, 2)`` of Python 2, opcode by opcode."""
    inside = b"".join(
        _text_of_python2(name) + _array_of_python2(array) + b"s" for name, array in blobs.items()
    )
    return b"\x80\x02}" + _text_of_python2("blobs") + b"}" + inside + b"s."


def vmz_blobs(state: State, seed: int = 0) -> State:
    """The state under VMZ's names, a random normalisation after each convolution."""
    rng = np.random.default_rng(seed)
    blobs = {}
    for name, array in state.items():
        layer, part = name.split(".")
        blobs[f"{layer}_{part[0]}" if layer != "fc8" else f"last_out_L{len(array)}_{part[0]}"] = array
        if layer in CONVOLUTIONS and part == "bias":
            for blob, least in (("s", 0.5), ("b", -0.2), ("rm", -0.2), ("riv", 0.1)):
                values = rng.uniform(least, least + 1, len(array))
                blobs[f"{layer}_bn_{blob}"] = values.astype(np.float32)
    return blobs


# All of them -----------------------------------------------------------------------------------------


def _torch(names: dict[str, str], **how: Any) -> Callable[[Path, State], None]:
    return lambda path, state: write_torch(path, state, names, **how)


def _caffe(form: str) -> Callable[[Path, State], None]:
    return lambda path, state: void(path.write_bytes(caffe_bytes(state, form)))


def void(_: object) -> None:
    """Return nothing."""


WRITERS: dict[str, tuple[str, str | None, Callable[[Path, State], None]]] = {
    "DavideA": ("pytorch-davidea", None, _torch(DAVIDEA)),
    "DavideA, before zip": ("pytorch-davidea", None, _torch(DAVIDEA, legacy=True)),
    "DavideA, wrapped by jfzhang95's training": (
        "pytorch-davidea",
        None,
        _torch(DAVIDEA, wrapper="state_dict"),
    ),
    "jfzhang95": ("pytorch-jfzhang95", None, _torch(JFZHANG95)),
    "jfzhang95, DataParallel": ("pytorch-jfzhang95", None, _torch(JFZHANG95, prefix="module.", legacy=True)),
    "mmaction2": ("pytorch-mmaction2", None, _torch(MMACTION2 | {"fc8": "fc8"})),
    "mmaction2, fine-tuned": (
        "pytorch-mmaction2",
        None,
        _torch(MMACTION2, prefix="backbone.", wrapper="state_dict"),
    ),
    "mmaction2, two prefixes": ("pytorch-mmaction2", None, _torch(MMACTION2, prefix="module.backbone.")),
    "mmaction v0": ("pytorch-mmaction", None, _torch({})),
    "mmaction v0, wrapped": ("pytorch-mmaction", None, _torch({}, wrapper="state_dict", prefix="backbone.")),
    "Caffe C3D v1.0": ("caffe", None, _caffe("fork")),
    "Caffe C3D v1.1": ("caffe", None, _caffe("v1.1")),
    "Caffe BVLC": ("caffe", None, _caffe("bvlc")),
    "Keras TensorFlow H, W, C": ("keras-tensorflow", "hwc", write_keras),
    "Keras TensorFlow C, H, W": (
        "keras-tensorflow",
        "chw",
        lambda p, s: write_keras(p, s, order="chw", whole_model=True),
    ),
    "Keras Theano": ("keras-theano", None, write_theano),
    "Keras channels first on TensorFlow": (
        "keras-theano",
        None,
        lambda p, s: write_theano(p, s, backend=b"tensorflow"),
    ),
    "TensorFlow npy C, H, W": ("tensorflow-npy", "chw", write_npy),
    "TensorFlow npy H, W, C, Python 2": (
        "tensorflow-npy",
        "hwc",
        lambda p, s: write_npy(p, s, order="hwc", protocol=2),
    ),
}
"""Who wrote it → layout as the registry names it, order of fc6 to ask for, writer."""
