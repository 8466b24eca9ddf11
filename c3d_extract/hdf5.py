"""HDF5, read and written: the one importer of h5py.

Files that are read are not trusted. An HDF5 file can name other files (external links, external storage,
virtual datasets, filters that are loaded as plug-ins), can contain itself, and can state sizes that it does
not hold. Nothing here follows a name to another file, and nothing is read before its type and its size have
been compared with what is stored.
What is refused raises `RefusedError`; HDF5 and h5py raise every other kind where a file is damaged, so
callers read inside `errors_as`, which makes one `C3DError` of all of them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
from math import prod
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import Dataset, File, Group

from c3d_extract.errors import C3DError
from c3d_extract.strict_json import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import BinaryIO

    from _typeshed import ReadableBuffer

__all__ = [
    "TEXT",
    "Dataset",
    "File",
    "Group",
    "RefusedError",
    "attributes_of",
    "errors_as",
    "group_in",
    "kind_in",
    "member_names",
    "names_in",
    "numbers_in",
    "open_hdf5",
    "writing_hdf5",
]

MAX_MEMBERS = 1000  # a feature file has some 15; a Keras model some dozens a group
MAX_ATTRIBUTES = 1000
MAX_TEXT = 1 << 26  # characters of all attributes together
MAX_NAME = 1 << 16  # bytes of one row's text; a path has at most 4,096
MAX_READ = 1 << 30  # bytes of text read at once where its length is not known
MAX_CHUNK = 1 << 26  # bytes that HDF5 would allocate to read one value
# A deflated byte expands to at most 1,032 (https://zlib.net/zlib_tech.html), one of lzf to fewer.
MAX_EXPANSION = 1100
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
"""Filters that are compiled in; for any other HDF5 would look for a plug-in and run it."""
TEXT = h5py.string_dtype("utf-8")
"""The type of a dataset of text of any length."""
LIBRARY_VERSIONS = ("earliest", "v110")  # fixed: a later HDF5 writes the same bytes, and old ones read them


class RefusedError(ValueError):
    """What a file holds that is not read, in one line without the file's name."""


class MissingError(RefusedError):
    """What was asked for is not there."""


@contextlib.contextmanager
def errors_as(kind: type[C3DError], reason: str, subject: object = None) -> Iterator[None]:
    """Turn whatever reading a file raises into ``kind``: ``subject: reason (what was wrong)``."""
    try:
        yield
    except C3DError:
        raise
    except MissingError as error:
        raise kind(str(error), subject=subject) from error
    except Exception as error:  # HDF5 and h5py raise every kind where a file is damaged
        raise kind(f"{reason} ({_brief(error)})", subject=subject) from error


def _brief(error: Exception) -> str:
    """Return the cause that HDF5 or the system states, without HDF5's account of what it was doing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    if not text:
        return type(error).__name__
    first = text.splitlines()[0][:300]
    inner = re.fullmatch(r"Unable to [^(]*\((.*?)\)?", first)
    return inner[1] if inner else first


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a regular file for reading; a FIFO or a device, which could block forever, is refused."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - takes any path-like
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise RefusedError("not a regular file")
    # Files are replaced, never changed: no lock is needed, and network drives often have none.
    with h5py.File(os.fspath(path), "r", locking=False) as file:
        yield file


@contextlib.contextmanager
def writing_hdf5(file: BinaryIO) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Write an HDF5 file into an open one; the same calls with the same values give the same bytes.

    Yields the file and a function that raises OSError where writing has failed already: HDF5 itself does
    not tell. What fails in the end raises OSError as well.
    """
    try:
        with _ErrorKeepingFile(file.fileno(), "w+", closefd=False) as raw:
            with h5py.File(raw, "w", libver=LIBRARY_VERSIONS) as h5:
                yield h5, raw.check
            raw.check()
    except (OSError, RuntimeError) as error:  # h5py raises both, without an errno and of many lines
        if getattr(error, "errno", None) is not None:
            raise
        raise OSError(_brief(error)) from error


