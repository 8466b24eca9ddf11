"""The training loop: batches, steps, tests, checkpoints; resumed, it ends with the same weights to the bit.

A run lives in a folder: ``state.pt`` to go on from, ``model.safetensors`` to use, ``log.csv``.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from c3d_extract.compute.devices import memory_format
from c3d_extract.compute.precision import fp32_products
from c3d_extract.errors import C3DError, MismatchError, StoreError, UsageError
from c3d_extract.files import replacing
from c3d_extract.train.data import Batch, TestVideos, TrainingClips, collate, send, start_worker
from c3d_extract.train.network import TrainingNet
from c3d_extract.train.report import TrainingLog
from c3d_extract.weights import save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.c3d import Architecture
    from c3d_extract.preprocess.spec import Preprocessing
    from c3d_extract.train.data import ClipSource
    from c3d_extract.train.recipes import Recipe

__all__ = ["Plan", "Report", "Trainer", "hits"]

_SEED_STEP = 1_000_003  # a prime: seeds of neighbouring iterations and processes do not meet
_VIDEOS_TOGETHER = 16  # that are tested


@dataclass(frozen=True)
class Plan:
    """What is trained: all that decides the resulting numbers.

    Attributes
    ----------
    architecture, preprocessing, mean
        The network and what it is fed; ``mean`` as `preprocess.fit_mean` gives it.
    recipe
        In iterations, see `Recipe.fixed`.
    labels
        Class names, in the order of the network's outputs.
    data
        A description of the clips, for the record and to notice other ones on resume.
    seed
        Decides the initial weights, the order, every jitter and dropout.
    start
        Tensors to start from, by name; those missing or of another shape stay new.
    start_name
        What they are.
    """

    architecture: Architecture
    preprocessing: Preprocessing
    mean: NDArray[np.float32]
    recipe: Recipe
    labels: tuple[str, ...]
    data: Mapping[str, Any]
    seed: int = 0
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    start_name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values that two equal plans share."""
        plain = {
            "architecture": self.architecture.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "mean": np.asarray(self.mean).mean(axis=(1, 2, 3)).round(3).tolist(),
            "recipe": self.recipe.to_json(),
            "labels": list(self.labels),
            "data": dict(self.data),
            "seed": self.seed,
            "start": self.start_name,
        }
        result: dict[str, Any] = json.loads(json.dumps(plain))
        return result


@dataclass
class Report:
    """What happened since the last one.

    Attributes
    ----------
    iteration
        Iterations done.
    loss, accuracy
        Mean over the clips learned from since the last report; accuracy is the share of clips whose top
        class is right (for clips with a motion and a shape: of both, each among its kind).
    rate, clips_per_second
        Learning rate and speed.
    failures
        Videos that could not be read since the last report: one line each.
    test_loss, test_clips, test_videos
        Mean loss, and accuracy on single clips and on the mean prediction of each video's clips; None where
        nothing was tested.
    """

    iteration: int
    loss: float
    accuracy: float
    rate: float
    clips_per_second: float
    failures: list[str] = field(default_factory=list)
    test_loss: float | None = None
    test_clips: float | None = None
    test_videos: float | None = None


class Tested(NamedTuple):
    """Mean loss, and accuracy on single clips and on each video's mean; why videos could not be read."""

    loss: float
    clips: float
    videos: float
    failures: list[str]


def hits(scores: torch.Tensor, targets: torch.Tensor, labels: tuple[str, ...]) -> tuple[int, int]:
    """Return how many answers are right, and how many were asked for.

    Labels such as ``motion left`` belong to a kind by their first word; each kind that a clip has a label of
    is one question, answered by the highest score among the kind. Other labels are one kind together.
    """
    n_right = n_asked = 0
    for columns in _kinds(labels):
        wanted = targets[:, columns] > 0
        asked = wanted.any(dim=1)
        best = scores[:, columns].argmax(dim=1, keepdim=True)
        n_right += int((wanted.gather(1, best).squeeze(1) & asked).sum())
        n_asked += int(asked.sum())
    return n_right, n_asked


