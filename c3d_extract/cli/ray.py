"""``c3d-extract … -o RUN/ --ray [ADDRESS]``: a run in parts on a Ray cluster, driven by this process."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from c3d_extract.cli.common import EXIT_INTERRUPTED, EXIT_SOME_FAILED, note
from c3d_extract.cli.extract_options import extractor_loader, find_inputs
from c3d_extract.cli.shard import as_planned, refuse_merged
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.cli.extract_options import Inputs, Options
    from c3d_extract.distributed.driver import RunState
    from c3d_extract.distributed.plan import Plan
    from c3d_extract.distributed.ray import RayCluster
    from c3d_extract.settings import ExtractSettings

__all__ = ["run_ray"]


def run_ray(options: Options, settings: ExtractSettings, inputs: Inputs) -> int:
    """Run every part on the cluster; return the exit code."""
    from c3d_extract.distributed.plan import PART_SIZE, plan_run, read_plan
    from c3d_extract.distributed.ray import RayCluster, connect
    from c3d_extract.distributed.run_folder import open_run_folder

    address = _checked(options)
    folder = open_run_folder(options.output)
    plan = read_plan(folder)
    found = None if plan else find_inputs(options, inputs)
    options = _for_workers(options)
    if plan is not None:
        options = as_planned(options, plan)
    say = (lambda _: None) if options.quiet else note
    with connect(address):
        cluster = RayCluster(options.device)
        if options.workers == "auto":
            options = replace(options, workers=cluster.n_workers)
        identity, host = cluster.identify(extractor_loader(options, settings), say)
        plan = plan_run(
            folder,
            found.videos if found else [],
            identity,
            with_clips=options.clips is not None,
            mixed=options.mixed,
            part_size=PART_SIZE if options.part_size is None else options.part_size,
        )
        device = f"{identity.versions['device']} ({host}) in {identity.settings['precision']}"
        say(f"{len(plan.parts)} parts in {folder.address()}, {device}; a task takes {cluster.needs()}")
        return _conclude(_drive(options, settings, cluster, plan), plan, say)


def _checked(options: Options) -> str:
    """Return the address, after what can be refused at once."""
    refuse_merged(options)
    address = options.ray or "auto"
    if address != "auto" and Path(address).exists():
        hint = "put the inputs first, or write --ray=ADDRESS"
        raise UsageError("is a path, not the address of a cluster", subject=f"--ray {address}", hint=hint)
    if options.device not in {"auto", "cpu", "cuda"}:
        hint = "each task has one GPU: give auto, cuda or cpu"
        raise UsageError(f"does not go with --device {options.device}", subject="--ray", hint=hint)
    return address


def _for_workers(options: Options) -> Options:
    """Return the options with absolute paths: workers have other current folders."""
    from c3d_extract.weights.registry import load_registry

    known = options.weights in load_registry().checkpoints
    return replace(
        options,
        weights=options.weights if known else _absolute(options.weights),
        mean=options.mean and _absolute(options.mean),
    )


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if Path(path).is_file() else path


def _drive(options: Options, settings: ExtractSettings, cluster: RayCluster, plan: Plan) -> RunState:
    from c3d_extract.cli.progress import RunBar
    from c3d_extract.distributed.attempts import DEADLINE_SECONDS, RETRIES
    from c3d_extract.distributed.driver import Driver
    from c3d_extract.distributed.ray import Job

    deadline = max(DEADLINE_SECONDS, 10 * options.timeout)
    load = extractor_loader(as_planned(options, plan), settings)
    scratch = Path(options.scratch).absolute() if options.scratch else None
    cluster.begin(Job(plan.folder.address(), load, scratch, deadline))
    retries = RETRIES if options.retries is None else options.retries
    with RunBar(quiet=options.quiet) as bar:
        driver = Driver(cluster, plan, retries=retries, deadline_seconds=deadline, say=bar.say)
        state = driver.state
        try:
            driver.run(lambda now: bar.update(now.counts, f"{now.n_parts_done}/{now.n_parts} parts, "))
        except KeyboardInterrupt:
            done = f"{state.n_parts_done} of {state.n_parts} parts are done"
            bar.say(f"Interrupted: {done}. The same command continues from here.")
            bar.__exit__()
            sys.exit(EXIT_INTERRUPTED)
    return state


def _conclude(state: RunState, plan: Plan, say: Callable[[str], None]) -> int:
    folder = plan.folder.address()
    n_failed, n_given_up = state.counts.n_failed, state.n_parts_given_up
    failed = f", {n_failed} videos failed in this run" if n_failed else ""
    say(f"{state.n_parts_done} of {state.n_parts} parts are done{failed}")
    merge = f"c3d-tools merge {folder} -o feats.h5"
    if n_given_up:
        records = plan.folder.address("failed")
        say(f"{n_given_up} parts were given up (see {records}); the same command tries them again")
        merge += " --allow-missing"
    say(f"{merge} makes one file of them")
    return EXIT_SOME_FAILED if n_failed or n_given_up else 0
