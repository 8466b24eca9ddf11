"""Recipes: named sets of all training hyperparameters.

``ucf101`` is Section 3.1 of the paper with additions from the authors' example (C3D v1.0, c3d_train_ucf101);
``sports1m`` is Section 3.3; ``finetune`` the authors' fine-tuning example (c3d_finetuning).
``last-layer`` is this package's, for a new last layer alone; so are ``synthetic`` and ``motion-mini``, for
narrow networks on endless synthetic clips.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from c3d_extract.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    batch_size
        Clips per iteration, over all processes.
    iterations
        Total number of iterations.
    epochs
        Passes over the training clips; replaces ``iterations`` unless None.
    optimizer
        ``sgd`` with momentum, or ``adamw``.
    rate, momentum, decay
        Learning rate at the start, momentum (of SGD), weight decay.
    schedule
        ``step`` multiplies the rate by ``gamma`` every ``every`` iterations (epochs, where ``epochs`` is
        given); ``cosine`` is a warm-up over the first 1/20, then a decay to zero.
    dropout
        After fc6 and fc7; of other networks before the last layer.
    initial
        For C3D's family; torchvision's networks begin as torchvision makes them.
        ``gaussian``: the authors' (deviation 0.01, hidden layers 0.005, biases 1 but 0 in conv1 and the
        last layer). ``he``: deviation sqrt(2 / inputs), biases 0.
    batch_norm
        Normalise after each convolution while training; folded into the convolutions afterwards.
    mirror
        Probability of mirroring a clip of a video; not applied to synthetic clips, whose classes include
        left and right.
    augment
        Crop, mirror, recolour and partly erase the clips of each batch at random, see `augment.augment`;
        exchanges left and right in the labels of synthetic clips.
    summary
        Weight of a second task, predicting `summary.clip_summary` from fc6, so that fc6 also keeps what the
        labels do not ask for; 0: none.
    max_gradient
        Gradients of a larger norm are scaled down to it; None: never.
    clips_per_video
        Training clips per video and epoch, each from a fixed random segment of ``segment_seconds``, or from
        anywhere if that is 0.
    """

    batch_size: int = 30
    iterations: int = 60_000
    epochs: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.003
    momentum: float = 0.9
    decay: float = 0.005
    schedule: Literal["step", "cosine"] = "step"
    gamma: float = 0.1
    every: int = 20_000
    dropout: float = 0.5
    initial: Literal["gaussian", "he"] = "gaussian"
    batch_norm: bool = False
    mirror: float = 0.5
    augment: bool = False
    summary: float = 0.0
    max_gradient: float | None = None
    clips_per_video: int = 1
    segment_seconds: float = 0.0

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, fits in (
                ("batch_size", self.batch_size >= 1),
                ("iterations", self.iterations >= 1),
                ("epochs", self.epochs is None or self.epochs >= 1),
                ("rate", 0 < self.rate < math.inf),
                ("momentum", 0 <= self.momentum < 1),
                ("decay", 0 <= self.decay < math.inf),
                ("every", self.every >= 1),
                ("dropout", 0 <= self.dropout < 1),
                ("mirror", 0 <= self.mirror <= 1),
                ("summary", 0 <= self.summary < math.inf),
                ("max_gradient", self.max_gradient is None or self.max_gradient > 0),
                ("clips_per_video", self.clips_per_video >= 1),
            )
            if not fits
        ]
        if wrong:
            raise UsageError(f"{wrong[0]} cannot be {getattr(self, wrong[0])}", subject="recipe")

    def fixed(self, n_items: int | None) -> Self:
        """Return the recipe in iterations, for ``n_items`` training clips per epoch (None: endless)."""
        if self.epochs is None:
            return self
        if n_items is None:
            raise UsageError("endless data has no epochs", subject="recipe", hint="give --iterations")
        epoch_iterations = math.ceil(n_items / self.batch_size)
        every = self.every * epoch_iterations
        return dataclasses.replace(self, iterations=self.epochs * epoch_iterations, every=every, epochs=None)

    def rate_at(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0."""
        if self.schedule == "step":
            return self.rate * self.gamma ** (iteration // self.every)
        # A warm-up, as AdamW's second moments are noise in its first steps.
        warm = max(1, self.iterations // 20)
        rise = min(1.0, (iteration + 1) / warm)
        return self.rate * rise * 0.5 * (1 + math.cos(math.pi * iteration / self.iterations))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return the recipe with all values that are not None changed; ``iterations`` replaces epochs."""
        kept = {name: value for name, value in changes.items() if value is not None}
        if "iterations" in kept:
            kept.setdefault("epochs", None)
        return dataclasses.replace(self, **kept)


RECIPES: dict[str, Recipe] = {
    # Section 3.1: batches of 30, rate 0.003 divided by 10 every 4 epochs, 16 epochs.
    "ucf101": Recipe(epochs=16, every=4),
    # Section 3.3: batches of 30, rate 0.003 halved every 150,000 iterations, 1.9 million iterations, five
    # two-second clips per video. Momentum, decay and initial weights as in the authors' example.
    "sports1m": Recipe(
        iterations=1_900_000, gamma=0.5, every=150_000, clips_per_video=5, segment_seconds=2.0
    ),
    # c3d_finetuning: rate 0.0001 divided by 10 every 5,000 of 20,000 iterations, decay 0.0005.
    "finetune": Recipe(iterations=20_000, rate=0.0001, decay=0.0005, every=5_000),
    # The problem is convex; AdamW, because descriptors of networks differ in size by orders of magnitude.
    "last-layer": Recipe(epochs=20, optimizer="adamw", rate=0.01, decay=0.01, schedule="cosine", dropout=0.0),
    "synthetic": Recipe(
        batch_size=32,
        iterations=4_000,
        optimizer="adamw",
        rate=0.002,
        decay=0.02,
        schedule="cosine",
        dropout=0.2,
        initial="he",
        batch_norm=True,
        mirror=0.0,
        augment=True,
    ),
    # The checkpoint that comes with the package, see weights/README.md.
    "motion-mini": Recipe(
        batch_size=256,
        iterations=8_756,
        optimizer="adamw",
        rate=0.003,
        decay=0.05,
        schedule="cosine",
        dropout=0.1,
        initial="he",
        batch_norm=True,
        mirror=0.0,
        augment=True,
        summary=1.0,
        max_gradient=5.0,
    ),
}
"""The recipes by name; every number can be overridden."""
