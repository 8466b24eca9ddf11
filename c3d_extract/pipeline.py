"""Extractor: decode → batch → network → mean → store.

A feeder thread runs the decode pool, cuts frames into clips and clips into batches that span videos;
the calling thread feeds the network, sums each video's clips in float64 and commits finished videos.
The queue between them is bounded, so memory does not grow with the length of a video.
"""

from __future__ import annotations

import contextlib
import itertools
import platform
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np

from c3d_extract.clips import Clip, ClipAssembler, ClipSpan
from c3d_extract.decode_pool import DecodeOptions, DecodePool, FramesDecoded, VideoFailed, VideoRead
from c3d_extract.errors import PcaError, UsageError, VideoError
from c3d_extract.inference import Network, choose_devices, choose_precision, device_name, usable_cores
from c3d_extract.settings import ExtractSettings, Precision
from c3d_extract.sources import Found, Source, find_videos
from c3d_extract.store import ClipRows, OutputPaths, RunIdentity, RunStore, Summary, VideoRow
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from c3d_extract.inference import Pending
    from c3d_extract.model import Pool5
    from c3d_extract.pca import PcaBasis
    from c3d_extract.preprocess import Colour
    from c3d_extract.store import JSON
    from c3d_extract.weights import Checkpoint

__all__ = ["Extraction", "Extractor", "Features", "Outcome", "Progress", "library_versions"]

_QUEUED_BATCHES = 2  # one being run, one ready, one being filled


@dataclass(frozen=True)
class Features:
    """One video's features, before any normalisation.

    Attributes
    ----------
    layers
        Layer → float32 (n_clips, D), in the order of the clips.
    start_frames, end_frames
        int64 (n_clips); the clip's frames are ``[start, end)``, fewer than 16 where some are padded.
    start_seconds
        float64 (n_clips), the time of each clip's first frame.
    outcome
        How the reading went.
    """

    layers: dict[str, NDArray[np.float32]]
    start_frames: NDArray[np.int64]
    end_frames: NDArray[np.int64]
    start_seconds: NDArray[np.float64]
    outcome: Outcome

    @property
    def clips(self) -> NDArray[np.float32]:
        """The first layer's features, float32 (n_clips, D)."""
        return next(iter(self.layers.values()))

    def __getitem__(self, layer: str) -> NDArray[np.float32]:
        return self.layers[layer]

    def mean(self, layer: str | None = None) -> NDArray[np.float32]:
        """Return the video descriptor: the average over the clips, float32 (D,)."""
        clips = self.clips if layer is None else self.layers[layer]
        mean: NDArray[np.float32] = clips.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


@dataclass(frozen=True)
class Outcome:
    """What became of one video: ``ok``, ``partial``, ``failed``, or ``skipped`` as finished before."""

    video: str
    path: Path
    status: Literal["ok", "partial", "failed", "skipped"]
    error: str | None = None
    n_clips: int = 0
    n_frames: int = 0


@dataclass
class Progress:
    """Counts of a run, updated as it goes; seconds are wall time since the first video was asked for.

    ``n_failed`` and ``n_partial`` count skipped videos of earlier runs too, ``…_now`` this run's alone;
    ``n_changed`` counts finished ones that are done again since their file has another size or time.

    ``waiting_seconds`` is time in which the network had nothing to do, ``network_seconds`` its work (on a
    GPU: what the main thread waited for it), ``handover_seconds`` the time of cutting frames into clips
    and clips into batches, beside the network; ``store_seconds`` the time of committing.
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


class _Owner(NamedTuple):
    """Whose clip stands at one place of a batch."""

    task: int
    span: ClipSpan
    start_seconds: float
    end_seconds: float


@dataclass
class _Batch:
    clips: NDArray[np.uint8]
    owners: list[_Owner] = field(default_factory=list)


class _End(NamedTuple):
    """A video's end; it comes after the batch with its last clip."""

    event: VideoRead | VideoFailed


