"""``c3d-tools demo``: render a few short sample videos."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from c3d_extract.cli.common import guarded, note
from c3d_extract.cli.options import debug_option, quiet_option, seed_option
from c3d_extract.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["command"]

CLASSES = ("circling", "jump", "walk", "wave")
SIZES = ((120, 160), (180, 240), (240, 320))
FPS = 24


@click.command(help="Render a few short sample videos into DIRECTORY, a folder for each class of motion.")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@seed_option("Other seeds, other videos.")
@click.option(
    "--per-class", type=click.IntRange(1, 1000), default=3, show_default=True, help="Videos of each class."
)
@quiet_option
@debug_option
@guarded
def command(directory: Path, seed: int, per_class: int, quiet: bool, debug: bool) -> None:
    """Render the videos and say what to run next."""
    del debug  # `guarded` reads it
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    jobs = list(_jobs(directory, seed, per_class))
    shown = not quiet and console.is_terminal
    for path, name, number in track(jobs, "Rendering", console=console, transient=True) if shown else jobs:
        _render(path, name, seed * 1000 + number)
    if not quiet:
        where = shlex.quote(str(directory))
        note(f"{len(jobs)} videos of {len(CLASSES)} classes in {directory}. Next:")
        click.echo(f"c3d-extract {where} --weights motion-mini -o demo.h5")


def _jobs(directory: Path, seed: int, per_class: int) -> Iterator[tuple[Path, str, int]]:
    for name in CLASSES:
        for number in range(per_class):
            # As UCF101's: groups that a classifier can leave out, one video of each group from each seed.
            yield directory / name / f"v_{name}_g{number + 1:02d}_c{seed + 1:02d}.mp4", name, number


def _render(path: Path, name: str, seed: int) -> None:
    from c3d_extract.decode import write_video
    from c3d_extract.train.synthetic import render_video

    height, width = SIZES[seed % len(SIZES)]
    seconds = 2 + seed % 3 * 0.5
    frames = render_video(name, seed, size=(round(seconds * FPS), height, width), seconds=seconds)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames[..., ::-1], FPS)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror or error}", subject=path) from error
