"""PyTorch state dicts of the public ports, distinguished by the names of their tensors.

Files are read with ``weights_only=True``: a pickle that would run code is refused. Wrappers
(``state_dict``, ``model`` …) and prefixes (``module.``, ``backbone.`` …) are removed.
"""

from __future__ import annotations

import pickle
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from c3d_extract.errors import WeightsError
from c3d_extract.weights.layouts.contents import (
    CONVOLUTIONS,
    LINEAR,
    Contents,
    Layout,
    TensorSource,
    one_line,
)
from c3d_extract.weights.layouts.pickles import check_pickle
from c3d_extract.weights.layouts.torchvision import find_video_network

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.weights.registry import Fc6Order

__all__ = ["LAYOUT", "MODULE_NAMES", "contents_of_state"]

_DAVIDEA = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")

MODULE_NAMES: dict[str, dict[str, str]] = {
    layout: dict(zip((*convolutions, *linear), (*CONVOLUTIONS, *LINEAR), strict=True))
    for layout, convolutions, linear in (
        ("pytorch-davidea", _DAVIDEA, LINEAR),  # DavideA/c3d-pytorch, and jfzhang95's own training code
        (
            "pytorch-jfzhang95",  # its pretrained file, also used by R-C3D.pytorch
            tuple(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
            tuple(f"classifier.{i}" for i in (0, 3, 6)),
        ),
        ("pytorch-mmaction2", tuple(f"{name}.conv" for name in CONVOLUTIONS), LINEAR),
        ("pytorch-mmaction", CONVOLUTIONS, LINEAR),  # mmaction 0.x
    )
}
"""Layout → (module in the file → layer of the model)."""

_HEAD = "cls_head.fc_cls"  # the classifier of mmaction and mmaction2, outside ``backbone``


class _Match(NamedTuple):
    layout: str
    prefix: str
    state: Mapping[str, Any]
    names: dict[str, str]  # name in the file → name in the model


@contextmanager
def _open_torch(path: Path, _fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open a file written by ``torch.save``, in the zip or the legacy format."""
    yield contents_of_state(_load(path))


def _load(path: Path) -> Any:
    try:
        zipped = zipfile.is_zipfile(path)
        _check_zip(path) if zipped else _check_legacy(path)
        # Options of a training script, beside the tensors, are often a Namespace: a holder of attributes.
        with torch.serialization.safe_globals([Namespace]):
            # Zip files are mapped, so tensors that are not needed are never read.
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except Exception as error:  # a damaged or malicious pickle can raise anything
        raise WeightsError(_why_not_loaded(error)) from error


def _why_not_loaded(error: Exception) -> str:
    text = str(error)
    if "nsupported" in text or "weights_only" in text or "WeightsUnpickler" in text:
        return "refused: this pickle holds more than tensors, and loading it could run code"
    return f"not a readable PyTorch file ({one_line(error)})"


def _check_zip(path: Path) -> None:
    # torch.save stores without compression; a compressed entry could decompress to any size.
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError("a compressed archive, not a file of torch.save")


class _Inert:
    """Stand-in for every class that a pickle references; does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def __setstate__(self, _: object) -> None: ...
    def __setitem__(self, *_: object) -> None: ...
    def append(self, _: object) -> None: ...
    def extend(self, _: object) -> None: ...
    def add(self, _: object) -> None: ...


class _SizeReader(pickle.Unpickler):
    """Reads a pickle without building its objects, and sums the sizes that its storages claim."""

    n_numbers = 0

    def find_class(self, _module: str, _name: str, /) -> type[_Inert]:
        return _Inert

    def persistent_load(self, pid: Any, /) -> _Inert:
        # ("storage", type, key, location, number of elements, view)
        n_numbers = pid[4]
        if not isinstance(n_numbers, int) or n_numbers < 0:
            raise WeightsError("damaged: a storage without a size")
        self.n_numbers += n_numbers
        return _Inert()


def _check_legacy(path: Path) -> None:
    """Refuse a file whose storages claim more than it holds: torch would allocate them unchecked."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
        for _ in range(5):  # magic number, protocol version, system, the state, keys of its storages
            check_pickle(mapped)
            reader = _SizeReader(mapped, encoding="bytes")  # mmap reads like a file
            reader.load()
            if reader.n_numbers > len(mapped):
                raise WeightsError("damaged: its storages claim more than the file holds")


def contents_of_state(loaded: Any) -> Contents:
    """Find the tensors of C3D or of a network of torchvision in a state dict, or a dict that contains one."""
    matches = [match for state in _mappings(loaded) for match in _matches(state)]
    best = max(matches, key=lambda match: len(match.names), default=None)
    if best is None or len(best.names) < 4:
        other = _contents_of_video_network(loaded)
        if other is not None:
            return other
        first = (
            ", ".join(str(key)[:40] for key in list(loaded)[:4])
            if isinstance(loaded, Mapping)
            else type(loaded)
        )
        raise WeightsError(f"no tensors of a known C3D layout or of torchvision's networks; it holds {first}")
    sources = {name: _source(name, best.state[stored]) for stored, name in best.names.items()}
    return Contents(best.layout, sources, notes=_leftovers(best))


def _contents_of_video_network(loaded: Any) -> Contents | None:
    found = find_video_network(_mappings(loaded))
    if found is None:
        return None
    sources = {name: _source(name, tensor) for name, tensor in found.tensors.items()}
    notes = (f"ignored {found.n_ignored} tensors that are not the network's",) if found.n_ignored else ()
    return Contents("torchvision", sources, notes=notes, network=found.network)


def _mappings(loaded: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the nested mappings of a loaded object, each once, because references may be cyclic."""
    seen: set[int] = set()
    level = [loaded]
    for _ in range(3):
        level = [one for one in level if isinstance(one, Mapping) and id(one) not in seen]
        level = list({id(one): one for one in level}.values())
        seen |= set(map(id, level))
        yield from ({key: value for key, value in one.items() if isinstance(key, str)} for one in level)
        level = [value for one in level for value in one.values()]


def _matches(state: Mapping[str, Any]) -> Iterator[_Match]:
    for layout, modules in MODULE_NAMES.items():
        first = f"{next(iter(modules))}.weight"
        prefixes = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")}
        for prefix in sorted(prefixes, key=len):
            names = {
                f"{prefix}{module}.{part}": f"{layer}.{part}"
                for module, layer in modules.items()
                for part in ("weight", "bias")
                if f"{prefix}{module}.{part}" in state
            }
            yield _Match(layout, prefix, state, names | _head(state, prefix, names))


def _head(state: Mapping[str, Any], prefix: str, names: dict[str, str]) -> dict[str, str]:
    head = prefix.removesuffix("backbone.") + _HEAD
    if "fc8.weight" in names.values() or f"{head}.weight" not in state:
        return {}
    return {f"{head}.{part}": f"fc8.{part}" for part in ("weight", "bias") if f"{head}.{part}" in state}


def _leftovers(match: _Match) -> tuple[str, ...]:
    others = [
        key for key in match.state if key not in match.names and isinstance(match.state[key], torch.Tensor)
    ]
    normalised = [key for key in others if "running_mean" in key or "bn" in key or "norm" in key]
    if normalised:
        raise WeightsError(f"has batch normalisation ({normalised[0]}), which C3D has not: another network")
    if not others:
        return ()
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return (f"ignored tensors that are not C3D's: {', '.join(others[:3])}{more}",)


def _source(name: str, value: Any) -> TensorSource:
    plain = isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    if not plain or not value.is_floating_point():
        raise WeightsError(f"{name} is not a plain tensor of floating-point numbers")
    return TensorSource(tuple(value.shape), _reader(value))


def _reader(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError("a tensor claims more numbers than the file holds for it")
    return partial(torch.Tensor.detach, tensor)


def _has_signature(start: bytes) -> bool:
    return start.startswith((b"PK\x03\x04", b"\x80"))  # a zip file, or a pickle of protocol 2 or later


LAYOUT = Layout(_has_signature, _open_torch)