@dataclass
class _Sum:
    """A video's running sums: float64, added clip by clip, so that batches do not change a bit of it."""

    totals: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    n_clips: int = 0
    n_padded_frames: int = 0
    n_frames: int = 0

    def add(self, owner: _Owner, features: dict[str, NDArray[np.float32]], place: int) -> None:
        for layer, rows in features.items():
            if layer in self.totals:
                self.totals[layer] += rows[place]
            else:
                self.totals[layer] = rows[place].astype(np.float64)
        self.n_clips += 1
        self.n_padded_frames += owner.span.n_padded_frames

    def means(self) -> dict[str, NDArray[np.float32]]:
        return {layer: (total / self.n_clips).astype(np.float32) for layer, total in self.totals.items()}


class _Feeder(threading.Thread):
    """Runs the pool; puts batches and ends of videos on a bounded queue."""

    def __init__(
        self, pool: DecodePool, settings: ExtractSettings, network: Network, videos: list[tuple[int, Path]]
    ) -> None:
        super().__init__(name="c3d-feeder", daemon=True)
        self.queue: queue.Queue[_Queued] = queue.Queue(maxsize=_QUEUED_BATCHES)
        self.n_frames: dict[int, int] = {}
        self._pool = pool
        self._settings = settings
        self._network = network
        self._videos = videos
        self._stopped = threading.Event()
        self._assemblers: dict[int, ClipAssembler] = {}
        self.handover_seconds = 0.0
        self._blocked_seconds = 0.0
        self._batch = self._new_batch()
        self._ends: list[_End] = []  # of videos with clips in the batch that is being filled

    def stop(self) -> None:
        """End soon, with nothing more on the queue."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self.queue.get_nowait()
        self.join()

    def run(self) -> None:
        try:
            with contextlib.closing(self._pool.run(self._videos)) as events:
                for event in events:
                    if self._stopped.is_set():
                        return
                    started, blocked = time.monotonic(), self._blocked_seconds
                    self._take(event)
                    waited = self._blocked_seconds - blocked
                    self.handover_seconds += time.monotonic() - started - waited
            self._send_batch()
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the calling thread
            self._put(error)

    def _take(self, event: FramesDecoded | VideoRead | VideoFailed) -> None:
        if isinstance(event, FramesDecoded):
            for clip in self._assembler(event.task).push(event.frames, event.times_seconds):
                self._add(event.task, clip)
            return
        assembler = self._assemblers.pop(event.task, None)
        if assembler is not None and isinstance(event, VideoRead):
            for clip in assembler.finish():
                self._add(event.task, clip)
            self.n_frames[event.task] = assembler.n_frames
        if any(owner.task == event.task for owner in self._batch.owners):
            self._ends.append(_End(event))
        else:
            self._put(_End(event))

    def _assembler(self, task: int) -> ClipAssembler:
        made = self._assemblers.get(task)
        if made is None:
            made = ClipAssembler(self._settings.stride, self._settings.tail, self._settings.short)
            self._assemblers[task] = made
        return made

    def _add(self, task: int, clip: Clip) -> None:
        self._batch.clips[len(self._batch.owners)] = clip.frames
        self._batch.owners.append(_Owner(task, clip.span, clip.start_seconds, clip.end_seconds))
        if len(self._batch.owners) == len(self._batch.clips):
            self._send_batch()

    def _send_batch(self) -> None:
        if self._batch.owners:
            self._put(self._batch)
            self._batch = self._new_batch()
        for end in self._ends:
            self._put(end)
        self._ends = []

    def _new_batch(self) -> _Batch:
        return _Batch(self._network.new_batch())

    def _put(self, item: _Batch | _End | BaseException | None) -> None:
        started = time.monotonic()
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put(item, timeout=0.2)
                break
        self._blocked_seconds += time.monotonic() - started


_Queued = _Batch | _End | BaseException | None


class _Result(NamedTuple):
    item: _Batch | _End
    features: dict[str, NDArray[np.float32]]


class _InFlight(NamedTuple):
    """What was taken off the feeder's queue and is not summed up yet, in that order."""

    item: _Batch | _End
    pending: Pending | None


