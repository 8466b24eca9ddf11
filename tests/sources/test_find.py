"""Which files are taken for videos."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from source_samples import names, reasons, touch

from c3d_extract.errors import UsageError
from c3d_extract.sources.find import _source, find_videos


def test_a_folder_is_searched_recursively_and_names_are_relative_to_it(tmp_path: Path) -> None:
    touch(tmp_path / "v/b.mp4", tmp_path / "v/a/c.AVI", tmp_path / "v/a/d/e.webm")
    found = find_videos([tmp_path / "v"])
    assert names(found) == ["a/c.AVI", "a/d/e.webm", "b.mp4"]
    assert [video.path for video in found.videos] == [
        tmp_path / "v/a/c.AVI",
        tmp_path / "v/a/d/e.webm",
        tmp_path / "v/b.mp4",
    ]


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt", tmp_path / ".hidden.mp4", tmp_path / "clip")
    found = find_videos([tmp_path / "notes.txt", tmp_path / ".hidden.mp4", tmp_path / "clip"])
    assert names(found) == [".hidden.mp4", "clip", "notes.txt"]


def test_in_a_folder_other_files_are_ignored_with_a_reason(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.txt", ".h.mp4", "p.jpg", "s.m4a", ".git/x.mp4", "ok.mp4")))
    os.mkfifo(tmp_path / "pipe")
    found = find_videos([tmp_path])
    assert names(found) == ["ok.mp4"]
    assert reasons(found) == {
        "a.txt": "not a video by its name, nor by its first bytes",
        ".h.mp4": "a hidden file",
        "p.jpg": "a picture; --frame-folders reads folders of numbered ones",
        "s.m4a": "a sound file",
        "pipe": "not a regular file",
    }


@pytest.mark.parametrize(
    "head", [b"\0\0\0\x18ftypisom", b"RIFF1234AVI LIST", b"\x1a\x45\xdf\xa3....", b"OggS"]
)
def test_a_nameless_video_is_known_by_its_first_bytes(tmp_path: Path, head: bytes) -> None:
    touch(tmp_path / "no_extension", tmp_path / "data.0001", content=head)
    assert names(find_videos([tmp_path])) == ["data.0001", "no_extension"]


HOSTILE = [
    "new\nline.mp4",
    "quote'\".mp4",
    "a:b.mp4",
    "http:x.mp4",
    "-dash.mp4",
    "percent%04d.mp4",
    "[a].mp4",
    "*.mp4",
]


@pytest.mark.parametrize("name", [*HOSTILE, "имя 🎬.mp4", "slash\\back.mp4", "~.mp4", "$HOME.mp4", " .mp4"])
def test_any_name_is_found_in_a_folder_and_by_itself(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for inputs in ([tmp_path], ["."], [name], [tmp_path / name]):
        found = find_videos(inputs)
        assert names(found) == [name]
        assert found.videos[0].path == tmp_path / name
    assert names(find_videos([], listed=[name])) == [name]


def test_names_that_are_not_utf8_become_readable_text(tmp_path: Path) -> None:
    raw = os.fsdecode(b"latin1_\xe9.mp4")
    touch(tmp_path / raw)
    found = find_videos([tmp_path])
    assert names(found) == ["latin1_\\xe9.mp4"]
    found.videos[0].name.encode()  # storable
    assert os.fsencode(found.videos[0].path).endswith(b"\xe9.mp4"), "the path itself stays as it is"


def test_an_escaped_name_never_equals_a_real_one(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"\xe9.mp4"), tmp_path / "\\xe9.mp4")
    found = names(find_videos([tmp_path]))
    assert len(set(found)) == 2


def test_patterns(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a/1.mp4", "a/2.avi", "b/3.mp4", "b/c/4.mp4", "top.mp4")))
    assert names(find_videos([f"{tmp_path}/*/*.mp4"])) == ["1.mp4", "3.mp4"]
    assert names(find_videos([f"{tmp_path}/**/*.mp4"])) == ["1.mp4", "3.mp4", "4.mp4", "top.mp4"]
    assert names(find_videos([f"{tmp_path}/b*"])) == ["3.mp4", "c/4.mp4"], "a folder that matches is searched"
    with pytest.raises(UsageError, match="no file matches this pattern"):
        find_videos([f"{tmp_path}/*.mkv"])


@pytest.mark.parametrize("given", ["nowhere.mp4", "", "a\0b", "nowhere/"])
def test_an_input_that_does_not_exist_is_wrong_use(tmp_path: Path, given: str) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        find_videos([f"{tmp_path}/{given}" if given else given])


def test_a_listed_file_that_does_not_exist_fails_later_not_here(tmp_path: Path) -> None:
    found = find_videos([], listed=[tmp_path / "gone.mp4", f"{tmp_path}/nul\0.mp4"])
    assert names(found) == ["gone.mp4", "nul\\x00.mp4"], "a name can be stored, whatever was listed"
    assert {video.size_bytes for video in found.videos} == {0}


def test_the_same_file_twice_is_one_video(tmp_path: Path) -> None:
    touch(tmp_path / "v/a.mp4")
    found = find_videos(
        [tmp_path / "v", tmp_path / "v/a.mp4", f"{tmp_path}/v/*"], listed=[tmp_path / "v/../v/a.mp4"]
    )
    assert names(found) == ["a.mp4"]


def test_outputs_of_this_run_are_never_videos(tmp_path: Path) -> None:
    touch(tmp_path / "v/feats.mp4", tmp_path / "v/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "v")
    assert names(find_videos([tmp_path / "v"], exclude=[tmp_path / "v/feats.mp4"])) == ["a.mp4"]
    assert names(find_videos([tmp_path / "v"], exclude=[tmp_path / "link/feats.mp4"])) == ["a.mp4"]


def test_size_and_time_are_those_of_the_file(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", content=b"12345")
    os.utime(tmp_path / "a.mp4", ns=(1, 1_234_567_890_123_456_789))
    (video,) = find_videos([tmp_path]).videos
    assert (video.size_bytes, video.mtime_ns) == (5, 1_234_567_890_123_456_789)


def test_a_folder_of_numbered_images_is_one_video_where_asked_for(tmp_path: Path) -> None:
    touch(*(tmp_path / "v/run" / f"{i:06d}.jpg" for i in range(1, 4)), content=b"abc")
    touch(tmp_path / "v/run/extra.mp4", tmp_path / "v/run/notes.txt", tmp_path / "v/a.mp4")
    found = find_videos([tmp_path / "v"], frame_folders=True)
    assert names(found) == ["a.mp4", "run", "run/extra.mp4"], "a video beside the images is not lost"
    assert reasons(found) == {"notes.txt": "not a video by its name, nor by its first bytes"}
    assert found.videos[1].size_bytes == 9, "of the images alone"
    assert names(find_videos([tmp_path / "v/run"], frame_folders=True)) == ["run"]
    assert names(find_videos([tmp_path / "v"])) == ["a.mp4", "run/extra.mp4"]


def test_digits_of_other_scripts_are_no_frame_numbers(tmp_path: Path) -> None:
    touch(tmp_path / "v/١٢.jpg")
    assert names(find_videos([tmp_path / "v"], frame_folders=True)) == []


def test_an_empty_search_is_wrong_use_that_says_what_was_there(tmp_path: Path) -> None:
    touch(tmp_path / "a.txt", tmp_path / "b.jpg")
    with pytest.raises(UsageError, match="no videos found; 2 other files were ignored"):
        find_videos([tmp_path]).check_any()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(10**10, 2**63 - 1), (-(10**10), -(2**63)), (5, 5 * 10**9)]
)
def test_times_are_the_nearest_that_64_bits_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, expected: int
) -> None:
    status = os.stat_result(
        (0o100644, 1, 1, 1, 0, 0, 7, seconds, seconds, seconds), {"st_mtime_ns": seconds * 10**9}
    )
    monkeypatch.setattr(Path, "stat", lambda *_, **__: status)
    assert _source("a.mp4", tmp_path / "a.mp4").mtime_ns == expected
