"""Action similarity: pairs, the twelve similarities of ASLAN's paper, and the official splits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy.io import savemat
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from c3d_extract.analysis.aslan import (
    SIMILARITIES,
    Pairs,
    evaluate_pairs,
    pair_similarities,
    read_pairs,
)
from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def sparse(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Return rows as after ReLU: not negative, half of them zero."""
    return np.maximum(np.random.default_rng(seed).normal(size=(n, size)), 0).astype(np.float32)


def twelve(x: list[float], y: list[float]) -> list[float]:
    """Return table 3 of the paper, one number at a time; 0 / 0 is 0, logarithms from 1e-7."""
    pairs, sqrt = list(zip(x, y, strict=True)), math.sqrt
    length_x, length_y = sqrt(sum(a * a for a in x)), sqrt(sum(b * b for b in y))
    kl_xy = kl_yx = 0.0
    for a, b in pairs:
        p, q = max(a, 1e-7), max(b, 1e-7)
        kl_xy += p * math.log(p / q)
        kl_yx += q * math.log(q / p)
    dot = sum(a * b for a, b in pairs)
    return [
        dot,
        sqrt(dot),
        sqrt(sum(sqrt(a) * sqrt(b) for a, b in pairs)),
        sqrt(sum(a * b / (a + b) for a, b in pairs if a + b)),
        dot / (length_x * length_y) if length_x * length_y else 0.0,
        sqrt(sum((a - b) ** 2 / (a + b) for a, b in pairs if a + b)),
        sum(abs(a - b) for a, b in pairs),
        sqrt(sum((sqrt(a) - sqrt(b)) ** 2 for a, b in pairs)),
        sqrt(sum((a - b) ** 2 for a, b in pairs)),
        (kl_xy + kl_yx) / 2,
        sum(sqrt(max(a, b)) / sqrt(a + b) for a, b in pairs if a + b),
        sum(min(a, b) for a, b in pairs) / (sum(x) * sum(y)) if sum(x) * sum(y) else 0.0,
    ]


@pytest.mark.parametrize("row", range(12))
def test_each_similarity_is_the_formula_of_the_paper(row: int) -> None:
    rng = np.random.default_rng(row)
    a, b = sparse(8, 20, seed=row).astype(float), sparse(8, 20, seed=row + 50).astype(float)
    a[0] = b[1] = 0  # a vector of zeros: the divisors of rows 5 and 12
    a[2] = b[2]
    a[3], b[3] = rng.random((2, 20)) + 0.1  # no zeros
    found = list(SIMILARITIES.values())[row](a, b)
    expected = [twelve(x, y)[row] for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    # Float64 sums in another order; a distance of equal rows is a difference of equal numbers.
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_pairs_have_twelve_numbers_for_each_layer_l2_normalised() -> None:
    layers = [sparse(9, 20), 5 * sparse(9, 7, seed=1)]
    first, second = np.array([0, 3, 5, 8]), np.array([1, 3, 2, 0])
    found = pair_similarities(layers, first, second)
    units = [(X / np.linalg.norm(X.astype(float), axis=1, keepdims=True)).tolist() for X in layers]
    expected = [
        [number for unit in units for number in twelve(unit[i], unit[j])]
        for i, j in zip(first, second, strict=True)
    ]
    assert len(SIMILARITIES) == 12
    assert found.shape == (4, 24)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_they_do_not_depend_on_the_order_in_a_pair_or_the_number_of_pairs() -> None:
    rows = sparse(40, 30)
    first, second = np.random.default_rng(2).integers(0, 40, size=(2, 600))
    forwards = pair_similarities([rows], first, second)
    np.testing.assert_allclose(forwards, pair_similarities([rows], second, first), atol=1e-12)
    few = slice(300, 310)
    np.testing.assert_array_equal(forwards[few], pair_similarities([rows], first[few], second[few]))


def test_rows_of_zeros_give_numbers() -> None:
    rows = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 2]])
    both = pair_similarities([rows], np.array([0, 0]), np.array([1, 2]))
    assert np.isfinite(both).all()
    assert (both[0] == 0).all(), "two rows of zeros: each quotient is 0 / 0, and nothing differs"


def test_negative_features_are_refused() -> None:
    with pytest.raises(UsageError, match="not negative"):
        pair_similarities([-sparse(3, 3)], np.array([0]), np.array([1]))


def make_pairs(n_splits: int = 4, each: int = 30) -> tuple[np.ndarray, Pairs]:
    """Return videos of eight actions, and pairs that are the same action half of the time."""
    rng = np.random.default_rng(3)
    action = np.repeat(np.arange(8), 6)
    rows = np.maximum(rng.normal(size=(8, 15))[action] + 0.8 * rng.normal(size=(48, 15)), 0)
    first = rng.integers(0, 48, size=n_splits * each)
    same = np.arange(len(first)) % 2 == 0
    second = [
        rng.choice(np.flatnonzero((action == action[i]) == s)) for i, s in zip(first, same, strict=True)
    ]
    return rows, Pairs(first, np.array(second), same, np.repeat(np.arange(1, n_splits + 1), each))