class _Devices:
    """Spreads batches over networks in turn; gives results back in the order in which they were given.

    So a video's clips are summed in their order, whichever devices ran them.
    """

    def __init__(self, networks: Sequence[Network], queued: queue.Queue[_Queued], progress: Progress) -> None:
        self._networks = itertools.cycle(networks)
        # One batch at work and one behind it on each device, so that none waits for us. On a CPU the
        # cores that are done with a batch begin the next.
        self._depth = 2 * len(networks) - 1
        self._queue = queued
        self._progress = progress
        self._in_flight: deque[_InFlight] = deque()
        self._n_batches = 0

    def results(self) -> Iterator[_Result]:
        """Yield each batch with its features, and each end of a video, until the feeder is done."""
        while True:
            while self._in_flight and self._oldest_is_due():
                yield self._oldest()
            item = self._next()
            if item is None:
                break
            self._in_flight.append(_InFlight(item, self._submit(item) if isinstance(item, _Batch) else None))
        while self._in_flight:
            yield self._oldest()

    def _oldest_is_due(self) -> bool:
        full = sum(entry.pending is not None for entry in self._in_flight) > self._depth
        # With nothing to start, results that are under way are worth more than waiting.
        return full or self._in_flight[0].pending is None or self._queue.empty()

    def _oldest(self) -> _Result:
        item, pending = self._in_flight.popleft()
        if pending is None:
            return _Result(item, {})
        started = time.monotonic()
        features = pending.result()
        self._progress.network_seconds += time.monotonic() - started
        return _Result(item, features)

    def _next(self) -> _Batch | _End | None:
        started = time.monotonic()
        item = self._queue.get()
        self._progress.waiting_seconds += time.monotonic() - started
        if isinstance(item, BaseException):
            raise item
        return item

    def _submit(self, batch: _Batch) -> Pending:
        started = time.monotonic()
        if not self._progress.startup_seconds:
            self._progress.startup_seconds = self._progress.seconds
        pending = next(self._networks).submit(batch.clips, len(batch.owners))
        self._progress.network_seconds += time.monotonic() - started
        return pending


