"""Nearest neighbours and near-duplicates by cosine similarity: exact, in blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Duplicate", "find_duplicates", "nearest"]

VALUES_AT_ONCE = 2**24
"""Similarities in memory at a time: 64 MB."""
MOST_DUPLICATES = 1_000_000


class Duplicate(NamedTuple):
    """Two rows, ``first`` before ``second``, and their cosine similarity."""

    first: int
    second: int
    similarity: float


def nearest(
    X: NDArray[np.floating],
    queries: NDArray[np.floating] | None = None,
    *,
    k: int,
    on_block: Callable[[int], None] = lambda _: None,
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Find the most similar rows of ``X`` for each query, by cosine, the most similar first.

    Nothing is approximated. Rows that are equally similar are in the order of ``X``; a row of zeros has the
    similarity 0 to every row.

    Parameters
    ----------
    X
        Floating (N, D).
    queries
        Floating (M, D); None for the rows of ``X`` themselves, each without itself.
    k
        How many; fewer where there are not so many rows.
    on_block
        Called with the number of queries that were answered since the last call.

    Returns
    -------
    rows, similarities
        intp and float32 (M, k).
    """
    units = _unit_rows(X)
    asked = units if queries is None else _unit_rows(queries)
    k = min(k, len(units) - (queries is None))
    rows, similarities = np.empty((len(asked), k), np.intp), np.empty((len(asked), k), np.float32)
    for start, end in _blocks(len(asked), len(units)):
        found = asked[start:end] @ units.T
        if queries is None:
            found[np.arange(end - start), np.arange(start, end)] = -np.inf
        rows[start:end] = best = _highest(found, k)
        similarities[start:end] = np.clip(np.take_along_axis(found, best, axis=1), -1, 1)
        on_block(end - start)
    return rows, similarities


def find_duplicates(X: NDArray[np.floating], threshold: float) -> list[Duplicate]:
    """Find all pairs of rows whose cosine similarity is ``threshold`` or more, the most similar first.

    Half a millionth less is taken, too: equal rows are not exactly as similar as 1 after rounding.

    Raises
    ------
    UsageError
        Where there are more than a million.
    """
    units = _unit_rows(X)
    pairs: list[Duplicate] = []
    for start, end in _blocks(len(units), len(units)):
        found = units[start:end] @ units[start:].T
        first, second = np.nonzero(np.triu(found >= threshold - 5e-7, k=1))
        if len(pairs) + len(first) > MOST_DUPLICATES:
            reason = f"more than {MOST_DUPLICATES:,} pairs are as similar as {threshold:g}"
            raise UsageError(reason, hint="choose a higher threshold")
        values = np.minimum(found[first, second], 1)
        pairs += map(Duplicate, (first + start).tolist(), (second + start).tolist(), values.tolist())
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _unit_rows(X: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return rows of length 1; those of zeros stay as they are."""
    # In float64, where the square of no float32 value overflows, but without a copy of X in it.
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    units = np.empty(X.shape, np.float32)
    np.divide(X, np.where(lengths > 0, lengths, 1)[:, None], out=units, casting="same_kind")
    return units


def _blocks(n: int, n_columns: int) -> list[tuple[int, int]]:
    size = max(1, VALUES_AT_ONCE // max(n_columns, 1))
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _highest(values: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the columns of the ``k`` highest values of each row, intp (M, k), ties in order."""
    if k == 0:
        return np.empty((len(values), 0), np.intp)
    n = values.shape[1]
    lowest = np.partition(values, n - k, axis=1)[:, n - k]
    # Where several are as high as the lowest that is taken, a partition alone would choose any of them.
    candidates = (np.flatnonzero(row >= low) for row, low in zip(values, lowest, strict=True))
    both = zip(values, candidates, strict=True)
    return np.stack([columns[np.argsort(-row[columns], kind="stable")][:k] for row, columns in both])
