"""``c3d-tools search``: the nearest videos of a feature file, and its near-duplicates."""

from __future__ import annotations

import difflib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, put_json
from c3d_extract.cli.completion import complete_layer, complete_weights
from c3d_extract.cli.options import (
    debug_option,
    device_option,
    json_option,
    mean_option,
    offline_option,
    precision_option,
)
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
_OF_A_FILE = ("weights", "mean", "pca_from")

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
@click.option(
    "--layer",
    metavar="NAME",
    shell_complete=complete_layer,
    help="Which features.  [default: the first layer of the file]",
)
@click.option(
    "--weights",
    metavar="NAME|FILE",
    shell_complete=complete_weights,
    help="The network.  [default: the one that FEATURES names]",
)
@mean_option
@click.option("--pca-from", type=FILE, help="The basis that FEATURES were projected with.")
@device_option(several=True)
@precision_option("Of the network.")
@offline_option
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
        _refuse(options, "is for a VIDEO")


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raise UsageError for an option that would do nothing."""
    for name in _OF_A_FILE:
        if options[name] is not None:
            raise UsageError(why, subject=f"--{name.replace('_', '-')}")


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
        _refuse(options, f"is for other videos; {video} is in the file")
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
    from c3d_extract.analysis import extractor_for, read_layer, write_features
    from c3d_extract.output import load_basis

    basis = None if options["pca_from"] is None else load_basis(options["pca_from"])
    loading = {name: options[name] for name in ("mean", "device", "precision", "offline")}
    with (
        extractor_for(table.provenance, basis, options["weights"], **loading) as extractor,
        TemporaryDirectory(prefix="c3d-") as folder,
    ):
        features = Path(folder) / "feats.h5"
        write_features(extractor, [video], features, basis)
        found = read_layer(features, table.provenance["layer"])
    if len(found.videos) != 1:
        raise UsageError(f"holds {len(found.videos)} videos; name one of them", subject=video)
    return found.X


def _put_table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    lines = [[f"{row['similarity']:.4f}", *(row[name] for name in columns[1:])] for row in rows]
    show_table(columns, lines, right=columns[:1], wrapped=columns[1:])
