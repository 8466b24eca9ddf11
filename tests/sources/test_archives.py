"""Which members of a tar archive are videos, and what shows of archives that are damaged."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_samples import names, reasons, touch
from tar_samples import BLOCK, member, pack

from c3d_extract.sources.find import Found, Source, find_videos
from c3d_extract.sources.kinds import is_archive, is_compressed_archive


def content(source: Source) -> bytes:
    """What a member's offset and size lead to."""
    assert source.offset is not None
    return source.path.read_bytes()[source.offset :][: source.size_bytes]


def errors(found: Found) -> dict[str, str]:
    return {video.name: video.error for video in found.videos if video.error is not None}


def test_members_are_videos_named_after_the_archive(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("b.mp4", b"bb" * 300), ("a/c.AVI", b"ccc"), ("./d.webm", b""))
    found = find_videos([path])
    assert names(found) == ["s.tar/a/c.AVI", "s.tar/b.mp4", "s.tar/d.webm"]
    assert [content(video) for video in found.videos] == [b"ccc", b"bb" * 300, b""]
    assert {video.mtime_ns for video in found.videos} == {path.stat().st_mtime_ns}
    assert all(video.needs_staging and video.location == path for video in found.videos)


@pytest.mark.parametrize("archive_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_both_formats(tmp_path: Path, archive_format: int) -> None:
    long = f"{'folder/' * 30}{'x' * 120}é.mp4"
    with tarfile.open(tmp_path / "s.tar", "w", format=archive_format) as archive:
        archive.addfile(member(long))
    assert names(find_videos([tmp_path / "s.tar"])) == [f"s.tar/{long}"]


def test_what_is_no_video_is_ignored_with_a_reason(tmp_path: Path) -> None:
    link = member("link.mp4", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    hard = member("hard.mp4", type=tarfile.LNKTYPE, linkname="ok.mp4")
    fifo = member("fifo.mp4", type=tarfile.FIFOTYPE)
    device = member("device.mp4", type=tarfile.BLKTYPE)
    folder = member("folder.mp4", type=tarfile.DIRTYPE)
    named = ["/abs.mp4", "../up.mp4", "a/../../b.mp4", "t.txt", "p.jpg", "._ok.mp4", ".git/x.mp4", "n.tar"]
    headers = [link, hard, fifo, device, folder, *map(member, named), member("ok.mp4")]
    found = find_videos([pack(tmp_path / "s.tar", *((header, b"") for header in headers))])
    assert names(found) == ["s.tar/ok.mp4"]
    assert reasons(found) == {
        "link.mp4": "a link",
        "hard.mp4": "a link",
        "fifo.mp4": "not a regular file",
        "device.mp4": "not a regular file",
        "abs.mp4": "an absolute name",
        "up.mp4": "a name that leads out of the archive",
        "b.mp4": "a name that leads out of the archive",
        "t.txt": "not a video by its name",
        "p.jpg": "a picture",
        "._ok.mp4": "a hidden file",
        "x.mp4": "in a hidden folder",
        "n.tar": "an archive; name it, or a pattern such as 'shards/*.tar', to read its members",
    }


def test_a_sparse_member_is_ignored(tmp_path: Path) -> None:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,4"}
    sparse = member("s.mp4", pax_headers={**headers, "GNU.sparse.size": "4096", "GNU.sparse.name": "s.mp4"})
    found = find_videos([pack(tmp_path / "s.tar", (sparse, b"data"), ("ok.mp4", b"x"))])
    assert names(found) == ["s.tar/ok.mp4"]
    assert reasons(found) == {"s.mp4": "a sparse file; pack it without --sparse"}


def test_doubled_names_get_numbers(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", *(("a.mp4", bytes([i])) for i in range(3)), ("a.mp4~2", b""))
    touch(tmp_path / "v/s.tar/a.mp4", content=b"file")
    found = find_videos([tmp_path / "v", path])
    assert names(found) == ["s.tar/a.mp4", "s.tar/a.mp4~2", "s.tar/a.mp4~3", "s.tar/a.mp4~4"]
    assert [content(video) for video in found.videos[1:]] == [b"\0", b"\1", b"\2"]


def test_archives_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    shards = [pack(tmp_path / folder / "s.tar", ("a.mp4", b"")) for folder in "xy"]
    assert names(find_videos(shards)) == ["x/s.tar/a.mp4", "y/s.tar/a.mp4"]


def test_an_archive_is_opened_where_it_is_meant(tmp_path: Path) -> None:
    pack(tmp_path / "v/s.tar", ("a.mp4", b""))
    for inputs in ([tmp_path / "v/s.tar"], [f"{tmp_path}/v/*.tar"], [f"{tmp_path}/**/*.tar"]):
        assert names(find_videos(inputs)) == ["s.tar/a.mp4"]
    assert names(find_videos([], listed=[tmp_path / "v/s.tar"])) == ["s.tar/a.mp4"]
    found = find_videos([tmp_path / "v"])
    assert names(found) == []
    assert reasons(found) == {
        "s.tar": "an archive; name it, or a pattern such as 'shards/*.tar', to read its members"
    }


def test_an_output_is_no_input(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b""))
    assert names(find_videos([path], exclude=[path])) == []


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.TAR.XZ", "s.tar.zst", "s.tbz2"])
def test_a_compressed_archive_fails(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name)
    why = "a compressed archive; unpack it, or pack it again as a plain .tar"
    assert errors(find_videos([tmp_path / name])) == {name: why}


def test_the_names_of_archives() -> None:
    assert is_archive("S.TAR")
    assert not is_archive("tar")
    assert not is_compressed_archive("clip.gz")
    assert not is_compressed_archive("s.tar")
    assert not is_compressed_archive("tar.gz.mp4")


def test_a_compressed_archive_by_another_name_fails(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.addfile(member("a.mp4"))
    assert "a compressed archive" in errors(find_videos([tmp_path / "s.tar"]))["s.tar"]


@pytest.mark.parametrize(("data", "why"), [(b"", "an empty file"), (b"x" * 2000, "not a tar archive")])
def test_what_is_no_archive_fails(tmp_path: Path, data: bytes, why: str) -> None:
    touch(tmp_path / "s.tar", content=data)
    assert why in errors(find_videos([tmp_path / "s.tar"]))["s.tar"]


def test_an_archive_that_cannot_be_read_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b""))
    before = Path.open

    def damaged(file: Path, *args: Any, **options: Any) -> Any:
        if file == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return before(file, *args, **options)

    monkeypatch.setattr(Path, "open", damaged)
    assert errors(find_videos([path])) == {"s.tar": "cannot be read: Input/output error"}


def two_members(path: Path) -> Path:
    """Blocks: header, 2 of data, header, 2 of data, end."""
    return pack(path, ("a.mp4", b"a" * 700), ("b.mp4", b"b" * 700))


@pytest.mark.parametrize(
    ("n_bytes", "members", "why"),
    [
        (4 * BLOCK + 600, ["a.mp4"], "the archive ends in the middle of member 2 (b.mp4)"),
        (BLOCK + 699, [], "the archive ends in the middle of member 1 (a.mp4)"),
        (3 * BLOCK + 5, ["a.mp4"], "the archive is cut off after member 1 (a.mp4): the mark of its end"),
        (3 * BLOCK, ["a.mp4"], "the archive is cut off after member 1 (a.mp4): the mark of its end"),
        (BLOCK + 700, ["a.mp4"], "the archive is damaged or cut off after member 1 (a.mp4)"),
        (6 * BLOCK, ["a.mp4", "b.mp4"], "the archive is cut off after member 2 (b.mp4): the mark of its end"),
    ],
)  # fmt: skip
def test_a_cut_archive_gives_what_is_whole_and_fails_itself(
    tmp_path: Path, n_bytes: int, members: list[str], why: str
) -> None:
    path = two_members(tmp_path / "s.tar")
    os.truncate(path, n_bytes)
    found = find_videos([path])
    assert names(found) == ["s.tar", *(f"s.tar/{name}" for name in members)]
    assert why in errors(found)["s.tar"]
    assert all(len(content(video)) == 700 for video in found.videos[1:])


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = two_members(tmp_path / "s.tar")
    with path.open("r+b") as file:
        file.seek(3 * BLOCK)
        file.write(b"damage")
    found = find_videos([path])
    assert names(found) == ["s.tar", "s.tar/a.mp4"]
    assert errors(found) == {"s.tar": "the header after member 1 (a.mp4) is damaged"}


def test_archives_one_behind_the_other_are_not_lost_silently(tmp_path: Path) -> None:
    path = two_members(tmp_path / "s.tar")
    path.write_bytes(path.read_bytes() * 2)
    found = find_videos([path])
    assert len(found.videos) == 3
    assert "another archive begins after member 2 (b.mp4)" in errors(found)["s.tar"]


def test_an_archive_without_members_holds_no_video(tmp_path: Path) -> None:
    assert names(find_videos([pack(tmp_path / "s.tar")])) == []


def test_a_header_that_claims_much_is_not_read_into_memory(tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b""))
    header = member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1 << 33)
    path.write_bytes(path.read_bytes()[:BLOCK] + header.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 1 << 34)  # sparse: takes no room
    found = find_videos([path])
    assert names(found) == ["s.tar", "s.tar/a.mp4"]
    assert "damaged" in errors(found)["s.tar"]


def test_a_header_with_a_negative_size_ends_the_search(tmp_path: Path) -> None:
    header = member("n.mp4", size=-5 * BLOCK).tobuf(tarfile.GNU_FORMAT)
    path = pack(tmp_path / "s.tar", ("a.mp4", b"a"))
    path.write_bytes(path.read_bytes()[: 2 * BLOCK] + header + bytes(2 * BLOCK))
    found = find_videos([path])
    assert names(found)[:2] == ["s.tar", "s.tar/a.mp4"]
    assert "damaged" in errors(found)["s.tar"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 7 * BLOCK), st.integers(0, 255)), min_size=1, max_size=8))
def test_whatever_is_damaged_no_member_reaches_out_of_the_archive(
    tmp_path: Path, damage: list[tuple[int, int]]
) -> None:
    path = two_members(tmp_path / "s.tar")
    data = bytearray(path.read_bytes())
    for place, value in damage:
        data[place] = value
    path.write_bytes(data)
    for video in find_videos([path]).videos:
        if video.error is None:
            assert video.offset is not None
            assert 0 <= video.offset <= video.offset + video.size_bytes <= len(data)
            assert ".." not in video.name.split("/")
