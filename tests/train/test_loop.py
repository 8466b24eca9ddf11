"""The training loop: resume to the bit, workers, bad videos, mixed precision."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from training_samples import (
    EVERY,
    SMALL,
    TINY,
    finish,
    render_class_folders,
    same_weights,
    synthetic_clips,
    training_setup,
)

from c3d_extract.errors import C3DError, MismatchError
from c3d_extract.train import RECIPES, Intervals, SyntheticClipSet, Trainer, VideoClipSet, read_videos
from c3d_extract.train.data import collate
from c3d_extract.train.network import Outputs
from c3d_extract.train.synthetic import SyntheticClips
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "optimizer"), [("synthetic", "sgd"), ("synthetic", "adamw"), ("motion-mini", None)]
)
def test_resumed_training_gives_the_same_weights_to_the_bit(
    tmp_path: Path, name: str, optimizer: str | None
) -> None:
    recipe = RECIPES[name].with_changes({"batch_size": 4, "iterations": 5, "optimizer": optimizer})
    setup, clips = training_setup(recipe), synthetic_clips()
    whole = finish(Trainer(tmp_path / "whole", setup, clips))
    # Saved after iteration 2, stopped after 3 as by a kill: iteration 3 is done again.
    every = Intervals(report=1, save=2)
    for entry in Trainer(tmp_path / "parts", setup, clips, intervals=every).run():
        if entry.iteration == 3:
            break
    resumed = Trainer(tmp_path / "parts", setup, clips, intervals=every)
    assert resumed.iteration == 2
    assert same_weights(whole, finish(resumed))
    one, other = (load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("whole", "parts"))
    assert same_weights(one, other)
    with (tmp_path / "parts" / "log.csv").open() as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == [1, 2, 3, 4, 5]


def test_resume_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    Trainer(tmp_path, training_setup(), synthetic_clips()).save()
    with pytest.raises(MismatchError, match="seed: 5 → 6"):
        Trainer(tmp_path, training_setup(seed=6), synthetic_clips())


def test_batches_of_workers_need_no_dev_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for share in ("_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, share, full)  # workers inherit it
    setup, clips, test = training_setup(), synthetic_clips(), synthetic_clips(n_items=2)
    found = finish(Trainer(tmp_path / "workers", setup, clips, test, n_workers=1))
    assert same_weights(found, finish(Trainer(tmp_path / "alone", setup, clips)))


@dataclasses.dataclass(frozen=True)
class _Deadly(SyntheticClipSet):
    def clip(self, item: int, rng: np.random.Generator) -> Any:
        if item == 9:
            os.kill(os.getpid(), signal.SIGBUS)  # as where /dev/shm is full
        return super().clip(item, rng)


def test_a_worker_that_dies_ends_the_run_with_one_line(tmp_path: Path) -> None:
    deadly = _Deadly(SyntheticClips("motion", 7, (16, 32, 32)))
    trainer = Trainer(tmp_path, training_setup(), deadly, n_workers=1)
    with pytest.raises(C3DError, match=r"^a process that makes clips died \(DataLoader worker.*--workers 0"):
        finish(trainer)


def test_a_process_left_without_clips_stays_on_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without numbers stand in for a GPU's: an operation across devices is refused all the same.
    recipe = RECIPES["synthetic"].with_changes({"batch_size": 4, "iterations": 6, "augment": False})
    gpu, trainer = torch.device("cuda", 0), Trainer(tmp_path, training_setup(recipe), synthetic_clips())
    n_classes = len(trainer.setup.labels)
    monkeypatch.setattr(trainer, "device", gpu)
    monkeypatch.setattr(trainer, "_normalised", lambda levels: levels)
    monkeypatch.setattr(trainer, "_total", lambda _: 3)

    def scores(clips: torch.Tensor) -> Outputs:
        return Outputs(torch.zeros(len(clips), n_classes, device=gpu), None)

    with FakeTensorMode(), pytest.raises(DataDependentOutputException):  # "is the loss finite?" needs numbers
        trainer._step(scores, collate(["lost", "lost"], n_classes=n_classes))  # type: ignore[arg-type]


def test_mixed_precision_follows_the_loss_of_fp32_with_weights_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a CPU; not channels last, whose gradients in bf16 are wrong on CPUs (torch 2.15).
    monkeypatch.setattr("c3d_extract.train.loop.memory_format", lambda _device: torch.contiguous_format)
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(
            tmp_path / precision, training_setup(), synthetic_clips(), precision=precision, intervals=EVERY
        )
        losses[precision] = [entry.loss for entry in trainer.run()]
        assert all(value.dtype is torch.float32 for value in trainer.net.parameters())
    # bf16 has 8 bits: losses of 2.5 to 4.4 came out up to 0.025 apart over six steps of a high rate.
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.1)


def test_a_recipe_that_augments_changes_the_input_and_mirrors_labels_with_the_clips(tmp_path: Path) -> None:
    clips, labels = synthetic_clips("reversal"), SyntheticClips("reversal", 0).labels
    left, right = labels.index("motion left"), labels.index("motion right")
    found = [(frames, (left,)) for frames, _ in (clips.clips.clip(item) for item in range(32))]
    batch = collate(found, n_classes=len(labels))
    inputs = {}
    for augment in (False, True):
        recipe = RECIPES["synthetic"].with_changes({"batch_size": 4, "iterations": 6, "augment": augment})
        trainer = Trainer(tmp_path / str(augment), training_setup(recipe, kind="reversal"), clips)
        levels, targets = trainer._training_input(batch)
        inputs[augment] = trainer._normalised(levels)
        assert inputs[augment].shape == trainer.input(batch.clips).shape
        assert targets[:, [left, right]].sum() == 32
        assert (4 < targets[:, right].sum() < 28) if augment else (targets[:, right].sum() == 0)
    assert torch.equal(inputs[False], trainer.input(batch.clips))
    assert not any(torch.equal(one, other) for one, other in zip(*inputs.values(), strict=True))


def test_a_process_left_without_clips_teaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES["motion-mini"].with_changes({"batch_size": 4, "iterations": 6})
    trainer = Trainer(tmp_path, training_setup(recipe), synthetic_clips())
    monkeypatch.setattr(trainer, "_total", lambda _: 3)  # the other processes' clips
    trainer._step(trainer.net, collate(["lost", "lost"], n_classes=len(trainer.setup.labels)))
    gradients = [value.grad for value in trainer.net.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_fc6_learns_the_summary_and_the_model_is_written_without_it(tmp_path: Path) -> None:
    recipe = RECIPES["motion-mini"].with_changes(
        {"batch_size": 4, "iterations": 40, "augment": False, "dropout": 0.0, "rate": 0.005}
    )
    clips = synthetic_clips("reversal", n_items=4)
    batch = collate([clips.clips.clip(item) for item in range(4)], n_classes=len(clips.labels))
    losses = []
    for until in (1, 40):
        trainer = Trainer(tmp_path, training_setup(recipe, kind="reversal"), clips)
        finish(trainer) if until == 40 else list(trainer.run(until=until))
        levels, _ = trainer._training_input(batch)
        with torch.no_grad():
            losses.append(float(trainer._summary_loss(trainer.net(trainer._normalised(levels)), levels)))
    assert losses[1] < losses[0] / 2
    state = load_checkpoint(tmp_path / "model.safetensors").state
    assert set(state) == set(trainer.setup.architecture.state_shapes())


def test_gradients_of_a_larger_norm_are_scaled_down(tmp_path: Path) -> None:
    steps = {}
    for name, most in (("as they are", None), ("limited", 1e-3)):
        recipe = RECIPES["finetune"].with_changes(
            {"batch_size": 4, "iterations": 1, "rate": 1.0, "decay": 0.0, "max_gradient": most}
        )
        trainer = Trainer(tmp_path / name, training_setup(recipe), synthetic_clips())
        before = [value.detach().clone() for value in trainer.net.parameters()]
        list(trainer.run())
        changes = [(a.detach() - b).norm() for a, b in zip(trainer.net.parameters(), before, strict=True)]
        steps[name] = float(torch.stack(changes).norm())
    assert steps["as they are"] > 2e-3
    assert steps["limited"] == pytest.approx(1e-3, rel=1e-2)


def test_a_network_that_needs_much_memory_is_tested_in_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, test = Trainer(tmp_path, training_setup(), synthetic_clips()), synthetic_clips(n_items=5)
    together = trainer.evaluate(test)
    monkeypatch.setattr(
        "c3d_extract.train.loop._MAX_TEST_ELEMENTS", 2 * trainer.setup.architecture.peak_elements()
    )
    sizes, logits = [], trainer.net.logits

    def noted(clips: torch.Tensor) -> torch.Tensor:
        sizes.append(len(clips))
        return logits(clips)

    monkeypatch.setattr(trainer.net, "logits", noted)
    apart = trainer.evaluate(test)
    assert sizes == [2, 2, 1]
    assert apart.loss == pytest.approx(together.loss, rel=1e-5)


def test_a_single_batch_can_be_overfitted(tmp_path: Path) -> None:
    clips = synthetic_clips("reversal", n_items=4)
    recipe = RECIPES["synthetic"].with_changes(
        {"batch_size": 4, "iterations": 40, "dropout": 0.0, "rate": 0.01, "augment": False}
    )
    setup = training_setup(recipe, kind="reversal")
    log = list(Trainer(tmp_path, setup, clips).run())
    assert log[-1].loss < log[0].loss / 3


def test_a_bad_video_costs_itself_only(tmp_path: Path) -> None:
    videos = sorted(render_class_folders(tmp_path).glob("*/*.mp4"))
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    lines = [f"{path} {path.parent.name}" for path in videos]
    (tmp_path / "list.txt").write_text("\n".join([*lines, f"{tmp_path / 'bad.mp4'} jump"]))
    listed = read_videos(tmp_path / "list.txt")
    recipe = dataclasses.replace(RECIPES["finetune"], batch_size=7, iterations=2)
    clips = VideoClipSet(listed, SMALL, recipe, seed=0)
    architecture = dataclasses.replace(TINY, n_classes=2)
    setup = training_setup(recipe, labels=listed.labels, architecture=architecture, data={"list": "bad"})
    log = list(Trainer(tmp_path / "run", setup, clips, clips, intervals=EVERY).run())
    assert [len(entry.failures) for entry in log] == [1, 2], "the last also tests on it"
    assert "bad.mp4" in log[0].failures[0]
    assert all(np.isfinite(entry.loss) for entry in log)
    assert log[-1].test_videos is not None
