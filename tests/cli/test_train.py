"""``c3d-tools train``: what it writes, goes on with, and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_samples import (
    SHORT,
    render_class_folders,
    same_weights,
    synthetic_clips,
    train,
    training_setup,
)

from c3d_extract import Extractor
from c3d_extract.cli.predict import command as predict
from c3d_extract.cli.train import _device, _precision
from c3d_extract.errors import DeviceError, UsageError
from c3d_extract.models.torchvision import VideoNetwork
from c3d_extract.train import RECIPES, Trainer
from c3d_extract.weights import load_checkpoint

EMBEDDED = Path(__file__).parents[2] / "weights" / "motion-mini.safetensors"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_class_folders(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that nothing interrupted."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    assert train(*SHORT, "--iterations", "5", "-o", str(folder)).exit_code == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_of_a_step_it_is_saved_after_the_step(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    arguments = [*SHORT, "--iterations", "5", "-o", str(tmp_path)]
    step = Trainer._step

    def interrupted(self: Trainer, *batch: Any) -> Any:
        done = step(self, *batch)  # the weights are the next iteration's, the counter is not
        if self.iteration == 2:
            os.kill(os.getpid(), number)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        stopped = train(*arguments)
    assert stopped.exit_code == 130
    assert "Stopped after iteration 3; the same command continues from there." in stopped.stderr
    assert "Traceback" not in stopped.stderr
    resumed = train(*arguments)
    assert resumed.exit_code == 0
    assert "from iteration 3" in resumed.stderr
    folders = (undisturbed, tmp_path)
    states = [torch.load(folder / "state.pt", weights_only=True)["net"] for folder in folders]
    assert same_weights(*states)
    logs = [(folder / "log.csv").read_text().splitlines() for folder in folders]
    assert [line.split(",")[:3] for line in logs[0]] == [line.split(",")[:3] for line in logs[1]]


def test_the_finished_file_extracts_as_it_is(class_folders: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--arch", "depth-3", "--width", "0.02", "--size", "36", "44", "32", "32", "--epochs", "1"]
    arguments += ["--test", str(class_folders), "--batch-size", "3", "--half", "--json"]
    done = train(str(class_folders), "-o", str(run), *arguments)
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout)
    assert last["iteration"] == 2
    assert (run / "curve.png").stat().st_size > 1000
    found = load_checkpoint(run / "model.safetensors")
    assert found.labels == ["circling", "jump"]
    assert found.architecture.n_classes == 2
    with Extractor.from_weights(str(run / "model.safetensors"), device="cpu") as extractor:
        features = extractor.extract(class_folders / "jump" / "2.mp4")
    assert features.clips.shape == (2, found.architecture.hidden[0])


def test_the_recipe_of_the_embedded_checkpoint_makes_a_network_like_it(tmp_path: Path) -> None:
    text = EMBEDDED.with_name("README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"c3d-tools train (synthetic .*--recipe motion-mini.*)", text)
    words = command.replace("-o motion-mini", f"-o {tmp_path}").split()
    done = train(*words, "--iterations", "1", "--batch-size", "2", "--n-test", "2")
    assert done.exit_code == 0, done.output
    found, embedded = load_checkpoint(tmp_path / "model.safetensors"), load_checkpoint("motion-mini")
    for what in ("architecture", "preprocessing", "labels"):
        assert getattr(found, what) == getattr(embedded, what)
    assert np.array_equal(found.mean, embedded.mean)
    sizes = [path.stat().st_size for path in (tmp_path / "model.safetensors", EMBEDDED)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_fine_tuning_starts_from_a_checkpoint_with_a_new_last_layer(
    class_folders: Path, tmp_path: Path
) -> None:
    Trainer(tmp_path / "first", training_setup(), synthetic_clips()).save()
    start = tmp_path / "first" / "model.safetensors"
    arguments = [
        "-o",
        str(tmp_path / "second"),
        "--from",
        str(start),
        "--iterations",
        "1",
        "--batch-size",
        "2",
    ]
    done = train(str(class_folders), *arguments, "--rate", "1e-9", "--no-batch-norm")
    assert done.exit_code == 0, done.output
    assert "fc8.bias, fc8.weight" in done.stderr
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "second" / "model.safetensors")
    assert after.labels == ["circling", "jump"]
    assert after.preprocessing == before.preprocessing
    for name, value in after.state.items():
        if not name.startswith("fc8"):
            assert torch.allclose(value, before.state[name], atol=1e-6)


def test_with_freeze_the_last_layer_alone_is_trained(class_folders: Path, tmp_path: Path) -> None:
    Trainer(tmp_path / "first", training_setup(), synthetic_clips()).save()
    start = tmp_path / "first" / "model.safetensors"
    arguments = ["--from", str(start), "--freeze", "--epochs", "1", "--batch-size", "3"]
    done = train(str(class_folders), "-o", str(tmp_path / "second"), *arguments)
    assert done.exit_code == 0, done.output
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "second" / "model.safetensors")
    assert after.record["recipe"]["rate"] == RECIPES["last-layer"].rate
    for name, value in after.state.items():
        if not name.startswith("fc8"):
            assert torch.equal(value, before.state[name])


@pytest.mark.slow
def test_a_network_of_torchvision_learns_new_classes_and_names_them(
    class_folders: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start, run = tmp_path / "start.pth", tmp_path / "run"
    torch.save(VideoNetwork("mc3_18").build_torchvision().state_dict(), start)
    arguments = ["--from", str(start), "--iterations", "1", "--batch-size", "1", "--dropout", "0.1"]
    done = train(str(class_folders), "-o", str(run), *arguments, "--freeze")
    assert done.exit_code == 0, done.output
    assert "a 16x112x112 clip at 15 frames a second; 2 classes, 6 clips" in done.stderr
    assert "fc.bias, fc.weight" in done.stderr
    predicted = CliRunner().invoke(
        predict, [str(run / "model.safetensors"), str(class_folders / "jump" / "0.mp4"), "--json"]
    )
    assert predicted.exit_code == 0, predicted.output
    assert list(json.loads(predicted.stdout)[0]["scores"]) == ["circling", "jump"]
    refused = train(str(class_folders), "-o", str(run), "--from", str(start), "--initial", "he")
    assert refused.exit_code == 2
    assert "--initial: is for C3D and its family, and start.pth is a mc3_18" in refused.stderr


def test_the_same_command_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    arguments = ["synthetic:motion", "-o", str(tmp_path), "--width", "0.02", "--size", "36", "44", "32", "32"]
    arguments += ["--iterations", "2", "--batch-size", "2", "--n-test", "4"]
    assert train(*arguments).exit_code == 0
    again = train(*arguments)
    assert again.exit_code == 0
    assert "from iteration 2" in again.stderr
    other = train(*arguments, "--rate", "0.5")
    assert other.exit_code == 1
    assert "started with other settings" in other.stderr
    assert "--overwrite" in other.stderr
    assert train(*arguments, "--rate", "0.5", "--overwrite").exit_code == 0


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
    done = train(*SHORT, "--iterations", "1", "-o", str(run))
    assert done.exit_code == 1
    assert done.stderr == f"Error: {run / name}: {says}\n"


@pytest.mark.parametrize("name", ["model.safetensors", "log.csv"])
def test_a_file_of_another_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work\nin 2 lines\n")
    done = train(*SHORT, "--iterations", "1", "-o", str(tmp_path))
    assert done.exit_code == 1
    assert f"Error: {tmp_path / name}: is " in done.stderr
    assert (tmp_path / name).read_text() == "years of work\nin 2 lines\n"
    assert train(*SHORT, "--iterations", "1", "-o", str(tmp_path), "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
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
        (["synthetic", "--freeze"], "keeps what a checkpoint has learned; give --from"),
        (["synthetic", "--test", "list.txt"], "tested on clips of another seed"),
    ],
)
def test_wrong_arguments_get_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = train(*arguments, "-o", str(tmp_path / "run"))
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "run").exists()


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
