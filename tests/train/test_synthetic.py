from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from c3d_extract.errors import UsageError
from c3d_extract.train.synthetic import (
    ACTIONS,
    KINDS,
    MOTIONS,
    REVERSALS,
    SHAPES,
    SyntheticClips,
    render_video,
)
from c3d_extract.train.synthetic.actions import Pose, Scene
from c3d_extract.train.synthetic.clips import _figures
from c3d_extract.train.synthetic.figures import View, _passers_by, _random_view
from c3d_extract.train.synthetic.shapes import _trajectory, paint_shapes

SMALL = (16, 48, 48)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_clip_depends_on_seed_and_index_alone(kind: str) -> None:
    clips = SyntheticClips(kind, seed=3, size=SMALL)
    frames, labels = clips.clip(7)
    clips.clip(8)
    again, same = SyntheticClips(kind, seed=3, size=SMALL).clip(7)
    assert frames.shape == (*SMALL, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, again)
    assert labels == same
    assert not np.array_equal(frames, clips.clip(8)[0])
    assert not np.array_equal(frames, SyntheticClips(kind, seed=4, size=SMALL).clip(7)[0])


def test_every_label_comes_up_and_clips_of_shapes_have_two() -> None:
    clips = SyntheticClips("all", seed=0, size=(4, 16, 16))
    seen = [clips.clip(index)[1] for index in range(400)]
    assert {label for labels in seen for label in labels} == set(
        range(len(MOTIONS) + len(SHAPES) + len(ACTIONS))
    )
    assert {len(labels) for labels in seen} == {1, 2}


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"'dance'.*known: all"):
        SyntheticClips("dance", seed=0)


def test_clips_stay_the_ones_the_embedded_checkpoint_learned_from() -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden" / "synthetic_clips.json").read_text())
    n_clips = n_same = 0
    for name, digests in golden.items():
        kind, size = name.split()
        clips = SyntheticClips(kind, seed=2, size=(16, int(size), int(size)))
        found = [hashlib.sha256(clips.clip(int(index))[0].tobytes()).hexdigest() for index in digests]
        n_clips += len(digests)
        n_same += sum(a == b for a, b in zip(found, digests.values(), strict=True))
    # The last bit of a sine depends on NumPy and on the processor, and with it a few pixels of a clip in a
    # hundred (of ten, from NumPy 1 to 2). Compared are those of the first 60 clips that NumPy 1.26 and 2.4
    # draw alike, each with and without AVX2 and AVX-512; another processor may differ in others.
    assert n_same >= 0.9 * n_clips


def _displacement(frames: np.ndarray) -> np.ndarray:
    """Where the changed pixels' centre goes between the first and the last frames, in pixels (x, y)."""
    still = np.median(frames.astype(float).mean(axis=3), axis=0)
    centres = []
    for part in (frames[:5], frames[-5:]):
        weight = (np.abs(part.astype(float).mean(axis=3) - still) > 25).mean(axis=0)
        y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
        centres.append(
            ((weight * x).sum() / max(weight.sum(), 1e-9), (weight * y).sum() / max(weight.sum(), 1e-9))
        )
    return np.subtract(centres[1], centres[0])


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)]
)
def test_things_go_where_their_label_says(motion: str, axis: int, sign: int) -> None:
    ways = []
    for seed in range(24):
        canvas = paint_shapes(motion, "disc", (16, 64, 64), np.random.default_rng(seed))
        ways.append(_displacement((canvas.pixels * 255).transpose(1, 2, 3, 0))[axis] * sign)
    # Camera shake, occlusion and things that leave the frame may fool this crude tracker now and then.
    assert np.mean(np.array(ways) > 0) > 0.8


def test_still_scenes_are_still_without_camera_shake() -> None:
    clips = (paint_shapes("still", "star", SMALL, np.random.default_rng(seed)).pixels for seed in range(10))
    assert sum(np.ptp(pixels, axis=1).max() == 0 for pixels in clips) >= 5


