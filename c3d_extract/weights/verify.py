"""Verification of a checkpoint's conventions on the authors' sample frames.

For C3D only: its ports differ in these conventions, and outputs of its original tool are known. Of other
networks the file's hash is compared with the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from c3d_extract.errors import WeightsError
from c3d_extract.models.torchvision import VideoNetwork
from c3d_extract.weights.layouts.channels_last import CHANNELS_LAST_LAYOUTS
from c3d_extract.weights.load import entry_of_file, load_checkpoint
from c3d_extract.weights.measure import Combination, Compared, Runnable, cut_clips, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights.checkpoint import Checkpoint
    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.goldens import KnownClip
    from c3d_extract.weights.registry import Fc6Order, RegistryEntry

__all__ = ["Combination", "KnownFile", "Verdict", "verify", "verify_file"]


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
    compared: Compared | None = None
    how = {"mean": mean or "sports1m", "offline": offline, "progress": progress}
    for order, checkpoint in _ways_to_load(source, fc6_order, how):
        compared = compared or cut_clips(frames, known, checkpoint.backbone)
        network = Runnable(checkpoint.architecture, checkpoint.state, checkpoint.mean)
        found += measure(network, compared, order, on_run)
    videos = tuple(dict.fromkeys(clip.video for clip in compared.known)) if compared else ()
    missing = sorted({clip.video for clip in known} - set(videos))
    notes = [f"no frames of {', '.join(missing)}: compared without"] if missing else []
    return Verdict(checkpoint, tuple(sorted(found, key=lambda one: one.distance)), videos, tuple(notes))


@dataclass(frozen=True)
class KnownFile:
    """Result of `verify_file`: a network all of whose tensors are there and finite, and the file's record."""

    checkpoint: Checkpoint
    entry: RegistryEntry | None
    """The registered file with this hash, if there is one."""


def verify_file(
    source: str | Path,
    *,
    mean: str | Path | None = None,
    fc6_order: Fc6Order | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> KnownFile | None:
    """Compare the file of one of torchvision's networks with the registered hashes; None for C3D's family.

    Parameters are those of `load_checkpoint`, and so are the errors.
    """
    how: dict[str, Any] = {"offline": offline, "progress": progress}
    # Another mean than its own, which might have to be fetched.
    probed = load_checkpoint(source, layers=(), mean="0,0,0", fc6_order=fc6_order or "chw", **how)
    if not isinstance(probed.backbone, VideoNetwork):
        return None
    checkpoint = load_checkpoint(source, mean=mean, **how)
    return KnownFile(checkpoint, entry_of_file(probed.backbone, checkpoint.sha256))


def _ways_to_load(
    source: str | Path, fc6_order: Fc6Order | None, how: dict[str, Any]
) -> Iterator[tuple[Fc6Order | None, Checkpoint]]:
    first = load_checkpoint(source, fc6_order=fc6_order or "chw", **how)
    if first.architecture.pool5 == "floor":  # other networks are refused, too, before anything is run
        why = "takes a 3x3 pool5 map: not the original tool's network, and no output of it is known"
        raise WeightsError(why, subject=first.name)
    if first.layout not in CHANNELS_LAST_LAYOUTS:
        yield None, first
        return
    yield fc6_order or "chw", first
    if fc6_order is None:
        yield "hwc", load_checkpoint(source, fc6_order="hwc", **how)
