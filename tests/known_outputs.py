"""Outputs of a C3D network for the frames of two short videos, by OpenCV and the functions of torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from pathlib import Path

    from checkpoint_writers import State
    from numpy.typing import NDArray

CLIPS = [("kick", 1), ("kick", 9), ("wave", 1)]
"""Video and first frame, from 1, of each clip."""


def write_frames(folder: Path) -> Path:
    """Write two folders of numbered JPEGs of moving, coloured noise."""
    rng = np.random.default_rng(0)
    for video, n in (("kick", 24), ("wave", 16)):
        (folder / video).mkdir(parents=True)
        image = cv2.resize(
            rng.integers(0, 256, (8, 10, 3), dtype=np.uint8), (100, 80), interpolation=cv2.INTER_CUBIC
        )
        image = np.clip(image * np.array([1.0, 0.7, 0.4]), 0, 255).astype(np.uint8)  # channels that differ
        for i in range(n):
            cv2.imwrite(str(folder / video / f"{i + 1:06d}.jpg"), np.roll(image, 3 * i, axis=1))
    return folder


def _image(file: Path) -> NDArray[Any]:
    image = cv2.imread(str(file))
    assert image is not None
    return image


def plain_outputs(
    state: State, frames: Path, colour: str, pool5: str, mean: tuple[float, float, float]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """fc6 and class probabilities of CLIPS."""
    rows = []
    for video, start in CLIPS:
        files = sorted((frames / video).iterdir())[start - 1 : start + 15]
        images = [cv2.resize(_image(file), (171, 128))[8:120, 29:141] for file in files]
        clip = torch.from_numpy(np.stack(images).astype(np.float32) - np.array(mean, np.float32))
        rows.append(clip.permute(3, 0, 1, 2) if colour == "bgr" else clip.permute(3, 0, 1, 2).flip(0))
    x = torch.stack(rows)
    w = {name: torch.from_numpy(array) for name, array in state.items()}
    for name in ("conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"):
        x = F.relu(F.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1))
        if name == "conv1a":
            x = F.max_pool3d(x, (1, 2, 2))
        elif name in {"conv2a", "conv3b", "conv4b"}:
            x = F.max_pool3d(x, 2)
    x = F.pad(x, (0, 1, 0, 1)) if pool5 == "ceil" else F.pad(x, (1, 1, 1, 1))  # zeros never win after ReLU
    fc6 = F.relu(F.linear(F.max_pool3d(x, 2).flatten(1), w["fc6.weight"], w["fc6.bias"]))
    fc7 = F.relu(F.linear(fc6, w["fc7.weight"], w["fc7.bias"]))
    return fc6.numpy(), F.softmax(F.linear(fc7, w["fc8.weight"], w["fc8.bias"]), dim=1).numpy()
