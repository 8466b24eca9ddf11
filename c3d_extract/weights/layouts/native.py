"""The native checkpoint format: safetensors with everything a network needs besides its tensors.

Tensors are named as `Backbone.state_shapes` names them, ``mean`` is the mean as float32
(3, T, H, W) in B, G, R. One key of the header, ``c3d_extract``, holds JSON: ``format`` (1), ``name``,
``architecture``, ``preprocessing``, ``mean_name``, ``labels``, ``licence``, ``extra``.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, TypedDict, Unpack

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from c3d_extract.errors import WeightsError
from c3d_extract.files import replacing
from c3d_extract.models.registry import backbone_from_json
from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.strict_json import parse_json
from c3d_extract.weights.layouts.contents import (
    Contents,
    Layout,
    TensorSource,
    check_tensors,
    is_finite,
    one_line,
)
from c3d_extract.weights.layouts.pytorch import contents_of_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["LAYOUT", "Description", "NativeHeader", "read_header", "save_checkpoint"]

_KEY = "c3d_extract"
_FORMAT = 1
_MEAN = "mean"
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


class NativeHeader(NamedTuple):
    """The validated description inside a native checkpoint."""

    name: str
    backbone: Backbone
    preprocessing: Preprocessing
    mean_name: str
    labels: list[str] | None
    licence: str | None
    extra: dict[str, Any]


class Description(TypedDict):
    """What `save_checkpoint` writes besides the tensors.

    Attributes
    ----------
    name
        Name of the checkpoint.
    mean_name
        Name of its mean.
    labels
        Names of the classes in order.
    licence
        Licence of the weights.
    extra
        Other facts (how it was trained, what it was converted from), as JSON values.
    dtype
        How the weights are stored. Half precision halves the file and rounds each weight.
    """

    name: str
    mean_name: NotRequired[str]
    labels: NotRequired[Sequence[str] | None]
    licence: NotRequired[str | None]
    extra: NotRequired[Mapping[str, Any] | None]
    dtype: NotRequired[Literal["fp32", "fp16"]]


def save_checkpoint(
    path: Path,
    state: Mapping[str, torch.Tensor],
    architecture: Backbone,
    preprocessing: Preprocessing,
    mean: NDArray[np.floating[Any]],
    **description: Unpack[Description],
) -> None:
    """Write a checkpoint with its description; the file is replaced atomically.

    Parameters
    ----------
    path
        The file; conventionally ``….safetensors``.
    state
        Every tensor of the network, under the names of `Backbone.state_shapes`.
    architecture
        Description of the network.
    preprocessing
        What it wants done to frames.
    mean
        As accepted by `preprocess.fit_mean`, whose result is stored, in float32.
    **description
        ``name`` and the other keys of `Description`.

    Raises
    ------
    WeightsError
        If the state does not fit the architecture, a weight overflows half precision, or the file
        cannot be written.
    """
    check_tensors({key: tuple(value.shape) for key, value in state.items()}, architecture)
    dtype = description.get("dtype", "fp32")
    tensors = {key: _stored(key, state[key], dtype) for key in architecture.state_shapes()}
    tensors[_MEAN] = torch.from_numpy(fit_mean(mean, preprocessing, architecture.clip[0]).copy())
    header = _header(architecture, preprocessing, description)
    try:
        # Serialised in memory (312 MB for C3D): safetensors can write to a path only, not to an open file.
        content = save(tensors, metadata={_KEY: json.dumps(header, ensure_ascii=False)})
        with replacing(path) as file:
            file.write(content)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else one_line(error)
        raise WeightsError(f"cannot be written: {why}", subject=path) from error


def _header(architecture: Backbone, preprocessing: Preprocessing, description: Description) -> dict[str, Any]:
    labels = description.get("labels")
    return {
        "format": _FORMAT,
        "name": description["name"],
        "architecture": architecture.to_json(),
        "preprocessing": preprocessing.to_json(),
        "mean_name": description.get("mean_name", "its own"),
        "labels": None if labels is None else list(labels),
        "licence": description.get("licence"),
        "extra": dict(description.get("extra") or {}),
    }


def _stored(name: str, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    kept = tensor.detach().to("cpu", torch.float16 if dtype == "fp16" else torch.float32).contiguous()
    if not is_finite(kept):
        raise WeightsError(f"{name} has values that {dtype} cannot hold")
    return kept


@contextmanager
def _open_safetensors(path: Path, _fc6_order: Fc6Order | None) -> Iterator[Contents]:
    """Open a safetensors file: a native checkpoint, or one with a PyTorch port's names."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                yield contents_of_state({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
                return
            sources = {key: _source(file, key) for key in file.keys()}  # noqa: SIM118  # not a mapping
            yield Contents("safetensors", sources, header=_parse(text))
    except SafetensorError as error:
        raise WeightsError(f"not a readable safetensors file ({one_line(error)})") from error


def _source(file: Any, key: str) -> TensorSource:
    return TensorSource(tuple(file.get_slice(key).get_shape()), partial(file.get_tensor, key))


def _parse(text: str) -> dict[str, Any]:
    try:
        header = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"damaged: its description is not JSON ({error})") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise WeightsError(f"its description has format {found!r}, this version reads {_FORMAT}")
    return header


def read_header(header: Mapping[str, Any]) -> NativeHeader:
    """Validate the description inside a native checkpoint."""
    labels, licence, extra = header.get("labels"), header.get("licence"), header.get("extra") or {}
    backbone = backbone_from_json(_mapping(header.get("architecture")))
    if labels is not None and not (
        isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    ):
        raise WeightsError("damaged: its labels are not a list of names")
    if labels is not None and len(labels) != backbone.n_classes:
        raise WeightsError(f"damaged: {len(labels)} labels for {backbone.n_classes} classes")
    return NativeHeader(
        name=str(header.get("name")),
        backbone=backbone,
        preprocessing=Preprocessing.from_json(_mapping(header.get("preprocessing"))),
        mean_name=str(header.get("mean_name")),
        labels=labels,
        licence=None if licence is None else str(licence),
        extra=dict(_mapping(extra)),
    )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WeightsError("damaged: a part of its description is missing")
    return value


def _has_signature(start: bytes) -> bool:
    # Eight bytes of length, then JSON.
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _LARGEST_HEADER


LAYOUT = Layout(_has_signature, _open_safetensors)
