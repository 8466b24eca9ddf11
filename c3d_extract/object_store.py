"""Files in object stores and on web servers, through fsspec: listed, fetched, written.

Credentials come from where the store's own library looks for them (environment variables, its files, the
machine's role), never from an address. Requests are tried again, with growing pauses, where that can help.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from c3d_extract.errors import RemoteError, UsageError
from c3d_extract.files import DISK_FULL

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = [
    "StoredObject",
    "create_object",
    "fetch_object",
    "is_address",
    "is_signed",
    "list_objects",
    "open_object",
    "read_object",
    "stat_object",
    "upload_file",
    "write_object",
]

T = TypeVar("T")
_log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:/ is a drive
# Others of fsspec's schemes read local files, or unpack what they read.
_SCHEMES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hdfs"}
_CONTAINER_AT_ACCOUNT = {"az", "abfs", "abfss"}  # Azure's addresses: abfs://container@account.dfs…/path
_SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}  # S3, GCS, CloudFront, Azure
_TRIES = 4  # on top of those of the store's own library
_FIRST_PAUSE_SECONDS = 0.5
_CHUNK = 1 << 26  # bytes that are held in memory while part of an object is fetched
_LOCAL_DISK = DISK_FULL | {errno.EROFS}
_TEMPORARY_STATUSES = {408, 425, 429}  # HTTP's 4xx that may pass (RFC 9110, 6585)


class StoredObject(NamedTuple):
    """What is known of an object.

    Attributes
    ----------
    address
        ``s3://bucket/key``, ``https://host/path``.
    size_bytes
        Its size; -1 where a web server does not say.
    mtime_ns
        When it was written, in ns since 1970; 0 where unknown.
    etag
        Changes with the content; None where the store has none.
    """

    address: str
    size_bytes: int
    mtime_ns: int
    etag: str | None


def is_address(text: str | os.PathLike[str]) -> bool:
    """Return whether a text is an address such as ``s3://bucket/key``, and no local path."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def is_signed(address: str) -> bool:
    """Return whether an address holds a signature, which lets whoever reads it fetch the file."""
    return not _SIGNATURES.isdisjoint(key.lower() for key, _ in parse_qsl(urlsplit(address).query))


def list_objects(prefix: str, *, begins: str = "") -> Iterator[StoredObject]:
    """Yield every object whose address begins with ``prefix`` as with a folder, page by page.

    Parameters
    ----------
    begins
        What follows the prefix and its ``/`` in each address.

    Raises
    ------
    RemoteError
        Where the store cannot be reached or refuses; a prefix with no object is no error.
    """
    fs, path = _filesystem(prefix)
    scheme = prefix.partition("://")[0]
    if hasattr(fs, "call_s3"):
        yield from _list_s3(fs, prefix, path, begins)
        return
    found = _tried(prefix, lambda: fs.find(path, detail=True))
    for name, facts in sorted(found.items()):
        if name.startswith(f"{path.rstrip('/')}/{begins}"):
            yield _described(f"{scheme}://{name.removeprefix('/')}", facts)


def _list_s3(fs: Any, prefix: str, path: str, begins: str) -> Iterator[StoredObject]:
    """List by pages of 1,000: fsspec's own listing holds all of them in memory, twice."""
    scheme = prefix.partition("://")[0]
    bucket, _, key = path.partition("/")
    request = {"Bucket": bucket, "Prefix": (f"{key.rstrip('/')}/" if key else "") + begins}
    while True:
        page = _tried(prefix, lambda: fs.call_s3("list_objects_v2", **request))
        for facts in page.get("Contents", ()):
            yield _described(f"{scheme}://{bucket}/{facts['Key']}", facts)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def stat_object(address: str) -> StoredObject | None:
    """Return what is known of an object, None where there is none.

    Raises
    ------
    RemoteError
        Where the store cannot be reached or refuses.
    """
    fs, path = _filesystem(address)
    try:
        facts = _tried(address, lambda: fs.info(path))
    except _MissingError:
        return None
    return None if facts.get("type") == "directory" else _described(address, facts)


