"""Labelled clips: scenes drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import UsageError
from c3d_extract.train.synthetic.actions import ACTIONS
from c3d_extract.train.synthetic.camera import record
from c3d_extract.train.synthetic.figures import paint_figures
from c3d_extract.train.synthetic.shapes import MOTIONS, REVERSALS, SHAPES, paint_shapes

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from c3d_extract.train.synthetic.canvas import Floats

__all__ = ["KINDS", "SyntheticClips", "render_video"]

_REVERSIBLE = tuple(name for pair in REVERSALS for name in pair)
_MOTION = tuple(f"motion {name}" for name in MOTIONS)
_SHAPE = tuple(f"shape {name}" for name in SHAPES)
_ACTION = tuple(f"action {name}" for name in ACTIONS)

KINDS: dict[str, tuple[str, ...]] = {
    "all": _MOTION + _SHAPE + _ACTION,
    "shapes": _MOTION + _SHAPE,
    "motion": _MOTION,
    "reversal": tuple(f"motion {name}" for name in _REVERSIBLE),
    "figures": _ACTION,
}
"""Kinds of data and their labels: shapes have a motion and a shape, figures an action."""


@dataclass(frozen=True)
class SyntheticClips:
    """An endless sequence of labelled clips.

    Parameters
    ----------
    kind
        One of `KINDS`.
    seed
        Other seeds give other clips; train and test on different ones.
    size
        Frames, rows and columns.
    """

    kind: str
    seed: int
    size: tuple[int, int, int] = (16, 112, 112)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown; known: {', '.join(KINDS)}", subject=f"synthetic data {self.kind!r}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        return KINDS[self.kind]

    def clip(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
        """Return clip ``index``: frames uint8 (T, H, W, 3), B, G, R, and its correct labels."""
        rng = np.random.default_rng((self.seed, index))
        if self.kind == "figures" or (self.kind == "all" and index % 3):
            action = _one_of(ACTIONS, rng)
            pixels = _figures(action, self.size, rng)
            names = [f"action {action}"]
        else:
            motion = _one_of(_REVERSIBLE if self.kind == "reversal" else MOTIONS, rng)
            shape = _one_of(SHAPES, rng)
            pixels = paint_shapes(motion, shape, self.size, rng).pixels
            names = [f"motion {motion}", f"shape {shape}"]
        classes = tuple(self.labels.index(name) for name in names if name in self.labels)
        return record(rng, pixels), classes


def _figures(action: str, size: tuple[int, int, int], rng: np.random.Generator) -> Floats:
    """Return a scene (3, T, H, W); in 8 % of clips a cut leads to other people doing the same."""
    pixels = paint_figures(action, size, rng).pixels
    if rng.random() < 0.08 and size[0] > 3:
        cut = int(rng.integers(size[0] // 4, size[0] - size[0] // 4))
        pixels[:, cut:] = paint_figures(action, size, rng).pixels[:, cut:]
    return pixels


def _one_of(names: Collection[str], rng: np.random.Generator) -> str:
    return list(names)[rng.integers(len(names))]


def render_video(name: str, seed: int, *, size: tuple[int, int, int], seconds: float) -> NDArray[np.uint8]:
    """Return a short video, uint8 (T, H, W, 3), B, G, R, of one of `ACTIONS` or `MOTIONS`."""
    rng = np.random.default_rng((seed, *name.encode()))
    if name in ACTIONS:
        canvas = paint_figures(name, size, rng, seconds=seconds)
    else:
        canvas = paint_shapes(name, _one_of(SHAPES, rng), size, rng)
    return record(rng, canvas.pixels)
