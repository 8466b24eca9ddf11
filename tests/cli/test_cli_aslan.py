"""``c3d-tools aslan``, as a user calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from click.testing import CliRunner
from labelled_features import feature_file

from c3d_extract.analysis import evaluate_pairs, read_pairs
from c3d_extract.cli.aslan import command

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_evaluates_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    action = np.arange(24) % 4
    rows = np.maximum(rng.normal(size=(4, 15))[action] + 0.5 * rng.normal(size=(24, 15)), 0)
    layers = {"prob": rows[:, :5], "fc7": rows, "fc6": rows * 2, "pool5": rows**2}
    names = [f"{i:03}.avi" for i in range(24)]
    features, listed = feature_file(tmp_path / "f.h5", layers, names), tmp_path / "p.csv"
    first, second = rng.integers(0, 24, size=(2, 90))
    lines = [
        f"{i % 3 + 1},{names[a]},{names[b]},{int(action[a] == action[b])}\n"
        for i, (a, b) in enumerate(zip(first, second, strict=True))
    ]
    listed.write_text("split,first,second,same\n" + "".join(lines) + "1,000.avi,gone.avi,0\n")
    arguments = [str(features), "--pairs", str(listed), "--missing", "skip"]
    result = CliRunner().invoke(command, [*arguments, "--json"])
    found = json.loads(result.stdout)
    assert "ignored 1 pairs without a video" in result.stderr
    expected = evaluate_pairs(
        [X.astype(np.float32) for X in layers.values()], read_pairs(listed, names, skip=True)
    )
    assert list(found) == ["layers", "n_pairs", "c", "accuracy", "standard_error", "auc", "splits"]
    assert found["layers"] == ["prob", "fc7", "fc6", "pool5"]
    assert (found["accuracy"], found["auc"]) == (expected.accuracy, expected.auc)
    assert "accuracy 0." in CliRunner().invoke(command, arguments).stdout


def test_help_names_the_official_file() -> None:
    text = CliRunner().invoke(command, ["--help"]).stdout
    assert "View2.mat" in text
    assert "four digits" in text.replace("\n ", "")
