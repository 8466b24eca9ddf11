"""ExtractSettings: what the user chooses and what changes the numbers.

Written into every feature file and compared on resume. What only changes the speed (device, batch
size, workers) is not here; what the network needs (mean, colour order, pool5) belongs to its
checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from c3d_extract.errors import UsageError

__all__ = [
    "PRECISIONS",
    "SHORT_POLICIES",
    "TAIL_POLICIES",
    "ExtractSettings",
    "Precision",
    "Short",
    "Tail",
]

Tail = Literal["drop", "pad", "back"]
Short = Literal["pad", "loop", "fail"]
TAIL_POLICIES: tuple[Tail, ...] = ("drop", "pad", "back")
SHORT_POLICIES: tuple[Short, ...] = ("pad", "loop", "fail")

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class ExtractSettings:
    """The settings of one run.

    Attributes
    ----------
    layers
        Layers to extract, in one pass; each once.
    stride
        Frames between clip starts; 16 is the authors' example, 8 the paper's half overlap.
    tail, short
        What becomes of the frames after the last whole clip, and of videos under 16 frames; see `clips`.
    fps
        Frames a second to resample to by time, or None to take frames as they are decoded. Gaps of more
        than 60 s are not filled and make the video `partial`; one that would become more than 90,000
        frames, and 60 for each of its own, fails.
    l2
        Whether each video's average is L2-normalised (the paper's last step).
    pca
        Dimensions to keep, or None.
    strict
        Whether a video that could be decoded only in part counts as failed.
    max_pixels
        Frames with more pixels are refused.
    """

    layers: tuple[str, ...] = ("fc6",)
    stride: int = 16
    tail: Tail = "drop"
    short: Short = "pad"
    fps: float | None = None
    l2: bool = False
    pca: int | None = None
    strict: bool = False
    max_pixels: int = 1 << 26

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) != len(self.layers):
            raise UsageError("needs at least one layer, and each only once", subject="--layer")
        for option, value in (("--stride", self.stride), ("--max-pixels", self.max_pixels)):
            if value < 1:
                raise UsageError(f"must be at least 1, not {value}", subject=option)
        if self.pca is not None and self.pca < 1:
            raise UsageError(f"must be at least 1, not {self.pca}", subject="--pca")
        if self.fps is not None and not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise UsageError(
                f"must be above 0 and at most 1000 frames a second, not {self.fps:g}", subject="--fps"
            )
        if self.tail not in TAIL_POLICIES:
            raise UsageError(
                f"must be one of {', '.join(TAIL_POLICIES)}, not {self.tail!r}", subject="--tail"
            )
        if self.short not in SHORT_POLICIES:
            raise UsageError(
                f"must be one of {', '.join(SHORT_POLICIES)}, not {self.short!r}", subject="--short"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, layers as a list."""
        return dataclasses.asdict(self) | {"layers": list(self.layers)}
