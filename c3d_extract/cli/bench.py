"""``c3d-tools bench``: how fast this machine is, and what a run on it will wait for."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from c3d_extract.cli.common import guarded, note, put_json
from c3d_extract.cli.completion import complete_weights
from c3d_extract.cli.options import debug_option, device_option, json_option, mean_option, precision_option

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

    Begin = Callable[[str], object]

__all__ = ["command"]

_MODEL_SECONDS = 12.0  # a batch size
_DECODE_SECONDS = 8.0  # a number of workers
_SAMPLES = (("320x240", (96, 240, 320)), ("1280x720", (48, 720, 1280)))


@click.command(name="bench")
@click.option(
    "--weights",
    metavar="NAME|FILE",
    shell_complete=complete_weights,
    help="A checkpoint.  [default: C3D with random weights]",
)
@mean_option
@device_option()
@precision_option("auto is the fastest within 1 % of fp32.")
@json_option
@debug_option
@guarded
def command(
    *, weights: str | None, mean: str | None, device: str, precision: Any, as_json: bool, debug: bool
) -> None:
    """Measure the network and the decoders here, in under two minutes."""
    del debug
    from c3d_extract.cli.progress import step_status
    from c3d_extract.compute.devices import choose_device, device_name
    from c3d_extract.compute.precision import choose_precision

    where = choose_device(device)
    how = choose_precision(precision, where)
    checkpoint = _checkpoint(weights, mean)
    if not as_json:
        note(f"Measuring {checkpoint.backbone.name} on {where} in {how}; under two minutes …")
    with step_status() as begin:
        findings: dict[str, Any] = {
            "device": device_name(where),
            "precision": how,
            "network": _network(checkpoint, where, how, begin),
            "decoding": _decoding(checkpoint, begin),
        }
    findings["verdict"] = _verdict(findings, where.type)
    put_json(findings) if as_json else _show(findings)


def _checkpoint(weights: str | None, mean: str | None) -> Checkpoint:
    from c3d_extract.weights import load_checkpoint

    if weights is not None:
        return load_checkpoint(weights, layers=(), mean=mean)
    return _random_c3d()


def _random_c3d() -> Checkpoint:
    """Return C3D with weights whose features neither vanish nor overflow: speed depends on no value."""
    from math import prod

    import numpy as np
    import torch

    from c3d_extract.models.c3d import ARCHITECTURES
    from c3d_extract.weights import Checkpoint

    architecture = ARCHITECTURES["c3d"]
    return Checkpoint(
        name="random",
        path=Path(),
        sha256="",
        layout="",
        backbone=architecture,
        preprocessing=architecture.preprocessing,
        mean=np.full((3, 1, 1, 1), 100, np.float32),
        mean_name="100,100,100",
        state={
            name: torch.randn(shape) * (2 / max(prod(shape[1:]), 64)) ** 0.5
            for name, shape in architecture.state_shapes((architecture.default_layer,)).items()
        },
    )


def _network(
    checkpoint: Checkpoint, device: torch.device, precision: Precision, begin: Begin
) -> dict[str, Any]:
    from c3d_extract.compute.network import Network

    layers = (checkpoint.backbone.default_layer,)
    suited = Network(checkpoint, layers, device=device, precision=precision).batch_size
    flop = checkpoint.backbone.operations()
    rows = []
    for size in sorted({1, max(1, suited // 2), suited}):
        begin(f"network in batches of {size}, {_MODEL_SECONDS:g} s")
        rate = _clips_per_second(checkpoint, device, precision, size)
        rows.append(
            {
                "batch": size,
                "clips_per_second": round(rate, 2),
                "frames_per_second": round(rate * checkpoint.backbone.clip[0], 1),
                "gflops": round(rate * flop / 1e9, 1),
            }
        )
    return {"suited_batch": suited, "rates": rows}


def _clips_per_second(checkpoint: Checkpoint, device: torch.device, precision: Precision, size: int) -> float:
    """Clips per second with two batches in flight, as in a run."""
    import numpy as np

    from c3d_extract.compute.clip_frames import pieces_of
    from c3d_extract.compute.network import Network

    layers = (checkpoint.backbone.default_layer,)
    network = Network(checkpoint, layers, device=device, precision=precision, batch_size=size)
    clips = network.new_batch()  # page-locked for a GPU, as in a run
    clips[:] = np.random.default_rng(0).integers(0, 256, clips.shape, dtype=np.uint8)
    network(clips)
    batch = pieces_of(clips)
    started, n = time.monotonic(), 0
    pending = network.submit(batch)
    while time.monotonic() - started < _MODEL_SECONDS:
        following = network.submit(batch)
        pending.result()
        pending = following
        n += len(clips)
    pending.result()
    return (n + len(clips)) / (time.monotonic() - started)


def _decoding(checkpoint: Checkpoint, begin: Begin) -> list[dict[str, Any]]:
    from c3d_extract.compute.devices import usable_cores

    cores = usable_cores()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in _SAMPLES:
            video = _sample(Path(folder) / f"{name}.mp4", size)
            for workers in sorted({1, cores}):
                decoders = "1 worker" if workers == 1 else f"{workers} workers"
                begin(f"decoding {name} with {decoders}, {_DECODE_SECONDS / 2:g} s")
                rate = _frames_a_second(checkpoint, video, size[0], workers)
                rows.append({"video": name, "workers": workers, "frames_per_second": round(rate)})
    return rows


def _sample(path: Path, size: tuple[int, int, int]) -> Path:
    from c3d_extract.decode import write_video
    from c3d_extract.train.synthetic import render_video

    frames = render_video("walk", 0, size=(size[0], 240, 320), seconds=4.0)
    times = size[1] // frames.shape[1]
    larger = frames.repeat(times, axis=1).repeat(size[2] // frames.shape[2], axis=2)
    write_video(path, larger[..., ::-1], 24)
    return path


def _frames_a_second(checkpoint: Checkpoint, video: Path, n_frames: int, workers: int) -> float:
    """Frames decoded, cropped and handed over, by ``workers`` that do one video each at a time."""
    from c3d_extract.decode import DecodeOptions, DecodePool, VideoRead
    from c3d_extract.preprocess.resize import FrameSampler

    options = DecodeOptions(FrameSampler(checkpoint.preprocessing), checkpoint.backbone.clip[0])
    with DecodePool(workers, options) as pool:
        for _ in pool.run((i, video) for i in range(workers)):
            pass  # processes start, files come into the cache
        started, n = time.monotonic(), 0

        def until_time_is_up() -> Any:
            while time.monotonic() - started < _DECODE_SECONDS / 2:
                yield 0, video

        for event in pool.run(until_time_is_up()):
            n += n_frames if isinstance(event, VideoRead) else 0
        return n / (time.monotonic() - started)


def _verdict(findings: dict[str, Any], device_type: str) -> dict[str, Any]:
    """Compare the network's rate with the decoders', and suggest what to run with."""
    from c3d_extract.pipeline import suitable_workers

    best = max(findings["network"]["rates"], key=lambda row: row["clips_per_second"])
    workers = suitable_workers(device_type)
    network = best["frames_per_second"]
    bounds = {}
    for name, _ in _SAMPLES:
        one, every = (
            [row["frames_per_second"] for row in findings["decoding"] if row["video"] == name][i]
            for i in (0, -1)
        )
        decoders = min(one * workers, max(one, every))
        bounds[name] = "the network" if network <= decoders else "decoding"
    return {"bound_by": bounds, "workers": workers, "batch_size": best["batch"]}


def _show(findings: dict[str, Any]) -> None:
    click.echo(f"network on {findings['device']} in {findings['precision']}")
    click.echo(f"  {'batch':>5} {'clips/s':>9} {'frames/s':>9} {'GFLOP/s':>9}")
    for row in findings["network"]["rates"]:
        click.echo(
            f"  {row['batch']:5} {row['clips_per_second']:9.2f} {row['frames_per_second']:9.1f} "
            f"{row['gflops']:9.1f}"
        )
    click.echo("decoding, cropping and handing over")
    click.echo(f"  {'video':>9} {'workers':>8} {'frames/s':>9}")
    for row in findings["decoding"]:
        click.echo(f"  {row['video']:>9} {row['workers']:8} {row['frames_per_second']:9}")
    verdict = findings["verdict"]
    for name, bound in verdict["bound_by"].items():
        click.echo(f"A run over {name} videos will wait for {bound}.")
    click.echo(f"Suggested: --workers {verdict['workers']} --batch-size {verdict['batch_size']}")
