"""``c3d-tools bench`` measures, adds up, and fits a terminal."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from conftest import MEAN

from c3d_extract.cli import bench
from c3d_extract.cli.progress import step_status
from c3d_extract.models.c3d import ARCHITECTURES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def findings(narrow_weights: Path) -> dict[str, Any]:
    """What the command finds when it measures for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_MODEL_SECONDS", 0.05)
        patch.setattr(bench, "_DECODE_SECONDS", 0.1)
        patch.setattr(bench, "_SAMPLES", (("320x240", (16, 240, 320)),))
        weights = ["--weights", str(narrow_weights), "--mean", MEAN]
        arguments = [*weights, "--device", "cpu", "--precision", "fp32", "--json"]
        result = CliRunner().invoke(bench.command, arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json_holds_consistent_rates_and_a_verdict(findings: dict[str, Any]) -> None:
    rates = findings["network"]["rates"]
    assert [row["batch"] for row in rates] == sorted({row["batch"] for row in rates})
    for row in rates:
        assert row["frames_per_second"] == pytest.approx(16 * row["clips_per_second"], rel=0.02)
    assert all(row["frames_per_second"] > 0 for row in findings["decoding"])
    assert findings["verdict"]["batch_size"] in {row["batch"] for row in rates}
    assert findings["verdict"]["bound_by"]["320x240"] in {"the network", "decoding"}


def test_the_table_fits_eighty_columns(
    findings: dict[str, Any], narrow_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_network", lambda *_: findings["network"])
    monkeypatch.setattr(bench, "_decoding", lambda *_: findings["decoding"])
    monkeypatch.setattr(bench, "_SAMPLES", (("320x240", (16, 240, 320)),))
    arguments = ["--weights", str(narrow_weights), "--mean", MEAN, "--device", "cpu"]
    result = CliRunner().invoke(bench.command, arguments)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "Suggested: --workers 1 --batch-size" in result.output


@pytest.mark.parametrize(
    ("network", "one", "two", "bound"), [(100.0, 80, 150, "decoding"), (60.0, 80, 150, "the network")]
)
def test_the_slower_side_is_named(network: float, one: int, two: int, bound: str) -> None:
    findings = {
        "network": {"rates": [{"batch": 4, "clips_per_second": network / 16, "frames_per_second": network}]},
        "decoding": [
            {"video": name, "workers": workers, "frames_per_second": rate}
            for name, _ in bench._SAMPLES
            for workers, rate in ((1, one), (2, two))
        ],
    }
    verdict = bench._verdict(findings, "cpu")
    assert set(verdict["bound_by"].values()) == {bound}
    assert verdict["batch_size"] == 4


def test_without_weights_it_measures_the_whole_c3d() -> None:
    checkpoint = bench._random_c3d()
    assert checkpoint.architecture.filters == ARCHITECTURES["c3d"].filters
    assert checkpoint.state["fc6.weight"].shape == (4096, 8192)


def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    result = CliRunner().invoke(bench.command, ["--device", "cuda:99"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --device cuda:99")


def test_on_a_terminal_it_shows_the_step_that_is_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    with step_status() as begin:
        begin("network in batches of 8, 12 s")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    with step_status() as begin:
        begin("decoding [b], 4 s")
        time.sleep(0.2)
    assert "decoding [b], 4 s" in capsys.readouterr().err
