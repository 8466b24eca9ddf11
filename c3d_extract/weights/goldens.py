"""Outputs of the original tool, and the authors' frames that they were computed from."""

from __future__ import annotations

import hashlib
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.errors import FetchError, WeightsError
from c3d_extract.weights.fetch import cache_folder, fetch_file
from c3d_extract.weights.layouts.contents import one_line
from c3d_extract.weights.registry import RemoteFile, data_folder

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.weights.fetch import FetchProgress

__all__ = ["KnownClip", "known_clips", "measures", "read_goldens", "sample_frames"]

_MAX_FRAME_BYTES = 10 << 20
_MAX_FRAMES = 1000
_MAX_GOLDENS = 1 << 28  # bytes: fc6 of 16,000 clips


@dataclass(frozen=True)
class KnownClip:
    """One clip for which the original tool's output is known.

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


@cache
def _facts() -> dict[str, Any]:
    return tomllib.loads((data_folder() / "golden_facts.toml").read_text(encoding="utf-8"))


def known_clips() -> list[KnownClip]:
    """Return the known outputs of the original tool."""
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
        _check_size(path)
        with np.load(path, allow_pickle=False) as arrays:
            names, fc6 = arrays["names"], arrays["fc6"].astype(np.float32)
            top = arrays["prob"].argmax(axis=1).tolist() if "prob" in arrays else [None] * len(fc6)
        parts = [str(name).rsplit("/", 1) for name in names]
        return [_known(video, int(start), *row) for (video, start), *row in zip(parts, fc6, top, strict=True)]
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        reason = f"not a file of known outputs ({one_line(error)})"
        raise WeightsError(reason, subject=path) from error


def _check_size(path: Path) -> None:
    """Raise ValueError if an npz decompresses to too many bytes or is not a regular file."""
    if not path.is_file():
        raise ValueError("not a file")
    with zipfile.ZipFile(path) as archive:
        n_bytes = sum(entry.file_size for entry in archive.infolist())
    if n_bytes > _MAX_GOLDENS:
        raise ValueError(f"it decompresses to {n_bytes:,} bytes")


def _known(video: str, start: int, fc6: NDArray[np.float32], top_class: int | None) -> KnownClip:
    norm, maximum, non_zero = measures(fc6)
    return KnownClip(video, start, norm, maximum, non_zero, top_class, fc6)


def measures(fc6: NDArray[np.float32]) -> tuple[float, float, float]:
    """Return L2 norm, largest value and share of non-zeros (0–1) of float32 (D,)."""
    return float(np.linalg.norm(fc6.astype(np.float64))), float(fc6.max()), float((fc6 != 0).mean())


def sample_frames(*, offline: bool = False, progress: FetchProgress | None = None) -> Path:
    """Return a folder with the authors' sample frames, one per video; they are fetched on first use.

    Raises
    ------
    FetchError
        If the frames of no video are available.
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
        first = problems[0]
        raise FetchError(
            first.summary, answers=first.answers, subject="the authors' sample frames", hint=hint
        ) from first
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
    """Read the numbered images of an archive in numeric order; its names are not used as paths."""
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
