"""ExtractSettings: what the user chooses and what changes the numbers.

Written into every feature file and compared on resume. What only changes the speed (device, batch
size, workers) is not here; what the network needs (mean, colour order, pool5) belongs to its
checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "CROPS",
    "PRECISIONS",
    "SHORT_POLICIES",
    "TAIL_POLICIES",
    "Crops",
    "ExtractSettings",
    "Precision",
    "ResolvedSettings",
    "Short",
    "Tail",
]

Tail = Literal["drop", "pad", "back"]
Short = Literal["pad", "loop", "fail"]
TAIL_POLICIES: tuple[Tail, ...] = ("drop", "pad", "back")
SHORT_POLICIES: tuple[Short, ...] = ("pad", "loop", "fail")

Crops = Literal["centre", "five", "ten"]
CROPS: dict[Crops, int] = {"centre": 1, "five": 5, "ten": 10}
"""Each choice of crops, with their number."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")


class _Defaults(Protocol):
    """What a `c3d_extract.models.base.Backbone` gives here."""

    @property
    def default_layer(self) -> str: ...

    @property
    def default_stride(self) -> int: ...

    @property
    def fps(self) -> float | None: ...

    @property
    def frame_step(self) -> int: ...


@dataclass(frozen=True)
class ExtractSettings:
    """The settings of one run.

    Attributes
    ----------
    layers
        Layers to extract, in one pass; each once. None takes the network's own descriptor (C3D: fc6).
    stride
        Frames between clip starts. None takes the network's own (C3D: 16, as in the authors' example; the
        paper's half overlap is 8).
    tail
        How to treat the frames after the last whole clip; see `c3d_extract.preprocess.clips`.
    short
        How to treat videos shorter than a clip; see there.
    fps
        Frames per second to resample to by time, or ``source`` to take frames as they are decoded. None takes
        the network's own (C3D: frames as they are decoded). Gaps of more than 60 s are not filled and make
        the video `partial`; one that would become more than 90,000 frames, and 60 for each of its own, fails.
    crops
        Which crops of each clip: the centre as the network takes it; or torchvision's ``FiveCrop`` (top left,
        top right, bottom left, bottom right, centre) or ``TenCrop`` (the same of the mirrored frames behind
        them) of the resized frames. A video's row is the average over all crops of all clips.
    l2
        Whether each video's average is L2-normalised (the paper's last step).
    pca
        Dimensions to keep, or None.
    strict
        Whether a video that could be decoded only in part counts as failed.
    max_pixels
        Frames with more pixels are refused.
    """

    layers: tuple[str, ...] | None = None
    stride: int | None = None
    tail: Tail = "drop"
    short: Short = "pad"
    fps: float | Literal["source"] | None = None
    crops: Crops = "centre"
    l2: bool = False
    pca: int | None = None
    strict: bool = False
    max_pixels: int = 1 << 26

    def __post_init__(self) -> None:
        layers = self.layers
        if layers is not None and (not layers or len(set(layers)) != len(layers)):
            raise UsageError("needs at least one layer, and each only once", subject="--layer")
        counts = {"--stride": self.stride, "--max-pixels": self.max_pixels, "--pca": self.pca}
        for option, value in counts.items():
            if value is not None and value < 1:
                raise UsageError(f"must be at least 1, not {value}", subject=option)
        fps = self.fps
        if isinstance(fps, str):
            if fps != "source":
                raise UsageError(f"must be a number or source, not {fps!r}", subject="--fps")
        elif fps is not None and not (math.isfinite(fps) and 0 < fps <= 1000):
            raise UsageError(
                f"must be above 0 and at most 1000 frames a second, not {fps:g}", subject="--fps"
            )
        _check_choice("--tail", self.tail, TAIL_POLICIES)
        _check_choice("--short", self.short, SHORT_POLICIES)
        _check_choice("--crops", self.crops, CROPS)

    def for_backbone(self, backbone: _Defaults) -> ResolvedSettings:
        """Return these settings with the network's own layer, stride and frame rate where none was given."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["layers"] = self.layers or (backbone.default_layer,)
        values["stride"] = self.stride or backbone.default_stride
        values["fps"] = None if self.fps == "source" else self.fps or backbone.fps
        values["frame_step"] = backbone.frame_step if self.fps is None else 1
        return ResolvedSettings(**values)


def _check_choice(option: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise UsageError(f"must be one of {', '.join(choices)}, not {value!r}", subject=option)


@dataclass(frozen=True)
class ResolvedSettings(ExtractSettings):
    """The settings of a run whose network is known: nothing is left to a default.

    ``fps`` is None where frames are taken as they are decoded, then every ``frame_step``-th of them.
    """

    layers: tuple[str, ...] = ()
    stride: int = 0
    fps: float | None = None
    frame_step: int = 1

    @property
    def n_crops(self) -> int:
        """Crops of each clip."""
        return CROPS[self.crops]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, layers as a list; ``frame_step`` only where frames are left out."""
        values = dataclasses.asdict(self) | {"layers": list(self.layers)}
        if self.frame_step == 1:
            del values["frame_step"]
        return values