def test_each_split_is_tested_as_by_hand() -> None:
    rows, pairs = make_pairs()
    evaluation = evaluate_pairs([rows], pairs, c=0.5)
    X = pair_similarities([rows], pairs.first, pairs.second)
    for i, split in enumerate(evaluation.splits):
        test = pairs.split == split
        machine = make_pipeline(
            StandardScaler(), LinearSVC(C=0.5, dual="auto", random_state=0, max_iter=10_000)
        )
        machine.fit(X[~test], pairs.same[~test])
        assert evaluation.accuracies[i] == pytest.approx(machine.score(X[test], pairs.same[test]))
        score = machine.decision_function(X[test])
        assert evaluation.aucs[i] == pytest.approx(roc_auc_score(pairs.same[test], score))
    assert evaluation.accuracy == pytest.approx(evaluation.accuracies.mean())
    assert evaluation.standard_error == pytest.approx(evaluation.accuracies.std(ddof=1) / 2)
    assert evaluation.accuracy > 0.6, "the actions must be recognisable for the test to mean something"


def test_only_training_pairs_set_mean_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, pairs = make_pairs()
    seen: list[np.ndarray] = []
    fit = LinearSVC.fit

    def spy(self: LinearSVC, X: np.ndarray, y: np.ndarray) -> LinearSVC:
        seen.append(X)
        return fit(self, X, y)

    monkeypatch.setattr(LinearSVC, "fit", spy)
    evaluate_pairs([rows], pairs)
    assert len(seen) == 4
    for X in seen:
        np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-9)  # rounding of 90 sums in float64
        np.testing.assert_allclose(X.std(axis=0), 1, atol=1e-9)


def test_splits_of_one_kind_are_refused() -> None:
    rows, pairs = make_pairs(n_splits=2)
    lopsided = Pairs(pairs.first, pairs.second, pairs.split == 1, pairs.split)
    with pytest.raises(UsageError, match="split 1: its pairs or all the others are of one kind"):
        evaluate_pairs([rows], lopsided)
    with pytest.raises(UsageError, match="at least 2 splits"):
        evaluate_pairs([rows], Pairs(pairs.first, pairs.second, pairs.same, pairs.split * 0))


def write_view2(path: Path, n_pairs: int, n_splits: int) -> np.ndarray:
    """Write a file as ASLAN's: doubles (n_pairs, 5, n_splits) of id, id, same, action, action."""
    rng = np.random.default_rng(0)
    cube = np.zeros((n_pairs, 5, n_splits))
    cube[:, :2] = rng.integers(1, 13, size=(n_pairs, 2, n_splits))
    cube[:, 2] = (np.arange(n_pairs) % 2)[:, None]
    cube[:, 3:] = rng.integers(1, 5, size=(n_pairs, 2, n_splits))
    savemat(path, {"action_splits_pairs": cube})
    return cube


def test_the_official_file_is_read_by_sample_number(tmp_path: Path) -> None:
    cube = write_view2(tmp_path / "View2.mat", n_pairs=6, n_splits=10)
    names = [f"ASLAN/{i:04}.avi" for i in range(12, 0, -1)]  # row r is sample 12 - r
    pairs = read_pairs(tmp_path / "View2.mat", names)
    assert pairs.split.tolist() == [split for split in range(1, 11) for _ in range(6)]
    planes = np.concatenate(np.moveaxis(cube, 2, 0))  # split by split
    assert (12 - pairs.first).tolist() == planes[:, 0].tolist()
    assert (12 - pairs.second).tolist() == planes[:, 1].tolist()
    assert pairs.same.tolist() == planes[:, 2].astype(bool).tolist()


def test_a_sample_number_is_four_digits_at_the_end_of_a_name(tmp_path: Path) -> None:
    savemat(tmp_path / "View2.mat", {"action_splits_pairs": np.array([[[1], [2], [1], [7], [7]]], np.uint16)})
    names = ["ASLAN_0003.avi", "deep/0001.mp4", "x-0002.avi", "y-120002.avi"]
    pairs = read_pairs(tmp_path / "View2.mat", names)
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()) == ([1], [2], [True])
    with pytest.raises(UsageError, match=r"two videos end in 0002"):
        read_pairs(tmp_path / "View2.mat", [*names, "again-0002.avi"])


@pytest.mark.parametrize(
    "content", [{"other": np.zeros(3)}, {"action_splits_pairs": np.full((2, 4, 3), 1)}, None]
)
def test_another_mat_file_is_refused(tmp_path: Path, content: dict[str, np.ndarray] | None) -> None:
    path = tmp_path / "View2.mat"
    path.write_bytes(b"no mat at all") if content is None else savemat(path, content)
    with pytest.raises(UsageError, match=r"View2\.mat: .*action_splits_pairs"):
        read_pairs(path, ["0001.avi"])


@pytest.mark.parametrize("line", ["1,a.avi,b.avi", "one,a.avi,b.avi,1", "1,a.avi,b.avi,yes"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"split,first,second,same\n1,a.avi,b.avi,1\n{line}\n")
    with pytest.raises(UsageError, match=r"pairs\.csv, line 3: expected split,first,second"):
        read_pairs(path, ["a.avi", "b.avi"])


def test_pairs_without_a_video_are_refused_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("1,a.avi,b.avi,1\n1,a.avi,gone.avi,0\n")
    with pytest.raises(UsageError, match=r"1 of 2 pairs .* the first is gone\.avi"):
        read_pairs(path, ["a.avi", "b.avi"])
    assert read_pairs(path, ["a.avi", "b.avi"], skip=True).n_missing == 1
