"""Recipes are the papers' and refuse impossible numbers."""

from __future__ import annotations

from typing import Any

import pytest

from c3d_extract.errors import UsageError
from c3d_extract.train import RECIPES


def test_recipes_are_the_papers() -> None:
    ucf101, sports1m = RECIPES["ucf101"].fixed(3000), RECIPES["sports1m"]
    assert (ucf101.batch_size, ucf101.iterations, ucf101.momentum) == (30, 1600, 0.9)
    assert [ucf101.rate_at(i * 100) for i in (0, 3, 4, 8, 12)] == pytest.approx(
        [3e-3, 3e-3, 3e-4, 3e-5, 3e-6]
    )
    assert [sports1m.rate_at(i) for i in (0, 149_999, 150_000, 300_000)] == [0.003, 0.003, 0.0015, 0.00075]
    assert (sports1m.clips_per_video, sports1m.segment_seconds, sports1m.mirror) == (5, 2.0, 0.5)
    assert RECIPES["finetune"].rate_at(5_000) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0.0},
        {"batch_size": 0},
        {"mirror": 1.5},
        {"every": 0},
        {"summary": -1.0},
        {"max_gradient": 0.0},
    ],
)
def test_a_recipe_with_an_impossible_number_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        RECIPES["ucf101"].with_changes(change)
