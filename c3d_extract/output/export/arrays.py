"""Presets of one array a video: npy, c3d-bin, charades-pt, actionformer."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import StoreError
from c3d_extract.output.export.base import Needs, PerVideo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any, BinaryIO

    from c3d_extract.output.export.base import Job, Preset, VideoClips, Write

__all__ = ["PRESETS", "write_only_layer"]


def write_only_layer(clips: VideoClips, file: BinaryIO) -> None:
    """Write the only layer as ``.npy``, float32."""
    np.save(file, clips.only, allow_pickle=False)


def _write_layer(clips: VideoClips, file: BinaryIO, *, layer: str) -> None:
    np.save(file, clips.features[layer], allow_pickle=False)


def _write_times(clips: VideoClips, file: BinaryIO) -> None:
    np.save(file, clips.start_seconds * 1000, allow_pickle=False)


def _npy_files(layers: Sequence[str]) -> dict[str, Write]:
    files: dict[str, Write] = {f"_{layer}.npy": partial(_write_layer, layer=layer) for layer in layers}
    return {**files, "_timestamps_ms.npy": _write_times}


def _write_tensor(clips: VideoClips, file: BinaryIO) -> None:
    import torch

    torch.save(torch.from_numpy(clips.only), file)


@dataclass(frozen=True)
class BinaryBlobs:
    """The original tool's output: a folder a video, and in it a file a clip, named by its first frame."""

    name: str
    purpose: str
    needs: Needs
    file_name: None = None

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield the folder of each video."""
        for video, name in job.names():
            yield video, job.output / name

    def write(self, job: Job) -> None:
        """Write the clips of one video after the other, and delete those of an earlier export."""
        for clips in job.videos():
            for layer, X in clips.features.items():
                ending = layer if layer == "prob" else f"{layer}-1"  # as the authors' prototxt calls them
                names = [f"{frame:06d}.{ending}" for frame in clips.start_frame.tolist()]
                for name, x in zip(names, X, strict=True):
                    with job.writing(clips.name / name) as file:
                        # Items, channels, frames, rows and columns, then the values, of one byte order.
                        file.write(
                            np.array([1, len(x), 1, 1, 1], "<i4").tobytes() + x.astype("<f4").tobytes()
                        )
                _delete_others(job.output / clips.name, ending, set(names))


def _delete_others(folder: Path, ending: str, kept: set[str]) -> None:
    """Delete clips that are not part of this export: readers take all that are there."""
    for path in folder.iterdir():
        if path.name in kept or not re.fullmatch(rf"\d{{6,}}\.{ending}", path.name):
            continue
        try:
            path.unlink()
        except OSError as error:
            raise StoreError(f"cannot be deleted ({error.strerror})", subject=path) from error


@dataclass(frozen=True)
class ActionFormer:
    """An array a video, and the keys of the consumer's configuration that say what is in them."""

    name: str
    purpose: str
    needs: Needs
    file_name: None = None

    @property
    def _arrays(self) -> PerVideo:
        return PerVideo(self.name, self.purpose, self.needs, lambda _: {".npy": write_only_layer})

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield the array of each video, and the configuration."""
        yield from self._arrays.targets(job)
        yield "", job.output / _CONFIGURATION

    def write(self, job: Job) -> None:
        """Write the arrays, then the configuration."""
        self._arrays.write(job)
        settings = job.file.attributes.get("settings", {})
        keys = {
            "feat_folder": str(job.output),
            "file_prefix": None,
            "file_ext": ".npy",
            "input_dim": job.size_of(job.layer),
            "feat_stride": settings.get("stride"),
            "num_frames": _clip_length(job),
            "default_fps": settings.get("fps"),  # without --fps, each video's own is in the annotations
        }
        with job.writing(_CONFIGURATION) as file:
            lines = (f"  {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())
            file.write(("dataset:\n" + "".join(lines)).encode())


_CONFIGURATION = "actionformer.yaml"


def _clip_length(job: Job) -> int:
    """Return the frames of a clip; those of short videos, which are padded, have fewer of their own."""
    lengths = [
        job.file.between("end_frame", start, end) - job.file.between("start_frame", start, end)
        for start, end in _blocks(len(job.file))
    ]
    if not lengths:
        raise StoreError("has no clips", subject=job.file.path)
    return int(max(values.max() for values in lengths))


def _blocks(n_rows: int) -> Iterator[tuple[int, int]]:
    step = 2**16
    return ((start, start + step) for start in range(0, n_rows, step))


def _pt_files(_: Sequence[str]) -> dict[str, Any]:
    return {".pt": _write_tensor}


PRESETS: tuple[Preset, ...] = (
    PerVideo(
        "npy", "NumPy arrays as video_features writes them", Needs(several_layers=True), files=_npy_files
    ),
    BinaryBlobs(
        "c3d-bin",
        "the original C3D tool's files, for read_binary_blob.m",
        Needs(layers=("fc6", "fc7", "fc8", "prob"), several_layers=True),
    ),
    PerVideo(
        "charades-pt",
        "Charades-STA in MMAction2: torch tensors",
        Needs(layers=("fc6",), stride=8, size=4096),
        files=_pt_files,
    ),
    ActionFormer("actionformer", "ActionFormer, TriDet: .npy, and keys for their yaml", Needs()),
)
