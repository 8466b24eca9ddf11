"""The conventions of a checkpoint's network: as registered, or inferred from its layout and classes.

Only for C3D, like all supported layouts.

VMZ's C3D is always run in one way; see its model zoo and `layouts.caffe2`.

Sources: the feature extraction example of C3D v1.0 (ceil, B,G,R, a mean cube); jfzhang95's training code
(symmetric, B,G,R, mean 90,98,102); mmaction2's C3D config (symmetric, R,G,B, mean 104,117,128, no divisor).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from c3d_extract.models.c3d import ARCHITECTURES
from c3d_extract.weights.layouts.caffe2 import LAYOUT_NAME

if TYPE_CHECKING:
    from c3d_extract.models.c3d import Pool5
    from c3d_extract.preprocess.spec import Colour, Preprocessing
    from c3d_extract.weights.registry import RegistryEntry

__all__ = ["Conventions", "assumed_conventions", "registered_conventions"]

_PREPROCESSING = ARCHITECTURES["c3d"].preprocessing
_SPORTS1M_CLASSES = 487
_VMZ_MEAN, _VMZ_STD = "95.9966,100.64,110.201", (55.3324, 56.4701, 58.1489)  # B, G, R
_UCF101_CLASSES = 101


@dataclass(frozen=True)
class Conventions:
    """Preprocessing and pooling conventions, and why they are assumed.

    Attributes
    ----------
    pool5, preprocessing
        See `Architecture.pool5` and `Preprocessing`.
    mean
        A registered name, or three numbers B,G,R.
    sports1m
        Whether the weights are, or seem to be, those trained on Sports-1M.
    why
        Reason for the assumption; None for registered checkpoints.
    """

    pool5: Pool5
    preprocessing: Preprocessing
    mean: str
    sports1m: bool
    why: str | None = None


def registered_conventions(entry: RegistryEntry) -> Conventions | None:
    """Return the entry's conventions; None if the file itself contains them."""
    if entry.pool5 is None or entry.colour is None or entry.mean is None:
        return None
    preprocessing = replace(
        _PREPROCESSING,
        resize=entry.resize or _PREPROCESSING.resize,
        crop=entry.crop or _PREPROCESSING.crop,
        colour=entry.colour,
        std=entry.std or _PREPROCESSING.std,
    )
    return Conventions(entry.pool5, preprocessing, entry.mean, sports1m=entry.mean == "sports1m")


def assumed_conventions(layout: str, n_classes: int | None) -> Conventions:
    """Return the most likely conventions of an unregistered file."""
    if layout == LAYOUT_NAME:
        vmz = replace(_PREPROCESSING, colour="rgb", std=_VMZ_STD)
        return Conventions("floor", vmz, _VMZ_MEAN, sports1m=False, why="VMZ's C3D with batch normalisation")
    if n_classes is None or n_classes == _SPORTS1M_CLASSES:
        return _conventions(
            "ceil", "bgr", "sports1m", "Sports-1M weights converted from Caffe", sports1m=True
        )
    if layout == "pytorch-mmaction2":
        # That project's config has 104,117,128, in R,G,B order; here in B,G,R order.
        return _conventions("symmetric", "rgb", "128,117,104", "a network fine-tuned in mmaction2")
    # mmaction 0.x kept Caffe's conventions for its UCF101 file.
    if n_classes == _UCF101_CLASSES and not layout.startswith(("pytorch-davidea", "pytorch-jfzhang95")):
        return _conventions("ceil", "bgr", "ucf101", "Caffe weights fine-tuned on UCF101")
    if layout.startswith("pytorch-"):
        why = f"a PyTorch port fine-tuned on {n_classes} classes"
        return _conventions("symmetric", "bgr", "90,98,102", why)
    return _conventions("ceil", "bgr", "sports1m", f"Caffe weights fine-tuned on {n_classes} classes")


def _conventions(pool5: Pool5, colour: Colour, mean: str, why: str, *, sports1m: bool = False) -> Conventions:
    return Conventions(pool5, replace(_PREPROCESSING, colour=colour), mean, sports1m, why)
