"""Testing a network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_samples import SMALL, TINY, render_class_folders, training_setup

from c3d_extract.train import RECIPES, Trainer, VideoClipSet, read_videos
from c3d_extract.train.evaluate import count_correct

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_class_folders(tmp_path_factory.mktemp("videos"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_right_answers_are_counted_as_by_a_plain_loop(seed: int, several_kinds: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = ("motion a", "motion b", "shape a", "shape b", "shape c") if several_kinds else tuple("abcde")
    scores, targets = rng.normal(size=(6, 5)), rng.random((6, 5)) < 0.3
    kinds = [range(2), range(2, 5)] if several_kinds else [range(5)]
    right = asked = 0
    for row in range(6):
        for kind in kinds:
            if any(targets[row, column] for column in kind):
                asked += 1
                right += targets[row, max(kind, key=lambda column: scores[row, column])]
    assert count_correct(torch.from_numpy(scores), torch.from_numpy(targets.astype(np.float32)), labels) == (
        right,
        asked,
    )


def test_a_test_is_the_same_however_many_processes_read_its_videos(
    class_folders: Path, tmp_path: Path
) -> None:
    listed = read_videos(class_folders)
    clips = VideoClipSet(listed, SMALL, RECIPES["ucf101"], seed=0)
    setup = training_setup(labels=listed.labels, architecture=dataclasses.replace(TINY, n_classes=2))
    tested = [Trainer(tmp_path, setup, clips, n_workers=n).evaluate(clips) for n in (0, 2)]
    assert tested[0] == tested[1]
    assert tested[0].videos in {n / 6 for n in range(7)}
