"""From the arguments of one ``c3d-extract`` command line to videos, settings and an Extractor."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from c3d_extract.errors import FetchError, UsageError
from c3d_extract.object_store import is_address, read_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline import Extractor, Progress
    from c3d_extract.pipeline.run import RunOptions
    from c3d_extract.settings import ExtractSettings
    from c3d_extract.sources.find import Found

__all__ = [
    "Inputs",
    "Options",
    "extractor_loader",
    "find",
    "find_inputs",
    "load_extractor",
    "read_inputs",
    "run_options",
    "settings_of",
]


@dataclass(frozen=True)
class Options:
    """The arguments of one command line; `ExtractSettings` and `Extractor` check their values."""

    paths: tuple[str, ...]
    from_file: str | None
    output: str
    weights: str
    mean: str | None
    pool5: Literal["ceil", "symmetric"] | None
    colour: Literal["bgr", "rgb"] | None
    layer: tuple[str, ...]
    stride: int | None
    tail: Literal["drop", "pad", "back"]
    short: Literal["pad", "loop", "fail"]
    fps: float | Literal["source"] | None
    crops: Literal["centre", "five", "ten"] | None
    l2: bool
    pca: int | None
    pca_from: str | None
    clips: str | None
    preset: str | None
    device: str
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"]
    batch_size: int | None
    workers: int | Literal["auto"]
    overwrite: bool
    retry_failed: bool
    on_error: Literal["skip", "fail"]
    strict: bool
    timeout: float
    max_pixels: int
    frame_folders: bool
    follow_links: bool
    shard: str | None
    ray: str | None
    part_size: int | None
    scratch: str | None
    mixed: bool
    retries: int | None
    offline: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool
    debug: bool


class Inputs(NamedTuple):
    """Paths that were named, which must exist; and paths that were listed, which fail as videos do."""

    named: tuple[str, ...]
    listed: list[str]


def read_inputs(options: Options) -> Inputs:
    """Return the paths of the command line and of ``--from-file``; without any, the current folder."""
    if options.from_file is None:
        return Inputs(options.paths or (".",), [])
    return Inputs(options.paths, _read_list(options.from_file))


def _read_list(name: str) -> list[str]:
    from c3d_extract.sources.path_lists import listed_paths

    subject = f"--from-file {name}"
    if name == "-" and sys.stdin is None:
        raise UsageError("stdin is closed", subject=subject)
    if is_address(name):
        text = read_object(name)
        if text is None:
            raise UsageError("is not there", subject=subject)
        return listed_paths(text, subject=subject)
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", subject=subject) from error
    return listed_paths(text, subject=subject)


def settings_of(options: Options) -> ExtractSettings:
    """Return what changes the numbers."""
    from c3d_extract.settings import ExtractSettings

    if options.pca is not None and options.pca_from is not None:
        raise UsageError("fits a basis, and --pca-from brings one: give one of the two", subject="--pca")
    return ExtractSettings(
        layers=tuple(dict.fromkeys(options.layer)) or None,
        stride=options.stride,
        tail=options.tail,
        short=options.short,
        fps=options.fps,
        crops=options.crops or "centre",
        l2=options.l2,
        pca=options.pca,
        strict=options.strict,
        max_pixels=options.max_pixels,
    )


def find(options: Options, inputs: Inputs) -> Found:
    """Find the videos; UsageError where there is none, StoreError where the outputs cannot be written."""
    from c3d_extract.output import OutputPaths

    paths = OutputPaths.of(Path(options.output), Path(options.clips) if options.clips else None)
    paths.check()
    return find_inputs(options, inputs, exclude=(Path(options.output), *paths.every))


def find_inputs(options: Options, inputs: Inputs, *, exclude: Sequence[Path] = ()) -> Found:
    """Find the videos, without the files of ``exclude``; UsageError where there is none."""
    from c3d_extract.sources.find import find_videos

    found = find_videos(
        inputs.named,
        listed=inputs.listed,
        exclude=exclude,
        frame_folders=options.frame_folders,
        follow_links=options.follow_links,
    )
    found.check_any()
    return found


def extractor_loader(options: Options, settings: ExtractSettings) -> partial[Extractor]:
    """Return what loads the checkpoint and chooses device, precision and workers; picklable."""
    from c3d_extract.pipeline import Extractor

    return partial(
        Extractor.from_weights,
        options.weights,
        settings,
        mean=options.mean,
        pool5=options.pool5,
        colour=options.colour,
        offline=options.offline,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        workers=options.workers,
        timeout_seconds=options.timeout,
    )


def load_extractor(options: Options, settings: ExtractSettings, fetch_bar: FetchBar) -> Extractor:
    """Load an Extractor, fetching its checkpoint where it is not here."""
    try:
        return extractor_loader(options, settings)(fetch_progress=fetch_bar)
    except FetchError as error:
        if "motion-mini" not in str(error.hint):
            error.hint = f"{error.hint}; to try the tool without a download: --weights motion-mini"
        raise


def run_options(options: Options, progress: Callable[[Progress], None] | None = None) -> RunOptions:
    """Return how the run goes; reads the basis of ``--pca-from``."""
    return {
        "clips": options.clips,
        "basis": _basis(options),
        "overwrite": options.overwrite,
        "retry_failed": options.retry_failed,
        "on_error": options.on_error,
        "progress": progress,
        "scratch": options.scratch,
    }


def _basis(options: Options) -> PcaBasis | None:
    from c3d_extract.output import load_basis

    return None if options.pca_from is None else load_basis(Path(options.pca_from))
