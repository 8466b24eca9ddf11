"""Whether a checkpoint is what it claims: measured on the authors' sample frames.

Four networks give the same shapes: B,G,R or R,G,B, pool5 by ceil or symmetric; eight where the order of
fc6's inputs is not known either. Each is run on the clips whose descriptors the original tool is known to
have computed, and compared by norm, maximum, share of non-zeros and top class, or with the vectors
themselves where a file of them is given.
"""

from __future__ import annotations

import hashlib
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from c3d_extract.decode import read_frame_folder
from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.models.c3d import ARCHITECTURES, C3D
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.preprocess.spec import Preprocessing
from c3d_extract.weights.fetch import cache_folder, fetch_file
from c3d_extract.weights.layouts.channels_last import CHANNELS_LAST_LAYOUTS
from c3d_extract.weights.layouts.contents import one_line
from c3d_extract.weights.load import load_checkpoint
from c3d_extract.weights.registry import RemoteFile, data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.models.c3d import Pool5
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.weights.checkpoint import Checkpoint
    from c3d_extract.weights.fetch import FetchProgress
    from c3d_extract.weights.registry import Fc6Order

__all__ = ["Combination", "KnownClip", "Verdict", "known_clips", "read_goldens", "sample_frames", "verify"]

NORM_BOUND, MAX_BOUND, NON_ZERO_BOUND, VECTOR_BOUND = 0.01, 0.02, 0.01, 0.01
"""What still counts as a match, each the worst over all clips: fc6's norm and maximum (relative), its share
of non-zeros (absolute), fc6 itself (relative). The right network with the right mean is at about 0.001 in
all of them; the wrong pooling alone moves fc6 by 0.45."""

_COLOURS: tuple[Colour, ...] = ("bgr", "rgb")
_POOLINGS: tuple[Pool5, ...] = ("ceil", "symmetric")
_BATCH = 4
_MAX_FRAME_BYTES = 10 << 20
_MAX_FRAMES = 1000
_MAX_GOLDENS = 1 << 28  # bytes: fc6 of 16,000 clips


@dataclass(frozen=True)
class KnownClip:
    """One clip of which the original tool's output is known.

    Attributes
    ----------
    video, start
        The folder of frames, and its first frame, counted from 1.
    norm, maximum, non_zero
        L2 norm, largest value and share of non-zeros (0–1) of fc6.
    top_class
        0-based; None where it is not known.
    fc6
        float32 (D,), or None.
    """

    video: str
    start: int
    norm: float
    maximum: float
    non_zero: float
    top_class: int | None = None
    fc6: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Combination:
    """How one way of running the network compares, each error the worst over all clips.

    Attributes
    ----------
    colour, pool5, fc6_order
        What was run; ``fc6_order`` is None where the layout leaves no choice.
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
        """One number to sort by."""
        if self.vector_error is not None:
            return self.vector_error
        return self.norm_error + self.max_error + self.non_zero_error


@dataclass(frozen=True)
class Verdict:
    """What `verify` found: the combinations, best first, and what was compared."""

    checkpoint: Checkpoint
    combinations: tuple[Combination, ...]
    videos: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def match(self) -> Combination | None:
        """The best combination, if it matches."""
        return self.combinations[0] if self.combinations[0].matches else None


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads((data_folder() / "golden_facts.toml").read_text(encoding="utf-8"))


def known_clips() -> list[KnownClip]:
    """Return the facts of the original tool's output that this package carries."""
    return [
        KnownClip(
            video=clip["video"],
            start=clip["start"],
            norm=clip["fc6_norm"],
            maximum=clip["fc6_max"],
            non_zero=clip["fc6_non_zero"],
            top_class=clip["class"],
        )
        for clip in _facts()["clips"]
    ]


def read_goldens(path: Path) -> list[KnownClip]:
    """Read known outputs: npz with ``names`` (``video/first frame``), ``fc6`` (N, D) and maybe ``prob``."""
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as arrays:
            names, fc6 = arrays["names"], arrays["fc6"].astype(np.float32)
            top = arrays["prob"].argmax(axis=1).tolist() if "prob" in arrays else [None] * len(fc6)
        parts = [str(name).rsplit("/", 1) for name in names]
        return [_known(video, int(start), *row) for (video, start), *row in zip(parts, fc6, top, strict=True)]
    except Exception as error:  # numpy and zipfile raise many kinds where a file is damaged
        reason = f"not a file of known outputs ({one_line(error)})"
        raise WeightsError(reason, subject=path) from error


