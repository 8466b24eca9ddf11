"""Pixels equal OpenCV's with every supported PyAV: compared with crops that OpenCV made before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3d_extract.decode import DecodeOptions, FramesDecoded
from c3d_extract.decode.video import decode_video
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/opencv_crops.json").read_text("utf-8"))
"""Written by golden/make_crops.py, with OpenCV alone."""


@pytest.mark.parametrize("name", GOLDEN["videos"])
def test_crops_of_a_sample_video_are_those_that_opencv_made(shared_data: Path, name: str) -> None:
    """To the byte. A new PyAV that fails here must not be allowed by pyproject.toml."""
    golden: dict[str, Any] = GOLDEN["videos"][name]
    first_frames = np.empty((40, 112, 112, 3), np.uint8)
    options = DecodeOptions(FrameSampler(Preprocessing()), len(first_frames))
    path = shared_data / "samples" / name
    event = next(decode_video(0, path, options, next_buffer=lambda: first_frames))
    assert isinstance(event, FramesDecoded)
    digest = hashlib.sha256(event.frames.tobytes()).hexdigest()
    assert {"n_frames": len(event.frames), "sha256": digest} == golden
