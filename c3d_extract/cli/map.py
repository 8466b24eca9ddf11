"""``c3d-tools map``: a page with a map of the videos of a feature file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from c3d_extract.cli.common import guarded, note
from c3d_extract.cli.options import debug_option, layer_option, quiet_option

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)

_EXAMPLES = """\b
Examples:
  c3d-tools map feats.h5                    # writes map.html
  c3d-tools map feats.h5 --root videos/ -o kicks.html
  c3d-tools map feats.h5 --labels who.csv   # video,who,where and such lines
  c3d-tools map clips.h5                    # a point a clip
"""


@click.command("map", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("features", type=FILE)
@click.option("-o", "--output", type=OUTPUT, default="map.html", show_default=True, help="The page to write.")
@layer_option("Which features.  [default: the first layer of the file]")
@click.option(
    "--method",
    type=click.Choice(["pca", "tsne", "umap"]),
    help="How features become places; umap needs umap-learn.  [default: tsne; above 20,000 rows umap, "
    "where it is installed, else pca]",
)
@click.option(
    "--labels", type=FILE, metavar="CSV", help="Colours: lines video,label; or a header video,… and columns."
)
@click.option(
    "--clusters", "n_clusters", type=click.IntRange(min=1), default=8, show_default=True,
    help="Colours: how many clusters of k-means.",
)  # fmt: skip
@click.option("--root", type=FOLDER, help="Where the videos lie.  [default: the folder here that has them]")
@click.option(
    "--max-thumbnails", type=click.IntRange(min=0), default=10_000, show_default=True,
    help="Of more rows, so many have a thumbnail.",
)  # fmt: skip
@quiet_option
@debug_option
@guarded
def command(features: Path, *, output: Path, quiet: bool, debug: bool, **options: Any) -> None:
    """Write a page that maps the videos of FEATURES, a feature or clip file: like ones lie close together.

    The page is one file that needs no network: points with thumbnails, coloured by folder, label or cluster,
    a search by name, and for each video its facts and its eight nearest neighbours by cosine similarity.
    """
    del debug
    from c3d_extract.cli.progress import step_bars
    from c3d_extract.pages.map import MapOptions, write_map

    with step_bars(quiet=quiet) as step:
        notes = write_map(features, output, MapOptions(**options), step)
    for text in notes:
        note(f"Note: {text}.")
    if not quiet:
        note(f"{features} → {output} ({output.stat().st_size / 1e6:.1f} MB)")
