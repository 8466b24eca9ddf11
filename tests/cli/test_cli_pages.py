"""``c3d-tools map`` and ``report``: their files, what they say, what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from labelled_features import blobs, feature_file
from page_samples import page_data

pytest.importorskip("plotly")
from c3d_extract.cli.tools import COMMANDS, LazyGroup

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(LazyGroup(COMMANDS, "tools"), [str(argument) for argument in arguments])


@pytest.fixture
def features(tmp_path: Path) -> Path:
    samples, names = blobs()
    return feature_file(tmp_path / "feats.h5", {"fc6": samples.X, "fc7": samples.X[::-1]}, names)


def test_a_map_is_written_with_what_was_asked_for(features: Path, tmp_path: Path) -> None:
    page = tmp_path / "m.html"
    done = run("map", features, "-o", page, "--method", "pca", "--layer", "fc7", "--clusters", 3)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    note, last = done.stderr.splitlines()
    assert note.startswith("Note: the videos were not found, so there are no thumbnails; --root DIR")
    assert last.startswith(f"{features} → {page} (")
    data = page_data(page)
    assert (data["method"], data["layer"]) == ("pca", "fc7")
    assert len(data["colourings"][-1]["names"]) == 3
    assert run("map", features, "-o", page, "-q").stderr == f"{note}\n"


def test_a_report_has_a_confusion_matrix_where_it_is_asked_for(features: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    assert run("report", features, "-o", page).exit_code == 0
    assert page_data(page)["classes"] is None
    assert run("report", features, "-o", page, "--classify", "--layer", "fc7").exit_code == 0
    assert "fc7 of 60 videos" in page_data(page)["classes"]["text"]
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{name},{i % 2}\n" for i, name in enumerate(blobs()[1])))
    assert run("report", features, "-o", page, "--labels", labels).exit_code == 0
    assert page_data(page)["classes"]["names"] == ["0", "1"]


def test_what_would_do_nothing_is_refused(features: Path, tmp_path: Path) -> None:
    done = run("report", features, "-o", tmp_path / "r.html", "--layer", "fc7")
    assert (done.exit_code, done.stderr) == (2, "Error: --layer: needs --classify or --labels\n")
    (tmp_path / "bad.csv").write_text("video,a,b\nx,1\n")
    done = run("map", features, "-o", tmp_path / "m.html", "--labels", tmp_path / "bad.csv")
    assert done.exit_code == 2
    assert "bad.csv, line 2: expected 3 fields and found 2" in done.stderr
    done = run("map", features, "-o", tmp_path / "missing" / "m.html", "--method", "pca")
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    assert not (tmp_path / "m.html").exists()