class Extractor:
    """Turns videos into C3D descriptors.

    Parameters
    ----------
    checkpoint
        From `c3d_extract.weights.load_checkpoint`; holds the tensors that ``settings.layers`` need.
    settings
        What changes the numbers.
    device, precision, batch_size, workers, timeout_seconds
        Where and how fast; ``None`` and ``auto`` choose by the machine. ``device`` may name several,
        ``cuda:0,cuda:1``, or ``all`` CUDA devices: each holds the network, and batches go to them in turn.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: ExtractSettings | None = None,
        *,
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings or ExtractSettings()
        checkpoint.architecture.check_layers(self.settings.layers)
        for option, value in (
            ("--batch-size", batch_size),
            ("--workers", workers),
            ("--timeout", timeout_seconds),
        ):
            if value is not None and not value > 0:
                raise UsageError(f"must be above 0, not {value}", subject=option)
        self.devices = choose_devices(device)
        self.device = self.devices[0]
        (self.precision,) = {choose_precision(precision, device) for device in self.devices}
        self._batch_size = batch_size
        self._timeout_seconds = timeout_seconds
        self.workers = workers or suitable_workers(self.device.type)
        self._networks: list[Network] = []
        self._pool: DecodePool | None = None

    @classmethod
    def from_weights(
        cls,
        weights: str | os.PathLike[str] = "sports1m",
        settings: ExtractSettings | None = None,
        *,
        mean: str | os.PathLike[str] | None = None,
        pool5: Pool5 | None = None,
        colour: Colour | None = None,
        offline: bool = False,
        fetch_progress: Callable[[str, int, int | None], None] | None = None,
        **run: Any,
    ) -> Self:
        """Load a checkpoint by registry name or file, fetching it where it is not here.

        ``run`` holds the class's own keywords: device, precision, batch_size, workers, timeout_seconds.

        Raises
        ------
        WeightsError, UsageError, DeviceError
            One line each: what is missing, unknown or not to be had.
        """
        settings = settings or ExtractSettings()
        checkpoint = load_checkpoint(
            weights if isinstance(weights, str) else Path(weights),
            layers=settings.layers,
            mean=None if mean is None else str(mean),
            pool5=pool5,
            colour=colour,
            offline=offline,
            progress=fetch_progress,
        )
        return cls(checkpoint, settings, **run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder processes and let the network go."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None
        self._networks = []

    @property
    def warnings(self) -> list[str]:
        """What bears on the numbers: GPUs of several models, clips done again in fp32, batches halved."""
        unlike = _unlike(self.devices)
        return unlike + [warning for network in self._networks for warning in network.warnings]

    @property
    def networks(self) -> list[Network]:
        """A network for each device, built when they are first needed; all take batches of one size."""
        for device in self.devices[len(self._networks) :]:
            size = self._networks[0].batch_size if self._networks else self._batch_size
            self._networks.append(
                Network(
                    self.checkpoint,
                    self.settings.layers,
                    device=device,
                    precision=self.precision,
                    batch_size=size,
                )
            )
        return self._networks

    @property
    def network(self) -> Network:
        """The first device's network."""
        return self.networks[0]

    def _decoders(self, n_videos: int) -> DecodePool:
        n_workers = max(1, min(self.workers, n_videos))
        if self._pool is None or self._pool.n_workers < n_workers:
            if self._pool is not None:
                self._pool.close()
            options = DecodeOptions(
                self.checkpoint.preprocessing, self.settings.max_pixels, self.settings.fps
            )
            self._pool = DecodePool(n_workers, options, timeout_seconds=self._timeout_seconds)
        return self._pool

    def extract(self, path: str | os.PathLike[str]) -> Features:
        """Return the features of one video, every clip of it.

        Raises
        ------
        VideoError
            Where it cannot be read; with ``settings.strict`` also where it can only in part.
        """
        source = Source(Path(path).name, Path(path), 0, 0)
        owners: list[_Owner] = []
        parts: list[dict[str, NDArray[np.float32]]] = []
        row: VideoRow | None = None

        def keep(owner: _Owner, features: dict[str, NDArray[np.float32]]) -> None:
            owners.append(owner)
            parts.append(features)

        for _, finished in self._stream([source], Progress(), keep):
            row = finished
        if row is None or row.status == "failed":
            raise VideoError(row.error or "failed" if row else "failed", subject=path)
        return Features(
            {layer: np.stack([part[layer] for part in parts]) for layer in self.settings.layers},
            np.array([o.span.start for o in owners], np.int64),
            np.array([o.span.end for o in owners], np.int64),
            np.array([o.start_seconds for o in owners]),
            _outcome(source, row),
        )

    def extract_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        listed: Iterable[str | os.PathLike[str]] = (),
        frame_folders: bool = False,
        clips: str | os.PathLike[str] | None = None,
        basis: PcaBasis | None = None,
        overwrite: bool = False,
        retry_failed: bool = False,
        on_error: Literal["skip", "fail"] = "skip",
        progress: Callable[[Progress], None] | None = None,
    ) -> Extraction:
        """Extract files, folders and globs into a feature file; iterate over the result to run it.

        Videos that an earlier run finished are skipped. Each finished video is safe on disk before its
        outcome is yielded. Leaving the loop early, or Ctrl-C, leaves a file with what was finished.

        Parameters
        ----------
        listed
            Further paths, which may not exist: those fail as videos do.
        frame_folders
            Whether a folder of numbered images is a video.
        clips
            Where to write one row a clip as well.
        basis
            A fitted PCA basis to project with.
        on_error
            ``fail`` ends the run at the first video that fails.
        progress
            Called after every batch and every video.

        Raises
        ------
        UsageError, StoreError, PcaError
            At once, before any work.
        """
        ours = OutputPaths(Path(output), Path(clips) if clips else None).every
        found = find_videos(paths, listed=listed, ours=ours, frame_folders=frame_folders)
        return self.extract_found(
            found,
            output,
            clips=clips,
            basis=basis,
            overwrite=overwrite,
            retry_failed=retry_failed,
            on_error=on_error,
            progress=progress,
        )

    def extract_found(
        self,
        found: Found,
        output: str | os.PathLike[str],
        *,
        clips: str | os.PathLike[str] | None = None,
        basis: PcaBasis | None = None,
        overwrite: bool = False,
        retry_failed: bool = False,
        on_error: Literal["skip", "fail"] = "skip",
        progress: Callable[[Progress], None] | None = None,
    ) -> Extraction:
        """Extract videos that were found already; the rest as in `extract_files`."""
        found.check_any()
        return Extraction(
            self,
            found,
            Path(output),
            clips=Path(clips) if clips else None,
            basis=basis,
            overwrite=overwrite,
            retry_failed=retry_failed,
            on_error=on_error,
            progress=progress,
        )

    def identity(self) -> RunIdentity:
        """Return what two runs must share to write one file."""
        settings: dict[str, JSON] = self.settings.to_json()
        settings["precision"] = self.precision
        arch = self.checkpoint.architecture
        sizes = {layer: arch.layer_size(layer) for layer in self.settings.layers}
        identity = self.checkpoint.identity()
        record = {k: v for k, v in self.checkpoint.record_json().items() if v != identity.get(k)}
        weights = {**identity, "record": record}
        versions = library_versions() | {"device": ", ".join(map(device_name, self.devices))}
        return RunIdentity(settings, weights, sizes, versions)

    def _stream(
        self,
        sources: Sequence[Source],
        progress: Progress,
        on_clip: Callable[[_Owner, dict[str, NDArray[np.float32]]], object] | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> Generator[tuple[Source, VideoRow], None, None]:
        """Decode and run ``sources``; yield each one's row as soon as it is finished."""
        networks = self.networks
        videos = [(task, source.path) for task, source in enumerate(sources)]
        feeder = _Feeder(self._decoders(len(videos)), self.settings, networks[0], videos)
        sums: dict[int, _Sum] = {}
        feeder.start()
        try:
            for item, features in _Devices(networks, feeder.queue, progress).results():
                progress.handover_seconds = feeder.handover_seconds
                if isinstance(item, _Batch):
                    self._sum(item, features, sums, on_clip)
                    progress.n_clips += len(item.owners)
                    if after_batch is not None:
                        after_batch()
                else:
                    task = item.event.task
                    progress.decode_seconds += item.event.seconds
                    found = sums.pop(task, _Sum())
                    found.n_frames = feeder.n_frames.pop(task, 0)
                    yield sources[task], self._row(sources[task], item.event, found)
        finally:
            feeder.stop()

    @staticmethod
    def _sum(
        batch: _Batch,
        features: dict[str, NDArray[np.float32]],
        sums: dict[int, _Sum],
        on_clip: Callable[[_Owner, dict[str, NDArray[np.float32]]], object] | None,
    ) -> None:
        for place, owner in enumerate(batch.owners):
            sums.setdefault(owner.task, _Sum()).add(owner, features, place)
            if on_clip is not None:
                on_clip(owner, {layer: rows[place] for layer, rows in features.items()})

    def _row(self, source: Source, event: VideoRead | VideoFailed, found: _Sum) -> VideoRow:
        failed: dict[str, Any] = {
            "n_clips": 0,
            "n_frames": 0,
            "n_padded_frames": 0,
            "n_decode_errors": 0,
            "features": {},
        }
        unknown: dict[str, Any] = {"fps": np.nan, "duration_seconds": np.nan, "width": 0, "height": 0}
        common: dict[str, Any] = {
            "video": source.name,
            "seconds": event.seconds,
            "size_bytes": source.size_bytes,
            "mtime_ns": source.mtime_ns,
        }
        if isinstance(event, VideoFailed):
            return VideoRow(status="failed", error=event.reason, **common, **failed, **unknown)
        info = event.info
        facts: dict[str, Any] = {
            "fps": info.fps,
            "duration_seconds": info.duration_seconds,
            "width": info.width,
            "height": info.height,
        }
        if found.n_clips == 0:
            why = f"only {found.n_frames} frames, and --short fail"
            return VideoRow(status="failed", error=why, **common, **failed, **facts)
        if event.trouble is not None and self.settings.strict:
            return VideoRow(status="failed", error=f"{event.trouble} (--strict)", **common, **failed, **facts)
        return VideoRow(
            status="ok" if event.trouble is None else "partial",
            error=event.trouble,
            features=found.means(),
            n_clips=found.n_clips,
            n_frames=found.n_frames,
            n_padded_frames=found.n_padded_frames,
            n_decode_errors=event.n_decode_errors,
            **common,
            **facts,
        )


class Extraction:
    """One run of an Extractor over many files: iterate over it for the outcomes, then read ``summary``.

    Attributes
    ----------
    found
        The videos, and what was passed over.
    progress
        Counts so far.
    summary
        What was written; None until the run has ended.
    """

    def __init__(
        self,
        extractor: Extractor,
        found: Found,
        output: Path,
        *,
        clips: Path | None,
        basis: PcaBasis | None,
        overwrite: bool,
        retry_failed: bool,
        on_error: Literal["skip", "fail"],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.found = found
        self.output = output
        self.summary: Summary | None = None
        self.progress = Progress(n_videos=len(found.videos))
        self._extractor = extractor
        self._on_error = on_error
        self._tell = progress or (lambda _: None)
        self._clips = clips
        settings = extractor.settings
        self._check_pca(len(found.videos), output)
        self._store = RunStore.open(
            output,
            extractor.identity(),
            clips=clips,
            overwrite=overwrite,
            retry_failed=retry_failed,
            pca=settings.pca,
            basis=basis,
            l2=settings.l2,
        )

    def _check_pca(self, n_videos: int, output: Path) -> None:
        """Refuse before any work what could not be fitted at the end."""
        k = self._extractor.settings.pca
        if k is None:
            return
        for layer in self._extractor.settings.layers:
            size = self._extractor.checkpoint.architecture.layer_size(layer)
            if k > size:
                raise PcaError(f"{layer} has only {size} dimensions", subject=f"--pca {k}")
        if n_videos < k and not output.exists():
            raise PcaError(
                f"needs at least {k} videos, and there are {n_videos}",
                subject=f"--pca {k}",
                hint="take fewer dimensions, or a basis fitted elsewhere with --pca-from",
            )

    def __iter__(self) -> Generator[Outcome, None, None]:
        complete = False
        try:
            yield from self._run()
            complete = True
        finally:
            # Also after Ctrl-C, an error, or a loop that was left: what is finished goes into the file.
            with self._store:
                self.summary = self._store.finish(complete=complete, skipped=self.found.passed_over)

    def _run(self) -> Iterator[Outcome]:
        todo: list[Source] = []
        for source in self.found.videos:
            status = self._store.is_done(source.name, source.size_bytes, source.mtime_ns)
            if status is None:
                self.progress.n_changed += self._store.has_changed(
                    source.name, source.size_bytes, source.mtime_ns
                )
                todo.append(source)
                continue
            self.progress.n_skipped += 1
            self.progress.n_failed += status == "failed"
            self.progress.n_partial += status == "partial"
            yield Outcome(source.name, source.path, "skipped", f"{status} in an earlier run")
        self.progress.n_bytes = sum(source.size_bytes for source in todo)
        self.progress.started = time.monotonic()
        if todo:
            yield from self._finish_each(todo)

    def _finish_each(self, todo: list[Source]) -> Iterator[Outcome]:
        rows = _ClipBuffer(self._store, todo) if self._clips is not None else None

        def after_batch() -> None:
            if rows is not None:
                rows.flush()
            self._tell(self.progress)

        stream = self._extractor._stream(  # noqa: SLF001 - two halves of one module
            todo, self.progress, None if rows is None else rows.add, after_batch
        )
        with contextlib.closing(stream):
            for source, row in stream:
                started = time.monotonic()
                self._store.commit(row)
                self.progress.store_seconds += time.monotonic() - started
                self._count(row)
                yield _outcome(source, row)
                if row.status == "failed" and self._on_error == "fail":
                    raise VideoError(
                        row.error or "failed", subject=source.path, hint="--on-error skip goes on without it"
                    )

    def _count(self, row: VideoRow) -> None:
        self.progress.n_bytes_finished += row.size_bytes
        self.progress.n_finished += 1
        self.progress.n_failed += row.status == "failed"
        self.progress.n_partial += row.status == "partial"
        self.progress.n_failed_now += row.status == "failed"
        self.progress.n_partial_now += row.status == "partial"
        self.progress.n_frames += row.n_frames
        self._tell(self.progress)


class _ClipBuffer:
    """Gathers one batch's clip rows for the store, video by video."""

    def __init__(self, store: RunStore, sources: Sequence[Source]) -> None:
        self._store = store
        self._sources = sources
        self._rows: dict[int, list[tuple[_Owner, dict[str, NDArray[np.float32]]]]] = {}

    def add(self, owner: _Owner, features: dict[str, NDArray[np.float32]]) -> None:
        self._rows.setdefault(owner.task, []).append((owner, features))

    def flush(self) -> None:
        for task, rows in self._rows.items():
            owners = [owner for owner, _ in rows]
            clip_rows = ClipRows(
                start_frame=np.array([o.span.start for o in owners], np.int64),
                end_frame=np.array([o.span.end for o in owners], np.int64),
                start_seconds=np.array([o.start_seconds for o in owners]),
                end_seconds=np.array([o.end_seconds for o in owners]),
                features={layer: np.stack([f[layer] for _, f in rows]) for layer in rows[0][1]},
            )
            self._store.append_clips(self._sources[task].name, clip_rows)
        self._rows = {}


def _outcome(source: Source, row: VideoRow) -> Outcome:
    return Outcome(source.name, source.path, row.status, row.error, row.n_clips, row.n_frames)


def _unlike(devices: Sequence[torch.device]) -> list[str]:
    names = [device_name(device) for device in devices]
    if len({name.partition(" ")[2] for name in names}) == 1:
        return []
    chance = "which of them has which clips is chance: another run's features differ in the last digits"
    return [f"{', '.join(names)} round differently, and {chance}"]


def suitable_workers(device_type: str) -> int:
    # On a CPU the network needs every core: one decoder (thousands of frames a second) feeds it many
    # times over. A GPU waits for decoders: all cores but one, which copies and launches.
    cores = usable_cores()
    return max(1, cores // 8) if device_type == "cpu" else max(1, cores - 1)


def library_versions() -> dict[str, str]:
    """Return the versions that can bear on the numbers, as they are written into every file."""
    names = ("c3d-extract", "torch", "av", "numpy", "h5py")
    return {name: version(name) for name in names} | {"python": platform.python_version()}