class _ErrorKeepingFile(io.FileIO):
    """The file that HDF5 writes to; it keeps the first error, and reports success from then on.

    HDF5 cannot close a file that it cannot write: it prints one error per dataset and keeps all of them open.
    """

    error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[super().write(rest) :]
            except OSError as error:
                self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def check(self) -> None:
        """Raise the error that was kept."""
        if self.error is not None:
            raise self.error


def member_names(group: h5py.Group) -> list[str]:
    """Return the names in a group, after a check that none is a link to another file."""
    if group.id.get_num_objs() > MAX_MEMBERS:
        raise RefusedError(f"{_where(group)} holds {group.id.get_num_objs():,} things")
    names = list(group)
    for name in names:
        check_link(group, name)
    return names


def check_link(group: h5py.Group, name: str) -> None:
    """Raise `RefusedError` unless a name of a group refers to an object in this file itself."""
    # HDF5 would resolve a path's earlier steps, links among them, to look at the last.
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise RefusedError(f"{name!r} is not a name")
    links, key = group.id.links, _encoded(name)
    if not links.exists(key):
        known = ", ".join(sorted(group)[:20])
        raise MissingError(f"has no {name}, only {known or 'nothing'}")
    kind = links.get_info(key).type
    if kind == h5py.h5l.TYPE_HARD:
        return
    target = {h5py.h5l.TYPE_EXTERNAL: "another file", h5py.h5l.TYPE_SOFT: "another name"}.get(kind)
    if target is None:
        raise RefusedError(f"{name} is a link of a kind that is not followed")
    value = links.get_val(key)
    where = value[0] if isinstance(value, tuple) else value
    raise RefusedError(f"{name} is a link to {target}, {_shown(where)}, which is not followed")


def kind_in(parent: h5py.Group, name: str) -> str:
    """Return the kind of object that a name refers to: ``group``, ``dataset`` or ``other``."""
    kinds = {h5py.h5g.GroupID: "group", h5py.h5d.DatasetID: "dataset"}
    return kinds.get(type(_opened(parent, name)), "other")


def group_in(parent: h5py.Group, name: str) -> h5py.Group:
    """Return a group of that name; `RefusedError` where it is something else."""
    found = _opened(parent, name)
    if not isinstance(found, h5py.h5g.GroupID):
        raise RefusedError(f"{name} is not a group")
    return h5py.Group(found)


def numbers_in(parent: h5py.Group, name: str, *, n_axes: int | None = None) -> h5py.Dataset:
    """Return an array of plain numbers that is stored in this file, in the size that it states."""
    dataset = _dataset_in(parent, name)
    if dataset.dtype.kind not in "biuf" or dataset.dtype.shape:
        raise RefusedError(f"{name} holds no plain numbers")
    if n_axes is not None and len(dataset.shape) != n_axes:
        raise RefusedError(f"{name} has {len(dataset.shape)} axes, not {n_axes}")
    return dataset


