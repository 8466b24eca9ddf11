"""Searching folders: links, special file systems and what may not be read."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from source_samples import names, reasons, touch

from c3d_extract.sources.find import find_videos

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_links_are_followed_once_and_to_folders_outside_only_where_asked(tmp_path: Path) -> None:
    touch(tmp_path / "v/real/x.mp4", tmp_path / "outside/y.mp4", tmp_path / "very/z.mp4")
    (tmp_path / "v/loop").symlink_to(tmp_path / "v")
    (tmp_path / "v/z").symlink_to(tmp_path / "outside")
    (tmp_path / "v/up").symlink_to("..")
    (tmp_path / "v/beside").symlink_to(tmp_path / "very")
    (tmp_path / "v/again").symlink_to(tmp_path / "v/real")
    (tmp_path / "v/link.mp4").symlink_to(tmp_path / "outside/y.mp4")
    found, outside = find_videos([tmp_path / "v"]), "a link to a folder outside; --follow-links follows it"
    assert names(found) == ["again/x.mp4", "link.mp4"], "a link to a file stands for it"
    assert reasons(found) == {
        "loop": f"the same folder as {tmp_path}/v",
        "real": f"the same folder as {tmp_path}/v/again",
        "up": outside,
        "z": outside,
        "beside": outside,
    }
    asked = find_videos([tmp_path / "v"], follow_links=True)
    assert names(asked) == ["again/x.mp4", "beside/z.mp4", "link.mp4", "up/outside/y.mp4"]
    (tmp_path / "w").symlink_to(tmp_path / "v")
    assert names(find_videos([tmp_path / "w"])) == names(found), "a link that was named is asked for"


def test_a_pattern_goes_through_no_more_links_than_a_search(tmp_path: Path) -> None:
    touch(tmp_path / "v/a/x.mp4", tmp_path / "v/.hidden/h.mp4", tmp_path / "outside/b/y.mp4")
    (tmp_path / "v/loop").symlink_to(tmp_path / "v")
    (tmp_path / "v/out").symlink_to(tmp_path / "outside")
    for pattern in ("**", "**/*.mp4", "**/a/*", "**/**/*.mp4", "**/*"):
        found = find_videos([f"{tmp_path}/v/{pattern}"])
        assert [video.path for video in found.videos] == [tmp_path / "v/a/x.mp4"], pattern
        assert "out" in reasons(found), pattern
    assert names(find_videos([f"{tmp_path}/v/**/*.mp4"], follow_links=True)) == ["x.mp4", "y.mp4"]


def test_a_link_to_a_folder_of_numbered_images_is_as_one_to_a_file(tmp_path: Path) -> None:
    touch(*(tmp_path / "store/run" / name for name in ("1.jpg", "2.jpg", "notes", "deep/y.mp4")))
    (tmp_path / "v").mkdir()
    (tmp_path / "v/run").symlink_to(tmp_path / "store/run")
    found = find_videos([tmp_path / "v"], frame_folders=True)
    assert names(found) == ["run"], "and nothing else in there is looked at"
    assert find_videos([tmp_path / "v"]).ignored == [
        (f"{tmp_path}/v/run", "a link to a folder outside; --follow-links follows it")
    ]


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("follow_links", [False, True])
def test_special_file_systems_are_never_searched(tmp_path: Path, follow_links: bool) -> None:
    touch(tmp_path / "v/a.mp4")
    for name, target in (("p", "/proc"), ("me", "/proc/self/fd"), ("s", "/sys/kernel"), ("d", "/dev")):
        (tmp_path / "v" / name).symlink_to(target)
    (tmp_path / "v/k.mp4").symlink_to("/proc/kmsg")
    for root in (tmp_path / "v", f"{tmp_path}/v/**"):
        found = find_videos([root, "/proc"], follow_links=follow_links)
        assert names(found) == ["a.mp4"]
        never = "a special file system, which is never searched"
        assert reasons(found) == {
            "k.mp4": "in a special file system",
            **dict.fromkeys(["p", "me", "s", "d", "proc"], never),
        }


def test_broken_and_circular_links_are_taken_to_fail_with_a_reason_each(tmp_path: Path) -> None:
    (tmp_path / "dangling.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "self.mp4").symlink_to("self.mp4")
    (tmp_path / "self").symlink_to("self")
    found = find_videos([tmp_path])
    assert names(found) == ["dangling.mp4", "self.mp4"]
    assert "cannot be read" in reasons(found)["self"]


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """Give a folder that everyone may enter, and run the test without root's right to read everything."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        shutil.chown(folder, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_what_may_not_be_read_stops_nothing(as_nobody: Path) -> None:
    touch(
        as_nobody / "v/shut/x.mp4",
        as_nobody / "v/listed_only/y",
        as_nobody / "v/ok.mp4",
        as_nobody / "v/unreadable",
    )
    (as_nobody / "v/unreadable").chmod(0)
    (as_nobody / "v/shut").chmod(0)
    (as_nobody / "v/listed_only").chmod(0o444)
    for frame_folders in (False, True):
        found = find_videos([as_nobody / "v"], frame_folders=frame_folders)
        assert names(found) == ["ok.mp4"]
        assert reasons(found) == {
            "shut": "cannot be listed: Permission denied",
            "y": "cannot be read: Permission denied",
            "unreadable": "cannot be read: Permission denied",
        }
    listed = find_videos([], listed=[as_nobody / "v/shut/x.mp4"])
    assert names(listed) == ["x.mp4"], "it fails when it is read"
