"""Verification of a checkpoint's conventions on the authors' sample frames.

Four networks give the same shapes: B,G,R or R,G,B, pool5 by ceil or symmetric; eight where the order of
fc6's inputs is not known either. Each is run on the clips for which the original tool's output is known, and
compared by norm, maximum, share of non-zeros and top class, or with the vectors
themselves if a file of them is given.

For C3D only: its ports differ in these conventions, and outputs of its original tool are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.weights.goldens import measures
from c3d_extract.weights.layouts.channels_last import CHANNELS_LAST_LAYOUTS
from c3d_extract.weights.load import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import C3D, Pool5
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights.checkpoint import Checkpoint
    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.goldens import KnownClip
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["Combination", "Verdict", "no_known_frames", "verify"]

NORM_BOUND, MAX_BOUND, NON_ZERO_BOUND, VECTOR_BOUND = 0.01, 0.02, 0.01, 0.01
"""Bounds of a match, each for the worst of all clips: fc6's norm and maximum (relative), its share
of non-zeros (absolute), fc6 itself (relative). The right network with the right mean has about 0.001 in
all of them; the wrong pooling alone changes fc6 by 0.45."""

_COLOURS: tuple[Colour, ...] = ("bgr", "rgb")
_POOLINGS: tuple[Pool5, ...] = ("ceil", "symmetric")
_BATCH = 4


@dataclass(frozen=True)
class Combination:
    """Errors of one combination of conventions, each for the worst of all clips.

    Attributes
    ----------
    colour, pool5, fc6_order
        The conventions; ``fc6_order`` is None if the layout determines it.
    norm_error, max_error
        Relative; ``non_zero_error`` absolute.
    vector_error
        ‖fc6 - known‖ / ‖known‖, or None without known vectors.
    n_top
        Clips with the known top class, or None where fc8 or the classes are missing.
    n_clips
        Clips compared.
    """

    colour: Colour
    pool5: Pool5
    fc6_order: Fc6Order | None
    norm_error: float
    max_error: float
    non_zero_error: float
    vector_error: float | None
    n_top: int | None
    n_clips: int

    @property
    def matches(self) -> bool:
        """Whether every measure is within its bound."""
        if self.vector_error is not None:
            return self.vector_error <= VECTOR_BOUND
        within = self.norm_error <= NORM_BOUND and self.max_error <= MAX_BOUND
        # Two of the clips have two classes within 0.0005 of each other.
        top = self.n_top is None or self.n_top >= self.n_clips - 2
        return within and self.non_zero_error <= NON_ZERO_BOUND and top

    @property
    def distance(self) -> float:
        """Sort key."""
        if self.vector_error is not None:
            return self.vector_error
        return self.norm_error + self.max_error + self.non_zero_error


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`: the combinations, best first, and the videos compared."""

    checkpoint: Checkpoint
    combinations: tuple[Combination, ...]
    videos: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def match(self) -> Combination | None:
        """The best combination, if it matches."""
        return self.combinations[0] if self.combinations[0].matches else None


def verify(
    source: str | Path,
    frames: Mapping[str, Iterable[NDArray[np.uint8]]],
    known: Sequence[KnownClip],
    *,
    mean: str | Path | None = None,
    fc6_order: Fc6Order | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
    on_run: Callable[[Colour, Fc6Order | None], None] | None = None,
) -> Verdict:
    """Measure which combination of conventions reproduces the known outputs.

    Parameters
    ----------
    source
        A registered name or a file, as accepted by `load_checkpoint`.
    frames
        Each video's frames in order, uint8 (H, W, 3), B, G, R, for the videos of ``known``, or some; from the
        first on, each of any size. Read once.
    known
        From `known_clips` or `read_goldens`.
    mean
        None uses the Sports-1M cube, with which the known outputs were computed.
    on_run
        Called before each run, with colour and fc6_order; both poolings take one run.

    Raises
    ------
    WeightsError
        If the checkpoint does not load, or there are no frames of any known clip.
    """
    found: list[Combination] = []
    compared: _Compared | None = None
    how = {"mean": mean or "sports1m", "offline": offline, "progress": progress}
    for order, checkpoint in _ways_to_load(source, fc6_order, how):
        compared = compared or _cut_clips(frames, known, checkpoint.backbone)
        for colour in _COLOURS:
            if on_run is not None:
                on_run(colour, order)
            for pool5, (fc6, top) in _run(checkpoint, compared.crops, colour).items():
                found.append(_compare(compared.known, fc6, top, (colour, pool5, order)))
    videos = tuple(dict.fromkeys(clip.video for clip in compared.known)) if compared else ()
    missing = sorted({clip.video for clip in known} - set(videos))
    notes = [f"no frames of {', '.join(missing)}: compared without"] if missing else []
    return Verdict(checkpoint, tuple(sorted(found, key=lambda one: one.distance)), videos, tuple(notes))


