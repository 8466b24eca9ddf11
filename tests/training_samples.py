"""What tests of training share: a tiny network, its setup, and runs of the command."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from c3d_extract.cli.tools import module_main
from c3d_extract.cli.train import command
from c3d_extract.decode import write_video
from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.train import RECIPES, Intervals, Recipe, SyntheticClipSet, Trainer, TrainingSetup
from c3d_extract.train.synthetic import SyntheticClips, render_video

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

SMALL = Preprocessing(resize=(36, 44), crop=(32, 32))
TINY = dataclasses.replace(ARCHITECTURES["depth-3"].scaled(1 / 64), clip=(16, 32, 32))
EVERY = Intervals(report=1)
SHORT = ["synthetic:motion", "--width", "0.015625", "--size", "36", "44", "32", "32", "--batch-size", "4"]
SHORT += ["--save-every", "100", "--report-every", "1", "--n-test", "4", "--threads", "1"]
"""A run of the command that does four to eight iterations a second or more."""


def training_setup(recipe: Recipe | None = None, kind: str = "motion", **changes: Any) -> TrainingSetup:
    """What is trained: by default six iterations of four clips."""
    labels = SyntheticClips(kind, 0).labels
    recipe = recipe or RECIPES["synthetic"].with_changes({"batch_size": 4, "iterations": 6})
    setup = TrainingSetup(
        architecture=dataclasses.replace(TINY, n_classes=len(labels)),
        preprocessing=SMALL,
        mean=np.full((3, 1, 1, 1), 110, np.float32),
        recipe=recipe,
        labels=labels,
        data={"synthetic": kind},
        seed=5,
    )
    return dataclasses.replace(setup, **changes)


def synthetic_clips(kind: str = "motion", n_items: int | None = None) -> SyntheticClipSet:
    return SyntheticClipSet(SyntheticClips(kind, 7, (16, 32, 32)), n_items)


def finish(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Train to the end and return the weights."""
    for _ in trainer.run():
        pass
    return trainer.net.state_dict()


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def train(*arguments: str) -> Any:
    """Run the command in this process."""
    return CliRunner().invoke(command, [*arguments, "--workers", "0", "--device", "cpu"])


# Processes of their own, forked from a server that has imported torch.

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["training_server"])


def start(function: Callable[..., None], output: Path, *arguments: Any, **environment: str) -> BaseProcess:
    """Run a function in a process of its own, the leader of a group; its output goes to a file."""
    output.touch()
    method = multiprocessing.get_start_method()
    process = _server.Process(target=_call, args=(function, output, arguments, environment, method))
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server does not get this process's sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        process.start()
    return process


def _call(
    function: Callable[..., None],
    output: Path,
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    method: str,
) -> None:
    multiprocessing.set_start_method(method, force=True)  # not the server's: its workers start as usual
    os.setsid()
    written = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.environ.update(environment)
    function(*arguments)


def run_command(*arguments: str) -> None:
    """As ``python -m c3d_extract train``."""
    sys.argv = ["c3d_extract", "train", *arguments]
    module_main()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that happens soon; fails where it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def render_class_folders(folder: Path) -> Path:
    """Two classes of three videos of 20, 30 and 40 frames, 48x64."""
    for name in ("jump", "circling"):
        (folder / name).mkdir()
        for number in range(3):
            frames = render_video(name, number, size=(20 + 10 * number, 48, 64), seconds=2)
            write_video(folder / name / f"{number}.mp4", frames[..., ::-1], 15)
    return folder