@pytest.mark.parametrize("pair", REVERSALS)
def test_a_motion_and_its_reverse_are_drawn_alike(pair: tuple[str, str]) -> None:
    # The same chance gives both the same path with the other sign, and the changing speed
    # s(e) = e + c(e² - ¼) has c of either sign equally often: run backwards, one motion is the other.
    for seed in range(20):
        paths = [_trajectory(motion, 16, np.random.default_rng(seed)) for motion in pair]
        for field in dataclasses.fields(paths[0]):
            assert np.array_equal(getattr(paths[0], field.name), -getattr(paths[1], field.name))
    bends = []
    for seed in range(400):
        path = _trajectory(pair[0], 17, np.random.default_rng(seed))
        line = np.concatenate([np.ravel(getattr(path, f.name).T) for f in dataclasses.fields(path)])
        middle, ends = line.reshape(-1, 17)[:, 8], line.reshape(-1, 17)[:, [0, -1]].mean(axis=1)
        bends.append((middle - ends).sum())
    assert abs(np.mean(bends)) < 4 * np.std(bends) / np.sqrt(len(bends))


@pytest.mark.parametrize("action", list(ACTIONS))
def test_every_action_shows_motion(action: str) -> None:
    frames = render_video(action, 5, size=(24, 60, 80), seconds=2.0).astype(float)
    assert frames.std() > 5
    if action != "stand":
        assert np.abs(frames[12] - frames[0]).max() > 40


def _scene(seed: int, n_moments: int = 16) -> Scene:
    time = np.linspace(-1, 1, n_moments)
    return Scene(time, np.random.default_rng(seed), Pose(n_moments), Pose(n_moments))


def test_standing_up_bends_the_legs_as_sitting_down_does_at_the_other_end() -> None:
    sitting, rising = _scene(3), _scene(3)
    ACTIONS["sit-down"](sitting)
    ACTIONS["stand-up"](rising)
    assert sitting.actor.hip[0, 0] == 0
    assert sitting.actor.hip[0, -1] == pytest.approx(1.55)
    assert np.allclose(sitting.actor.hip + rising.actor.hip, 1.55)


def test_figures_are_seen_from_far_and_near() -> None:
    rng = np.random.default_rng(0)
    heights = np.array([_random_view(_scene(0), (100, 80), rng).height for _ in range(600)])
    assert 0.15 < (heights < 45).mean() < 0.25
    assert 0.12 < (heights > 100).mean() < 0.22
    assert heights.min() < 25
    assert heights.max() > 150


def test_a_view_scales_and_turns_the_world_about_the_origin_on_the_ground() -> None:
    view = View(100, 1.0, np.array([40.0, 90.0]), elevation=0.0, roll=np.pi / 2, shadow=0.0)
    assert np.allclose(view.project(np.array([0.0, 0.0, 0.0])), [40, 90])
    assert np.allclose(view.project(np.array([0.0, 0.5, 0.0])), [90, 90])  # up points right
    assert np.allclose(view.project(np.array([0.5, 0.0, 0.0])), [40, 140])  # right points down


def test_passers_by_keep_behind_the_actors_in_a_quarter_of_scenes() -> None:
    rng = np.random.default_rng(1)
    found = [_passers_by(np.linspace(-1, 1, 8), rng) for _ in range(200)]
    assert 0.15 < np.mean([len(people) > 0 for people in found]) < 0.35
    assert {len(people) for people in found} == {0, 1, 2}
    depths = [points["pelvis"][:, 2].mean() for people in found for points, _ in people]
    assert max(depths) < 0.2


def test_some_scenes_have_a_cut_to_another_background() -> None:
    n_cuts = 0
    for seed in range(60):
        pixels = _figures("stand", (16, 24, 24), np.random.default_rng(seed))
        change = np.abs(np.diff(pixels, axis=1)).mean(axis=(0, 2, 3))
        n_cuts += bool(change.max() > 0.05 and change.max() > 5 * np.median(change))
    assert 1 <= n_cuts <= 15


def test_actions_are_no_easier_to_tell_by_brightness_than_by_chance() -> None:
    clips = SyntheticClips("figures", seed=9, size=(2, 24, 24))
    levels: dict[int, list[float]] = {}
    for index in range(300):
        frames, (label,) = clips.clip(index)
        levels.setdefault(label, []).append(float(frames.mean()))
    means = [np.mean(values) for values in levels.values()]
    everything = np.concatenate(list(levels.values()))
    # Means of about 20 clips each; their spread must be what chance gives (standard error), not more.
    assert np.std(means) < 2 * everything.std() / np.sqrt(300 / len(levels))


def test_synthetic_clips_need_neither_torch_nor_the_training_loop() -> None:
    code = """
import sys
from c3d_extract.train.synthetic import render_video
render_video("walk", 0, size=(2, 16, 16), seconds=1)
print(*sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "av", "h5py", "c3d_extract.train.loop"} & set(done.stdout.split())
