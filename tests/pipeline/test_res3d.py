"""Res3D-18 end to end: clips of eight frames, every second one of the video, as C3D v1.1's prototxt says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from checkpoint_writers import caffe_model, res3d_layers

from c3d_extract import Extractor, ExtractSettings, FeatureFile
from c3d_extract.cli.extract import _clips
from c3d_extract.decode import write_video

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("res3d") / "res3d.caffemodel"
    path.write_bytes(caffe_model(res3d_layers(n_classes=3)))
    return path


def crops(path: Path) -> list[np.ndarray]:
    """Every frame of a video as OpenCV decodes, resizes and crops it."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        found.append(cv2.resize(read[1], (171, 128))[8:120, 29:141])
    return found


def test_clips_are_of_every_second_frame(weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(
        rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC
    )
    video = tmp_path / "a.mp4"
    write_video(video, [np.roll(image, 2 * i, axis=1) for i in range(35)], fps=25)
    with Extractor.from_weights(weights, device="cpu", precision="fp32", batch_size=1) as extractor:
        assert _clips(extractor) == "8 frames a clip as decoded, one of 2"
        list(extractor.extract_files([video], tmp_path / "feats.h5", clips=tmp_path / "clips.h5"))
        model = extractor.checkpoint.backbone.build().eval()
    with torch.inference_mode():
        from c3d_extract.weights import load_checkpoint

        model.load_state_dict(load_checkpoint(weights).state)
        frames = np.stack(crops(video)[::2]).astype(np.float32) - 128
        clips = torch.from_numpy(np.stack([frames[:8], frames[8:16]])).permute(0, 4, 1, 2, 3)
        expected = model(clips, ["avgpool"])["avgpool"].numpy()
    with FeatureFile(tmp_path / "feats.h5") as file, FeatureFile(tmp_path / "clips.h5") as rows:
        assert rows.column("start_frame").tolist() == [0, 8]
        assert file.column("n_frames").tolist() == [18]
        assert file.attributes["settings"]["frame_step"] == 2
        assert np.linalg.norm(rows["avgpool"] - expected) / np.linalg.norm(expected) < 0.01
    source = ExtractSettings(fps="source")
    with Extractor.from_weights(weights, source, device="cpu", precision="fp32") as extractor:
        assert _clips(extractor) == "8 frames a clip as decoded"
        assert len(extractor.extract(video).clips) == 4
