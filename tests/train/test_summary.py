"""A clip's summary says where it is bright, changes and moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from c3d_extract.train.augment import augment, mirrored_classes
from c3d_extract.train.summary import SUMMARY_SIZE, clip_summary, summary_loss
from c3d_extract.train.synthetic import SyntheticClips

COLOUR, CHANGE, ENERGY, FLOW = (slice(*ends) for ends in ((0, 147), (147, 196), (196, 260), (260, 358)))


def _drifting(across: float, down: float, size: int = 56) -> torch.Tensor:
    """A smooth pattern (1, 3, 8, size, size) that moves by parts of a 28th of the frame each frame."""
    rows, columns = np.mgrid[:size, :size] * 28 / size
    time = np.arange(8)[:, None, None]
    waves = np.sin(0.9 * (columns - across * time)) + np.sin(0.8 * (rows - down * time))
    return torch.from_numpy(120 + 50 * waves).float().expand(1, 3, 8, size, size)


@pytest.mark.parametrize(("across", "down"), [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.4), (0.3, -0.3)])
@pytest.mark.parametrize("size", [56, 112])
def test_flow_is_the_motion_of_the_pattern_at_any_size(across: float, down: float, size: int) -> None:
    flow = clip_summary(_drifting(across, down, size))[0, FLOW].view(2, 7, 7)[:, 1:-1, 1:-1] * 0.3
    assert (flow[0] - across).abs().max() < 0.1
    assert (flow[1] - down).abs().max() < 0.1


def test_change_is_found_where_and_when_it_happens() -> None:
    clip = torch.full((1, 3, 16, 56, 56), 100.0)
    clip[:, :, 13:, :14, 42:] = 200  # late, in the upper right corner
    summary = clip_summary(clip)[0]
    change, energy = summary[CHANGE].view(7, 7), summary[ENERGY].view(4, 4, 4)
    assert (change > change.min()).nonzero().tolist() == [[0, 5], [0, 6], [1, 5], [1, 6]]
    assert (energy > energy.min()).nonzero().tolist() == [[3, 0, 3]]


def test_colours_are_those_of_their_place_and_a_still_clip_has_no_flow() -> None:
    clip = torch.zeros(1, 3, 4, 28, 28)
    clip[:, 2, :, 24:, :4] = 255
    summary = clip_summary(clip)[0]
    colour = summary[COLOUR].view(3, 7, 7) * 0.25 + 0.46
    assert colour[2, 6, 0] == pytest.approx(1)
    assert colour.sum() == pytest.approx(1, abs=1e-4)
    assert summary[FLOW].abs().max() == 0


def test_numbers_of_training_clips_are_about_standard_normal() -> None:
    clips = SyntheticClips("all", 0, (16, 32, 32))
    pixels = torch.from_numpy(np.stack([clips.clip(index)[0] for index in range(120)]))
    torch.manual_seed(0)
    mirrored = torch.tensor(mirrored_classes(clips.labels))
    levels, _ = augment(pixels, torch.zeros(len(pixels), len(clips.labels)), (28, 28), mirrored)
    summary = clip_summary(levels)
    assert summary.shape == (120, SUMMARY_SIZE)
    for part in (COLOUR, CHANGE, ENERGY, FLOW):
        assert abs(float(summary[:, part].mean())) < 0.4
        assert 0.6 < float(summary[:, part].std(dim=0).mean()) < 1.4
    assert summary.abs().max() <= 4


def test_loss_is_summed_over_clips_and_averaged_over_numbers() -> None:
    expected = torch.zeros(3, SUMMARY_SIZE)
    found = expected.clone()
    found[0], found[1] = 0.5, 3.0
    assert summary_loss(found, expected) == pytest.approx(0.5 * 0.25 + (3 - 0.5))
