"""32 segments a video: the consumers' arithmetic, written again as plain loops."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
from export_samples import LENGTHS, STEMS, D, export, features, write_clips

from c3d_extract.output.export.segments import ekosman_segments, ucf_crime_segments

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def bounds(first: int, last: int, rounding: str) -> list[int]:
    """``round(linspace(first, last, 33))`` in exact arithmetic."""
    exact = [first + Fraction((last - first) * i, 32) for i in range(33)]
    return [
        int((Decimal(x.numerator) / Decimal(x.denominator)).quantize(Decimal(1), rounding)) for x in exact
    ]


def mean_of_unit_length(clips: list[list[float]]) -> list[float]:
    mean = [sum(values) / len(clips) for values in zip(*clips, strict=True)]
    norm = sqrt(sum(x * x for x in mean))
    return [x / norm for x in mean] if norm else mean


def ucf_crime(X: NDArray[np.float32]) -> NDArray[np.float64]:
    clips, segments = X.astype(float).tolist(), []
    shots = bounds(1, len(clips), ROUND_HALF_UP)  # MATLAB's round goes away from zero
    for i in range(32):
        first, last = shots[i], shots[i + 1] - 1  # 1-based, both included
        segment = [clips[k - 1] for k in range(first, last + 1)]
        segments.append(mean_of_unit_length(segment or [clips[first - 1]]))
    return np.array(segments)


def ekosman(X: NDArray[np.float32]) -> NDArray[np.float64]:
    clips, segments = X.astype(float).tolist(), []
    shots = bounds(0, len(clips) - 1, ROUND_HALF_EVEN)  # NumPy's round goes to the even number
    for start, end in pairwise(shots):
        segment = mean_of_unit_length(clips[start:end] or [clips[start]])
        if any(segment):
            segments.append(segment)
    return np.array(segments)


@pytest.mark.parametrize("n", [*range(1, 70), 97, 160, 177, 1001])
def test_segments_of_every_length_are_those_of_the_plain_loops(n: int) -> None:
    X = features("video", n)
    np.testing.assert_allclose(ucf_crime_segments(X), ucf_crime(X), rtol=1e-12)
    np.testing.assert_allclose(ekosman_segments(X), ekosman(X), rtol=1e-12)


def test_the_two_round_differently_and_so_differ() -> None:
    assert bounds(0, 16, ROUND_HALF_EVEN)[:4] == [0, 0, 1, 2]
    assert bounds(0, 16, ROUND_HALF_UP)[:4] == [0, 1, 1, 2]
    X = features("video", 17)
    assert not np.allclose(ucf_crime_segments(X), ekosman_segments(X))


def test_the_last_clip_counts_only_where_its_segment_is_empty() -> None:
    X = features("video", 100)
    changed = X.copy()
    changed[-1] += 7
    np.testing.assert_array_equal(ucf_crime_segments(changed), ucf_crime_segments(X))
    X = features("video", 5)
    changed = X.copy()
    changed[-1] = 7
    assert not np.array_equal(ucf_crime_segments(changed)[-1], ucf_crime_segments(X)[-1])


def test_clips_of_zeros_are_zeros_for_the_one_and_left_out_for_the_other() -> None:
    X = features("video", 33)
    X[3] = 0
    assert ucf_crime_segments(X).shape == (32, D)
    assert not ucf_crime_segments(X)[3].any()
    assert ekosman_segments(X).shape == (31, D)


def test_ucf_crime_files_are_read_as_a_list_of_words(tmp_path: Path) -> None:
    export("ucf-crime-32", write_clips(tmp_path / "clips.h5"), tmp_path / "out")
    for video, n in LENGTHS.items():
        text = (tmp_path / "out" / f"{STEMS[video]}_C.txt").read_text()
        assert text.count(" ") == 32 * D
        assert all(line.endswith(" ") for line in text.splitlines())
        words = text.split()
        rows = [np.array(words[i * D : i * D + D], np.float32) for i in range(len(words) // D)]
        np.testing.assert_allclose(np.array(rows), ucf_crime(features(video, n)), atol=6e-7)  # six decimals


def test_ekosman_files_are_read_line_by_line(tmp_path: Path) -> None:
    export("ekosman-32", write_clips(tmp_path / "clips.h5"), tmp_path / "out")
    for video, n in LENGTHS.items():
        lines = (tmp_path / "out" / f"{STEMS[video]}.txt").read_text().splitlines()
        read = np.zeros((len(lines), D))
        for i, line in enumerate(lines):
            read[i, :] = [float(x) for x in line.split(" ")]
        np.testing.assert_allclose(read, ekosman(features(video, n)), rtol=1e-8)
