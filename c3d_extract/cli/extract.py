"""``c3d-extract``: one plain command; every positional argument is a path."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    guarded,
    note,
    printable,
    put_json,
    run_program,
)
from c3d_extract.cli.completion import complete_layer, complete_preset
from c3d_extract.cli.dry_run import dry_run
from c3d_extract.cli.extract_options import (
    Inputs,
    Options,
    find,
    load_extractor,
    read_inputs,
    run_options,
    settings_of,
)
from c3d_extract.cli.groups import GroupedCommand
from c3d_extract.cli.options import (
    colour_option,
    debug_option,
    device_option,
    json_option,
    mean_option,
    offline_option,
    overwrite_option,
    pool5_option,
    precision_option,
    quiet_option,
    weights_option,
)
from c3d_extract.cli.preset import plan_preset, refuse_other_formats
from c3d_extract.errors import StoreError, UsageError
from c3d_extract.settings import CROPS, SHORT_POLICIES, TAIL_POLICIES

if TYPE_CHECKING:
    from c3d_extract.cli.progress import RunBar
    from c3d_extract.pipeline import Extraction, Extractor, Outcome
    from c3d_extract.settings import ExtractSettings

__all__ = ["command", "main"]

_EXAMPLES = """
\b
Examples:
  c3d-extract videos/ -o feats.h5
  c3d-extract --layer fc6 --pca 10              every video below this folder
  c3d-extract test/ -o test.h5 --pca-from train.pca.h5
  c3d-extract videos/ --preset npy -o arrays/   see c3d-tools export --list
  c3d-extract videos/ --weights motion-mini     a small network that comes with the tool

