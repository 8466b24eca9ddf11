"""The pipeline knows a network by its backbone alone: any clip, frame size, layer and channel order runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from tiny_network import TinyNet, tiny_checkpoint

from c3d_extract import Extractor, FeatureFile

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def read_frames(path: Path) -> NDArray[np.uint8]:
    """OpenCV's frames, resized to 36 x 28, the centre 32 x 24 of them: uint8 (T, 24, 32, 3), B, G, R."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(cv2.resize(read[1], (36, 28))[2:26, 2:34])
    return np.stack(frames).astype(np.uint8)


def test_a_backbone_of_another_kind_runs_through_the_whole_pipeline(videos: Path, tmp_path: Path) -> None:
    net = TinyNet().eval()
    with Extractor(tiny_checkpoint(net), device="cpu", precision="fp32") as extractor:
        list(
            extractor.extract_files([videos / "mid.mp4"], tmp_path / "feats.h5", clips=tmp_path / "clips.h5")
        )
    # A plain loop: OpenCV's frames, clips of eight at a stride of four, R, G, B, the mean of all clips.
    frames = read_frames(videos / "mid.mp4")
    starts = range(0, len(frames) - 8 + 1, 4)
    with torch.inference_mode():
        clips = torch.stack([torch.from_numpy(frames[i : i + 8, ..., ::-1].copy()) for i in starts])
        expected = net(clips.permute(0, 4, 1, 2, 3).float() - 100, ["pooled"])["pooled"].numpy()
    with FeatureFile(tmp_path / "feats.h5") as file, FeatureFile(tmp_path / "clips.h5") as rows:
        assert file.layers == ["pooled"]
        assert json.loads(json.dumps(file.attributes["settings"]))["stride"] == 4
        np.testing.assert_array_equal(rows.column("start_frame"), list(starts))
        # Sums of float32 in another order.
        np.testing.assert_allclose(rows["pooled"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(file["pooled"][0], expected.mean(axis=0), rtol=1e-4, atol=1e-4)
