"""``c3d-tools weights``: list, show, fetch, convert and verify checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from c3d_extract.cli.common import EXIT_FATAL, guarded, note, printable, put_json, show
from c3d_extract.cli.completion import complete_weights
from c3d_extract.cli.groups import SuggestingGroup
from c3d_extract.cli.options import (
    colour_option,
    debug_option,
    json_option,
    mean_option,
    offline_option,
    overwrite_option,
    pool5_option,
    quiet_option,
)
from c3d_extract.cli.tables import is_terminal, show_table
from c3d_extract.errors import FetchError, UsageError, WeightsError
from c3d_extract.weights.fetch import fetch_file, local_copy, local_path
from c3d_extract.weights.registry import find_entry, listed_entries, load_registry

if TYPE_CHECKING:
    from c3d_extract.weights import Checkpoint
    from c3d_extract.weights.convert import Rounding
    from c3d_extract.weights.goldens import KnownClip
    from c3d_extract.weights.registry import RegistryEntry
    from c3d_extract.weights.verify import Combination, KnownFile, Verdict

__all__ = ["command"]

fc6_order_option = click.option(
    "--fc6-order",
    type=click.Choice(["chw", "hwc"]),
    help="Order of fc6's inputs in a channels-last file (Keras, TensorFlow) that does not say it.",
)


@click.group(cls=SuggestingGroup, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, show, fetch, convert and verify checkpoints."""


@command.command("list")
@json_option
@debug_option
@guarded
def list_command(*, as_json: bool, debug: bool) -> None:
    """List the registered checkpoints: what is here, what can be fetched, size, licence."""
    del debug
    entries = list(listed_entries().values())
    if as_json:
        put_json([entry.to_json() | {"state": _state(entry)} for entry in entries])
        return
    show_table(
        ("name", "state", "size", "trained on", "licence"),
        map(_listed, entries),
        right=("size",),
        wrapped=("trained on",),
    )
    if is_terminal():
        show(
            "\n* the default. here: on this machine; fetch: fetched on first use; by hand: no\n"
            "address is known that serves it directly. CC BY-NC: for non-commercial use only."
        )


def _listed(entry: RegistryEntry) -> tuple[str, ...]:
    name = f"{entry.name} *" if entry.name == load_registry().default and is_terminal() else entry.name
    trained, licence = entry.trained_on.split(" (")[0], entry.licence.split(" (")[0]
    return name, _state(entry), _size(entry), trained, licence


def _state(entry: RegistryEntry) -> str:
    if local_copy(entry) is not None:
        return "here"
    if entry.embedded:
        return "missing"
    return "fetch" if entry.file.mirrors else "by hand"


def _size(entry: RegistryEntry) -> str:
    if entry.file.size is not None:
        return _megabytes(entry.file.size)
    if "size_mib" in entry.facts:
        return f"~{_megabytes(entry.facts['size_mib'] * 2**20)}"
    if entry.embedded:
        path = local_path(entry)
        return "-" if path is None else _megabytes(path.stat().st_size)
    if entry.network is not None:
        return "-"
    # C3D in float32: 77,995,776 numbers to fc7, 3,584 x 4,096 less with a 3x3 pool5, and 4,097 a class.
    to_fc7 = 77_995_776 - (3584 * 4096 if entry.pool5 == "floor" else 0)
    return f"~{_megabytes(4 * (to_fc7 + 4097 * (entry.n_classes or 0)))}"


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.{0 if n_bytes > 10e6 else 1}f} MB"


@command.command("show")
@click.argument("source", metavar="NAME|FILE", shell_complete=complete_weights)
@json_option
@debug_option
@guarded
def show_command(*, source: str, as_json: bool, debug: bool) -> None:
    """Show everything that is known of a registered checkpoint, or of a checkpoint in a file."""
    del debug
    entry = listed_entries().get(source)
    if entry is None and Path(source).exists():
        values = _file_description(source)
    else:
        entry = entry or find_entry(source)
        values = _entry_description(entry)
    if as_json:
        put_json(values)
        return
    nested = {key: values.pop(key, {}) for key in ("facts", "file")}
    for key, value in (values | nested["facts"]).items():
        _put(key, value)
    for key, value in nested["file"].items():
        _put(f"file {key}", value)
    if entry is not None and not entry.file.hash_known and not entry.embedded:
        checked = "checked by being a whole C3D network; its sha256 is shown when it is loaded"
        _put("hash", f"none is published: {checked}")


def _entry_description(entry: RegistryEntry) -> dict[str, Any]:
    path = local_copy(entry)
    values = entry.to_json() | {"state": _state(entry), "path": None if path is None else str(path)}
    if entry.embedded and path is not None:
        from c3d_extract.weights.load import load_checkpoint

        return values | _description(load_checkpoint(entry.name, offline=True))
    return values


