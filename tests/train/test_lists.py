"""Lists of labelled videos."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from c3d_extract.errors import UsageError
from c3d_extract.train import read_videos

if TYPE_CHECKING:
    from pathlib import Path


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_class_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "run/a.mp4", "run/deep/b.avi", "walk/c.mkv", "walk/notes.txt")
    found = read_videos(tmp_path)
    assert found.labels == ("run", "walk")
    assert [(video.path.name, video.labels) for video in found.videos] == [
        ("a.mp4", (0,)),
        ("b.avi", (0,)),
        ("c.mkv", (1,)),
    ]


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("path,label\na.mp4,run\nb c.mp4,walk\n", ("run", "walk"), [(0,), (1,)]),
        ("a.mp4 run\nb c.mp4 walk\n", ("run", "walk"), [(0,), (1,)]),
        ("a.mp4 0\nb c.mp4 2\n", ("0", "1", "2"), [(0,), (2,)]),
        ('"a.mp4","run, fast"\nb c.mp4,walk\n', ("run, fast", "walk"), [(0,), (1,)]),
        ("a.mp4 3,1\n\nb c.mp4 2\n", ("0", "1", "2", "3"), [(3, 1), (2,)]),
    ],
)
def test_lists(tmp_path: Path, text: str, labels: tuple[str, ...], expected: list[tuple[int, ...]]) -> None:
    _touch(tmp_path, "a.mp4", "b c.mp4")
    (tmp_path / "list.txt").write_text(text)
    found = read_videos(tmp_path / "list.txt")
    assert found.labels == labels
    assert [video.labels for video in found.videos] == expected


def test_official_ucf101_lists(tmp_path: Path) -> None:
    _touch(tmp_path / "videos", "YoYo/v_YoYo_g01_c01.avi", "Archery/v_Archery_g01_c01.avi")
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    (tmp_path / "trainlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi 2\nArchery/v_Archery_g01_c01.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nYoYo/gone.avi\n")
    train = read_videos(tmp_path / "trainlist01.txt", root=tmp_path / "videos")
    assert train.labels == ("Archery", "YoYo")
    assert [video.labels for video in train.videos] == [(1,), (0,)]
    test = read_videos(tmp_path / "testlist01.txt", root=tmp_path / "videos", labels=train.labels)
    assert [video.labels for video in test.videos] == [(0,)]
    assert test.n_missing == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.mp4 1\n\nbroken\n", "line 3.*expected a path and a label"),
        ("a.mp4,run\nb.mp4,\n", "line 2.*expected a path and a label"),
        ('a.mp4,run\n"b.mp4,walk\n', "line 2.*broken"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, text: str, says: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_videos(tmp_path / "list.txt")


def test_a_line_that_can_be_no_path_is_a_missing_video(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text(f"a.mp4 0\nb.mp4 1\nnul\0.mp4 1\n{'x' * 100_000}.mp4 1\n")
    assert read_videos(tmp_path / "list.txt").n_missing == 2


def test_a_label_that_is_no_class_is_named_by_its_line(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\na.mp4 7\n")
    with pytest.raises(UsageError, match=r"line 2.*'7' is none of the 3 classes"):
        read_videos(tmp_path / "list.txt", labels=("x", "y", "z"))


def test_what_has_one_class_alone_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "all/run/a.mp4", "all/walk/b.mp4")
    with pytest.raises(UsageError, match=r"one class alone, 'all'.*did you mean .*all\?"):
        read_videos(tmp_path)
    (tmp_path / "list.csv").write_text("all/run/a.mp4,run\nall/walk/b.mp4,run\n")
    with pytest.raises(UsageError, match=r"list\.csv: has one class alone, 'run'"):
        read_videos(tmp_path / "list.csv")
    (tmp_path / "all" / "jump").mkdir()
    with pytest.raises(UsageError, match=r"jump: holds no videos for class 'jump'"):
        read_videos(tmp_path / "all")
    assert len(read_videos(tmp_path / "all", labels=("jump", "run", "walk")).videos) == 2


def test_a_list_none_of_whose_videos_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(UsageError, match="2 of its videos are not there; --root"):
        read_videos(tmp_path / "list.txt")
