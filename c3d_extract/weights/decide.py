"""Deciding what nobody states of a conversion of C3D, by running it on the authors' frames.

Conversions of the Sports-1M model may have reversed the channels of conv1a, or keep the inputs of fc6 in
TensorFlow's order. The shapes do not tell, and the wrong choice only makes other features. The original
tool's output is known for two videos, so the file is measured once; the result is kept beside it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import WeightsError
from c3d_extract.files import replacing
from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.strict_json import parse_json
from c3d_extract.weights.goldens import known_clips, sample_frames
from c3d_extract.weights.layouts.contents import c3d_architecture, read_state
from c3d_extract.weights.layouts.detect import open_contents
from c3d_extract.weights.means import find_mean
from c3d_extract.weights.measure import Runnable, cut_clips, known_frames, measure

if TYPE_CHECKING:
    from pathlib import Path

    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.goldens import KnownClip
    from c3d_extract.weights.measure import Combination
    from c3d_extract.weights.registry import Fc6Order, RegistryEntry

__all__ = ["decided"]

_CLIPS_PER_VIDEO = 2  # each takes a second of a CPU or two for each choice
_ORDERS: tuple[Fc6Order, ...] = ("chw", "hwc")


def decided(
    entry: RegistryEntry,
    path: Path,
    sha256: str,
    *,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> RegistryEntry:
    """Return the entry with the colour and the order of fc6 that reproduce the original tool's output.

    Raises
    ------
    WeightsError
        If no choice does, or the authors' frames or the mean cannot be had.
    """
    if not entry.undecided:
        return entry
    result = path.with_name(f"{path.name}.measured.json")
    found = _read(result, sha256)
    if found is None:
        found = _measured(entry, path, offline=offline, progress=progress)
        with suppress(OSError), replacing(result) as file:  # else it is measured again
            file.write(json.dumps(found | {"sha256": sha256}).encode())
    return replace(entry, **found)


def _read(result: Path, sha256: str) -> dict[str, Any] | None:
    """Return what was measured earlier, if that was this very file."""
    try:
        values = parse_json(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or values.pop("sha256", None) != sha256:
        return None
    known = values.get("colour") in ("bgr", "rgb") and values.get("fc6_order") in (None, *_ORDERS)
    return values if known and len(values) == 2 else None


def _measured(
    entry: RegistryEntry, path: Path, *, offline: bool, progress: FetchProgress | None
) -> dict[str, Any]:
    known = _few(known_clips())
    frames = known_frames(sample_frames(offline=offline, progress=progress), known)
    mean = find_mean(entry.mean or "", offline=offline, progress=progress)
    found: list[Combination] = []
    compared = None
    for order in _ORDERS if "fc6_order" in entry.undecided else (entry.fc6_order,):
        network = _network(entry, path, order, mean.array)
        compared = compared or cut_clips(frames, known, network.architecture)
        found += measure(network, compared, order)
    best = min(found, key=lambda one: one.distance)
    if not best.matches or best.pool5 != entry.pool5:
        raise WeightsError("does not give the original tool's output, whatever its channel order")
    return {"colour": best.colour, "fc6_order": best.fc6_order}


def _few(known: list[KnownClip]) -> list[KnownClip]:
    counts: dict[str, int] = {}
    kept = []
    for clip in known:
        counts[clip.video] = counts.get(clip.video, 0) + 1
        if counts[clip.video] <= _CLIPS_PER_VIDEO:
            kept.append(clip)
    return kept


def _network(entry: RegistryEntry, path: Path, order: Fc6Order | None, mean: Any) -> Runnable:
    with open_contents(path, order) as contents:
        architecture = c3d_architecture(contents.shapes, entry.pool5 or "ceil")
        state = read_state(contents, architecture.state_shapes(), path.stat().st_size)
    return Runnable(architecture, state, fit_mean(mean, architecture.preprocessing, architecture.clip[0]))
