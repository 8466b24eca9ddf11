"""``c3d-tools predict`` on videos: with a saved classifier, and with a checkpoint's own classes."""

from __future__ import annotations

import csv
import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS

from c3d_extract import Extractor
from c3d_extract.cli.tools import COMMANDS, LazyGroup

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("sklearn")
ON_CPU = ("--device", "cpu", "--precision", "fp32")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(LazyGroup(COMMANDS, "tools"), [str(argument) for argument in arguments])


def rows(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plain features, of projected ones with their basis, and a classifier of each."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "labels.csv").write_text(
        "".join(f"{name},{'even' if n % 2 == 0 else 'odd'}\n" for name, n in LENGTHS.items())
    )
    cases: list[tuple[str, Any]] = [("plain", {}), ("projected", {"pca": 3, "l2": True})]
    for name, settings in cases:
        with Extractor.from_weights(
            "motion-mini", stride=8, tail="back", device="cpu", precision="fp32", **settings
        ) as extractor:
            list(extractor.extract_files([videos], folder / f"{name}.h5"))
        saved = run(
            "classify", folder / f"{name}.h5", "--labels", folder / "labels.csv", "--folds", 2,
            "--save", folder / f"{name}.safetensors",
        )  # fmt: skip
        assert saved.exit_code == 0, saved.output
    return folder


def test_videos_get_what_their_features_get(trained: Path, videos: Path) -> None:
    model = trained / "plain.safetensors"
    of_features = run("predict", model, trained / "plain.h5")
    of_videos = run("predict", model, videos, *ON_CPU)
    assert rows(of_videos) == rows(of_features)
    assert [row["video"] for row in rows(of_videos)] == sorted(LENGTHS)
    assert "6 of 6 videos are ones that the model was trained on" in of_videos.stderr
    one = run("predict", model, videos / "a/two.mp4", *ON_CPU)
    (row,) = rows(one)
    assert row["video"] == "two.mp4"
    assert row["score"] == rows(of_features)[1]["score"]
    assert "1 of 1 videos are ones" in one.stderr


def test_the_folder_of_a_video_that_is_given_alone_counts_too(
    trained: Path, videos: Path, tmp_path: Path
) -> None:
    label = rows(run("predict", trained / "plain.safetensors", videos / "a/two.mp4", *ON_CPU))[0]["label"]
    for folder, n_right in ((label, 1), ("even" if label == "odd" else "odd", 0)):
        (tmp_path / folder).mkdir()
        shutil.copy(videos / "a/two.mp4", tmp_path / folder / "new name.mp4")
        result = run("predict", trained / "plain.safetensors", tmp_path / folder / "new name.mp4", *ON_CPU)
        assert result.stderr == f"accuracy {n_right}.000 ({n_right} of 1 videos)\n"


def test_features_that_were_projected_need_their_basis(trained: Path, videos: Path) -> None:
    model = trained / "projected.safetensors"
    expected = rows(run("predict", model, trained / "projected.h5"))
    found = rows(run("predict", model, videos, "--pca-from", trained / "projected.pca.h5", *ON_CPU))
    assert found == expected
    refused = run("predict", model, videos)
    assert refused.exit_code == 1
    assert "not the basis that the model's features were projected with" in refused.stderr
    assert "--pca-from names the basis" in refused.stderr


def test_another_network_is_refused_in_one_line(trained: Path, videos: Path, narrow_weights: Path) -> None:
    other = ("--weights", narrow_weights, "--mean", "100.61,108.05,107.81")
    refused = run("predict", trained / "plain.safetensors", videos, *other, *ON_CPU)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "(other weights: motion-mini (" in line
    assert ") → narrow.pickle (" in line


def test_a_checkpoint_names_its_own_classes(videos: Path) -> None:
    found = rows(run("predict", "motion-mini", videos / "a/two.mp4", "--top", 3, *ON_CPU))
    with Extractor.from_weights("motion-mini", layers="prob", device="cpu", precision="fp32") as extractor:
        labels, probabilities = extractor.checkpoint.labels, extractor.extract(videos / "a/two.mp4").mean()
    assert labels
    best = np.argsort(-probabilities)[:3]
    assert [row["label"] for row in found] == [labels[i] for i in best]
    assert [row["score"] for row in found] == [f"{probabilities[i]:.4f}" for i in best]


def test_classes_without_names_are_numbered_and_json_has_every_score(
    narrow_weights: Path, videos: Path
) -> None:
    mean = ("--mean", "100.61,108.05,107.81")
    result = run("predict", narrow_weights, videos / "a/one.mp4", *mean, *ON_CPU, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert set(found["scores"]) == {f"class {i}" for i in range(487)}
    assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-4)


def test_a_video_that_fails_is_told_and_the_others_are_classified(
    trained: Path, videos: Path, tmp_path: Path
) -> None:
    shutil.copy(videos / "a/one.mp4", tmp_path)
    (tmp_path / "bad.mp4").write_text("no video")
    result = run("predict", trained / "plain.safetensors", tmp_path, *ON_CPU)
    assert result.exit_code == 3
    assert "failed: bad.mp4: not a readable video" in result.stderr
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == ["video", "one.mp4"]
    alone = run("predict", trained / "plain.safetensors", tmp_path / "bad.mp4", *ON_CPU)
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert alone.stderr.startswith("Error: bad.mp4: not a readable video")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-model", "clip.mp4"], 1, "no-such-model"),
        (["motion-mini", "clip.mp4", "--weights", "motion-mini"], 2, "goes with a saved classifier alone"),
        (["motion-mini", "no/such.mp4"], 2, "no such file or folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[Any], code: int, message: str) -> None:
    result = run("predict", *arguments)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
