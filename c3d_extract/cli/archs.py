"""``c3d-tools archs``: the architectures, their shapes, parameters and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, put_json, show
from c3d_extract.cli.options import debug_option, json_option
from c3d_extract.cli.tables import is_terminal, show_table
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import Architecture
    from c3d_extract.models.layer_table import LayerRow

__all__ = ["command"]

# Section 3.1 of the paper says so; the architecture as it describes it does not give these differences.
PAPER = {
    "depth-3": "17.5 M in total",
    "depth-1": "17 K fewer than depth-3",
    "depth-7": "51 K more than depth-5",
}


@click.command(
    help="""Show the paper's architectures, or the layers of those NAMED: shapes, parameters, multiply-adds.

    NAMED are these, torchvision's networks (r3d_18) or others of their kind, checkpoints that are here, and
    files. --width, --spatial and --size are for the paper's."""
)
@click.argument("named", nargs=-1)
@click.option(
    "--width", type=float, default=1.0, show_default=True, help="Multiplies filters and hidden layers."
)
@click.option(
    "--spatial", type=click.Choice(["3", "5"]), default="3", show_default=True, help="Spatial kernel size."
)
@click.option(
    "--size", type=(int, int), default=(112, 112), show_default=True, help="Rows and columns of the input."
)
@click.option(
    "--classes", type=click.IntRange(1), default=None, help="Number of classes.  [default: the network's]"
)
@json_option
@debug_option
@guarded
def command(
    *,
    named: tuple[str, ...],
    width: float,
    spatial: str,
    size: tuple[int, int],
    classes: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Show a line for each architecture, or each layer of those named."""
    del debug  # `guarded` reads it
    from c3d_extract.models.c3d import ARCHITECTURES

    changed = width != 1 or spatial != "3" or size != (112, 112)
    if not named:
        papers = [_of_paper(name, width, int(spatial), size, classes) for name in ARCHITECTURES]
        if as_json:
            put_json([_described(arch) for arch in papers])
            return
        _print_overview(papers)
        if is_terminal():
            if not changed and classes is None:
                _print_paper(papers)
            _print_others()
        return
    chosen = [
        _of_paper(name, width, int(spatial), size, classes)
        if name in ARCHITECTURES
        else _other(name, classes, changed=changed)
        for name in named
    ]
    if as_json:
        put_json([_described(backbone) for backbone in chosen])
        return
    for backbone in chosen:
        _print_layers(backbone)


def _other(name: str, classes: int | None, *, changed: bool) -> Backbone:
    """Return a network that is not the paper's, or that of a checkpoint."""
    from c3d_extract.models.registry import BACKBONES
    from c3d_extract.weights import load_checkpoint
    from c3d_extract.weights.registry import listed_entries

    if changed:
        raise UsageError("go with the paper's architectures", subject="--width, --spatial and --size")
    if name in BACKBONES:
        backbone = BACKBONES[name]
    elif Path(name).is_file() or name in listed_entries():
        # Neither the mean nor the order of fc6's inputs matters for shapes.
        backbone = load_checkpoint(name, layers=(), mean="0,0,0", fc6_order="chw", offline=True).backbone
    else:
        raise UsageError(f"unknown; known: {', '.join(BACKBONES)}", subject=name)
    return backbone if classes is None else backbone.with_classes(classes)


def _of_paper(
    name: str, width: float, spatial: int, size: tuple[int, int], classes: int | None
) -> Architecture:
    import dataclasses

    from c3d_extract.errors import WeightsError
    from c3d_extract.models.c3d import ARCHITECTURES

    if not 0 < width <= 8:
        raise UsageError("must be above 0 and at most 8", subject=f"--width {width:g}")
    arch = ARCHITECTURES[name].scaled(width)
    changed = dataclasses.replace(
        arch, spatial=spatial, clip=(16, *size), n_classes=classes or arch.n_classes
    )
    try:
        changed.check()
    except WeightsError as error:
        raise UsageError(
            error.reason, subject=f"{name} with --width {width:g} --size {size[0]} {size[1]}"
        ) from error
    return changed


def _parts(arch: Architecture) -> dict[str, int]:
    """Parameters of the convolutions and of each fully connected layer."""
    parts = {"convolutions": 0, "fc6": 0, "fc7": 0, "fc8": 0}
    for layer, n_parameters in arch.parameter_counts().items():
        parts[layer if layer in parts else "convolutions"] += n_parameters
    return parts


def _described(backbone: Backbone) -> dict[str, Any]:
    from c3d_extract.models.c3d import Architecture

    rows = _rows(backbone)
    parts = {row.name: row.n_parameters for row in rows if row.n_parameters}
    return {
        "name": backbone.name,
        "architecture": backbone.to_json(),
        "parameters": backbone.n_parameters(),
        "parameters_of": _parts(backbone) if isinstance(backbone, Architecture) else parts,
        "multiply_adds": backbone.operations() // 2,
        "multiply_adds_of": {row.name: row.multiply_adds for row in rows if row.multiply_adds},
        "shapes": {row.name: list(row.output) for row in rows},
    }


def _print_overview(chosen: list[Architecture]) -> None:
    numbers = ("classes", "conv", "fc6-fc8", "parameters", "mult-adds")
    show_table(("name", "depths", *numbers), map(_overview, chosen), right=numbers)


def _overview(arch: Architecture) -> list[str]:
    convolutions, *linear = _parts(arch).values()
    return [
        arch.name,
        "-".join(map(str, arch.depths)),
        str(arch.n_classes),
        f"{convolutions / 1e6:.2f} M",
        f"{sum(linear) / 1e6:.2f} M",
        f"{arch.n_parameters():,}",
        f"{sum(arch.multiply_adds().values()) / 1e9:.2f} G",
    ]


def _print_paper(chosen: list[Architecture]) -> None:
    count = {arch.name: arch.n_parameters() for arch in chosen}
    show("\nThe paper (Section 3.1) next to what these shapes give:")
    found = {
        "depth-3": f"{count['depth-3']:,}",
        "depth-1": f"{count['depth-3'] - count['depth-1']:,} fewer",
        "depth-7": f"{count['depth-7'] - count['depth-5']:,} more",
    }
    for name, said in PAPER.items():
        show(f"  {name}: the paper says {said}; counted {found[name]}")


def _print_others() -> None:
    from c3d_extract.models.torchvision import FURTHER_NETWORKS, NETWORKS

    others = ", ".join([*NETWORKS, *FURTHER_NETWORKS])
    show(f"\nBy name, `c3d-tools archs NAME` shows these, too:\n{click.wrap_text(others)}")


def _print_layers(backbone: Backbone) -> None:
    kernels = _kernels(backbone)
    numbers = (*(["kernel"] if kernels else []), "output", "parameters", "multiply-adds")
    rows = [
        [
            row.name,
            *([kernels.get(row.name, "")] if kernels else []),
            "x".join(map(str, row.output)),
            f"{row.n_parameters:,}" if row.n_parameters else "",
            f"{row.multiply_adds / 1e6:,.1f} M" if row.multiply_adds else "",
        ]
        for row in _rows(backbone)
    ]
    whole = f"{backbone.n_parameters():,}", f"{backbone.operations() / 2e9:.2f} G"
    total = ["total", *[""] * (len(numbers) - 2), *whole]
    if is_terminal():
        show(_title(backbone))
    name = "" if is_terminal() else backbone.name
    show_table(("layer", *numbers), [*rows, total], right=numbers, title=name)


def _title(backbone: Backbone) -> str:
    step = {1: "every", 2: "every 2nd"}.get(backbone.frame_step, f"every {backbone.frame_step}th")
    rate = f"{step} decoded frame" if backbone.fps is None else f"{backbone.fps:g} frames a second"
    layer = backbone.default_layer
    return f"{backbone.name}: {rate}; the descriptor is {layer} of {backbone.layer_size(layer)} numbers"


def _kernels(backbone: Backbone) -> dict[str, str]:
    """Return the sizes of convolutions' kernels by layer, for the paper's family."""
    from c3d_extract.models.c3d import Architecture

    if not isinstance(backbone, Architecture):
        return {}
    shapes = backbone.state_shapes()
    return {
        name: "x".join(map(str, shapes[f"{name}.weight"][2:]))
        for names in backbone.conv_names
        for name in names
    }


def _rows(backbone: Backbone) -> list[LayerRow]:
    """Return every layer in order; outputs are C, T, H, W, then lengths."""
    from c3d_extract.models.c3d import Architecture
    from c3d_extract.models.layer_table import LayerRow, layer_rows
    from c3d_extract.models.torchvision import VideoNetwork

    rows = [LayerRow("input", (3, *backbone.clip), 0, 0)]
    if isinstance(backbone, VideoNetwork):
        return rows + layer_rows(backbone.build_torchvision, backbone.clip)
    assert isinstance(backbone, Architecture)  # noqa: S101 - for the type checker
    counts, costs = backbone.parameter_counts(), backbone.multiply_adds()
    lengths = {name: (backbone.layer_size(name),) for name in backbone.linear_names()}
    outputs = backbone.map_shapes() | lengths
    return rows + [
        LayerRow(name, output, counts.get(name, 0), costs.get(name, 0)) for name, output in outputs.items()
    ]