def _ways_to_load(
    source: str | Path, fc6_order: Fc6Order | None, how: dict[str, Any]
) -> Iterator[tuple[Fc6Order | None, Checkpoint]]:
    first = load_checkpoint(source, fc6_order=fc6_order or "chw", **how)
    _ = first.architecture  # refuses other networks before anything is read or run
    if first.layout not in CHANNELS_LAST_LAYOUTS:
        yield None, first
        return
    yield fc6_order or "chw", first
    if fc6_order is None:
        yield "hwc", load_checkpoint(source, fc6_order="hwc", **how)


class _Compared(NamedTuple):
    """Crops uint8 (N, *clip, 3), B, G, R, and the N corresponding known clips."""

    crops: NDArray[np.uint8]
    known: list[KnownClip]


def _cut_clips(
    frames: Mapping[str, Iterable[NDArray[np.uint8]]], known: Sequence[KnownClip], backbone: Backbone
) -> _Compared:
    """Return the known clips whose frames are given, resized and cropped."""
    sampler, length = FrameSampler(backbone.preprocessing), backbone.clip[0]
    crops, found = [], []
    for video, images in frames.items():
        cropped = np.stack([sampler(image) for image in images])
        for clip in known:
            span = cropped[clip.start - 1 : clip.start - 1 + length]
            if clip.video == video and len(span) == length:
                crops.append(span)
                found.append(clip)
    if not found:
        raise no_known_frames(known)
    return _Compared(np.stack(crops), found)


def no_known_frames(known: Sequence[KnownClip], subject: object = None) -> WeightsError:
    """Return the error that says which frames are needed."""
    hint = f"it needs folders {', '.join(sorted({clip.video for clip in known}))}"
    return WeightsError("holds no frames of a known clip", subject=subject, hint=hint)


def _run(
    checkpoint: Checkpoint, crops: NDArray[np.uint8], colour: Colour
) -> dict[Pool5, tuple[NDArray[np.float32], NDArray[np.int64] | None]]:
    """Return fc6 float32 (N, D), and the top classes (N,) if there is fc8, for each pooling."""
    last = checkpoint.architecture.conv_names[-1][-1]
    # The convolutions take nearly all of the time and do not depend on pool5: one run for both poolings.
    trunk, heads = _network(checkpoint, "ceil"), {pool5: _network(checkpoint, pool5) for pool5 in _POOLINGS}
    mean = torch.from_numpy(checkpoint.mean)
    found: dict[Pool5, list[dict[str, torch.Tensor]]] = {pool5: [] for pool5 in _POOLINGS}
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            batch = torch.from_numpy(crops[start : start + _BATCH]).permute(0, 4, 1, 2, 3).float() - mean
            clips = batch.flip(1) if colour == "rgb" else batch
            maps = trunk(clips.contiguous(memory_format=torch.channels_last_3d), [last])[last]
            maps = maps.unflatten(1, checkpoint.architecture.map_shapes()[last])
            for pool5, head in heads.items():
                found[pool5].append(_classified(head, head.pool(5, maps).flatten(1)))
    return {pool5: _joined(outputs) for pool5, outputs in found.items()}


def _network(checkpoint: Checkpoint, pool5: Pool5) -> C3D:
    architecture = replace(checkpoint.architecture, pool5=pool5)
    with torch.device("meta"):
        model = architecture.build()
    model.load_state_dict(checkpoint.state, assign=True)  # shared, not copied
    return model.eval()


def _classified(model: C3D, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs, x = {}, pooled
    for name in model.architecture.linear_names():
        x = model.get_submodule(name)(x)
        x = x if name == "fc8" else x.relu()
        outputs[name] = x
    return outputs


def _joined(outputs: list[dict[str, torch.Tensor]]) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    fc6 = torch.cat([one["fc6"] for one in outputs]).numpy()
    if "fc8" not in outputs[0]:
        return fc6, None
    return fc6, torch.cat([one["fc8"] for one in outputs]).argmax(dim=1).numpy()


def _compare(
    known: Sequence[KnownClip],
    fc6: NDArray[np.float32],
    top: NDArray[np.int64] | None,
    way: tuple[Colour, Pool5, Fc6Order | None],
) -> Combination:
    measured = np.array([measures(row) for row in fc6])
    expected = np.array([(clip.norm, clip.maximum, clip.non_zero) for clip in known])
    difference = np.abs(measured - expected)
    relative = difference[:, :2] / np.maximum(expected[:, :2], 1e-12)
    classes = [clip.top_class for clip in known]
    pairs = zip(fc6, (clip.fc6 for clip in known), strict=True)
    vectors = [_relative_error(row, vector) for row, vector in pairs if vector is not None]
    return Combination(
        *way,
        norm_error=float(relative[:, 0].max()),
        max_error=float(relative[:, 1].max()),
        non_zero_error=float(difference[:, 2].max()),
        vector_error=max(vectors, default=None),
        n_top=None if top is None or None in classes else int((top == np.array(classes)).sum()),
        n_clips=len(known),
    )


def _relative_error(fc6: NDArray[np.float32], known: NDArray[np.float32]) -> float:
    if fc6.shape != known.shape:
        return float("inf")
    return float(np.linalg.norm(fc6 - known) / max(float(np.linalg.norm(known)), 1e-12))
