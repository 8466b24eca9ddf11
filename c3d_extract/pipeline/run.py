"""One run over many files: what is done already, what is committed, what is reported."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Literal, TypedDict

from c3d_extract.compute.batch_size import rounding_factors
from c3d_extract.errors import VideoError, printable
from c3d_extract.pipeline.results import Outcome, Progress, outcome_of
from c3d_extract.pipeline.stream import ClipFeatures, FinishedVideo, failed_row

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from c3d_extract.output import RunStore, Summary, VideoRow
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline.stream import Stream
    from c3d_extract.sources.find import Found
    from c3d_extract.sources.source import Source

__all__ = ["Extraction", "RunOptions"]

_log = logging.getLogger(__name__)


class RunOptions(TypedDict, total=False):
    """How a run over many files goes; every key may be left out.

    clips
        Where to write one row per clip as well.
    basis
        A fitted PCA basis to project with.
    overwrite
        Start from scratch, instead of skipping the videos that an earlier run finished.
    retry_failed
        Try again what failed in an earlier run.
    on_error
        ``fail`` ends the run at the first video that fails; ``skip`` continues.
    progress
        Called after every batch and every video.
    durable
        Wait for the disk after each video, as by default. Without, a finished video survives a kill of the
        process, and no loss of power.
    scratch
        Where objects and members of archives are put while they are decoded, instead of the system's
        temporary folder.
    refused
        Name → reason of videos that fail without being read.
    at_video
        Read the videos one at a time; called with the name of each before it is read, and with None after the
        last: so that a video which ends the process is known afterwards.
    """

    clips: str | os.PathLike[str] | None
    basis: PcaBasis | None
    overwrite: bool
    retry_failed: bool
    on_error: Literal["skip", "fail"]
    progress: Callable[[Progress], None] | None
    durable: bool
    scratch: str | os.PathLike[str] | None
    refused: Mapping[str, str]
    at_video: Callable[[str | None], None] | None


class Extraction:
    """One run of an Extractor over many files: iterate over it for the outcomes, then read ``summary``.

    Its length is the number of videos, each of which has one outcome.

    Made by `Extractor.extract_files`.

    Parameters
    ----------
    found
        The videos, and what was ignored.
    store
        The files of this run, open.
    new_stream
        Gives the stream of the videos that need work.
    options
        How the run goes.

    Attributes
    ----------
    progress
        Counts so far.
    summary
        What was written; None until the run has ended.
    warnings
        What of earlier runs could not be used, and so is done again; and what differs from the run that this
        one resumes, and affects the numbers.
    report
        Where the report is written.
    """

    def __init__(
        self,
        found: Found,
        store: RunStore,
        new_stream: Callable[[Sequence[Source], Progress], AbstractContextManager[Stream]],
        options: RunOptions,
    ) -> None:
        self.found = found
        self.output: Path = store.paths.features
        self.report: Path = store.paths.report
        self.summary: Summary | None = None
        self.progress = Progress(n_videos=len(found.videos))
        self._store = store
        self._new_stream = new_stream
        self._with_clips = options.get("clips") is not None
        self._on_error = options.get("on_error", "skip")
        self._report_progress = options.get("progress") or (lambda _: None)
        self._refused = options.get("refused") or {}
        self._at_video = options.get("at_video")
        unlike = _unlike_before(self.output.name, store.versions_before, store.identity.versions)
        self.warnings: tuple[str, ...] = (*store.warnings, *unlike)

    def __len__(self) -> int:
        return len(self.found.videos)

    def __repr__(self) -> str:
        n_done = self.progress.n_finished + self.progress.n_skipped
        return f"<Extraction to {self.output}: {n_done} of {len(self)} videos>"

    def __iter__(self) -> Generator[Outcome, None, None]:
        complete = False
        for warning in self.warnings:
            _log.warning("%s", warning)
        try:
            yield from self._run()
            complete = True
        finally:
            # Also after Ctrl-C, an error, or a loop that was left: what is finished goes into the file.
            with self._store:
                self.summary = self._store.finish(complete=complete, skipped=self.found.ignored)

    def _run(self) -> Iterator[Outcome]:
        todo: list[Source] = []
        for source in self.found.videos:
            status = self._store.is_done(source.name, source.size_bytes, source.mtime_ns)
            if status is not None:
                yield self._skip(source, status)
                continue
            if source.name in self._refused:
                yield from self._commit(
                    [FinishedVideo(source, failed_row(source, self._refused[source.name]))]
                )
                continue
            todo.append(source)
            changed = self._store.has_changed(source.name, source.size_bytes, source.mtime_ns)
            self.progress.n_changed += changed
        self.progress.n_bytes = sum(source.size_bytes for source in todo)
        self.progress.started = time.monotonic()
        if self._at_video is not None:
            yield from self._finish_in_turn(todo, self._at_video)
        elif todo:
            yield from self._finish_each(todo)

    def _skip(self, source: Source, status: str) -> Outcome:
        self.progress.n_skipped += 1
        self.progress.n_failed += status == "failed"
        self.progress.n_partial += status == "partial"
        return Outcome(source.name, source.location, "skipped", f"{status} in an earlier run")

    def _finish_in_turn(
        self, todo: list[Source], at_video: Callable[[str | None], None]
    ) -> Iterator[Outcome]:
        for source in todo:
            at_video(source.name)
            yield from self._finish_each([source])
        at_video(None)

    def _finish_each(self, todo: list[Source]) -> Iterator[Outcome]:
        with self._new_stream(todo, self.progress) as stream:
            for item in stream:
                if isinstance(item, ClipFeatures):
                    self._append_clips(item, todo)
                    self._report_progress(self.progress)
                else:
                    yield from self._commit(item)

    def _append_clips(self, clips: ClipFeatures, todo: list[Source]) -> None:
        if self._with_clips:
            for video, rows in clips.by_video(todo):
                self._store.append_clips(video, rows)

    def _commit(self, videos: Sequence[FinishedVideo]) -> Iterator[Outcome]:
        """Store videos, and wait once until they are on disk; then yield their outcomes."""
        started = time.monotonic()
        self._store.commit(*(video.row for video in videos))
        self.progress.store_seconds += time.monotonic() - started
        for video in videos:
            self._count(video.row)
            yield outcome_of(video.source, video.row)
            self._check_error(video)

    def _check_error(self, video: FinishedVideo) -> None:
        if video.row.status == "failed" and self._on_error == "fail":
            reason = video.row.error or "failed"
            hint = "--on-error skip continues without it"
            raise VideoError(reason, subject=video.source.location, hint=hint)

    def _count(self, row: VideoRow) -> None:
        if row.status != "ok":
            _log.warning("%s: %s: %s", row.status, printable(row.video), row.error)
        self.progress.n_bytes_finished += row.size_bytes
        self.progress.n_finished += 1
        self.progress.n_failed += row.status == "failed"
        self.progress.n_partial += row.status == "partial"
        self.progress.n_failed_now += row.status == "failed"
        self.progress.n_partial_now += row.status == "partial"
        self.progress.n_frames += row.n_frames
        self._report_progress(self.progress)


def _unlike_before(name: str, before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Warn where the videos done before were computed by other kernels than the rest will be."""
    if not before.get("batch_size") or rounding_factors(before) == rounding_factors(now):
        return ()
    was, here = (f"{v['device']} in batches of {v['batch_size']}" for v in (before, now))
    why = f"{name} was begun on {was} and continues on {here}: last digits can differ"
    if before["device"] == now["device"]:
        why += f"; --batch-size {before['batch_size'].partition(',')[0]} continues as before"
    return (why,)
