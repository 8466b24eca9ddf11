"""Videos in, rows out: decode → batch → network → rows.

A feeder thread runs the decoder, cuts frames into clips and clips into batches that span videos; the thread
that iterates over a `Stream` feeds the networks and sums each video's clips. The queue between the two is
bounded, so memory does not grow with the length of a video. Nothing here knows of files that are written.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from c3d_extract.decode import VideoFailed
from c3d_extract.output import ClipRows, VideoRow
from c3d_extract.pipeline.aggregate import AGGREGATES, Aggregate
from c3d_extract.pipeline.feeder import Feeder
from c3d_extract.pipeline.scheduler import Scheduler
from c3d_extract.preprocess.clips import ClipAssembler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.compute.network import Network
    from c3d_extract.decode import NextVideo, VideoInfo, VideoRead
    from c3d_extract.pipeline.decoders import Decoders, InMemoryDecoders
    from c3d_extract.pipeline.feeder import Batch, BatchClip, VideoEnd
    from c3d_extract.pipeline.results import Progress
    from c3d_extract.preprocess.clips import Clip
    from c3d_extract.settings import ResolvedSettings
    from c3d_extract.sources.source import Source
    from c3d_extract.sources.staging import Staged

__all__ = ["ClipFeatures", "FinishedVideo", "Stream", "StreamParts", "failed_row"]

LayerRows = dict[str, "NDArray[np.float32]"]
"""Layer → float32 (N, D)."""


class StreamParts(NamedTuple):
    """What streams of one Extractor share."""

    networks: Sequence[Network]
    decoders: Decoders | InMemoryDecoders
    settings: ResolvedSettings


class FinishedVideo(NamedTuple):
    """A video's row; its clips came before."""

    source: Source
    row: VideoRow


class ClipFeatures:
    """The clips of one batch, without those whose features are not finite.

    Parameters
    ----------
    clips
        Every clip of the batch.
    places
        Task → places of its clips in the batch, those whose features are finite.
    features
        Layer → float32 (N, D), all of the batch.
    """

    def __init__(
        self, clips: list[BatchClip], places: dict[int, NDArray[np.intp]], features: LayerRows
    ) -> None:
        self._clips = clips
        self._places = places
        self._features = features

    def by_video(self, sources: Sequence[Source]) -> Iterator[tuple[str, ClipRows]]:
        """Yield each video's name and its clips in this batch, in their order."""
        for task, places in self._places.items():
            yield sources[task].name, self._rows(places)

    def _rows(self, places: NDArray[np.intp]) -> ClipRows:
        clips = [self._clips[place].clip for place in places]
        return ClipRows(
            start_frame=np.array([clip.span.start for clip in clips], np.int64),
            end_frame=np.array([clip.span.end for clip in clips], np.int64),
            start_seconds=np.array([clip.start_seconds for clip in clips]),
            end_seconds=np.array([clip.end_seconds for clip in clips]),
            crop=np.array([clip.crop for clip in clips], np.int32),
            features={layer: rows[places] for layer, rows in self._features.items()},
        )


