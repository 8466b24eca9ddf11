"""Tar archives for tests: good ones, and ones that try things."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512


def member(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def pack(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    """Write members, given by name or header, and their data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for given, data in members:
            info = given if isinstance(given, tarfile.TarInfo) else member(given)
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack_folder(path: Path, folder: Path) -> Path:
    """Pack the files of a folder, by their names below it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return pack(path, *((file.relative_to(folder).as_posix(), file.read_bytes()) for file in files))
