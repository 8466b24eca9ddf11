"""What every section uses: the device, networks with random weights, clips, the clock."""

from __future__ import annotations

import contextlib
import time
import traceback
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from math import ceil, prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from c3d_extract.compute.devices import choose_device
from c3d_extract.compute.network import Network
from c3d_extract.compute.precision import choose_precision, fp32_products
from c3d_extract.errors import DeviceError
from c3d_extract.models.c3d import ARCHITECTURES, Architecture
from c3d_extract.settings import PRECISIONS
from c3d_extract.train.synthetic import SyntheticClips
from c3d_extract.weights import Checkpoint, load_checkpoint
from gpu_kit.report import NotPossible, Section, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from c3d_extract.settings import Precision

LAYERS = ("fc6",)
MEAN = 100
LARGEST_ERROR = {"fp32": 1e-4, "tf32": 3e-3, "fp16": 3e-3, "bf16": 2e-2}
"""Relative error of one clip's fc6 against fp32 on the CPU that still counts as rounding.

Measured: bf16 1.4 % in the worst of 417 clips, fp16 0.07 %; TF32 has as many digits as fp16. fp32 differs
in the order of sums alone, some 1e-6.
"""


class DeviceLost(Exception):  # noqa: N818 - the process ends with it, and another continues
    """The device answers no more in this process."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    product: int  # rows and columns of the matrix product
    seconds: float  # of one measurement
    rounds: int
    clips: int  # whose features are compared
    batches: tuple[int, ...]  # whose features are compared
    rate_batches: tuple[int, ...]  # whose rates are measured
    videos: int  # rendered
    frames: int  # of a rendered video
    frame_size: tuple[int, int]
    run_seconds: float  # of a run over videos
    train_batch: int
    train_steps: int


FULL = Sizes(8192, 0.3, 5, 16, (1, 4, 16, 64), (1, 8, 32, 64, 128), 12, 96, (240, 320), 12.0, 32, 60)
SMALL = Sizes(192, 0.01, 2, 6, (1, 4), (1, 4), 4, 40, (48, 64), 0.1, 4, 12)


class Kit:
    """The device and what runs on it.

    Parameters
    ----------
    device
        As `choose_device` takes it.
    small
        Narrow networks and short measurements: to try the kit itself.
    folder
        For files of any kind.
    real_videos
        Folder of real videos, or None.
    """

    def __init__(self, device: str, *, small: bool, folder: Path, real_videos: Path | None) -> None:
        self.device = choose_device(device)
        self.small = small
        self.sizes = SMALL if small else FULL
        self.folder = folder
        self.real_videos = real_videos
        self.section_ends = float("inf")
        self._products: dict[str, float] = {}
        if small:  # what is tried is a GPU's way: torch's module, called with a whole batch
            setattr(Architecture, "cpu_network", lambda *_, **__: None)  # noqa: B010 - a method

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def need_videos(self) -> None:
        """Raise NotPossible where no video can be read, or no feature file written."""
        for package in ("av", "c3d-extract"):
            try:
                version(package)
            except PackageNotFoundError as error:
                raise NotPossible(f"{package} is not installed") from error

    def within_time(self, section: Section, items: Sequence[Any], what: str) -> Iterator[Any]:
        """Yield items while there is time; record the rest as skipped."""
        for place, item in enumerate(items):
            if time.monotonic() > self.section_ends:
                left = ", ".join(map(_words, items[place:]))
                section.skip(f"{what}: {left}", "no time left")
                return
            yield item

    @contextlib.contextmanager
    def attempt(self, section: Section, name: str, *, optional: bool = False) -> Iterator[None]:
        """Record an error as a failed check, or for what is ``optional`` as a skipped one, and go on."""
        try:
            yield
        except NotPossible as error:
            section.skip(name, str(error))
        except Exception as error:  # noqa: BLE001 - one failure must not stop the rest
            traceback.print_exc()
            self.check_alive(error)
            (section.skip if optional else _fail(section))(name, one_line(error))
            self.free()

    def check_alive(self, after: BaseException) -> None:
        """Raise DeviceLost if an error has left the device unusable for this process."""
        try:
            torch.ones(2, device=self.device).sum().item()
        except torch.OutOfMemoryError:
            return
        except RuntimeError as error:
            raise DeviceLost(f"{one_line(after)}; afterwards: {one_line(error)}") from after

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give cached memory back, and forget the peak."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Largest memory in use on the device since `free`."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.is_cuda else None

    @cached_property
    def precisions(self) -> list[Precision]:
        """What the device supports."""
        found: list[Precision] = []
        for name in PRECISIONS:
            with contextlib.suppress(DeviceError):
                found.append(choose_precision(name, self.device))
        return found

    @cached_property
    def auto(self) -> Precision:
        return choose_precision("auto", self.device)

    @cached_property
    def main_precisions(self) -> list[Precision]:
        """What a run takes by itself, and fp32."""
        return list(dict.fromkeys((self.auto, "fp32")))

    @cached_property
    def architecture(self) -> Architecture:
        """C3D, or in small a network a sixteenth as wide for clips of 32 x 32."""
        whole = ARCHITECTURES["c3d"]
        return replace(whole.scaled(1 / 16), clip=(16, 32, 32)) if self.small else whole

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return random_checkpoint(self.architecture)

    @cached_property
    def motion_mini(self) -> Checkpoint:
        return load_checkpoint("motion-mini", layers=LAYERS, offline=True)

    def network(self, precision: Precision, batch: int | None = None, **changes: Any) -> Network:
        """Return the network as a run builds it; ``checkpoint`` and ``device`` may be others."""
        checkpoint = changes.get("checkpoint") or self.checkpoint
        device = changes.get("device") or self.device
        return Network(checkpoint, LAYERS, device=device, precision=precision, batch_size=batch)

    def clips(self, checkpoint: Checkpoint, n: int) -> NDArray[np.uint8]:
        """Return rendered clips, uint8 (N, T, H, W, 3), as the checkpoint's network takes them."""
        size = (checkpoint.backbone.clip[0], *checkpoint.preprocessing.crop)
        source = SyntheticClips("all", seed=7, size=size)
        return np.stack([source.clip(index)[0] for index in range(n)])

    def seconds(self, run: Callable[[], object]) -> float:
        """Return the time of one call: the median over rounds of many calls, the device's work included."""
        run()
        once = self._timed(run, 1)
        n = min(1000, max(1, ceil(self.sizes.seconds / max(once, 1e-7))))
        return median(self._timed(run, n) for _ in range(self.sizes.rounds))

    def _timed(self, run: Callable[[], object], n: int) -> float:
        self.synchronize()
        started = time.perf_counter()
        for _ in range(n):
            run()
        self.synchronize()
        return (time.perf_counter() - started) / n

    def product_tflops(self, precision: Precision) -> float:
        """Return the rate of a large matrix product: what the device can do at all."""
        if precision not in self._products:
            n = self.sizes.product
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
            a, b = (torch.randn(n, n, device=self.device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            with torch.inference_mode(), fp32_products(tf32=precision == "tf32"):
                self._products[precision] = 2 * n**3 / self.seconds(lambda: torch.mm(a, b, out=out)) / 1e12
        return self._products[precision]

    def rates(self, precision: Precision, clips_per_second: float) -> dict[str, float]:
        """Return a rate in other units, and against the matrix product."""
        adds = self.architecture.multiply_adds()
        used = {name.partition(".")[0] for name in self.architecture.state_shapes(LAYERS)}
        tflops = clips_per_second * 2 * sum(adds[name] for name in used) / 1e12
        return {
            "clips_per_second": clips_per_second,
            "tflops": tflops,
            "of_product": tflops / self.product_tflops(precision),
        }


def _words(item: Any) -> str:
    return " ".join(map(str, item)) if isinstance(item, tuple) else str(item)


def _fail(section: Section) -> Callable[[str, str], None]:
    return lambda name, why: section.check(name, False, why)


def random_checkpoint(architecture: Architecture, *, seed: int = 0) -> Checkpoint:
    """Return a network whose features neither vanish nor overflow; biases are 0, so it is homogeneous.

    That is: features of ``mean + k x`` are k times those of ``mean + x`` for k > 0.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.zeros(shape)
        if name.endswith(".bias")
        else torch.randn(shape, generator=generator) * (2 / prod(shape[1:])) ** 0.5
        for name, shape in architecture.state_shapes(LAYERS).items()
    }
    return Checkpoint(
        name="random",
        path=Path(),
        sha256="",
        layout="",
        backbone=architecture,
        preprocessing=architecture.preprocessing,
        mean=np.full((3, 1, 1, 1), MEAN, np.float32),
        mean_name=",".join([str(MEAN)] * 3),
        state=state,
    )


def relative(found: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each row's relative error, float64 (N)."""
    a, b = found.astype(np.float64), right.astype(np.float64)
    errors: NDArray[np.float64] = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
    return errors


def cosine(found: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each row's cosine with the right one, float64 (N)."""
    a, b = found.astype(np.float64), right.astype(np.float64)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines
