"""Addresses, prefixes and patterns become videos; what a store or a server refuses costs one video alone."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from source_samples import names, reasons, touch
from staging_samples import contents
from tar_samples import BLOCK, pack
from web_server import Web, web_server

from c3d_extract import object_store
from c3d_extract.errors import RemoteError, UsageError
from c3d_extract.sources import remote
from c3d_extract.sources.find import Found, Source, find_videos, one_video
from c3d_extract.sources.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_SECONDS", 0.01)
    with web_server() as found:
        yield found


def refusing(status: str, code: str, path: str, method: str = "GET") -> Any:
    """Answer requests for one path with an error."""

    def fault(environ: dict[str, Any]) -> Any:
        if environ["PATH_INFO"] != path or environ["REQUEST_METHOD"] != method:
            return None
        body = f"<Error><Code>{code}</Code><Message>of the test</Message></Error>".encode()
        return status, [("Content-Length", str(len(body)))], body

    return fault


def staged(found: Found, scratch: Path) -> dict[str, bytes | str]:
    """What each video's file holds, or why there is none."""
    with Staging(found.videos, scratch) as stage:
        return {found.videos[task].name: value for task, value in contents(stage).items()}


def test_an_object_is_one_video(s3: S3, tmp_path: Path) -> None:
    address = s3.put("a/clip.mp4", b"content")
    found = find_videos([address])
    (video,) = found.videos
    assert (video.name, video.location, video.size_bytes) == ("clip.mp4", "s3://videos/a/clip.mp4", 7)
    assert video.etag is not None
    assert video.mtime_ns > 0
    assert staged(found, tmp_path) == {"clip.mp4": b"content"}


def test_a_named_object_is_taken_whatever_it_is_called(s3: S3) -> None:
    assert names(find_videos([s3.put("notes", b"x"), s3.put(".hidden.mp4", b"x")])) == [
        ".hidden.mp4",
        "notes",
    ]


def test_a_prefix_is_searched_and_names_are_relative_to_it(s3: S3) -> None:
    kept = ("p/a.mp4", "p/b/c.AVI", "p/b/d/e.webm")
    for key in (*kept, "p/b/", "p/t.txt", "p/.h.mp4", "p/.git/x.mp4", "p/s.tar", "p2/other.mp4"):
        s3.put(key, b"" if key.endswith("/") else b"x")
    for prefix in ("s3://videos/p", "s3://videos/p/"):
        found = find_videos([prefix])
        assert names(found) == ["a.mp4", "b/c.AVI", "b/d/e.webm"]
        assert [video.location for video in found.videos] == [f"s3://videos/{key}" for key in kept]
        assert reasons(found) == {
            "t.txt": "not a video by its name",
            ".h.mp4": "a hidden file",
            "x.mp4": "in a hidden folder",
            "s.tar": "an archive; name it, or a pattern such as 'shards/*.tar', to read its members",
        }
    assert "p2/other.mp4" in names(find_videos(["s3://videos"]))


def test_equal_names_get_the_folder_above(s3: S3, tmp_path: Path) -> None:
    inputs = [s3.put("x/v/a.mp4", b""), s3.put("y/v/a.mp4", b""), s3.put("x/b.mp4", b"")]
    assert names(find_videos(inputs)) == ["b.mp4", "x/v/a.mp4", "y/v/a.mp4"]
    touch(tmp_path / "b.mp4")
    assert names(find_videos([tmp_path, "s3://videos/x/b.mp4"])) == [f"{tmp_path.name}/b.mp4", "x/b.mp4"]


TREE = (
    "top.mp4",
    "a/1.mp4",
    "a/2.avi",
    "b/3.mp4",
    "b/c/4.mp4",
    "b/c/[5].mp4",
    "b/.h/6.mp4",
    "b/.7.mp4",
    "ab/d/8.mp4",
)


@pytest.mark.parametrize(
    "pattern",
    [
        "*.mp4", "*/*.mp4", "**/*.mp4", "a*", "b*", "?/*", "[ab]/*.mp4", "[!a]/*.mp4", "b/**", "**/c", "**",
        "b/c/[[]5].mp4", "b/c/[5].mp4", "b/.*", "b/**/4.*", "*/c/*.mp4", "a/**/*.mp4", "**/[0-9].mp4",
    ],
)  # fmt: skip
def test_a_pattern_matches_as_one_of_paths_does(s3: S3, tmp_path: Path, pattern: str) -> None:
    for key in TREE:
        touch(tmp_path / "v" / key)
        s3.put(f"v/{key}", b"x")
    local = {
        (video.name, str(video.location)[len(str(tmp_path)) :])
        for video in find_videos([f"{tmp_path}/v/{pattern}"]).videos
    }
    stored = {
        (video.name, str(video.location)[len("s3://videos") :])
        for video in find_videos([f"s3://videos/v/{pattern}"]).videos
    }
    assert stored == local
    assert stored