def names_in(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Return a column of text (N) that is stored in this file, each at most 65,536 bytes long."""
    dataset = _dataset_in(parent, name)
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or kind.length is not None or len(dataset.shape) != 1:
        raise RefusedError(f"{name} is not a column of text")
    _check_lengths(dataset, name)
    return dataset


def _opened(parent: h5py.Group, name: str) -> Any:
    check_link(parent, name)
    return h5py.h5o.open(parent.id, _encoded(name))


def _dataset_in(parent: h5py.Group, name: str) -> h5py.Dataset:
    found = _opened(parent, name)
    if not isinstance(found, h5py.h5d.DatasetID):
        raise RefusedError(f"{name} is not a dataset")
    _check_storage(found, name)  # before anything else: a virtual dataset's shape opens other files
    dataset = h5py.Dataset(found)
    _check_size(dataset, name)
    return dataset


def _check_storage(dataset: h5py.h5d.DatasetID, name: str) -> None:
    how = dataset.get_create_plist()
    if how.get_layout() == h5py.h5d.VIRTUAL:
        raise RefusedError(f"{name} is a virtual dataset, whose values are in other files")
    if how.get_external_count():
        raise RefusedError(f"{name} has its values in another file, {_shown(how.get_external(0)[0])}")
    filters = {how.get_filter(i)[0] for i in range(how.get_nfilters())}
    if not filters <= FILTERS:
        raise RefusedError(f"{name} needs filter {min(filters - FILTERS)}, and only deflate and lzf are read")


def _check_size(dataset: h5py.Dataset, name: str) -> None:
    """Raise `RefusedError` where a shape states more than is stored; HDF5 would make up the rest."""
    if dataset.shape is None:
        raise RefusedError(f"{name} is empty")
    n_stored = dataset.id.get_storage_size()
    n_stated = prod(dataset.shape) * dataset.id.get_type().get_size()
    most = n_stored * (MAX_EXPANSION if dataset.id.get_create_plist().get_nfilters() else 1)
    if n_stated > most:
        shape = " x ".join(map(str, dataset.shape)) or "1"
        raise RefusedError(f"{name} states {shape} values, and the file holds {n_stored:,} bytes of them")
    if n_stored > _file_size(dataset):
        raise RefusedError(f"{name} states {n_stored:,} bytes, more than the whole file")
    if dataset.chunks and prod(dataset.chunks) * dataset.id.get_type().get_size() > MAX_CHUNK:
        raise RefusedError(f"{name} is stored in pieces of {' x '.join(map(str, dataset.chunks))} values")


def _check_lengths(dataset: h5py.Dataset, name: str) -> None:
    """Raise `RefusedError` for a row of absurd length; a few bytes can state gigabytes, row for row."""
    how = dataset.id.get_create_plist()
    plain = how.get_layout() == h5py.h5d.CHUNKED and not how.get_nfilters()
    longest = max((_longest_stated if plain else _longest_read)(dataset), default=0)
    if longest > MAX_NAME:
        raise RefusedError(f"{name} has a row of {longest:,} bytes")


def _longest_stated(dataset: h5py.Dataset) -> Iterator[int]:
    # HDF5 stores variable-length text as its length in four bytes, and its place in the file's global heap.
    (n_rows,) = dataset.chunks
    for start in range(0, len(dataset), n_rows):
        _, content = dataset.id.read_direct_chunk((start,))
        rows = np.frombuffer(content, np.uint8).reshape(n_rows, -1)[: len(dataset) - start]
        yield int(rows[:, :4].copy().view("<u4").max())


def _longest_read(dataset: h5py.Dataset) -> Iterator[int]:
    # Of a file that another program rewrote, compressed perhaps. No text is longer than its file.
    at_once = max(1, MAX_READ // _file_size(dataset))
    for start in range(0, len(dataset), at_once):
        yield max(map(len, dataset[start : start + at_once]))


def attributes_of(thing: h5py.Group, *, known: Collection[str] = ()) -> dict[str, Any]:
    """Return the attributes that are one text, number or truth value each; text that is JSON as that.

    Others are left out, and refused where their names are among ``known``.
    """
    names = list(thing.attrs)[: MAX_ATTRIBUTES + 1]
    if len(names) > MAX_ATTRIBUTES:
        raise RefusedError(f"has more than {MAX_ATTRIBUTES} attributes")
    found, n_text = {}, 0
    for name in names:
        if not _is_plain(thing.attrs.get_id(name)):
            if name in known:
                raise RefusedError(f"its {name} is neither one text nor one number")
            continue
        value = _plain(thing.attrs[name])
        n_text += len(value) if isinstance(value, str) else 0
        if n_text > MAX_TEXT:
            raise RefusedError(f"has more than {MAX_TEXT:,} characters of attributes")
        found[name] = _from_json(value)
    return found


def _is_plain(attribute: h5py.h5a.AttrID) -> bool:
    try:
        dtype = attribute.dtype
    except TypeError:  # a type without a counterpart in NumPy
        return False
    text = h5py.check_string_dtype(dtype) is not None
    return attribute.shape == () and (text or (dtype.kind in "biuf" and not dtype.shape))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in {"{", "["}:
        with contextlib.suppress(ValueError):
            return parse_json(value)
    return value


def _file_size(dataset: h5py.Dataset) -> int:
    return os.stat(dataset.file.filename).st_size  # noqa: PTH116 - takes any path-like


def _where(group: h5py.Group) -> str:
    return "it" if group.name in {None, "/"} else str(group.name)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")  # as h5py decoded it


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
