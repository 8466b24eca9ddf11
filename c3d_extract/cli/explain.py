"""``c3d-tools explain``: what in a clip the units of a network respond to, as a picture."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, printable, show
from c3d_extract.cli.options import (
    colour_option,
    debug_option,
    device_option,
    layer_option,
    mean_option,
    offline_option,
    overwrite_option,
    pool5_option,
    weights_option,
)
from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.analysis import ExplainedClip, Explainer
    from c3d_extract.sources.source import Source
    from c3d_extract.train import ClipDataset, ClipItem

__all__ = ["command"]

MOST_VIDEOS = 12
N_STRONGEST = 3

_EXAMPLES = """\b
Examples:
  c3d-tools explain clip.mp4 --weights motion-mini
  c3d-tools explain clip.mp4 --layer conv5b --clip 0 -o first.gif
  c3d-tools explain a.mp4 b.mp4 --unit 12            # unit 12 in each
"""


@click.command("explain", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("explain.png"),
    show_default=True,
    metavar="FILE",
    help="The picture: .png, .svg, .pdf; .gif is an animation.",
)
@weights_option
@mean_option
@pool5_option
@colour_option
@layer_option("Of C3D: conv5b, pool5, fc6, fc7, fc8.  [default: the descriptor; C3D: fc6]")
@click.option(
    "--unit",
    "units",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="A unit, of conv5b and pool5 a feature map, from 0; repeatable.  "
    f"[default: the {N_STRONGEST} strongest]",
)
@click.option(
    "--clip",
    "clip_number",
    type=click.IntRange(min=0),
    metavar="N",
    help="A clip of each video, from 0.  [default: that in which a unit is strongest]",
)
@device_option()
@offline_option
@overwrite_option("Replace FILE if it exists.")
@debug_option
@guarded
def command(videos: tuple[str, ...], output: Path, **options: Any) -> None:
    """Draw what in a clip of each VIDEO the strongest units respond to.

    Below the clip's frames is a strip for each unit: guided backpropagation from the unit to the pixels, much
    as in Figure 4 of the C3D paper. Grey pixels do not matter to the unit. For networks with ReLUs.
    """
    from c3d_extract.analysis import check_figure_path, draw_explanations

    check_figure_path(output, animated=True)
    if output.exists() and not options["overwrite"]:
        raise StoreError("exists already", subject=output, hint="choose another -o, or --overwrite")
    sources = _sources(videos)
    explainer = _explainer(options)
    clips = [_explained(explainer, source, options["units"], options["clip_number"]) for source in sources]
    title = (
        f"{explainer.layer} of {explainer.checkpoint.name}: units, their activation, guided backpropagation"
    )
    draw_explanations(clips, output, title)
    note(f"{output}: drawn")


def _sources(videos: Sequence[str]) -> list[Source]:
    from c3d_extract.sources.find import find_videos

    found = find_videos(videos)
    found.check_any()
    if len(found.videos) > MOST_VIDEOS:
        reason = f"{len(found.videos)} videos do not fit into a picture; at most {MOST_VIDEOS} do"
        raise UsageError(reason, subject=", ".join(videos))
    return list(found.videos)


def _explainer(options: dict[str, Any]) -> Explainer:
    from c3d_extract.analysis import Explainer
    from c3d_extract.compute.devices import choose_device
    from c3d_extract.weights import load_checkpoint

    device = choose_device(options["device"])
    layers = () if options["layer"] is None else (options["layer"],)
    names = ("mean", "pool5", "colour", "offline")
    checkpoint = load_checkpoint(options["weights"], layers=layers, **{name: options[name] for name in names})
    for remark in checkpoint.notes:
        note(f"Note: {printable(remark)}")
    return Explainer(checkpoint, options["layer"], device)


def _explained(
    explainer: Explainer, source: Source, units: Sequence[int], clip_number: int | None
) -> ExplainedClip:
    """Return a clip's explanation, and print its units."""
    from c3d_extract.analysis import ExplainedClip

    item = _clip(explainer, source, units, clip_number)
    activations = explainer.activations(item.clip)
    chosen = list(dict.fromkeys(units)) or activations.argsort()[::-1][:N_STRONGEST].tolist()
    explanation = explainer.explain(item.clip, chosen)
    names = [_unit_name(explainer, unit) for unit in chosen]
    clip = ExplainedClip(source.name, item.start_frame, explanation, names)
    strengths = [f"{name} {activations[unit]:.2f}" for name, unit in zip(names, chosen, strict=True)]
    show(f"{printable(clip.video)}, {clip.frames_text}: {explainer.layer} {', '.join(strengths)}")
    return clip


def _clip(explainer: Explainer, source: Source, units: Sequence[int], number: int | None) -> ClipItem:
    """Return the clip of that number, else the one in which one of the units, or any, is strongest."""
    from c3d_extract.train import ClipDataset

    clips = ClipDataset([source.location], explainer.checkpoint, on_error="fail")
    if number is None:
        explainer.check_units(units)
        return _strongest(explainer, clips, units)
    for item in islice(clips, number, None):
        return item
    raise UsageError(f"has no clip {number}", subject=source.name)


def _strongest(explainer: Explainer, clips: ClipDataset, units: Sequence[int]) -> ClipItem:
    from c3d_extract.cli.progress import step_status

    with step_status() as begin:

        def strength(item: ClipItem) -> float:
            begin(f"{item.video}: frame {item.start_frame}")
            return float(explainer.activations(item.clip)[list(units) or slice(None)].max())

        return max(clips, key=strength)


def _unit_name(explainer: Explainer, unit: int) -> str:
    labels = explainer.checkpoint.labels
    return labels[unit] if labels and explainer.layer in {"fc8", "logits"} else f"unit {unit}"
