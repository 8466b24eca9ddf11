"""Downloads: mirrors in order, resumed after an interruption, verified before the final rename."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.weights.registry import data_folder, entries_with_tensors_of

try:
    import fcntl
except ImportError:  # Windows: of two processes that fetch the same file, one fails its check
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.weights.registry import RegistryEntry, RemoteFile

__all__ = [
    "FetchProgress",
    "cache_folder",
    "check_file",
    "fetch_file",
    "git_blob_sha1",
    "is_offline",
    "local_copy",
    "local_path",
    "sha256_of",
    "unverified_note",
]

T = TypeVar("T")

FetchProgress = Callable[[str, int, int | None], None]
"""Called while fetching with the file's name, the bytes on disk, and the total where known."""

_log = logging.getLogger(__name__)
_CHUNK = 1 << 20
_MAX_BYTES = 4 << 30  # for a file whose size is not known
_FIRST_BYTE_SECONDS = 60.0  # seconds until the first byte, and until the rate below is enforced
_MIN_BYTES_PER_SECOND = 32_000  # on average: 320 MB take less than 3 hours, or another mirror is tried
_TRIES_PER_MIRROR = 3  # as long as each receives data
_OFFLINE_VARIABLES = ("C3D_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def cache_folder() -> Path:
    """Return torch's cache folder.

    It is hub/checkpoints in ``$TORCH_HOME``, ``$XDG_CACHE_HOME/torch`` or ``~/.cache/torch``.
    """
    home = os.environ.get("TORCH_HOME")
    cache = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return cache.expanduser() / "hub" / "checkpoints"


def local_path(entry: RegistryEntry) -> Path | None:
    """Return the path of an entry's file if it exists locally; its hash is checked when it is loaded."""
    folder = data_folder() if entry.embedded else cache_folder()
    path = folder / entry.file.name
    is_right_size = path.is_file() and entry.file.size in {None, path.stat().st_size}
    return path if is_right_size else None


def local_copy(entry: RegistryEntry) -> Path | None:
    """Return the path of the first local file of the entry: its own, or one of equal tensors."""
    paths = map(local_path, entries_with_tensors_of(entry))
    return next((path for path in paths if path is not None), None)


def is_offline(asked: bool = False) -> bool:
    """Return whether downloads are disabled, by the argument or by one of the usual variables."""
    return asked or any(
        os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in _OFFLINE_VARIABLES
    )


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    return _digest(path, hashlib.sha256())


def git_blob_sha1(content: bytes) -> str:
    """Return git's blob hash of this content, hexadecimal."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _digest(path: Path, hasher: Any) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return str(hasher.hexdigest())


def unverified_note(remote: RemoteFile, sha256: str) -> str | None:
    """Return a note that only a file's size and shapes can be checked; None if a hash is known."""
    if remote.hash_known:
        return None
    size = "" if remote.size is None else f"its size of {remote.size:,} bytes and "
    return (
        f"{remote.name}: no hash of this file is published, so that only {size}its being a whole C3D network "
        f"could be checked; its sha256 is {sha256}"
    )


def check_file(path: Path, remote: RemoteFile) -> None:
    """Raise WeightsError unless the file has the known size and hash."""
    wrong = _mismatch(path, remote)
    if wrong is not None:
        raise WeightsError(
            f"not the file it should be: {wrong}", subject=path, hint="delete it and fetch it again"
        )


def _mismatch(path: Path, remote: RemoteFile) -> str | None:
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"{size:,} bytes instead of {remote.size:,}"
    for name, expected, make in (
        ("sha256", remote.sha256, hashlib.sha256),
        ("md5", remote.md5, lambda: hashlib.md5(usedforsecurity=False)),
        ("git blob sha1", remote.git_blob_sha1, lambda: _blob_hasher(size)),
    ):
        if expected is not None:
            found = _digest(path, make())
            return None if found.startswith(expected) else f"{name} {found} instead of {expected}"
    return None


def _blob_hasher(size: int) -> Any:
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def fetch_file(
    remote: RemoteFile,
    folder: Path | None = None,
    *,
    offline: bool = False,
    progress: FetchProgress | None = None,
    check: Callable[[Path], None] | None = None,
    timeout_seconds: float = 30.0,
) -> Path:
    """Return the file in ``folder`` (default: the cache); fetch it unless a valid one exists.

    Parameters
    ----------
    check
        Called with the fetched file before its final rename; raises WeightsError if it is not valid.
    timeout_seconds
        Timeout for each read. A server that answers after 60 seconds, or then sends less than 32 kB per
        second on average, is abandoned as well; the received bytes are kept for the next mirror.

    Raises
    ------
    FetchError
        If no mirror returned the file, with each mirror's error and how to fetch it manually.
    """
    folder = cache_folder() if folder is None else folder
    target = folder / remote.name
    if target.is_file() and _mismatch(target, remote) is None:
        return target
    if is_offline(offline):
        raise _failure(remote, folder, "not on this machine, and fetching is switched off (offline)")
    if not remote.mirrors:
        raise _failure(remote, folder, "not on this machine, and no address is known that serves it directly")
    answers = []
    with _part_file(remote, folder) as part:
        if target.is_file() and _mismatch(target, remote) is None:  # another process has fetched it
            part.discard_if_empty()
            return target
        for mirror in remote.mirrors:
            answer = part.try_mirror(mirror, progress, check, timeout_seconds)
            if answer is None:
                return part.move_to(target)
            _log.warning("%s: not fetched from %s", remote.name, answer)
            answers.append(answer)
        part.discard_if_empty()
    raise _failure(remote, folder, "could not be fetched", answers)


def _failure(remote: RemoteFile, folder: Path, reason: str, answers: Sequence[str] = ()) -> FetchError:
    source = f"get it from {remote.mirrors[0]}" if remote.mirrors else "get it by other means"
    hint = f"{source} and put it into {folder} under that name"
    return FetchError(reason, answers=answers, subject=remote.name, hint=hint)


@contextmanager
def _part_file(remote: RemoteFile, folder: Path) -> Iterator[_Part]:
    """Open ``NAME.part`` exclusively; its content is kept for the next try."""
    path = folder / f"{remote.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")  # append: keep what an earlier try fetched
    except OSError as error:
        raise FetchError(f"cannot be written: {error.strerror}", subject=path) from error
    with file:
        if fcntl is not None:
            # Of two processes that fetch the same file, the second waits and then finds it. The lock belongs
            # to the file descriptor, so that a killed process leaves none.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield _Part(remote, path, file)