\b
Exit codes: 0 all done, 1 nothing usable, 2 usage error, 3 some videos failed,
130 interrupted (what was finished is in the file; the same command continues).
"""


def _number_or_auto(context: click.Context, option: click.Parameter, value: str) -> Any:
    del context
    try:
        return value if value == "auto" else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor auto.", param=option) from None


def _number_or_source(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    del context
    try:
        return value if value in {None, "source"} else float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor source.", param=option) from None


_GROUPS = {
    "Input": ("from_file", "frame_folders", "follow_links", "max_pixels"),
    "Network": ("weights", "mean", "pool5", "colour", "layer", "device", "precision", "batch_size"),
    "Clips": ("stride", "tail", "short", "fps", "crops", "l2", "pca", "pca_from"),
    "Output": ("output", "clips", "preset", "overwrite", "as_json"),
    "Running": (
        "workers", "timeout", "on_error", "strict", "retry_failed", "offline", "dry_run", "quiet", "verbose",
        "debug",
    ),
    "Runs in parts, on several machines": ("shard", "ray", "part_size", "retries", "mixed", "scratch"),
}  # fmt: skip
"""Title → options, as the help lists them."""


@click.command(
    cls=GroupedCommand,
    groups=_GROUPS,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "--from-file",
    metavar="LIST",
    help="Read paths from LIST, a text file with one per line or a Parquet table; - is stdin.",
)
@click.option(
    "-o", "--output", default="feats.h5", show_default=True, metavar="FILE", help="The feature file."
)
@weights_option
@mean_option
@pool5_option
@colour_option
@click.option(
    "--layer",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_layer,
    help="Of C3D: conv5b, pool5, fc6, fc7 (after ReLU), fc8, prob; repeatable.  [default: the network's "
    "descriptor; C3D: fc6]",
)
@click.option(
    "--stride",
    type=int,
    metavar="N",
    help="Frames between clip starts; 8 is the paper's half overlap.  [default: a clip's length; C3D: 16]",
)
@click.option(
    "--tail",
    type=click.Choice(TAIL_POLICIES),
    default="drop",
    show_default=True,
    help="Frames after the last whole clip: drop, pad with the last, or move a clip back.",
)
@click.option(
    "--short",
    type=click.Choice(SHORT_POLICIES),
    default="pad",
    show_default=True,
    help="A video with fewer frames than a clip.",
)
@click.option(
    "--fps",
    callback=_number_or_source,
    metavar="F|source",
    help="Resample by time to so many frames per second; gaps over 60 s are reported and not filled. source "
    "takes frames as decoded.  [default: the network's; C3D: source]",
)
@click.option(
    "--crops",
    type=click.Choice(list(CROPS)),
    help="Crops of each clip, averaged into the video's row; five and ten are torchvision's FiveCrop and "
    "TenCrop of the resized frames, each a row of --clips.  [default: centre]",
)
@click.option("--l2", is_flag=True, help="L2-normalise each video's average, as the paper does.")
@click.option("--pca", type=int, metavar="K", help="Fit PCA on this run's videos and keep K dimensions.")
@click.option("--pca-from", metavar="FILE", help="Project with a saved basis (train → test).")
@click.option("--clips", metavar="FILE", help="Also write one row per clip, with frames and seconds.")
@click.option(
    "--preset",
    metavar="NAME",
    shell_complete=complete_preset,
    help="Extract what other code takes and write -o, a folder or file, in its layout; c3d-tools export "
    "--list lists them. The run's own files are beside it: -o with .h5 and .clips.h5 appended.",
)
@device_option(several=True)
@precision_option("auto is the fastest within 1 % of fp32.")
@click.option(
    "--batch-size", type=int, metavar="N", help="Clips per batch; speed only.  [default: by the device]"
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
@overwrite_option("Start over; otherwise finished videos are skipped.")
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option(
    "--on-error",
    type=click.Choice(["skip", "fail"]),
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
@click.option(
    "--shard",
    metavar="I/N|env",
    help="Do every N-th part of a run that N processes share; -o is then a folder, for c3d-tools merge. env "
    "reads Slurm, Kubernetes or torchrun. With --clips each part has its clips.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="auto",
    metavar="[ADDRESS]",
    help="Do a run in parts on a Ray cluster: that of --ray=ADDRESS, of RAY_ADDRESS or of this machine; else "
    "one that is started here.",
)
@click.option(
    "--part-size", type=int, metavar="N", help="With --shard or --ray: videos of a part.  [default: 4096]"
)
@click.option(
    "--scratch",
    metavar="DIR",
    help="Where remote videos and those in archives are put while they are decoded, and with --shard or "
    "--ray the parts are worked on.  [default: the temporary folder]",
)
@click.option(
    "--mixed",
    is_flag=True,
    help="With --shard or --ray: allow processors or GPUs of several models, whose last digits differ.",
)
@click.option(
    "--retries",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --shard or --ray: how often a part is tried before it is done video by video.  [default: 3]",
)
@offline_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="A line per video, and how long each stage took.")
@debug_option
@click.version_option(package_name="c3d-extract", prog_name="c3d-extract")
@guarded
def command(**arguments: Any) -> None:
    """Turn videos into C3D descriptors: one row per video in an HDF5 file.

    PATHS are files, folders (searched recursively) and quoted patterns; without any, the current folder.
    """
    options = Options(**arguments)
    refuse_other_formats(options)
    planned = None if options.preset is None else plan_preset(options)
    options = options if planned is None else planned.options
    inputs, settings = read_inputs(options), settings_of(options)
    _check_parts_options(options)
    if options.dry_run:
        dry_run(options, settings, inputs)
        return
    _interrupt_on_sigterm()
    if options.shard is not None:
        from c3d_extract.cli.shard import run_shard

        sys.exit(run_shard(options, settings, inputs))
    if options.ray is not None:
        from c3d_extract.cli.ray import run_ray

        sys.exit(run_ray(options, settings, inputs))
    if planned is not None and not options.quiet:
        planned.introduce()
    code = _extract(options, settings, inputs)
    if planned is not None:
        planned.export()
    sys.exit(code)


def _check_parts_options(options: Options) -> None:
    """Refuse what belongs to a run in parts alone, and what does not go with one."""
    in_parts = [name for name in ("shard", "ray") if getattr(options, name) is not None]
    for name, is_given in (("--dry-run", options.dry_run), ("--ray", len(in_parts) == 2)):
        if in_parts and is_given:
            raise UsageError(f"does not go with --{in_parts[0]}", subject=name)
    given = {
        "--part-size": options.part_size,
        "--retries": options.retries,
        "--mixed": options.mixed or None,
    }
    for name, value in given.items():
        if value is not None and not in_parts:
            raise UsageError("needs --shard or --ray", subject=name)


def _interrupt_on_sigterm() -> None:
    """Treat SIGTERM (a scheduler's end of time) as Ctrl-C: what is finished is written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _extract(options: Options, settings: ExtractSettings, inputs: Inputs) -> int:
    from c3d_extract.cli.progress import FetchBar, RunBar

    found = find(options, inputs)  # what can be refused cheaply is refused before weights are loaded
    with (
        FetchBar(quiet=options.quiet) as fetch_bar,
        load_extractor(options, settings, fetch_bar) as extractor,
    ):
        _introduce(options, extractor)
        with RunBar(quiet=options.quiet) as bar:
            extraction = extractor.extract_found(found, options.output, **run_options(options, bar.update))
            for warning in extraction.warnings:
                bar.say(f"Warning: {warning}", "yellow")
            failures = _run(options, extraction, bar)
        return _conclude(options, extractor, extraction, failures)


def _introduce(options: Options, extractor: Extractor) -> None:
    if options.quiet:
        return
    checkpoint = extractor.checkpoint
    for remark in checkpoint.notes:
        note(f"Note: {printable(remark)}")
    colour = checkpoint.preprocessing.colour.upper()
    variant = "".join(f"{name} {value}, " for name, value in checkpoint.backbone.variant.items())
    note(
        f"{printable(checkpoint.name)} ({variant}{colour}, "
        f"mean {printable(checkpoint.mean_name)}), {_clips(extractor)}, "
        f"on {', '.join(map(str, extractor.devices))} in {extractor.precision}, "
        + _decoders(extractor.workers, is_auto=options.workers == "auto")
    )


def _clips(extractor: Extractor) -> str:
    settings = extractor.settings
    rate = "as decoded" if settings.fps is None else f"at {settings.fps:g} a second"
    rate = rate if settings.frame_step == 1 else f"{rate}, one of {settings.frame_step}"
    crops = "" if settings.n_crops == 1 else f", {settings.n_crops} crops of each"
    return f"{extractor.checkpoint.backbone.clip[0]} frames a clip {rate}{crops}"


def _decoders(n: int, *, is_auto: bool) -> str:
    up_to = "up to " if is_auto else ""
    return "decoding in this process" if n == 0 else "1 decoder" if n == 1 else f"{up_to}{n} decoders"


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
        bar.say(f"Interrupted: {kept}{where}. The same command continues from here.")
        bar.__exit__()
        sys.exit(EXIT_INTERRUPTED)
    return failures


def _conclude(options: Options, extractor: Extractor, extraction: Extraction, failures: list[Outcome]) -> int:
    from c3d_extract.cli.summary import as_json, sentence, stage_times

    progress, summary = extraction.progress, extraction.summary
    n_rows = summary.n_rows if summary else 0
    if options.as_json:
        put_json(as_json(extractor, extraction, failures))
    if not options.quiet:
        for warning in extractor.warnings:
            note(f"Warning: {warning}")
        note(sentence(extraction))
        if options.verbose:
            note(stage_times(extraction.progress, extractor.workers))
    if n_rows == 0:
        raise StoreError(
            f"none of the {progress.n_videos} videos could be read", hint=f"see {extraction.report}"
        )
    return EXIT_SOME_FAILED if progress.n_failed else 0


def main() -> None:
    """Run ``c3d-extract``."""
    run_program(command, "c3d-extract")
