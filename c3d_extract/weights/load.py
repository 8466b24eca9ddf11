"""Loading a checkpoint, from a registered name or a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from c3d_extract.errors import UsageError, WeightsError
from c3d_extract.files import read_text_lines
from c3d_extract.models.c3d import Architecture
from c3d_extract.models.torchvision import FURTHER_NETWORKS, NETWORKS, mean_of, published
from c3d_extract.preprocess.mean import fit_mean, resized_mean
from c3d_extract.weights.checkpoint import Checkpoint
from c3d_extract.weights.conventions import Conventions, assumed_conventions, registered_conventions
from c3d_extract.weights.fetch import cache_folder, check_file
from c3d_extract.weights.layouts.contents import c3d_architecture, check_tensors, read_state
from c3d_extract.weights.layouts.detect import open_contents
from c3d_extract.weights.layouts.native import read_header
from c3d_extract.weights.locate import check_described, locate
from c3d_extract.weights.means import NamedMean, find_mean, looks_like_ucf101
from c3d_extract.weights.registry import load_registry, published_entries
from c3d_extract.weights.tensor_hash import tensor_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import Pool5
    from c3d_extract.models.torchvision import VideoNetwork
    from c3d_extract.preprocess.spec import Colour, Preprocessing
    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.layouts.contents import Contents
    from c3d_extract.weights.locate import Located
    from c3d_extract.weights.registry import Fc6Order, RegistryEntry

__all__ = ["entry_of_file", "load_checkpoint"]


class _Wanted(NamedTuple):
    """The caller's overrides; None for the checkpoint's own value."""

    layers: Sequence[str] | None
    mean: str | Path | None
    pool5: Pool5 | None
    colour: Colour | None


class _Described(NamedTuple):
    """A checkpoint before its mean is looked up."""

    backbone: Backbone
    preprocessing: Preprocessing
    mean: str | NamedMean
    sports1m: bool
    notes: list[str]
    name: str | None = None
    n_classes: int | None = None
    labels: list[str] | None = None
    licence: str | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012  # never changed


def load_checkpoint(
    source: str | Path,
    *,
    layers: Sequence[str] | None = None,
    mean: str | Path | None = None,
    pool5: Pool5 | None = None,
    colour: Colour | None = None,
    fc6_order: Fc6Order | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> Checkpoint:
    """Load a registered checkpoint, fetching it on first use, or a file in any supported layout.

    Parameters
    ----------
    source
        A registered name or a file.
    layers
        Keep only the tensors that these layers need; empty: those of the default layer; None keeps all.
    mean
        A binaryproto or npy file, three numbers ``B,G,R``, or a registered mean; None: the checkpoint's.
    pool5
        How pool5 rounds, instead of the checkpoint's way.
    colour
        Order of the channels that the network takes, instead of the checkpoint's.
    fc6_order
        For channels-last files whose order is not known.
    offline
        Fetch nothing.
    progress
        Called while fetching, see `fetch.FetchProgress`.

    Raises
    ------
    WeightsError
        If the file is not available, is not a network we know, or lacks required information.
    UsageError
        If the network lacks one of the layers.
    """
    located = locate(source, layers=layers, offline=offline, progress=progress)
    entry, wanted = located.entry, _Wanted(layers, mean, pool5, colour)
    order = fc6_order or (entry.fc6_order if entry else None)
    with open_contents(located.path, order) as contents:
        if contents.network is not None:
            located = located._replace(entry=_entry_of_network(contents.network, located))
            described = _describe_video_network(contents.network, located.entry, wanted)
        else:
            described = _describe(contents, entry, wanted)
        if layers is not None:
            layers = layers or (described.backbone.default_layer,)
            described.backbone.check_layers(layers)
        shapes = described.backbone.state_shapes(layers)
        state = read_state(contents, shapes, located.path.stat().st_size)
    if located.is_reversed:
        _reverse_channels(state, described.backbone.input_weight)
    named = described.mean if mean is None else mean
    if not isinstance(named, NamedMean):
        named = find_mean(named, beside=located.path.parent, offline=offline, progress=progress)
    hashes = tensor_hashes(described.backbone, state, layers or described.backbone.layers)
    return replace(_assembled(located, contents, described, named, state), tensors_sha256=hashes)


def _reverse_channels(state: dict[str, torch.Tensor], kernels: str) -> None:
    state[kernels] = state[kernels].flip(1).contiguous()


def _assembled(
    located: Located,
    contents: Contents,
    described: _Described,
    mean: NamedMean,
    state: dict[str, torch.Tensor],
) -> Checkpoint:
    entry, backbone = located.entry, described.backbone
    fitted = fit_mean(mean.array, described.preprocessing, backbone.clip[0])
    return Checkpoint(
        name=located.name or (entry.name if entry else described.name or located.path.name),
        path=located.path,
        sha256=located.sha256,
        layout=contents.layout,
        backbone=backbone,
        preprocessing=described.preprocessing,
        mean=fitted,
        mean_name=mean.name,
        state=state,
        labels=described.labels or _labels(entry, described.n_classes),
        licence=entry.licence if entry else described.licence,
        notes=_remarks(located, contents, described, fitted),
        record=(entry.to_json() if entry else {}) | described.extra,
        resized_mean=resized_mean(mean.array, described.preprocessing),
    )


def _remarks(
    located: Located, contents: Contents, described: _Described, mean: NDArray[np.float32]
) -> list[str]:
    unverified = [] if located.unverified is None else [located.unverified]
    return [
        *located.notes,
        *unverified,
        *contents.notes,
        *described.notes,
        *_mean_warning(described, mean),
    ]


def _describe(contents: Contents, entry: RegistryEntry | None, wanted: _Wanted) -> _Described:
    if contents.header is not None:
        return _describe_native(contents, wanted)
    if entry is not None and entry.network is not None:
        raise WeightsError(f"holds a C3D, but {entry.name} is a {entry.network}")
    shape = contents.shapes.get("fc8.weight")
    n_classes = shape[0] if shape else None
    conventions = registered_conventions(entry) if entry else None
    conventions = conventions or assumed_conventions(contents.layout, n_classes)
    preprocessing = _coloured(conventions.preprocessing, wanted.colour)
    architecture = c3d_architecture(contents.shapes, wanted.pool5 or conventions.pool5)
    if entry is not None and not entry.file.hash_known:
        check_described(entry, contents.layout, n_classes)
    assumptions = _assumptions(conventions, wanted)
    return _Described(
        architecture,
        preprocessing,
        conventions.mean,
        conventions.sports1m,
        assumptions,
        n_classes=architecture.n_classes,
    )


def _entry_of_network(network: VideoNetwork, located: Located) -> RegistryEntry | None:
    """Return the entry that was asked for, else that of a file with this hash."""
    if located.name is not None:
        entry = located.entry
        if entry is None or entry.network not in _same_tensors(network):
            wanted = entry.network if entry and entry.network else "C3D"
            raise WeightsError(
                f"holds a {network.name}, but {located.name} is a {wanted}", subject=located.path
            )
        return entry
    return entry_of_file(network, located.sha256)


def entry_of_file(network: VideoNetwork, sha256: str) -> RegistryEntry | None:
    """Return the registered entry of a file of this network with this hash, or None."""
    entries = (load_registry().checkpoints | published_entries()).values()
    return next(
        (
            entry
            for entry in entries
            if entry.network in _same_tensors(network)
            and entry.file.sha256 is not None
            and sha256.startswith(entry.file.sha256)
        ),
        None,
    )


def _same_tensors(network: VideoNetwork) -> set[str]:
    """Return the names of the networks whose tensors have these names and shapes."""
    known = NETWORKS | FURTHER_NETWORKS
    return {name for name, one in known.items() if one.tensors_of == network.tensors_of}


def _describe_video_network(
    network: VideoNetwork, entry: RegistryEntry | None, wanted: _Wanted
) -> _Described:
    """Describe a network by the record of this file, else as its publisher runs its default weights."""
    if wanted.pool5 is not None:
        raise _no_pool5(network)
    network = replace(network, name=entry.network) if entry and entry.network else network
    record = published().get(entry.name) if entry else None
    mean = mean_of(network) if record is None else record.mean
    rate = "as decoded" if network.fps is None else f"at {network.fps:g} a second"
    assumed = (
        f"not a registered file: taken for a {network.name}, clips of {network.clip[0]} frames {rate}, "
        "with its preprocessing"
    )
    return _Described(
        network,
        _coloured(network.preprocessing if record is None else record.preprocessing, wanted.colour),
        NamedMean(np.array(mean), ",".join(f"{value:.9g}" for value in mean)),
        sports1m=False,
        notes=[] if entry else [assumed],
        n_classes=network.layer_size("logits"),
        labels=record.labels if record else None,
    )


def _describe_native(contents: Contents, wanted: _Wanted) -> _Described:
    header = read_header(contents.header or {})
    backbone = header.backbone if wanted.pool5 is None else _with_pool5(header.backbone, wanted.pool5)
    check_tensors(contents.shapes, backbone)
    if header.preprocessing.crop != backbone.clip[1:]:
        rows, columns = backbone.clip[1:]
        crop = " x ".join(map(str, header.preprocessing.crop))
        raise WeightsError(f"its crop is {crop}, and its network takes {rows} x {columns}")
    return _Described(
        backbone,
        _coloured(header.preprocessing, wanted.colour),
        NamedMean(
            _native_mean(contents, (3, backbone.clip[0], *header.preprocessing.crop)), header.mean_name
        ),
        sports1m=header.mean_name == "sports1m",
        notes=[],
        name=header.name,
        n_classes=backbone.n_classes,
        labels=header.labels,
        licence=header.licence,
        extra=header.extra,
    )


def _with_pool5(backbone: Backbone, pool5: Pool5) -> Architecture:
    """Return a network of C3D's family with another pool5; raise UsageError for any other."""
    if not isinstance(backbone, Architecture):
        raise _no_pool5(backbone)
    return replace(backbone, pool5=pool5)