def _file_description(source: str) -> dict[str, Any]:
    """Describe a file as it would be run; a mean that is not on this machine is said to be so."""
    from c3d_extract.weights.load import load_checkpoint

    try:
        checkpoint = load_checkpoint(source, offline=True)
        found = _description(checkpoint)
    except WeightsError as error:
        # A damaged file fails again; else its mean alone is missing, which changes nothing else.
        checkpoint = load_checkpoint(source, offline=True, mean="0,0,0")
        found = _description(checkpoint) | {
            "mean": f"{error.subject}, not on this machine",
            "mean_sha256": None,
        }
    size, licence = Path(source).stat().st_size, checkpoint.licence
    facts = {"size": _megabytes(size), "layout": checkpoint.layout, "licence": licence}
    return found | facts | {"notes": checkpoint.notes}


def _description(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a loaded checkpoint is and takes."""
    from c3d_extract.models.c3d import Architecture

    backbone, preprocessing = checkpoint.backbone, checkpoint.preprocessing
    network: dict[str, Any] = {"clip": backbone.clip, "fps": backbone.fps}
    if isinstance(backbone, Architecture):
        network["filters"] = [n for stage in backbone.filters for n in stage]
        network["hidden"] = backbone.hidden
        network["n_classes"] = backbone.n_classes
    return checkpoint.identity() | {
        "resize": preprocessing.resize,
        "crop": preprocessing.crop,
        "std": preprocessing.std,
        **network,
        "layers": {layer: backbone.layer_size(layer) for layer in backbone.layers},
        "labels": checkpoint.labels,
    }


def _put(key: str, value: Any) -> None:
    key = key.replace("_", " ")
    if isinstance(value, dict):
        value = ", ".join(
            f"{name} {part if isinstance(part, str) else format(part, ',')}" for name, part in value.items()
        )
    numbers = isinstance(value, (list, tuple)) and value and not isinstance(value[0], str)
    values = value if isinstance(value, (list, tuple)) and not numbers else [value]
    for i, one in enumerate(values):
        text = (
            " x ".join(map(str, one))
            if numbers
            else f"{one:,}"
            if isinstance(one, int) and not isinstance(one, bool)
            else one
        )
        show(f"{key if i == 0 else '':<20} {'-' if text is None else printable(str(text))}")


@command.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_weights)
@offline_option
@quiet_option
@debug_option
@guarded
def fetch_command(*, names: tuple[str, ...], offline: bool, quiet: bool, debug: bool) -> None:
    """Fetch checkpoints with their means and labels into torch's cache; prints where they are."""
    del debug
    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.weights.locate import locate_entry

    for entry in [find_entry(name) for name in names]:
        if entry.embedded and (path := local_path(entry)) is not None:
            click.echo(path)
            continue
        if not quiet:
            note(f"{entry.name}: {entry.title}. Licence: {entry.licence}.")
        with FetchBar(quiet=quiet) as bar:
            located = locate_entry(entry, offline=offline, progress=bar)
            for kind, remotes in (("mean", load_registry().means), ("labels", load_registry().labels)):
                remote = remotes.get(getattr(entry, kind) or "")
                if remote is None:
                    continue
                try:
                    fetch_file(remote, offline=offline, progress=bar)
                except FetchError as error:
                    note(f"its {kind}: {error}")
        for remark in () if quiet else located.notes:
            note(printable(remark))
        if located.unverified is not None:  # also with --quiet: it is a warning
            note(f"Warning: {located.unverified}")
        click.echo(located.path)


@command.command("convert")
@click.argument("source", metavar="NAME|FILE", shell_complete=complete_weights)
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.safetensors")
@click.option("--dtype", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@fc6_order_option
@mean_option
@pool5_option
@colour_option
@overwrite_option("Replace OUT if it exists.")
@offline_option
@quiet_option
@debug_option
@guarded
def convert_command(
    *,
    source: str,
    output: Path,
    dtype: Literal["fp32", "fp16"],
    overwrite: bool,
    quiet: bool,
    debug: bool,
    **how: Any,
) -> None:
    """Write a checkpoint of any layout as safetensors, with its description inside."""
    del debug
    if output.exists() and not overwrite:
        raise UsageError("exists already", subject=output, hint="give --overwrite to replace it")
    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.weights.convert import convert

    with FetchBar(quiet=quiet) as bar:
        checkpoint, rounding = convert(source, output, dtype=dtype, progress=bar, **how)
    if not quiet:
        for remark in checkpoint.notes:
            note(printable(remark))
    backbone = checkpoint.backbone
    conventions = {
        **backbone.variant,
        "colour": checkpoint.preprocessing.colour,
        "mean": checkpoint.mean_name,
    }
    show(
        f"{output}: {backbone.name}, {backbone.n_parameters():,} weights in {dtype}, "
        f"{_megabytes(output.stat().st_size)}; from {checkpoint.layout}, "
        f"{', '.join(f'{name} {printable(value)}' for name, value in conventions.items())}"
    )
    click.echo(_rounding_text(rounding))


def _rounding_text(rounding: Rounding) -> str:
    if rounding.weights == 0:
        return "read back: every weight is the same to the bit"
    return (
        f"read back: weights differ by {rounding.weights:.1e} relative, {rounding.worst_layer:.1e} in the "
        f"worst layer, {rounding.layer} of a test clip by {rounding.features:.1e}"
    )


@command.command("verify")
@click.argument("source", metavar="NAME|FILE", shell_complete=complete_weights)
@click.option(
    "--frames",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the authors' frames.",
)
@click.option(
    "--goldens",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="npz with names, fc6, prob.",
)
@fc6_order_option
@mean_option
@offline_option
@quiet_option
@json_option
@debug_option
@guarded
def verify_command(
    *,
    source: str,
    frames: Path | None,
    goldens: Path | None,
    quiet: bool,
    as_json: bool,
    debug: bool,
    **how: Any,
) -> None:
    """Measure on the authors' sample frames whether a checkpoint is the Sports-1M model, and how to run it.

    Runs it B,G,R and R,G,B, with pool5 by ceil and symmetric, and compares fc6 with what the original tool
    computed. Of torchvision's networks no such outputs are known: the file's hash is compared with the
    published ones. Exits with 1 where nothing matches.
    """
    del debug
    from c3d_extract.cli.progress import FetchBar
    from c3d_extract.weights.goldens import known_clips, read_goldens, sample_frames
    from c3d_extract.weights.measure import known_frames
    from c3d_extract.weights.verify import verify, verify_file

    known: list[KnownClip] = known_clips() if goldens is None else read_goldens(goldens)
    with FetchBar(quiet=quiet) as bar:
        file = verify_file(source, progress=bar, **how)
    if file is not None:
        for name, given in (("frames", frames), ("goldens", goldens)):
            if given is not None:
                raise UsageError(
                    f"is for C3D, and this is a {file.checkpoint.backbone.name}", subject=f"--{name}"
                )
        _put_known_file(file, as_json=as_json)
        return
    on_run = None if quiet else lambda colour, order: note(f"running {_way(colour, '', order)}")
    with FetchBar(quiet=quiet) as bar:
        folder = sample_frames(offline=how["offline"], progress=bar) if frames is None else frames
        verdict = verify(source, known_frames(folder, known), known, progress=bar, on_run=on_run, **how)
    for remark in () if quiet else verdict.notes:
        note(printable(remark))
    put_json(_verdict_json(verdict)) if as_json else _put_verdict(verdict)
    if verdict.match is None:
        sys.exit(EXIT_FATAL)


def _put_known_file(file: KnownFile, *, as_json: bool) -> None:
    checkpoint, published = file.checkpoint, None if file.entry is None else file.entry.name
    backbone = checkpoint.backbone
    if as_json:
        facts = {"layout": checkpoint.layout, "network": backbone.to_json(), "published": published}
        put_json({"weights": checkpoint.identity()} | facts)
    else:
        show(
            f"{backbone.name}: {backbone.n_parameters():,} parameters, {backbone.n_classes} classes; all "
            f"{len(checkpoint.state)} tensors are there and finite."
        )
        show(_hash_conclusion(checkpoint.sha256, published))
    if published is None:
        sys.exit(EXIT_FATAL)


def _hash_conclusion(sha256: str, published: str | None) -> str:
    if published is None:
        return f"sha256 {sha256[:8]}… is of no published file, and no output of it is known to compare with."
    return f"sha256 {sha256[:8]}… is that of the published {published}."


def _way(colour: str, pool5: str, fc6_order: str | None) -> str:
    return " ".join(filter(None, (colour, pool5, fc6_order)))


def _put_verdict(verdict: Verdict) -> None:
    numbers = ("fc6 norm", "fc6 max", "non-zero", "fc6", "top class")
    rows = [(_way(one.colour, one.pool5, one.fc6_order), *_errors(one)) for one in verdict.combinations]
    show_table(("combination", *numbers), rows, right=numbers)
    show(f"\n{_conclusion(verdict)}")


def _errors(one: Combination) -> tuple[str, ...]:
    vector = "-" if one.vector_error is None else _percent(one.vector_error)
    top = "-" if one.n_top is None else f"{one.n_top}/{one.n_clips}"
    return _percent(one.norm_error), _percent(one.max_error), _percent(one.non_zero_error), vector, top


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 10 else ">999%"


def _conclusion(verdict: Verdict) -> str:
    best = verdict.combinations[0]
    way = _way(best.colour, best.pool5, best.fc6_order)
    if verdict.match is None:
        return f"None matches the original tool's output; the nearest is {way}."
    measure = (
        f"fc6 is within {best.vector_error:.2%}"
        if best.vector_error is not None
        else f"fc6 norms are within {best.norm_error:.2%}"
    )
    return f"It matches as {way}: {measure} of the original tool's on all {best.n_clips} clips."


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "weights": verdict.checkpoint.identity(),
        "layout": verdict.checkpoint.layout,
        "videos": list(verdict.videos),
        "notes": list(verdict.notes),
        "match": None if verdict.match is None else asdict(verdict.match),
        "combinations": [asdict(one) for one in verdict.combinations],
    }