class _Part:
    """The fetched part of a file, and how to fetch the rest."""

    def __init__(self, remote: RemoteFile, path: Path, file: IO[bytes]) -> None:
        self.remote = remote
        self.path = path
        self.file = file

    @property
    def n_bytes(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def try_mirror(
        self,
        mirror: str,
        progress: FetchProgress | None,
        check: Callable[[Path], None] | None,
        timeout_seconds: float,
    ) -> str | None:
        """Fetch the rest from one mirror; return the error, or None."""
        host = urlsplit(mirror).netloc or mirror
        answer = ""
        for _ in range(_TRIES_PER_MIRROR):
            start = self.n_bytes
            try:
                self._receive(mirror, progress, timeout_seconds)
                self._accept(check)
            except FetchError:
                raise
            except (OSError, http.client.HTTPException, WeightsError) as error:
                answer = f"{host}: {_why(error, timeout_seconds)}"
            else:
                return None
            # Nothing was received and nothing discarded: another try would be the same.
            if self.n_bytes == start:
                break
        return answer

    def move_to(self, target: Path) -> Path:
        """Rename the complete file."""
        try:
            self.path.replace(target)
        except OSError as error:
            raise FetchError(f"cannot be written: {error.strerror}", subject=target) from error
        return target

    def discard_if_empty(self) -> None:
        """Delete the file if it is empty."""
        if self.n_bytes == 0:
            self.path.unlink(missing_ok=True)

    def _receive(self, mirror: str, progress: FetchProgress | None, timeout_seconds: float) -> None:
        start = self.n_bytes
        if self.remote.size is not None and start == self.remote.size:
            return
        request = urllib.request.Request(mirror, headers={"User-Agent": "c3d-extract"} | _range(start))  # noqa: S310  # from the registry
        with self._answer(request, timeout_seconds) as response:
            if response.headers.get_content_type() == "text/html":
                raise WeightsError("answered with a web page instead of the file")
            # 200 instead of 206 (Partial Content): a server without ranges sends the whole file again.
            if response.status != 206 or not _resumes_at(response, start):
                self.file.truncate(0)
            n_expected = self._size_of(response)
            begun, n_before = time.monotonic(), self.n_bytes
            while chunk := response.read1(_CHUNK):  # read1: a full chunk could take forever
                self._append(chunk)
                if progress is not None:
                    progress(self.remote.name, self.n_bytes, n_expected)
                _check_rate(self.n_bytes - n_before, time.monotonic() - begun)
            if n_expected is not None and self.n_bytes < n_expected:
                raise WeightsError(f"ended after {self.n_bytes:,} of {n_expected:,} bytes")

    def _answer(self, request: urllib.request.Request, timeout_seconds: float) -> Any:
        try:
            return _within(_FIRST_BYTE_SECONDS, lambda: _opener().open(request, timeout=timeout_seconds))
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.file.truncate(0)
            raise

    def _size_of(self, response: Any) -> int | None:
        length = response.headers.get("Content-Length", "")
        announced = self.n_bytes + int(length) if length.isdigit() else None
        if announced is not None and self.remote.size not in {None, announced}:
            raise WeightsError(f"offers {announced:,} bytes instead of {self.remote.size:,}")
        return self.remote.size if announced is None else announced

    def _append(self, chunk: bytes) -> None:
        if self.n_bytes + len(chunk) > (self.remote.size or _MAX_BYTES):
            self.file.truncate(0)
            raise WeightsError("sends more bytes than the file has")
        try:
            self.file.write(chunk)
            self.file.flush()
        except OSError as error:
            raise FetchError(f"cannot be written: {error.strerror}", subject=self.path) from error

    def _accept(self, check: Callable[[Path], None] | None) -> None:
        try:
            self._check(check)
        except WeightsError:
            self.file.truncate(0)
            raise
        os.fsync(self.file.fileno())  # before the rename: a crash must not leave a truncated file

    def _check(self, check: Callable[[Path], None] | None) -> None:
        wrong = _mismatch(self.path, self.remote)
        if wrong is not None:
            raise WeightsError(f"gave another file: {wrong}")
        if check is not None:
            check(self.path)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(  # noqa: PLR0917  # the signature is urllib's
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        to = urlsplit(newurl).scheme
        if to != "https" and (to != "http" or req.type == "https"):
            raise WeightsError(f"redirects from {req.type} to {to}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only, with the proxies that the environment sets now."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of ``call`` or raise its exception; WeightsError if it takes longer.

    If a server sends its headers byte by byte, no single read times out.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put((call(), None))
        except BaseException as error:  # noqa: BLE001  # raised again in the waiting thread
            done.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = done.get(timeout=seconds)
    except queue.Empty:
        raise WeightsError(f"did not answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return cast("T", value)


def _check_rate(n_bytes: int, seconds: float) -> None:
    if seconds > _FIRST_BYTE_SECONDS + n_bytes / _MIN_BYTES_PER_SECOND:
        raise WeightsError(f"sends too slowly: {n_bytes:,} bytes in {seconds:.0f} s")


def _range(start: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-"} if start else {}


def _resumes_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _why(error: Exception, timeout_seconds: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        with suppress(OSError):
            error.close()
        return f"{error.code} {' '.join(str(error.reason).split())}"
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"silent for {timeout_seconds:g} s"
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return " ".join(text.split()) or type(error).__name__
