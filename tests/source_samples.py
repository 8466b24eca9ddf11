"""Files to find, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from c3d_extract.sources.find import Found


def touch(*files: Path, content: bytes = b"x") -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def names(found: Found) -> list[str]:
    return [video.name for video in found.videos]


def reasons(found: Found) -> dict[str, str]:
    return {Path(path).name: why for path, why in found.ignored}
