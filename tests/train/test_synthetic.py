from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from c3d_extract.cli.demo import command as demo
from c3d_extract.decode import VideoReader
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
from c3d_extract.train.synthetic.shapes import _course, paint_shapes

if TYPE_CHECKING:
    from pathlib import Path

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
    clips = SyntheticClips("all", seed=0, size=(16, 32, 32))
    seen = [clips.clip(index)[1] for index in range(300)]
    assert {label for labels in seen for label in labels} == set(
        range(len(MOTIONS) + len(SHAPES) + len(ACTIONS))
    )
    assert {len(labels) for labels in seen} == {1, 2}


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"'dance'.*known: all"):
        SyntheticClips("dance", seed=0)


@pytest.mark.parametrize(
    ("kind", "levels"),
    [
        ("shapes", [159.442, 85.836, 121.411, 144.796, 14.469, 82.36]),
        ("figures", [213.847, 131.89, 131.123, 160.323, 76.09, 34.415]),
    ],
)
def test_clips_stay_the_ones_the_embedded_checkpoint_learned_from(kind: str, levels: list[float]) -> None:
    # Means of whole clips; a hundredth of a level leaves room for another processor's last bits only.
    clips = SyntheticClips(kind, seed=2, size=(16, 56, 56))
    assert [float(clips.clip(index)[0].mean()) for index in range(6)] == pytest.approx(levels, abs=0.01)


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


def test_still_scenes_are_still_when_nobody_shakes_the_camera() -> None:
    clips = (paint_shapes("still", "star", SMALL, np.random.default_rng(seed)).pixels for seed in range(10))
    assert sum(np.ptp(pixels, axis=1).max() == 0 for pixels in clips) >= 5


@pytest.mark.parametrize("pair", REVERSALS)
def test_a_motion_and_its_reverse_are_drawn_alike(pair: tuple[str, str]) -> None:
    # The same chance gives both the same course with the other sign, and the changing speed
    # s(e) = e + c(e² - ¼) has c of either sign equally often: run backwards, one motion is the other.
    for seed in range(20):
        courses = [_course(motion, 16, np.random.default_rng(seed)) for motion in pair]
        for field in dataclasses.fields(courses[0]):
            assert np.array_equal(getattr(courses[0], field.name), -getattr(courses[1], field.name))
    bends = []
    for seed in range(600):
        course = _course(pair[0], 17, np.random.default_rng(seed))
        line = np.concatenate([np.ravel(getattr(course, f.name).T) for f in dataclasses.fields(course)])
        middle, ends = line.reshape(-1, 17)[:, 8], line.reshape(-1, 17)[:, [0, -1]].mean(axis=1)
        bends.append((middle - ends).sum())
    assert abs(np.mean(bends)) < 4 * np.std(bends) / np.sqrt(len(bends))


@pytest.mark.parametrize("action", list(ACTIONS))
def test_every_action_shows_somebody_moving(action: str) -> None:
    frames = render_video(action, 5, size=(24, 60, 80), seconds=2.0).astype(float)
    assert frames.std() > 5
    if action != "stand":
        assert np.abs(frames[12] - frames[0]).max() > 40


def test_actions_are_no_easier_to_tell_by_brightness_than_by_chance() -> None:
    clips = SyntheticClips("figures", seed=9, size=(16, 32, 32))
    levels: dict[int, list[float]] = {}
    for index in range(450):
        frames, (label,) = clips.clip(index)
        levels.setdefault(label, []).append(float(frames.mean()))
    means = [np.mean(values) for values in levels.values()]
    everything = np.concatenate(list(levels.values()))
    # Means of about 30 clips each; their spread must be what chance gives (standard error), not more.
    assert np.std(means) < 2 * everything.std() / np.sqrt(450 / len(levels))


def test_demo_renders_playable_videos_and_the_same_ones_again(tmp_path: Path) -> None:
    results = [CliRunner().invoke(demo, [str(tmp_path / name), "--per-class", "1"]) for name in ("a", "b")]
    assert [result.exit_code for result in results] == [0, 0]
    assert "4 videos of 4 classes" in results[0].stderr
    assert results[0].stdout.startswith("c3d-extract ")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.mp4"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        with VideoReader(tmp_path / "a" / file) as reader:
            assert sum(1 for _ in reader.frames()) >= 48


def test_demo_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(demo, [str(tmp_path / "file" / "under"), "--per-class", "1"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "cannot be written" in result.stderr
