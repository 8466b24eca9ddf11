"""``c3d-extract --preset``: one command for what an extraction and an export do."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import LENGTHS, MEAN
from export_samples import files_below

from c3d_extract.cli.extract import command
from c3d_extract.cli.tools import COMMANDS, LazyGroup
from c3d_extract.output import FeatureFile, RunStore
from c3d_extract.output.export.base import Job
from c3d_extract.settings import CROPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def extract(narrow_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Result:
        chosen = ["--weights", str(narrow_weights), "--mean", MEAN, "--device", "cpu"]
        return CliRunner().invoke(command, [*chosen, *map(str, words)], catch_exceptions=False)

    return call


def export(*words: object) -> None:
    result = CliRunner().invoke(LazyGroup(COMMANDS, "tools"), ["export", *map(str, words)])
    assert result.exit_code == 0, result.output


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {name: (path / name).read_bytes() for name in files_below(path)}


def write_basis(path: Path) -> None:
    U, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((256, 256)))
    with h5py.File(path, "w") as file:
        for name, values in {"U": U, "S": np.arange(256.0)[::-1], "x_mean": np.ones((1, 256))}.items():
            file[f"data/{name}"] = values


@pytest.mark.parametrize(
    ("preset", "recipe", "basis"),
    [
        ("ucf-crime-32", ["--layer", "fc6", "--stride", 16], []),
        ("charades-pt", ["--layer", "fc6", "--stride", 8], []),
        ("activitynet", ["--layer", "fc7", "--stride", 8], ["--pca-from", "PCA.hdf5"]),
        ("npy", [], []),
        ("parquet", [], []),
    ],
)
def test_one_command_is_the_two_steps(
    extract: Callable[..., Result],
    videos: Path,
    tmp_path: Path,
    preset: str,
    recipe: list[str],
    basis: list[str],
) -> None:
    write_basis(tmp_path / "PCA.hdf5")
    # Names without their folders must be unique in an HDF5 file.
    inputs = videos if preset != "activitynet" else videos / "a"
    result = extract(inputs, "--preset", preset, "-o", "one", *basis)
    assert result.exit_code == 0, result.output
    words = " ".join(map(str, recipe))
    assert f"Preset {preset}: {words or '-o one.h5'}" in result.stderr
    assert result.stderr.splitlines()[-1] == "one.clips.h5 → one"
    assert extract(inputs, *recipe, "-o", "feats.h5", "--clips", "clips.h5").exit_code == 0
    export(preset, "clips.h5", "-o", "two", *basis)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with h5py.File("one.clips.h5") as one, h5py.File("clips.h5") as two:
        assert all((one[name][:] == two[name][:]).all() for name in two)


@pytest.mark.parametrize(("preset", "crops"), [("rtfm-10crop", "ten"), ("xd-5crop", "five")])
def test_a_preset_of_several_crops_extracts_them(
    extract: Callable[..., Result], videos: Path, tmp_path: Path, preset: str, crops: str
) -> None:
    result = extract(videos / "b", "--preset", preset, "-o", "one")
    assert result.exit_code == 0, result.output
    assert f"Preset {preset}: --stride 16 --crops {crops}" in result.stderr
    assert f", {CROPS[crops]} crops of each, on cpu" in result.stderr  # type: ignore[index]
    assert extract(videos / "b", "--crops", crops, "-o", "feats.h5", "--clips", "clips.h5").exit_code == 0
    export(preset, "clips.h5", "-o", "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with FeatureFile("clips.h5") as file:
        first = file["fc6"][: 2 * CROPS[crops]].reshape(2, CROPS[crops], -1)  # type: ignore[index]
    if crops == "ten":
        np.testing.assert_array_equal(np.load("one/one.npy"), first)
    else:
        np.testing.assert_array_equal(np.load("one/one__0.npy"), first[:, 4])


def test_a_given_option_that_agrees_is_taken_and_clips_may_be_named(
    extract: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    words = ("--preset", "npy", "--layer", "fc7", "--layer", "fc6", "--stride", 8, "--clips", "my.h5")
    assert extract(videos / "a", *words, "-o", "out").exit_code == 0
    assert files_below(tmp_path / "out") == [
        f"{name}_{end}.npy" for name in ("one", "two") for end in ("fc6", "fc7", "timestamps_ms")
    ]
    assert np.load("out/two_fc7.npy").shape == (4, 256)
    assert (tmp_path / "my.h5").exists()


def test_an_interrupted_run_goes_on_and_then_exports(
    extract: Callable[..., Result], videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (videos, "--preset", "ucf-crime-32", "-o", "out")
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "finish", stop)
        assert extract(*words).exit_code == 130
    assert not (tmp_path / "out").exists()
    writing, n_left = Job.writing, 2

    @contextmanager
    def stops_at_the_third(self: Job, relative: Any) -> Iterator[Any]:
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        with writing(self, relative) as file:
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(Job, "writing", stops_at_the_third)
        assert extract(*words).exit_code == 130
    assert len(files_below(tmp_path / "out")) == 2
    result = extract(*words)
    assert result.exit_code == 0
    assert "6 skipped as finished before" in result.stderr
    whole = extract(videos, "--preset", "ucf-crime-32", "-o", "whole")
    assert whole.exit_code == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(files_below(tmp_path / "out")) == len(LENGTHS)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_failed_is_said_and_the_rest_is_exported(
    extract: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mp4").write_text("no video")
    (tmp_path / "in" / "good.mp4").write_bytes((videos / "mid.mp4").read_bytes())
    result = extract("in", "--preset", "ekosman-32", "-o", "out", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["n_failed"] == 1
    assert files_below(tmp_path / "out") == ["good.txt"]
    assert extract("in", "--preset", "npy", "-o", "quiet", "-q").output == ""


def test_a_dry_run_has_the_recipe_and_writes_nothing(
    extract: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    result = extract(videos, "--preset", "charades-pt", "-o", "out", "--dry-run", "--json")
    assert json.loads(result.stdout)["settings"]["stride"] == 8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--preset", "ucf", "-o", "out"], 2, "ucf: no such preset; there are npy"),
        (["--preset", "npy"], 2, "--preset npy: needs -o, the folder to write"),
        (["--preset", "csv"], 2, "--preset csv: needs -o, the file to write, such as features.csv"),
        (["--preset", "ekosman-32", "-o", "out", "--layer", "fc7"], 2, "is fc7, and ekosman-32 takes fc6"),
        (["--preset", "charades-pt", "-o", "out", "--stride", "16"], 2, "is 16, and charades-pt takes 8"),
        (["--preset", "flat-h5", "-o", "o", "--layer", "fc6", "--layer", "fc7"], 2, "takes one layer"),
        (["--preset", "npy", "-o", "out", "--pca", "3"], 2, "--pca: is 3, and npy takes the clips"),
        (["--preset", "npy", "-o", "out", "--pca-from", "b.h5"], 2, "npy takes the clips as they are"),
        (["--preset", "npy", "-o", "out", "--shard", "0/2"], 2, "merge, then c3d-tools export"),
        (["--preset", "npy", "-o", "out", "--ray"], 2, "--ray: is auto, and npy takes a run that is not in"),
        (["--preset", "npy", "-o", "out", "--stride", "0"], 2, "--stride: must be at least 1, not 0"),
        (["--preset", "rtfm-10crop", "-o", "o", "--crops", "five"], 2, "is five, and rtfm-10crop takes ten"),
        (["--preset", "npy", "-o", "out", "--crops", "ten"], 2, "--crops: is ten, and npy takes centre"),
        (["--preset", "activitynet", "-o", "x.hdf5"], 2, "needs --pca-from PCA_activitynet_v1-3.hdf5"),
        (["--preset", "npy", "-o", "."], 1, "exists already; choose another -o, or --overwrite"),
        (["--preset", "npy", "-o", "s3://b/out"], 2, "an output file cannot be in an object store"),
        (["-o", "feats.csv"], 2, "-o feats.csv: the output is HDF5; name a file that ends in .h5; c3d-tools"),
        (["-o", "feats.PARQUET"], 2, "c3d-tools export parquet"),
        (["-o", "a/feats.npy"], 2, "c3d-tools export npy"),
        (["-o", "feats.npz"], 2, "c3d-tools export npy"),
        (["--clips", "clips.csv"], 2, "--clips clips.csv: the output is HDF5"),
    ],
)  # fmt: skip
def test_wrong_use_gets_one_line_before_any_work(
    extract: Callable[..., Result], videos: Path, tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    result = extract(videos, *words)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert says in line
    assert not list(tmp_path.iterdir())


def test_a_file_of_that_name_is_the_target_of_its_preset(
    extract: Callable[..., Result], videos: Path, tmp_path: Path
) -> None:
    assert extract(videos / "a", "--preset", "csv", "-o", "feats.csv").exit_code == 0
    assert (tmp_path / "feats.csv").read_text().startswith("video,clip_index,")
    names = {"feats.csv", "feats.csv.h5", "feats.csv.clips.h5", "feats.csv.report.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
