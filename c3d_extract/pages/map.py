"""A map of videos: like ones lie near one another, with pictures, labels and neighbours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.analysis import choose_method, find_clusters, lay_out, nearest, reduce_features
from c3d_extract.analysis.labels import folder_of, read_label_columns
from c3d_extract.decode.thumbnails import Wanted
from c3d_extract.pages.rows import read_rows
from c3d_extract.pages.template import require_library, write_page
from c3d_extract.pages.thumbnails import make_thumbnails
from c3d_extract.sources.located import find_file, find_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from c3d_extract.analysis.layout import Method
    from c3d_extract.pages.rows import Rows
    from c3d_extract.pages.thumbnails import Thumbnails

__all__ = ["MapOptions", "write_map"]

N_NEIGHBOURS = 8
NO_LABEL = "(none)"
_DIGITS = 4  # of places and similarities: a page shows no more


@dataclass(frozen=True)
class MapOptions:
    """What a map shows: the options of ``c3d-tools map``, whose help explains them."""

    layer: str | None = None
    method: Method | None = None
    labels: Path | None = None
    n_clusters: int = 8
    root: Path | None = None
    max_thumbnails: int = 10_000


def write_map(
    features: Path, output: Path, options: MapOptions, step: Callable[[str, int], Callable[[int], None]]
) -> list[str]:
    """Write the map of a feature or clip file as one HTML file; return remarks for the user.

    Parameters
    ----------
    step
        Called with what is done next and how much it is; what it returns is called with what is done of it.

    Raises
    ------
    C3DError
        Where a library is not installed.
    StoreError, UsageError
        Where a file cannot be read or written.
    """
    require_library()
    rows = read_rows(features, options.layer)
    n = len(rows.videos)
    colourings = _colourings(rows, options.labels)
    method = options.method or choose_method(n)
    done = step(f"{n:,} rows by {method}", 1)
    reduced = reduce_features(rows.X)
    places = lay_out(reduced, method)
    colourings["cluster"] = [f"cluster {number + 1}" for number in find_clusters(reduced, options.n_clusters)]
    done(1)
    neighbours, similarities = nearest(rows.X, k=N_NEIGHBOURS, on_block=step("neighbours", n))
    wanted, notes = _wanted(rows, features, options)
    advance = step("thumbnails", n)
    thumbnails = make_thumbnails(wanted, lambda: advance(1))
    notes += _unread(thumbnails, rows)
    if options.method is None and method == "pca":
        notes.append("t-SNE of so many rows takes long; --method tsne does it, or install umap-learn")
    data = {
        "file": features.name,
        "kind": rows.kind,
        "layer": rows.layer,
        "weights": str(rows.attributes.get("weights", {}).get("weights", "")),
        "method": method,
        "notes": notes,
        "names": rows.videos,
        "x": _rounded(places[:, 0]),
        "y": _rounded(places[:, 1]),
        "colourings": [_coded(name, values) for name, values in colourings.items()],
        "facts": rows.facts,
        "neighbours": neighbours.tolist(),
        "similarities": [_rounded(row) for row in similarities],
        "thumbnails": {**thumbnails.layout, "places": thumbnails.places},
    }
    write_page(output, "map", title=f"{features.name}: map", data=data, pictures=thumbnails.sheets)
    return notes


def _rounded(values: NDArray[np.float32]) -> list[float]:
    rounded: list[float] = np.round(values.astype(np.float64), _DIGITS).tolist()
    return rounded


def _colourings(rows: Rows, labels: Path | None) -> dict[str, list[str]]:
    """Return what rows can be coloured by: name → a value a row."""
    found: dict[str, list[str]] = {}
    for name, table in ({} if labels is None else read_label_columns(labels)).items():
        found[name] = [table.get(video) or NO_LABEL for video in rows.videos]
    found["folder"] = [folder_of(video) or NO_LABEL for video in rows.videos]
    if len(set(rows.facts.get("status", ()))) > 1:
        found["status"] = [str(status) for status in rows.facts["status"]]
    return found


def _coded(name: str, values: Sequence[str]) -> dict[str, Any]:
    """Return a colouring as its names, the most frequent first, and the number of each row's."""
    names = [value for value, _ in sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))]
    number = {value: i for i, value in enumerate(names)}
    return {"name": name, "names": names, "of": [number[value] for value in values]}


def _wanted(rows: Rows, features: Path, options: MapOptions) -> tuple[list[Wanted | None], list[str]]:
    """Return which rows get pictures, and remarks on those that do not."""
    n = len(rows.videos)
    near = (Path(), features.absolute().parent)
    root = options.root or find_root(rows.videos, near)
    if root is None:
        return [None] * n, [
            "the videos were not found, so there are no thumbnails; --root DIR says where they are"
        ]
    sample = np.linspace(0, n - 1, min(n, options.max_thumbnails)).round().astype(int)
    found: list[Wanted | None] = [None] * n
    for row in np.unique(sample).tolist():
        path = find_file(root, rows.videos[row], rows.sizes[row])
        found[row] = None if path is None else Wanted(path, rows.spans[row])
    notes = [] if len(sample) == n else [f"thumbnails are of a sample, {len(sample):,} of {n:,} rows"]
    if missing := sum(found[row] is None for row in sample):
        notes.append(
            f"{missing:,} videos are not below {root}, or are other files now; they have no thumbnail"
        )
    return found, notes


def _unread(thumbnails: Thumbnails, rows: Rows) -> list[str]:
    if not thumbnails.failed:
        return []
    row, why = next(iter(thumbnails.failed.items()))
    return [f"{len(thumbnails.failed):,} thumbnails failed, the first of {rows.videos[row]}: {why}"]
