"""What goes into a run's files: its identity, one row a video, one row a clip, and the sum of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["INFORMATIONAL", "JSON", "ClipRows", "RunIdentity", "State", "Status", "Summary", "VideoRow"]

JSON: TypeAlias = Any
"""What ``json`` reads and writes: None, bool, int, float, str, lists and dicts of them."""

Status = Literal["ok", "partial", "failed"]

State = Literal["new", "changed", "failed", "journaled", "done"]
"""What is known of a video before a run."""

INFORMATIONAL: frozenset[str] = frozenset({"record"})
"""Keys of `RunIdentity.settings` and `.weights` that may differ between runs on the same output."""


@dataclass(frozen=True)
class RunIdentity:
    """What two runs must share to write one file."""

    settings: dict[str, JSON]
    """Flat: what the user chose and what changes the numbers."""
    weights: dict[str, JSON]
    """Flat: name, sha256 and dialect of the checkpoint and its mean."""
    layer_sizes: dict[str, int]
    """Layer → dimensions before PCA."""
    versions: dict[str, str]
    """The package's and its libraries'; recorded, never compared."""

    def differences(self, other: RunIdentity) -> list[str]:
        """Return one ``name: here → there`` for every setting that is not the same in ``other``."""
        here, there = self._comparable(), other._comparable()
        names = [name for name in here | there if here.get(name) != there.get(name)]
        names.sort(key=lambda name: name.startswith(("weights ", "size of ")))  # settings first
        return [f"{name}: {_shown(here, name)} → {_shown(there, name)}" for name in names]

    def to_json(self) -> str:
        """Return the identity as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunIdentity:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    def _comparable(self) -> dict[str, JSON]:
        groups = {"": self.settings, "weights ": self.weights, "size of ": self.layer_sizes}
        flat = {f"{kind}{key}": value for kind, group in groups.items() for key, value in group.items()}
        kept = {
            name: value for name, value in flat.items() if name.removeprefix("weights ") not in INFORMATIONAL
        }
        return dict(json.loads(json.dumps(kept)))  # tuples become lists, as they do in a file


def _shown(values: dict[str, JSON], name: str) -> str:
    if name not in values:
        return "none"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class ClipRows:
    """Consecutive clips of one video; nothing is normalised or projected."""

    start_frame: NDArray[np.int64]
    """int64 (n), 0-based."""
    end_frame: NDArray[np.int64]
    """int64 (n), exclusive."""
    start_seconds: NDArray[np.float64]
    """float64 (n), from the container's time stamps; NaN where it has none."""
    end_seconds: NDArray[np.float64]
    """float64 (n)."""
    features: dict[str, NDArray[np.float32]]
    """Layer → float32 (n, D)."""


@dataclass(frozen=True)
class VideoRow:
    """One finished video."""

    video: str
    """The name it goes by in the file; any text that is valid UTF-8 without NUL."""
    status: Status
    error: str | None
    seconds: float
    """Wall time of decoding."""
    features: dict[str, NDArray[np.float32]]
    """Layer → float32 (D), the plain average over the clips; empty when the video failed."""
    n_clips: int
    n_frames: int
    n_padded_frames: int
    n_decode_errors: int
    fps: float
    """Frames a second; NaN where the container does not say."""
    duration_seconds: float
    """NaN where the container does not say."""
    width: int
    height: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Summary:
    """What a run left behind."""

    written: tuple[Path, ...]
    """The files that were put in place, the feature file last; without it when nothing could be written."""
    n_rows: int
    """Rows of the feature file as it is now; 0 when there is none."""
    n_ok: int
    n_partial: int
    n_failed: int
    """Videos by status, those of earlier runs on this output included."""
    message: str | None = None
    """Why no feature file was written, if so."""