def fetch_object(stored: StoredObject, target: Path, *, start: int = 0, n_bytes: int | None = None) -> None:
    """Write an object, or ``n_bytes`` of it from ``start``, to a local file, with one request.

    Raises
    ------
    RemoteError
        Where it cannot be read, has another size, or was changed since it was listed.
    OSError
        Where the local file cannot be written.
    """
    fs, path = _filesystem(stored.address)
    expected = stored.size_bytes if n_bytes is None else n_bytes

    def fetch() -> None:
        if n_bytes is None:
            # Large objects would be fetched by many requests at a time, and several are fetched anyway.
            fs.get_file(path, str(target), **({"max_concurrency": 1} if hasattr(fs, "call_s3") else {}))
        else:
            _fetch_range(fs, path, target, start, n_bytes)
        size = target.stat().st_size
        if expected not in {-1, size}:
            raise _ShortError(f"{size:,} bytes instead of {expected:,}")

    _tried(stored.address, fetch)
    _check_unchanged(stored)


def _fetch_range(fs: Any, path: str, target: Path, start: int, n_bytes: int) -> None:
    with target.open("wb") as file:
        for at in range(start, start + n_bytes, _CHUNK):
            file.write(fs.cat_file(path, start=at, end=min(at + _CHUNK, start + n_bytes)))


def _check_unchanged(stored: StoredObject) -> None:
    # Asked afterwards: not every store makes a request depend on the etag, and none was fetched in vain.
    now = stat_object(stored.address) if stored.etag is not None else stored
    if now is None or now.etag != stored.etag:
        raise RemoteError("was changed while the run read it", subject=stored.address, hint="run again")


def open_object(stored: StoredObject, block_bytes: int) -> BinaryIO:
    """Open an object for reading and seeking; each request reads ``block_bytes`` or more.

    Raises
    ------
    RemoteError
        Where it cannot be opened; reading raises the store's own errors.
    """
    fs, path = _filesystem(stored.address)
    opened = _tried(
        stored.address, lambda: fs.open(path, "rb", block_size=block_bytes, cache_type="readahead")
    )
    return cast("BinaryIO", opened)


def read_object(address: str) -> bytes | None:
    """Return the content of a small object, None where there is none; RemoteError as in `stat_object`."""
    fs, path = _filesystem(address)
    try:
        return bytes(_tried(address, lambda: fs.cat_file(path)))
    except _MissingError:
        return None


def upload_file(source: Path, address: str) -> None:
    """Write a local file to an object, which appears in one step; RemoteError where that fails."""
    fs, path = _filesystem(address)
    _tried(address, lambda: fs.put_file(str(source), path))


def write_object(address: str, content: bytes) -> None:
    """Write an object, in one step; RemoteError where that fails."""
    fs, path = _filesystem(address)
    _tried(address, lambda: fs.pipe_file(path, content))


def create_object(address: str, content: bytes) -> bool:
    """Write an object unless one is there; return whether it was written.

    In stores without such a request, of two processes at the same time both may write.
    """
    fs, path = _filesystem(address)

    def create() -> bool:
        try:
            fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except NotImplementedError:  # fsspec's answer where a store has no such request
            if fs.exists(path):
                return False
            fs.pipe_file(path, content)
        return True

    return _tried(address, create)


class _MissingError(RemoteError):
    """There is no such object, or bucket."""


class _ShortError(Exception):
    """A body ended early."""


