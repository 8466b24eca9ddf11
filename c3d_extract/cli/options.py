"""Options that several commands share, each defined once: a name has one meaning in all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.completion import complete_layer, complete_weights

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "colour_option",
    "debug_option",
    "device_option",
    "json_option",
    "layer_option",
    "mean_option",
    "missing_option",
    "offline_option",
    "overwrite_option",
    "pool5_option",
    "precision_option",
    "quiet_option",
    "seed_option",
    "weights_option",
]

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")

debug_option = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Errors only.")
offline_option = click.option(
    "--offline", is_flag=True, help="Fetch nothing (also: C3D_OFFLINE=1, HF_HUB_OFFLINE=1)."
)
mean_option = click.option(
    "--mean", metavar="FILE|B,G,R", help="Binaryproto, npy or three numbers.  [default: the checkpoint's]"
)
pool5_option = click.option(
    "--pool5", type=click.Choice(["ceil", "symmetric"]), help="Override how the checkpoint rounds pool5."
)
colour_option = click.option(
    "--colour", type=click.Choice(["bgr", "rgb"]), help="Override the checkpoint's channel order."
)
weights_option = click.option(
    "--weights",
    default="sports1m",
    show_default=True,
    metavar="NAME|FILE",
    shell_complete=complete_weights,
    help="A registered name or a checkpoint.",
)


def layer_option(help_text: str) -> Callable[[Any], Any]:
    """Return ``--layer``, the name of one; ``help_text`` says what for."""
    return click.option("--layer", metavar="NAME", shell_complete=complete_layer, help=help_text)


def overwrite_option(help_text: str) -> Callable[[Any], Any]:
    """Return ``--overwrite``; ``help_text`` says what is replaced."""
    return click.option("--overwrite", is_flag=True, help=help_text)


def seed_option(help_text: str) -> Callable[[Any], Any]:
    """Return ``--seed``; ``help_text`` says what it decides."""
    return click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help=help_text)


def missing_option(help_text: str) -> Callable[[Any], Any]:
    """Return ``--missing``; ``help_text`` says what may be missing."""
    choices = click.Choice(["fail", "skip"])
    return click.option("--missing", type=choices, default="fail", show_default=True, help=help_text)


def device_option(*, several: bool = False) -> Callable[[Any], Any]:
    """Return ``--device``, which may name ``several`` devices."""
    one = "auto, cpu, cuda, cuda:N or mps"
    help_text = f"{one}; cuda:0,cuda:1 or all for several." if several else f"{one}."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=help_text)


def precision_option(help_text: str, choices: tuple[str, ...] = PRECISIONS) -> Callable[[Any], Any]:
    """Return ``--precision``, one of ``choices``."""
    return click.option(
        "--precision", type=click.Choice(choices), default="auto", show_default=True, help=help_text
    )