class Stream:
    """Decodes videos and runs the networks on them; a context manager, to be iterated over once.

    Yields a `ClipFeatures` for each batch, and lists of the videos that are finished with it.

    Parameters
    ----------
    parts
        Networks, one for each device; decoders; settings.
    sources
        The videos.
    progress
        Counts, updated while the stream is iterated over.
    scratch
        Where videos that are no local files are put while they are decoded; None for the system's temporary
        folder.
    """

    def __init__(
        self,
        parts: StreamParts,
        sources: Sequence[Source],
        progress: Progress,
        scratch: Path | None = None,
    ) -> None:
        self.sources = sources
        self._networks, decoders, self._settings = parts
        self._progress = progress
        self._videos: dict[int, _VideoSum] = {}
        with contextlib.ExitStack() as undo:
            decoder = undo.enter_context(decoders.lend(len(sources), self._networks))
            videos, release = _decodable(sources, scratch, undo)
            self._feeder = Feeder(
                decoder,
                videos,
                release=release,
                new_assembler=self._new_assembler,
                batch_size=partial(_largest_batch, self._networks),
            )
            undo.callback(self._feeder.stop)
            self._opened = undo.pop_all()

    def _new_assembler(self) -> ClipAssembler:
        length, settings = self._networks[0].clip_shape[0], self._settings
        return ClipAssembler(length, settings.stride, settings.tail, settings.short, settings.n_crops)

    def start(self) -> None:
        """Begin to decode."""
        self._feeder.start()

    def stop(self, reason: BaseException) -> None:
        """End the stream from any thread; whoever iterates over it gets ``reason`` raised."""
        self._feeder.stop(reason)

    def close(self) -> None:
        """End the feeder and give the decoder back."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[ClipFeatures | list[FinishedVideo]]:
        feeder, progress = self._feeder, self._progress
        for batch, features, ends in Scheduler(self._networks, feeder, progress).results():
            feeder.check()
            progress.handover_seconds = feeder.handover_seconds
            if batch is not None:
                progress.n_clips += len(batch.clips)
                yield ClipFeatures(batch.clips, self._add(batch, features), features)
                feeder.check()
            if ends:
                yield [self._finished(end) for end in ends]

    def _finished(self, end: VideoEnd) -> FinishedVideo:
        self._progress.decode_seconds += end.event.seconds
        source = self.sources[end.event.task]
        return FinishedVideo(source, self._row(source, end))

    def _add(self, batch: Batch, features: LayerRows) -> dict[int, NDArray[np.intp]]:
        """Add a batch to the videos' sums; return the places of each video's clips that are finite."""
        not_finite = _not_finite(features)
        found: dict[int, NDArray[np.intp]] = {}
        for task, places in _places_by_task(batch).items():
            video = self._videos.setdefault(task, _VideoSum())
            for place in places:
                if place in not_finite:
                    video.count_not_finite(not_finite[place])
            finite = [place for place in places if place not in not_finite]
            if finite:
                found[task] = np.array(finite)
                video.add([batch.clips[place].clip for place in finite], features, found[task])
        return found

    def _row(self, source: Source, end: VideoEnd) -> VideoRow:
        found = self._videos.pop(end.event.task, None) or _VideoSum()
        if isinstance(end.event, VideoFailed):
            return failed_row(source, end.event.reason, end.event.seconds)
        error = self._error(found, end, end.event.trouble)
        if error is not None:
            return failed_row(source, error, end.event.seconds, end.event.info)
        return _read(source, end.event, found, end.n_frames)

    def _error(self, found: _VideoSum, end: VideoEnd, trouble: str | None) -> str | None:
        """Return why a video that was read to its end counts as failed, or None."""
        if found.n_rows == 0:
            return f"only {end.n_frames} frames, and --short fail"
        if trouble is not None and self._settings.strict and not found.n_not_finite:
            return f"{trouble} (--strict)"
        return found.why_not_finite()


def _decodable(
    sources: Sequence[Source], scratch: Path | None, undo: contextlib.ExitStack
) -> tuple[Iterable[NextVideo], Callable[[int], None]]:
    """Return what the decoder is given, and what is called with each task that it has decoded."""
    if not any(source.needs_staging for source in sources):
        return [(task, source.path) for task, source in enumerate(sources)], lambda _: None
    from c3d_extract.sources.staging import Staging

    staging = undo.enter_context(Staging(sources, scratch))
    return map(_next_video, staging), staging.release


def _next_video(staged: Staged | None) -> NextVideo:
    if staged is None:
        return None
    if staged.error is not None:
        return VideoFailed(staged.task, staged.error, 0.0)
    return staged.task, staged.path


def _largest_batch(networks: Sequence[Network]) -> int:
    # As large as the device with the most memory takes it; one that had to back off splits it.
    return max(network.batch_size for network in networks)


def _places_by_task(batch: Batch) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, (task, _) in enumerate(batch.clips):
        found.setdefault(task, []).append(place)
    return found


@dataclass
class _VideoSum:
    """What is known of a video while its clips come."""

    layers: dict[str, Aggregate] = field(default_factory=dict)
    n_not_finite: dict[str, int] = field(default_factory=dict)  # layer → clips, for layers that have any
    n_clips: int = 0
    n_rows: int = 0  # clips, each counted for every crop
    n_padded_frames: int = 0

    def add(self, clips: Sequence[Clip], features: LayerRows, places: NDArray[np.intp]) -> None:
        """Add the clips at these places of a batch, in their order."""
        for layer, rows in features.items():
            if layer not in self.layers:
                self.layers[layer] = AGGREGATES["mean"]()
            self.layers[layer].add(rows[places])
        first_crops = [clip for clip in clips if clip.crop == 0]
        self.n_rows += len(clips)
        self.n_clips += len(first_crops)
        self.n_padded_frames += sum(clip.span.n_padded_frames for clip in first_crops)

    def count_not_finite(self, layers: Iterable[str]) -> None:
        """Count a clip whose features in ``layers`` are not finite; nothing is added."""
        for layer in layers:
            self.n_not_finite[layer] = self.n_not_finite.get(layer, 0) + 1
        self.n_rows += 1

    def why_not_finite(self) -> str | None:
        """Return which layers are not finite in how many clips, or None."""
        if not self.n_not_finite:
            return None
        counts = [f"{layer} in {n} of {self.n_rows} clips" for layer, n in self.n_not_finite.items()]
        check = "check the checkpoint, its mean and its std (c3d-tools weights verify)"
        return f"features are not finite: {', '.join(counts)}; {check}"

    def results(self) -> LayerRows:
        return {layer: aggregate.result() for layer, aggregate in self.layers.items()}


def _not_finite(features: LayerRows) -> dict[int, list[str]]:
    """Return the places in a batch whose features are not finite, and in which layers."""
    found: dict[int, list[str]] = {}
    for layer, rows in features.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(rows.sum()):  # one sum a batch; a closer look only where it shows something
                continue
        for place in np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))):
            found.setdefault(int(place), []).append(layer)
    return found


def failed_row(source: Source, error: str, seconds: float = 0.0, info: VideoInfo | None = None) -> VideoRow:
    """Return the row of a video that failed; ``seconds`` were spent on it."""
    return VideoRow(
        video=source.name,
        status="failed",
        error=error,
        seconds=seconds,
        features={},
        n_clips=0,
        n_frames=0,
        n_padded_frames=0,
        n_decode_errors=0,
        fps=info.fps if info else np.nan,
        duration_seconds=info.duration_seconds if info else np.nan,
        width=info.width if info else 0,
        height=info.height if info else 0,
        size_bytes=source.size_bytes,
        mtime_ns=source.mtime_ns,
    )


def _read(source: Source, event: VideoRead, found: _VideoSum, n_frames: int) -> VideoRow:
    return VideoRow(
        video=source.name,
        status="ok" if event.trouble is None else "partial",
        error=event.trouble,
        seconds=event.seconds,
        features=found.results(),
        n_clips=found.n_clips,
        n_frames=n_frames,
        n_padded_frames=found.n_padded_frames,
        n_decode_errors=event.n_decode_errors,
        fps=event.info.fps,
        duration_seconds=event.info.duration_seconds,
        width=event.info.width,
        height=event.info.height,
        size_bytes=source.size_bytes,
        mtime_ns=source.mtime_ns,
    )
