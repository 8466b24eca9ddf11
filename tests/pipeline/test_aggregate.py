"""The clips of a video become one descriptor, by one rule that files and `Features.mean` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from c3d_extract.pipeline import aggregate
from c3d_extract.pipeline.aggregate import AGGREGATES, Mean, aggregated

if TYPE_CHECKING:
    import pytest


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6, width=32)))
def test_the_mean_is_numpys_in_float64(clips: np.ndarray) -> None:
    expected = (clips.astype(np.float64).sum(axis=0) / len(clips)).astype(np.float32)
    # Sums in another order differ by rounding of float64, which float32 shows in its last digit at most.
    np.testing.assert_allclose(aggregated(clips), expected, rtol=2**-22, atol=1e-9)


def test_a_clip_may_be_overwritten_once_it_was_added() -> None:
    buffer, mean = np.array([[1, 2]], np.float32), Mean()
    mean.add(buffer)
    buffer[:] = 3, 4
    mean.add(buffer)
    assert mean.result().tolist() == [2, 3]
    assert mean.result().dtype == np.float32


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(1, 9),
)
def test_the_mean_does_not_depend_on_the_batches(clips: np.ndarray, size: int) -> None:
    total = np.zeros(clips.shape[1])
    for clip in clips:
        total = total + clip
    mean = Mean()
    for start in range(0, len(clips), size):
        mean.add(clips[start : start + size])
    assert (mean.result() == (total / len(clips)).astype(np.float32)).all()


def test_another_rule_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last:
        def add(self, clips: np.ndarray) -> None:
            self.clip: np.ndarray = clips[-1].copy()

        def result(self) -> np.ndarray:
            return self.clip

    monkeypatch.setitem(aggregate.AGGREGATES, "last", Last)
    assert aggregated(np.array([[1.0], [7.0]], np.float32), "last").tolist() == [7]
    assert set(AGGREGATES) == {"mean", "last"}
