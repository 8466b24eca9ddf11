"""Presets of one HDF5 file with an entry a video: activitynet, flat-h5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from c3d_extract.errors import StoreError
from c3d_extract.files import writing_output
from c3d_extract.hdf5 import writing_hdf5
from c3d_extract.output.export.base import Needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from c3d_extract.output.export.base import Job, Preset

__all__ = ["PRESETS"]


@dataclass(frozen=True)
class EntryPerVideo:
    """An HDF5 file with a dataset for each video; folders are not part of the names."""

    name: str
    purpose: str
    needs: Needs
    file_name: str
    entry: Callable[[str], str]
    """From the name of a video to that of its dataset."""

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield the file."""
        yield "", job.output

    def write(self, job: Job) -> None:
        """Write one video after the other; `StoreError` where two have the same name."""
        written: dict[str, str] = {}
        with writing_output(job.output) as raw, writing_hdf5(raw) as (file, raise_if_failed):
            for clips in job.videos():
                entry = self.entry(clips.name.name)
                if entry in written:
                    reason = f"{written[entry]} and {clips.video} would both be {entry}"
                    hint = "export them from files of their own, or try --keep-suffix"
                    raise StoreError(reason, subject=job.output, hint=hint)
                written[entry] = clips.video
                file.create_dataset(entry, data=clips.only, compression="gzip", track_times=False)
                raise_if_failed()


def _activitynet_entry(name: str) -> str:
    return f"{name if name.startswith('v_') else f'v_{name}'}/c3d_features"


PRESETS: tuple[Preset, ...] = (
    EntryPerVideo(
        "activitynet",
        "ActivityNet 1.3's C3D features (2D-TAN, dense captioning): HDF5",
        Needs(layers=("fc7",), stride=8, basis="PCA_activitynet_v1-3.hdf5", size=500),
        "sub_activitynet_v1-3.c3d.hdf5",
        _activitynet_entry,
    ),
    EntryPerVideo(
        "flat-h5", "TACoS (2D-TAN), TSP, TGIF: HDF5, a dataset a video", Needs(), "features.hdf5", str
    ),
)
