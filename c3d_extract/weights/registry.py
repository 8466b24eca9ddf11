"""The registry of public checkpoints, means and labels, read from ``weights/registry.toml``."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from c3d_extract.errors import WeightsError
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.models.c3d import Pool5
    from c3d_extract.models.torchvision import Published
    from c3d_extract.preprocess.spec import Colour

__all__ = [
    "Fc6Order",
    "Registry",
    "RegistryEntry",
    "RemoteFile",
    "data_folder",
    "entries_with_tensors_of",
    "find_entry",
    "listed_entries",
    "load_registry",
    "published_entries",
]

Fc6Order = Literal["chw", "hwc"]
"""Order in which fc6 expects the pool5 map: channels first as in Caffe, or last as in TensorFlow."""


@dataclass(frozen=True)
class RemoteFile:
    r"""A file that can be fetched, with its expected size and hashes.

    Attributes
    ----------
    name
        Its name in the cache folder.
    mirrors
        Addresses, tried in this order.
    size
        Bytes, where known.
    sha256
        Hexadecimal; the first digits where no more is known.
    md5, git_blob_sha1
        Hexadecimal; the latter is sha1 of ``"blob <size>\0"`` and the bytes.
    licence
        Licence of the file.
    """

    name: str
    mirrors: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git_blob_sha1: str | None = None
    licence: str | None = None

    @property
    def hash_known(self) -> bool:
        """Whether any hash of the file is known."""
        return any((self.sha256, self.md5, self.git_blob_sha1))


@dataclass(frozen=True)
class RegistryEntry:
    """One public checkpoint: its address, its hashes, and the conventions of its network.

    Attributes
    ----------
    name, title, trained_on
        Its name, a short description, and its training data.
    file
        Where to fetch it and how to check it.
    layout
        How the file names and orders its tensors.
    network
        Name of the network in `models.registry`; None for C3D, whose widths the file says.
    n_classes
        Outputs of fc8; None where the file has no fc8, or where nobody states them.
    pool5, colour, mean, resize, crop, std
        Its conventions: see `Architecture` and `Preprocessing`; None if the file itself contains them.
        ``mean`` is the name of a registered mean, or three numbers; means and divisors are always in the
        order B, G, R.
    fc6_order
        For channels-last layouts; None where it is not known or does not apply.
    labels
        Name of a registered list of class names.
    same_tensors
        Names of the entries whose files hold the same tensors, in the order of trust; they stand in for this
        entry's file where it cannot be had.
    undecided
        Of ``colour`` and ``fc6_order`` those that nobody states for this file. They are measured before it
        stands in for another.
    embedded
        Whether the file is distributed with this package and contains its own description.
    sources, unknown
        The source of each fact; facts that are not known.
    facts
        What else is known, by name: of torchvision's networks their clip, layers, cost and accuracy.
    """

    name: str
    title: str
    file: RemoteFile
    layout: str
    trained_on: str
    licence: str
    network: str | None = None
    n_classes: int | None = None
    pool5: Pool5 | None = None
    colour: Colour | None = None
    mean: str | None = None
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    std: tuple[float, float, float] | None = None
    fc6_order: Fc6Order | None = None
    labels: str | None = None
    same_tensors: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    embedded: bool = False
    sources: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return everything that is known, as JSON values."""
        return dataclasses.asdict(self, dict_factory=_without_unknown)


def _without_unknown(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in fields if value not in (None, (), {}, False)}


@dataclass(frozen=True)
class Registry:
    """All entries, and the means and label lists that they refer to, each by name."""

    default: str
    checkpoints: dict[str, RegistryEntry]
    means: dict[str, RemoteFile]
    labels: dict[str, RemoteFile]


@cache
def data_folder() -> Path:
    """Return the folder of the registry: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_weights", package.parent / "weights"):
        if (folder / "registry.toml").is_file():
            return folder
    raise WeightsError("this installation lacks its weights folder", subject=package, hint="install it again")


@cache
def load_registry() -> Registry:
    """Read ``registry.toml``."""
    values = tomllib.loads((data_folder() / "registry.toml").read_text(encoding="utf-8"))
    return Registry(
        default=values["default"],
        checkpoints={name: _entry(name, fields) for name, fields in values["checkpoints"].items()},
        means={name: _remote(fields) for name, fields in values["means"].items()},
        labels={name: _remote(fields) for name, fields in values["labels"].items()},
    )


def _entry(name: str, fields: dict[str, Any]) -> RegistryEntry:
    file = _remote(fields["file"] | {"licence": fields["licence"]})
    return RegistryEntry(name=name, **_frozen(fields) | {"file": file})


def _remote(fields: dict[str, Any]) -> RemoteFile:
    return RemoteFile(**_frozen(fields))


def _frozen(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


@cache
def published_entries() -> dict[str, RegistryEntry]:
    """Return torchvision's own records of video networks as entries, by name; this imports torch.

    Raises
    ------
    WeightsError
        If torchvision cannot be imported.
    """
    from c3d_extract.models.torchvision import published

    return {name: _published_entry(weights) for name, weights in published().items()}


def listed_entries() -> dict[str, RegistryEntry]:
    """Return every entry by name, torchvision's as some version of it records them; imports no torch.

    For listing alone: what is fetched and run follows the installed torchvision, see `published_entries`.
    """
    return load_registry().checkpoints | _copied_entries()


@cache
def _copied_entries() -> dict[str, RegistryEntry]:
    values = parse_json((data_folder() / "torchvision.json").read_text(encoding="utf-8"))
    entries = [RegistryEntry(**_frozen(fields) | {"file": _remote(fields["file"])}) for fields in values]
    return {entry.name: entry for entry in entries}


def _published_entry(weights: Published) -> RegistryEntry:
    network, preprocessing = weights.network, weights.preprocessing
    facts = {"clip": list(network.clip), "fps": network.fps} | weights.facts
    facts["layers"] = {layer: network.layer_size(layer) for layer in network.layers}
    facts["preprocessing"] = preprocessing.identity()["preprocessing"]
    licence = (
        f"its data's terms ({weights.trained_on}; torchvision says no more of its weights; its code is BSD-3)"
    )
    return RegistryEntry(
        name=weights.name,
        title=f"torchvision's {network.name}",
        file=RemoteFile(weights.file, mirrors=(weights.url,), sha256=weights.sha256, licence=licence),
        layout="torchvision",
        trained_on=weights.trained_on,
        licence=licence,
        network=network.name,
        n_classes=len(weights.labels),
        colour=preprocessing.colour,
        mean=weights.mean_name,
        crop=preprocessing.crop,
        std=preprocessing.std,
        sources=("torchvision's own record of these weights",),
        facts=facts,
    )


def entries_with_tensors_of(entry: RegistryEntry) -> list[RegistryEntry]:
    """Return the entry and those whose files hold the same tensors, in the order of trust."""
    return [entry, *(find_entry(name) for name in entry.same_tensors)]


def find_entry(name: str) -> RegistryEntry:
    """Return the entry of that name; if there is none, raise WeightsError with similar names."""
    known = load_registry().checkpoints
    if name in known:
        return known[name]
    known = {**known, **published_entries()}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"close names: {', '.join(close)}" if close else "`c3d-tools weights list` shows the names"
    raise WeightsError("neither a file nor a registered checkpoint", subject=name, hint=hint)
