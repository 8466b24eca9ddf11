"""Videos in object stores and on web servers: addresses, prefixes and patterns become objects.

A prefix is searched as a folder is, and a pattern matches as one of paths does. Objects are known by their
names alone; nothing of them is read here, but the headers of archives.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from c3d_extract.errors import C3DError, RemoteError, UsageError
from c3d_extract.object_store import StoredObject, list_objects, open_object, stat_object
from c3d_extract.sources.archives import COMPRESSED, videos_of_archive
from c3d_extract.sources.kinds import is_archive, is_compressed_archive, why_not_a_video_by_name
from c3d_extract.sources.names import address_parts, valid_utf8
from c3d_extract.sources.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    Ignore = Callable[[str, str], None]

__all__ = ["FoundObject", "find_objects", "videos_of_objects"]

T = TypeVar("T")
R = TypeVar("R")

_N_THREADS = 16  # requests at a time, while nothing but their answers is waited for
_PER_ROUND = 4096
_HEADER_BYTES = 1 << 18  # of an archive in one request
_MAGIC = re.compile(r"[*?[]")  # as in glob


class FoundObject(NamedTuple):
    """An object that is a video or an archive.

    Attributes
    ----------
    stored
        What is known of it.
    n_parts
        How many of the last parts of its address make its name.
    error
        Why it cannot be read, where that is known.
    """

    stored: StoredObject
    n_parts: int
    error: str | None = None


def find_objects(named: Iterable[str], listed: Sequence[str], ignore: Ignore) -> dict[str, FoundObject]:
    """Return the objects that addresses mean, by their addresses.

    Parameters
    ----------
    named
        Addresses of objects, prefixes, and patterns of either; each must mean something.
    listed
        Addresses of objects, which fail when they are read where they are not there; and of prefixes, which
        end with ``/``.
    ignore
        Called with the address of each object that is ignored, and why.

    Raises
    ------
    UsageError
        Where a named address means nothing; or where an address is none, or holds credentials.
    RemoteError
        Where a store cannot be reached, or refuses to say what is there.
    """
    found: dict[str, FoundObject] = {}
    for address in named:
        meant = _meant(address, ignore)
        if meant is None:
            raise UsageError(_why_nothing(address), subject=address)
        for each in meant:
            found.setdefault(each.stored.address, each)
    for each in _listed(listed, ignore):
        found.setdefault(each.stored.address, each)
    return found


def _why_nothing(address: str) -> str:
    if _is_web(address):
        return "is not there"
    return "no object matches this pattern" if _MAGIC.search(address) else "no such object, and none below it"


def _meant(address: str, ignore: Ignore) -> list[FoundObject] | None:
    """Return what an address means, None where it means nothing."""
    bucket, last = address_parts(address)[1], address_parts(address)[-1]
    if _MAGIC.search(bucket) and not _is_web(address):
        raise UsageError("the name of a bucket cannot be a pattern", subject=address)
    # What is called like a video is asked for itself first; for others, a listing is the fewer requests.
    if _is_web(address) or is_archive(last) or why_not_a_video_by_name(last) is None:
        itself = stat_object(address)
        if itself is not None or _is_web(address):
            return None if itself is None else [_found(itself, 1)]
    if _MAGIC.search(address):
        return list(_matching(address, ignore)) or None
    below = _below(address, ignore)
    if below is None and not address.endswith("/"):
        itself = stat_object(address)
        return None if itself is None else [_found(itself, 1)]
    return below


def _listed(addresses: Sequence[str], ignore: Ignore) -> Iterator[FoundObject]:
    prefixes = dict.fromkeys(
        address for address in addresses if address.endswith("/") and not _is_web(address)
    )
    for prefix in prefixes:
        try:
            below = _below(prefix, ignore)
        except RemoteError:  # as in _asked_for
            below = None
        yield from [_unknown(prefix.rstrip("/"))] if below is None else below
    yield from _in_threads(_asked_for, [address for address in addresses if address not in prefixes])


def _asked_for(address: str) -> FoundObject:
    try:
        stored = stat_object(address)
    except RemoteError:  # it may be there when it is read; else that says why not
        stored = None
    return _unknown(address) if stored is None else _found(stored, 1)


def _unknown(address: str) -> FoundObject:
    return _found(StoredObject(address, -1, 0, None), 1)


def _found(stored: StoredObject, n_parts: int) -> FoundObject:
    """Return an object with the reason why it cannot be read, where its address shows one."""
    last = address_parts(stored.address)[-1]
    error = COMPRESSED if is_compressed_archive(last) else None
    if "::" in stored.address:
        error = "a name with '::', which no request can hold"
    return FoundObject(stored, n_parts, error)


def _below(prefix: str, ignore: Ignore) -> list[FoundObject] | None:
    """Return the videos below a prefix, None where there is no object at all."""
    root, found, n_objects = prefix.rstrip("/").count("/"), list[FoundObject](), 0
    for stored in list_objects(prefix):
        n_objects += 1
        found += _inside(stored, max(1, stored.address.count("/") - root), ignore)
    return found if n_objects else None


def _inside(stored: StoredObject, n_parts: int, ignore: Ignore) -> list[FoundObject]:
    """Return an object that was found below a prefix, nothing where it is no video."""
    if stored.address.endswith("/"):  # stands for an empty folder
        return []
    why = why_not_a_video_by_name("/".join(stored.address.split("/")[-n_parts:]))
    if why is None:
        return [_found(stored, n_parts)]
    ignore(valid_utf8(stored.address), why)
    return []


def _matching(pattern: str, ignore: Ignore) -> Iterator[FoundObject]:
    """Yield the objects that a pattern matches, and the videos below prefixes that it matches."""
    parts = pattern.rstrip("/").split("/")
    fixed = pattern[: next(iter(_MAGIC.finditer(pattern))).start()]
    folder, _, begins = fixed.rpartition("/")
    below_only = parts[-1] == "**"  # as with paths: what is below, by its kind
    while parts[-1] == "**":
        parts.pop()
    for stored in list_objects(folder, begins=begins):
        own = stored.address.split("/")
        if not below_only and _matches(own, parts):
            yield _found(stored, 1)
            continue
        lengths = range(len(parts) - parts.count("**"), len(own)) if "**" in parts else [len(parts)]
        length = next((n for n in lengths if n < len(own) and _matches(own[:n], parts)), None)
        if length is not None:
            yield from _inside(stored, len(own) - length, ignore)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether all parts match all of a pattern; hidden ones only where it names them, as in glob."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return _matches(parts, rest) or (not parts[0].startswith(".") and _matches(parts[1:], pattern))
    if parts[0].startswith(".") and not first.startswith("."):
        return False
    return fnmatchcase(parts[0], first) and _matches(parts[1:], rest)


def videos_of_objects(named: Mapping[str, FoundObject], ignore: Ignore) -> Iterator[Source]:
    """Yield the videos, given by their names; of archives those in them."""
    archives = []
    for name, (stored, _, error) in named.items():
        path, size = Path(stored.address), max(stored.size_bytes, 0)
        source = Source(name, path, size, stored.mtime_ns, stored.address, stored.etag, error=error)
        if is_archive(address_parts(stored.address)[-1]) and error is None:
            archives.append(source)
        else:
            yield source
    for videos, ignored in _in_threads(_videos_of_archive, archives):
        for address, why in ignored:
            ignore(address, why)
        yield from videos


def _videos_of_archive(archive: Source) -> tuple[list[Source], list[tuple[str, str]]]:
    videos, ignored = list[Source](), list[tuple[str, str]]()
    stored = StoredObject(str(archive.address), archive.size_bytes, archive.mtime_ns, archive.etag)
    try:
        with open_object(stored, _HEADER_BYTES) as file:
            for video in videos_of_archive(archive, file, lambda *line: ignored.append(line)):
                videos.append(video)  # what was found before an error is kept
    except Exception as error:  # noqa: BLE001 - each store's library has errors of its own
        reason = error.reason if isinstance(error, C3DError) else f"cannot be read ({error})"
        videos.append(replace(archive, error=reason))
    return videos, ignored


def _in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the results in order, several at a time."""
    executor = ThreadPoolExecutor(_N_THREADS)
    try:
        for first in range(0, len(items), _PER_ROUND):
            yield from executor.map(function, items[first : first + _PER_ROUND])
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))
