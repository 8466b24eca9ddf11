"""Clip files for the tests of exports: videos of odd lengths, with names that are not plain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.output import TableRow, write_table
from c3d_extract.output.export import ExportOptions, export_features, find_preset
from c3d_extract.settings import CROPS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LENGTHS = {
    "Abuse/Abuse001_x264.mp4": 33,
    "long.mkv": 340,
    "one clip.mp4": 1,
    "thirty-two.mp4": 32,
    "two.webm": 2,
    "Ünder/日本 🎬.avi": 67,
}
"""Name → clips, sorted by name."""
STEMS = {
    "Abuse/Abuse001_x264.mp4": "Abuse/Abuse001_x264",
    "Ünder/日本 🎬.avi": "Ünder/日本 🎬",
    "long.mkv": "long",
    "one clip.mp4": "one clip",
    "thirty-two.mp4": "thirty-two",
    "two.webm": "two",
}
D = 24
SETTINGS = {"stride": 16, "tail": "drop", "short": "pad", "fps": None, "l2": False}


def features(video: str, n: int, layer: str = "fc6", *, crop: int = 0) -> NDArray[np.float32]:
    """What a network might give: not negative, a third zero, of unlike sizes; follows from its arguments."""
    seed = [len(layer), int(layer[-1]), crop, n, *video.encode()]
    X = np.random.default_rng(seed).standard_normal((n, D)) * np.linspace(0.1, 30, D)
    return np.maximum(X + 1, 0).astype(np.float32)


def write_clips(
    path: Path,
    lengths: dict[str, int] | None = None,
    *,
    layers: tuple[str, ...] = ("fc6",),
    n_crops: int = 1,
    **settings: Any,
) -> Path:
    """Write a clip file; with several crops, their rows are numbered by a column ``crop``."""
    lengths = LENGTHS if lengths is None else lengths
    stride = settings.get("stride", 16)
    rows = []
    for video in sorted(lengths, key=str.encode):
        n = lengths[video]
        values = {layer: [features(video, n, layer, crop=c) for c in range(n_crops)] for layer in layers}
        for i in range(n):
            times = (i * stride, i * stride + 16, i * stride / 25, (i * stride + 15) / 25)
            rows += [
                TableRow(video, (*times, c), [values[layer][c][i] for layer in layers])
                for c in range(n_crops)
            ]
    crops = {n: name for name, n in CROPS.items()}[n_crops]
    attributes: dict[str, Any] = {
        "settings": SETTINGS | {"crops": crops} | settings,
        "weights": {},
        "complete": True,
    }
    write_table(path, kind="clips", layers=dict.fromkeys(layers, D), rows=rows, attributes=attributes)
    return path


def write_videos(path: Path, *, layer: str = "fc6", **settings: Any) -> Path:
    """Write a feature file: a row a video."""
    scalars = (*(3, 48, 0, 0), *(25.0, 1.92), *(320, 240), *(1000, 1_700_000_000_000_000_000))
    rows = [TableRow(video, scalars, [features(video, 1, layer)[0]]) for video in LENGTHS]
    attributes: dict[str, Any] = {"settings": SETTINGS | settings, "weights": {}, "complete": True}
    write_table(path, kind="features", layers={layer: D}, rows=rows, attributes=attributes)
    return path


def export(preset: str, source: Path, output: Path, **options: Any) -> list[str]:
    return export_features(find_preset(preset), source, output, ExportOptions(**options))


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
