from __future__ import annotations

import pytest
import torch

from c3d_extract.train.augment import augment, mirrored_classes
from c3d_extract.train.synthetic import KINDS, SyntheticClips
from c3d_extract.train.synthetic.shapes import paint_shapes

LABELS = KINDS["all"]


def _augmented(clips: torch.Tensor, seed: int = 0, size: tuple[int, int] = (12, 12)) -> torch.Tensor:
    torch.manual_seed(seed)
    targets = torch.eye(len(clips))
    return augment(clips, targets, size, torch.arange(len(clips)))[0]


def test_left_and_right_change_places_in_a_mirror_and_nothing_else_does() -> None:
    swapped = {label: LABELS[other] for label, other in zip(LABELS, mirrored_classes(LABELS), strict=True)}
    changed = {label: other for label, other in swapped.items() if label != other}
    pairs = (("left", "right"), ("clockwise", "counter-clockwise"), ("pan-left", "pan-right"))
    assert changed == {f"motion {a}": f"motion {b}" for pair in pairs for a, b in (pair, pair[::-1])}
    assert mirrored_classes(("left", "right")) == [0, 1]  # of other data, about whose names nothing is known


def test_mirrored_clips_get_the_mirrored_class() -> None:
    # Brightness rises from left to right; in a mirror it falls.
    ramp = torch.linspace(60, 180, 16).to(torch.uint8).view(1, 1, 1, 16, 1).expand(64, 4, 16, 16, 3)
    targets = torch.tensor([1.0, 0.0]).expand(64, 2)
    torch.manual_seed(3)
    pixels, found = augment(ramp.contiguous(), targets, (16, 16), torch.tensor([1, 0]))
    sums = pixels.mean(dim=(1, 2, 3))
    falls = sums[:, :4].mean(dim=1) > sums[:, -4:].mean(dim=1)
    wrong = (falls != (found[:, 1] == 1)).sum()
    assert wrong <= 3  # where a part is erased
    assert 16 < falls.sum() < 48


def test_frames_of_a_clip_are_changed_alike() -> None:
    still = torch.randint(0, 256, (16, 1, 20, 20, 3), dtype=torch.uint8).expand(16, 5, 20, 20, 3).contiguous()
    pixels = _augmented(still)
    assert pixels.shape == (16, 3, 5, 12, 12)
    assert (pixels - pixels[:, :, :1]).abs().max() < 1e-3
    assert pixels.min() >= 0
    assert pixels.max() <= 255


def test_clips_of_a_batch_are_changed_each_in_its_own_way_and_repeatably() -> None:
    same = torch.randint(0, 256, (1, 2, 20, 20, 3), dtype=torch.uint8).expand(8, 2, 20, 20, 3).contiguous()
    pixels = _augmented(same)
    assert all(not torch.equal(pixels[0], other) for other in pixels[1:])
    assert torch.equal(pixels, _augmented(same))
    assert not torch.equal(pixels, _augmented(same, seed=1))


def test_colours_keep_their_order_and_some_clips_are_grey_or_partly_erased() -> None:
    columns = torch.tensor([[200, 60, 60], [60, 200, 60]], dtype=torch.uint8)
    clips = columns.repeat_interleave(8, 0).view(1, 1, 1, 16, 3).expand(200, 2, 16, 16, 3).contiguous()
    pixels = _augmented(clips)
    spread = (pixels.max(dim=1).values - pixels.min(dim=1).values).flatten(1)
    grey = spread.median(dim=1).values < 1
    assert 0.05 < grey.float().mean() < 0.3
    flat = torch.full((200, 2, 16, 16, 3), 128, dtype=torch.uint8)
    ranges = _augmented(flat).amax(dim=(2, 3, 4)) - _augmented(flat).amin(dim=(2, 3, 4))
    erased = ranges.amax(dim=1) > 1
    assert 0.05 < erased.float().mean() < 0.25


@pytest.mark.parametrize("motion", ["left", "right"])
def test_the_direction_of_motion_agrees_with_the_class_after_augmentation(motion: str) -> None:
    import numpy as np

    clips = np.stack(
        [
            (paint_shapes(motion, "disc", (8, 32, 32), np.random.default_rng(seed)).pixels * 255)
            .clip(0, 255)
            .astype(np.uint8)
            .transpose(1, 2, 3, 0)
            for seed in range(24)
        ]
    )
    labels = SyntheticClips("motion", 0).labels
    targets = torch.zeros(24, len(labels))
    targets[:, labels.index(f"motion {motion}")] = 1
    torch.manual_seed(5)
    pixels, found = augment(
        torch.from_numpy(clips), targets, (32, 32), torch.tensor(mirrored_classes(labels))
    )
    grey = pixels.mean(dim=1)
    still = grey.median(dim=1, keepdim=True).values
    weight = (grey - still).abs().sum(dim=2) + 1e-6
    x = torch.arange(32.0)
    centre = (weight * x).sum(dim=2) / weight.sum(dim=2)
    goes_right = centre[:, -1] > centre[:, 0]
    says_right = found[:, labels.index("motion right")] == 1
    # Camera shake, occlusion and things that leave the frame may fool this crude tracker now and then.
    assert (goes_right == says_right).float().mean() > 0.75
