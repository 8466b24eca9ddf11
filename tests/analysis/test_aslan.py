"""Action similarity: pairs, their similarities, and the official splits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from click.testing import CliRunner
from scipy.io import savemat
from scipy.spatial import distance
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from c3d_extract.analysis import (
    SIMILARITIES,
    Pairs,
    aslan,
    judge_pairs,
    read_pairs,
    similarities,
)
from c3d_extract.analysis.linear import LinearModel, fit_linear
from c3d_extract.cli.aslan import command
from c3d_extract.errors import UsageError
from c3d_extract.output import VIDEO_COLUMNS, TableRow, write_table

if TYPE_CHECKING:
    from pathlib import Path


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def sparse(n: int, size: int, seed: int = 0) -> np.ndarray:
    """Return rows as after ReLU: not negative, half of them zero."""
    return np.maximum(np.random.default_rng(seed).normal(size=(n, size)), 0).astype(np.float32)


def plain(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Return the twelve, one number at a time."""
    n = range(len(a))
    dot, bhattacharyya = sum(a[i] * b[i] for i in n), sum((a[i] * b[i]) ** 0.5 for i in n)
    low, high = sum(min(a[i], b[i]) for i in n), sum(max(a[i], b[i]) for i in n)
    return [
        dot,
        dot**0.5,
        bhattacharyya,
        bhattacharyya**0.5,
        low,
        low / high,
        distance.cityblock(a, b),
        distance.euclidean(a, b),
        distance.chebyshev(a, b),
        sum((a[i] - b[i]) ** 2 / (a[i] + b[i]) for i in n if a[i] + b[i]),
        sum((a[i] ** 0.5 - b[i] ** 0.5) ** 2 for i in n) ** 0.5,
        distance.jensenshannon(a, b) ** 2,
    ]


def test_the_twelve_are_what_plain_loops_give() -> None:
    layers = [sparse(9, 20), sparse(9, 7, seed=1)]
    first, second = np.array([0, 3, 5, 8]), np.array([1, 3, 2, 0])
    got = similarities(layers, first, second)
    expected = [
        [x for layer in layers for x in plain(*unit(layer.astype(np.float64))[[i, j]])]
        for i, j in zip(first, second, strict=True)
    ]
    assert len(SIMILARITIES) == 12
    assert got.shape == (4, 24)
    # Float64 sums in another order; a divergence of equal rows is a difference of equal numbers.
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_they_do_not_care_which_video_comes_first_or_how_many_there_are() -> None:
    rows = sparse(40, 30)
    first, second = np.random.default_rng(2).integers(0, 40, size=(2, 600))
    there = similarities([rows], first, second)
    np.testing.assert_allclose(there, similarities([rows], second, first), atol=1e-12)
    np.testing.assert_array_equal(there[300:310], similarities([rows], first[300:310], second[300:310]))


def test_rows_of_zeros_give_numbers() -> None:
    assert np.isfinite(similarities([np.zeros((2, 3))], np.array([0]), np.array([1]))).all()


def test_negative_features_are_refused() -> None:
    with pytest.raises(UsageError, match="not negative"):
        similarities([-sparse(3, 3)], np.array([0]), np.array([1]))


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
    report = judge_pairs([rows], pairs, c=0.5)
    X = similarities([rows], pairs.first, pairs.second)
    for i, split in enumerate(report.splits):
        test = pairs.split == split
        machine = make_pipeline(
            StandardScaler(), LinearSVC(C=0.5, dual="auto", random_state=0, max_iter=10_000)
        )
        machine.fit(X[~test], pairs.same[~test])
        assert report.accuracies[i] == pytest.approx(machine.score(X[test], pairs.same[test]))
        score = machine.decision_function(X[test])
        assert report.aucs[i] == pytest.approx(roc_auc_score(pairs.same[test], score))
    assert report.accuracy == pytest.approx(report.accuracies.mean())
    assert report.standard_error == pytest.approx(report.accuracies.std(ddof=1) / 2)
    assert report.accuracy > 0.6, "the actions must be recognisable for the test to mean something"


def test_only_training_pairs_set_mean_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, pairs = make_pairs()
    seen: list[np.ndarray] = []

    def spying(X: np.ndarray, *args: Any, **kwargs: Any) -> LinearModel:
        seen.append(X)
        return fit_linear(X, *args, **kwargs)

    monkeypatch.setattr(aslan, "fit_linear", spying)
    judge_pairs([rows], pairs)
    assert len(seen) == 4
    for X in seen:
        np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-9)  # rounding of 90 sums in float64
        np.testing.assert_allclose(X.std(axis=0), 1, atol=1e-9)


def test_splits_of_one_kind_are_refused() -> None:
    rows, pairs = make_pairs(n_splits=2)
    lopsided = Pairs(pairs.first, pairs.second, pairs.split == 1, pairs.split)
    with pytest.raises(UsageError, match="split 1: its pairs or all the others are of one kind"):
        judge_pairs([rows], lopsided)
    with pytest.raises(UsageError, match="at least 2 splits"):
        judge_pairs([rows], Pairs(pairs.first, pairs.second, pairs.same, pairs.split * 0))


def test_the_official_file_is_read_by_sample_number(tmp_path: Path) -> None:
    cube = np.zeros((2, 5, 3))
    cube[:, 0], cube[:, 1] = [[1, 2, 3], [3, 1, 2]], [[2, 3, 1], [1, 2, 3]]
    cube[0, 2] = 1
    savemat(tmp_path / "View2.mat", {"action_splits_pairs": cube})
    names = ["ASLAN_0003.avi", "deep/0001.mp4", "x-0002.avi", "y-120002.avi"]
    pairs = read_pairs(tmp_path / "View2.mat", names)
    assert pairs.split.tolist() == [1, 1, 2, 2, 3, 3]
    assert pairs.same.tolist() == [True, False] * 3
    assert pairs.first.tolist() == [1, 0, 2, 1, 0, 2]
    assert pairs.second.tolist() == [2, 1, 0, 2, 1, 0]
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


def test_the_command_judges_a_file(tmp_path: Path) -> None:
    rows, pairs = make_pairs()
    names = [f"{i:03}.avi" for i in range(len(rows))]
    layers = {"prob": rows[:, :5], "fc7": rows, "fc6": rows * 2, "pool5": rows**2}
    table = [TableRow(names[i], (1,) * len(VIDEO_COLUMNS), [X[i].astype(np.float32) for X in layers.values()])
             for i in range(len(rows))]  # fmt: skip
    facts = {"complete": True, "settings": {}, "versions": {}, "weights": {}}
    sizes = {layer: X.shape[1] for layer, X in layers.items()}
    write_table(tmp_path / "f.h5", kind="features", layers=sizes, rows=table, attributes=facts)
    lines = zip(pairs.split, pairs.first, pairs.second, pairs.same, strict=True)
    (tmp_path / "p.csv").write_text("".join(f"{s},{names[a]},{names[b]},{int(y)}\n" for s, a, b, y in lines))
    words = [str(tmp_path / "f.h5"), "--pairs", str(tmp_path / "p.csv")]
    said = json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)
    expected = judge_pairs([X.astype(np.float32) for X in layers.values()], pairs)
    assert said["layers"] == ["prob", "fc7", "fc6", "pool5"]
    assert (said["accuracy"], said["auc"]) == (expected.accuracy, expected.auc)
    assert "accuracy 0." in CliRunner().invoke(command, words).stdout
