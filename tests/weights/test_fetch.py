"""Fetching from a server with real faults: never a wrong or unfinished file under the final name."""

from __future__ import annotations

import hashlib
import http.server
import random
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.weights import fetch
from c3d_extract.weights.fetch import cache_folder, check_file, fetch_file, git_blob_sha1
from c3d_extract.weights.registry import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = random.Random(0).randbytes(3_000_000)
WRONG = bytes(CONTENT[:-1]) + bytes([CONTENT[-1] ^ 1])


@dataclass
class Server:
    """What a test told the server to do, and what it was asked."""

    address: str
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range header
    release: threading.Event = field(default_factory=threading.Event)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:  # noqa: PLR0912  # one branch a fault
        state: Server = self.server.state
        asked = self.headers.get("Range")
        state.requests.append((self.path, asked))
        fault = self.path.rsplit("/", 1)[-1]
        start = int(asked.split("=")[1].rstrip("-")) if asked and fault != "no-range" else 0
        match fault:
            case "missing":
                self.send_error(404)
            case "redirect":
                self.send_response(302)
                self.send_header("Location", f"{state.address}/good")
                self.end_headers()
            case "loop":
                self.send_response(302)
                self.send_header("Location", f"{state.address}/loop")
                self.end_headers()
            case "to-ftp" | "to-file" | "to-http":
                self.send_response(302)
                scheme = fault.removeprefix("to-")
                self.send_header("Location", f"{scheme}://{state.address.partition('://')[2]}/good")
                self.end_headers()
            case "trickle":
                self.send_response(200)
                self.end_headers()
                self._trickle(b"x")
            case "headers-trickle":
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Long: ")
                self._trickle(b"x")
            case "page":
                self._send(b"<html>confirm</html>", 0, kind="text/html")
            case "wrong":
                self._send(WRONG, start)
            case "long":
                self._send(CONTENT + b"more", start)
            case "endless":
                self._send(CONTENT * 2, start, announce=False)
            case "truncated" | "truncated-half":
                end = len(CONTENT) // 2 if fault == "truncated" else start + (len(CONTENT) - start) // 2
                self._send(CONTENT, start, end=max(start, end))
            case "stalled":
                self._send(CONTENT, start, end=start + 1000)
                state.release.wait(20)
            case "garbage":
                self.wfile.write(b"this is not HTTP\r\n\r\n")
            case "not-satisfiable":
                if asked:
                    self.send_error(416)
                else:
                    self._send(CONTENT, 0)
            case _:
                self._send(CONTENT, start)

    def _trickle(self, byte: bytes) -> None:
        """Send a byte now and then, so that no read ever times out."""
        with suppress(OSError):
            while not self.server.state.release.wait(0.02):
                self.wfile.write(byte)
                self.wfile.flush()

    def _send(
        self,
        content: bytes,
        start: int,
        *,
        end: int | None = None,
        kind: str = "application/octet-stream",
        announce: bool = True,
    ) -> None:
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if announce:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        try:
            self.wfile.write(content[start:end])
            self.wfile.flush()
        except OSError:
            pass  # the client hung up, as it should


@pytest.fixture
def server() -> Iterator[Server]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    httpd.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield state
    state.release.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "C3D_OFFLINE",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def remote(server: Server, *faults: str, **known: Any) -> RemoteFile:
    facts: dict[str, Any] = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), **known}
    return RemoteFile("file.bin", mirrors=tuple(f"{server.address}/{fault}" for fault in faults), **facts)


@pytest.fixture
def secure(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The same over TLS, with a certificate that this test trusts; it redirects to ``server``."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    how = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files: list[str | Path] = ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *how.split(), *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    httpd.state = Server(server.address)  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield Server(f"https://127.0.0.1:{httpd.server_address[1]}")
    httpd.shutdown()
    httpd.server_close()


def test_what_begins_over_https_stays_there(secure: Server, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert fetch_file(remote(secure, "good"), folder).read_bytes() == CONTENT
    (folder / "file.bin").unlink()
    for fault in ("redirect", "to-http", "to-ftp"):
        with pytest.raises(FetchError, match=r"redirects? .*to (http|ftp)"):
            fetch_file(remote(secure, fault), folder)
    assert server.requests == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fault", ["to-ftp", "to-file"])
def test_a_redirect_leads_to_http_or_https_alone(fault: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"redirect"):
        fetch_file(remote(server, fault), tmp_path)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_mirror_is_asked_over_http_or_https_alone(address: str, server: Server, tmp_path: Path) -> None:
    elsewhere = replace(remote(server), mirrors=(address,), size=None, sha256=None)
    with pytest.raises(FetchError, match="unknown url type"):
        fetch_file(elsewhere, tmp_path)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("trickle", "sends too slowly"), ("headers-trickle", r"did not answer within 0\.3 s")],
)
def test_a_server_that_only_trickles_is_given_up(
    fault: str, said: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FIRST_BYTE_SECONDS", 0.3)
    with pytest.raises(FetchError, match=said):
        fetch_file(remote(server, fault), tmp_path)
    (tmp_path / "file.bin.part").unlink(missing_ok=True)
    assert fetch_file(remote(server, fault, "good"), tmp_path).read_bytes() == CONTENT


def test_a_slow_line_is_waited_for_as_long_as_its_file_is_large() -> None:
    fetch._check_rate(0, 59)
    fetch._check_rate(320_000_000, 10_000)
    with pytest.raises(WeightsError, match="too slowly: 320,000,000 bytes in 10100 s"):
        fetch._check_rate(320_000_000, 10_100)


def test_a_file_of_which_only_its_shape_can_be_checked_is_named() -> None:
    known = RemoteFile("x.pth", size=5, md5="00")
    assert fetch.unverified_note(known, "ab") is None
    said = fetch.unverified_note(replace(known, md5=None), "ab")
    assert said is not None
    assert "only its size of 5 bytes and its being a whole C3D network could be checked" in said
    assert "sha256 is ab" in said


def dead_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("fault", ["good", "redirect", "no-range"])
def test_a_file_arrives_whole_and_leaves_no_part(fault: str, server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch_file(remote(server, fault), tmp_path / "a/b", progress=lambda *state: seen.append(state))
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["file.bin"]
    assert seen[-1] == ("file.bin", len(CONTENT), len(CONTENT))
    assert [n for _, n, _ in seen] == sorted(n for _, n, _ in seen)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "404"),
        ("wrong", "gave another file: sha256"),
        ("long", "offers 3,000,004 bytes instead of 3,000,000"),
        ("endless", "sends more bytes than the file has"),
        ("truncated", "ended after 1,500,000 of 3,000,000 bytes"),
        ("stalled", "silent for 0.1 s"),
        ("page", "web page"),
        ("loop", "redirect"),
        ("garbage", "127.0.0.1"),
    ],
)
def test_no_fault_leaves_anything_under_the_final_name(
    fault: str, said: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match=said) as caught:
        fetch_file(remote(server, fault), tmp_path, timeout_seconds=0.1)
    assert not (tmp_path / "file.bin").exists()
    text = str(caught.value)
    assert "\n" not in text
    assert f"{server.address}/{fault}" in text  # the manual way: where from,
    assert str(tmp_path) in text  # and where to


