"""``c3d-tools archs``: the architectures, their shapes, parameters and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, put_json
from c3d_extract.cli.options import debug_option, json_option
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from c3d_extract.models.c3d import Architecture

__all__ = ["command"]

# Section 3.1 of the paper says so; the architecture as it describes it does not give these differences.
PAPER = {
    "depth-3": "17.5 M in total",
    "depth-1": "17 K fewer than depth-3",
    "depth-7": "51 K more than depth-5",
}


@click.command(
    help="Show the architectures, or the layers of those NAMED: shapes, parameters, multiply-adds."
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
    "--classes", type=click.IntRange(1), default=None, help="Outputs of fc8.  [default: the paper's]"
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
    from rich.console import Console

    chosen = [_chosen(name, width, int(spatial), size, classes) for name in named or _known()]
    if as_json:
        put_json([_described(arch) for arch in chosen])
        return
    console = Console(highlight=False)
    if named:
        for arch in chosen:
            _print_layers(console, arch)
        return
    _print_overview(console, chosen)
    if width == 1 and spatial == "3" and size == (112, 112) and classes is None:
        _print_paper(console, chosen)


def _known() -> list[str]:
    from c3d_extract.models.c3d import ARCHITECTURES

    return list(ARCHITECTURES)


def _chosen(
    name: str, width: float, spatial: int, size: tuple[int, int], classes: int | None
) -> Architecture:
    import dataclasses

    from c3d_extract.errors import WeightsError
    from c3d_extract.models.c3d import ARCHITECTURES

    if name not in ARCHITECTURES:
        raise UsageError(f"unknown; known: {', '.join(ARCHITECTURES)}", subject=name)
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
    from math import prod

    parts = {"convolutions": 0, "fc6": 0, "fc7": 0, "fc8": 0}
    for name, shape in arch.state_shapes().items():
        layer = name.partition(".")[0]
        parts[layer if layer in parts else "convolutions"] += prod(shape)
    return parts


def _described(arch: Architecture) -> dict[str, Any]:
    return {
        "name": arch.name,
        "architecture": arch.to_json(),
        "parameters": arch.n_parameters(),
        "parameters_of": _parts(arch),
        "multiply_adds": sum(arch.multiply_adds().values()),
        "multiply_adds_of": arch.multiply_adds(),
        "shapes": {name: list(shape) for name, shape in arch.map_shapes().items()},
    }


def _print_overview(console: Console, chosen: list[Architecture]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name")
    table.add_column("depths")
    for title in ("classes", "conv", "fc6-fc8", "parameters", "mult-adds"):
        table.add_column(title, justify="right")
    for arch in chosen:
        convolutions, *linear = _parts(arch).values()
        table.add_row(
            arch.name,
            "-".join(map(str, arch.depths)),
            str(arch.n_classes),
            f"{convolutions / 1e6:.2f} M",
            f"{sum(linear) / 1e6:.2f} M",
            f"{arch.n_parameters():,}",
            f"{sum(arch.multiply_adds().values()) / 1e9:.2f} G",
        )
    console.print(table)


def _print_paper(console: Console, chosen: list[Architecture]) -> None:
    count = {arch.name: arch.n_parameters() for arch in chosen}
    console.print("\nThe paper (Section 3.1) next to what these shapes give:")
    found = {
        "depth-3": f"{count['depth-3']:,}",
        "depth-1": f"{count['depth-3'] - count['depth-1']:,} fewer",
        "depth-7": f"{count['depth-7'] - count['depth-5']:,} more",
    }
    for name, said in PAPER.items():
        console.print(f"  {name}: the paper says {said}; counted {found[name]}")


def _print_layers(console: Console, arch: Architecture) -> None:
    from math import prod

    from rich.table import Table

    table = Table(title=arch.name, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for title in ("kernel", "output", "parameters", "multiply-adds"):
        table.add_column(title, justify="right")
    shapes, cost = arch.state_shapes(), arch.multiply_adds()
    for name, output in _outputs(arch).items():
        kernel = shapes.get(f"{name}.weight", ())
        n_parameters = prod(kernel) + kernel[0] if kernel else 0
        table.add_row(
            name,
            "x".join(map(str, kernel[2:])),
            "x".join(map(str, output)),
            f"{n_parameters:,}" if kernel else "",
            f"{cost[name] / 1e6:,.1f} M" if kernel else "",
        )
    table.add_row(
        "total", "", "", f"{arch.n_parameters():,}", f"{sum(cost.values()) / 1e9:.2f} G", style="bold"
    )
    console.print(table)


def _outputs(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Output shape of every layer in order: C, T, H, W, then lengths."""
    lengths = {
        name: (arch.layer_size(name),) for name in ("fc6", "fc7", "fc8") if arch.n_classes or name != "fc8"
    }
    return {"input": (3, *arch.clip), **arch.map_shapes(), **lengths}
