"""Presets of 32 segments a video, for anomaly detection: ucf-crime-32, ekosman-32."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.output.export.base import Needs, PerVideo
from c3d_extract.output.pca_basis import l2_normalised

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from c3d_extract.output.export.base import Preset, VideoClips

__all__ = ["PRESETS", "ekosman_segments", "ucf_crime_segments"]

N_SEGMENTS = 32
_NEEDS = Needs(layers=("fc6",), stride=16, size=4096)


def ucf_crime_segments(X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average T clips (T, D) to 32 segments, each L2-normalised, as Save_C3DFeatures_32Segments.m does.

    Bounds are 1-based, and MATLAB rounds halves up. A segment ends before the next one's start; one without
    clips takes the clip at its start.
    """
    bounds = np.floor(np.linspace(1, len(X), N_SEGMENTS + 1) + 0.5).astype(int) - 1
    return _averages(X, bounds)


def ekosman_segments(X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average T clips (T, D) to 32 segments, each L2-normalised; segments of zeros are left out.

    As `to_segments` of AnomalyDetectionCVPR2018-Pytorch, which rounds halves to the even number.
    """
    segments = _averages(X, np.rint(np.linspace(0, len(X) - 1, N_SEGMENTS + 1)).astype(int))
    return segments[segments.any(axis=1)]


def _averages(X: NDArray[np.float32], bounds: NDArray[np.int64]) -> NDArray[np.float64]:
    spans = [(start, max(end, start + 1)) for start, end in pairwise(bounds.tolist())]
    return l2_normalised(np.stack([X[start:end].mean(axis=0, dtype=np.float64) for start, end in spans]))


def _write_ucf_crime(clips: VideoClips, file: BinaryIO) -> None:
    np.savetxt(file, ucf_crime_segments(clips.only), fmt="%f", newline=" \n")  # a space after each number


def _write_ekosman(clips: VideoClips, file: BinaryIO) -> None:
    np.savetxt(file, ekosman_segments(clips.only), fmt="%.9g")


PRESETS: tuple[Preset, ...] = (
    PerVideo(
        "ucf-crime-32",
        "UCF-Crime anomaly detection (Sultani et al.): 32 segments, text",
        _NEEDS,
        files=lambda _: {"_C.txt": _write_ucf_crime},
    ),
    PerVideo(
        "ekosman-32",
        "its PyTorch port (ekosman): 32 segments, text",
        _NEEDS,
        files=lambda _: {".txt": _write_ekosman},
    ),
)