def test_a_pattern_lists_no_more_than_what_begins_like_it(s3: S3) -> None:
    s3.put("v/shard-1.mp4", b"")
    for number in range(5):
        s3.put(f"v/other-{number}.mp4", b"")
    seen = []

    def fault(environ: dict[str, Any]) -> None:
        seen.append(environ["QUERY_STRING"])

    s3.server.fault = fault
    assert names(find_videos(["s3://videos/v/shard-*"])) == ["shard-1.mp4"]
    assert [query for query in seen if "list-type=2" in query and "prefix=v%2Fshard-&" in f"{query}&"]
    assert not [query for query in seen if "prefix=v%2F&" in f"{query}&"]


def test_2500_keys_below_a_prefix_take_3_requests(s3: S3) -> None:
    s3.put_many(f"many/{number:05d}.mp4" for number in range(2500))
    s3.server.requests.clear()
    assert len(find_videos(["s3://videos/many"]).videos) == 2500
    assert sum(s3.server.requests.values()) == 3


@pytest.mark.parametrize(
    "key",
    ["a b+c.mp4",
     "100%.mp4", "%41.mp4", "a#b?c=d.mp4", "é\u4e2d.mp4", "[1]*.mp4", "~'\".mp4"],
)  # fmt: skip
def test_keys_are_taken_as_they_are(s3: S3, tmp_path: Path, key: str) -> None:
    s3.put(f"odd/{key}", key.encode())
    for given in ("s3://videos/odd", f"s3://videos/odd/{key}"):
        found = find_videos([given])
        assert names(found) == [key]
        assert staged(found, tmp_path) == {key: key.encode()}


