"""From a name or a file to tensors and everything that decides the numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.weights.dialect import Dialect, assumed_dialect, registered_dialect
from c3d_extract.weights.fetch import (
    cache_folder,
    check_file,
    fetch_file,
    local_path,
    sha256_of,
    what_vouches,
)
from c3d_extract.weights.layouts.contents import c3d_architecture, check_tensors, read_state
from c3d_extract.weights.layouts.detect import open_contents
from c3d_extract.weights.layouts.native import read_header
from c3d_extract.weights.means import NamedMean, find_mean, looks_like_ucf101, mean_sha256
from c3d_extract.weights.registry import data_folder, find_record, load_registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import Architecture, Pool5
    from c3d_extract.preprocess.spec import Colour, Preprocessing
    from c3d_extract.weights.fetch import Progress
    from c3d_extract.weights.layouts.contents import Contents
    from c3d_extract.weights.registry import Fc6Order, Record

__all__ = ["Checkpoint", "fetch_record", "load_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A network's tensors with everything that decides its numbers.

    Attributes
    ----------
    name
        The registered name, or the file's.
    path, sha256
        The file, and its hash.
    layout
        How the file named its tensors.
    architecture
        What to build; ``n_classes`` is None where the file has no fc8.
    preprocessing
        What to do to frames.
    mean
        float32 (3, T, H, W), each of T, H, W the clip's or 1; grey levels, in the order B, G, R.
    mean_name
        The registered mean, the file's name, or the three numbers.
    state
        float32, contiguous; names and shapes as `Architecture.state_shapes` gives them.
    labels
        Class names in order, where they are at hand.
    licence
        Under what the weights are offered, where known.
    notes
        One-line remarks that a user must see.
    record
        What is registered of it.
    """

    name: str
    path: Path
    sha256: str
    layout: str
    architecture: Architecture
    preprocessing: Preprocessing
    mean: NDArray[np.float32]
    mean_name: str
    state: dict[str, torch.Tensor]
    labels: list[str] | None = None
    licence: str | None = None
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> Backbone:
        """The network that the tensors belong to."""
        return self.architecture

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for features to be comparable, as flat JSON values."""
        return {
            "weights": self.name,
            "weights_sha256": self.sha256,
            "architecture": self.architecture.name,
            "pool5": self.architecture.pool5,
            "colour": self.preprocessing.colour,
            "mean": self.mean_name,
            "mean_sha256": mean_sha256(self.mean),
        }

    def record_json(self) -> dict[str, Any]:
        """Return everything that is known of it, as JSON values."""
        return {
            **self.identity(),
            "file": self.path.name,
            "layout": self.layout,
            "licence": self.licence,
            "architecture": self.architecture.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "notes": list(self.notes),
            "record": self.record,
        }


class _Located(NamedTuple):
    path: Path
    sha256: str
    record: Record | None
    notes: list[str]


class _Wanted(NamedTuple):
    """What the caller overrides; None takes the checkpoint's own."""

    layers: Sequence[str] | None
    mean: str | Path | None
    pool5: Pool5 | None
    colour: Colour | None


