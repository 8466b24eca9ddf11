"""One layer of a feature file as an array, and whether features of two files can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from c3d_extract.errors import MismatchError, StoreError
from c3d_extract.output import FeatureFile
from c3d_extract.output.identity import recorded_resize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["LayerFeatures", "read_layer", "require_finite", "require_same_features", "weights_provenance"]

NOT_COMPARED = {"weights", "name", "mean", "weights_file", "record", "settings"}
"""Names, whose checksums are compared instead, and how features were extracted."""
NAMES = ("weights", "mean")
SHORT = 6  # characters of a checksum in a message


class LayerFeatures(NamedTuple):
    """One layer of a feature file.

    Attributes
    ----------
    X
        float32 (N, D).
    videos
        The name of each row's video.
    sizes
        Bytes of each video, 0 where unknown.
    provenance
        What the rows are: equal, but for the keys in `NOT_COMPARED`, where rows can be compared.
    """

    X: NDArray[np.float32]
    videos: list[str]
    sizes: list[int]
    provenance: dict[str, Any]


def read_layer(path: Path, layer: str | None = None) -> LayerFeatures:
    """Read one layer of a feature file, the first where none is named.

    Raises StoreError for a file without it or without videos, and for features that are not finite.
    """
    with FeatureFile(path) as file:
        if file.kind != "features":
            reason = "has one row per clip, not one per video"
            raise StoreError(reason, subject=path, hint="give the feature file")
        layer = layer or file.layers[0]
        pca = file.attributes.get("pca_sha256", "none")
        own = {"layer": layer, "dimension": file.size_of(layer), "pca": pca}
        own["settings"] = file.attributes.get("settings", {})
        of_weights = weights_provenance(file.attributes.get("weights", {}), layer)
        X, videos, sizes = file[layer], file.videos, file.column("size_bytes").tolist()
    require_finite(X, videos, path)
    return LayerFeatures(X, videos, sizes, of_weights | own)


def require_finite(X: NDArray[np.float32], videos: Sequence[str], path: Path) -> None:
    """Raise StoreError where there are no rows, or where features are not finite."""
    if not len(X):
        raise StoreError("holds no videos", subject=path)
    if len(bad := np.flatnonzero(~np.isfinite(X).all(axis=1))):
        reason = f"features of {len(bad)} of {len(X)} videos are not finite, the first is {videos[bad[0]]}"
        raise StoreError(reason, subject=path)


def weights_provenance(weights: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """Return what rows of one layer must share of the network, and its names."""
    names = {name: weights[name] for name in NAMES if name in weights}
    found = {name: value for name, value in weights.items() if name not in NOT_COMPARED}
    hashes = found.pop("tensors_sha256", None)
    if isinstance(hashes, dict) and layer in hashes:
        found["tensors_sha256"] = hashes[layer]
    return names | found | recorded_resize(weights)


def require_same_features(wanted: Mapping[str, Any], found: Mapping[str, Any], *, subject: object) -> None:
    """Raise MismatchError naming the differences in provenance; StoreError where one names no weights."""
    if not (wanted.get("weights_sha256") and found.get("weights_sha256")):
        reason = "cannot be compared: it or the other file does not say which weights it was made with"
        raise StoreError(reason, subject=subject, hint="extract the features again")
    # The hash of the tensors decides where both have one: the same tensors circulate in many files.
    both = wanted.get("tensors_sha256") and found.get("tensors_sha256")
    ignored = "weights_sha256" if both else "tensors_sha256"
    keys = {key for key in {**wanted, **found} if wanted.get(key) != found.get(key)}
    keys -= {*NOT_COMPARED, ignored}
    if keys & {"weights_sha256", "tensors_sha256"}:
        keys = {"weights_sha256"}  # with them everything else may differ
    if keys:
        differences = [_difference(key, wanted, found) for key in sorted(keys)]
        raise MismatchError("not the kind of features trained on", differences=differences, subject=subject)


def _difference(key: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    name = key.removesuffix("_sha256")
    if name == key:
        return f"{key}: {wanted.get(key)} → {found.get(key)}"
    before, after = (f"{each.get(name)} ({str(each.get(key))[:SHORT]})" for each in (wanted, found))
    return f"other {name}: {before} → {after}"
