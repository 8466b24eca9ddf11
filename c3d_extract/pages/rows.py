"""Rows of a feature or clip file, with what is known of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.analysis.features import require_finite
from c3d_extract.output import FeatureFile
from c3d_extract.output.describe import report_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Rows", "read_rows", "without_nan"]

VIDEO_FACTS = (
    "n_clips", "n_frames", "fps", "duration_seconds", "width", "height", "size_bytes", "n_decode_errors",
)  # fmt: skip
CLIP_FACTS = ("start_frame", "end_frame", "start_seconds", "end_seconds")


@dataclass(frozen=True)
class Rows:
    """One layer of a feature or clip file.

    Attributes
    ----------
    kind
        ``features``, a row a video, or ``clips``.
    layer
        Its name.
    X
        float32 (N, D).
    videos
        The name of each row's video.
    spans
        The part of the video, in seconds.
    sizes
        Bytes of each video; None in clip files, which do not say.
    facts
        Column → a value a row, None where unknown.
    attributes
        The file's.
    """

    kind: str
    layer: str
    X: NDArray[np.float32]
    videos: list[str]
    spans: list[tuple[float, float]]
    sizes: list[int | None]
    facts: dict[str, list[Any]]
    attributes: dict[str, Any]


def read_rows(path: Path, layer: str | None) -> Rows:
    """Read one layer, the first where none is named, of a feature or clip file; of crops the first alone.

    Raises
    ------
    StoreError
        For a file without it or without rows, and for features that are not finite.
    """
    with FeatureFile(path) as file:
        layer = layer or file.layers[0]
        names = VIDEO_FACTS if file.kind == "features" else CLIP_FACTS
        kept = np.flatnonzero(file.column("crop") == 0) if file.has_crops else np.arange(len(file))
        columns = {name: file.column(name)[kept].tolist() for name in names}
        X, kind, attributes = file[layer][kept], file.kind, file.attributes
        videos, spans = file.videos, file.spans()
    videos, spans = [videos[row] for row in kept], [spans[row] for row in kept]
    require_finite(X, videos, path)
    facts: dict[str, list[Any]] = {name: without_nan(values) for name, values in columns.items()}
    sizes: list[int | None] = [None] * len(videos)
    if kind == "features":
        facts |= _statuses(path, attributes.get("report_sha256"), videos)
        sizes = columns["size_bytes"]
    return Rows(kind, layer, X, videos, spans, sizes, facts, attributes)


def _statuses(path: Path, digest: str | None, videos: Sequence[str]) -> dict[str, list[Any]]:
    """Return the status of each video and what went wrong, from the report; nothing without one."""
    lines = report_lines(path, digest)
    if lines is None:
        return {}
    found = {line["video"]: line for line in lines}
    return {name: [found.get(video, {}).get(name) for video in videos] for name in ("status", "error")}


def without_nan(values: Sequence[Any]) -> list[Any]:
    """Return values with None for what is no finite number, which JSON does not have."""
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
