"""Finding a checkpoint's local file, by registered name or path, and checking its hash."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import WeightsError
from c3d_extract.weights.fetch import check_file, fetch_file, local_path, sha256_of, unverified_note
from c3d_extract.weights.layouts.contents import c3d_architecture
from c3d_extract.weights.layouts.detect import open_contents
from c3d_extract.weights.registry import data_folder, find_entry, load_registry, published_entries

if TYPE_CHECKING:
    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.registry import RegistryEntry

__all__ = ["Located", "fetch_entry", "locate"]


class Located(NamedTuple):
    """A checkpoint's file, its hash, and its registry entry, if any."""

    path: Path
    sha256: str
    entry: RegistryEntry | None
    notes: list[str]  # one-line remarks for the user


def fetch_entry(
    entry: RegistryEntry, *, offline: bool = False, progress: FetchProgress | None = None
) -> Path:
    """Fetch an entry's file into the cache, unless it exists, and check it."""
    if entry.embedded:
        raise WeightsError(
            "its file travels with this package, but is missing from this installation",
            subject=entry.name,
            hint=f"put {entry.file.name} into {data_folder()}, or install again",
        )
    check = None if entry.file.hash_known else _check_is_c3d
    return fetch_file(entry.file, offline=offline, progress=progress, check=check)


def _check_is_c3d(path: Path) -> None:
    """Raise WeightsError unless the file is a complete C3D network; for files without a known hash."""
    with open_contents(path, "chw") as contents:
        c3d_architecture(contents.shapes, "ceil")


def locate(source: str | Path, *, offline: bool = False, progress: FetchProgress | None = None) -> Located:
    """Return the file of a registered name (fetched if necessary) or of a path, after checking its hash.

    Raises
    ------
    WeightsError
        If it is neither, cannot be fetched, or is not the registered file.
    """
    path = Path(source)
    if str(source) in load_registry().checkpoints:
        return _locate_entry(find_entry(str(source)), offline=offline, progress=progress)
    if not path.is_file():
        is_name = len(path.parts) == 1 and not path.suffix
        if is_name and str(source) in published_entries():
            return _locate_entry(find_entry(str(source)), offline=offline, progress=progress)
        if path.is_dir():
            raise WeightsError("a folder, not a checkpoint", subject=path)
        if not is_name:
            raise WeightsError("no such checkpoint file", subject=path)
        find_entry(str(source))
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"cannot be read: {error.strerror}", subject=path) from error
    return Located(path, digest, _entry_of(digest), [])


def _entry_of(sha256: str) -> RegistryEntry | None:
    """Return the entry with this full sha256; entries with a partial hash never match."""
    entries = load_registry().checkpoints.values()
    return next((entry for entry in entries if entry.file.sha256 == sha256), None)


def _locate_entry(entry: RegistryEntry, *, offline: bool, progress: FetchProgress | None) -> Located:
    path, notes = local_path(entry), []
    if path is None:
        path = fetch_entry(entry, offline=offline, progress=progress)
        notes = [f"fetched {entry.name} ({entry.licence}) into {path.parent}"]
    digest = sha256_of(path)
    expected = entry.file.sha256
    if expected is not None and not digest.startswith(expected):
        reason = f"not the file it should be: sha256 {digest} instead of {expected}"
        raise WeightsError(
            reason, subject=path, hint=f"delete it and run `c3d-tools weights fetch {entry.name}`"
        )
    if expected is None and not entry.embedded:
        unverified = unverified_note(entry.file, digest)
        if unverified is None:
            check_file(path, entry.file)
        else:
            notes.append(unverified)
    return Located(path, digest, entry, notes)
