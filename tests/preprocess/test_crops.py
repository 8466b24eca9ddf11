"""The centre crop is the original tool's."""

from __future__ import annotations

from c3d_extract.preprocess.crops import centre_offset
from c3d_extract.preprocess.spec import Preprocessing


def test_the_default_crop_is_the_original_tools() -> None:
    assert Preprocessing().offset == (8, 29), "rows 8:120, columns 29:141"


def test_odd_margins_are_halved_downwards() -> None:
    assert centre_offset((128, 171), (111, 100)) == (8, 35)
    assert centre_offset((64, 64), (64, 63)) == (0, 0)
