"""Where the videos of a table lie, whose names are relative to a folder that the table does not record."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["find_file", "find_root"]

_N_TRIED = 50  # videos that tell one folder from another


def find_root(names: Sequence[str], near: Iterable[Path]) -> Path | None:
    """Return the folder below which most of these videos are, among folders and those directly in them.

    None where none of them is anywhere.
    """
    step = max(1, len(names) // _N_TRIED)
    tried = names[::step]
    counts = {folder: sum(find_file(folder, name) is not None for name in tried) for folder in _around(near)}
    best = max(counts, key=lambda folder: counts[folder], default=None)
    return best if best is not None and counts[best] else None


def _around(folders: Iterable[Path]) -> list[Path]:
    found = []
    for folder in folders:
        found.append(folder)
        try:
            found += sorted(child for child in folder.iterdir() if child.is_dir())
        except OSError:  # not readable
            continue
    return found


def find_file(root: Path, name: str, size_bytes: int | None = None) -> Path | None:
    """Return the file or folder of images of a video's name below ``root``, or None.

    Names that lead out of ``root`` have none, nor files of another size than the video had.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        return None
    path = root.joinpath(*parts)
    try:
        if path.is_dir():
            return path
        is_it = path.is_file() and size_bytes in {None, path.stat().st_size}
    except (OSError, ValueError):  # a name that this system cannot have
        return None
    return path if is_it else None
