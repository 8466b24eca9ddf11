"""Videos that are written can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from video_samples import moving_frames, read

from c3d_extract.decode import (
    write_video,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    frames = moving_frames(7, 48, 64)
    smooth = np.stack([cv2.GaussianBlur(frame, (9, 9), 4) for frame in frames])
    write_video(tmp_path / "a:b.mp4", smooth, 25)
    got, reader = read(tmp_path / "a:b.mp4")
    assert (reader.info.width, reader.info.height, reader.info.fps) == (64, 48, 25.0)
    # Chroma at half size and a lossy codec: a few grey levels.
    assert np.abs(np.stack(got)[..., ::-1].astype(int) - smooth).mean() < 6
