"""Training: what is promised of resume, several processes, lists, bad videos and the finished file."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from c3d_extract import Extractor
from c3d_extract.cli.train import _device, _precision, command
from c3d_extract.decode import open_video, write_video
from c3d_extract.errors import C3DError, DeviceError, MismatchError, UsageError
from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.train import RECIPES, Plan, Recipe, SyntheticSource, Trainer, VideoSource, read_videos
from c3d_extract.train.data import TrainingClips, collate
from c3d_extract.train.loop import hits
from c3d_extract.train.network import TrainingNet
from c3d_extract.train.synthetic import SyntheticClips, render_video
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Preprocessing(resize=(36, 44), crop=(32, 32))
TINY = dataclasses.replace(ARCHITECTURES["depth-3"].scaled(1 / 64), clip=(16, 32, 32))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _plan(recipe: Recipe | None = None, kind: str = "motion", **changes: Any) -> Plan:
    labels = SyntheticClips(kind, 0).labels
    recipe = recipe or RECIPES["synthetic"].with_changes({"batch_size": 4, "iterations": 6})
    plan = Plan(
        architecture=dataclasses.replace(TINY, n_classes=len(labels)),
        preprocessing=SMALL,
        mean=np.full((3, 1, 1, 1), 110, np.float32),
        recipe=recipe,
        labels=labels,
        data={"synthetic": kind},
        seed=5,
    )
    return dataclasses.replace(plan, **changes)


def _synthetic(kind: str = "motion", n_items: int | None = None) -> SyntheticSource:
    return SyntheticSource(SyntheticClips(kind, 7, (16, 32, 32)), n_items)


def _finish(trainer: Trainer) -> dict[str, torch.Tensor]:
    for _ in trainer.run():
        pass
    return trainer.net.state_dict()


# Resume


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_training_gives_the_same_weights_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    recipe = RECIPES["synthetic"].with_changes({"batch_size": 4, "iterations": 6, "optimizer": optimizer})
    plan, source = _plan(recipe), _synthetic()
    whole = _finish(Trainer(tmp_path / "whole", plan, source, save_every=100, report_every=2))
    # Saved after iteration 2, stopped after 3 as by a kill: iteration 3 is done again.
    stopped = Trainer(tmp_path / "parts", plan, source, save_every=2, report_every=1)
    for report in stopped.run():
        if report.iteration == 3:
            break
    resumed = Trainer(tmp_path / "parts", plan, source, save_every=2, report_every=2)
    assert resumed.iteration == 2
    parts = _finish(resumed)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    one, other = ((tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    states = [load_checkpoint(path).state for path in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_log_has_each_iteration_once_after_a_resume(tmp_path: Path) -> None:
    plan, source = _plan(), _synthetic()
    for report in Trainer(tmp_path, plan, source, save_every=2, report_every=1).run():
        if report.iteration == 3:
            break
    _finish(Trainer(tmp_path, plan, source, save_every=2, report_every=1))
    with (tmp_path / "log.csv").open() as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == [1, 2, 3, 4, 5, 6]


def test_resume_with_other_settings_is_refused_and_names_them(tmp_path: Path) -> None:
    _finish(Trainer(tmp_path, _plan(), _synthetic()))
    with pytest.raises(MismatchError, match="seed: 5 → 6"):
        Trainer(tmp_path, _plan(seed=6), _synthetic())


def test_a_killed_run_ends_with_the_weights_of_one_left_alone(tmp_path: Path) -> None:
    words = ["synthetic:motion", "--width", "0.02", "--size", "36", "44", "32", "32", "--iterations", "8"]
    words += [
        "--batch-size",
        "4",
        "--save-every",
        "1",
        "--report-every",
        "1",
        "--n-test",
        "4",
        "--threads",
        "1",
    ]
    start = [sys.executable, "-m", "c3d_extract", "train", *words, "--workers", "0", "--device", "cpu"]
    process = subprocess.Popen([*start, "-o", str(tmp_path / "killed")], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.split("/")[0].strip() == "3":
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["iteration"] < 8
    for name in ("killed", "alone"):
        assert _train(*words, "-o", str(tmp_path / name)).exit_code == 0
    killed, alone = (
        load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("killed", "alone")
    )
    assert all(torch.equal(killed[name], alone[name]) for name in alone)


SHORT = ["synthetic:motion", "--width", "0.02", "--size", "36", "44", "32", "32", "--batch-size", "4"]
SHORT += ["--save-every", "100", "--report-every", "1", "--n-test", "4", "--threads", "1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_of_a_step_it_is_saved_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    words = [*SHORT, "--iterations", "6"]
    assert _train(*words, "-o", str(tmp_path / "alone")).exit_code == 0
    step = Trainer._step

    def interrupted(self: Trainer, *batch: Any) -> Any:
        done = step(self, *batch)  # the weights are the next iteration's, the counter is not
        if self.iteration == 2:
            os.kill(os.getpid(), number)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        stopped = _train(*words, "-o", str(tmp_path / "parts"))
    assert stopped.exit_code == 130
    assert "Stopped after iteration 3; the same command goes on from there." in stopped.stderr
    assert "Traceback" not in stopped.stderr
    resumed = _train(*words, "-o", str(tmp_path / "parts"))
    assert resumed.exit_code == 0
    assert "from iteration 3" in resumed.stderr
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("alone", "parts")]
    alone, parts = (state["net"] for state in states)
    assert all(torch.equal(alone[name], parts[name]) for name in alone)
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("alone", "parts")]
    assert [line.split(",")[:3] for line in logs[0]] == [line.split(",")[:3] for line in logs[1]]


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a run with one worker, in a process group of its own, and wait for its third report."""
    start = [sys.executable, "-m", "c3d_extract", "train", *SHORT, "--iterations", "1000", "-o", str(folder)]
    process = subprocess.Popen(
        [*start, "--workers", "1", "--device", "cpu", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    next(line for line in process.stderr if line.split("/")[0].strip() == "3")
    return process


def test_ctrl_c_which_a_terminal_sends_to_workers_too_stops_in_one_piece(tmp_path: Path) -> None:
    process = _start(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    last = told.splitlines()[-1]
    assert last.startswith("Stopped after iteration ")
    assert f" {torch.load(tmp_path / 'state.pt', weights_only=True)['iteration']};" in last


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    process = _start(tmp_path)
    process.kill()
    process.communicate(timeout=60)  # returns when no worker holds stderr any more


def test_batches_of_workers_need_no_dev_shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for share in ("_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, share, full)  # workers inherit it
    source = _synthetic()
    found = _finish(Trainer(tmp_path / "workers", _plan(), source, _synthetic(n_items=2), n_workers=1))
    alone = _finish(Trainer(tmp_path / "alone", _plan(), source))
    assert all(torch.equal(alone[name], found[name]) for name in alone)


@dataclasses.dataclass(frozen=True)
class _Deadly(SyntheticSource):
    def clip(self, item: int, rng: np.random.Generator) -> Any:
        if item == 9:
            os.kill(os.getpid(), signal.SIGBUS)  # as where /dev/shm is full
        return super().clip(item, rng)


def test_a_worker_that_dies_ends_the_run_with_one_line(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, _plan(), _Deadly(SyntheticClips("motion", 7, (16, 32, 32))), n_workers=1)
    with pytest.raises(C3DError, match=r"^a process that makes clips died \(DataLoader worker.*--workers 0"):
        _finish(trainer)


# Several processes


_FAILING = """
import os, sys
from c3d_extract.cli.tools import module_main
from c3d_extract.train import Trainer
step = Trainer._step
def failing(self, *batch):
    if self.iteration == 2 and self.rank == 1:
        raise ValueError("injected")
    return step(self, *batch)
Trainer._step = failing
try:
    module_main()
except ValueError:
    print("it raised", flush=True)
    input()
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_where_one_process_fails_the_others_end_too(tmp_path: Path) -> None:
    # Without torchrun, which ends the others by itself; and the failed one stays, with its connections open.
    words = ["-c", _FAILING, "train", *SHORT, "--iterations", "50", "--workers", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    first, second = (
        subprocess.Popen(
            [sys.executable, *words, "-o", str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    )
    assert second.stdout is not None
    assert "it raised\n" in second.stdout
    told, _ = first.communicate(timeout=20)
    assert first.returncode == 1
    assert told.endswith("Error: another process failed (process 1: injected); the last state is kept\n")
    second.communicate("\n", timeout=20)


def _loopback() -> str:
    """Name the interface by which a machine reaches itself: lo on Linux, lo0 on macOS."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


@pytest.mark.timeout(200)
def test_two_processes_follow_the_loss_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    # Gradients are summed in another order, so float32 rounding (1e-7) grows over iterations: 1e-4 allowed.
    # Batch norm and dropout are off, for they depend on how a batch is divided.
    words = ["-m", "c3d_extract", "train", "synthetic:motion", "--width", "0.02"]
    words += ["--size", "36", "44", "32", "32", "--iterations", "6", "--batch-size", "8", "--no-batch-norm"]
    words += ["--dropout", "0", "--workers", "0", "--report-every", "1", "--n-test", "4"]
    words += ["--device", "cpu", "--threads", "1"]
    # By default the processes look for each other under the machine's name: an address that may not be there.
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    torchrun += ["--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback()}
    for name, start in (("one", []), ("two", torchrun)):
        done = subprocess.run(
            [sys.executable, *start, *words, "-o", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    losses = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert len(losses[0]) == 6
    assert np.allclose(losses[0], losses[1], rtol=1e-4)
    states = [load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("one", "two")]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], rtol=1e-3, atol=1e-4)


def test_a_process_left_without_clips_stays_on_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without numbers stand in for a GPU's: an operation across devices is refused all the same.
    gpu, trainer = torch.device("cuda", 0), Trainer(tmp_path, _plan(), _synthetic())
    n_classes = len(trainer.plan.labels)
    monkeypatch.setattr(trainer, "device", gpu)
    monkeypatch.setattr(trainer, "input", lambda clips: clips)
    monkeypatch.setattr(trainer, "_total", lambda _: 3)

    def scores(clips: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(clips), n_classes, device=gpu)

    with FakeTensorMode(), pytest.raises(DataDependentOutputException):  # "is the loss finite?" needs numbers
        trainer._step(scores, collate(["lost", "lost"], n_classes=n_classes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "rank", "finds"),
    [("auto", "1", "cuda:1"), ("cuda", "0", "cuda:0"), ("cuda:1", None, "cuda:1"), ("cpu", "1", "cpu")],
)
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, name: str, rank: str | None, finds: str
) -> None:
    chosen: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("WORLD_SIZE", "1" if rank is None else "2")
    monkeypatch.setenv("LOCAL_RANK", rank) if rank else monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert _device(name) == torch.device(finds)
    assert chosen == ([torch.device(finds)] if finds.startswith("cuda") else [])


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="cannot share a GPU; use --device cuda"):
        _device("cuda:0")
    with pytest.raises(DeviceError, match="only 2 CUDA devices here"):
        _device("cuda")


def test_mixed_precision_is_for_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "V100")
    gpu = torch.device("cuda", 0)
    for capability, finds in (((7, 0), "fp32"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert _precision("auto", gpu) == finds
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(DeviceError, match="not in cuda:0 V100"):
        _precision("bf16", gpu)


# The network


def test_mixed_precision_follows_the_loss_of_fp32_with_weights_in_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU plays the GPU; not channels last, whose gradients in bf16 are wrong on CPUs (torch 2.15).
    monkeypatch.setattr("c3d_extract.train.loop.layout", lambda _device: torch.contiguous_format)
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(tmp_path / precision, _plan(), _synthetic(), precision=precision, report_every=1)
        losses[precision] = [report.loss for report in trainer.run()]
        assert all(value.dtype is torch.float32 for value in trainer.net.parameters())
    # bf16 has 8 bits: losses of 2.5 to 4.4 came out up to 0.025 apart over six steps of a high rate.
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.1)


def test_batch_norm_folds_into_the_convolutions() -> None:
    torch.manual_seed(0)
    net = TrainingNet(dataclasses.replace(TINY, n_classes=5), RECIPES["synthetic"])
    for norm in net.norms.values():
        state = norm.state_dict()
        torch.nn.init.uniform_(state["weight"], -1.5, 1.5)
        torch.nn.init.normal_(state["bias"])
        torch.nn.init.normal_(state["running_mean"])
        torch.nn.init.uniform_(state["running_var"], 0.5, 2)
    plain = C3D(net.architecture)
    plain.load_state_dict(net.plain_state())
    clips = torch.randn(2, 3, *TINY.clip)
    with torch.no_grad():
        expected, found = net.eval().logits(clips), plain.eval()(clips)["fc8"]
    # float32, eight layers: relative 1e-4 of the largest value.
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def _reversal_change(name: str) -> float:
    """How much fc6 changes when a clip runs backwards, relative to its length."""
    torch.manual_seed(1)
    net = TrainingNet(
        dataclasses.replace(ARCHITECTURES[name].scaled(1 / 16), clip=(16, 32, 32)),
        RECIPES["synthetic"].with_changes({"batch_norm": False}),
    ).eval()
    clips = torch.randn(2, 3, 16, 32, 32)
    with torch.no_grad():
        forward, backward = (C3D.forward(net, x, ("fc6",))["fc6"] for x in (clips, clips.flip(2)))
    return float((forward - backward).norm() / forward.norm())


def test_depth_1_cannot_tell_a_clip_from_its_reverse_and_the_others_can() -> None:
    # Kernels of depth 1 see single frames, and max over pairs of 16, 8, 4 and 2 frames has no direction.
    assert _reversal_change("depth-1") < 1e-6
    for name in ("depth-3", "depth-7", "increasing", "decreasing"):
        assert _reversal_change(name) > 0.05


def test_a_batch_of_one_label_can_be_learned_by_heart(tmp_path: Path) -> None:
    source = _synthetic("reversal", n_items=4)
    recipe = RECIPES["synthetic"].with_changes(
        {"batch_size": 4, "iterations": 40, "dropout": 0.0, "rate": 0.01}
    )
    plan = _plan(recipe, kind="reversal")
    reports = list(Trainer(tmp_path, plan, source, report_every=20, save_every=100).run())
    assert reports[-1].loss < reports[0].loss / 3


# Recipes


def test_recipes_are_the_papers() -> None:
    ucf101, sports1m = RECIPES["ucf101"].fixed(3000), RECIPES["sports1m"]
    assert (ucf101.batch_size, ucf101.iterations, ucf101.momentum) == (30, 1600, 0.9)
    assert [ucf101.rate_at(i * 100) for i in (0, 3, 4, 8, 12)] == pytest.approx(
        [3e-3, 3e-3, 3e-4, 3e-5, 3e-6]
    )
    assert [sports1m.rate_at(i) for i in (0, 149_999, 150_000, 300_000)] == [0.003, 0.003, 0.0015, 0.00075]
    assert (sports1m.clips_per_video, sports1m.segment_seconds, sports1m.mirror) == (5, 2.0, 0.5)
    assert RECIPES["finetune"].rate_at(5_000) == pytest.approx(1e-5)


@pytest.mark.parametrize("change", [{"rate": 0.0}, {"batch_size": 0}, {"mirror": 1.5}, {"every": 0}])
def test_a_recipe_with_an_impossible_number_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        RECIPES["ucf101"].with_changes(change)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_hits_agree_with_a_plain_loop(seed: int, several_kinds: bool) -> None:
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
    assert hits(torch.from_numpy(scores), torch.from_numpy(targets.astype(np.float32)), labels) == (
        right,
        asked,
    )


# Lists


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_class_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "run/a.mp4", "run/deep/b.avi", "walk/c.mkv", "walk/notes.txt")
    found = read_videos(tmp_path)
    assert found.labels == ("run", "walk")
    assert [(video.path.name, video.labels) for video in found.videos] == [
        ("a.mp4", (0,)),
        ("b.avi", (0,)),
        ("c.mkv", (1,)),
    ]


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("path,label\na.mp4,run\nb c.mp4,walk\n", ("run", "walk"), [(0,), (1,)]),
        ("a.mp4 run\nb c.mp4 walk\n", ("run", "walk"), [(0,), (1,)]),
        ("a.mp4 0\nb c.mp4 2\n", ("0", "1", "2"), [(0,), (2,)]),
        ('"a.mp4","run, fast"\nb c.mp4,walk\n', ("run, fast", "walk"), [(0,), (1,)]),
        ("a.mp4 3,1\n\nb c.mp4 2\n", ("0", "1", "2", "3"), [(3, 1), (2,)]),
    ],
)
def test_lists(tmp_path: Path, text: str, labels: tuple[str, ...], expected: list[tuple[int, ...]]) -> None:
    _touch(tmp_path, "a.mp4", "b c.mp4")
    (tmp_path / "list.txt").write_text(text)
    found = read_videos(tmp_path / "list.txt")
    assert found.labels == labels
    assert [video.labels for video in found.videos] == expected