def test_a_key_that_cannot_be_asked_for_fails_alone(s3: S3, tmp_path: Path) -> None:
    s3.put("odd/a::b.mp4", b"x")
    s3.put("odd/c.mp4", b"y")
    found = staged(find_videos(["s3://videos/odd"]), tmp_path)
    assert found == {"a::b.mp4": "a name with '::', which no request can hold", "c.mp4": b"y"}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("s3://videos/none.mp4", "no such object, and none below it"),
        ("s3://videos/none/", "no such object, and none below it"),
        ("s3://videos/*.mkv", "no object matches this pattern"),
        ("s3://vid*/a.mp4", "the name of a bucket cannot be a pattern"),
        ("s3://key:secret@videos/a.mp4", "must not hold credentials"),
        ("ftp://h/a.mp4", "addresses begin with one of"),
    ],
)
def test_an_address_that_means_nothing_is_refused(s3: S3, address: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        find_videos([address])
    assert "secret" not in str(caught.value)


def test_a_store_that_refuses_to_list_ends_the_search(s3: S3) -> None:
    with pytest.raises(RemoteError):
        find_videos(["s3://nobody/x"])
    s3.server.fault = refusing("403 Forbidden", "AccessDenied", "/videos")
    with pytest.raises(RemoteError, match="access is refused"):
        find_videos(["s3://videos/x"])


def test_listed_addresses_fail_one_by_one(s3: S3, tmp_path: Path) -> None:
    there, shut = s3.put("l/there.mp4", b"x"), s3.put("l/shut.mp4", b"x")
    s3.put("l/below/a.mp4", b"y")
    touch(tmp_path / "local.mp4")
    s3.put("l/texts/t.txt", b"z")
    prefixes = ["s3://videos/l/below/", "s3://videos/l/none/", "s3://videos/l/texts/", "s3://nobody/p/"]
    listed = [there, "s3://videos/l/gone.mp4", shut, *prefixes, str(tmp_path / "local.mp4")]
    s3.server.fault = refusing("403 Forbidden", "AccessDenied", "/videos/l/shut.mp4", "HEAD")
    found = find_videos([], listed=listed)
    assert {video.name: video.size_bytes for video in found.videos} == {
        "a.mp4": 1,
        "gone.mp4": 0,
        "local.mp4": 1,
        "none": 0,
        "p": 0,
        "shut.mp4": 0,
        "there.mp4": 1,
    }
    s3.server.fault = refusing("403 Forbidden", "AccessDenied", "/videos/l/shut.mp4")
    values = staged(Found([video for video in found.videos if video.address]), tmp_path / "scratch")
    assert str(values.pop("shut.mp4")).startswith("access is refused")
    assert values == {
        "a.mp4": b"y",
        "gone.mp4": "is not there",
        "none": "is not there",
        "p": "is not there",
        "there.mp4": b"x",
    }


def test_many_listed_addresses_are_asked_for_at_the_same_time(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PER_ROUND", 10)
    listed = [s3.put(f"m/{number}.mp4", b"") for number in range(25)]
    assert len(find_videos([], listed=[*listed, *listed]).videos) == 25


def short_body(environ: dict[str, Any]) -> Any:
    is_asked = (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("GET", "/videos/f/b.mp4")
    return ("200 OK", [("Content-Length", "2")], b"xx") if is_asked else None


FAULTS: dict[str, tuple[Any, str]] = {
    "404": (refusing("404 Not Found", "NoSuchKey", "/videos/f/b.mp4"), "is not there"),
    "403": (refusing("403 Forbidden", "AccessDenied", "/videos/f/b.mp4"), "access is refused"),
    "503": (refusing("503 Slow Down", "ServiceUnavailable", "/videos/f/b.mp4"), "cannot be read"),
    "expired": (refusing("400 Bad Request", "ExpiredToken", "/videos/f/b.mp4"), ""),
    "short": (short_body, "the transfer ended early: 2 bytes instead of 4"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_video_that_cannot_be_fetched_fails_with_the_reason(s3: S3, tmp_path: Path, fault: str) -> None:
    for name in "abc":
        s3.put(f"f/{name}.mp4", name.encode() * 4)
    found = find_videos(["s3://videos/f"])
    s3.server.fault, why = FAULTS[fault]
    values = staged(found, tmp_path)
    failed = values.pop("b.mp4")
    assert isinstance(failed, str)
    assert failed.startswith(why)
    assert values == {"a.mp4": b"aaaa", "c.mp4": b"cccc"}
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_busy_for_a_while_costs_nothing(s3: S3, tmp_path: Path) -> None:
    s3.put("f/b.mp4", b"bbbb")
    found, refused, left = find_videos(["s3://videos/f"]), FAULTS["503"][0], [2]

    def fault(environ: dict[str, Any]) -> Any:
        answer = refused(environ) if left[0] else None
        left[0] -= answer is not None
        return answer

    s3.server.fault = fault
    assert staged(found, tmp_path) == {"b.mp4": b"bbbb"}
    assert left == [0]


def test_an_object_that_was_changed_since_it_was_listed_fails(s3: S3, tmp_path: Path) -> None:
    s3.put("f/a.mp4", b"before")
    found = find_videos(["s3://videos/f"])
    s3.put("f/a.mp4", b"behind")
    assert staged(found, tmp_path) == {"a.mp4": "was changed while the run read it"}


def test_members_of_an_archive_are_fetched_by_their_place(s3: S3, tmp_path: Path) -> None:
    members = {f"{number}.mp4": bytes([number]) * 700 for number in range(9)}
    path = pack(tmp_path / "s.tar", *members.items(), ("t.txt", b"x"))
    s3.put("t/s.tar", path.read_bytes())
    s3.put("t/other.txt", b"")
    for found in (find_videos(["s3://videos/t/*.tar"]), find_videos([], listed=["s3://videos/t/s.tar"])):
        assert reasons(found) == {"t.txt": "not a video by its name"}
        assert {video.location for video in found.videos} == {"s3://videos/t/s.tar"}
        assert staged(found, tmp_path / "scratch") == {
            f"s.tar/{name}": data for name, data in members.items()
        }


def test_the_headers_of_a_small_archive_take_few_requests(s3: S3, tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", *((f"{number}.mp4", bytes(700)) for number in range(50)))
    address = s3.put("s.tar", path.read_bytes())
    s3.server.requests.clear()
    assert len(find_videos([address]).videos) == 50
    assert s3.server.requests["GET", "/videos/s.tar"] <= 2


def test_a_cut_archive_gives_what_is_whole_and_fails_itself(s3: S3, tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b"a" * 700), ("b.mp4", b"b" * 700))
    address = s3.put("s.tar", path.read_bytes()[: 4 * BLOCK + 600])
    values = staged(find_videos([address]), tmp_path / "scratch")
    assert values == {
        "s.tar": "the archive ends in the middle of member 2 (b.mp4)",
        "s.tar/a.mp4": b"a" * 700,
    }


def test_an_archive_that_was_packed_again_gives_nothing_else(s3: S3, tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b"a" * 700), ("b.mp4", b"b" * 700))
    found = find_videos([s3.put("s.tar", path.read_bytes())])
    s3.put("s.tar", pack(path, ("b.mp4", b"b" * 700), ("a.mp4", b"a" * 700)).read_bytes())
    assert set(staged(found, tmp_path / "scratch").values()) == {"was changed while the run read it"}


def test_archives_that_cannot_be_read_fail_one_by_one(s3: S3, tmp_path: Path) -> None:
    good = s3.put("s/good.tar", pack(tmp_path / "s.tar", ("a.mp4", b"a")).read_bytes())
    shut, packed = s3.put("s/shut.tar", bytes(2000)), s3.put("s/packed.tar.gz", b"x")
    s3.server.fault = refusing("403 Forbidden", "AccessDenied", "/videos/s/shut.tar")
    found = find_videos([], listed=[good, shut, packed, "s3://videos/s/gone.tar"])
    errors = {video.name: video.error for video in found.videos if video.error}
    assert set(errors) == {"shut.tar", "packed.tar.gz", "gone.tar"}
    assert "a compressed archive" in str(errors["packed.tar.gz"])
    assert names(find_videos([good])) == ["good.tar/a.mp4"]


def test_a_file_of_a_web_server_is_one_video(web: Web, tmp_path: Path) -> None:
    address = web.put("/v/a%20b.mp4?key=1", b"content")
    found = find_videos([address])
    assert names(found) == ["a b.mp4"]
    assert found.videos[0].location == address
    assert staged(found, tmp_path) == {"a b.mp4": b"content"}


def test_a_server_that_does_not_say_how_large_a_file_is_is_believed(web: Web, tmp_path: Path) -> None:
    web.says_size = False
    found = find_videos([web.put("/a.mp4", b"content")])
    assert [video.size_bytes for video in found.videos] == [0]
    assert staged(found, tmp_path) == {"a.mp4": b"content"}


def test_an_archive_of_a_web_server_is_read_by_parts(web: Web, tmp_path: Path) -> None:
    path = pack(tmp_path / "s.tar", ("a.mp4", b"a" * 700), ("b.mp4", b"b" * 900_000), ("c.mp4", b"c"))
    found = find_videos([web.put("/s.tar?x=y.mp4", path.read_bytes())])
    assert names(found) == ["s.tar/a.mp4", "s.tar/b.mp4", "s.tar/c.mp4"]
    values = staged(found, tmp_path / "scratch")
    assert values == {"s.tar/a.mp4": b"a" * 700, "s.tar/b.mp4": b"b" * 900_000, "s.tar/c.mp4": b"c"}


def test_what_a_web_server_does_not_have(web: Web, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.mp4: is not there"):
        find_videos([f"{web.address}/gone.mp4"])
    page = web.put("/page/", b"<a href='here.mp4'>")
    found = find_videos([], listed=[f"{web.address}/gone.mp4", web.put("/here.mp4", b"x"), page])
    values = staged(found, tmp_path)
    assert values == {"gone.mp4": "is not there", "here.mp4": b"x", "page": b"<a href='here.mp4'>"}
    web.status = 403
    assert str(staged(Found(found.videos[:1]), tmp_path)["gone.mp4"]).startswith("access is refused")


def test_web_addresses_that_differ_in_their_query_alone_get_numbers(web: Web) -> None:
    addresses = [web.put(f"/a.mp4?v={version}", b"x") for version in "123"]
    found = find_videos(addresses)
    host = web.address.removeprefix("http://")
    assert names(found) == [f"{host}/a.mp4", f"{host}/a.mp4~2", f"{host}/a.mp4~3"]
    assert [video.location for video in found.videos] == addresses


def test_local_files_and_archives_need_no_fsspec(tmp_path: Path) -> None:
    pack(tmp_path / "s.tar", ("a.mp4", b"x"))
    touch(tmp_path / "b.mp4")
    code = (
        "import sys; from pathlib import Path; from c3d_extract.sources.find import find_videos;"
        "from c3d_extract.sources.staging import Staging;"
        f"found = find_videos([{str(tmp_path)!r}, {str(tmp_path / 's.tar')!r}], listed=['none']).videos;"
        f"staged = list(filter(None, Staging(found, Path({str(tmp_path)!r}))));"
        "assert len(staged) == 3;"
        "print(sorted({'fsspec', 's3fs', 'aiohttp', 'botocore'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_one_video_by_its_address(s3: S3) -> None:
    address = s3.put("one/a.mp4", b"x")
    assert one_video(address).location == address
    assert one_video("s3://videos/one/").location == address
    assert one_video("s3://videos/one/gone.mp4") == Source(
        "gone.mp4", one_video("s3://videos/one/gone.mp4").path, 0, 0, "s3://videos/one/gone.mp4"
    )
    s3.put("one/b.mp4", b"x")
    with pytest.raises(UsageError, match="holds 2 videos, not one"):
        one_video("s3://videos/one/")
