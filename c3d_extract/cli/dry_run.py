"""``c3d-extract --dry-run``: what a run would do with each video, without changing anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from c3d_extract.cli.common import note, printable, put_json
from c3d_extract.cli.extract_options import find, load_extractor, run_options
from c3d_extract.errors import FetchError

if TYPE_CHECKING:
    from c3d_extract.cli.extract_options import Inputs, Options
    from c3d_extract.models.base import Backbone
    from c3d_extract.output import RunIdentity, RunStore, State
    from c3d_extract.settings import ExtractSettings, ResolvedSettings
    from c3d_extract.sources.find import Found, Source

__all__ = ["dry_run"]

_STATES: dict[State, str] = {
    "new": "new",
    "changed": "changed since they were done",
    "failed": "failed before",
    "journaled": "done in an unfinished run",
    "done": "done",
}


class _Preview(NamedTuple):
    """What a run would do: its settings, and what is known of each video."""

    settings: ResolvedSettings
    found: Found
    states: list[tuple[Source, State]]
    warnings: list[str]


def dry_run(options: Options, settings: ExtractSettings, inputs: Inputs) -> None:
    """Return what a run would do, or refuse as it would; nothing is fetched, decoded or written."""
    preview = _look(options, settings, find(options, inputs))
    if options.as_json:
        put_json(_as_json(options, preview))
        return
    for source, state in preview.states:
        if _is_todo(state, options):
            click.echo(printable(source.name) + ("" if state == "new" else f"\t{state}"))
        elif options.verbose:
            note(f"skipped: {printable(source.name)}: {_STATES[state]}")
    if not options.quiet:
        for warning in preview.warnings:
            note(f"Warning: {warning}")
        note(_sentences(options, preview))


def _look(options: Options, settings: ExtractSettings, found: Found) -> _Preview:
    identity, resolved = _identity(options, settings, found)
    with _open_store(options, identity, resolved) as store:
        states = [
            (source, store.state(source.name, source.size_bytes, source.mtime_ns)) for source in found.videos
        ]
        return _Preview(resolved, found, states, store.warnings)


def _identity(
    options: Options, settings: ExtractSettings, found: Found
) -> tuple[RunIdentity | None, ResolvedSettings]:
    """Return the run's identity, None where the weights are not here; and its settings."""
    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.output import check_n_components

    try:
        with load_extractor(replace(options, offline=True), settings, FetchBar(quiet=True)) as extractor:
            identity = extractor.identity()
            check_n_components(
                settings.pca,
                identity.layer_sizes,
                n_videos=len(found.videos),
                extends=Path(options.output).exists(),
            )
            return identity, extractor.settings
    except FetchError as error:
        note(f"Note: {error.reason}; earlier runs are taken to have had the same settings")
        return None, settings.for_backbone(_backbone_of(options.weights))


def _backbone_of(weights: str) -> Backbone:
    """Return the network of registered weights, which may not be here."""
    from c3d_extract.models.registry import BACKBONES, default_backbone
    from c3d_extract.weights import find_entry

    network = find_entry(weights).network
    return default_backbone() if network is None else BACKBONES[network]


def _open_store(options: Options, identity: RunIdentity | None, settings: ResolvedSettings) -> RunStore:
    from c3d_extract.output import RunStore, StoreOptions

    stored = StoreOptions(
        Path(options.output),
        clips=Path(options.clips) if options.clips else None,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        pca=settings.pca,
        basis=run_options(options)["basis"],
        l2=settings.l2,
    )
    return RunStore.preview(stored, identity)


def _is_todo(state: State, options: Options) -> bool:
    return state in {"new", "changed"} or (state == "failed" and options.retry_failed)


def _as_json(options: Options, preview: _Preview) -> dict[str, Any]:
    todo = [
        {"video": source.name, "path": str(source.location), "size_bytes": source.size_bytes, "state": state}
        for source, state in preview.states
        if _is_todo(state, options)
    ]
    counts = Counter(state for _, state in preview.states)
    return {
        "output": options.output,
        "weights": options.weights,
        "settings": preview.settings.to_json(),
        "n_videos": len(preview.states),
        "todo": todo,
        "counts": {state: counts[state] for state in _STATES},
        "passed_over": preview.found.ignored,
        "warnings": preview.warnings,
    }


def _sentences(options: Options, preview: _Preview) -> str:
    counts = Counter(state for _, state in preview.states)
    sizes = [source.size_bytes for source, state in preview.states if _is_todo(state, options)]
    summary = (
        f"Would extract {', '.join(preview.settings.layers)} of {len(sizes)} of {len(preview.states)} videos "
        f"({sum(sizes) / 1e6:.1f} MB) with {options.weights} into {options.output}; "
        f"{len(preview.found.ignored)} other files ignored"
    )
    lines = [summary]
    for title, todo in (("To do", True), ("Skipped", False)):
        states = [state for state in _STATES if counts[state] and _is_todo(state, options) == todo]
        if states:
            lines.append(f"{title}: {', '.join(f'{counts[state]} {_STATES[state]}' for state in states)}")
    return "\n".join(lines)
