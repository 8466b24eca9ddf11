"""Measurement of a C3D network's conventions on clips for which the original tool's output is known.

Four networks give the same shapes: B,G,R or R,G,B, pool5 by ceil or symmetric; eight where the order of
fc6's inputs is not known either. Each is run on these clips and compared by norm, maximum, share of non-zeros
and top class, or with the vectors themselves if they are given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from c3d_extract.errors import WeightsError
from c3d_extract.models.instantiate import built_with
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.weights.goldens import measures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.base import Backbone
    from c3d_extract.models.c3d import C3D, Architecture, Pool5
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights.goldens import KnownClip
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["Combination", "Compared", "Runnable", "cut_clips", "known_frames", "measure"]

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


class Runnable(NamedTuple):
    """A network with all of its tensors, and its mean, float32 (3, T, H, W)."""

    architecture: Architecture
    state: Mapping[str, torch.Tensor]
    mean: NDArray[np.float32]


def measure(
    network: Runnable,
    compared: Compared,
    fc6_order: Fc6Order | None = None,
    on_run: Callable[[Colour, Fc6Order | None], None] | None = None,
) -> list[Combination]:
    """Return the errors of both channel orders with both poolings.

    Parameters
    ----------
    fc6_order
        The order in which the network was loaded, if its layout leaves it open.
    on_run
        Called before each run; both poolings take one run.
    """
    found = []
    for colour in _COLOURS:
        if on_run is not None:
            on_run(colour, fc6_order)
        for pool5, (fc6, top) in _run(network, compared.crops, colour).items():
            found.append(_compare(compared.known, fc6, top, (colour, pool5, fc6_order)))
    return found


class Compared(NamedTuple):
    """Crops uint8 (N, *clip, 3), B, G, R, and the N corresponding known clips."""

    crops: NDArray[np.uint8]
    known: list[KnownClip]


def cut_clips(
    frames: Mapping[str, Iterable[NDArray[np.uint8]]], known: Sequence[KnownClip], backbone: Backbone
) -> Compared:
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
        raise _no_known_frames(known)
    return Compared(np.stack(crops), found)


def known_frames(folder: Path, known: Sequence[KnownClip]) -> dict[str, Iterator[NDArray[np.uint8]]]:
    """Return the frames of the known videos that the folder holds, each read when it is asked for."""
    from c3d_extract.decode import read_frame_folder

    videos = dict.fromkeys(clip.video for clip in known)
    found = {video: read_frame_folder(folder / video) for video in videos if (folder / video).is_dir()}
    if not found:
        raise _no_known_frames(known, subject=folder)
    return found


def _no_known_frames(known: Sequence[KnownClip], subject: object = None) -> WeightsError:
    """Return the error that says which frames are needed."""
    hint = f"it needs folders {', '.join(sorted({clip.video for clip in known}))}"
    return WeightsError("holds no frames of a known clip", subject=subject, hint=hint)


def _run(
    network: Runnable, crops: NDArray[np.uint8], colour: Colour
) -> dict[Pool5, tuple[NDArray[np.float32], NDArray[np.int64] | None]]:
    """Return fc6 float32 (N, D), and the top classes (N,) if there is fc8, for each pooling."""
    last = network.architecture.conv_names[-1][-1]
    # The convolutions take nearly all of the time and do not depend on pool5: one run for both poolings.
    trunk, heads = _built(network, "ceil"), {pool5: _built(network, pool5) for pool5 in _POOLINGS}
    mean = torch.from_numpy(network.mean)
    found: dict[Pool5, list[dict[str, torch.Tensor]]] = {pool5: [] for pool5 in _POOLINGS}
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            batch = torch.from_numpy(crops[start : start + _BATCH]).permute(0, 4, 1, 2, 3).float() - mean
            clips = batch.flip(1) if colour == "rgb" else batch
            maps = trunk(clips.contiguous(memory_format=torch.channels_last_3d), [last])[last]
            maps = maps.unflatten(1, network.architecture.map_shapes()[last])
            for pool5, head in heads.items():
                found[pool5].append(_classified(head, head.pool(5, maps).flatten(1)))
    return {pool5: _joined(outputs) for pool5, outputs in found.items()}


def _built(network: Runnable, pool5: Pool5) -> C3D:
    architecture = replace(network.architecture, pool5=pool5)
    return built_with(architecture.build, network.state).eval()


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
