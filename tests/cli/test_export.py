"""``c3d-tools export`` as a user calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from export_samples import LENGTHS, STEMS, features, files_below, write_clips

from c3d_extract.cli.tools import COMMANDS, LazyGroup
from c3d_extract.output.export import PRESETS

if TYPE_CHECKING:
    from pathlib import Path


def run(*words: object) -> Result:
    return CliRunner().invoke(LazyGroup(COMMANDS, "tools"), ["export", *map(str, words)])


def failure(*words: object, code: int) -> str:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.usefixtures("terminal")
def test_the_list_names_every_preset_and_what_it_takes_in_80_columns() -> None:
    lines = run("--list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(PRESETS)
    at = next(i for i, line in enumerate(lines) if line.startswith("activitynet "))
    assert lines[at + 2].split() == [
        "--layer",
        "fc7",
        "--stride",
        "8",
        "--pca-from",
        "PCA_activitynet_v1-3.hdf5",
    ]


def test_an_export_says_where_it_is_and_what_does_not_fit(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5")
    result = run("ucf-crime-32", clips, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "Warning: rows have 24 values, and what loads ucf-crime-32 expects 4096",
        f"{clips} → {tmp_path / 'out'}",
    ]
    assert files_below(tmp_path / "out") == sorted(f"{stem}_C.txt" for stem in STEMS.values())
    assert run("ucf-crime-32", clips, "-o", tmp_path / "out", "--overwrite", "-q").output == ""


def test_options_reach_the_export(tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips.h5", layers=("fc6", "fc7"))
    words = ("flat-h5", clips, "-o", tmp_path / "t.hdf5", "--layer", "fc7", "--keep-suffix")
    assert run(*words).exit_code == 0
    with h5py.File(tmp_path / "t.hdf5") as file:
        np.testing.assert_array_equal(file["long.mkv"], features("long.mkv", LENGTHS["long.mkv"], "fc7"))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "needs a preset and a clip file; --list lists the presets"),
        (["npz", "CLIPS"], 2, "npz: no such preset; there are npy, c3d-bin"),
        (["npy"], 2, "npy: needs a clip file; c3d-extract --clips FILE makes one"),
        (["npy", "CLIPS"], 2, "npy: needs -o, a folder"),
        (["csv", "CLIPS"], 2, "csv: needs -o, a file, such as features.csv"),
        (["charades-pt", "CLIPS", "-o", "OUT"], 2, "stride 16, not 8; extract with --layer fc6 --stride 8"),
        (["npy", "TEXT", "-o", "OUT"], 1, "cannot be read as a feature file"),
        (["npy", "CLIPS", "-o", "TEXT"], 1, "the folder cannot be made"),
        (
            ["npy", "CLIPS", "-o", "s3://b/out"],
            2,
            "cannot be in an object store; write to a disk and copy it",
        ),
        (["flat-h5", "CLIPS", "-o", "TEXT"], 1, "exists already; name another with -o, or --overwrite"),
        (["activitynet", "CLIPS", "-o", "OUT", "--pca-from", "TEXT"], 1, "the PCA basis cannot be read"),
    ],
)
def test_wrong_use_gets_one_line_and_writes_nothing(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    clips, text, out = write_clips(tmp_path / "clips.h5"), tmp_path / "text", tmp_path / "out"
    text.write_text("hello")
    places = {"CLIPS": clips, "TEXT": text, "OUT": out}
    assert says in failure(*(places.get(word, word) for word in words), code=code)
    assert files_below(tmp_path) == ["clips.h5", "text"]
