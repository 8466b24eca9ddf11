"""Finding a checkpoint's local file, by registered name or path, and checking its hash.

The tensors of some checkpoints are in many public files. Where the registered one cannot be had, the first
that can stands in for it; see `RegistryEntry.same_tensors`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.weights.decide import decided
from c3d_extract.weights.fetch import (
    cache_folder,
    check_file,
    fetch_file,
    is_offline,
    local_path,
    sha256_of,
    unverified_note,
)
from c3d_extract.weights.layouts.contents import c3d_architecture
from c3d_extract.weights.layouts.detect import open_contents
from c3d_extract.weights.registry import (
    data_folder,
    entries_with_tensors_of,
    find_entry,
    load_registry,
    published_entries,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.registry import RegistryEntry

__all__ = ["Located", "check_described", "locate", "locate_entry"]

NETWORK = ARCHITECTURES["c3d"]
"""What every registered file of this layout holds, but for the number of classes."""

_CLASS_LAYERS = {"fc8", "prob"}
_OTHER_WEIGHTS = "other weights: --weights r3d_18 (fetched, too) or motion-mini (comes with this package)"


class Located(NamedTuple):
    """A checkpoint's file, its hash, and its registry entry, if any.

    Attributes
    ----------
    notes
        One-line remarks for the user.
    name
        The registered name that was asked for, whose tensors the file of ``entry`` holds.
    is_reversed
        Whether its first kernels take the channels of the input in the opposite order of ``entry.colour``.
    unverified
        What could not be checked, if anything.
    """

    path: Path
    sha256: str
    entry: RegistryEntry | None
    notes: list[str]
    name: str | None = None
    is_reversed: bool = False
    unverified: str | None = None


class _Access(NamedTuple):
    """Whether and how files are fetched."""

    offline: bool
    progress: FetchProgress | None


def locate(
    source: str | Path,
    *,
    layers: Sequence[str] | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> Located:
    """Return the file of a registered name (fetched if necessary) or of a path, after checking its hash.

    Parameters
    ----------
    layers
        Files without the tensors of these layers do not stand in for a registered one.

    Raises
    ------
    WeightsError
        If it is neither, cannot be fetched, or is not the registered file.
    """
    path = Path(source)
    if str(source) in load_registry().checkpoints:
        return locate_entry(find_entry(str(source)), layers=layers, offline=offline, progress=progress)
    if not path.is_file():
        is_name = len(path.parts) == 1 and not path.suffix
        if is_name and str(source) in published_entries():
            return locate_entry(find_entry(str(source)), offline=offline, progress=progress)
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


def locate_entry(
    entry: RegistryEntry,
    *,
    layers: Sequence[str] | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> Located:
    """Return the file of an entry or, if it cannot be had, of another one with the same tensors.

    Files on this machine come first, then each is fetched in turn. Raises as `locate`.
    """
    access = _Access(is_offline(offline), progress)
    path = local_path(entry)
    if path is not None:
        return _checked(entry, path)
    with_classes = bool(_CLASS_LAYERS & set(layers or ()))
    others = [one for one in entries_with_tensors_of(entry)[1:] if one.n_classes or not with_classes]
    return _stand_in(entry, others, access) if others else _fetched(entry, access)


def _stand_in(entry: RegistryEntry, others: list[RegistryEntry], access: _Access) -> Located:
    """Return the first file that can be had: local ones first, then ``entry``'s and each of ``others``'."""
    answers: list[str] = []
    untried = [entry]
    for one in others:
        path = local_path(one)
        if path is None:
            untried += [one] if one.file.mirrors else []
            continue
        try:
            if not one.file.hash_known:
                _check_is_c3d(path, one)
            return _standing_in(entry, _checked(one, path), access)
        except WeightsError as error:
            answers.append(f"{path.name} on this machine: {error.reason}")
    for one in untried:
        try:
            located = _fetched(one, access)
            return located if one is entry else _standing_in(entry, located, access)
        except FetchError as error:
            if not error.answers:  # nothing was asked, or the file could not be written
                raise
            answers += [f"{one.file.name}: {answer}" for answer in error.answers]
        except WeightsError as error:
            answers.append(f"{one.file.name}: {error.reason}")
    raise _none_arrived(entry, others, answers)


def _none_arrived(entry: RegistryEntry, others: list[RegistryEntry], answers: list[str]) -> FetchError:
    by_hand = [one.file.name for one in others if not one.file.mirrors and local_path(one) is None]
    answers = [*answers, *(f"{name}: no address is known that serves it directly" for name in by_hand)]
    hint = (
        f"get one of these files, such as {entry.file.mirrors[0]}, and put it into {cache_folder()} under "
        f"its name; {_OTHER_WEIGHTS}"
    )
    return FetchError("no file with its tensors could be had", answers=answers, subject=entry.name, hint=hint)


def _fetched(entry: RegistryEntry, access: _Access) -> Located:
    if entry.embedded:
        raise WeightsError(
            "its file travels with this package, but is missing from this installation",
            subject=entry.name,
            hint=f"put {entry.file.name} into {data_folder()}, or install again",
        )
    check = None if entry.file.hash_known else partial(_check_is_c3d, entry=entry)
    path = fetch_file(entry.file, offline=access.offline, progress=access.progress, check=check)
    located = _checked(entry, path)
    return located._replace(
        notes=[f"fetched {entry.name} ({entry.licence}) into {path.parent}", *located.notes]
    )


def _check_is_c3d(path: Path, entry: RegistryEntry) -> None:
    """Raise WeightsError unless the file is a complete C3D network as the entry describes it."""
    with open_contents(path, "chw") as contents:
        found = c3d_architecture(contents.shapes, entry.pool5 or "ceil")
        check_described(entry, contents.layout, found.n_classes)
    if (found.filters, found.hidden) != (NETWORK.filters, NETWORK.hidden):
        raise WeightsError("is a C3D of other widths than the published ones")


def check_described(entry: RegistryEntry, layout: str, n_classes: int | None) -> None:
    """Refuse a file that matches the registered one by name only."""
    if layout != entry.layout:
        raise WeightsError(f"is of layout {layout}, but {entry.name} of {entry.layout}")
    if n_classes != entry.n_classes:
        raise WeightsError(
            f"has {n_classes or 'no'} classes, but {entry.name} has {entry.n_classes or 'none'}"
        )


def _standing_in(entry: RegistryEntry, located: Located, access: _Access) -> Located:
    """Return another entry's file as one of ``entry``, with its channel orders decided."""
    other = located.entry or entry
    try:
        measured = decided(other, *located[:2], offline=access.offline, progress=access.progress)
    except FetchError as error:
        why = f"its {' and '.join(other.undecided)} could not be measured: {error.subject} {error.reason}"
        raise WeightsError(why, subject=located.path) from error
    return located._replace(
        entry=replace(other, fc6_order=measured.fc6_order),
        notes=[f"{entry.name} is read from {other.file.name} ({other.licence})", *located.notes],
        name=entry.name,
        is_reversed=measured.colour != other.colour,
    )


def _checked(entry: RegistryEntry, path: Path) -> Located:
    digest = sha256_of(path)
    expected = entry.file.sha256
    if expected is not None and not digest.startswith(expected):
        reason = f"not the file it should be: sha256 {digest} instead of {expected}"
        raise WeightsError(
            reason, subject=path, hint=f"delete it and run `c3d-tools weights fetch {entry.name}`"
        )
    unverified = None if entry.embedded else unverified_note(entry.file, digest)
    if expected is None and entry.file.hash_known:
        check_file(path, entry.file)
    return Located(path, digest, entry, [], name=entry.name, unverified=unverified)
