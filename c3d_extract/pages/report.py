"""A page on what a run did: failures, lengths, rates, times, and how well classes are told apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import StoreError
from c3d_extract.output import FeatureFile
from c3d_extract.output.describe import recorded, report_lines
from c3d_extract.pages.rows import without_nan
from c3d_extract.pages.template import require_library, write_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from c3d_extract.analysis import Evaluation, Experiment

__all__ = ["ClassResult", "write_report_page"]

_STATUSES = ("ok", "partial", "failed", "skipped")
_COLUMNS = (
    "video", "status", "error", "seconds", "n_clips", "n_frames", "fps", "duration_seconds", "width",
    "height", "size_bytes", "n_decode_errors",
)  # fmt: skip
_LENGTH = "duration_seconds"


@dataclass(frozen=True)
class ClassResult:
    """How well a linear classifier tells the classes of the videos apart."""

    experiment: Experiment
    evaluation: Evaluation
    chance: float


def write_report_page(features: Path, output: Path, classes: ClassResult | None = None) -> list[str]:
    """Write a page on a feature file and the report beside it; return remarks for the user.

    Raises
    ------
    C3DError
        Where plotly is not installed.
    StoreError
        Where a file cannot be read or written.
    """
    require_library()
    with FeatureFile(features) as file:
        if file.kind != "features":
            reason = "has one row per clip, not one per video"
            raise StoreError(reason, subject=features, hint="give the feature file")
        attributes, scalars = file.attributes, dict(file.scalars())
    lines = report_lines(features, attributes.get("report_sha256"))
    notes = []
    if lines is None:
        notes.append("there is no report of this file beside it: nothing is known of videos that failed")
        lines = [{"video": video, "status": "ok"} for video in scalars]
    if not attributes.get("complete", False):
        notes.append("the run was interrupted; the same command goes on")
    rows = [_row(line, scalars.get(line["video"], {})) for line in lines]
    videos = {name: without_nan([row.get(name) for row in rows]) for name in _COLUMNS}
    data = {
        "title": features.name,
        "counts": _counts(videos),
        "notes": notes,
        "videos": videos,
        "plots": _plots(videos),
        "settings": recorded(attributes),
        "classes": None if classes is None else _classes(classes),
    }
    write_page(output, "report", title=f"{features.name}: report", data=data)
    return notes


def _row(line: Mapping[str, Any], scalars: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a file; a report has counts of 0 for one that was skipped."""
    kept = ("video", "status", "error") if line["status"] == "skipped" else line
    return {name: line.get(name) for name in kept} | dict(scalars)


def _counts(videos: Mapping[str, Sequence[Any]]) -> list[tuple[str, str]]:
    """Return figures and what they count, as people read them."""
    counts = [(f"{videos['status'].count(status):,}", status) for status in _STATUSES]
    counts = [(n, status) for n, status in counts if n != "0"]
    seconds = sum(_known(videos["seconds"]))
    n_frames = sum(_known(videos["n_frames"]))
    counts += [(f"{sum(_known(videos['n_clips'])):,}", "clips"), (f"{n_frames:,}", "frames")]
    counts.append((_hours(sum(_known(videos[_LENGTH]))), "of video"))
    if seconds:
        counts += [
            (_hours(seconds), "decoding, summed"),
            (f"{n_frames / seconds:,.0f}", "frames/s a decoder"),
        ]
    return counts


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _hours(seconds: float) -> str:
    """Return a time as ``1:02:03 h``, ``2:03 min`` or ``3.4 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def _plots(videos: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return histograms: a title, the unit and the values; without those that have nothing to show."""
    rates = [n / s for n, s in zip(videos["n_frames"], videos["seconds"], strict=True) if n and s]
    megabytes = [size / 1e6 for size in _known(videos["size_bytes"])]
    plots = (
        ("Length", "s", _known(videos[_LENGTH])),
        ("Frame rate", "frames/s", _known(videos["fps"])),
        ("Clips", "clips of a video", [n for n in videos["n_clips"] if n]),
        ("Time to decode", "s", _known(videos["seconds"])),
        ("Speed of decoding", "frames/s", [round(rate, 1) for rate in rates]),
        ("Size", "MB", [round(size, 3) for size in megabytes]),
    )
    return [
        {"title": title, "unit": unit, "values": values}
        for title, unit, values in plots
        if len(set(values)) > 1
    ]


def _classes(result: ClassResult) -> dict[str, Any]:
    evaluation, experiment = result.evaluation, result.experiment
    spread = evaluation.accuracy_std
    accuracy = f"{evaluation.accuracy:.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")
    layer, n = experiment.provenance["layer"], len(experiment.videos)
    text = (
        f"Linear SVM on {layer} of {n:,} videos: accuracy {accuracy}, chance {result.chance:.3f}; "
        f"{experiment.protocol}."
    )
    return {"names": list(evaluation.classes), "counts": evaluation.confusion.tolist(), "text": text}
