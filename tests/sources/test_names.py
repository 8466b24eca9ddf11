"""What each video is called."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from source_samples import names, touch

from c3d_extract.sources.find import find_videos


def test_half_a_character_in_a_name_costs_that_video_alone(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    found = find_videos([], listed=[tmp_path / "a.mp4", f"{tmp_path}/\ud800.mp4"])
    assert [(video.name, video.size_bytes) for video in found.videos] == [
        ("\\xed\\xa0\\x80.mp4", 0),
        ("a.mp4", 1),
    ]


def test_the_same_stem_is_no_clash(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4", tmp_path / "a.avi")
    assert names(find_videos([tmp_path])) == ["a.avi", "a.mp4"]


def test_the_same_name_in_two_inputs_gets_the_folder_in_front_of_both(tmp_path: Path) -> None:
    touch(tmp_path / "one/a.mp4", tmp_path / "two/a.mp4", tmp_path / "two/b.mp4")
    assert names(find_videos([tmp_path / "one", tmp_path / "two"])) == ["b.mp4", "one/a.mp4", "two/a.mp4"]


def test_names_grow_until_they_differ(tmp_path: Path) -> None:
    touch(tmp_path / "x/v/a.mp4", tmp_path / "y/v/a.mp4", tmp_path / "y/a.mp4")
    found = names(find_videos([tmp_path / "x/v", tmp_path / "y/v", tmp_path / "y/a.mp4"]))
    assert found == ["x/v/a.mp4", "y/a.mp4", "y/v/a.mp4"]


parts = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)


@given(
    st.sets(parts, min_size=1, max_size=12),
    st.lists(st.sampled_from(["", "a", "b", "a/b"]), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_every_video_gets_exactly_one_name_of_its_own(files: set[str], roots: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        touch(*(top / "v" / f"{file}.mp4" for file in files))
        inputs = [top / "v" / root for root in roots if (top / "v" / root).is_dir()]
        found = find_videos(inputs)
        expected = {p for root in inputs for p in root.rglob("*.mp4")}
        assert {video.path for video in found.videos} == expected
        assert len({video.name for video in found.videos}) == len(found.videos) == len(expected)
        assert all(str(video.path).endswith(f"/{video.name}") for video in found.videos)
        assert names(found) == sorted(names(found))
