"""The setup of a run and its files: the state for resuming, and the model.

``state.pt`` holds the weights, the optimizer and the number of completed iterations; all random numbers come
from that number and the seed, so no other state is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from c3d_extract.errors import MismatchError, StoreError
from c3d_extract.files import replacing
from c3d_extract.weights import save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from c3d_extract.models.base import Backbone
    from c3d_extract.preprocess.spec import Preprocessing
    from c3d_extract.train.network import TrainingNet, VideoTrainingNet
    from c3d_extract.train.recipes import Recipe

__all__ = ["TrainingSetup", "load_state", "save_state", "write_model"]


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that determines the trained weights.

    Attributes
    ----------
    architecture, preprocessing, mean
        The network and its input; ``mean`` is float32, as returned by `preprocess.fit_mean`.
    recipe
        In iterations, see `Recipe.fixed`.
    labels
        Class names, in the order of the network's outputs.
    data
        A description of the clips, saved with the model and compared when resuming.
    seed
        Determines the initial weights, the order, augmentation and dropout.
    start
        Tensors to start from, by name; those missing or of another shape keep their initial values.
    start_name
        Name of their source.
    last_layer_only
        Train the last layer alone, and keep the others as they start.
    """

    architecture: Backbone
    preprocessing: Preprocessing
    mean: NDArray[np.float32]
    recipe: Recipe
    labels: tuple[str, ...]
    data: Mapping[str, Any]
    seed: int = 0
    start: Mapping[str, torch.Tensor] = field(default_factory=dict)
    start_name: str | None = None
    last_layer_only: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, equal for equal setups."""
        plain = {
            "architecture": self.architecture.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "mean": np.asarray(self.mean).mean(axis=(1, 2, 3)).round(3).tolist(),
            "recipe": self.recipe.to_json(),
            "labels": list(self.labels),
            "data": dict(self.data),
            "seed": self.seed,
            "start": self.start_name,
            "trained": "last layer" if self.last_layer_only else "all layers",
        }
        result: dict[str, Any] = json.loads(json.dumps(plain))
        return result


def save_state(
    path: Path, setup: TrainingSetup, iteration: int, net: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace ``state.pt`` atomically; raise StoreError if it cannot be written."""
    state = {
        "plan": json.dumps(setup.to_json()),
        "iteration": iteration,
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    try:
        with replacing(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise StoreError(f"cannot be written: {error}", subject=path) from error


def load_state(path: Path, setup: TrainingSetup, net: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load a saved state into a network and its optimizer; return the number of completed iterations.

    Raises
    ------
    StoreError
        If the file is not a training state.
    MismatchError
        If it is the state of another setup.
    """
    try:
        # To the CPU: load_state_dict copies each tensor to its device; AdamW's step count stays on the CPU.
        saved = torch.load(path, map_location="cpu", weights_only=True)
        was, now = json.loads(saved["plan"]), setup.to_json()
    except Exception as error:  # torch.load can raise anything for a damaged file
        raise StoreError(f"not a training state that can be read ({error})", subject=path) from error
    was = {"trained": "all layers"} | was  # earlier versions did not say it: they could not freeze layers
    different = [f"{key}: {was.get(key)} → {now[key]}" for key in now if was.get(key) != now[key]]
    if different:
        raise MismatchError(
            "the run here was started with other settings",
            differences=different,
            subject=path.parent,
            hint="use another folder, or --overwrite",
        )
    net.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["iteration"])


def write_model(
    path: Path,
    setup: TrainingSetup,
    iteration: int,
    net: TrainingNet | VideoTrainingNet,
    *,
    name: str,
    dtype: Any = "fp32",
) -> None:
    """Write a network as a native checkpoint (``.safetensors``).

    ``dtype`` is ``fp32`` or ``fp16``; ``name`` is the checkpoint's.
    """
    described = setup.to_json()
    extra = {key: described[key] for key in ("recipe", "data", "seed", "start", "trained")}
    save_checkpoint(
        path,
        net.plain_state(),
        setup.architecture,
        setup.preprocessing,
        setup.mean,
        name=name,
        labels=setup.labels,
        extra={**extra, "iterations_done": iteration},
        dtype=dtype,
    )
