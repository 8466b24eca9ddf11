"""``c3d-tools classify`` and ``c3d-tools predict``, as a user calls them."""

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
from labelled_features import (
    CLASSES,
    SIZE,
    blobs,
    feature_file,
    sklearn_pipeline,
    write_ucf101_lists,
)
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from c3d_extract import analysis
from c3d_extract.analysis import load_classifier
from c3d_extract.cli.tools import COMMANDS, LazyGroup

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    samples, names = blobs()
    return feature_file(tmp_path / "feats.h5", {"fc6": samples.X}, names)


def run(*arguments: object) -> Result:
    group = LazyGroup(COMMANDS, "tools")
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def failure(*arguments: object, code: int = 2) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


def test_classify_gives_what_scikit_learn_gives(features: Path) -> None:
    samples, names = blobs()
    found = answer("classify", features, "--groups", r"_(g\d+)_")
    model, cv = sklearn_pipeline(), LeaveOneGroupOut()
    expected = cross_val_predict(model, samples.X, samples.labels, groups=samples.groups, cv=cv)
    assert {p["video"]: p["predicted"] for p in found["predictions"]} == dict(
        zip(names, expected.tolist(), strict=True)
    )
    assert found["pooled_accuracy"] == pytest.approx((expected == samples.labels).mean())
    assert [fold["name"] for fold in found["folds"]] == ["g01", "g02", "g03", "g04", "g05"]
    assert np.sum(found["confusion"]) == 60


def test_the_keys_of_the_json_stay(features: Path) -> None:
    found = answer("classify", features, "--pca-curve", "2,5")
    assert list(found) == [
        "protocol", "features", "n_videos", "l2", "c", "pca", "accuracy", "accuracy_std", "pooled_accuracy",
        "folds", "classes", "confusion", "pca_curve", "chance", "majority", "predictions",
    ]  # fmt: skip
    assert list(found["folds"][0]) == ["name", "n_train", "n_test", "accuracy", "c"]
    assert list(found["classes"][0]) == ["name", "n_test", "precision", "recall", "f1"]
    assert [one["dimensions"] for one in found["pca_curve"]] == [2, 5]
    assert list(found["predictions"][0]) == ["video", "fold", "label", "predicted"]


def test_classify_prints_accuracy_classes_and_confusions_in_80_columns(features: Path) -> None:
    result = run("classify", features, "--pca-curve", "2,5")
    assert result.exit_code == 0
    assert "accuracy  0." in result.stdout
    assert "± " in result.stdout
    assert all(f"  {name}" in result.stdout for name in CLASSES)
    assert "precision    recall  f1-score   support" in result.stdout
    assert "confusion: row = true class" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_many_classes_are_summed_up_instead_of_a_matrix_too_wide(tmp_path: Path) -> None:
    classes = tuple(f"VeryLongClassName{i:02}{'x' * 30}" for i in range(40))
    samples, names = blobs(spread=3, classes=classes)
    result = run(
        "classify", feature_file(tmp_path / "f.h5", {"fc6": samples.X[:, :2]}, names), "--folds", "2"
    )
    assert "the 10 most frequent of" in result.stdout
    lines = result.stdout.split("most frequent")[0].splitlines()
    assert max(map(len, lines)) <= 80


def test_another_file_is_tested_and_missing_classes_are_named(tmp_path: Path, features: Path) -> None:
    samples, names = blobs(seed=0)
    other, _ = blobs(seed=0, spread=1.4)
    few = np.array([i for i, name in enumerate(names) if not name.startswith("push")])
    test = feature_file(tmp_path / "test.h5", {"fc6": other.X[few]}, [names[i] for i in few])
    result = run("classify", features, "--test", test, "--json")
    assert "1 of 3 classes have no test video: push" in result.stderr
    tested = other.rows(few)
    expected = sklearn_pipeline().fit(samples.X, samples.labels).score(tested.X, tested.labels)
    found = json.loads(result.stdout)
    assert found["accuracy"] == pytest.approx(expected)
    assert found["classes"][2] == {"name": "push", "n_test": 0, "precision": 0.0, "recall": None, "f1": 0.0}


