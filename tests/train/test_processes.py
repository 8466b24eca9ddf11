"""Runs in processes of their own: killed, interrupted, several for one network."""

from __future__ import annotations

import csv
import os
import signal
import socket
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from training_samples import SHORT, run_command, same_weights, start, train, wait_until

from c3d_extract.train import Trainer
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path


def _n_reports(output: Path) -> int:
    return output.read_text().count(" clips/s")


def _iteration(run: Path) -> int:
    return int(torch.load(run / "state.pt", weights_only=True)["iteration"])


def _killed_while_saving(*arguments: str) -> None:
    """Run the command, and die in the middle of writing the third state."""
    save, n_saved = torch.save, 0

    def killed(state: Any, file: Any) -> None:
        nonlocal n_saved
        n_saved += 1
        if n_saved == 3:
            file.write(b"half a state")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    torch.save = killed  # type: ignore[assignment]
    run_command(*arguments)


def test_a_killed_run_ends_with_the_weights_of_one_left_alone(tmp_path: Path) -> None:
    arguments = [*SHORT, "--iterations", "5", "--save-every", "1", "-o"]
    here = ["--workers", "0", "--device", "cpu"]
    process = start(_killed_while_saving, tmp_path / "output", *arguments, str(tmp_path / "killed"), *here)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert _iteration(tmp_path / "killed") == 2
    for name in ("killed", "alone"):
        assert train(*arguments, str(tmp_path / name)).exit_code == 0
    killed, alone = (
        load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("killed", "alone")
    )
    assert same_weights(killed, alone)


def test_ctrl_c_which_a_terminal_sends_to_workers_too_stops_in_one_piece(tmp_path: Path) -> None:
    output = tmp_path / "output"
    arguments = [*SHORT, "--iterations", "1000", "--workers", "1", "--device", "cpu"]
    process = start(run_command, output, *arguments, "-o", str(tmp_path / "run"))
    wait_until(lambda: _n_reports(output) >= 3)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130, output.read_text()
    last = output.read_text().splitlines()[-1]
    assert last.startswith("Stopped after iteration ")
    assert f" {_iteration(tmp_path / 'run')};" in last


def _run_holding(pipe: Connection, *arguments: str) -> None:
    """Run the command with the end of a pipe open, which its workers inherit."""
    run_command(*arguments)
    pipe.close()


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    output, (reader, writer) = tmp_path / "output", Pipe(duplex=False)
    arguments = [*SHORT, "--iterations", "1000", "--workers", "1", "--device", "cpu"]
    process = start(_run_holding, output, writer, *arguments, "-o", str(tmp_path / "run"))
    writer.close()
    wait_until(lambda: _n_reports(output) >= 3)
    process.kill()
    assert reader.poll(60), "somebody holds the other end"
    with pytest.raises(EOFError):
        reader.recv()


# Several processes for one network


def _environment(rank: int, port: int) -> dict[str, str]:
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    # By default the processes look for each other under the machine's name: an address that may not be there.
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": loopback}


def _failing(go_on: Path, *arguments: str) -> None:
    """Run the command, and fail in the second process; it stays, with its connections open."""
    step = Trainer._step

    def failing(self: Trainer, *batch: Any) -> Any:
        if self.iteration == 2 and self.rank == 1:
            raise ValueError("injected")
        return step(self, *batch)

    Trainer._step = failing  # type: ignore[method-assign,assignment]
    try:
        run_command(*arguments)
    except ValueError:
        wait_until(go_on.exists)


def test_where_one_process_fails_the_others_end_too(tmp_path: Path) -> None:
    # Without torchrun, which ends the others by itself.
    arguments = [
        *SHORT,
        "--iterations",
        "50",
        "--workers",
        "0",
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "run"),
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    outputs = [tmp_path / "first", tmp_path / "second"]
    first, second = (
        start(_failing, output, tmp_path / "go on", *arguments, **_environment(rank, port))
        for rank, output in enumerate(outputs)
    )
    first.join(60)
    assert second.is_alive()
    (tmp_path / "go on").touch()
    second.join(60)
    assert first.exitcode == 1
    told = outputs[0].read_text()
    assert told.endswith("Error: another process failed (process 1: injected); the last state is kept\n")


def _as_torchrun(*arguments: str) -> None:
    """Run the command in two processes, as torchrun starts them."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        start_method="fork",
        monitor_interval=0.1,
    )
    elastic_launch(config, run_command)(*arguments)


def test_two_processes_follow_the_loss_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    # Gradients are summed in another order, so float32 rounding (1e-7) grows over iterations: 1e-4 allowed.
    # Batch norm, dropout and augmentation are off, for they depend on how a batch is divided.
    arguments = [*SHORT, "--iterations", "4", "--batch-size", "8", "--no-batch-norm", "--dropout", "0"]
    arguments += ["--augment", "false"]
    assert train(*arguments, "-o", str(tmp_path / "one")).exit_code == 0
    arguments += ["--workers", "0", "--device", "cpu", "-o", str(tmp_path / "two")]
    environment = {name: value for name, value in _environment(0, 0).items() if name.startswith("GLOO")}
    launcher = start(_as_torchrun, tmp_path / "output", *arguments, **environment)
    launcher.join(120)
    assert launcher.exitcode == 0, (tmp_path / "output").read_text()
    losses = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)])
    assert len(losses[0]) == 4
    assert np.allclose(losses[0], losses[1], rtol=1e-4)
    states = [load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("one", "two")]
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], rtol=1e-3, atol=1e-4)