def _refuse_bomb(path: Path) -> None:
    """Raise where an npz unfolds to more than known outputs would, or is nothing to read."""
    if not path.is_file():
        raise ValueError("not a file")
    with zipfile.ZipFile(path) as archive:
        n_bytes = sum(entry.file_size for entry in archive.infolist())
    if n_bytes > _MAX_GOLDENS:
        raise ValueError(f"it unfolds to {n_bytes:,} bytes")


def _known(video: str, start: int, fc6: NDArray[np.float32], top_class: int | None) -> KnownClip:
    norm, maximum, non_zero = _measures(fc6)
    return KnownClip(video, start, norm, maximum, non_zero, top_class, fc6)


def _measures(fc6: NDArray[np.float32]) -> tuple[float, float, float]:
    return float(np.linalg.norm(fc6.astype(np.float64))), float(fc6.max()), float((fc6 != 0).mean())


def sample_frames(*, offline: bool = False, progress: FetchProgress | None = None) -> Path:
    """Return a folder with the authors' sample frames, one folder a video; they are fetched on first use.

    Raises
    ------
    FetchError
        Where the frames of neither video can be had.
    """
    folder = cache_folder() / "c3d_sample_frames"
    problems = []
    for video in _facts()["frames"]:
        if not (folder / video).is_dir():
            try:
                _fetch_frames(video, folder, offline=offline, progress=progress)
            except FetchError as error:
                problems.append(error)
    if len(problems) == len(_facts()["frames"]):
        hint = "give a folder that holds v_ApplyEyeMakeup_g01_c01 and v_BaseballPitch_g01_c01 with --frames"
        raise FetchError(problems[0].reason, subject="the authors' sample frames", hint=hint) from problems[0]
    return folder


def _fetch_frames(video: str, folder: Path, *, offline: bool, progress: FetchProgress | None) -> None:
    facts = _facts()["frames"][video]
    remote = RemoteFile(f"{video}.tar.gz", mirrors=tuple(facts["mirrors"]))
    check = partial(_check_frames, sha256=facts["sha256"])
    archive = fetch_file(remote, folder, offline=offline, progress=progress, check=check)
    unpacked = folder / f"{video}.tmp"
    try:
        unpacked.mkdir(exist_ok=True)
        for number, content in _archived_frames(archive):
            (unpacked / f"{number:06d}.jpg").write_bytes(content)
        unpacked.replace(folder / video)
        archive.unlink()
    except OSError as error:
        raise FetchError(f"cannot be unpacked: {error.strerror}", subject=archive) from error


def _check_frames(archive: Path, sha256: str) -> None:
    found = hashlib.sha256(b"".join(content for _, content in _archived_frames(archive))).hexdigest()
    if found != sha256:
        raise WeightsError(f"its frames have sha256 {found} instead of {sha256}")


def _archived_frames(archive: Path) -> list[tuple[int, bytes]]:
    """Read the numbered images of an archive in numeric order; nothing of it chooses a path on disk."""
    frames: list[tuple[int, bytes]] = []
    try:
        with tarfile.open(archive, "r:gz") as files:
            for n_members, member in enumerate(files):
                if member.size > _MAX_FRAME_BYTES or n_members >= 2 * _MAX_FRAMES:
                    raise WeightsError("an archive of something else than sample frames")
                stem, _, suffix = member.name.rsplit("/", 1)[-1].partition(".")
                if not member.isfile() or suffix != "jpg" or not (stem.isascii() and stem.isdecimal()):
                    continue
                content = files.extractfile(member)
                if content is None or len(frames) >= _MAX_FRAMES:
                    raise WeightsError("an archive of something else than sample frames")
                frames.append((int(stem), content.read()))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WeightsError(f"not a readable archive ({one_line(error)})") from error
    return sorted(frames)