def test_a_test_class_that_was_never_trained_is_an_error(tmp_path: Path, features: Path) -> None:
    test = feature_file(tmp_path / "t.h5", {"fc6": np.ones((1, SIZE))}, ["wave/a.avi"])
    line = failure("classify", features, "--test", test)
    assert "tests a class that no training video is left of: wave" in line


def test_files_of_other_weights_are_not_mixed(tmp_path: Path, features: Path) -> None:
    test = feature_file(tmp_path / "t.h5", {"fc6": np.ones((1, SIZE))}, ["hug/a.avi"], sha="bb")
    line = failure("classify", features, "--test", test, code=1)
    assert line.endswith("t.h5: not the kind of features trained on (other weights: w (aa) → w (bb))")


def test_the_official_splits_give_what_scikit_learn_gives(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    names = [name.replace("v_", f"v_{name.split('/')[0]}_") for name in names]
    feature_file(features, {"fc6": samples.X}, names)
    write_ucf101_lists(tmp_path, names)
    found = answer("classify", features, "--ucf101-lists", tmp_path, "--protocol", "ucf101")
    groups = np.array(samples.groups)
    for n, fold in enumerate(found["folds"], start=1):
        train, test = (
            samples.rows(np.flatnonzero(part)) for part in (groups != f"g{n:02}", groups == f"g{n:02}")
        )
        expected = sklearn_pipeline().fit(train.X, train.labels).score(test.X, test.labels)
        assert fold["accuracy"] == pytest.approx(expected)
    second = answer("classify", features, "--ucf101-lists", tmp_path, "--split", 2)
    assert second["accuracy"] == found["folds"][1]["accuracy"]


def test_leave_one_out_tests_every_video_by_itself(tmp_path: Path) -> None:
    samples, names = blobs()
    path = feature_file(tmp_path / "f.h5", {"fc6": samples.X[::5]}, names[::5])
    found = answer("classify", path, "--protocol", "leave-one-out")
    assert [fold["n_test"] for fold in found["folds"]] == [1] * 12
    assert found["accuracy_std"] is None


def test_missing_labels_and_videos_are_ignored_when_asked_for(tmp_path: Path, features: Path) -> None:
    _, names = blobs()
    table = tmp_path / "labels.csv"
    table.write_text(
        "\n".join(f"{name},{'AB'[i % 2]}" for i, name in enumerate(names[:50])) + "\nghost.avi,A\n"
    )
    assert "no label for 10 of 60 videos" in failure("classify", features, "--labels", table)
    result = run("classify", features, "--labels", table, "--missing", "skip", "--json")
    assert json.loads(result.stdout)["n_videos"] == 50
    assert "videos without label, ignored: 10" in result.stderr
    assert "labels without video, ignored: 1" in result.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["--pca-curve", "500"], "PCA to 500 dimensions"),
    (["--folds", "21"], "21 folds, and class hug has 20 videos"),
    (["--label-pattern", "k", "--labels", "{csv}"], "both say what the labels are"),
    (["--protocol", "ucf101"], "--protocol ucf101: needs --ucf101-lists"),
    (["--protocol", "ucf101", "--ucf101-lists", "{folder}", "--split", "2"], "takes all three splits"),
    (["--missing", "skip"], "--missing skip: needs --labels or --ucf101-lists"),
    (["--split", "2"], "--split: needs --ucf101-lists"),
    (["--test", "{feats}", "--folds", "3"], "--test and --folds both say"),
    (["--test", "{feats}", "--groups", "_(g)"], "--groups: does nothing here"),
    (["--protocol", "leave-one-out", "--folds", "3"], "goes with none of"),
    (["--pca", "3", "--pca-curve", "3"], "exclude each other"),
    (["--label-pattern", "[.]avi"], "all videos are of class .avi"),
    (["--label-pattern", "hug/v_g01_c00|avi"], "class hug/v_g01_c00 has 1 video"),
])  # fmt: skip
def test_the_command_refuses_in_one_line(
    features: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "l.csv").write_text("a,b\n")
    places = {"{feats}": features, "{csv}": tmp_path / "l.csv", "{folder}": tmp_path}
    filled = [str(places.get(argument, argument)) for argument in arguments]
    assert message in failure("classify", features, *filled)


