"""Rates: matrix products, the network as a run uses it, layouts, CUDA graphs, torch.compile, training."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from c3d_extract.compute.clip_frames import pieces_of
from c3d_extract.compute.cuda import compute_on
from c3d_extract.compute.forward import build_model, input_weights
from c3d_extract.compute.precision import DTYPES
from c3d_extract.models.c3d import C3D
from c3d_extract.train.synthetic import SyntheticClips
from gpu_kit.kit import LARGEST_ERROR, LAYERS, MEAN, relative
from gpu_kit.report import NotPossible

if TYPE_CHECKING:
    from collections.abc import Callable

    from c3d_extract.compute.network import Network, Pending
    from c3d_extract.settings import Precision
    from c3d_extract.train.data import LabelledClip
    from c3d_extract.train.state import TrainingSetup
    from gpu_kit.kit import Kit
    from gpu_kit.report import Section

FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
WARMUP_CALLS = 3  # before a graph is captured: libraries allocate their workspaces


def network_rates(kit: Kit, section: Section) -> None:
    """Measure the network as a run uses it, against the matrix product of the same precision."""
    for precision in kit.precisions:
        section.row(
            f"matrix product, {kit.sizes.product} rows and columns",
            precision=precision,
            tflops=kit.product_tflops(precision),
        )
    pairs = [
        (precision, size)
        for size in sorted(kit.sizes.rate_batches, reverse=True)
        for precision in kit.precisions
    ]
    for precision, size in kit.within_time(section, pairs, "network"):
        with kit.attempt(section, f"network in {precision}, batch {size}"):
            kit.free()
            network = kit.network(precision, size)
            rate = submitted_rate(kit, network)
            section.row(
                "network, with its copies to and from the device",
                precision=precision,
                batch=network.batch_size,
                **kit.rates(precision, rate),
                peak_gib=kit.peak_gib(),
            )


def submitted_rate(kit: Kit, network: Network) -> float:
    """Return clips per second with two batches under way, as in a run."""
    clips = network.new_batch()
    clips[:] = np.resize(kit.clips(kit.checkpoint, min(len(clips), kit.sizes.clips)), clips.shape)
    batch = pieces_of(clips)
    under_way: deque[Pending] = deque()

    def submit() -> None:
        under_way.append(network.submit(batch))
        if len(under_way) > 1:
            under_way.popleft().result()

    rate = len(clips) / kit.seconds(submit)
    while under_way:
        under_way.popleft().result()
    return rate


@dataclass
class Variant:
    """One way to run the plain network: everything but copies to and from the device."""

    kit: Kit
    precision: Precision
    layout: str
    batch: int

    def __post_init__(self) -> None:
        kit, dtype = self.kit, DTYPES[self.precision]
        weights = input_weights(kit.checkpoint, LAYERS)
        model = build_model(kit.architecture, LAYERS, weights, dtype=dtype, device=kit.device)
        self.model = model.to(memory_format=FORMATS[self.layout])
        self.plain = C3D(kit.architecture, LAYERS)
        self.plain.load_state_dict(weights)
        self.plain = self.plain.to(kit.device, dtype).to(memory_format=FORMATS[self.layout]).eval()
        clips = np.resize(
            kit.clips(kit.checkpoint, min(self.batch, kit.sizes.clips)),
            (self.batch, *kit.architecture.clip, 3),
        )
        x = (torch.from_numpy(clips).to(kit.device, torch.float32) - MEAN).to(dtype)
        self.x = x.permute(0, 4, 1, 2, 3).contiguous(memory_format=FORMATS[self.layout])

    def run(self) -> torch.Tensor:
        features: torch.Tensor = self.model(self.x, LAYERS)["fc6"]
        return features

    def run_plain(self) -> torch.Tensor:
        """Run the network as it is trained, without what is faster on a GPU."""
        features: torch.Tensor = self.plain(self.x, LAYERS)["fc6"]
        return features

    def row(self, section: Section, how: str, seconds: float, eager_seconds: float) -> None:
        section.row(
            "the network alone, its input on the device",
            precision=self.precision,
            layout=self.layout.replace("channels_last_3d", "last"),
            batch=self.batch,
            run=how,
            **self.kit.rates(self.precision, self.batch / seconds),
            times_eager=eager_seconds / seconds,
        )


def layouts_and_graphs(kit: Kit, section: Section) -> None:
    """Measure memory layouts and CUDA graphs."""
    combinations = [
        (precision, layout, size)
        for size in (max(kit.sizes.batches), min(kit.sizes.batches))
        for precision in kit.precisions
        for layout in reversed(FORMATS)
    ]
    for precision, layout, size in kit.within_time(section, combinations, "layouts"):
        name = f"{precision}, {layout}, batch {size}"
        with (
            kit.attempt(section, name),
            torch.inference_mode(),
            compute_on(kit.device, tf32=precision == "tf32"),
        ):
            kit.free()
            variant = Variant(kit, precision, layout, size)
            eager = kit.seconds(variant.run)
            variant.row(section, "eager", eager, eager)
            if layout == "channels_last_3d":
                variant.row(section, "plain", kit.seconds(variant.run_plain), eager)
                with kit.attempt(section, f"CUDA graph: {name}"):
                    _graph(kit, section, variant, eager)
    kit.free()


def _graph(kit: Kit, section: Section, variant: Variant, eager_seconds: float) -> None:
    """Capture the network once and replay it; the features must be the same to the bit."""
    if not kit.is_cuda:
        raise NotPossible("only CUDA has graphs")
    right = variant.run()
    stream = torch.cuda.Stream(kit.device)
    stream.wait_stream(torch.cuda.current_stream(kit.device))
    with torch.cuda.stream(stream):
        for _ in range(WARMUP_CALLS):
            variant.run()
    kit.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = variant.run()
    variant.row(section, "graph", kit.seconds(graph.replay), eager_seconds)
    equal = torch.equal(captured, right)
    section.check(f"{variant.precision}, batch {variant.batch}: a graph gives the same bits", equal)


def compiled(kit: Kit, section: Section) -> None:
    """Measure torch.compile; in small without the compiler behind it, which takes a minute."""
    backend = "eager" if kit.small else "inductor"
    pairs = [(precision, max(kit.sizes.batches)) for precision in kit.main_precisions]
    for precision, size in kit.within_time(section, pairs, "torch.compile"):
        name = f"torch.compile ({backend}), {precision}, batch {size}"
        with kit.attempt(section, name, optional=True):
            kit.free()
            _one_compiled(kit, section, Variant(kit, precision, "channels_last_3d", size), backend)


def _one_compiled(kit: Kit, section: Section, variant: Variant, backend: str) -> None:
    with torch.inference_mode(), compute_on(kit.device, tf32=variant.precision == "tf32"):
        right = variant.run().float().cpu().numpy()
        eager = kit.seconds(variant.run)
        model: Callable[..., dict[str, torch.Tensor]] = torch.compile(
            variant.model, backend=backend, dynamic=False
        )
        started = time.perf_counter()
        found = model(variant.x, LAYERS)["fc6"].float().cpu().numpy()
        compilation = time.perf_counter() - started
        seconds = kit.seconds(lambda: model(variant.x, LAYERS))
    variant.row(section, "compiled", seconds, eager)
    error = float(relative(found, right).max())
    name = f"torch.compile in {variant.precision}: features are within rounding"
    section.check(
        name, error <= LARGEST_ERROR[variant.precision], f"{error:.2g}, {compilation:.1f} s to compile"
    )


@dataclass(frozen=True)
class Pool:
    """A fixed number of labelled clips, rendered before: training waits for the device alone."""

    pool: list[LabelledClip]
    labels: tuple[str, ...]

    @property
    def n_items(self) -> int:
        return len(self.pool)

    def clip(self, item: int, rng: np.random.Generator) -> LabelledClip:
        del rng
        return self.pool[item]

    def test_clips(self, item: int) -> list[LabelledClip]:
        return [self.pool[item]]


def training(kit: Kit, section: Section) -> None:
    """Train some steps on a few clips, in bf16 and in fp32: the loss must be finite and fall."""
    kit.need_videos()  # what makes clips for training imports PyAV
    clips = SyntheticClips("motion", 5, kit.architecture.clip)
    pool = Pool([clips.clip(index) for index in range(2 * kit.sizes.train_batch)], clips.labels)
    for precision in kit.within_time(section, ["bf16", "fp32"], "training"):
        if precision == "bf16" and not kit.is_cuda:
            section.skip("training in bf16", "mixed precision is for GPUs")
            continue
        with kit.attempt(section, f"training in {precision}"):
            _train(kit, section, pool, precision)


def _train(kit: Kit, section: Section, pool: Pool, precision: str) -> None:
    from c3d_extract.train import Intervals, Trainer

    kit.free()
    steps = kit.sizes.train_steps
    every = Intervals(report=steps // 6, test=10**9, save=10**9)
    trainer = Trainer(
        kit.folder / f"train-{precision}",
        _setup(kit, pool),
        pool,
        device=kit.device,
        precision=precision,
        n_workers=2 if kit.is_cuda else 0,  # a GPU would wait for one process to put batches together
        intervals=every,
    )
    entries = []
    for entry in trainer.run():
        entries.append(entry)
        if entry.iteration >= steps:
            break  # before the end, where a gigabyte of state would be saved
    first, last = entries[0].loss, mean(entry.loss for entry in entries[-2:])
    section.row(
        "training",
        precision=precision,
        batch=kit.sizes.train_batch,
        steps=steps,
        clips_per_second=median(entry.clips_per_second for entry in entries[1:]),
        first_loss=first,
        last_loss=last,
        peak_gib=kit.peak_gib(),
    )
    section.check(f"the loss falls in {precision}", last < 0.9 * first, f"{first:.3g} to {last:.3g}")


def _setup(kit: Kit, pool: Pool) -> TrainingSetup:
    from c3d_extract.train import RECIPES, TrainingSetup

    changes: dict[str, Any] = {
        "batch_size": kit.sizes.train_batch,
        "iterations": 2 * kit.sizes.train_steps,
        "rate": 0.001,
        "augment": False,
    }
    architecture = replace(kit.architecture, n_classes=len(pool.labels))
    return TrainingSetup(
        architecture,
        architecture.preprocessing,
        kit.checkpoint.mean,
        RECIPES["synthetic"].with_changes(changes),
        pool.labels,
        {"clips": len(pool.pool)},
    )