class _Described(NamedTuple):
    """What the network wants, before its mean is looked up."""

    architecture: Architecture
    preprocessing: Preprocessing
    mean: str | NamedMean
    sports1m: bool
    notes: list[str]
    name: str | None = None
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
    progress: Progress | None = None,
) -> Checkpoint:
    """Load a registered checkpoint, fetching it on first use, or a file in any layout we read.

    Parameters
    ----------
    source
        A registered name or a file.
    layers
        Keep only the tensors that these layers need; empty: those of the default descriptor; None keeps all.
    mean
        A binaryproto or npy file, three numbers ``B,G,R``, or a registered mean; None takes the
        checkpoint's own.
    pool5, colour
        Override the checkpoint's dialect.
    fc6_order
        For files with channels last whose order is not known.
    offline
        Fetch nothing.
    progress
        Called while fetching, see `fetch.Progress`.

    Raises
    ------
    WeightsError
        Where the file cannot be had, is not a C3D network, or does not say enough.
    UsageError
        Where the network lacks one of the layers.
    """
    located = _locate(source, offline=offline, progress=progress)
    record, wanted = located.record, _Wanted(layers, mean, pool5, colour)
    order = fc6_order or (record.fc6_order if record else None)
    with open_contents(located.path, order) as contents:
        described = _describe(contents, record, wanted)
        if layers is not None:
            layers = layers or (described.architecture.default_layer,)
            described.architecture.check_layers(layers)
        shapes = described.architecture.state_shapes(layers)
        state = read_state(contents, shapes, located.path.stat().st_size)
    named = described.mean if mean is None else mean
    if not isinstance(named, NamedMean):
        named = find_mean(named, beside=located.path.parent, offline=offline, progress=progress)
    fitted = fit_mean(named.array, described.preprocessing, described.architecture.clip[0])
    return Checkpoint(
        name=record.name if record else described.name or located.path.name,
        path=located.path,
        sha256=located.sha256,
        layout=contents.layout,
        architecture=described.architecture,
        preprocessing=described.preprocessing,
        mean=fitted,
        mean_name=named.name,
        state=state,
        labels=described.labels or _labels(record, described.architecture.n_classes),
        licence=record.licence if record else described.licence,
        notes=[*located.notes, *contents.notes, *described.notes, *_mean_warning(described, fitted)],
        record=(record.to_json() if record else {}) | described.extra,
    )


