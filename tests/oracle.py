"""The features as the usual port computes them: OpenCV's frames, one clip at a time, plain torch calls.

Shares no code with the package. Used by the tests and by ``benchmarks/fidelity.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

CONVS = (("conv1",), ("conv2",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))


def relative(found: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    """‖found - right‖ / ‖right‖."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def opencv_frames(path: Path) -> NDArray[np.uint8]:
    """uint8 (T, 112, 112, 3), B, G, R: every frame of VideoCapture, resized to 171x128, cropped."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        frames.append(cv2.resize(frame, (171, 128))[8:120, 29:141])
    return np.stack(frames)


def conv_maps(state: Mapping[str, torch.Tensor], clip: torch.Tensor) -> torch.Tensor:
    """conv5b after ReLU of one clip float32 (1, 3, 16, 112, 112); state in DavideA's names."""
    x = clip
    for stage, names in enumerate(CONVS, start=1):
        for name in names:
            x = F.relu(F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        if stage < 5:
            x = F.max_pool3d(x, (1, 2, 2) if stage == 1 else 2)
    return x


def fc6_of(state: Mapping[str, torch.Tensor], maps: torch.Tensor, pool5: str) -> torch.Tensor:
    """fc6 after ReLU, (1, D), with the given rounding of pool5."""
    if pool5 == "ceil":  # 0 1|2 3|4 5|6: pad one line at the far end, as Caffe's rounding up comes to
        x = F.max_pool3d(F.pad(maps, (0, 1, 0, 1), value=0.0), 2)
    else:  # 0|1 2|3 4|5 6: pad one line at the near end
        x = F.max_pool3d(F.pad(maps, (1, 0, 1, 0), value=0.0), 2)
    return F.relu(F.linear(x.flatten(1), state["fc6.weight"], state["fc6.bias"]))


def clips_of(
    frames: NDArray[np.uint8], mean: NDArray[np.float32], stride: int, colour: str
) -> list[torch.Tensor]:
    """Whole clips, float32 (1, 3, 16, 112, 112) each, mean (3,) or (112, 112, 3) in B, G, R subtracted."""
    clips = []
    for start in range(0, len(frames) - 15, stride):
        clip = frames[start : start + 16].astype(np.float32) - mean
        if colour == "rgb":
            clip = clip[..., ::-1].copy()
        clips.append(torch.from_numpy(clip).permute(3, 0, 1, 2)[None].contiguous())
    return clips


def averaged_fc6(
    state: Mapping[str, torch.Tensor],
    path: Path,
    mean: NDArray[np.float32],
    *,
    pool5: str = "ceil",
    stride: int = 16,
    colour: str = "bgr",
) -> NDArray[np.float64]:
    """float64 (D,): fc6 averaged over the clips of a video of at least 16 frames."""
    with torch.inference_mode():
        features = [
            fc6_of(state, conv_maps(state, clip), pool5)[0].double().numpy()
            for clip in clips_of(opencv_frames(path), mean, stride, colour)
        ]
    mean_over_clips: NDArray[np.float64] = np.mean(features, axis=0)
    return mean_over_clips
