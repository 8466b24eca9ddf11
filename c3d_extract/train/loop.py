"""The training loop: batches, steps, tests, checkpoints; a resumed run ends with bit-identical weights.

A run has a folder: ``state.pt`` for resuming, ``model.safetensors`` for inference, ``log.csv``.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from c3d_extract.compute.devices import memory_format
from c3d_extract.compute.precision import fp32_products
from c3d_extract.errors import C3DError, UsageError
from c3d_extract.train.augment import augment, mirrored_classes
from c3d_extract.train.data import TrainingBatch, training_batches
from c3d_extract.train.evaluate import Sums, count_correct, cross_entropy, evaluate
from c3d_extract.train.network import start_from, training_net
from c3d_extract.train.report import LogEntry, TrainingLog
from c3d_extract.train.state import load_state, save_state, write_model
from c3d_extract.train.summary import clip_summary, summary_loss

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from c3d_extract.train.data import ClipSet
    from c3d_extract.train.network import Outputs
    from c3d_extract.train.recipes import Recipe
    from c3d_extract.train.report import Evaluation
    from c3d_extract.train.state import TrainingSetup

__all__ = ["Intervals", "Trainer"]

_MAX_TEST_ELEMENTS = 1 << 30  # in memory: 4 GiB in fp32; 39 clips of C3D
_SEED_STEP = 1_000_003  # a prime, so that seeds of iterations and processes do not collide


@dataclass(frozen=True)
class Intervals:
    """Iterations between log entries, tests and saves; it also tests and saves at the end."""

    report: int = 20
    test: int = 500
    save: int = 200


class Trainer:
    """Trains one network in a run folder.

    Parameters
    ----------
    folder
        Folder of the run; an existing run is resumed.
    setup
        What to train.
    clips, test
        Training clips, and test clips.
    device
        The device. Bit-exact resume is guaranteed on the CPU, with the same number of threads.
    precision
        ``fp32``, or ``bf16`` for mixed precision on a GPU.
    n_workers
        Processes that make clips; 0 makes them in this one.
    intervals
        How often to report, test and save.

    Attributes
    ----------
    iteration
        Completed iterations.
    stop_asked
        Set it (also from a signal handler) to make `run` save and return before the next iteration, in
        every process. A saved state is always between two iterations.

    Raises
    ------
    MismatchError
        If the folder contains a run with another setup.
    """

    def __init__(
        self,
        folder: Path,
        setup: TrainingSetup,
        clips: ClipSet,
        test: ClipSet | None = None,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        n_workers: int = 0,
        intervals: Intervals | None = None,
    ) -> None:
        if setup.recipe.epochs is not None:
            raise UsageError("a setup needs its recipe in iterations", subject="Recipe.fixed")
        self.folder, self.setup, self.clips, self.test = folder, setup, clips, test
        self.device, self.precision, self.n_workers = torch.device(device), precision, n_workers
        self.intervals = intervals or Intervals()
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        if setup.recipe.batch_size % self.world:
            size = setup.recipe.batch_size
            raise UsageError(f"batches of {size} do not divide among {self.world} processes")
        self.iteration = 0
        self.stop_asked = False
        self._build()
        self._log = TrainingLog(folder / "log.csv")
        if (folder / "state.pt").exists():
            self.iteration = load_state(folder / "state.pt", setup, self.net, self.optimizer)

    def _build(self) -> None:
        setup = self.setup
        torch.manual_seed(setup.seed)
        self.net = training_net(setup.architecture, setup.recipe, last_layer_only=setup.last_layer_only)
        self.new_tensors = start_from(self.net, setup.start) if setup.start else []
        self.net = self.net.to(self.device).to(memory_format=memory_format(self.device))
        self.optimizer = _optimizer(self.net, setup.recipe)
        self._mean = torch.from_numpy(setup.mean)[None].to(self.device)
        self._std = torch.tensor(setup.preprocessing.std, device=self.device).view(1, 3, 1, 1, 1)

    def save(self) -> None:
        """Write ``state.pt`` and ``model.safetensors``, each atomically; only in the first process."""
        if self.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(self.folder / "state.pt", self.setup, self.iteration, self.net, self.optimizer)
        self.write_model()

    def write_model(self, dtype: Any = "fp32") -> None:
        """Write ``model.safetensors``: the current network, in ``fp32`` or ``fp16``."""
        path, name = self.folder / "model.safetensors", self.folder.resolve().name
        write_model(path, self.setup, self.iteration, self.net, name=name, dtype=dtype)

    @property
    def finished(self) -> bool:
        """Whether all iterations are completed."""
        return self.iteration >= self.setup.recipe.iterations

    def run(self, until: int | None = None) -> Iterator[LogEntry]:
        """Train to the end, to iteration ``until``, or until `stop_asked`; yield each log entry.

        Raises
        ------
        C3DError
            If the loss is not finite, or a process that makes clips died.
        """
        last = min(until or self.setup.recipe.iterations, self.setup.recipe.iterations)
        if self.iteration >= last:
            return
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log.cut_after(self.iteration)
        with _workers_in_one_line():
            yield from self._iterations(last)

    def _iterations(self, last: int) -> Iterator[LogEntry]:
        step = DistributedDataParallel(self.net) if self.world > 1 else self.net
        sums, failures, since = Sums(), [], time.perf_counter()
        for batch in self._batches(last):
            self.net.train()
            sums = sums.plus(*self._step(step, batch))
            failures += batch.failures
            self.iteration += 1
            if self._is_due("report", last) or self._is_due("test", last):
                entry = self._entry(sums, failures, time.perf_counter() - since)
                if self.rank == 0:
                    if self.test is not None and self._is_due("test", last):
                        entry.add_test(self.evaluate(self.test))
                    self._log.add(entry)
                sums, failures, since = Sums(), [], time.perf_counter()
                yield entry
            # All processes stop together: one alone would block the others.
            stop = self._total(int(self.stop_asked)) > 0
            if stop or self._is_due("save", last):
                self.save()
            if stop:
                return

    def _is_due(self, what: str, last: int) -> bool:
        return self.iteration == last or self.iteration % getattr(self.intervals, what) == 0

    def _batches(self, last: int) -> Iterator[TrainingBatch]:
        size = self.setup.recipe.batch_size
        starts = range(self.iteration * size + self.rank, last * size, size)
        # This process takes every world-th clip of each batch.
        positions = ([start + k * self.world for k in range(size // self.world)] for start in starts)
        return training_batches(
            self.clips,
            positions,
            seed=self.setup.seed,
            n_workers=self.n_workers,
            pinned=self.device.type == "cuda",
        )

    def _step(self, step: torch.nn.Module, batch: TrainingBatch) -> tuple[float, int, int, int]:
        """Train on one batch; return the summed loss, and the counts of `Sums`."""
        torch.manual_seed((self.setup.seed * _SEED_STEP + self.iteration) * self.world + self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self.setup.recipe.rate_at(self.iteration)
        n_clips = len(batch.clips)
        n_everywhere = self._total(n_clips)
        if n_everywhere == 0:
            return 0.0, 0, 0, 0
        # The other processes wait for a gradient: without clips, contribute a zero one.
        shown = batch if n_clips else self._empty_batch()
        levels, targets = self._training_input(shown)
        with self._products():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                found: Outputs = step(self._normalised(levels))
            loss = cross_entropy(found.scores.float(), targets)
            # DistributedDataParallel averages gradients over the processes; a mean over all clips is wanted.
            share = self.world / n_everywhere if n_clips else 0.0
            self._update(share * (loss + self._summary_loss(found, levels)))
        return loss.item(), n_clips, *count_correct(found.scores.detach(), targets, self.setup.labels)

    def _summary_loss(self, found: Outputs, levels: torch.Tensor) -> torch.Tensor | float:
        if found.summary is None:
            return 0.0
        return self.setup.recipe.summary * summary_loss(found.summary.float(), clip_summary(levels))

    def _update(self, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise C3DError(
                f"the loss is not finite in iteration {self.iteration}",
                hint="lower the rate; the last state is kept",
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self.setup.recipe.max_gradient is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.setup.recipe.max_gradient)
        self.optimizer.step()

    def _empty_batch(self) -> TrainingBatch:
        size = (1, self.setup.architecture.clip[0], *self.setup.preprocessing.crop, 3)
        targets = torch.zeros((1, len(self.setup.labels)))
        return TrainingBatch(torch.zeros(size, dtype=torch.uint8), targets, [])

    def _products(self) -> contextlib.AbstractContextManager[None]:
        # torch's default for convolutions on a GPU is TF32, but fp32 was requested.
        return fp32_products(tf32=False) if self.device.type == "cuda" else contextlib.nullcontext()

    def _total(self, count: int) -> int:
        if self.world == 1:
            return count
        total = torch.tensor(count, device=self.device)
        distributed.all_reduce(total)
        return int(total)

    def input(self, clips: torch.Tensor) -> torch.Tensor:
        """Convert clips uint8 (N, T, H, W, 3), B, G, R, to the network's input: float (N, 3, T, H, W)."""
        return self._normalised(self._levels(clips))

    def _levels(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.to(self.device, non_blocking=True).permute(0, 4, 1, 2, 3).float()

    def _normalised(self, levels: torch.Tensor) -> torch.Tensor:
        x = ((levels - self._mean) / self._std).contiguous(memory_format=memory_format(self.device))
        return x.flip(1) if self.setup.preprocessing.colour == "rgb" else x

    def _training_input(self, batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return levels, float (N, 3, T, H, W), and targets, augmented if the recipe says so."""
        targets = batch.targets.to(self.device)
        if not self.setup.recipe.augment:
            return self._levels(batch.clips), targets
        clips = batch.clips.to(self.device, non_blocking=True)
        mirrored = torch.tensor(mirrored_classes(self.setup.labels), device=self.device)
        return augment(clips, targets, self.setup.preprocessing.crop, mirrored)

    def _entry(self, sums: Sums, failures: list[str], seconds: float) -> LogEntry:
        if self.world > 1:  # each process has its own part
            total = torch.tensor(sums, dtype=torch.float64, device=self.device)
            distributed.all_reduce(total)
            sums = Sums().plus(*total.tolist())
        rate = self.setup.recipe.rate_at(self.iteration - 1)
        return LogEntry(self.iteration, sums.mean_loss, sums.accuracy, rate, sums.n_clips / seconds, failures)

    def evaluate(self, test: ClipSet) -> Evaluation:
        """Test on a set; videos that cannot be read are skipped and reported."""
        self.net.eval()
        with self._products():
            return evaluate(self._scores, test, self.setup.labels, n_workers=self.n_workers)

    def _scores(self, clips: torch.Tensor) -> torch.Tensor:
        size = max(1, _MAX_TEST_ELEMENTS // self.setup.architecture.peak_elements())
        return torch.cat([self.net.logits(self.input(part)) for part in torch.split(clips, size)])


@contextlib.contextmanager
def _workers_in_one_line() -> Iterator[None]:
    """Convert torch's error about a dead worker process into a one-line C3DError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise C3DError(
            f"a process that makes clips died ({reason})", hint="--workers 0 makes them in the process itself"
        ) from error


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    trained = [p for p in net.parameters() if p.requires_grad]
    # As in Caffe's examples, weight decay applies to kernels but not to biases, nor to batch norm.
    kernels = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum)