def fetch_record(record: Record, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Fetch a record's file into the cache, unless it is there, and check it."""
    if record.embedded:
        raise WeightsError(
            "its file travels with this package, but is missing from this installation",
            subject=record.name,
            hint=f"put {record.file.name} into {data_folder()}, or install again",
        )
    check = None if record.file.hash_known else _check_is_c3d
    return fetch_file(record.file, offline=offline, progress=progress, check=check)


def _check_is_c3d(path: Path) -> None:
    """Accept a file with no known hash only as a whole network."""
    with open_contents(path, "chw") as contents:
        c3d_architecture(contents.shapes, "ceil")


def _locate(source: str | Path, *, offline: bool, progress: Progress | None) -> _Located:
    path = Path(source)
    if str(source) in load_registry().checkpoints:
        return _locate_record(find_record(str(source)), offline=offline, progress=progress)
    if not path.is_file():
        if path.is_dir():
            raise WeightsError("a folder, not a checkpoint", subject=path)
        if len(path.parts) > 1 or path.suffix:
            raise WeightsError("no such checkpoint file", subject=path)
        find_record(str(source))
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", subject=path) from error
    known = (
        record
        for record in load_registry().checkpoints.values()
        if len(record.file.sha256 or "") == len(digest)
    )
    return _Located(
        path, digest, next((record for record in known if record.file.sha256 == digest), None), []
    )


def _locate_record(record: Record, *, offline: bool, progress: Progress | None) -> _Located:
    path, notes = local_path(record), []
    if path is None:
        path = fetch_record(record, offline=offline, progress=progress)
        notes = [f"fetched {record.name} ({record.licence}) into {path.parent}"]
    digest = sha256_of(path)
    expected = record.file.sha256
    if expected is not None and not digest.startswith(expected):
        reason = f"not the file it should be: sha256 {digest} instead of {expected}"
        raise WeightsError(
            reason, subject=path, hint=f"delete it and run `c3d-tools weights fetch {record.name}`"
        )
    if expected is None and not record.embedded:
        unvouched = what_vouches(record.file, digest)
        if unvouched is None:
            check_file(path, record.file)
        else:
            notes.append(unvouched)
    return _Located(path, digest, record, notes)


def _describe(contents: Contents, record: Record | None, wanted: _Wanted) -> _Described:
    if contents.header is not None:
        return _describe_ours(contents, wanted)
    shape = contents.shapes.get("fc8.weight")
    n_classes = shape[0] if shape else None
    dialect = registered_dialect(record) if record else None
    dialect = dialect or assumed_dialect(contents.layout, n_classes)
    preprocessing = _coloured(dialect.preprocessing, wanted.colour)
    architecture = c3d_architecture(contents.shapes, wanted.pool5 or dialect.pool5)
    if record is not None and not record.file.hash_known:
        _check_against(record, contents.layout, n_classes)
    return _Described(
        architecture, preprocessing, dialect.mean, dialect.sports1m, _assumptions(dialect, wanted)
    )


def _check_against(record: Record, layout: str, n_classes: int | None) -> None:
    """Refuse a file that only its name makes the registered one."""
    if layout != record.layout:
        raise WeightsError(f"is of layout {layout}, but {record.name} of {record.layout}")
    if n_classes != record.n_classes:
        raise WeightsError(
            f"has {n_classes or 'no'} classes, but {record.name} has {record.n_classes or 'none'}"
        )


def _describe_ours(contents: Contents, wanted: _Wanted) -> _Described:
    header = read_header(contents.header or {})
    architecture = replace(header.architecture, pool5=wanted.pool5 or header.architecture.pool5)
    check_tensors(contents.shapes, architecture)
    if header.preprocessing.crop != architecture.clip[1:]:
        rows, columns = architecture.clip[1:]
        crop = " x ".join(map(str, header.preprocessing.crop))
        raise WeightsError(f"its crop is {crop}, and its network takes {rows} x {columns}")
    if "mean" not in contents.sources or len(contents.sources["mean"].shape) != 4:
        raise WeightsError("damaged: its mean is missing")
    preprocessing = _coloured(header.preprocessing, wanted.colour)
    fit_shape = (3, *(max(architecture.clip[0], 1), *preprocessing.crop))
    if any(n > most for n, most in zip(contents.sources["mean"].shape, fit_shape, strict=True)):
        raise WeightsError("damaged: its mean does not fit its preprocessing")
    mean = NamedMean(torch.as_tensor(contents.sources["mean"].read()).double().numpy(), header.mean_name)
    return _Described(
        architecture,
        preprocessing,
        mean,
        sports1m=header.mean_name == "sports1m",
        notes=[],
        name=header.name,
        labels=header.labels,
        licence=header.licence,
        extra=header.extra,
    )


def _coloured(preprocessing: Preprocessing, colour: Colour | None) -> Preprocessing:
    return preprocessing if colour is None else replace(preprocessing, colour=colour)


def _assumptions(dialect: Dialect, wanted: _Wanted) -> list[str]:
    if dialect.why is None:
        return []
    assumed = [
        f"--{option} {value}"
        for option, given, value in (
            ("pool5", wanted.pool5, dialect.pool5),
            ("colour", wanted.colour, dialect.preprocessing.colour),
            ("mean", wanted.mean, dialect.mean),
        )
        if given is None
    ]
    if not assumed:
        return []
    return [
        f"not a registered file: taken for {dialect.why}, so {' '.join(assumed)}; else give these options"
    ]


def _mean_warning(described: _Described, fitted: NDArray[np.float32]) -> list[str]:
    if not (described.sports1m and looks_like_ucf101(fitted)):
        return []
    return [
        "this is the UCF101 mean, but the weights are Sports-1M's: a common mistake that shifts every feature"
    ]


def _labels(record: Record | None, n_classes: int | None) -> list[str] | None:
    """Class names from the cache, where a list of the right length is there; never fetched for this."""
    remote = load_registry().labels.get(record.labels) if record and record.labels else None
    if remote is None or not (cache_folder() / remote.name).is_file():
        return None
    path = cache_folder() / remote.name
    check_file(path, remote)
    names = path.read_text(encoding="utf-8").splitlines()
    return names if len(names) == n_classes else None
