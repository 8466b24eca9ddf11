"""What two runs must share to write one file: settings, weights and layers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

    from c3d_extract.strict_json import JSON

__all__ = [
    "NO_IDENTITY",
    "RunIdentity",
    "have_same_tensors",
    "not_compared",
    "recorded_resize",
    "refuse_differences",
]


def have_same_tensors(
    here: Mapping[str, Any], there: Mapping[str, Any], layers: Iterable[str] | None = None
) -> bool | None:
    """Return whether two descriptions of weights are of equal tensors, used in the same way.

    Parameters
    ----------
    here, there
        As `RunIdentity.weights`.
    layers
        The layers whose tensors are compared; None compares those that the descriptions name.

    Returns
    -------
        None where one does not say.
    """
    hashes, others = _tensor_hashes(here), _tensor_hashes(there)
    names = {*hashes, *others} if layers is None else set(layers)
    if not names or not names <= hashes.keys() & others.keys():
        return None
    return all(hashes[name] == others[name] for name in names) and _how(here) == _how(there)


def _tensor_hashes(weights: Mapping[str, Any]) -> dict[str, Any]:
    found = weights.get("tensors_sha256")
    return found if isinstance(found, dict) else {}


def _how(weights: Mapping[str, Any]) -> Any:
    """Return the preprocessing as JSON values: the hash of a file covers it, that of tensors does not."""
    return json.loads(
        json.dumps(_recorded_preprocessing(weights))
    )  # tuples become lists, as they do in a file


def recorded_resize(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return resize, crop and std of the preprocessing, as far as a description of weights records them."""
    how = _recorded_preprocessing(weights)
    return (
        {name: how[name] for name in ("resize", "crop", "std") if name in how}
        if isinstance(how, dict)
        else {}
    )


def _recorded_preprocessing(weights: Mapping[str, Any]) -> Any:
    record = weights.get("record")
    return record.get("preprocessing") if isinstance(record, dict) else None


def not_compared(here: Mapping[str, Any], there: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of two descriptions of weights that may differ.

    The hash of the tensors decides where both have one: the same tensors circulate in many files. The hash of
    the file decides otherwise.
    """
    always = {"record", "weights_file"}
    same = have_same_tensors(here, there)
    if same is None:
        return frozenset(always | {"tensors_sha256"})
    return frozenset(always | {"tensors_sha256", "weights_sha256", "weights"} if same else always)


@dataclass(frozen=True)
class RunIdentity:
    """What two runs must share to write one file."""

    settings: dict[str, JSON]
    """Flat: the user's choices that affect the values."""
    weights: dict[str, JSON]
    """Name, hashes and conventions (pool5, colour) of the checkpoint and its mean; see `not_compared`."""
    layer_sizes: dict[str, int]
    """Layer → dimensions before PCA."""
    versions: dict[str, str]
    """Of the package and its libraries; recorded, never compared."""

    def differences(self, other: RunIdentity) -> list[str]:
        """Return one ``name: here → there`` for every setting that differs in ``other``."""
        ignored = not_compared(self.weights, other.weights)
        here, there = self._comparable(ignored), other._comparable(ignored)
        names = [name for name in here | there if here.get(name) != there.get(name)]
        names.sort(key=lambda name: name.startswith(("weights ", "size of ")))  # settings first
        return [f"{name}: {_shown(here, name)} → {_shown(there, name)}" for name in names]

    def to_json(self) -> str:
        """Return the identity as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunIdentity:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    @classmethod
    def from_attributes(cls, attributes: dict[str, Any]) -> RunIdentity:
        """Return the identity that is recorded in a feature file's attributes."""
        names = ("settings", "weights", "layer_sizes", "versions")
        return cls(**{name: attributes.get(name, {}) for name in names})

    def to_attributes(self) -> dict[str, JSON]:
        """Return the identity as attributes of a file; the order is part of the file's bytes."""
        return {
            "versions": self.versions,
            "settings": self.settings,
            "weights": self.weights,
            "layer_sizes": self.layer_sizes,
        }

    def _comparable(self, ignored: Container[str]) -> dict[str, JSON]:
        weights = {name: value for name, value in self.weights.items() if name not in ignored}
        groups = {"": self.settings, "weights ": weights, "size of ": self.layer_sizes}
        flat = {f"{kind}{key}": value for kind, group in groups.items() for key, value in group.items()}
        return dict(json.loads(json.dumps(flat)))  # tuples become lists, as they do in a file


NO_IDENTITY = RunIdentity({}, {}, {}, {})
"""Of a preview whose weights are not downloaded yet; see `RunStore.preview`."""


def refuse_differences(earlier: RunIdentity, identity: RunIdentity | None, path: Path) -> None:
    """Raise `MismatchError` where ``path`` was made with another identity; None is compared with nothing."""
    if identity is None or not (differences := earlier.differences(identity)):
        return
    hint = "choose another -o, or --overwrite to start from scratch"
    if len(differences) == 1 and differences[0].startswith("precision: "):
        # --precision auto depends on the processor, and the run may have moved to another machine.
        hint = f"continue with --precision {earlier.settings['precision']}, {hint}"
    raise MismatchError("was made with other settings", differences=differences, subject=path, hint=hint)


def _shown(values: dict[str, JSON], name: str) -> str:
    if name not in values:
        return "none"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
