"""The network against the usual port, OpenVINO and a matrix product, in rounds that take turns.

    python benchmarks/model.py full.pickle [--rounds 5] [--batch 8]

Each contender runs on one core and its processor time counts, so that other work on the machine bears
on the figures little. OpenVINO (``pip install openvino``) is left out where it is not installed, bf16 where
the processor does not multiply it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch

from c3d_extract.compute.network import Network
from c3d_extract.compute.precision import choose_precision
from c3d_extract.models.c3d import C3D
from c3d_extract.weights import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.settings import Precision
    from c3d_extract.weights import Checkpoint

GFLOP_A_CLIP = 77.1
PAPER_FRAMES_A_SECOND = 313.9  # C3D on a K40 (Tran et al. 2015, Section 7)


def openvino(checkpoint: Checkpoint, batch: int, precision: Precision) -> Callable[[], object] | None:
    """The same network as OpenVINO compiles it, in fp32 or bf16."""
    try:
        import openvino as ov
    except ImportError:
        return None
    model = plain(checkpoint)

    class Fc6(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x, ("fc6",))["fc6"]

    shape = [batch, 3, 16, 112, 112]
    converted = ov.convert_model(Fc6(), example_input=torch.zeros(1, *shape[1:]), input=shape)
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision.replace("fp", "f")}
    request = ov.Core().compile_model(converted, "CPU", config).create_infer_request()
    x = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    return lambda: request.infer({0: x})


def plain(checkpoint: Checkpoint) -> C3D:
    model = C3D(checkpoint.architecture, ("fc6",)).eval()
    model.load_state_dict(checkpoint.state)
    return model


def main() -> None:
    """Time every contender in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.weights, layers=("fc6",), mean="100.61,108.05,107.81")
    model = plain(checkpoint)
    shape = (arguments.batch, 16, 112, 112, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = torch.from_numpy(clips).float().permute(0, 4, 1, 2, 3).contiguous() - 100
    contenders: dict[str, tuple[Callable[[], object] | None, float]] = {
        "plain contiguous fp32, batch 1": (lambda: model(x[:1], ("fc6",)), 1)
    }
    has_bf16 = choose_precision("auto", torch.device("cpu")) == "bf16"
    for precision in ("fp32", "bf16") if has_bf16 else ("fp32",):
        contenders |= at(checkpoint, precision, clips)
    report(measure(contenders, arguments.rounds))


def at(
    checkpoint: Checkpoint, precision: Precision, clips: np.ndarray
) -> dict[str, tuple[Callable[[], object] | None, float]]:
    """This package, OpenVINO and a matrix product at one precision, each with the clips that one run is worth."""
    n = len(clips)
    net = Network(checkpoint, ("fc6",), device=torch.device("cpu"), precision=precision, batch_size=n)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(512, 6912).to(dtype), torch.randn(6912, 3136).to(dtype)  # conv3b of four clips
    product_gflop = 2 * 512 * 6912 * 3136 / 1e9
    return {
        f"c3d-extract {precision}": (lambda: net(clips), n),
        f"OpenVINO {precision}": (openvino(checkpoint, n, precision), n),
        f"matrix product {precision}": (lambda: a @ b, product_gflop / GFLOP_A_CLIP),
    }


def measure(
    contenders: dict[str, tuple[Callable[[], object] | None, float]], rounds: int
) -> dict[str, list[float]]:
    """Processor seconds a clip of every contender, a round at a time."""
    seconds: dict[str, list[float]] = {name: [] for name, (run, _) in contenders.items() if run}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for name, (run, clips) in contenders.items():
                if run is None:
                    continue
                started = time.process_time()
                run()
                if number:  # the first round warms up
                    seconds[name].append((time.process_time() - started) / clips)
    return seconds


def report(seconds: dict[str, list[float]]) -> None:
    """One line a contender: time, rate, and times this package in each precision (medians of the rounds' ratios)."""
    own = [name for name in seconds if name.startswith("c3d-extract")]
    headings = "".join(f"{'x ' + name.split()[-1]:>8}" for name in own)
    print(f"{'one core, processor time':32} {'ms/clip':>8} {'GFLOP/s':>8} {'frames/s':>9}{headings}")
    for name, found in seconds.items():
        ratios = [median(t / o for t, o in zip(found, seconds[base], strict=True)) for base in own]
        columns = "".join(f"{ratio:8.2f}" for ratio in ratios)
        clip = median(found)
        print(f"{name:32} {clip * 1e3:8.0f} {GFLOP_A_CLIP / clip:8.0f} {16 / clip:9.1f}{columns}")
    print(
        f"{'the paper, K40 GPU':32} {16e3 / PAPER_FRAMES_A_SECOND:8.0f} {'':8} {PAPER_FRAMES_A_SECOND:9.1f}"
    )


if __name__ == "__main__":
    main()
