"""Extractors that fail at certain videos, for the processes of tests; importable by other processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conftest import MEAN

from c3d_extract import Extractor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from c3d_extract.pipeline import Progress
    from c3d_extract.pipeline.stream import Stream
    from c3d_extract.sources.source import Source


def load(weights: str, faults: dict[str, str] | None = None, **run: Any) -> Extractor:
    """Make an Extractor that does ``faults[name]`` when it begins to read the video of that name.

    SIGKILL and SIGSTOP are sent to its own process; ``raise`` raises a RuntimeError; ``sleep`` does not end.
    ``once:PATH:FAULT`` does so where the file is missing, and writes its process number there. The name ``*``
    is the loading itself.
    """
    faults = faults or {}
    commit_fault(faults.get("*"))
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32", "batch_size": 4, "workers": 1} | run
    extractor = Extractor.from_weights(weights, mean=MEAN, **options)
    stream = extractor._stream

    @contextlib.contextmanager
    def faulty(
        sources: Sequence[Source], progress: Progress, scratch: Path | None = None
    ) -> Iterator[Stream]:
        for source in sources:
            commit_fault(faults.get(source.name))
        with stream(sources, progress, scratch) as real:
            yield real

    extractor._stream = faulty  # type: ignore[method-assign]
    return extractor


def commit_fault(fault: str | None) -> None:
    if fault is None:
        return
    if fault.startswith("once:"):
        _, path, fault = fault.split(":")
        if Path(path).exists():
            return
        Path(path).write_text(str(os.getpid()))
    if fault == "raise":
        raise RuntimeError("injected")
    if fault == "sleep":
        time.sleep(3600)
    os.kill(os.getpid(), signal.Signals[fault])
