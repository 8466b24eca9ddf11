"""From a video's name to the name of a file below a folder, or of an entry in a file."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

from c3d_extract.errors import StoreError
from c3d_extract.sources.kinds import VIDEO_SUFFIXES

__all__ = ["safe_name"]


def safe_name(video: str, *, keep_suffix: bool = False) -> PurePosixPath:
    """Return a video's name as a relative path, without the suffix of a video unless it is to be kept.

    Raises
    ------
    StoreError
        Where the path would lead out of a folder: it is absolute, or has ``..`` in it.
    """
    path = PurePosixPath(video)
    outside = path.is_absolute() or ".." in path.parts or not path.name or "\0" in video
    if outside or (os.name == "nt" and _leads_out_on_windows(video)):
        raise StoreError("such a name would lead out of the folder", subject=video or "''")
    named = path.suffix.lower() in VIDEO_SUFFIXES and path.stem != ""
    return path.with_suffix("") if named and not keep_suffix else path


def _leads_out_on_windows(video: str) -> bool:
    path = PureWindowsPath(video)
    return bool(path.drive or path.root) or ".." in path.parts or ":" in video
