"""Where the videos of a table are looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from c3d_extract.sources.located import find_file, find_root

if TYPE_CHECKING:
    from pathlib import Path


def test_the_folder_that_has_most_of_the_videos_is_found(tmp_path: Path) -> None:
    for name in ("other/a/1.mp4", "videos/a/1.mp4", "videos/a/2.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    names = ["a/1.mp4", "a/2.mp4", "a/3.mp4"]
    assert find_root(names, [tmp_path]) == tmp_path / "videos"
    assert find_root(names, [tmp_path / "videos"]) == tmp_path / "videos"
    assert find_root(["b/1.mp4"], [tmp_path]) is None
    assert find_root(names, [tmp_path / "missing"]) is None


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (root / "own.mp4").write_bytes(b"x")
    assert find_file(root, "own.mp4") == root / "own.mp4"
    for name in ("../secret.mp4", str(tmp_path / "secret.mp4"), "", "a/../../secret.mp4", "x" * 5000, "a\0b"):
        assert find_file(root, name) is None


def test_a_file_of_another_size_is_another_video(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"four")
    (tmp_path / "frames").mkdir()
    assert find_file(tmp_path, "v.mp4", 4) is not None
    assert find_file(tmp_path, "v.mp4", 5) is None
    assert find_file(tmp_path, "frames", 123) == tmp_path / "frames"