def test_a_layer_that_is_not_there_names_those_that_are(features: Path) -> None:
    assert "has no layer fc7, only fc6" in failure("classify", features, "--layer", "fc7", code=1)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "some"])
def test_a_c_that_is_no_positive_number_is_a_usage_error(features: Path, value: str) -> None:
    result = run("classify", features, f"--c={value}")
    assert result.exit_code == 2
    assert "neither a positive number nor auto" in result.stderr


def test_predict_applies_what_classify_saved(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    model = tmp_path / "svm.safetensors"
    assert run("classify", features, "--save", model, "--pca", 5, "--c", 10).exit_code == 0
    result = run("predict", model, features)
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    order = np.argsort(names)  # the order of the file's rows
    expected = sklearn_pipeline(c=10, k=5).fit(samples.X[order], np.array(samples.labels)[order])
    assert [row["video"] for row in rows] == sorted(names)
    assert [row["label"] for row in rows] == expected.predict(samples.X[order]).tolist()
    found = answer("predict", model, features)
    assert [max(one["scores"], key=one["scores"].get) for one in found] == [row["label"] for row in rows]


def test_predict_refuses_features_of_another_kind(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    model = tmp_path / "svm.safetensors"
    run("classify", features, "--save", model)
    other = feature_file(tmp_path / "other.h5", {"fc6": samples.X}, names, sha="bb")
    assert "(other weights: w (aa) → w (bb))" in failure("predict", model, other, code=1)
    smaller = feature_file(tmp_path / "small.h5", {"fc6": samples.X[:, :5]}, names)
    assert "dimension: 12 → 5" in failure("predict", model, smaller, code=1)
    assert "does not say how its features were extracted" in failure("predict", model, "clip.avi")
    assert "is a feature file; give it alone" in failure("predict", model, features, features)
    assert "--weights: is for videos" in failure("predict", model, features, "--weights", "motion-mini")
    assert "holds features, which a saved classifier takes" in failure("predict", "motion-mini", features)


def test_predict_tells_the_accuracy_and_what_was_trained_on(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    model = tmp_path / "svm.safetensors"
    assert run("classify", features, "--save", model).exit_code == 0
    result = run("predict", model, features)
    assert "Warning: 60 of 60 videos are ones that the model was trained on" in result.stderr
    predicted = [row["label"] for row in csv.DictReader(io.StringIO(result.stdout))]
    n_right = sum(name.split("/")[0] == label for name, label in zip(sorted(names), predicted, strict=True))
    assert f"accuracy {n_right / 60:.3f} ({n_right} of 60 videos)" in result.stderr
    elsewhere = [name.replace("hug/", "unsorted/").replace("v_", "w_") for name in names]
    other = feature_file(tmp_path / "other.h5", {"fc6": samples.X}, elsewhere)
    result = run("predict", model, other)
    assert "trained on" not in result.stderr
    assert "of 40 videos in folders named as classes)" in result.stderr


def test_top_names_the_best_classes_of_each_video(tmp_path: Path, features: Path) -> None:
    model = tmp_path / "svm.safetensors"
    assert run("classify", features, "--save", model).exit_code == 0
    scores = answer("predict", model, features)
    rows = list(csv.DictReader(io.StringIO(run("predict", model, features, "--top", 2).stdout)))
    assert len(rows) == 120
    for i, each in enumerate(scores):
        best = sorted(each["scores"], key=each["scores"].get, reverse=True)[:2]
        assert [(row["video"], row["label"]) for row in rows[2 * i : 2 * i + 2]] == [
            (each["video"], label) for label in best
        ]


def test_baselines_are_those_of_classifiers_that_look_at_nothing(tmp_path: Path) -> None:
    samples, names = blobs()
    few = [i for i, name in enumerate(names) if not name.startswith("push") or "_c00" in name]
    path = feature_file(tmp_path / "f.h5", {"fc6": samples.X[few]}, [names[i] for i in few])
    found = answer("classify", path, "--folds", 5)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["majority"] == pytest.approx(40 / 45 / 2)  # of 40 hugs and kicks and 5 pushes
    result = run("classify", path, "--folds", 5)
    assert "  chance 0.333, the most frequent class 0.444\n" in result.stdout
    assert "5 folds of single videos, shuffled with seed 0" in result.stdout


def test_names_that_look_like_parts_of_recordings_are_pointed_out(tmp_path: Path, features: Path) -> None:
    result = run("classify", features)
    pattern = result.stderr.partition("--groups '")[2].partition("'")[0]
    assert "such as hug/v_g01_c00.avi and hug/v_g01_c01.avi, which these folds split" in result.stderr
    grouped = answer("classify", features, "--groups", pattern)
    assert grouped["predictions"] == [
        each | {"fold": each["fold"].removeprefix("g")}
        for each in answer("classify", features, "--groups", r"_(g\d+)_")["predictions"]
    ]
    for arguments in (["--groups", pattern], ["--test", features]):
        assert "recordings" not in run("classify", features, *arguments).stderr


def test_a_classifier_saved_with_a_test_file_never_saw_it(tmp_path: Path, features: Path) -> None:
    samples, names = blobs()
    test = feature_file(tmp_path / "t.h5", {"fc6": 100 - samples.X}, names)
    run("classify", features, "--test", test, "--save", tmp_path / "a.safetensors")
    run("classify", features, "--save", tmp_path / "b.safetensors")
    a, b = (load_classifier(tmp_path / f"{name}.safetensors") for name in "ab")
    assert (a.coef == b.coef).all()


def test_a_plot_is_a_picture(tmp_path: Path, features: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("--pca-curve", "2,8", "--folds", "2", "--plot", tmp_path / "p.png")
    assert run("classify", features, *arguments).exit_code == 0
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("name", "code", "why"),
    [("p.xyz", 2, "no format of a picture"), ("no folder/p.png", 1, "its folder is not there")],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_the_work(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, why: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("c3d_extract.analysis.experiment.prepare_experiment", None)
    result = run("classify", features, "--folds", "2", "--plot", tmp_path / name)
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"Error: {tmp_path / name}: {why}" in result.stderr


def test_without_matplotlib_it_runs_and_a_plot_is_refused_before_the_work(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for module in ("charts", "figures"):
        monkeypatch.delitem(sys.modules, f"c3d_extract.analysis.{module}", raising=False)
    for name in ("check_figure_path", "draw_evaluation"):
        monkeypatch.delitem(vars(analysis), name, raising=False)
    result = run("classify", features, "--folds", "2")
    assert "accuracy  0." in result.stdout
    result = run("classify", features, "--folds", "2", "--plot", tmp_path / "p.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: matplotlib is not installed; pip install matplotlib\n"


def test_the_plot_is_there_when_the_reader_of_the_text_leaves(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")

    def reader_left(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("c3d_extract.cli.classify.show", reader_left)
    run("classify", features, "--folds", "2", "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, c3d_extract.cli.classify, c3d_extract.cli.predict, c3d_extract.cli.aslan\n"
        "import c3d_extract.analysis\n"
        "print({'torch', 'numpy', 'sklearn', 'h5py', 'matplotlib', 'scipy', 'av'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