def verify(
    source: str | Path,
    frames: Path,
    known: Sequence[KnownClip],
    *,
    mean: str | Path | None = None,
    fc6_order: Fc6Order | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
    on_run: Callable[[Colour, Fc6Order | None], None] | None = None,
) -> Verdict:
    """Measure which way of running a checkpoint gives the known outputs.

    Parameters
    ----------
    source
        A registered name or a file, as `load_checkpoint` takes it.
    frames
        A folder that holds a folder of numbered images for each video of ``known``, or for some.
    known
        From `known_clips` or `read_goldens`.
    mean
        None takes the Sports-1M cube, with which the known outputs were made.
    on_run
        Called before each run, with colour and fc6_order; both poolings take one run.

    Raises
    ------
    WeightsError
        Where the checkpoint does not load, or there are no frames of any known clip.
    """
    crops, here = _read_clips(frames, known)
    found: list[Combination] = []
    how = {"mean": mean or "sports1m", "offline": offline, "progress": progress}
    for order, checkpoint in _ways_to_load(source, fc6_order, how):
        for colour in _COLOURS:
            if on_run is not None:
                on_run(colour, order)
            for pool5, (fc6, top) in _run(checkpoint, crops, colour).items():
                found.append(_compare(here, fc6, top, (colour, pool5, order)))
    videos = tuple(dict.fromkeys(clip.video for clip in here))
    missing = sorted({clip.video for clip in known} - set(videos))
    notes = [f"no frames of {', '.join(missing)}: compared without"] if missing else []
    return Verdict(checkpoint, tuple(sorted(found, key=lambda one: one.distance)), videos, tuple(notes))


def _ways_to_load(
    source: str | Path, fc6_order: Fc6Order | None, how: dict[str, Any]
) -> Iterator[tuple[Fc6Order | None, Checkpoint]]:
    first = load_checkpoint(source, fc6_order=fc6_order or "chw", **how)
    if first.layout not in CHANNELS_LAST_LAYOUTS:
        yield None, first
        return
    yield fc6_order or "chw", first
    if fc6_order is None:
        yield "hwc", load_checkpoint(source, fc6_order="hwc", **how)


def _read_clips(frames: Path, known: Sequence[KnownClip]) -> tuple[NDArray[np.uint8], list[KnownClip]]:
    """Return crops uint8 (N, 16, 112, 112, 3), B, G, R, and the N known clips that there are frames for."""
    sampler, length = FrameSampler(Preprocessing()), ARCHITECTURES["c3d"].clip[0]
    crops, here = [], []
    for video in dict.fromkeys(clip.video for clip in known):
        if not (frames / video).is_dir():
            continue
        cropped = np.stack([sampler(frame) for frame in read_frame_folder(frames / video)])
        for clip in known:
            span = cropped[clip.start - 1 : clip.start - 1 + length]
            if clip.video == video and len(span) == length:
                crops.append(span)
                here.append(clip)
    if not here:
        hint = f"it needs folders {', '.join(sorted({clip.video for clip in known}))}"
        raise WeightsError("holds no frames of a known clip", subject=frames, hint=hint)
    return np.stack(crops), here


def _run(
    checkpoint: Checkpoint, crops: NDArray[np.uint8], colour: Colour
) -> dict[Pool5, tuple[NDArray[np.float32], NDArray[np.int64] | None]]:
    """Return fc6 float32 (N, D), and the top classes (N,) where there is fc8, for either pooling."""
    last = checkpoint.architecture.conv_names[-1][-1]
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
        model = C3D(architecture)
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
    measured = np.array([_measures(row) for row in fc6])
    expected = np.array([(clip.norm, clip.maximum, clip.non_zero) for clip in known])
    apart = np.abs(measured - expected)
    relative = apart[:, :2] / np.maximum(expected[:, :2], 1e-12)
    classes = [clip.top_class for clip in known]
    pairs = zip(fc6, (clip.fc6 for clip in known), strict=True)
    vectors = [_relative_error(row, vector) for row, vector in pairs if vector is not None]
    return Combination(
        *way,
        norm_error=float(relative[:, 0].max()),
        max_error=float(relative[:, 1].max()),
        non_zero_error=float(apart[:, 2].max()),
        vector_error=max(vectors, default=None),
        n_top=None if top is None or None in classes else int((top == np.array(classes)).sum()),
        n_clips=len(known),
    )


def _relative_error(fc6: NDArray[np.float32], known: NDArray[np.float32]) -> float:
    if fc6.shape != known.shape:
        return float("inf")
    return float(np.linalg.norm(fc6 - known) / max(float(np.linalg.norm(known)), 1e-12))
