"""``c3d-tools info`` and ``c3d-tools pca``, as a user calls them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.decomposition import PCA
from store_samples import datasets, identity, open_store, record, sample_rows

from c3d_extract.cli import info, pca
from c3d_extract.errors import MismatchError
from c3d_extract.output import FeatureFile, load_basis

if TYPE_CHECKING:
    from pathlib import Path

    import click


def run(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], env={"COLUMNS": "80"})


def write(output: Path, n: int = 20, **options: Any) -> None:
    with open_store(output, identity(), **options) as store:
        for row in sample_rows(n):
            record(store, row)
        store.finish(complete=True)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A feature file with its clip file ``clips.h5`` and report."""
    write(tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
    return tmp_path / "feats.h5"


@pytest.mark.usefixtures("terminal")
def test_info_says_what_is_in_a_feature_file(features: Path) -> None:
    result = run(info.command, features)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout  # no terminal, no colours
    for words in ("fc6 (12), fc7 (5)", "12 ok, 4 partial, 4 failed", "decoder crashed: SIGSEGV"):
        assert words in result.stdout


def test_info_as_json_is_one_document_with_all_there_is(features: Path) -> None:
    facts = json.loads(run(info.command, features, "--json").stdout)
    with FeatureFile(features) as file:
        assert facts["n_rows"] == len(file) == 16
        assert facts["totals"]["n_clips"] == file.column("n_clips").sum()
    assert facts["kind"] == "features"
    assert facts["complete"] is True
    assert facts["layers"] == {"fc6": 12, "fc7": 5}
    assert facts["settings"]["stride"] == 16
    assert facts["weights"]["weights_sha256"] == "00ff"
    assert facts["report"]["counts"] == {"ok": 12, "partial": 4, "failed": 4, "skipped": 0}
    assert {line["video"] for line in facts["report"]["failures"]} == {
        row.video for row in sample_rows(20) if row.status == "failed"
    }


def test_info_does_without_a_report(features: Path) -> None:
    features.with_name("feats.report.jsonl").unlink()
    result = run(info.command, features)
    assert result.exit_code == 0
    assert "failed" not in result.stdout
    assert json.loads(run(info.command, features, "--json").stdout)["report"] is None


@pytest.mark.usefixtures("terminal")
def test_info_counts_the_failures_it_does_not_show(tmp_path: Path) -> None:
    write(tmp_path / "feats.h5", 120)
    assert "… and 4 more: --json lists all" in run(info.command, tmp_path / "feats.h5").stdout


@pytest.mark.usefixtures("terminal")
def test_info_knows_clip_and_basis_files(features: Path, tmp_path: Path) -> None:
    clips = json.loads(run(info.command, tmp_path / "clips.h5", "--json").stdout)
    assert clips["kind"] == "clips"
    assert clips["totals"]["n_videos"] == 16
    assert "clip file" in run(info.command, tmp_path / "clips.h5").stdout
    assert run(pca.command, "fit", features, "-k", 3, "-o", tmp_path / "b.h5").exit_code == 0
    assert re.search(r"layer fc6 +12 → 3 dimensions", run(info.command, tmp_path / "b.h5").stdout)
    basis = json.loads(run(info.command, tmp_path / "b.h5", "--json").stdout)
    assert basis["kind"] == "pca"
    assert basis["layers"]["fc6"]["n_samples"] == 16


def test_info_refuses_what_is_not_ours_in_one_line(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text").write_text("hello")
    for name in ("theirs.h5", "text"):
        result = run(info.command, tmp_path / name)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith(f"Error: {tmp_path / name}: ")
        assert result.stderr.count("\n") == 1


def test_fitted_and_applied_is_what_scikit_learn_gives(features: Path, tmp_path: Path) -> None:
    assert run(pca.command, "fit", features, "-k", 4, "-o", tmp_path / "b.h5").exit_code == 0
    result = run(pca.command, "apply", features, "--basis", tmp_path / "b.h5", "-o", tmp_path / "out.h5")
    assert result.exit_code == 0
    assert "16 rows projected" in result.stderr
    assert result.stdout == ""
    with FeatureFile(features) as file, FeatureFile(tmp_path / "out.h5") as out:
        assert out.videos == file.videos
        assert out.attributes["pca_basis"] == "b.h5"
        for name in ("n_clips", "width", "mtime_ns"):
            np.testing.assert_array_equal(out.column(name), file.column(name))
        for layer in ("fc6", "fc7"):
            expected = PCA(4, svd_solver="full").fit_transform(file[layer].astype(np.float64))
            signs = np.sign((expected * out[layer]).sum(axis=0))
            np.testing.assert_allclose(out[layer] * signs, expected, atol=1e-4)  # the project's bar; float32


def test_the_basis_of_a_run_gives_the_rows_of_the_run(tmp_path: Path) -> None:
    write(tmp_path / "plain.h5")
    write(tmp_path / "run.h5", pca=4)
    basis = tmp_path / "run.pca.h5"
    assert (
        run(pca.command, "apply", tmp_path / "plain.h5", "--basis", basis, "-o", tmp_path / "o.h5").exit_code
        == 0
    )
    assert datasets(tmp_path / "o.h5") == datasets(tmp_path / "run.h5")
    fitted = run(pca.command, "fit", tmp_path / "plain.h5", "-k", 4, "-o", tmp_path / "b.h5")
    assert fitted.exit_code == 0
    sums = [
        json.loads(run(info.command, path, "--json").stdout)["sha256"] for path in (basis, tmp_path / "b.h5")
    ]
    assert sums[0] == sums[1]


def test_clip_files_are_projected_too(features: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips.h5"
    assert (
        run(pca.command, "fit", features, "-k", 2, "--layer", "fc6", "-o", tmp_path / "b6.h5").exit_code == 0
    )
    result = run(pca.command, "apply", clips, "--basis", tmp_path / "b6.h5", "-o", tmp_path / "o.h5")
    assert result.exit_code == 1
    assert "no basis for layer fc7, only for fc6" in result.stderr
    assert run(pca.command, "fit", features, "-k", 2, "-o", tmp_path / "b.h5").exit_code == 0
    assert (
        run(pca.command, "apply", clips, "--basis", tmp_path / "b.h5", "-o", tmp_path / "o.h5").exit_code == 0
    )
    with FeatureFile(clips) as file, FeatureFile(tmp_path / "o.h5") as out:
        assert out.kind == "clips"
        assert out["fc6"].shape == (len(file), 2)
        np.testing.assert_array_equal(out.column("start_seconds"), file.column("start_seconds"))


def test_a_basis_of_normalised_averages_is_not_for_raw_rows(tmp_path: Path) -> None:
    write(tmp_path / "unit.h5", l2=True, clips=tmp_path / "clips.h5")
    assert run(pca.command, "fit", tmp_path / "unit.h5", "-k", 2, "-o", tmp_path / "b.h5").exit_code == 0
    result = run(
        pca.command, "apply", tmp_path / "clips.h5", "--basis", tmp_path / "b.h5", "-o", tmp_path / "o.h5"
    )
    assert result.exit_code == 1
    assert "l2: true → false" in result.stderr


PREPROCESSING = {"resize": [128, 171], "crop": [112, 112], "colour": "bgr", "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("weights", "settings", "said"),
    [
        (
            {"weights": "other", "weights_sha256": "11"},
            {},
            "weights: random (sha256 00ff) → other (sha256 11)",
        ),
        ({"mean_sha256": "45"}, {}, "mean: 1,2,3 (sha256 0123) → 1,2,3 (sha256 45)"),
        ({"pool5": "symmetric"}, {}, "pool5: ceil → symmetric"),
        ({"colour": "rgb"}, {}, "colour: bgr → rgb"),
        (
            {"record": {"preprocessing": PREPROCESSING | {"std": [58.0, 57, 59]}}},
            {},
            "std: [1, 1, 1] → [58.0, 57, 59]",
        ),
        ({}, {"stride": 8}, "stride: 16 → 8"),
        ({}, {"tail": "pad"}, "tail: drop → pad"),
        ({}, {"short": "loop"}, "short: pad → loop"),
        ({}, {"fps": 12.5}, "fps: null → 12.5"),
        ({}, {"l2": True}, "l2: false → true"),
    ],
)
def test_a_basis_is_for_features_made_as_those_it_was_fitted_on(
    features: Path, tmp_path: Path, weights: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    assert run(pca.command, "fit", features, "-k", 2, "-o", tmp_path / "b.h5").exit_code == 0
    same = identity(**settings)
    other = replace(same, weights=same.weights | weights)
    l2 = bool(settings.get("l2"))
    with open_store(tmp_path / "other.h5", other, l2=l2) as store:
        for row in sample_rows(5):
            record(store, row)
        store.finish(complete=True)
    words = ("--basis", tmp_path / "b.h5", "-o", tmp_path / "o.h5")
    result = run(pca.command, "apply", tmp_path / "other.h5", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: b.h5: the basis was fitted on other features ({said}); ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o.h5").exists()
    with pytest.raises(MismatchError, match=re.escape(said)):  # --pca-from
        open_store(tmp_path / "run.h5", other, basis=load_basis(tmp_path / "b.h5"), l2=l2)


@pytest.mark.parametrize("unknown", ["weights_sha256", "mean_sha256", "pool5", "colour", "record", "stride"])
def test_a_basis_or_features_of_unknown_make_are_refused_even_where_both_are(
    features: Path, tmp_path: Path, unknown: str
) -> None:
    """What is missing on both sides is equal, and says nothing."""
    assert run(pca.command, "fit", features, "-k", 2, "-o", tmp_path / "b.h5").exit_code == 0
    known, without = tmp_path / "b.h5", tmp_path / "without.h5"
    for path in (features, known):
        copy = without if path == features else tmp_path / "old.h5"
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            for name in ("weights", "settings"):
                values = json.loads(file.attrs[name])
                file.attrs[name] = json.dumps({k: v for k, v in values.items() if k != unknown})
    for table, basis in ((features, tmp_path / "old.h5"), (without, known), (without, tmp_path / "old.h5")):
        result = run(pca.command, "apply", table, "--basis", basis, "-o", tmp_path / "o.h5")
        assert result.exit_code == 1
        known_as = {"weights_sha256": "weights", "mean_sha256": "mean", "record": "resize, crop, std"}
        assert f"do not say {known_as.get(unknown, unknown)}; " in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "feats.h5", "-k", "17", "-o", "b.h5"], "fc6: cannot take 17 components from 16 rows of 12"),
        (["fit", "feats.h5", "-k", "2", "--layer", "fc8", "-o", "b.h5"], "has no layer fc8, only fc6, fc7"),
        (["fit", "feats.h5", "-k", "2", "-o", "feats.h5"], "is the input as well"),
        (
            ["fit", "feats.h5", "-k", "2", "-o", "clips.h5", "--overwrite"],
            "exists but is not a file of c3d-extract",
        ),
        (["fit", "projected.h5", "-k", "2", "-o", "b.h5"], "its rows are projected already, with p.h5"),
        (["apply", "feats.h5", "--basis", "clips.h5", "-o", "o.h5"], "is not a PCA basis"),
        (["apply", "feats.h5", "--basis", "p.h5", "-o", "projected.h5"], "exists already"),
        (["apply", "projected.h5", "--basis", "p.h5", "-o", "o.h5"], "its rows are projected already"),
        (
            ["apply", "feats.h5", "--basis", "p.h5", "-o", "p.h5", "--overwrite"],
            "exists but is not a file of c3d-extract",
        ),
    ],
)
def test_wrong_use_is_one_line(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(pca.command, "fit", "feats.h5", "-k", 2, "-o", "p.h5").exit_code == 0
    assert run(pca.command, "apply", features, "--basis", "p.h5", "-o", "projected.h5").exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(pca.command, *words)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_replaces_what_is_ours(features: Path, tmp_path: Path) -> None:
    for k in (2, 3):
        assert (
            run(pca.command, "fit", features, "-k", k, "-o", tmp_path / "b.h5", "--overwrite").exit_code == 0
        )
    assert "→ 3 dimensions" in run(info.command, tmp_path / "b.h5").stdout


@pytest.mark.parametrize("words", [["info"], ["pca"], ["pca", "fit"], ["pca", "apply"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from c3d_extract.cli.tools import module_main\n"
        f"sys.argv[1:] = {[*words, '--help']}\n"
        "try: module_main()\n"
        "except SystemExit: print(*{'torch', 'h5py', 'numpy', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("Usage: ")
    assert answer.stderr.strip() == ""
