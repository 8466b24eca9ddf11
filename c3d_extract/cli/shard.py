"""``c3d-extract … -o RUN/ --shard i/n``: one process of a run in parts; nothing coordinates them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.cli.common import EXIT_SOME_FAILED, note
from c3d_extract.cli.extract_options import extractor_loader, find_inputs, load_extractor
from c3d_extract.errors import LockedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from c3d_extract.cli.extract_options import Inputs, Options
    from c3d_extract.cli.progress import RunBar
    from c3d_extract.distributed.part import PartResult
    from c3d_extract.distributed.plan import Plan
    from c3d_extract.pipeline import Extractor
    from c3d_extract.settings import ExtractSettings

__all__ = ["Shard", "as_planned", "read_shard", "refuse_merged", "run_shard"]


class Shard(NamedTuple):
    """One of ``n_shards`` processes that share a run; ``number`` is 0 to n_shards - 1."""

    number: int
    n_shards: int


def read_shard(text: str, environ: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard that ``--shard`` names: ``i/n``, or ``env`` for what a scheduler sets.

    Read are Slurm's job arrays (SLURM_ARRAY_TASK_ID, …_MIN, …_STEP, …_COUNT), torchrun (RANK, WORLD_SIZE),
    and Kubernetes' indexed jobs (JOB_COMPLETION_INDEX; JOB_COMPLETIONS, which the job has to set to its
    ``completions``).

    Raises
    ------
    UsageError
        For anything else.
    """
    try:
        shard = _of_environment(environ) if text == "env" else Shard(*map(int, text.split("/")))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        hint = "give i/n, such as 0/4, or env"
        raise UsageError(f"cannot be read: {text!r}", subject="--shard", hint=hint) from error
    if not 0 <= shard.number < shard.n_shards:
        raise UsageError(
            f"shards of {shard.n_shards} are 0 to {shard.n_shards - 1}, not {shard.number}", subject="--shard"
        )
    return shard


def _of_environment(environ: Mapping[str, str]) -> Shard:
    def number(name: str) -> int:
        return int(environ[name])

    try:
        if "SLURM_ARRAY_TASK_ID" in environ:
            index = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
            return Shard(index // number("SLURM_ARRAY_TASK_STEP"), number("SLURM_ARRAY_TASK_COUNT"))
        if "JOB_COMPLETION_INDEX" in environ:
            return Shard(number("JOB_COMPLETION_INDEX"), number("JOB_COMPLETIONS"))
        return Shard(number("RANK"), number("WORLD_SIZE"))
    except KeyError as error:
        reason = (
            f"{error.args[0]} is not set: neither Slurm, Kubernetes nor torchrun says which shard this is"
        )
        raise UsageError(reason, subject="--shard env", hint="give i/n, such as 0/4") from error


def run_shard(options: Options, settings: ExtractSettings, inputs: Inputs) -> int:
    """Run the parts of one shard; return the exit code."""
    from c3d_extract.cli.progress import FetchBar, RunBar
    from c3d_extract.distributed.part import numbers_of_shard
    from c3d_extract.distributed.plan import PART_SIZE, plan_run, read_plan
    from c3d_extract.distributed.run_folder import open_run_folder

    shard = read_shard(options.shard or "")
    refuse_merged(options)
    folder = open_run_folder(options.output)
    plan = read_plan(folder)
    found = None if plan else find_inputs(options, inputs)
    if plan is not None:
        options = as_planned(options, plan)
    with FetchBar(quiet=options.quiet) as bar, load_extractor(options, settings, bar) as extractor:
        videos = found.videos if found else []
        with_clips = options.clips is not None
        plan = plan_run(
            folder,
            videos,
            extractor.identity(),
            with_clips=with_clips,
            mixed=options.mixed,
            part_size=PART_SIZE if options.part_size is None else options.part_size,
        )
        numbers = numbers_of_shard(plan, shard.number, shard.n_shards)
        if not options.quiet:
            share = f"{len(numbers)} of {len(plan.parts)} parts"
            note(f"Shard {shard.number} of {shard.n_shards}: {share} in {folder}")
        with RunBar(quiet=options.quiet) as run_bar:
            attempt = _attempt(options, settings, extractor, plan)
            results = [_run_part(attempt, plan, number, run_bar) for number in numbers]
    return EXIT_SOME_FAILED if not all(results) else 0


def _attempt(
    options: Options, settings: ExtractSettings, extractor: Extractor, plan: Plan
) -> Callable[..., PartResult]:
    """Return what does a part of the plan, given its number, as these options say."""
    from c3d_extract.distributed.attempts import DEADLINE_SECONDS, RETRIES, attempt_part

    return partial(
        attempt_part,
        extractor,
        extractor_loader(as_planned(options, plan), settings),
        plan,
        scratch=Path(options.scratch or tempfile.gettempdir()),
        retries=RETRIES if options.retries is None else options.retries,
        deadline_seconds=max(DEADLINE_SECONDS, 10 * options.timeout),
    )


def _run_part(attempt: Callable[..., PartResult], plan: Plan, number: int, bar: RunBar) -> bool:
    """Do one part and print its result; return whether every video of it could be read."""
    try:
        result = attempt(number, progress=bar.update)
    except LockedError:
        bar.say(f"part {number}: another process on this machine is working on it")
        return True
    if result.was_done:
        bar.say(f"part {number}: done before")
    elif result.given_up:
        bar.say(f"part {number}: given up: {result.given_up}", "red")
    else:
        report, output = map(plan.folder.address, (plan.report(number), plan.output(number)))
        failed = f", {result.n_failed} failed (see {report})" if result.n_failed else ""
        bar.say(f"part {number}: {result.n_videos} videos{failed} → {output}")
    return not (result.n_failed or result.given_up)


def refuse_merged(options: Options) -> None:
    """Refuse what depends on all videos, or on one output file."""
    given = {"--l2": options.l2, "--pca": options.pca, "--pca-from": options.pca_from}
    for option, value in given.items():
        if value:
            hint = "c3d-tools merge RUN/ has --l2 and --pca; c3d-tools pca apply projects the merged file"
            raise UsageError("is applied when the parts are merged", subject=option, hint=hint)
    for option, given_now in (("--overwrite", options.overwrite), ("--retry-failed", options.retry_failed)):
        if given_now:
            hint = "delete the parts that are to be done again from RUN/parts/"
            raise UsageError("does not go with a run in parts", subject=option, hint=hint)


def as_planned(options: Options, plan: Plan) -> Options:
    """Return the options with the precision and the batch size that the plan settled, where none is given."""
    planned, size = plan.identity.settings["precision"], plan.identity.versions.get("batch_size", "")
    precision = planned if options.precision == "auto" else options.precision
    planned_size = int(size.partition(",")[0]) if size and not plan.mixed else None
    batch_size = options.batch_size or planned_size
    return replace(options, precision=precision, batch_size=batch_size)
