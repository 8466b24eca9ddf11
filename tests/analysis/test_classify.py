"""The linear classifier: equal to scikit-learn called by hand, and fair to what it tests."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn")
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # noqa: E402
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_predict  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import Normalizer  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

from c3d_extract.analysis import (  # noqa: E402
    Recipe,
    Report,
    Samples,
    Split,
    cross_validate,
    fit_recipe,
    folder_labels,
    grouped_splits,
    l2_normalised,
    leave_one_out_splits,
    load_model,
    match_labels,
    pattern_values,
    pca_curve,
    protocols,
    read_label_csv,
    read_ucf101_split,
    save_model,
    stratified_splits,
)
from c3d_extract.analysis.linear import Basis, fit_basis  # noqa: E402
from c3d_extract.analysis.protocols import C_GRID, _inner_splits  # noqa: E402
from c3d_extract.cli.tools import COMMANDS, LazyGroup  # noqa: E402
from c3d_extract.errors import C3DError, StoreError, UsageError  # noqa: E402
from c3d_extract.output import VIDEO_COLUMNS, TableRow, write_table  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

N_GROUPS, PER_GROUP, SIZE = 5, 4, 12
CLASSES = ("hug", "kick", "push")


def blobs(
    spread: float = 1.2, classes: tuple[str, ...] = CLASSES, seed: int = 0
) -> tuple[Samples, list[str]]:
    """Return Gaussian blobs, one a class, with a shift a group, and names ``class/v_gNN_cMM.avi``."""
    rng = np.random.default_rng(seed)
    centres, shifts = rng.normal(size=(len(classes), SIZE)), rng.normal(size=(N_GROUPS, SIZE)) / 3
    rows = [(c, g, i) for c in range(len(classes)) for g in range(N_GROUPS) for i in range(PER_GROUP)]
    X = np.array(
        [centres[c] + shifts[g] + spread * rng.normal(size=SIZE) for c, g, _ in rows], dtype=np.float32
    )
    names = [f"{classes[c]}/v_g{g + 1:02}_c{i:02}.avi" for c, g, i in rows]
    return Samples.of(np.abs(X), folder_labels(names), pattern_values(names, r"_(g\d+)_")), names


def by_hand(c: float = 1.0, k: int | None = None) -> Any:
    steps = [
        Normalizer(),
        *([PCA(k, svd_solver="full")] if k else []),
        LinearSVC(C=c, dual="auto", random_state=0, max_iter=10_000),
    ]
    return make_pipeline(*steps)


def predictions(report: Report, n: int) -> np.ndarray:
    """Return what was predicted for each row, -1 where it was never tested."""
    out = np.full(n, -1)
    for fold in report.folds:
        out[fold.test] = fold.predicted
    return out


# --- agreement with scikit-learn ---


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_leave_one_group_out_is_what_scikit_learn_gives(c: float, k: int | None) -> None:
    samples, _ = blobs()
    report = cross_validate(samples, leave_one_out_splits(samples), Recipe(c=c, pca=k))
    expected = cross_val_predict(
        by_hand(c, k), samples.X, samples.y, groups=samples.groups, cv=LeaveOneGroupOut()
    )
    assert (predictions(report, len(samples.y)) == expected).all()
    assert report.pooled_accuracy == pytest.approx((expected == samples.y).mean())


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
def test_scores_are_scikit_learns_decision_function(classes: tuple[str, ...]) -> None:
    samples, _ = blobs(classes=classes)
    scores = fit_recipe(samples, Recipe(pca=4)).scores(samples.X)
    expected = by_hand(k=4).fit(samples.X, samples.y).decision_function(samples.X)
    expected = expected if expected.ndim == 2 else np.stack([-expected, expected], axis=1)
    # The Normalizer works in float32 and we in float64: about 1e-7 of the features, and the solver's
    # own tolerance is 1e-4.
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize(("spread", "k"), [(0.5, 5), (1.2, 5), (2.0, None)])
def test_automatic_c_is_the_one_a_grid_search_finds(spread: float, k: int | None) -> None:
    samples, _ = blobs(spread=spread)
    folds = [(split.train, split.test) for split in _inner_splits(samples)]
    search = GridSearchCV(by_hand(k=k), {"linearsvc__C": list(C_GRID)}, cv=folds).fit(samples.X, samples.y)
    assert search.best_index_ > 0, "the data must prefer a C that is not the first"
    assert fit_recipe(samples, Recipe(c=None, pca=k)).c == search.best_params_["linearsvc__C"]


def test_figures_are_those_of_scikit_learn() -> None:
    samples, _ = blobs(spread=3.0)
    report = cross_validate(samples, stratified_splits(samples, 4))
    guessed = predictions(report, len(samples.y))
    assert (report.confusion == confusion_matrix(samples.y, guessed)).all()
    ours = np.array([(row.precision, row.recall, row.f1, row.n_test) for row in report.per_class])
    np.testing.assert_allclose(ours.T, precision_recall_fscore_support(samples.y, guessed))
    folds = [(fold.predicted == fold.truth).mean() for fold in report.folds]
    assert (report.accuracy, report.accuracy_std) == pytest.approx((np.mean(folds), np.std(folds)))


def test_the_curve_is_a_cross_validation_per_dimension() -> None:
    samples, _ = blobs(spread=2.5)
    splits = leave_one_out_splits(samples)
    for k, report in pca_curve(samples, splits, [2, 5, 12]).items():
        alone = cross_validate(samples, splits, Recipe(pca=k))
        assert (predictions(report, len(samples.y)) == predictions(alone, len(samples.y))).all()


def test_rows_of_zeros_stay_zero_when_normalised() -> None:
    assert (l2_normalised(np.array([[0.0, 0.0], [3.0, 4.0]])) == [[0, 0], [0.6, 0.8]]).all()


def test_the_same_data_gives_the_same_model_to_the_bit() -> None:
    # More numbers than videos, as real features are: the solver then visits the videos in random order.
    X = np.random.default_rng(0).random((60, 300))
    samples = Samples.of(X, list("abc") * 20)
    first, second = (fit_recipe(samples, Recipe(c=None)) for _ in range(2))
    assert (first.coef == second.coef).all()
    assert (first.c, first.intercept.tolist()) == (second.c, second.intercept.tolist())


# --- fairness ---

many_groups = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), min_size=12, max_size=60)


@given(many_groups, st.integers(2, 4))
def test_groups_never_straddle_a_fold(rows: list[tuple[int, int]], k: int) -> None:
    rows = [*rows, *((c, g) for c in range(3) for g in range(8))]  # enough of each for any k
    groups = [f"g{g}" for _, g in rows]
    samples = Samples.of(np.zeros((len(rows), 1)), [str(c) for c, _ in rows], groups)
    for splits in (leave_one_out_splits(samples), grouped_splits(samples, k), _inner_splits(samples)):
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(rows)))
        for split in splits:
            assert not {groups[i] for i in split.train} & {groups[i] for i in split.test}
            assert len(split.train) + len(split.test) == len(rows)


@pytest.mark.parametrize("recipe", [Recipe(pca=4), Recipe(c=None, pca=4), Recipe(c=None, l2=False)])
def test_nothing_that_is_fitted_sees_a_test_row(recipe: Recipe) -> None:
    samples, _ = blobs(spread=2.0)
    split = leave_one_out_splits(samples)[0]
    poisoned = samples.X.copy()
    victims = split.test[::2]
    poisoned[victims] = 1e6 * np.random.default_rng(1).normal(size=(len(victims), SIZE))
    clean = cross_validate(samples, [split], recipe).folds[0]
    dirty = cross_validate(
        Samples(poisoned, samples.y, samples.classes, samples.groups), [split], recipe
    ).folds[0]
    spared = ~np.isin(split.test, victims)
    assert clean.c == dirty.c
    assert (clean.predicted[spared] == dirty.predicted[spared]).all()
    assert (clean.predicted[~spared] != dirty.predicted[~spared]).any(), "the poison must have had an effect"


def test_pca_of_the_training_rows_is_not_pca_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = blobs()
    seen: list[np.ndarray] = []

    def spying(rows: np.ndarray, k: int) -> Basis:
        seen.append(rows)
        return fit_basis(rows, k)

    monkeypatch.setattr(protocols, "fit_basis", spying)
    splits = leave_one_out_splits(samples)
    pca_curve(samples, splits, [2, 3])
    rows = l2_normalised(samples.X)
    assert len(seen) == len(splits)
    assert all((used == rows[split.train]).all() for used, split in zip(seen, splits, strict=True))


# --- labels ---


def test_labels_and_groups_come_from_names() -> None:
    names = ["a/kick/set1_26_5_2.avi", "a/hug/set1_2_11_1.avi"]
    assert folder_labels(names) == ["kick", "hug"]
    assert pattern_values(names, r"set1_\d+_(\d+)_") == ["5", "11"]
    assert pattern_values(names, r"set\d") == ["set1", "set1"]


@pytest.mark.parametrize(("call", "said"), [
    (lambda: folder_labels(["lonely.avi"]), "lonely.avi: in no folder"),
    (lambda: pattern_values(["x.avi"], r"_(\d+)_", what="group"), "x.avi: the group pattern"),
    (lambda: pattern_values(["x.avi"], r"("), "not a regular expression"),
])  # fmt: skip
def test_names_that_give_no_label_are_named(call: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_file_is_read_with_or_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('video,label\n"a, b.avi",hug\n\nc.avi , kick\n', encoding="utf-8-sig")
    assert read_label_csv(path) == {"a, b.avi": "hug", "c.avi": "kick"}
    path.write_text("c.avi,kick\n")
    assert read_label_csv(path) == {"c.avi": "kick"}


@pytest.mark.parametrize(("text", "said"), [
    ("video,label\na.avi,hug\nb.avi\n", "line 3: expected video,label"),
    ("a.avi,hug,kick\n", "line 1: expected video,label"),
    ("a.avi,hug\na.avi,kick\n", "line 2: a.avi was labelled hug before and is kick here"),
    ("video,label\n", "holds no lines"),
    (b"\xff\xfe\x00", "not a text file"),
])  # fmt: skip
def test_a_broken_label_file_names_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=r"labels\.csv") as caught:
        read_label_csv(path)
    assert said in str(caught.value)


def test_labels_must_fit_the_videos_unless_skipping_is_wanted() -> None:
    with pytest.raises(UsageError, match=r"no label for 1 of 2 videos, the first is b"):
        match_labels(["a", "b"], {"a": "x"}, source="L")
    with pytest.raises(UsageError, match=r"no video for 1 of 2 labels, the first is of c"):
        match_labels(["a"], {"a": "x", "c": "y"}, source="L")
    assert match_labels(["a", "b"], {"a": "x", "c": "y"}, skip=True, source="L") == (["x", None], 1, 1)


def ucf101(folder: Path, names: list[str]) -> None:
    """Write official-looking lists: split N tests group N and trains on the others."""
    classes = sorted(set(folder_labels(names)))
    (folder / "classInd.txt").write_text(
        "".join(f"{i} {name}\r\n" for i, name in enumerate(classes, start=1))
    )
    for n in (1, 2, 3):
        test = [name for name in names if f"_g{n:02}_" in name]
        train = [f"{name} {classes.index(name.split('/')[0]) + 1}" for name in names if name not in test]
        (folder / f"testlist0{n}.txt").write_text("\n".join(test) + "\n")
        (folder / f"trainlist0{n}.txt").write_text("\n".join(train) + "\n")


def test_ucf101_lists_are_read_by_stem_and_without_regard_to_case(tmp_path: Path) -> None:
    ucf101(tmp_path, ["HandstandPushups/v_HandStandPushups_g01_c01.avi", "Surfing/v_Surfing_g02_c01.avi"])
    split = read_ucf101_split(tmp_path, 1)
    assert split.test == {"v_handstandpushups_g01_c01": "HandstandPushups"}
    assert split.train == {"v_surfing_g02_c01": "Surfing"}


@pytest.mark.parametrize(("file", "text", "said"), [
    ("classInd.txt", "1 hug\nkick\n", "classInd.txt, line 2: expected an index and a new class name"),
    ("trainlist01.txt", "hug/a.avi 1\nkick/b.avi 1\n", "trainlist01.txt, line 2: kick is class 2 and not 1"),
    ("trainlist01.txt", "hug/a.avi 1\n\nb.avi 1\n", "trainlist01.txt, line 3: expected Class/video.avi"),
    ("testlist01.txt", "hug/v_g1.avi\nkick/v_g1.avi\n", "line 2: kick/v_g1.avi was listed before, as hug"),
    ("testlist01.txt", "hug/late_g02.avi\n", "is in the training and in the test list"),
])  # fmt: skip
def test_a_broken_ucf101_list_names_its_line(tmp_path: Path, file: str, text: str, said: str) -> None:
    ucf101(tmp_path, ["hug/v_g01_c00.avi", "kick/w_g01_c01.avi", "hug/late_g02.avi", "push/x_g02_.avi"])
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError) as caught:
        read_ucf101_split(tmp_path, 1)
    assert said in str(caught.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"classInd.txt: cannot be read: No such file"):
        read_ucf101_split(tmp_path, 1)


# --- saved models ---


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:2]])
@pytest.mark.parametrize("k", [None, 4])
def test_a_saved_model_predicts_what_it_did(tmp_path: Path, classes: tuple[str, ...], k: int | None) -> None:
    samples, _ = blobs(classes=classes)
    model = fit_recipe(samples, Recipe(pca=k, c=3.0))
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert (again.scores(samples.X) == model.scores(samples.X)).all()
    assert (again.classes, again.c, again.l2) == (model.classes, 3.0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    assert b"pickle" not in (tmp_path / "m.safetensors").read_bytes()


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save

    samples, _ = blobs()
    path = tmp_path / "m.safetensors"
    save_model(fit_recipe(samples), path)
    whole = path.read_bytes()
    other = save({"coef": np.zeros((3, 2))}, {"c3d_extract": "{}"})
    wrong = whole.replace(b'\\"hug\\", ', b" " * 9)  # two names left for three hyperplanes
    assert wrong != whole
    for content in (
        whole[:-8],
        b"\x80\x04garbage",
        b"",
        other,
        wrong,
        whole.replace(b"classifier", b"classifies"),
    ):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"m\.safetensors"):
            load_model(path)
    with pytest.raises(StoreError, match=r"cannot be read"):
        load_model(tmp_path / "none.safetensors")


def test_a_model_takes_rows_of_its_own_size_only() -> None:
    samples, _ = blobs()
    with pytest.raises(UsageError, match="takes 12 numbers a video and these have 7"):
        fit_recipe(samples).scores(samples.X[:, :7])


# --- wrong use ---


def split(train: range, test: range) -> list[Split]:
    return [Split("1", np.array(train, dtype=int), np.array(test, dtype=int))]


def choosing_c(samples: Samples, labels: list[str], groups: list[str] | None = None) -> None:
    fit_recipe(Samples.of(samples.X, labels, groups), Recipe(c=None))


@pytest.mark.parametrize(("call", "said"), [
    (lambda s: cross_validate(s, leave_one_out_splits(s), Recipe(pca=13)), "PCA to 13 dimensions from 48"),
    (lambda s: cross_validate(s, split(range(18, 23), range(5)), Recipe(pca=6)), "from 5 training videos"),
    (lambda s: grouped_splits(s, 6), "6 folds of 5 groups"),
    (lambda s: stratified_splits(s, 21), "21 folds, and class hug has 20 videos"),
    (lambda s: leave_one_out_splits(Samples.of(s.X, ["a"] * 60, ["g"] * 60)), "at least 2 groups"),
    (lambda s: cross_validate(s, split(range(40), range(40, 60))), "video is left of: push (of 20 videos)"),
    (lambda s: cross_validate(s, split(range(20), range(20))), "at least 2 classes"),
    (lambda s: cross_validate(s, split(range(20), range(0))), "none to test"),
    (lambda s: choosing_c(s, ["a"] + ["b"] * 59), "needs at least 2 videos of every class"),
    (lambda s: choosing_c(s, ["a", "b"] * 30, ["g"] * 60), "choosing C needs at least 2 groups"),
    (lambda s: choosing_c(s, ["a", "b"] * 30, ["g", "h"] * 30), "one class is left"),
])  # fmt: skip
def test_wrong_use_gets_one_clear_line(call: Any, said: str) -> None:
    samples, _ = blobs()
    with pytest.raises(UsageError) as caught:
        call(samples)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_that_one_fold_does_not_test_changes_nothing() -> None:
    samples, _ = blobs()
    only_hug = np.flatnonzero(samples.y == 0)[:4]
    split = Split("hug", np.setdiff1d(np.arange(60), only_hug), only_hug)
    assert cross_validate(samples, [split]).per_class[1].n_test == 0
    assert np.isnan(cross_validate(samples, [split]).per_class[1].recall)


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = blobs()
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(
        C3DError, match=r"scikit-learn is not installed; pip install 'c3d-extract\[classify\]'"
    ):
        fit_recipe(samples)


# --- the command line ---


def feature_file(path: Path, layers: dict[str, np.ndarray], names: list[str], sha: str = "aa") -> Path:
    rows = [
        TableRow(names[i], (1,) * len(VIDEO_COLUMNS), [X[i].astype(np.float32) for X in layers.values()])
        for i in np.argsort(names)
    ]
    attributes = {
        "complete": True,
        "settings": {},
        "versions": {},
        "weights": {"weights": "w", "weights_sha256": sha},
    }
    sizes = {layer: X.shape[1] for layer, X in layers.items()}
    write_table(path, kind="features", layers=sizes, rows=rows, attributes=attributes)
    return path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    samples, names = blobs()
    return feature_file(tmp_path / "feats.h5", {"fc6": samples.X}, names)


def run(*words: object) -> Result:
    group = LazyGroup(COMMANDS, "tools")
    return CliRunner().invoke(group, [str(word) for word in words])


def answer(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def failure(*words: object, code: int = 2) -> str:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_classify_says_what_scikit_learn_says(features: Path) -> None:
    samples, names = blobs()
    said = answer("classify", features, "--groups", r"_(g\d+)_")
    expected = cross_val_predict(
        by_hand(), samples.X, samples.y, groups=samples.groups, cv=LeaveOneGroupOut()
    )
    assert {p["video"]: p["predicted"] for p in said["predictions"]} == {
        name: CLASSES[i] for name, i in zip(names, expected, strict=True)
    }
    assert said["pooled_accuracy"] == pytest.approx((expected == samples.y).mean())
    assert [fold["name"] for fold in said["folds"]] == ["g01", "g02", "g03", "g04", "g05"]
    assert np.sum(said["confusion"]) == 60


def test_classify_prints_accuracy_classes_and_confusions_in_80_columns(features: Path) -> None:
    result = run("classify", features, "--pca-curve", "2,5")
    assert result.exit_code == 0
    assert "accuracy  0." in result.stdout
    assert "± " in result.stdout
    assert all(f"  {name}" in result.stdout for name in CLASSES)
    assert "confusion: row = true class" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_many_classes_are_summed_up_instead_of_a_matrix_too_wide(tmp_path: Path) -> None:
    classes = tuple(f"VeryLongClassName{i:02}" for i in range(40))
    samples, names = blobs(spread=3, classes=classes)
    result = run("classify", feature_file(tmp_path / "f.h5", {"fc6": samples.X}, names))
    assert "the 10 commonest of" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_another_file_is_tested_and_missing_classes_are_told(tmp_path: Path, features: Path) -> None:
    samples, names = blobs(seed=0)
    other, _ = blobs(seed=0, spread=1.4)
    few = [i for i, name in enumerate(names) if not name.startswith("push")]
    test = feature_file(tmp_path / "test.h5", {"fc6": other.X[few]}, [names[i] for i in few])
    result = run("classify", features, "--test", test, "--json")
    assert "1 of 3 classes have no test video: push" in result.stderr
    expected = by_hand().fit(samples.X, samples.y).score(other.X[few], other.y[few])
    assert json.loads(result.stdout)["accuracy"] == pytest.approx(expected)


def test_a_test_class_that_was_never_trained_is_an_error(tmp_path: Path, features: Path) -> None:
    test = feature_file(tmp_path / "t.h5", {"fc6": np.ones((1, SIZE))}, ["wave/a.avi"])
    assert "tests a class that no training video is left of: wave" in failure(
        "classify", features, "--test", test
    )


def test_files_of_other_weights_are_not_mixed(tmp_path: Path, features: Path) -> None:
    test = feature_file(tmp_path / "t.h5", {"fc6": np.ones((1, SIZE))}, ["hug/a.avi"], sha="bb")
    line = failure("classify", features, "--test", test, code=1)
    assert "weights_sha256: aa → bb" in line


def test_the_official_splits_are_followed(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    names = [name.replace("v_", f"v_{name.split('/')[0]}_") for name in names]
    feature_file(features, {"fc6": samples.X}, [name.replace(".avi", ".mp4") for name in names])
    ucf101(tmp_path, names)
    said = answer("classify", features, "--ucf101-lists", tmp_path, "--protocol", "ucf101")
    groups = np.array(samples.groups)
    for n, fold in enumerate(said["folds"], start=1):
        tested = groups == f"g{n:02}"
        assert (fold["n_train"], fold["n_test"]) == ((~tested).sum(), tested.sum())
        expected = (
            by_hand().fit(samples.X[~tested], samples.y[~tested]).score(samples.X[tested], samples.y[tested])
        )
        assert fold["accuracy"] == pytest.approx(expected)
    second = answer("classify", features, "--ucf101-lists", tmp_path, "--split", 2)
    assert second["accuracy"] == said["folds"][1]["accuracy"]


def test_leave_one_out_tests_every_video_by_itself(features: Path) -> None:
    said = answer("classify", features, "--protocol", "leave-one-out")
    assert [fold["n_test"] for fold in said["folds"]] == [1] * 60
    assert said["accuracy_std"] is None


def test_labels_of_a_file_take_part_when_skipping_is_asked_for(tmp_path: Path, features: Path) -> None:
    _, names = blobs()
    table = tmp_path / "labels.csv"
    table.write_text(
        "\n".join(f"{name},{'AB'[i % 2]}" for i, name in enumerate(names[:50])) + "\nghost.avi,A\n"
    )
    assert "no label for 10 of 60 videos" in failure("classify", features, "--labels", table)
    result = run("classify", features, "--labels", table, "--missing", "skip", "--json")
    assert json.loads(result.stdout)["n_videos"] == 50
    assert "videos without label, left out: 10" in result.stderr
    assert "labels without video, left out: 1" in result.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["--pca-curve", "500"], "PCA to 500 dimensions"),
    (["--folds", "21"], "21 folds, and class hug has 20 videos"),
    (["--label-pattern", "k", "--labels", "{csv}"], "both say what the labels are"),
    (["--protocol", "ucf101"], "--protocol ucf101: needs --ucf101-lists"),
    (["--missing", "skip"], "--missing skip: needs --labels or --ucf101-lists"),
    (["--split", "2"], "--split: needs --ucf101-lists"),
    (["--test", "{feats}", "--folds", "3"], "--test and --folds both say"),
    (["--test", "{feats}", "--groups", "_(g)"], "--groups: does nothing here"),
    (["--protocol", "leave-one-out", "--folds", "3"], "goes with none of"),
    (["--pca", "3", "--pca-curve", "3"], "exclude each other"),
    (["--label-pattern", "[.]avi"], "all videos are of class .avi"),
    (["--label-pattern", "hug/v_g01_c00|avi"], "class hug/v_g01_c00 has 1 video"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(features: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "l.csv").write_text("a,b\n")
    filled = [
        word.replace("{feats}", str(features)).replace("{csv}", str(tmp_path / "l.csv")) for word in words
    ]
    assert said in failure("classify", features, *filled)


def test_a_layer_that_is_not_there_names_those_that_are(features: Path) -> None:
    assert "has no layer fc7, only fc6" in failure("classify", features, "--layer", "fc7", code=1)


def test_features_that_are_not_finite_are_named(tmp_path: Path) -> None:
    X = np.ones((4, 3))
    X[2, 1] = np.nan
    path = feature_file(tmp_path / "f.h5", {"fc6": X}, ["a/1.avi", "a/2.avi", "b/3.avi", "b/4.avi"])
    assert "features of 1 of 4 videos are not finite, the first is b/3.avi" in failure(
        "classify", path, code=1
    )


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "some"])
def test_a_c_that_is_no_positive_number_is_a_usage_error(features: Path, value: str) -> None:
    result = run("classify", features, f"--c={value}")
    assert result.exit_code == 2
    assert "neither a positive number nor auto" in result.stderr


def test_predict_applies_what_classify_saved(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    model = tmp_path / "svm.safetensors"
    assert run("classify", features, "--save", model, "--pca", 5, "--c", "auto").exit_code == 0
    result = run("predict", model, features)
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = fit_recipe(Samples.of(samples.X, folder_labels(names)), Recipe(c=None, pca=5)).predict(
        samples.X
    )
    # Which rows fall together in the inner folds depends on their order: the file's is sorted by name.
    assert [row["video"] for row in rows] == sorted(names)
    agree = np.mean([CLASSES[expected[names.index(row["video"])]] == row["label"] for row in rows])
    assert agree >= 0.95
    said = answer("predict", model, features)
    assert [max(one["scores"], key=one["scores"].get) for one in said] == [row["label"] for row in rows]


def test_predict_refuses_features_of_another_kind(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    model = tmp_path / "svm.safetensors"
    run("classify", features, "--save", model)
    other = feature_file(tmp_path / "other.h5", {"fc6": samples.X}, names, sha="bb")
    assert "weights_sha256: aa → bb" in failure("predict", model, other, code=1)
    smaller = feature_file(tmp_path / "small.h5", {"fc6": samples.X[:, :5]}, names)
    assert "dimension: 12 → 5" in failure("predict", model, smaller, code=1)
    assert "cannot be read as a feature file" in failure("predict", model, model, code=1)
    assert "not a classifier saved by" in failure("predict", features, features, code=1)


def test_a_model_fitted_with_a_test_file_never_saw_it(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    test = feature_file(tmp_path / "t.h5", {"fc6": 100 - samples.X}, names)
    run("classify", features, "--test", test, "--save", tmp_path / "a.safetensors")
    run("classify", features, "--save", tmp_path / "b.safetensors")
    a, b = (load_model(tmp_path / f"{name}.safetensors") for name in "ab")
    assert (a.coef == b.coef).all()


@pytest.mark.parametrize("n_classes", [3, 30, 70])
def test_a_plot_is_a_picture(tmp_path: Path, n_classes: int) -> None:
    pytest.importorskip("matplotlib")
    samples, names = blobs(classes=tuple(f"class {i:02}" for i in range(n_classes)))
    path = feature_file(tmp_path / "f.h5", {"fc6": samples.X}, names)
    result = run("classify", path, "--pca-curve", "2,8", "--plot", tmp_path / "p.png", "--folds", "2")
    assert result.exit_code == 0
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_plot_that_cannot_be_drawn_costs_only_itself(tmp_path: Path, features: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("p.xyz", "no folder/p.png"):
        result = run("classify", features, "--plot", tmp_path / name)
        assert result.exit_code == 1
        assert "accuracy  0." in result.stdout
        assert f"Error: {tmp_path / name}: cannot be drawn" in result.stderr


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, c3d_extract.cli.classify, c3d_extract.cli.predict, c3d_extract.cli.aslan\n"
        "import c3d_extract.analysis\n"
        "print({'torch', 'sklearn', 'h5py', 'matplotlib', 'scipy', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_real_videos_fall_into_six_classes_and_ten_sequences(shared_data: Path) -> None:
    root = shared_data / "actions" / "ut_interaction"
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.avi"))
    samples = Samples.of(np.zeros((60, 1)), folder_labels(names), pattern_values(names, r"set1_\d+_(\d+)_"))
    assert samples.counts.tolist() == [10] * 6
    assert [split.name for split in leave_one_out_splits(samples)] == [str(i) for i in range(1, 11)]
