"""``c3d-tools demo`` renders videos that play, the same ones every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner

from c3d_extract.cli.demo import command as demo
from c3d_extract.decode import PyAVReader

if TYPE_CHECKING:
    from pathlib import Path


def test_demo_renders_playable_videos_and_the_same_ones_again(tmp_path: Path) -> None:
    results = [CliRunner().invoke(demo, [str(tmp_path / name), "--per-class", "1"]) for name in ("a", "b")]
    assert [result.exit_code for result in results] == [0, 0]
    assert "4 videos of 4 classes" in results[0].stderr
    assert results[0].stdout.startswith("c3d-extract ")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mp4"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        with PyAVReader(tmp_path / "a" / file) as reader:
            assert sum(1 for _ in reader.frames()) >= 48


def test_demo_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(demo, [str(tmp_path / "file" / "under"), "--per-class", "1"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "cannot be written" in result.stderr
