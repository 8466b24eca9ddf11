"""The architectures: what is counted is what torch counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from training_samples import synthetic_clips, training_setup

from c3d_extract.cli.archs import command
from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.models.torchvision import published
from c3d_extract.train import Trainer

if TYPE_CHECKING:
    from pathlib import Path


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_counts_are_those_of_the_paper_and_of_torch() -> None:
    found = {arch["name"]: arch for arch in json.loads(_run("--json"))}
    assert list(found) == list(ARCHITECTURES)
    for name, architecture in ARCHITECTURES.items():
        with torch.device("meta"):
            model = C3D(architecture)
        assert found[name]["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["c3d"]["parameters"] == 79_991_015
    assert round(found["depth-3"]["parameters"] / 1e6, 1) == 17.4  # the paper says 17.5 M
    assert 38.5e9 < found["c3d"]["multiply_adds"] < 38.6e9


def test_shapes_are_those_of_a_real_pass() -> None:
    (found,) = json.loads(_run("--json", "--width", "0.0625", "--size", "48", "64", "decreasing"))
    net = C3D(ARCHITECTURES["decreasing"].scaled(0.0625).from_json(found["architecture"]))
    last = "pool5"
    pooled = net(torch.zeros(1, 3, 16, 48, 64), [last])[last]
    assert pooled.shape[1] == torch.Size(found["shapes"][last]).numel()


@pytest.mark.usefixtures("terminal")
def test_the_paper_s_own_differences_stand_beside_the_counts() -> None:
    text = _run()
    assert max(map(len, text.splitlines())) <= 80
    assert "17.5 M in total; counted 17,444,965" in text
    assert "17 K fewer than depth-3; counted 3,100,032 fewer" in text
    assert "51 K more than depth-5; counted 3,100,032 more" in text


def test_the_table_of_one_net_shows_every_layer() -> None:
    text = _run("c3d")
    for line in ("conv1a", "64x16x112x112", "pool5", "512x1x4x4", "33,558,528", "79,991,015"):
        assert line in text


@pytest.mark.parametrize(
    "name",
    ["r3d_18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("s3d", "mvit_v2_s", "swin3d_t"))],
)
def test_layers_of_torchvisions_networks_add_up_to_the_record(name: str) -> None:
    (found,) = json.loads(_run("--json", name))
    assert found["parameters"] == published()[name].facts["parameters"]
    assert sum(found["parameters_of"].values()) == found["parameters"]
    assert sum(found["multiply_adds_of"].values()) == found["multiply_adds"]
    n_frames = found["architecture"]["clip"][0]
    # The record's is of 16 frames.
    expected = published()[name].facts["gigaflops"] * n_frames / 16
    assert found["multiply_adds"] / 1e9 == pytest.approx(expected, rel=0.001)
    assert list(found["shapes"].values())[-1][0] == 400


@pytest.mark.usefixtures("terminal")
def test_a_table_of_torchvisions_layers_fits_a_terminal() -> None:
    text = _run("res3d_18", "--classes", "5")
    assert max(map(len, text.splitlines())) <= 80
    for part in ("every 2nd decoded frame", "avgpool of 512 numbers", "3x8x112x112", "512x1x7x7", "2,565"):
        assert part in text


def test_a_checkpoint_by_its_path_is_shown_as_the_network_that_it_is(tmp_path: Path) -> None:
    Trainer(tmp_path, training_setup(), synthetic_clips()).save()
    text = _run(str(tmp_path / "model.safetensors"))
    assert f"{training_setup().architecture.n_parameters():,}" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet"], "unknown; known: c3d, depth-1"),
        (["--width", "0"], "above 0"),
        (["r3d_18", "--width", "2"], "go with the paper's architectures"),
        (["--size", "8", "8"], "32 to 1024"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
