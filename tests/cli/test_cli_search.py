"""``c3d-tools search``: neighbours of a video of the file and of another, near-duplicates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS
from labelled_features import feature_file
from sklearn.metrics.pairwise import cosine_similarity

from c3d_extract import Extractor, FeatureFile
from c3d_extract.cli.tools import COMMANDS, LazyGroup

if TYPE_CHECKING:
    from pathlib import Path

ON_CPU = ("--device", "cpu", "--precision", "fp32")
NAMES = ["a/1.mp4", "a/2.mp4", "b/1\t\x1b[31m.mp4", "b/2.mp4"]
X = np.array([[1, 0, 0], [2, 0.02, 0], [0, 1, 0], [0, 3, 4]], np.float32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(LazyGroup(COMMANDS, "tools"), [str(argument) for argument in arguments])


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def failure(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return feature_file(tmp_path / "feats.h5", {"fc6": X, "fc7": X[::-1]}, NAMES)


def test_a_video_of_the_file_is_looked_up_and_is_not_its_own_neighbour(features: Path) -> None:
    found = answer("search", features, "a/1.mp4", "-k", 2)
    assert found["query"] == "a/1.mp4"
    assert [row["video"] for row in found["neighbours"]] == ["a/2.mp4", NAMES[2]]
    expected = cosine_similarity(X)[0, [1, 2]]
    np.testing.assert_allclose([row["similarity"] for row in found["neighbours"]], expected, atol=1e-6)
    of_fc7 = answer("search", features, "a/1.mp4", "--layer", "fc7")
    assert of_fc7["layer"] == "fc7"
    assert of_fc7["neighbours"][0] == {"similarity": 0.6, "video": "a/2.mp4"}
    assert len(of_fc7["neighbours"]) == 3


def test_output_that_is_piped_is_tab_separated_and_names_cannot_break_its_lines(features: Path) -> None:
    result = run("search", features, "b/2.mp4", "-k", 1)
    assert result.exit_code == 0
    assert result.stdout == "similarity\tvideo\n0.6000\tb/1\\t\\x1b[31m.mp4\n"
    pairs = run("search", features, "--duplicates", 0.9)
    assert pairs.stdout == "similarity\tvideo\tother\n1.0000\ta/1.mp4\ta/2.mp4\n"
    assert pairs.stderr == "1 pairs of 4 videos are at least 0.9 similar\n"


def test_near_duplicates_are_pairs(features: Path) -> None:
    found = answer("search", features, "--duplicates", 0.5)
    assert [(pair["video"], pair["other"]) for pair in found["pairs"]] == [
        ("a/1.mp4", "a/2.mp4"),
        (NAMES[2], "b/2.mp4"),
    ]


def test_another_video_is_extracted_as_those_of_the_file_were(videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "feats.h5"
    with Extractor.from_weights("motion-mini", stride=8, device="cpu", precision="fp32") as extractor:
        list(extractor.extract_files([videos], output))
    found = answer("search", output, videos / "b/one.mp4", *ON_CPU)["neighbours"]
    assert found[0] == {"similarity": 1, "video": "b/one.mp4"}
    with FeatureFile(output) as file:
        similarities = cosine_similarity(file["fc6"])[file.videos.index("b/one.mp4")]
        expected = {video: similarities[row] for row, video in enumerate(file.videos)}
    assert {row["video"] for row in found} == set(LENGTHS)
    for row in found:
        assert row["similarity"] == pytest.approx(expected[row["video"]], abs=1e-5)


def test_what_would_do_nothing_is_refused(features: Path, videos: Path) -> None:
    assert "needs a VIDEO, or --duplicates" in failure("search", features)
    assert "needs a VIDEO, or --duplicates" in failure("search", features, "a/1.mp4", "--duplicates", 0.5)
    assert "-k: is for a VIDEO" in failure("search", features, "--duplicates", 0.5, "-k", 3)
    assert "--mean: is for a VIDEO" in failure("search", features, "--duplicates", 0.5, "--mean", "1,2,3")
    assert "--weights: is for other videos" in failure("search", features, "a/1.mp4", "--weights", "x")
    assert "perhaps a/1.mp4, a/2.mp4" in failure("search", features, "a/1.mpg")
    assert "does not say how its features were extracted" in failure("search", features, videos / "b/one.mp4")
