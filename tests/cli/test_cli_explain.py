"""``c3d-tools explain``: the picture, the clip it takes, and what is refused before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from c3d_extract import Extractor
from c3d_extract.cli.explain import command

pytest.importorskip("matplotlib")

if TYPE_CHECKING:
    from pathlib import Path


def explain(*words: object) -> Result:
    return CliRunner().invoke(command, [*map(str, words), "--weights", "motion-mini", "--device", "cpu"])


def test_it_draws_the_clip_in_which_a_unit_is_strongest(videos: Path, tmp_path: Path) -> None:
    done = explain(videos / "long.mp4", "-o", tmp_path / "p.png")
    assert done.exit_code == 0, done.output
    with Extractor.from_weights("motion-mini", device="cpu") as extractor:
        features = extractor.extract(videos / "long.mp4").clips
    number, unit = np.unravel_index(features.argmax(), features.shape)
    assert f"long.mp4, frames {16 * number} to {16 * number + 15}: fc6 unit {unit} " in done.stdout
    with Image.open(tmp_path / "p.png") as picture:
        width, height = picture.size
    assert width > 1900  # 16 frames
    assert height > 400  # the clip and three units


def test_a_gif_shows_every_frame_of_the_clip_that_was_asked_for(videos: Path, tmp_path: Path) -> None:
    words = ["--layer", "conv5b", "--unit", 3, "--unit", 3, "--unit", 9, "--clip", 1]
    done = explain(videos / "mid.mp4", *words, "-o", tmp_path / "p.gif")
    assert done.exit_code == 0, done.output
    assert "mid.mp4, frames 16 to 31: conv5b unit 3" in done.stdout
    with Image.open(tmp_path / "p.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 16
        assert picture.size[0] < 700  # three columns: the clip and two units


def test_units_of_fc8_have_the_names_of_the_classes(videos: Path, tmp_path: Path) -> None:
    done = explain(videos / "a/one.mp4", "--layer", "fc8", "-o", tmp_path / "p.svg")
    assert done.exit_code == 0, done.output
    assert "fc8 motion " in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-o", "p.mp4"], 2, "p.mp4: no format of a picture; name a .png, .svg or .pdf file"),
        (["-o", "p"], 2, "p: no format of a picture"),
        (["-o", "nowhere/p.png"], 1, "nowhere/p.png: its folder is not there"),
        (["-o", "old.png"], 1, "old.png: exists already; choose another -o, or --overwrite"),
        (["--unit", "512"], 2, "unit 512: fc6 has units 0 to 511"),
        (["--clip", "6"], 2, "long.mp4: has no clip 6"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.png").write_bytes(b"old")
    done = explain(videos / "long.mp4", *words)
    assert done.exit_code == code
    assert done.stderr.splitlines()[-1].startswith(f"Error: {message}")
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]


def test_more_videos_than_a_picture_has_room_for_are_refused(videos: Path, tmp_path: Path) -> None:
    for number in range(13):
        (tmp_path / f"{number}.mp4").symlink_to(videos / "a/one.mp4")
    done = explain(tmp_path, "-o", tmp_path / "p.png")
    assert done.exit_code == 2
    assert "13 videos do not fit into a picture; at most 12 do" in done.stderr
