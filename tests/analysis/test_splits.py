"""Splits: groups stay together, every row is tested once, and what cannot be split is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_features import blobs

from c3d_extract.analysis import Samples, grouped_splits, leave_one_out_splits, stratified_splits
from c3d_extract.analysis.splits import inner_splits
from c3d_extract.errors import UsageError

rows_of_class_and_group = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=12, max_size=60)


@settings(max_examples=20, deadline=None)
@given(rows_of_class_and_group, st.integers(2, 4))
def test_groups_never_straddle_a_fold(rows: list[tuple[int, int]], k: int) -> None:
    rows = [*rows, *((c, g) for c in range(3) for g in range(8))]  # enough of each for any k
    groups = [f"g{g}" for _, g in rows]
    samples = Samples(np.zeros((len(rows), 1)), [str(c) for c, _ in rows], groups)
    for splits in (leave_one_out_splits(samples), grouped_splits(samples, k), inner_splits(samples)):
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(rows)))
        for split in splits:
            assert not {groups[i] for i in split.train} & {groups[i] for i in split.test}
            assert len(split.train) + len(split.test) == len(rows)


def test_groups_are_in_the_order_of_their_numbers() -> None:
    groups = ["10", "9", "b", "a"]
    samples = Samples(np.zeros((4, 1)), ["x", "y", "x", "y"], groups)
    splits = leave_one_out_splits(samples)
    assert [split.name for split in splits] == ["9", "10", "a", "b"]
    assert [split.test.tolist() for split in splits] == [[1], [0], [3], [2]]


def test_without_groups_each_video_is_left_out_once() -> None:
    splits = leave_one_out_splits(Samples(np.zeros((12, 1)), list("ab" * 6)))
    assert [(split.name, split.test.tolist()) for split in splits] == [(str(i + 1), [i]) for i in range(12)]


def test_stratified_folds_are_shuffled_the_same_every_time() -> None:
    samples, _ = blobs()
    first, second = (stratified_splits(samples, 4) for _ in range(2))
    assert [s.test.tolist() for s in first] == [s.test.tolist() for s in second]
    assert all(samples.rows(s.test).counts == {"hug": 5, "kick": 5, "push": 5} for s in first)
    assert first[0].test.tolist() != sorted(range(0, 60, 4)), "not simply every fourth row"


@pytest.mark.parametrize(("call", "message"), [
    (lambda s: grouped_splits(s, 6), "6 folds of 5 groups and at most 20 videos per class"),
    (lambda s: stratified_splits(s, 21), "21 folds, and class hug has 20 videos"),
    (lambda s: leave_one_out_splits(Samples(s.X, ["a"] * 60, ["g"] * 60)), "at least 2 groups"),
    (lambda s: inner_splits(Samples(s.X, ["a"] + ["b"] * 59)), "needs at least 2 videos of every class"),
    (lambda s: inner_splits(Samples(s.X, ["a", "b"] * 30, ["g"] * 60)), "needs at least 2 groups"),
    (lambda s: inner_splits(Samples(s.X, ["a", "b"] * 30, ["g", "h"] * 30)), "only one class is left"),
])  # fmt: skip
def test_what_cannot_be_split_gets_one_clear_line(call: Any, message: str) -> None:
    samples, _ = blobs()
    with pytest.raises(UsageError) as caught:
        call(samples)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