def _kinds(labels: tuple[str, ...]) -> list[list[int]]:
    kinds: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        known = label.partition(" ")[0] in {"motion", "shape", "action"} and " " in label
        kinds.setdefault(label.partition(" ")[0] if known else "", []).append(column)
    return list(kinds.values())


class _Sums(NamedTuple):
    loss: float = 0.0
    n_clips: int = 0
    n_right: int = 0
    n_asked: int = 0

    def plus(self, *more: float) -> _Sums:
        return _Sums(*(a + b for a, b in zip(self, more, strict=True)))  # type: ignore[arg-type]

    @property
    def means(self) -> tuple[float, float]:
        return self.loss / max(self.n_clips, 1), self.n_right / max(self.n_asked, 1)


class Trainer:
    """Trains one network in a run folder.

    Parameters
    ----------
    folder
        Where the run lives; a run that is there already goes on.
    plan
        What is trained.
    source, test
        Clips to learn from, and to test on.
    device
        Where it runs. Bit-exact resume holds on the CPU, with the same number of threads.
    precision
        ``fp32``, or ``bf16`` for mixed precision on a GPU.
    n_workers
        Processes that make clips; 0 makes them in this one.
    report_every, test_every, save_every
        Iterations between them; test and save also at the end.

    Attributes
    ----------
    iteration
        Iterations done.
    stop_asked
        Set it, from a signal's handler too, and `run` saves and ends before the next iteration, in every
        process. What is saved is never the middle of an iteration.

    Raises
    ------
    MismatchError
        Where the folder holds a run of another plan.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        source: ClipSource,
        test: ClipSource | None = None,
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        n_workers: int = 0,
        report_every: int = 20,
        test_every: int = 500,
        save_every: int = 200,
    ) -> None:
        if plan.recipe.epochs is not None:
            raise UsageError("a plan needs its recipe in iterations", subject="Recipe.fixed")
        self.folder, self.plan, self.source, self.test = folder, plan, source, test
        self.device, self.precision, self.n_workers = torch.device(device), precision, n_workers
        self.report_every, self.test_every, self.save_every = report_every, test_every, save_every
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        self.world = distributed.get_world_size() if distributed.is_initialized() else 1
        if plan.recipe.batch_size % self.world:
            raise UsageError(
                f"batches of {plan.recipe.batch_size} do not divide among {self.world} processes"
            )
        self.iteration = 0
        self.stop_asked = False
        torch.manual_seed(plan.seed)
        self.net = TrainingNet(plan.architecture, plan.recipe)
        self.new_tensors = self.net.start_from(plan.start) if plan.start else []
        self.net = self.net.to(self.device).to(memory_format=memory_format(self.device))
        self.optimizer = _optimizer(self.net, plan.recipe)
        self._mean = torch.from_numpy(plan.mean)[None].to(self.device)
        self._std = torch.tensor(plan.preprocessing.std, device=self.device).view(1, 3, 1, 1, 1)
        self._log = TrainingLog(folder / "log.csv")
        self._resume()

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        try:
            # On the CPU: loading copies each tensor to where it belongs, and AdamW counts its steps there.
            saved = torch.load(path, map_location="cpu", weights_only=True)
            was, now = json.loads(saved["plan"]), self.plan.to_json()
        except Exception as error:  # torch raises what its reader meets
            raise StoreError(f"not a training state that can be read ({error})", subject=path) from error
        different = [f"{key}: {was.get(key)} → {now[key]}" for key in now if was.get(key) != now[key]]
        if different:
            raise MismatchError(
                "the run here was started with other settings",
                differences=different,
                subject=self.folder,
                hint="use another folder, or --overwrite",
            )
        self.net.load_state_dict(saved["net"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.iteration = int(saved["iteration"])

    def save(self) -> None:
        """Write ``state.pt``, each with one rename, and ``model.safetensors`` beside it."""
        if self.rank:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "plan": json.dumps(self.plan.to_json()),
            "iteration": self.iteration,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.folder / "state.pt"
        try:
            with replacing(path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:
            raise StoreError(f"cannot be written: {error}", subject=path) from error
        self.write_model(self.folder / "model.safetensors", name=self.folder.resolve().name)

    def write_model(self, path: Path, *, name: str, dtype: Any = "fp32") -> None:
        """Write the network as it is now: a plain C3D net with all that using it needs."""
        plan = self.plan
        told = {
            key: value for key, value in plan.to_json().items() if key in {"recipe", "data", "seed", "start"}
        }
        extra = {**told, "iterations_done": self.iteration}
        save_checkpoint(
            path,
            self.net.plain_state(),
            plan.architecture,
            plan.preprocessing,
            plan.mean,
            name=name,
            labels=plan.labels,
            extra=extra,
            dtype=dtype,
        )

    @property
    def finished(self) -> bool:
        """Whether every iteration of the plan is done."""
        return self.iteration >= self.plan.recipe.iterations

    def run(self, until: int | None = None) -> Iterator[Report]:
        """Train to the end, to iteration ``until``, or till `stop_asked`, and yield a report now and then.

        Raises
        ------
        C3DError
            For a loss that is not finite, or where a process that makes clips died.
        """
        last = min(until or self.plan.recipe.iterations, self.plan.recipe.iterations)
        if self.iteration >= last:
            return
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._log.cut_after(self.iteration)
        with _workers_in_one_line():
            yield from self._iterations(last)

    def _iterations(self, last: int) -> Iterator[Report]:
        step = DistributedDataParallel(self.net) if self.world > 1 else self.net
        sums, failures, since = _Sums(), [], time.perf_counter()
        for batch in self._batches(last):
            self.net.train()
            sums = sums.plus(*self._step(step, batch))
            failures += batch.failures
            self.iteration += 1
            testing = self.iteration % self.test_every == 0 or self.iteration == last
            if testing or self.iteration % self.report_every == 0:
                report = self._report(sums, failures, time.perf_counter() - since)
                if testing:
                    self._test(report)
                if self.rank == 0:
                    self._log.add(report)
                sums, failures, since = _Sums(), [], time.perf_counter()
                yield report
            stop = self._total(int(self.stop_asked)) > 0  # together: the others would wait for a gradient
            if stop or self.iteration % self.save_every == 0 or self.iteration == last:
                self.save()
            if stop:
                return

    def _test(self, report: Report) -> None:
        if self.test is not None and self.rank == 0:
            tested = self.evaluate(self.test)
            report.test_loss, report.test_clips, report.test_videos, unread = tested
            report.failures.extend(unread)

    def _batches(self, last: int) -> Iterator[Batch]:
        size = self.plan.recipe.batch_size
        starts = range(self.iteration * size + self.rank, last * size, size)
        loader = DataLoader(
            TrainingClips(self.source, self.plan.seed),
            batch_sampler=_Positions(starts, size, self.world),
            num_workers=self.n_workers,
            collate_fn=partial(send, n_classes=len(self.plan.labels)),
            pin_memory=self.device.type == "cuda",
            worker_init_fn=start_worker,
        )
        for batch in loader:
            yield batch if isinstance(batch, Batch) else batch.tensors()  # page-locked already, or not

    def _step(self, step: torch.nn.Module, batch: Batch) -> tuple[float, int, int, int]:
        """Learn from one batch; return the summed loss, clips, right answers and answers asked for."""
        torch.manual_seed((self.plan.seed * _SEED_STEP + self.iteration) * self.world + self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.recipe.rate_at(self.iteration)
        n_clips = len(batch.clips)
        n_everywhere = self._total(n_clips)
        if n_everywhere == 0:
            return 0.0, 0, 0, 0
        # The other processes wait for a gradient: without a clip, of an empty one that counts nothing.
        shown = batch if n_clips else self._empty_batch()
        targets = shown.targets.to(self.device)
        with self._products():
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                scores = step(self.input(shown.clips)).float()
            loss = -(targets * F.log_softmax(scores, dim=1)).sum()
            if not torch.isfinite(loss):
                raise C3DError(
                    f"the loss is not finite in iteration {self.iteration}",
                    hint="lower the rate; the last state is kept",
                )
            self.optimizer.zero_grad(set_to_none=True)
            # DistributedDataParallel averages gradients over the processes; a mean over all clips is wanted.
            torch.autograd.backward(loss * (self.world / n_everywhere))
        self.optimizer.step()
        return loss.item(), n_clips, *hits(scores.detach(), targets, self.plan.labels)

    def _empty_batch(self) -> Batch:
        size = (1, self.plan.architecture.clip[0], *self.plan.preprocessing.crop, 3)
        return Batch(torch.zeros(size, dtype=torch.uint8), torch.zeros((1, len(self.plan.labels))), [])

    def _products(self) -> contextlib.AbstractContextManager[None]:
        # torch's default on a GPU is TF32 in convolutions, and fp32 is asked for.
        return fp32_products(tf32=False) if self.device.type == "cuda" else contextlib.nullcontext()

    def _total(self, count: int) -> int:
        if self.world == 1:
            return count
        total = torch.tensor(count, device=self.device)
        distributed.all_reduce(total)
        return int(total)

    def input(self, clips: torch.Tensor) -> torch.Tensor:
        """Bring clips uint8 (N, T, H, W, 3), B, G, R, to what the network takes: float (N, 3, T, H, W)."""
        x = clips.to(self.device, non_blocking=True).permute(0, 4, 1, 2, 3).float() - self._mean
        x = (x / self._std).contiguous(memory_format=memory_format(self.device))
        return x.flip(1) if self.plan.preprocessing.colour == "rgb" else x

    def _report(self, sums: _Sums, failures: list[str], seconds: float) -> Report:
        if self.world > 1:  # every process saw its own part
            total = torch.tensor(sums, dtype=torch.float64, device=self.device)
            distributed.all_reduce(total)
            sums = _Sums().plus(*total.tolist())
        loss, accuracy = sums.means
        rate = self.plan.recipe.rate_at(self.iteration - 1)
        return Report(self.iteration, loss, accuracy, rate, sums.n_clips / seconds, failures)

    @torch.no_grad()
    def evaluate(self, test: ClipSource) -> Tested:
        """Test on a set; videos that cannot be read are left out and named."""
        self.net.eval()
        clips, videos, failures = _Sums(), _Sums(), []
        groups = DataLoader(
            TestVideos(test),
            _VIDEOS_TOGETHER,
            num_workers=self.n_workers,
            collate_fn=list,
            worker_init_fn=start_worker,
        )
        for group in groups:
            failures += [why for why in group if isinstance(why, str)]
            found = [video for video in group if not isinstance(video, str)]
            batch = collate([clip for video in found for clip in video], len(self.plan.labels))
            if not len(batch.clips):
                continue
            with self._products():
                scores = torch.cat([self.net(self.input(part)) for part in torch.split(batch.clips, 32)])
            targets = batch.targets.to(self.device)
            loss = float(-(targets * F.log_softmax(scores, dim=1)).sum())
            clips = clips.plus(loss, len(targets), *hits(scores, targets, self.plan.labels))
            sizes = [len(video) for video in found]
            mean = torch.stack([part.softmax(1).mean(0) for part in torch.split(scores, sizes)])
            first = torch.stack([part[0] for part in torch.split(targets, sizes)])
            videos = videos.plus(0, len(sizes), *hits(mean, first, self.plan.labels))
        return Tested(*clips.means, videos.means[1], failures)


@contextlib.contextmanager
def _workers_in_one_line() -> Iterator[None]:
    """Turn what torch raises, wherever it is, when a process that makes clips has died into one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise C3DError(
            f"a process that makes clips died ({reason})", hint="--workers 0 makes them in the process itself"
        ) from error


class _Positions(Sampler[list[int]]):
    """The positions of each batch of one process: every ``world``-th of ``size`` from its start."""

    def __init__(self, starts: range, size: int, world: int) -> None:
        self.starts, self.size, self.world = starts, size, world

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        n_own = self.size // self.world
        for start in self.starts:
            yield [start + k * self.world for k in range(n_own)]


def _optimizer(net: TrainingNet, recipe: Recipe) -> torch.optim.Optimizer:
    # As Caffe's examples have it, weights decay and biases do not; nor do the factors of batch norm.
    kernels = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    groups = [{"params": kernels, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum)
