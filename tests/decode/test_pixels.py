"""Pixels are OpenCV's with every PyAV that may be installed: held against crops that OpenCV made before."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from c3d_extract.decode import MAX_PIXELS
from c3d_extract.decode.pool import DecodeOptions, decode
from c3d_extract.preprocess.spec import Preprocessing

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/opencv_crops.json").read_text("utf-8"))
"""Written by golden/make_crops.py, with OpenCV alone."""


@pytest.mark.parametrize("name", GOLDEN["videos"])
def test_crops_of_a_sample_video_are_those_that_opencv_made(shared_data: Path, name: str) -> None:
    """To the byte. A new PyAV that fails here must not be let in by pyproject.toml."""
    golden: dict[str, Any] = GOLDEN["videos"][name]
    digest, n_frames = hashlib.sha256(), 0
    for crop, _ in itertools.islice(
        decode(shared_data / "samples" / name, DecodeOptions(Preprocessing(), MAX_PIXELS)), 40
    ):
        if crop is not None:
            digest.update(crop.tobytes())
            n_frames += 1
    assert {"n_frames": n_frames, "sha256": digest.hexdigest()} == golden