def _filesystem(address: str) -> tuple[Any, str]:
    """Return fsspec's file system, one for each store and process, and the path in it."""
    scheme = address.partition("://")[0].lower()
    if scheme not in _SCHEMES or "::" in address:
        raise UsageError(f"addresses begin with one of {', '.join(sorted(_SCHEMES))}", subject=address)
    if urlsplit(address).username is not None and scheme not in _CONTAINER_AT_ACCOUNT:
        hint = "set them in the environment, as the store's own tools read them"
        raise UsageError("an address must not hold credentials", subject=_without_user(address), hint=hint)
    # Listings would be kept for ever, also those from before this run wrote something.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in {"http", "https"}:
        options["client_kwargs"] = {"trust_env": True}  # proxies and ~/.netrc
    try:
        from fsspec.core import url_to_fs

        found = url_to_fs(address, **options)
    except ImportError as error:
        hint = f"pip install fsspec s3fs ({error})"
        raise UsageError("needs a package that is not installed", subject=address, hint=hint) from error
    return cast("tuple[Any, str]", found)


def _without_user(address: str) -> str:
    scheme, _, rest = address.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}"


def _tried(address: str, request: Callable[[], T]) -> T:
    """Make a request, again where it may help; RemoteError where it fails for good."""
    pause, n_left = _FIRST_PAUSE_SECONDS, _TRIES
    while True:
        n_left -= 1
        try:
            return request()
        except Exception as error:  # each store's library has exceptions of its own
            if isinstance(error, OSError) and error.errno in _LOCAL_DISK:
                raise
            if not n_left or not _may_pass(error):
                raise _explained(address, error) from error
            why = _explained(address, error)
        # Many processes that were refused at the same time must not come again at the same time.
        seconds = pause * random.uniform(0.5, 1.5)  # noqa: S311 - not for secrets
        _log.warning("%s; tried again in %.1f s", why, seconds)
        time.sleep(seconds)
        pause *= 2


def _status(error: Exception) -> int | None:
    """Return the HTTP status behind an error: fsspec calls every failure of a web server 'not found'."""
    found = getattr(error, "status", None) or getattr(error.__cause__, "status", None)
    return found if isinstance(found, int) else None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TEMPORARY_STATUSES
    return not isinstance(error, FileNotFoundError | PermissionError) and not _lacks_credentials(error)


def _lacks_credentials(error: Exception) -> bool:
    return "Credentials" in type(error).__name__


def _explained(address: str, error: Exception) -> RemoteError:
    status = _status(error)
    says = str(error.__cause__ if hasattr(error.__cause__, "status") else error)
    text = next(iter(says.splitlines()), "") or type(error).__name__
    if isinstance(error, _ShortError):
        return RemoteError(f"the transfer ended early: {error}", subject=address, hint="run again")
    if isinstance(error, PermissionError) or _lacks_credentials(error) or status in {401, 403}:
        hint = "check the credentials in the environment"
        return RemoteError(f"access is refused ({text})", subject=address, hint=hint)
    if status in {None, 404, 410} and isinstance(error, FileNotFoundError):
        return _MissingError("is not there", subject=address)
    return RemoteError(f"cannot be read or written ({text})", subject=address, hint="run again")


def _described(address: str, facts: dict[str, Any]) -> StoredObject:
    size = next((facts[key] for key in ("size", "Size") if facts.get(key) is not None), -1)
    etag = next((str(facts[key]) for key in ("ETag", "etag") if facts.get(key)), None)
    return StoredObject(address, int(size), _time_ns(facts), etag)


def _time_ns(facts: dict[str, Any]) -> int:
    names = ("LastModified", "last_modified", "updated", "mtime", "created", "Last-Modified")
    found = next((facts[name] for name in names if facts.get(name)), None)
    if isinstance(found, str):
        found = parsedate_to_datetime(found) if "," in found else datetime.fromisoformat(found)
    if isinstance(found, datetime):
        # In whole microseconds: a float of seconds would round them.
        passed = (found if found.tzinfo else found.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return (passed.days * 86_400_000_000 + passed.seconds * 1_000_000 + passed.microseconds) * 1000
    return int(found * 1e9) if isinstance(found, int | float) else 0
