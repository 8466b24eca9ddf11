"""PCA basis files, and whether a basis was fitted on features computed in the same way.

Beside this package's own files, the basis that ActivityNet published with its C3D features is read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import MismatchError, PcaError
from c3d_extract.files import writing_output
from c3d_extract.hdf5 import (
    RefusedError,
    attributes_of,
    errors_as,
    group_in,
    kind_in,
    member_names,
    numbers_in,
    open_hdf5,
    writing_hdf5,
)
from c3d_extract.output.identity import have_same_tensors, recorded_resize
from c3d_extract.output.pca_basis import LayerBasis, PcaBasis
from c3d_extract.output.table import FORMAT, put_attributes
from c3d_extract.output.validation import MAX_LAYERS, own_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.files import FileLog
    from c3d_extract.hdf5 import File, Group
    from c3d_extract.strict_json import JSON

__all__ = ["check_basis", "load_basis", "load_own_basis", "save_basis"]

COMPARED = (
    *("weights", "mean", "pool5", "colour", "preprocessing", "resize", "crop", "std"),
    *("stride", "tail", "short", "fps", "crops", "l2"),
)
"""What two features must share to be projected with one basis; see `check_basis`."""
ACTIVITYNET_LAYER, ACTIVITYNET_COMPONENTS = "fc7", 500


def save_basis(path: Path, basis: PcaBasis, *, log: FileLog | None = None) -> None:
    """Write a basis file, replacing it atomically: one group per layer, with its arrays in float64."""
    with writing_output(path, log) as raw, writing_hdf5(raw) as (file, _):
        put_attributes(file, "pca", {**basis.provenance, "sha256": basis.sha256})
        for layer, part in basis.layers.items():
            group = file.create_group(layer)
            for name in ("mean", "components", "explained_variance"):
                group.create_dataset(name, data=getattr(part, name), track_times=False)
            group.attrs["n_samples"], group.attrs["total_variance"] = part.n_samples, part.total_variance
        if log is not None:
            log.note_written(basis.sha256)


def load_basis(path: Path) -> PcaBasis:
    """Read a basis file, or ActivityNet's; `PcaError` where it is missing, damaged or not a basis.

    ActivityNet's ``PCA_activitynet_v1-3.hdf5`` is of fc7 of single clips. Its first 500 components are taken,
    as those of the published features were: ``(X - x_mean) @ U[:500].T``, not whitened.
    """
    with errors_as(PcaError, "the PCA basis cannot be read", path), open_hdf5(path) as file:
        if _is_activitynet(file):
            return _read_activitynet(group_in(file, "data"), path.name)
    return load_own_basis(path)


def load_own_basis(path: Path) -> PcaBasis:
    """Read a basis file that `save_basis` wrote; `PcaError` where it is missing, damaged or another file."""
    with errors_as(PcaError, "the PCA basis cannot be read", path), open_hdf5(path) as file:
        attributes = own_attributes(file)
        if attributes.get("format") != FORMAT or attributes.get("kind") != "pca":
            raise PcaError("is not a PCA basis", subject=path, hint="c3d-tools pca fit creates one")
        layers = {layer: _read_layer(group_in(file, layer), layer) for layer in member_names(file)}
        if not 0 < len(layers) <= MAX_LAYERS:
            raise RefusedError(f"it has {len(layers)} layers")
        basis = PcaBasis(layers, name=path.name, provenance=attributes)
    if basis.sha256 != attributes.get("sha256"):
        raise PcaError("the PCA basis is damaged: its checksum differs", subject=path)
    return basis


def _is_activitynet(file: File) -> bool:
    if own_attributes(file).get("format") == FORMAT or "data" not in member_names(file):
        return False
    return kind_in(file, "data") == "group" and {"U", "S", "x_mean"} <= set(
        member_names(group_in(file, "data"))
    )


def _read_activitynet(data: Group, name: str) -> PcaBasis:
    components = numbers_in(data, "U", n_axes=2)[:ACTIVITYNET_COMPONENTS].astype(np.float64)
    mean, scale = (numbers_in(data, key)[()].astype(np.float64).ravel() for key in ("x_mean", "S"))
    kept = scale[: len(components)]
    _check_arrays(ACTIVITYNET_LAYER, mean, components, kept, float(scale.sum()))
    # The file does not say what S measures, nor how many clips there were; neither is used to project.
    layer = LayerBasis(mean, components, kept, float(scale.sum()), n_samples=0)
    provenance = {"published": "ActivityNet 1.3", "settings": {"l2": False}, "weights": {}}
    return PcaBasis({ACTIVITYNET_LAYER: layer}, name=name, provenance=provenance)


def _read_layer(group: Group, layer: str) -> LayerBasis:
    attributes = attributes_of(group)
    mean, components, variance = (
        numbers_in(group, name, n_axes=n_axes)[()].astype(np.float64)
        for name, n_axes in (("mean", 1), ("components", 2), ("explained_variance", 1))
    )
    total, n = attributes.get("total_variance"), attributes.get("n_samples")
    if not isinstance(total, float) or type(n) is not int:
        raise RefusedError(f"{layer} does not say total_variance and n_samples")
    _check_arrays(layer, mean, components, variance, total)
    return LayerBasis(mean, components, variance, total, n)


def _check_arrays(
    layer: str,
    mean: NDArray[np.float64],
    components: NDArray[np.float64],
    variance: NDArray[np.float64],
    total: float,
) -> None:
    """Raise `RefusedError` unless these are a mean (D), unit vectors (K, D) and variances (K)."""
    k, size = components.shape
    if not 1 <= k <= size or mean.shape != (size,) or variance.shape != (k,):
        raise RefusedError(f"the arrays of {layer} have shapes that do not match")
    if not all(np.isfinite(x).all() for x in (mean, components, variance, total)):
        raise RefusedError(f"the arrays of {layer} hold values that are not finite")
    # Components are unit vectors, and means are of float32 features: larger values would overflow later.
    if np.abs(components).max() > 1.001 or np.abs(mean).max() > np.finfo(np.float32).max:
        raise RefusedError(f"the arrays of {layer} are not a mean and unit vectors")


def check_basis(
    basis: PcaBasis,
    layer_sizes: Mapping[str, int],
    weights: dict[str, JSON],
    settings: dict[str, JSON],
) -> None:
    """Refuse a basis of other layers or sizes, or fitted on features computed in another way.

    Compared are the weights, their mean, colour, pool5 and preprocessing, and the settings that decide which
    frames a row is computed from: stride, tail, short, fps, crops, l2. The precision is not compared: all are
    within 1 % of fp32. Of ActivityNet's basis no more is known than that it is of clips without L2.

    Raises
    ------
    PcaError
        A layer is missing or of another size, or one side lacks a value to compare.
    MismatchError
        The features differ; the error lists the differences.
    """
    basis.check_takes(layer_sizes)
    compared: tuple[str, ...] = ("l2",) if "published" in basis.provenance else COMPARED
    fitted_on = basis.provenance.get("weights", {})
    was, now = _made_with(fitted_on, basis.provenance.get("settings", {})), _made_with(weights, settings)
    subject = basis.name or None
    for made, which in ((was, "those it was fitted on"), (now, "those to be projected")):
        if unknown := [name for name in compared if name not in made]:
            reason = (
                f"the basis cannot be compared with the features: {which} do not say {', '.join(unknown)}"
            )
            raise PcaError(
                reason, subject=subject, hint="extract them again, and fit a basis on the new file"
            )
    if have_same_tensors(fitted_on, weights, layer_sizes):
        compared = tuple(name for name in compared if name != "weights")
    differences = [
        f"{name}: {_shown(name, was, fitted_on)} → {_shown(name, now, weights)}"
        for name in compared
        if was[name] != now[name]
    ]
    if differences:
        hint = "fit one on features made as these are"
        raise MismatchError(
            "the basis was fitted on other features", differences=differences, subject=subject, hint=hint
        )


def _made_with(weights: dict[str, JSON], settings: dict[str, JSON]) -> dict[str, JSON]:
    """Return what the values of features depend on, as far as it is known, by the names of the options."""
    found: dict[str, JSON] = recorded_resize(weights)
    found |= {name: weights[name] for name in ("pool5", "colour") if name in weights}
    found |= {"crops": "centre", **settings}
    # Only networks of another kind than C3D name their preprocessing, and only C3D has a pool5.
    found["preprocessing"] = weights.get("preprocessing", "as C3D's")
    if "preprocessing" in weights:
        found["pool5"] = "none"
    sums = {name: weights.get(f"{name}_sha256") for name in ("weights", "mean")}
    found |= {name: value for name, value in sums.items() if value}
    made = {name: found[name] for name in COMPARED if name in found}
    return dict(json.loads(json.dumps(made)))  # tuples become lists, as they do in a file


def _shown(name: str, made: dict[str, JSON], weights: dict[str, JSON]) -> str:
    value = made[name]
    if name in {"weights", "mean"}:
        return f"{weights.get(name, 'unnamed')} (sha256 {str(value)[:12]})"
    return value if isinstance(value, str) else json.dumps(value)
