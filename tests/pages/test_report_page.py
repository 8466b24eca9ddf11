"""The report's page: each file with its status and why, counts, settings and confusions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conftest import LENGTHS
from labelled_features import blobs, feature_file
from page_samples import HOSTILE, extracted, page_data

pytest.importorskip("plotly")
from c3d_extract import FeatureFile
from c3d_extract.analysis import ExperimentOptions, baselines, cross_validate, prepare_experiment
from c3d_extract.errors import StoreError
from c3d_extract.output import read_report
from c3d_extract.pages.report import ClassResult, write_report_page

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def features(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extracted(videos, tmp_path_factory.mktemp("report"))


def test_every_file_is_listed_with_its_status_and_why(features: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert write_report_page(features, page) == []
    data = page_data(page)
    lines = read_report(features.with_name("feats.report.jsonl"))
    for name in ("video", "status", "error", "seconds", "n_frames"):
        known = [None if name == "n_frames" and line["status"] == "skipped" else line[name] for line in lines]
        assert data["videos"][name] == known
    row = data["videos"]["video"].index("a/broken.mp4")
    assert data["videos"]["status"][row] == "failed"
    assert data["videos"]["error"][row]
    assert data["videos"]["fps"][row] is None
    assert data["videos"]["fps"][data["videos"]["video"].index("long.mp4")] == 25
    counts = {name: n for n, name in data["counts"]}
    assert (counts["ok"], counts["failed"], counts["skipped"]) == ("7", "1", "1")
    assert counts["frames"] == str(sum(LENGTHS.values()) + LENGTHS["mid.mp4"])
    assert data["settings"]["weights"]["weights"] == "motion-mini"
    assert data["settings"]["settings"]["stride"] == "16"
    lengths = next(plot["values"] for plot in data["plots"] if plot["title"] == "Length")
    with FeatureFile(features) as file:
        assert sorted(lengths) == sorted(file.column("duration_seconds").tolist())
    text = page.read_text("utf-8")
    assert HOSTILE not in text
    assert "onerror" not in text


def test_a_file_without_its_report_is_said_to_be_one(features: Path, tmp_path: Path) -> None:
    alone = tmp_path / "feats.h5"
    alone.write_bytes(features.read_bytes())
    (note,) = write_report_page(alone, tmp_path / "report.html")
    assert note.startswith("there is no report of this file beside it")
    assert page_data(tmp_path / "report.html")["videos"]["status"] == ["ok"] * 7


def test_a_clip_file_has_no_report(features: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has one row per clip, not one per video; give the feature file"):
        write_report_page(features.with_name("clips.h5"), tmp_path / "report.html")


def test_confusions_are_those_of_the_evaluation(tmp_path: Path) -> None:
    samples, names = blobs()
    features = feature_file(tmp_path / "feats.h5", {"fc6": samples.X}, names)
    experiment = prepare_experiment(ExperimentOptions(features))
    evaluation = cross_validate(experiment.samples, experiment.splits)
    chance = baselines(experiment.samples, experiment.splits).chance
    write_report_page(features, tmp_path / "r.html", ClassResult(experiment, evaluation, chance))
    found = page_data(tmp_path / "r.html")["classes"]
    assert found["names"] == ["hug", "kick", "push"]
    assert found["counts"] == evaluation.confusion.tolist()
    assert f"accuracy {evaluation.accuracy:.3f} ± {evaluation.accuracy_std:.3f}" in found["text"]
    assert "chance 0.333; 5 folds" in found["text"]
