"""What a checkpoint's network wants: as registered, or as its layout and classes make likely.

Sources: the feature extraction example of C3D v1.0 (ceil, B,G,R, a mean cube); jfzhang95's training code
(symmetric, B,G,R, mean 90,98,102); mmaction2's C3D config (symmetric, R,G,B, mean 104,117,128, no divisor).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from c3d_extract.preprocess.spec import Preprocessing

if TYPE_CHECKING:
    from c3d_extract.models.c3d import Pool5
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights.registry import Record

__all__ = ["SPORTS1M_CLASSES", "Dialect", "assumed_dialect", "registered_dialect"]

SPORTS1M_CLASSES = 487
_UCF101_CLASSES = 101


@dataclass(frozen=True)
class Dialect:
    """What the network wants, and why we think so.

    Attributes
    ----------
    pool5, preprocessing
        See `Architecture.pool5` and `Preprocessing`.
    mean
        A registered name, or three numbers B,G,R.
    sports1m
        Whether the weights are, or seem to be, those trained on Sports-1M.
    why
        What the assumption rests on; None for registered checkpoints.
    """

    pool5: Pool5
    preprocessing: Preprocessing
    mean: str
    sports1m: bool
    why: str | None = None


def registered_dialect(record: Record) -> Dialect | None:
    """Return what the record says; None where the file itself says it."""
    if record.pool5 is None or record.colour is None or record.mean is None:
        return None
    preprocessing = Preprocessing(record.resize, record.crop, record.colour, record.std)
    return Dialect(record.pool5, preprocessing, record.mean, sports1m=record.mean == "sports1m")


def assumed_dialect(layout: str, n_classes: int | None) -> Dialect:
    """Return the likeliest dialect of a file that is not registered."""
    if n_classes is None or n_classes == SPORTS1M_CLASSES:
        return _dialect("ceil", "bgr", "sports1m", "Sports-1M weights converted from Caffe", sports1m=True)
    if layout == "pytorch-mmaction2":
        # Written 104,117,128 in that project's config, for frames in the order R,G,B; here B,G,R.
        return _dialect("symmetric", "rgb", "128,117,104", "a network fine-tuned in mmaction2")
    # mmaction 0.x kept Caffe's dialect for its UCF101 file.
    if n_classes == _UCF101_CLASSES and not layout.startswith(("pytorch-davidea", "pytorch-jfzhang95")):
        return _dialect("ceil", "bgr", "ucf101", "Caffe weights fine-tuned on UCF101")
    if layout.startswith("pytorch-"):
        why = f"a PyTorch port fine-tuned on {n_classes} classes"
        return _dialect("symmetric", "bgr", "90,98,102", why)
    return _dialect("ceil", "bgr", "sports1m", f"Caffe weights fine-tuned on {n_classes} classes")


def _dialect(pool5: Pool5, colour: Colour, mean: str, why: str, *, sports1m: bool = False) -> Dialect:
    return Dialect(pool5, Preprocessing(colour=colour), mean, sports1m, why)
