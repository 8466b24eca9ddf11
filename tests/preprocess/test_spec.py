"""Preprocessing: a description keeps its values, and impossible ones are refused."""

from __future__ import annotations

import pytest

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.spec import Preprocessing


def test_a_description_survives_its_json() -> None:
    made = Preprocessing((64, 80), (50, 60), "rgb", (1.0, 2.0, 3.0))
    assert Preprocessing.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"crop": [200, 112]},
        {"crop": [0, 1]},
        {"colour": "yuv"},
        {"std": [0, 1, 1]},
        {"resize": [1]},
        {"std": None},
    ],
)
def test_an_impossible_description_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WeightsError):
        Preprocessing.from_json(Preprocessing().to_json() | change)
