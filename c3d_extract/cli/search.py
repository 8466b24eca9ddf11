"""``c3d-tools search``: the nearest videos of a feature file, and its near-duplicates."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, put_json, refuse_given
from c3d_extract.cli.extracted import extracted_like, extraction_options
from c3d_extract.cli.options import debug_option, json_option, layer_option
from c3d_extract.cli.tables import show_table
from c3d_extract.errors import UsageError
from c3d_extract.object_store import is_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.analysis.features import LayerFeatures

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DEFAULT_K = 10
_OF_A_VIDEO = ("weights", "mean", "pca_from")

_EXAMPLES = """\b
Examples:
  c3d-tools search feats.h5 kick/g01.mp4    # like a video of the file
  c3d-tools search feats.h5 clip.mp4 -k 5   # like any other video
  c3d-tools search feats.h5 --duplicates 0.98
"""


@click.command("search", epilog=_EXAMPLES, context_settings={"max_content_width": 100})
@click.argument("features", type=FILE)
@click.argument("video", required=False)
@click.option("-k", type=click.IntRange(min=1), help=f"How many neighbours.  [default: {DEFAULT_K}]")
@click.option(
    "--duplicates",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SIMILARITY",
    help="All pairs of videos that are at least so similar.",
)
@layer_option("Which features.  [default: the first layer of the file]")
@extraction_options("FEATURES", "FEATURES")
@json_option
@debug_option
@guarded
def command(features: Path, video: str | None, **options: Any) -> None:
    """Find the videos of FEATURES, a feature file, that are most like VIDEO.

    VIDEO is a name in the file, or another video, which is extracted as those in the file were. Similarity is
    the cosine between features; every video is compared.
    """
    from c3d_extract.analysis.features import read_layer

    _check(video, options)
    table = read_layer(features, options["layer"])
    if video is None:
        _put_duplicates(table, options["duplicates"], as_json=options["as_json"])
    else:
        _put_neighbours(table, video, options)


def _check(video: str | None, options: dict[str, Any]) -> None:
    if (video is None) == (options["duplicates"] is None):
        hint = "give one of them"
        raise UsageError("needs a VIDEO, or --duplicates SIMILARITY", subject="search", hint=hint)
    if video is None and options["k"] is not None:
        raise UsageError("is for a VIDEO; --duplicates gives all pairs", subject="-k")
    if video is None:
        refuse_given(options, _OF_A_VIDEO, "is for a VIDEO")


def _put_duplicates(table: LayerFeatures, threshold: float, *, as_json: bool) -> None:
    from c3d_extract.analysis.search import find_duplicates

    pairs = [
        {"similarity": round(pair.similarity, 6), "video": table.videos[pair.first],
         "other": table.videos[pair.second]}
        for pair in find_duplicates(table.X, threshold)
    ]  # fmt: skip
    if as_json:
        put_json({"layer": table.provenance["layer"], "threshold": threshold, "pairs": pairs})
        return
    _put_table(("similarity", "video", "other"), pairs)
    note(f"{len(pairs):,} pairs of {len(table.videos):,} videos are at least {threshold:g} similar")


def _put_neighbours(table: LayerFeatures, video: str, options: dict[str, Any]) -> None:
    from c3d_extract.analysis.search import nearest

    k = options["k"] or DEFAULT_K
    is_row = video in table.videos
    if is_row:
        refuse_given(options, _OF_A_VIDEO, f"is for other videos; {video} is in the file")
    query = table.X[[table.videos.index(video)]] if is_row else _extracted(table, video, options)
    rows, similarities = nearest(table.X, query, k=k + is_row)
    found = [
        {"similarity": round(value, 6), "video": table.videos[row]}
        for row, value in zip(rows[0].tolist(), similarities[0].tolist(), strict=True)
        if not (is_row and table.videos[row] == video)
    ][:k]
    if options["as_json"]:
        put_json({"query": video, "layer": table.provenance["layer"], "neighbours": found})
    else:
        _put_table(("similarity", "video"), found)


def _extracted(table: LayerFeatures, video: str, options: dict[str, Any]) -> NDArray[np.float32]:
    """Return the features of a video that is not in the table, float32 (1, D)."""
    if not is_address(video) and not Path(video).exists():
        close = difflib.get_close_matches(video, table.videos, n=3)
        hint = f"perhaps {', '.join(close)}" if close else "`c3d-tools search --help` has examples"
        raise UsageError("neither a video of the feature file nor a file", subject=video, hint=hint)
    from c3d_extract.analysis import read_layer

    with extracted_like(table.provenance, [video], options) as (features, _):
        found = read_layer(features, table.provenance["layer"])
    if len(found.videos) != 1:
        raise UsageError(f"holds {len(found.videos)} videos; name one of them", subject=video)
    return found.X


def _put_table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    lines = [[f"{row['similarity']:.4f}", *(row[name] for name in columns[1:])] for row in rows]
    show_table(columns, lines, right=columns[:1], wrapped=columns[1:])
