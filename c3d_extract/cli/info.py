"""``c3d-tools info``: what is in a feature, clip or basis file, and how far a run in parts has come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from c3d_extract.cli.common import guarded, put_json, show
from c3d_extract.cli.options import debug_option, json_option
from c3d_extract.cli.tables import is_terminal, show_facts
from c3d_extract.errors import UsageError
from c3d_extract.object_store import is_address

__all__ = ["command"]

N_FAILURES_SHOWN = 20
N_PARTS_SHOWN = 20
WORDS = {
    "features": "feature file, one row per video",
    "clips": "clip file, one row per clip",
    "pca": "PCA basis",
}


@click.command("info")
@click.argument("file")
@json_option
@debug_option
@guarded
def command(file: str, *, as_json: bool, debug: bool) -> None:
    """Return what is in FILE: a feature, clip or basis file, or the folder or address of a run in parts.

    Shows layers, settings, weights and totals, and from the report next to a feature file which videos
    failed and why; of a run which parts are done, and how long the rest will take.
    """
    del debug
    facts = _describe(file)
    if as_json:
        put_json(facts)
    else:
        _show(facts)


def _describe(file: str) -> dict[str, Any]:
    if is_address(file) or Path(file).is_dir():
        from c3d_extract.distributed import describe_run

        return describe_run(file)
    from c3d_extract.output import describe

    if not Path(file).exists():
        raise UsageError("no such file or folder", subject=file)
    return describe(Path(file))


def _show(facts: dict[str, Any]) -> None:
    from c3d_extract.output.describe import recorded

    failures = (facts.get("report") or {}).get("failures", [])
    shown = failures[:N_FAILURES_SHOWN] if is_terminal() else failures
    sections = {
        "": _as_texts(_headline(facts)),
        **recorded(facts),
        "failed": _as_texts({line["video"]: line["error"] for line in shown}),
    }
    show_facts({title: one for title, one in sections.items() if one})
    if len(failures) > len(shown):
        show(f"  … and {len(failures) - len(shown)} more: --json lists all")


def _as_texts(values: dict[str, Any]) -> dict[str, str]:
    from c3d_extract.output.describe import as_text

    return {name: as_text(value) for name, value in values.items()}


def _headline(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the lines above the settings, in the order they are shown."""
    if facts["kind"] == "run":
        return _headline_of_run(facts)
    lines: dict[str, Any] = {"file": facts["file"], "kind": WORDS[facts["kind"]]}
    if facts["kind"] == "pca":
        for layer, part in facts["layers"].items():
            ratio = f"{part['explained_variance_ratio']:.1%} of the variance of {part['n_samples']:,} rows"
            lines[f"layer {layer}"] = f"{part['n_dimensions']} → {part['n_components']} dimensions, {ratio}"
        return {**lines, "sha256": facts["sha256"]}
    lines["complete"] = "yes" if facts["complete"] else "no: the run was interrupted, run it again to go on"
    lines["rows"] = f"{facts['n_rows']:,}"
    lines["layers"] = ", ".join(f"{layer} ({size})" for layer, size in facts["layers"].items())
    if facts["pca"]:
        lines["projected with"] = f"{facts['pca']['basis']} (sha256 {facts['pca']['sha256'][:12]}…)"
    lines |= {name.removeprefix("n_").replace("_", " "): _number(v) for name, v in facts["totals"].items()}
    if facts.get("report"):
        counts = facts["report"]["counts"]
        lines["report"] = ", ".join(f"{n:,} {status}" for status, n in counts.items() if n) or "empty"
    return lines


def _headline_of_run(facts: dict[str, Any]) -> dict[str, Any]:
    missing = facts["parts_missing"]
    named = ", ".join(map(str, missing[:N_PARTS_SHOWN])) + (", …" if len(missing) > N_PARTS_SHOWN else "")
    statuses = ", ".join(f"{n:,} {status}" for status, n in facts["statuses"].items())
    lines = {
        "run": facts["folder"],
        "parts": f"{facts['n_parts_done']:,} of {facts['n_parts']:,} done",
        "not done": named or "none",
        "videos": f"{facts['n_videos_done']:,} of {facts['n_videos']:,} done"
        + (f": {statuses}" if statuses else ""),
    }
    for number, reason in list(facts["parts_failed"].items())[:N_PARTS_SHOWN]:
        lines[f"given up: {number}"] = reason
    if missing and facts["videos_per_second"]:
        lines["rate"] = f"{facts['videos_per_second']:.1f} videos/s, {facts['seconds_left']:,.0f} s left"
    return lines


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
