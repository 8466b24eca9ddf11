"""Features equal those of the usual port, which shares no code with us: OpenCV's frames, plain torch.

The bar is 1e-3 relative on averaged fc6. With a random net a sixteenth as wide; the same comparison with
full-size weights on 62 real videos is ``benchmarks/fidelity.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from oracle import averaged_fc6, relative

from c3d_extract import Extractor
from c3d_extract.settings import ExtractSettings

if TYPE_CHECKING:
    from pathlib import Path

MEAN = np.array([100.61, 108.05, 107.81], np.float32)


@pytest.mark.parametrize(
    ("name", "pool5", "stride", "colour"),
    [
        ("v_ApplyEyeMakeup_g01_c01.avi", "ceil", 16, "bgr"),
        ("v_BaseballPitch_g01_c01.avi", "symmetric", 8, "rgb"),
    ],
)
def test_averaged_fc6_equals_the_usual_port(
    shared_data: Path, narrow_weights: Path, name: str, pool5: str, stride: int, colour: str
) -> None:
    path = shared_data / "samples" / "facebook_C3D" / name
    state = torch.load(narrow_weights, weights_only=True)
    expected = averaged_fc6(state, path, MEAN, pool5=pool5, stride=stride, colour=colour)
    with Extractor.from_weights(
        str(narrow_weights),
        ExtractSettings(stride=stride),
        mean=",".join(map(str, MEAN)),
        pool5=pool5,  # type: ignore[arg-type]
        colour=colour,  # type: ignore[arg-type]
        device="cpu",
        precision="fp32",
    ) as extractor:
        got = extractor.extract(path).mean()
    # Measured 1e-6: pixels are equal, only the order of float32 sums differs.
    assert relative(got, expected) < 1e-5