def test_official_ucf101_lists(tmp_path: Path) -> None:
    _touch(tmp_path / "videos", "YoYo/v_YoYo_g01_c01.avi", "Archery/v_Archery_g01_c01.avi")
    (tmp_path / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    (tmp_path / "trainlist01.txt").write_text("YoYo/v_YoYo_g01_c01.avi 2\nArchery/v_Archery_g01_c01.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nYoYo/gone.avi\n")
    train = read_videos(tmp_path / "trainlist01.txt", root=tmp_path / "videos")
    assert train.labels == ("Archery", "YoYo")
    assert [video.labels for video in train.videos] == [(1,), (0,)]
    test = read_videos(tmp_path / "testlist01.txt", root=tmp_path / "videos", labels=train.labels)
    assert [video.labels for video in test.videos] == [(0,)]
    assert test.n_missing == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.mp4 1\n\nbroken\n", "line 3.*expected a path and a label"),
        ("a.mp4,run\nb.mp4,\n", "line 2.*expected a path and a label"),
        ('a.mp4,run\n"b.mp4,walk\n', "line 2.*broken"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, text: str, says: str) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UsageError, match=says):
        read_videos(tmp_path / "list.txt")


def test_a_line_that_can_be_no_path_is_a_missing_video(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text(f"a.mp4 0\nb.mp4 1\nnul\0.mp4 1\n{'x' * 100_000}.mp4 1\n")
    assert read_videos(tmp_path / "list.txt").n_missing == 2


def test_a_label_that_is_no_class_is_named_by_its_line(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\na.mp4 7\n")
    with pytest.raises(UsageError, match=r"line 2.*'7' is none of the 3 classes"):
        read_videos(tmp_path / "list.txt", labels=("x", "y", "z"))


def test_what_has_one_class_alone_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "all/run/a.mp4", "all/walk/b.mp4")
    with pytest.raises(UsageError, match=r"one class alone, 'all'.*did you mean .*all\?"):
        read_videos(tmp_path)
    (tmp_path / "list.csv").write_text("all/run/a.mp4,run\nall/walk/b.mp4,run\n")
    with pytest.raises(UsageError, match=r"list\.csv: has one class alone, 'run'"):
        read_videos(tmp_path / "list.csv")
    (tmp_path / "all" / "jump").mkdir()
    with pytest.raises(UsageError, match=r"jump: holds no videos for class 'jump'"):
        read_videos(tmp_path / "all")
    assert len(read_videos(tmp_path / "all", labels=("jump", "run", "walk")).videos) == 2


def test_a_list_none_of_whose_videos_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    with pytest.raises(UsageError, match="2 of its videos are not there; --root"):
        read_videos(tmp_path / "list.txt")


# Clips of videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three videos of 20 to 40 frames, and one file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("jump", "circling"):
        (folder / name).mkdir()
        for number in range(3):
            frames = render_video(name, number, size=(20 + 10 * number, 48, 64), seconds=2)
            write_video(folder / name / f"{number}.mp4", frames[..., ::-1], 15)
    return folder


def test_test_clips_are_cut_as_extraction_cuts_them(videos: Path) -> None:
    source = VideoSource(read_videos(videos), SMALL, RECIPES["ucf101"], seed=0)
    with open_video(source.videos[1].path) as reader:
        crops = [FrameSampler(SMALL)(frame.bgr) for frame in reader.frames()]
    clips = [clip for clip, _ in source.test_clips(1)]
    assert np.array_equal(clips[0], crops[:16])
    assert np.array_equal(clips[-1], crops[-16:])


def test_of_a_long_video_the_test_clips_alone_are_held_and_are_spread_evenly(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("c3d_extract.train.data._MANY_FRAMES", 30)
    source = VideoSource(read_videos(videos), SMALL, RECIPES["ucf101"], seed=0)
    with open_video(source.videos[2].path) as reader:
        crops = np.stack([FrameSampler(SMALL)(frame.bgr) for frame in reader.frames()])
    assert len(crops) == 40
    starts = []
    for clip, _ in source.test_clips(2):
        starts += [t for t in range(25) if np.array_equal(crops[t : t + 16], clip)]
    # 25 places, ten of them from the first to the last, each rounded down.
    assert starts == [0, 2, 5, 8, 11, 13, 16, 19, 22, 24]


def test_folders_of_numbered_images_are_videos_too_and_all_of_them_is_used(tmp_path: Path) -> None:
    for name, length in (("run", 200), ("walk", 3)):
        folder = tmp_path / name / "a video"
        folder.mkdir(parents=True)
        for number in range(length):
            Image.new("RGB", (44, 36), (number, number, number)).save(folder / f"{number:06d}.png")
    listed = read_videos(tmp_path)
    assert [video.path.name for video in listed.videos] == ["a video"] * 2
    source = VideoSource(listed, SMALL, RECIPES["ucf101"], seed=0)
    assert [int(clip[0, 0, 0, 0]) for clip, _ in source.test_clips(0)][-1] == 184
    firsts = [int(source.clip(0, np.random.default_rng(seed))[0][0, 0, 0, 0]) for seed in range(60)]
    assert min(firsts) < 20
    assert max(firsts) > 165
    assert np.unique(source.clip(1, np.random.default_rng(0))[0][:, 0, 0, 0]).tolist() == [0, 1, 2]


def test_training_clips_are_windows_of_the_video_some_of_them_mirrored(videos: Path) -> None:
    listed = read_videos(videos)
    whole = Preprocessing(resize=SMALL.resize, crop=SMALL.resize)
    with open_video(listed.videos[0].path) as reader:
        frames = np.stack([FrameSampler(whole)(frame.bgr) for frame in reader.frames()])
    windows = {
        (frames[t : t + 16, y : y + 32, x : x + 32][:, :, :: 1 - 2 * flip].tobytes()): (t, y, x, flip)
        for t in range(len(frames) - 15)
        for y in range(5)
        for x in range(13)
        for flip in (0, 1)
    }
    source = VideoSource(listed, SMALL, RECIPES["ucf101"], seed=0)
    found = [windows[source.clip(0, np.random.default_rng(seed))[0].tobytes()] for seed in range(40)]
    assert 8 <= sum(place[3] for place in found) <= 32
    assert len({place[0] for place in found}) >= 4
    assert len({place[1:3] for place in found}) >= 15


def test_every_clip_comes_once_an_epoch_in_an_order_of_its_own(videos: Path) -> None:
    source = VideoSource(read_videos(videos), SMALL, RECIPES["ucf101"], seed=0)
    clips = TrainingClips(source, seed=3)
    orders = [[clips._item(position, 6) for position in range(start, start + 6)] for start in (0, 6, 12)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_a_bad_video_costs_itself_only(videos: Path, tmp_path: Path) -> None:
    lines = [f"{path} {path.parent.name}" for path in sorted(videos.glob("*/*.mp4"))]
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    (tmp_path / "list.txt").write_text("\n".join([*lines, f"{tmp_path / 'bad.mp4'} jump"]))
    listed = read_videos(tmp_path / "list.txt")
    recipe = dataclasses.replace(RECIPES["finetune"], batch_size=7, iterations=2)
    source = VideoSource(listed, SMALL, recipe, seed=0)
    plan = _plan(
        recipe,
        labels=listed.labels,
        architecture=dataclasses.replace(TINY, n_classes=2),
        data={"list": "bad"},
    )
    reports = list(Trainer(tmp_path / "run", plan, source, source, report_every=1).run())
    assert [len(report.failures) for report in reports] == [1, 2], "the last also tests on it"
    assert "bad.mp4" in reports[0].failures[0]
    assert all(np.isfinite(report.loss) for report in reports)
    assert reports[-1].test_videos is not None


def test_a_test_is_the_same_however_many_processes_read_its_videos(videos: Path, tmp_path: Path) -> None:
    listed = read_videos(videos)
    source = VideoSource(listed, SMALL, RECIPES["ucf101"], seed=0)
    plan = _plan(labels=listed.labels, architecture=dataclasses.replace(TINY, n_classes=2))
    tested = [Trainer(tmp_path, plan, source, n_workers=n).evaluate(source) for n in (0, 2)]
    assert tested[0] == tested[1]
    assert tested[0].videos in {n / 6 for n in range(7)}


def test_a_clip_of_several_classes_asks_for_each_in_equal_parts() -> None:
    clip = np.zeros((16, 4, 4, 3), np.uint8)
    batch = collate([(clip, (0, 2)), "lost", (clip, (1,))], n_classes=3)
    assert batch.targets.tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert batch.failures == ["lost"]


# The command


def _train(*words: str) -> Any:
    return CliRunner().invoke(command, [*words, "--workers", "0", "--device", "cpu"])


def test_the_finished_file_extracts_as_it_is(videos: Path, tmp_path: Path) -> None:
    words = ["--arch", "depth-3", "--width", "0.02", "--size", "36", "44", "32", "32", "--epochs", "1"]
    run = tmp_path / "run"
    done = _train(
        str(videos), "-o", str(run), "--test", str(videos), *words, "--batch-size", "3", "--half", "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["iteration"] == 2
    assert (run / "curve.png").stat().st_size > 1000
    found = load_checkpoint(run / "model.safetensors")
    assert found.labels == ["circling", "jump"]
    assert found.architecture.n_classes == 2
    with Extractor.from_weights(str(run / "model.safetensors"), device="cpu") as extractor:
        features = extractor.extract(videos / "jump" / "2.mp4")
    assert features.clips.shape == (2, found.architecture.hidden[0])


def test_fine_tuning_starts_from_a_checkpoint_with_a_new_last_layer(videos: Path, tmp_path: Path) -> None:
    _finish(Trainer(tmp_path / "first", _plan(), _synthetic()))
    start = tmp_path / "first" / "model.safetensors"
    words = ["-o", str(tmp_path / "second"), "--from", str(start), "--iterations", "1", "--batch-size", "2"]
    done = _train(str(videos), *words, "--rate", "1e-9", "--no-batch-norm")
    assert done.exit_code == 0, done.output
    assert "fc8.bias, fc8.weight" in done.stderr
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "second" / "model.safetensors")
    assert after.labels == ["circling", "jump"]
    assert after.preprocessing == before.preprocessing
    for name, value in after.state.items():
        if not name.startswith("fc8"):
            assert torch.allclose(value, before.state[name], atol=1e-6)


def test_the_same_command_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    words = ["synthetic:motion", "-o", str(tmp_path), "--width", "0.02", "--size", "36", "44", "32", "32"]
    words += ["--iterations", "2", "--batch-size", "2", "--n-test", "4"]
    assert _train(*words).exit_code == 0
    again = _train(*words)
    assert again.exit_code == 0
    assert "from iteration 2" in again.stderr
    other = _train(*words, "--rate", "0.5")
    assert other.exit_code == 1
    assert "started with other settings" in other.stderr
    assert "--overwrite" in other.stderr
    assert _train(*words, "--rate", "0.5", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "is no folder"),
        ("state.pt", "is no regular file"),
        ("log.csv", "is no regular file"),
        ("model.safetensors", "is no regular file"),
    ],
)
def test_a_pipe_where_a_file_of_the_run_belongs_is_refused(tmp_path: Path, name: str, says: str) -> None:
    run = tmp_path / "run"
    if name != ".":
        run.mkdir()
    os.mkfifo(run / name)
    done = _train(*SHORT, "--iterations", "1", "-o", str(run))
    assert done.exit_code == 1
    assert done.stderr == f"Error: {run / name}: {says}\n"


@pytest.mark.parametrize("name", ["model.safetensors", "log.csv"])
def test_a_file_of_another_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work\nin 2 lines\n")
    done = _train(*SHORT, "--iterations", "1", "-o", str(tmp_path))
    assert done.exit_code == 1
    assert f"Error: {tmp_path / name}: is " in done.stderr
    assert (tmp_path / name).read_text() == "years of work\nin 2 lines\n"
    assert _train(*SHORT, "--iterations", "1", "-o", str(tmp_path), "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "no such file or folder"),
        (["synthetic:dance"], "unknown; known: all"),
        (["synthetic", "--recipe", "best"], "unknown; known: ucf101"),
        (["synthetic", "--arch", "vgg"], "unknown; known: c3d"),
        (["synthetic", "--size", "36", "44", "40", "40"], "0 < crop <= resize"),
        (["synthetic", "--recipe", "ucf101"], "endless data has no epochs"),
        (["synthetic", "--mean", "1,2,x"], "not three numbers"),
        (["synthetic", "--precision", "bf16"], "mixed precision is for GPUs"),
        (["synthetic", "--from", "motion-mini", "--width", "2"], "comes from the checkpoint"),
        (["synthetic", "--test", "list.txt"], "tested on clips of another seed"),
    ],
)
def test_wrong_words_get_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    done = _train(*words, "-o", str(tmp_path / "run"))
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "run").exists()
