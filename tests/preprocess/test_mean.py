"""Means of every shape that public checkpoints have are brought to the network's input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.mean import fit_mean
from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUBE = np.random.default_rng(0).uniform(80, 120, (3, 16, 128, 171))
CROPPED = CUBE[:, :, 8:120, 29:141]


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        (CUBE, CROPPED),
        (CUBE[None], CROPPED),
        (CROPPED, CROPPED),
        (CUBE[:, 3], CROPPED[:, 3:4]),
        (CROPPED[:, 3], CROPPED[:, 3:4]),
        (CUBE[:, 3:4], CROPPED[:, 3:4]),
        (np.array([104.0, 117.0, 123.0]), np.array([104.0, 117.0, 123.0]).reshape(3, 1, 1, 1)),
        (
            np.array([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1, 1),
            np.array([104, 117, 123.0]).reshape(3, 1, 1, 1),
        ),
    ],
)
def test_a_mean_of_any_shape_is_cut_as_the_frames_are(
    mean: NDArray[np.float64], expected: NDArray[np.float64]
) -> None:
    fitted = fit_mean(mean, Preprocessing(), 16)
    assert fitted.dtype == np.float32
    assert (fitted == expected.astype(np.float32)).all()
    assert fitted.shape == expected.shape


@pytest.mark.parametrize(
    "shape",
    [
        (4,),
        (2,),
        (1,),
        (3, 8, 128, 171),
        (1, 16, 128, 171),
        (3, 171, 128),
        (3, 16, 128, 128),
        (2, 3, 1, 1, 1),
        (),
    ],
)
def test_a_mean_of_another_shape_is_refused_with_the_shapes_that_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="this network takes 3 numbers, 3x128x171, 3x16x128x171"):
        fit_mean(np.zeros(shape), Preprocessing(), 16)


def test_a_mean_that_is_not_finite_is_refused() -> None:
    with pytest.raises(WeightsError, match="not finite"):
        fit_mean(np.array([1.0, np.nan, 2.0]), Preprocessing(), 16)
