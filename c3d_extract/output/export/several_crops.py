"""Presets of several crops a clip, for anomaly detection: rtfm-10crop, xd-5crop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.output.export.arrays import write_only_layer
from c3d_extract.output.export.base import Needs, PerVideo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from c3d_extract.output.export.base import Preset, VideoClips, Write

__all__ = ["PRESETS"]

# XD-Violence has the centre first; torchvision's FiveCrop has it last.
_XD_ORDER = (4, 0, 1, 2, 3)


def _write_crop(clips: VideoClips, file: BinaryIO, *, crop: int) -> None:
    np.save(file, clips.only[:, crop], allow_pickle=False)


def _xd_files(_: Sequence[str]) -> dict[str, Write]:
    return {f"__{i}.npy": partial(_write_crop, crop=crop) for i, crop in enumerate(_XD_ORDER)}


PRESETS: tuple[Preset, ...] = (
    PerVideo(
        "rtfm-10crop",
        "RTFM, MGFN: ten crops a clip, .npy (T, 10, D)",
        Needs(stride=16, crops="ten"),
        files=lambda _: {".npy": write_only_layer},
    ),
    PerVideo(
        "xd-5crop",
        "XD-Violence: five crops a clip, a .npy each",
        Needs(stride=16, crops="five"),
        files=_xd_files,
    ),
)
