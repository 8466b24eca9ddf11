"""Results: the features of a video, the outcome of each video of a run, counts of a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from c3d_extract.dataframes import data_frame
from c3d_extract.pipeline.aggregate import aggregated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.dataframes import DataFrame
    from c3d_extract.output import ClipRows, VideoRow
    from c3d_extract.sources.source import Source

__all__ = ["Features", "Outcome", "Progress", "features_of", "outcome_of"]


@dataclass(frozen=True, repr=False)
class Features:
    """One video's features, before any normalisation; its length is the number of clips.

    Attributes
    ----------
    layers
        Layer → float32 (n_clips, D), in the order of the clips; (n_clips, n_crops, D) with several crops.
    start_frames, end_frames
        int64 (n_clips); the clip's frames are ``[start, end)``, fewer than the network takes where some
        are padded.
    start_seconds, end_seconds
        float64 (n_clips), the times of each clip's first frame and of its last that is not padding.
    outcome
        Status, and what was wrong with the video, if anything.
    """

    layers: dict[str, NDArray[np.float32]]
    start_frames: NDArray[np.int64]
    end_frames: NDArray[np.int64]
    start_seconds: NDArray[np.float64]
    end_seconds: NDArray[np.float64]
    outcome: Outcome

    @property
    def clips(self) -> NDArray[np.float32]:
        """The first layer's features, float32 (n_clips, D), or (n_clips, n_crops, D)."""
        return next(iter(self.layers.values()))

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        return self.layers[layer]

    def mean(self, layer: str | None = None) -> NDArray[np.float32]:
        """Return the video descriptor: the average over the clips and their crops, float32 (D,)."""
        clips = self.clips if layer is None else self.layers[layer]
        return aggregated(clips.reshape(-1, clips.shape[-1]))

    def to_pandas(self) -> DataFrame:
        """Return a table of a row a clip: frames, seconds, and of every layer one array a row.

        Raises
        ------
        UsageError
            Where pandas is not installed.
        """
        names = ("start_frames", "end_frames", "start_seconds", "end_seconds")
        singular = {name.replace("frames", "frame"): getattr(self, name) for name in names}
        return data_frame(singular | self.layers)

    def __len__(self) -> int:
        return len(self.start_frames)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{layer} ({rows.shape[1]})" for layer, rows in self.layers.items())
        return f"<Features of {self.outcome.video}: {len(self)} clips, {sizes}>"


@dataclass(frozen=True)
class Outcome:
    """The result of one video in a run; ``skipped``: an earlier run finished it.

    ``path`` is an object's address, a text, or else the path of the file, of the folder of images or of the
    archive; of a video in memory a text such as ``<bytes>``.
    """

    video: str
    path: Path | str
    status: Literal["ok", "partial", "failed", "skipped"]
    error: str | None = None
    n_clips: int = 0
    n_frames: int = 0


@dataclass
class Progress:
    """Counts of a run, updated as it goes; seconds are wall time since the first video was requested.

    ``n_failed`` and ``n_partial`` count skipped videos of earlier runs too, ``…_now`` this run's alone;
    ``n_changed`` counts finished ones that are done again since their file has another size or time.

    ``waiting_seconds`` is time in which the network had nothing to do, ``network_seconds`` its work (on a
    GPU: what the main thread waited for it), ``handover_seconds`` the time of cutting frames into clips
    and clips into batches, in parallel to the network; ``store_seconds`` the time of committing.
    ``decode_seconds`` is summed over the decoders and counts their waiting for the network too.
    ``startup_seconds`` passed before the first batch was there.
    """

    n_videos: int = 0
    n_finished: int = 0
    n_skipped: int = 0
    n_partial: int = 0
    n_failed: int = 0
    n_changed: int = 0
    n_partial_now: int = 0
    n_failed_now: int = 0
    n_clips: int = 0
    n_frames: int = 0
    n_bytes: int = 0
    n_bytes_finished: int = 0
    startup_seconds: float = 0.0
    decode_seconds: float = 0.0
    handover_seconds: float = 0.0
    network_seconds: float = 0.0
    waiting_seconds: float = 0.0
    store_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started


def features_of(clips: Sequence[ClipRows], outcome: Outcome, n_crops: int = 1) -> Features:
    """Put the clips of one video together, given in their order in any number of pieces, at least one."""
    layers = {layer: np.concatenate([rows.features[layer] for rows in clips]) for layer in clips[0].features}
    if n_crops > 1:
        layers = {layer: rows.reshape(-1, n_crops, rows.shape[1]) for layer, rows in layers.items()}
    return Features(
        layers,
        np.concatenate([rows.start_frame for rows in clips])[::n_crops],
        np.concatenate([rows.end_frame for rows in clips])[::n_crops],
        np.concatenate([rows.start_seconds for rows in clips])[::n_crops],
        np.concatenate([rows.end_seconds for rows in clips])[::n_crops],
        outcome,
    )


def outcome_of(source: Source, row: VideoRow) -> Outcome:
    """Return the outcome of a video, from its row in the file."""
    return Outcome(source.name, source.location, row.status, row.error, row.n_clips, row.n_frames)
