"""``c3d-extract``: one plain command; every positional word is a path."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from c3d_extract.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    debug_option,
    guarded,
    note,
    printable,
    put_json,
    run_program,
)
from c3d_extract.errors import FetchError, StoreError, UsageError
from c3d_extract.settings import SHORT_POLICIES, TAIL_POLICIES

if TYPE_CHECKING:
    from c3d_extract.cli.progress import FetchBar, RunBar
    from c3d_extract.output import RunStore, State
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.pipeline import Extraction, Extractor, Outcome, Progress
    from c3d_extract.settings import ExtractSettings
    from c3d_extract.sources.find import Found, Source

__all__ = ["command", "main"]

_EXAMPLES = """
\b
Examples:
  c3d-extract videos/ -o feats.h5
  c3d-extract --layer fc6 --pca 10              every video below this folder
  c3d-extract test/ -o test.h5 --pca-from train.pca.h5
  c3d-extract videos/ --weights motion-mini     a small net that comes with the tool

\b
Exit codes: 0 all done, 1 nothing usable, 2 wrong use, 3 some videos failed,
130 interrupted (what was finished is in the file; the same command goes on).
"""


@dataclass(frozen=True)
class Options:
    """The words of one command line; `ExtractSettings` and `Extractor` check their values."""

    paths: tuple[str, ...]
    from_file: str | None
    output: str
    weights: str
    mean: str | None
    pool5: Literal["ceil", "symmetric"] | None
    colour: Literal["bgr", "rgb"] | None
    layer: tuple[str, ...]
    stride: int
    tail: Literal["drop", "pad", "back"]
    short: Literal["pad", "loop", "fail"]
    fps: float | None
    l2: bool
    pca: int | None
    pca_from: str | None
    clips: str | None
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
    offline: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool
    debug: bool


def _number_or_auto(context: click.Context, option: click.Parameter, value: Any) -> Any:
    return value if value == "auto" else click.INT.convert(value, option, context)


def _choice(*values: str) -> click.Choice[str]:
    return click.Choice(values)


@click.command(
    epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--from-file", metavar="LIST", help="Read paths from LIST, one a line; - is stdin.")
@click.option(
    "-o", "--output", default="feats.h5", show_default=True, metavar="FILE", help="The feature file."
)
@click.option(
    "--weights",
    default="sports1m",
    show_default=True,
    metavar="NAME|FILE",
    help="A registered name or a checkpoint.",
)
@click.option(
    "--mean", metavar="FILE|B,G,R", help="Binaryproto, npy or three numbers.  [default: the checkpoint's]"
)
@click.option("--pool5", type=_choice("ceil", "symmetric"), help="Override how the checkpoint rounds pool5.")
@click.option("--colour", type=_choice("bgr", "rgb"), help="Override the checkpoint's channel order.")
@click.option(
    "--layer",
    multiple=True,
    default=("fc6",),
    show_default=False,
    metavar="NAME",
    help="conv5b, pool5, fc6, fc7 (after ReLU), fc8, prob; repeatable.  [default: fc6]",
)
@click.option(
    "--stride",
    default=16,
    show_default=True,
    help="Frames between clip starts; 8 is the paper's half overlap.",
)
@click.option(
    "--tail",
    type=_choice(*TAIL_POLICIES),
    default="drop",
    show_default=True,
    help="Frames after the last whole clip: drop, pad with the last, or move a clip back.",
)
@click.option(
    "--short",
    type=_choice(*SHORT_POLICIES),
    default="pad",
    show_default=True,
    help="A video of fewer than 16 frames.",
)
@click.option(
    "--fps",
    type=float,
    help="Resample by time to so many frames a second; gaps of more than 60 s are not filled, and told.  "
    "[default: as decoded]",
)
@click.option("--l2", is_flag=True, help="L2-normalise each video's average, as the paper does.")
@click.option("--pca", type=int, metavar="K", help="Fit PCA on this run's videos and keep K dimensions.")
@click.option("--pca-from", metavar="FILE", help="Project with a saved basis (train → test).")
@click.option("--clips", metavar="FILE", help="Also write one row a clip, with frames and seconds.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cpu, cuda, cuda:N, mps; cuda:0,cuda:1 or all for several.",
)
@click.option(
    "--precision",
    type=_choice("auto", "fp32", "tf32", "bf16", "fp16"),
    default="auto",
    show_default=True,
    help="auto is the fastest within 1 % of fp32.",
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Clips a pass; speed only.  [default: by the device]"
)
@click.option(
    "--workers",
    callback=_number_or_auto,
    default="auto",
    show_default=True,
    metavar="N",
    help="Decoder processes; speed only. 0 decodes without any: a video that crashes the decoder then ends "
    "the run, and --timeout ends nothing.",
)
@click.option("--overwrite", is_flag=True, help="Start afresh; else finished videos are skipped.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option(
    "--on-error",
    type=_choice("skip", "fail"),
    default="skip",
    show_default=True,
    help="Go on without a video that fails, or end the run.",
)
@click.option("--strict", is_flag=True, help="Count a video that is only partly decodable as failed.")
@click.option(
    "--timeout",
    type=float,
    default=60.0,
    show_default=True,
    metavar="S",
    help="Give a video up after S seconds without a decoded frame.",
)
@click.option(
    "--max-pixels", type=int, default=1 << 26, show_default=True, metavar="N", help="Refuse larger frames."
)
@click.option("--frame-folders", is_flag=True, help="A folder of numbered images is a video.")
@click.option("--follow-links", is_flag=True, help="Follow links to folders outside those that are searched.")
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option("-v", "--verbose", is_flag=True, help="A line a video, and where the time went.")
@debug_option
@click.version_option(package_name="c3d-extract", prog_name="c3d-extract")
@guarded
def command(**words: Any) -> None:
    """Turn videos into C3D descriptors: one row a video in an HDF5 file.

    PATHS are files, folders (searched recursively) and quoted patterns; without any, the current folder.
    """
    options = Options(**words)
    inputs = _inputs(options)
    settings = _settings(options)
    if options.dry_run:
        _dry_run(options, settings, inputs)
        return
    _interrupt_on_sigterm()
    sys.exit(_extract(options, settings, inputs))


class Inputs(NamedTuple):
    """Paths that were named, which must exist; and paths that were listed, which fail as videos do."""

    named: tuple[str, ...]
    listed: list[str]


def _inputs(options: Options) -> Inputs:
    if options.from_file is None:
        return Inputs(options.paths or (".",), [])
    return Inputs(options.paths, _read_list(options.from_file))


def _read_list(name: str) -> list[str]:
    from c3d_extract.sources.find import listed_paths

    subject = f"--from-file {name}"
    if name == "-" and sys.stdin is None:
        raise UsageError("stdin is closed", subject=subject)
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", subject=subject) from error
    return listed_paths(text, subject=subject)


def _settings(options: Options) -> ExtractSettings:
    from c3d_extract.settings import ExtractSettings

    if options.pca is not None and options.pca_from is not None:
        raise UsageError("fits a basis, and --pca-from brings one: give one of the two", subject="--pca")
    return ExtractSettings(
        layers=tuple(dict.fromkeys(options.layer)),
        stride=options.stride,
        tail=options.tail,
        short=options.short,
        fps=options.fps,
        l2=options.l2,
        pca=options.pca,
        strict=options.strict,
        max_pixels=options.max_pixels,
    )


def _interrupt_on_sigterm() -> None:
    """Treat SIGTERM (a scheduler's end of time) as Ctrl-C: what is finished is written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _extract(options: Options, settings: ExtractSettings, inputs: Inputs) -> int:
    from c3d_extract.cli.progress import FetchBar, RunBar

    found = _find(options, inputs)  # what can be refused cheaply is refused before weights are loaded
    with FetchBar(quiet=options.quiet) as fetch_bar, _extractor(options, settings, fetch_bar) as extractor:
        _introduce(options, extractor)
        with RunBar(quiet=options.quiet) as bar:
            extraction = extractor.extract_found(
                found,
                options.output,
                clips=options.clips,
                basis=_basis(options),
                overwrite=options.overwrite,
                retry_failed=options.retry_failed,
                on_error=options.on_error,
                progress=bar.update,
            )
            for warning in extraction.warnings:
                bar.say(f"Warning: {warning}", "yellow")
            failures = _run(options, extraction, bar)
        return _conclude(options, extractor, extraction, failures)


def _find(options: Options, inputs: Inputs) -> Found:
    from c3d_extract.output import OutputPaths
    from c3d_extract.sources.find import find_videos

    paths = OutputPaths.of(Path(options.output), Path(options.clips) if options.clips else None)
    paths.check()
    found = find_videos(
        inputs.named,
        listed=inputs.listed,
        ours=(Path(options.output), *paths.every),
        frame_folders=options.frame_folders,
        follow_links=options.follow_links,
    )
    found.check_any()
    return found


def _extractor(options: Options, settings: ExtractSettings, fetch_bar: FetchBar) -> Extractor:
    from c3d_extract.pipeline import Extractor

    try:
        return Extractor.from_weights(
            options.weights,
            settings,
            mean=options.mean,
            pool5=options.pool5,
            colour=options.colour,
            offline=options.offline,
            fetch_progress=fetch_bar,
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
            workers=options.workers,
            timeout_seconds=options.timeout,
        )
    except FetchError as error:
        error.hint = f"{error.hint}; to try the tool without a download: --weights motion-mini"
        raise


def _basis(options: Options) -> PcaBasis | None:
    from c3d_extract.output import load_basis

    return None if options.pca_from is None else load_basis(Path(options.pca_from))


def _introduce(options: Options, extractor: Extractor) -> None:
    if options.quiet:
        return
    checkpoint = extractor.checkpoint
    for remark in checkpoint.notes:
        note(f"Note: {printable(remark)}")
    arch, colour = checkpoint.architecture, checkpoint.preprocessing.colour
    note(
        f"{printable(checkpoint.name)} (pool5 {arch.pool5}, {colour.upper()}, "
        f"mean {printable(checkpoint.mean_name)}) "
        f"on {', '.join(map(str, extractor.devices))} in {extractor.precision}, "
        + _decoders(extractor.workers)
    )


def _decoders(n: int) -> str:
    return "decoding in this process" if n == 0 else "1 decoder" if n == 1 else f"{n} decoders"


def _run(options: Options, extraction: Extraction, bar: RunBar) -> list[Outcome]:
    """Run to the end or to Ctrl-C; return the videos that failed in this run."""
    failures = []
    try:
        for outcome in extraction:
            if outcome.status == "failed":
                failures.append(outcome)
                bar.say(f"failed: {printable(outcome.video)}: {outcome.error}", "red")
            elif outcome.status == "partial":
                bar.say(f"partial: {printable(outcome.video)}: {outcome.error}", "yellow")
            elif options.verbose:
                detail = outcome.error or f"{outcome.n_frames} frames, {outcome.n_clips} clips"
                bar.say(f"{outcome.status}: {printable(outcome.video)}: {detail}")
            bar.update(extraction.progress)
    except KeyboardInterrupt:
        summary = extraction.summary
        kept = f"{extraction.progress.n_finished} videos finished in this run are kept"
        where = f"; {extraction.output} has {summary.n_rows} rows" if summary and summary.n_rows else ""
        bar.say(f"Interrupted: {kept}{where}. The same command goes on from here.")
        bar.__exit__()
        sys.exit(EXIT_INTERRUPTED)
    return failures


def _conclude(options: Options, extractor: Extractor, extraction: Extraction, failures: list[Outcome]) -> int:
    progress, summary = extraction.progress, extraction.summary
    n_rows = summary.n_rows if summary else 0
    if options.as_json:
        put_json(_as_json(extractor, extraction, failures))
    if not options.quiet:
        for warning in extractor.warnings:
            note(f"Warning: {warning}")
        note(_sentence(extraction))
        if options.verbose:
            note(_where_time_went(extraction.progress, extractor.workers))
    if n_rows == 0:
        raise StoreError(
            f"none of the {progress.n_videos} videos could be read", hint=f"see {_report(extraction)}"
        )
    return EXIT_SOME_FAILED if progress.n_failed else 0


def _sentence(extraction: Extraction) -> str:
    counts, summary = extraction.progress, extraction.summary
    parts = [f"{counts.n_finished - counts.n_failed_now} done"]
    parts += [f"{counts.n_partial_now} of them only in part"] if counts.n_partial_now else []
    parts += [f"{counts.n_changed} of them again, as their files changed"] if counts.n_changed else []
    parts += [f"{counts.n_skipped} skipped as finished before"] if counts.n_skipped else []
    parts += [f"{counts.n_failed} failed (see {_report(extraction)})"] if counts.n_failed else []
    passed = len(extraction.found.passed_over)
    parts += [f"{passed} other files passed over"] if passed else []
    rows = summary.n_rows if summary else 0
    speed = f" in {_clock(counts.seconds)}" if counts.n_finished else ""
    return f"{counts.n_videos} videos: {', '.join(parts)}{speed} → {extraction.output} ({rows} rows)"


def _clock(seconds: float) -> str:
    from c3d_extract.cli.progress import clock

    return clock(seconds)


def _report(extraction: Extraction) -> str:
    return str(extraction.report)


def _where_time_went(counts: Progress, workers: int) -> str:
    """Say each stage's seconds and its share of the run: what is near 100 % is what the run waited for."""
    seconds = max(counts.seconds, 1e-9)
    decoders = min(max(workers, 1), max(counts.n_finished, 1))

    def share(part: float, of: float = seconds) -> str:
        return f"{part:.1f} s ({part / of:.0%})"

    rate = counts.n_frames / seconds
    decoding = share(counts.decode_seconds, seconds * decoders)
    lines = (
        f"Time: {seconds:.1f} s for {counts.n_clips} clips, {counts.n_frames} frames: {rate:.0f} frames/s",
        f"  network    {share(counts.network_seconds)}, waited for decoders {share(counts.waiting_seconds)}",
        f"  decoders   {decoding} of {decoders}, with their waiting for the network",
        f"  hand-over  {share(counts.handover_seconds)}, beside the network",
        f"  storing    {share(counts.store_seconds)}; first batch after {counts.startup_seconds:.1f} s",
    )
    return "\n".join(lines)


def _as_json(extractor: Extractor, extraction: Extraction, failures: list[Outcome]) -> dict[str, Any]:
    counts, summary = extraction.progress, extraction.summary
    seconds = max(counts.seconds, 1e-9)
    return {
        "output": str(extraction.output),
        "written": [str(path) for path in summary.written] if summary else [],
        "n_rows": summary.n_rows if summary else 0,
        "n_videos": counts.n_videos,
        "n_done": counts.n_finished - counts.n_failed_now,
        "n_partial": counts.n_partial,
        "n_changed": counts.n_changed,
        "n_skipped": counts.n_skipped,
        "n_failed": counts.n_failed,
        "n_passed_over": len(extraction.found.passed_over),
        "failed": [{"video": outcome.video, "error": outcome.error} for outcome in failures],
        "n_clips": counts.n_clips,
        "n_frames": counts.n_frames,
        "seconds": round(seconds, 3),
        "startup_seconds": round(counts.startup_seconds, 3),
        "network_seconds": round(counts.network_seconds, 3),
        "waiting_seconds": round(counts.waiting_seconds, 3),
        "handover_seconds": round(counts.handover_seconds, 3),
        "decode_seconds": round(counts.decode_seconds, 3),
        "store_seconds": round(counts.store_seconds, 3),
        "device": ",".join(map(str, extractor.devices)),
        "precision": extractor.precision,
        "weights": extractor.checkpoint.identity(),
        "warnings": [*extractor.checkpoint.notes, *extraction.warnings, *extractor.warnings],
    }


_STATES: dict[State, str] = {
    "new": "new",
    "changed": "changed since they were done",
    "failed": "failed before",
    "journaled": "done in an unfinished run",
    "done": "done",
}


def _dry_run(options: Options, settings: ExtractSettings, inputs: Inputs) -> None:
    """Say what a run would do, or refuse as it would; nothing is fetched, decoded or written."""
    found = _find(options, inputs)
    with _preview(options, settings, found) as store:
        plan = [
            (source, store.state(source.name, source.size_bytes, source.mtime_ns)) for source in found.videos
        ]
    if options.as_json:
        put_json(_plan_as_json(options, settings, found, plan) | {"warnings": store.warnings})
        return
    for source, state in plan:
        if _is_todo(state, options):
            click.echo(printable(source.name) + ("" if state == "new" else f"\t{state}"))
        elif options.verbose:
            note(f"skipped: {printable(source.name)}: {_STATES[state]}")
    if not options.quiet:
        for warning in store.warnings:
            note(f"Warning: {warning}")
        note(_plan_in_words(options, settings, found, plan))


def _is_todo(state: State, options: Options) -> bool:
    return state in {"new", "changed"} or (state == "failed" and options.retry_failed)


def _plan_as_json(
    options: Options, settings: ExtractSettings, found: Found, plan: list[tuple[Source, State]]
) -> dict[str, Any]:
    todo = [
        {"video": source.name, "path": str(source.path), "size_bytes": source.size_bytes, "state": state}
        for source, state in plan
        if _is_todo(state, options)
    ]
    counts = Counter(state for _, state in plan)
    return {
        "output": options.output,
        "weights": options.weights,
        "settings": settings.to_json(),
        "n_videos": len(plan),
        "todo": todo,
        "counts": {state: counts[state] for state in _STATES},
        "passed_over": found.passed_over,
    }


def _plan_in_words(
    options: Options, settings: ExtractSettings, found: Found, plan: list[tuple[Source, State]]
) -> str:
    counts = Counter(state for _, state in plan)
    sizes = [source.size_bytes for source, state in plan if _is_todo(state, options)]
    summary = (
        f"Would extract {', '.join(settings.layers)} of {len(sizes)} of {len(plan)} videos "
        f"({sum(sizes) / 1e6:.1f} MB) with {options.weights} into {options.output}; "
        f"{len(found.passed_over)} other files passed over"
    )
    lines = [summary]
    for word, todo in (("To do", True), ("Skipped", False)):
        states = [state for state in _STATES if counts[state] and _is_todo(state, options) == todo]
        if states:
            lines.append(f"{word}: {', '.join(f'{counts[state]} {_STATES[state]}' for state in states)}")
    return "\n".join(lines)


def _preview(options: Options, settings: ExtractSettings, found: Found) -> RunStore:
    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.output import RunStore
    from c3d_extract.pipeline.run import check_pca

    output, identity = Path(options.output), None
    try:
        with _extractor(replace(options, offline=True), settings, FetchBar(quiet=True)) as extractor:
            check_pca(extractor, len(found.videos), output)
            identity = extractor.identity()
    except FetchError as error:
        note(f"Note: {error.reason}; earlier runs are taken to have had the same settings")
    return RunStore.preview(
        output,
        identity,
        clips=Path(options.clips) if options.clips else None,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        pca=settings.pca,
        basis=_basis(options),
        l2=settings.l2,
    )


def main() -> None:
    """Run ``c3d-extract``."""
    run_program(command, "c3d-extract")
