"""``c3d-tools doctor`` says what is wrong with a machine instead of failing."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from c3d_extract.cli import doctor
from c3d_extract.cli.doctor import _cudnn, command
from c3d_extract.preprocess.resize import FrameSampler


def test_it_finds_what_a_run_needs() -> None:
    found = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert "threads" in found["devices"]["cpu"]
    assert found["would use"]["precision"] in {"fp32", "bf16", "fp16"}


def test_a_package_that_is_missing_is_a_problem_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_av(name: str) -> str:
        if name == "av":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", without_av)
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert found["packages"]["av"] == "missing"
    assert "av is not installed: pip install av" in found["problems"]


def test_a_gpu_that_does_not_work_is_a_problem_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="Tesla P100", total_memory=16 << 30, major=6, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\n\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch, "ones", refuse)
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert found["devices"]["cuda:0"] == "Tesla P100, 16 GiB, compute capability 6.0"
    assert "cuda:0 cannot convolve: CUDA error: no kernel image is available" in found["problems"]


def test_it_says_how_pixels_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiled, says in ((True, "compiled"), (False, "NumPy")):
        monkeypatch.setattr(FrameSampler, "compiled", compiled)
        found = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
        assert found["video"]["loops over pixels"].startswith(says)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="decoders share memory through /dev/shm here")
def test_a_small_dev_shm_as_in_containers_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    found = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert found["temporary"]["/dev/shm"] == "1 MiB free"
    assert not [problem for problem in found["problems"] if "/dev/shm" in problem or "/tmp" in problem]


@pytest.mark.parametrize(
    ("version", "is_warned_of"),
    [(90701, False), (90800, True), (91002, True), (91400, True), (91500, False), (None, False)],
)
def test_cudnn_whose_3d_convolutions_can_be_wrong_is_named(
    version: int | None, is_warned_of: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert _cudnn(problems).startswith(str(version or "none"))
    assert [f"cuDNN {version} can be wrong" in problem for problem in problems] == [True] * is_warned_of


def test_a_gpu_that_does_not_say_what_it_is_leaves_the_rest_to_be_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    result = CliRunner().invoke(command, ["--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert found["would use"]["precision"] == "unknown"
    assert "cuda:0: CUDA error: unknown error; see c3d-tools doctor" in found["problems"]