@pytest.mark.parametrize(
    "fault", ["missing", "wrong", "long", "endless", "truncated", "stalled", "page", "garbage"]
)
def test_the_next_mirror_makes_up_for_a_bad_one(fault: str, server: Server, tmp_path: Path) -> None:
    path = fetch_file(remote(server, fault, "good"), tmp_path, timeout_seconds=0.1)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_a_dead_first_mirror_costs_nothing_but_a_try(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = remote(server, "good")
    file = replace(file, mirrors=(f"{dead_address()}/file", *file.mirrors))
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    (line,) = caplog.messages
    assert line.startswith("file.bin: not fetched from ")


def test_an_interrupted_download_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError):
        fetch_file(remote(server, "truncated"), tmp_path)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:1_500_000]
    server.requests.clear()
    assert fetch_file(remote(server, "good"), tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/good", "bytes=1500000-")]
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_one_mirror_that_breaks_off_again_and_again_is_asked_again_while_it_brings_more(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(FetchError):
        fetch_file(remote(server, "truncated-half"), tmp_path)
    assert len(server.requests) == 3
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:2_625_000]


@pytest.mark.parametrize("fault", ["no-range", "not-satisfiable"])
def test_a_server_that_cannot_resume_starts_again(fault: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    assert fetch_file(remote(server, fault), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5), CONTENT])
def test_what_was_kept_from_before_does_not_spoil_the_file(
    kept: bytes, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file.bin.part").write_bytes(kept)
    assert fetch_file(remote(server, "good"), tmp_path).read_bytes() == CONTENT


def test_a_file_that_is_here_and_right_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch_file(remote(server, "good"), tmp_path, offline=True)
    assert server.requests == []


def test_a_file_that_is_here_and_wrong_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(WRONG)
    assert fetch_file(remote(server, "good"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "known",
    [
        {"sha256": hashlib.sha256(CONTENT).hexdigest()[:8]},
        {"sha256": None, "md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()},
        {"sha256": None, "git_blob_sha1": git_blob_sha1(CONTENT), "size": None},
    ],
)
def test_each_kind_of_hash_finds_a_changed_byte(
    known: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match="gave another file"):
        fetch_file(remote(server, "wrong", **known), tmp_path)
    assert fetch_file(remote(server, "good", **known), tmp_path).read_bytes() == CONTENT


def test_a_file_of_unknown_hash_must_pass_the_callers_check(server: Server, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        assert path.name == "file.bin.part"
        raise WeightsError("not a network")

    unknown = remote(server, "good", sha256=None, size=None)
    with pytest.raises(FetchError, match="not a network"):
        fetch_file(unknown, tmp_path, check=refuse)
    assert list(tmp_path.iterdir()) == []
    assert fetch_file(unknown, tmp_path, check=lambda _: None).read_bytes() == CONTENT


@pytest.mark.parametrize("variable", ["C3D_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_respected(
    variable: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "0")
    assert not fetch.is_offline()
    monkeypatch.setenv(variable, "1")
    with pytest.raises(FetchError, match="offline"):
        fetch_file(remote(server, "good"), tmp_path)
    monkeypatch.delenv(variable)
    with pytest.raises(FetchError, match="offline"):
        fetch_file(remote(server, "good"), tmp_path, offline=True)
    assert server.requests == []


def test_a_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.address)
    elsewhere = replace(remote(server), mirrors=("http://weights.invalid/good",))
    assert fetch_file(elsewhere, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("http://weights.invalid/good", None)]


def test_two_at_once_get_one_whole_file(server: Server, tmp_path: Path) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(fetch_file(remote(server, "good"), tmp_path).read_bytes())
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [CONTENT] * 4
    assert len(server.requests) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch_file(remote(server, "good"), tmp_path / "file" / "cache")


def test_a_file_without_an_address_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no address") as caught:
        fetch_file(RemoteFile("x.pth"), tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_cache_is_torchs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch home"))
    assert cache_folder() == tmp_path / "torch home/hub/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache/torch/hub/checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/torch/hub/checkpoints"


def test_a_changed_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    with pytest.raises(WeightsError, match="3 bytes instead of 4; delete it"):
        check_file(tmp_path / "x", RemoteFile("x", size=4))
