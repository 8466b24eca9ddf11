"""Objects are listed by pages, fetched by one request, checked, and written in one step."""

from __future__ import annotations

import errno
import http.server
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from c3d_extract import object_store
from c3d_extract.errors import RemoteError, UsageError
from c3d_extract.object_store import (
    StoredObject,
    create_object,
    fetch_object,
    is_address,
    list_objects,
    open_object,
    read_object,
    stat_object,
    upload_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from s3_server import S3


def failing(times: int, status: str, code: str) -> Any:
    """Answer the first requests for an object with an error."""
    left = [times]

    def fault(environ: dict[str, Any]) -> Any:
        if not left[0] or environ["REQUEST_METHOD"] == "HEAD":
            return None
        left[0] -= 1
        body = f"<Error><Code>{code}</Code><Message>{code} of the test</Message></Error>".encode()
        return status, [("Content-Length", str(len(body)))], body

    return fault


def stat(address: str) -> StoredObject:
    found = stat_object(address)
    assert found is not None
    return found


@pytest.mark.parametrize("text", ["s3://b/k", "gs://b", "https://h/p?q"])
def test_an_address_has_a_scheme(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize("text", ["videos/", "C:/videos", "a:b.mp4", "http:x.mp4", "/s3://b", "://x"])
def test_a_path_is_no_address(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize("address", ["ftp://h/x", "file:///etc/passwd", "s3://b/x::file:///etc/passwd"])
def test_other_kinds_of_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="addresses begin with"):
        stat_object(address)


def test_credentials_in_an_address_are_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        stat_object("https://me:secret@127.0.0.1/x.mp4")
    assert "secret" not in str(caught.value)


def test_an_object_has_a_size_a_time_and_an_etag(s3: S3) -> None:
    address = s3.put("a/one.mp4", b"one")
    found = stat(address)
    assert (found.address, found.size_bytes) == (address, 3)
    assert found.mtime_ns > 1e18
    assert found == next(iter(list_objects("s3://videos/a")))


def test_what_is_not_there_is_none(s3: S3) -> None:
    assert stat_object("s3://videos/none") is None
    assert read_object("s3://videos/none") is None
    assert list(list_objects("s3://videos/none")) == []


def test_a_missing_bucket_is_one_line(s3: S3) -> None:
    with pytest.raises(RemoteError, match="s3://none/a: is not there"):
        list(list_objects("s3://none/a"))


def test_2500_keys_are_listed_by_three_requests(s3: S3) -> None:
    s3.put_many(f"many/{number:05d}.mp4" for number in range(2500))
    s3.put_many(["many-others/1.mp4"])
    s3.server.requests.clear()
    found = list(list_objects("s3://videos/many"))
    assert [each.address for each in found] == [f"s3://videos/many/{n:05d}.mp4" for n in range(2500)]
    assert sum(s3.server.requests.values()) == 3


def test_an_object_is_fetched_by_one_get(s3: S3, tmp_path: Path) -> None:
    content = bytes(range(256)) * 400_000  # larger than what s3fs would fetch in pieces
    found = stat(s3.put("large.mp4", content))
    s3.server.requests.clear()
    fetch_object(found, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == content
    assert s3.server.requests["GET", "/videos/large.mp4"] == 1


def test_a_range_of_an_object_is_fetched(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = stat(s3.put("r", bytes(range(200))))
    monkeypatch.setattr(object_store, "_CHUNK", 30)
    fetch_object(found, tmp_path / "x", start=50, n_bytes=100)
    assert (tmp_path / "x").read_bytes() == bytes(range(50, 150))


def test_an_object_that_was_changed_is_refused(s3: S3, tmp_path: Path) -> None:
    found = stat(s3.put("c", b"before"))
    s3.put("c", b"behind")
    with pytest.raises(RemoteError, match="was changed while the run read it"):
        fetch_object(found, tmp_path / "x")


def test_an_object_that_was_deleted_is_not_there(s3: S3, tmp_path: Path) -> None:
    found = stat(s3.put("d", b"x"))
    s3.server.client().delete_object(Bucket="videos", Key="d")
    with pytest.raises(RemoteError, match="s3://videos/d: is not there"):
        fetch_object(found, tmp_path / "x")
    assert s3.server.requests["GET", "/videos/d"] == 1, "it is not asked for again"


def test_a_busy_server_is_asked_again_and_that_is_logged(
    s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = stat(s3.put("busy", b"content"))
    s3.server.fault = failing(2, "503 Slow Down", "ServiceUnavailable")
    fetch_object(found, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"
    logged = [record.getMessage() for record in caplog.records if record.name == "c3d_extract.object_store"]
    assert len(logged) == 2
    for line in logged:
        assert re.fullmatch(r"s3://videos/busy: .*; tried again in \d+\.\d s", line), line


def test_a_server_that_stays_busy_is_given_up(s3: S3, tmp_path: Path) -> None:
    found = stat(s3.put("busy", b"content"))
    s3.server.fault = failing(1000, "503 Slow Down", "ServiceUnavailable")
    with pytest.raises(RemoteError, match="ServiceUnavailable of the test"):
        fetch_object(found, tmp_path / "x")


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken"])
def test_refused_credentials_are_named_and_not_tried_again(s3: S3, tmp_path: Path, code: str) -> None:
    found = stat(s3.put("secret", b"content"))
    s3.server.fault = failing(1000, "403 Forbidden", code)
    with pytest.raises(RemoteError, match=rf"access is refused \({code} of the test\).*credentials"):
        fetch_object(found, tmp_path / "x")
    assert s3.server.requests["GET", "/videos/secret"] == 1


def test_a_full_disk_is_no_fault_of_the_server(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stat(s3.put("f", b"content"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fs, _ = object_store._filesystem(found.address)
    monkeypatch.setattr(fs, "get_file", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        fetch_object(found, tmp_path / "x")


def test_an_object_is_created_once(s3: S3) -> None:
    assert create_object("s3://videos/run.json", b"first")
    assert not create_object("s3://videos/run.json", b"second")
    assert s3.get("run.json") == b"first"
    assert read_object("s3://videos/run.json") == b"first"


def test_a_file_is_written(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    upload_file(tmp_path / "x", "s3://videos/out/x")
    assert s3.get("out/x") == b"content"


def test_an_open_object_reads_no_more_than_it_is_asked_for(s3: S3) -> None:
    found = stat(s3.put("tar", bytes(1000) + b"header" + bytes(10_000_000)))
    with open_object(found, 512) as file:
        file.seek(1000)
        assert file.read(6) == b"header"
    assert s3.server.requests["GET", "/videos/tar"] == 1


class _Web(http.server.BaseHTTPRequestHandler):
    answers: tuple[int, bytes, int] = (200, b"", 0)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        status, body, n_sent = self.answers
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(body[:n_sent])
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_SECONDS", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/a%20b.mp4?key=1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_of_a_web_server_is_fetched(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Web, "answers", (200, b"content", 7))
    found = stat(web)
    assert found == StoredObject(web, 7, 1_445_412_480_000_000_000, '"e"')
    fetch_object(found, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"


def test_a_short_body_is_an_error(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Web, "answers", (200, b"content", 4))
    with pytest.raises(RemoteError):
        fetch_object(StoredObject(web, 7, 0, None), tmp_path / "x")
    monkeypatch.setattr(_Web, "answers", (200, b"cont", 4))
    with pytest.raises(RemoteError, match="ended early: 4 bytes instead of 7"):
        fetch_object(StoredObject(web, 7, 0, None), tmp_path / "x")


def test_a_web_server_that_refuses_is_believed(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Web, "answers", (404, b"", 0))
    assert stat_object(web) is None
    monkeypatch.setattr(_Web, "answers", (403, b"", 0))
    with pytest.raises(RemoteError, match="access is refused"):
        stat_object(web)
    with pytest.raises(RemoteError, match="access is refused"):
        fetch_object(StoredObject(web, 7, 0, None), tmp_path / "x")
    monkeypatch.setattr(_Web, "answers", (500, b"", 0))
    with pytest.raises(RemoteError, match="cannot be read"):
        stat_object(web)


def test_local_files_need_no_fsspec() -> None:
    code = (
        "import sys, c3d_extract.cli.extract, c3d_extract.object_store;"
        "print(sorted({'fsspec', 's3fs', 'ray', 'pyarrow', 'aiohttp'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match="pip install fsspec s3fs"):
        stat_object("s3://videos/x")
