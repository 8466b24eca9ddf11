"""The files of one output and what may be in their way."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from c3d_extract.errors import StoreError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OutputPaths"]


@dataclass(frozen=True)
class OutputPaths:
    """The files of one output; all names but the clip file's derive from the feature file's."""

    features: Path
    clips: Path | None = None

    @classmethod
    def of(cls, features: Path, clips: Path | None = None) -> OutputPaths:
        """Follow symbolic links, so that one output has one journal whatever it is called."""
        followed = [path.resolve() if path and path.is_symlink() else path for path in (features, clips)]
        return cls(followed[0] or features, followed[1])

    @property
    def journal(self) -> Path:
        """``feats.h5.partial``: there while a run is not finished."""
        return self.features.with_name(f"{self.features.name}.partial")

    @property
    def report(self) -> Path:
        """``feats.report.jsonl``."""
        return self.features.with_name(f"{self.features.stem}.report.jsonl")

    @property
    def basis(self) -> Path:
        """``feats.pca.h5``."""
        return self.features.with_name(f"{self.features.stem}.pca.h5")

    @property
    def every(self) -> tuple[Path, ...]:
        """All of them, there or not."""
        return tuple(filter(None, (self.features, self.clips, self.journal, self.report, self.basis)))

    def check(self) -> None:
        """Raise unless the names differ, the folders can be written, and no folder is in the way."""
        others = (self.features, self.journal, self.report, self.basis)
        if self.clips is not None and self.clips.resolve() in {path.resolve() for path in others}:
            raise UsageError("--clips needs a file of its own", subject=self.clips, hint="name another")
        for path in filter(None, (self.features, self.clips)):
            if path.is_dir():
                raise StoreError("is a folder", subject=path, hint="name a file")
            _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"the folder cannot be written ({error.strerror or error})"
        raise StoreError(reason, subject=folder, hint="take another -o") from error
