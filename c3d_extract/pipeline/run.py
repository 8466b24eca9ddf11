"""One run over many files: what is done already, what is committed, what is told."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Literal

import numpy as np

from c3d_extract.compute.network import rounding
from c3d_extract.errors import PcaError, VideoError
from c3d_extract.output import ClipRows, RunStore, Summary
from c3d_extract.pipeline.results import Outcome, Progress, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.output import VideoRow
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline.extractor import Extractor
    from c3d_extract.pipeline.feeder import Owner
    from c3d_extract.sources.find import Found, Source

__all__ = ["Extraction", "check_pca"]


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
    warnings
        What of earlier runs could not be used, and so is done again; and what is unlike the run that this
        one goes on with, and bears on the numbers.
    report
        Where the report is written.
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
        check_pca(extractor, len(found.videos), output)
        identity = extractor.identity()
        self._store = RunStore.open(
            output,
            identity,
            clips=clips,
            overwrite=overwrite,
            retry_failed=retry_failed,
            pca=settings.pca,
            basis=basis,
            l2=settings.l2,
        )
        before = {} if overwrite else self._store.versions_before()
        self.warnings = (*self._store.warnings, *_unlike_before(output.name, before, identity.versions))
        self.report = self._store.paths.report

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

        stream = self._extractor._stream(  # noqa: SLF001 - two halves of one package
            todo, self.progress, None if rows is None else rows.add, after_batch
        )
        with contextlib.closing(stream):
            for source, row in stream:
                started = time.monotonic()
                self._store.commit(row)
                self.progress.store_seconds += time.monotonic() - started
                self._count(row)
                yield outcome_of(source, row)
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


def check_pca(extractor: Extractor, n_videos: int, output: Path) -> None:
    """Refuse before any work what could not be fitted at the end."""
    k = extractor.settings.pca
    if k is None:
        return
    for layer in extractor.settings.layers:
        size = extractor.checkpoint.architecture.layer_size(layer)
        if k > size:
            raise PcaError(f"{layer} has only {size} dimensions", subject=f"--pca {k}")
    if n_videos < k and not output.exists():
        raise PcaError(
            f"needs at least {k} videos, and there are {n_videos}",
            subject=f"--pca {k}",
            hint="take fewer dimensions, or a basis fitted elsewhere with --pca-from",
        )


def _unlike_before(name: str, before: dict[str, str], now: dict[str, str]) -> tuple[str, ...]:
    """Warn where the videos done before were computed by other kernels than the rest will be."""
    if not before.get("batch_size") or rounding(before) == rounding(now):
        return ()
    was, here = (f"{v['device']} in batches of {v['batch_size']}" for v in (before, now))
    why = f"{name} was begun on {was} and goes on on {here}: last digits can differ"
    if before["device"] == now["device"]:
        why += f"; --batch-size {before['batch_size'].partition(',')[0]} goes on as before"
    return (why,)


class _ClipBuffer:
    """Gathers one batch's clip rows for the store, video by video."""

    def __init__(self, store: RunStore, sources: Sequence[Source]) -> None:
        self._store = store
        self._sources = sources
        self._rows: dict[int, list[tuple[Owner, dict[str, NDArray[np.float32]]]]] = {}

    def add(self, owner: Owner, features: dict[str, NDArray[np.float32]]) -> None:
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