def _no_pool5(backbone: Backbone) -> UsageError:
    return UsageError(f"is for C3D, and this is a {backbone.name}", subject="--pool5")


def _native_mean(contents: Contents, largest: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the mean in a native checkpoint: (3, T, H, W), each size at most that of ``largest``."""
    source = contents.sources.get("mean")
    if source is None or len(source.shape) != 4:
        raise WeightsError("damaged: its mean is missing")
    # Checked before reading: a file may claim any shape.
    if any(n > most for n, most in zip(source.shape, largest, strict=True)):
        raise WeightsError("damaged: its mean does not fit its preprocessing")
    mean: NDArray[np.float64] = torch.as_tensor(source.read()).double().numpy()
    return mean


def _coloured(preprocessing: Preprocessing, colour: Colour | None) -> Preprocessing:
    return preprocessing if colour is None else replace(preprocessing, colour=colour)


def _assumptions(conventions: Conventions, wanted: _Wanted) -> list[str]:
    if conventions.why is None:
        return []
    assumed = [
        f"--{option} {value}"
        for option, given, value in (
            ("pool5", wanted.pool5, conventions.pool5),
            ("colour", wanted.colour, conventions.preprocessing.colour),
            ("mean", wanted.mean, conventions.mean),
        )
        if given is None
    ]
    if not assumed:
        return []
    return [
        f"not a registered file: taken for {conventions.why}, so {' '.join(assumed)}; else give these options"
    ]


def _mean_warning(described: _Described, fitted: NDArray[np.float32]) -> list[str]:
    if not (described.sports1m and looks_like_ucf101(fitted)):
        return []
    return [
        "this is the UCF101 mean, but the weights are Sports-1M's: a common mistake that shifts every feature"
    ]


def _labels(entry: RegistryEntry | None, n_classes: int | None) -> list[str] | None:
    """Return class names if a list of the right length is in the cache; nothing is fetched."""
    remote = load_registry().labels.get(entry.labels) if entry and entry.labels else None
    if remote is None or not (cache_folder() / remote.name).is_file():
        return None
    path = cache_folder() / remote.name
    check_file(path, remote)
    names = read_text_lines(path, WeightsError)
    return names if len(names) == n_classes else None
