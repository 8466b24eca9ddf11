"""What a shell completes: weights, layers and presets by name; see click's page on shell completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Iterable

    import click

__all__ = ["complete_layer", "complete_preset", "complete_weights"]

_C3D_LAYERS: tuple[str, ...] = ("conv5b", "pool5", "fc6", "fc7", "fc8", "prob")


def complete_weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the registered checkpoints, and let the shell complete files where none matches."""
    del ctx, param
    from c3d_extract.weights.registry import listed_entries

    names = {name: entry.title for name, entry in listed_entries().items()}
    # First: at this item, click's script for bash forgets the earlier ones.
    return [CompletionItem(incomplete, type="file"), *_matching(names.items(), incomplete)]


def complete_layer(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the layers of ``--weights``, those of C3D where that is no registered name."""
    del param
    from c3d_extract.weights.registry import listed_entries

    entries = listed_entries()
    asked = entries.get(ctx.params.get("weights") or "")
    layers = _C3D_LAYERS
    if asked is not None and asked.network is not None:
        layers = next((tuple(e.facts["layers"]) for e in entries.values() if e.name == asked.network), ())
    return _matching(((layer, "") for layer in layers), incomplete)


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the presets of ``export``."""
    del ctx, param
    from c3d_extract.output.export import PRESETS

    return _matching(((name, preset.purpose) for name, preset in PRESETS.items()), incomplete)


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=text) for name, text in names if name.startswith(incomplete)]
