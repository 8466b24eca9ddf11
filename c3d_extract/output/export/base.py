"""What a preset is, and what it is given to write."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from c3d_extract.errors import StoreError
from c3d_extract.files import writing_output
from c3d_extract.output.export.names import safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path, PurePosixPath
    from typing import BinaryIO

    from numpy.typing import NDArray

    from c3d_extract.output.feature_file import FeatureFile
    from c3d_extract.output.pca_basis import PcaBasis
    from c3d_extract.settings import Crops

    Write: TypeAlias = Callable[["VideoClips", BinaryIO], None]

__all__ = ["Job", "Needs", "PerVideo", "Preset", "VideoClips", "Write"]


@dataclass(frozen=True)
class Needs:
    """Which features a preset takes.

    Clip rows are never L2-normalised, so a preset that takes clips alone takes no normalised features.
    """

    rows: Literal["clips", "any"] = "clips"
    """``clips``: one row per clip; ``any``: also one row per video."""
    layers: tuple[str, ...] = ()
    """One of these; empty for any layer. One alone is what ``--preset`` extracts."""
    several_layers: bool = False
    """Whether all layers of the file are written, or one."""
    stride: int | None = None
    """Frames between the starts of clips; None for any."""
    crops: Crops = "centre"
    """Crops of each clip; of a table, which keeps a row a crop, any."""
    basis: str | None = None
    """The PCA basis that rows are projected with; None where they may not be, or any may be."""
    size: int | None = None
    """Values per row that the consumer's code expects; None for any."""


class VideoClips(NamedTuple):
    """The clips of one video."""

    video: str
    name: PurePosixPath
    """A safe relative path, without the suffix of a video unless that is to be kept."""
    features: dict[str, NDArray[np.float32]]
    """Layer → float32 (T, D); (T, C, D) where there are several crops."""
    start_frame: NDArray[np.int64]
    end_frame: NDArray[np.int64]
    start_seconds: NDArray[np.float64]

    @property
    def only(self) -> NDArray[np.float32]:
        """The features of the only layer."""
        (X,) = self.features.values()
        return X


@dataclass(frozen=True)
class Job:
    """One export."""

    file: FeatureFile
    output: Path
    """The folder, or the file where the preset is one file."""
    layers: Sequence[str]
    basis: PcaBasis | None = None
    """Applied to every row."""
    keep_suffix: bool = False
    """Whether names keep the suffix of a video."""
    root: Path | None = None
    """The folder of the videos, for a preset that has pictures of them."""
    warnings: list[str] = field(default_factory=list)
    """What a preset has to say of what it wrote."""

    @property
    def layer(self) -> str:
        """The only layer."""
        (layer,) = self.layers
        return layer

    def size_of(self, layer: str) -> int:
        """Return the values per row that are written."""
        return len(self.basis.layers[layer].components) if self.basis else self.file.size_of(layer)

    def names(self) -> Iterator[tuple[str, PurePosixPath]]:
        """Yield every video and its safe name; `StoreError` for a name that is none."""
        for video, _, _ in self.file.ranges():
            yield video, safe_name(video, keep_suffix=self.keep_suffix)

    def read(self, layer: str, start: int, end: int) -> NDArray[np.float32]:
        """Return rows of a layer, projected where there is a basis: float32 (n, D)."""
        X: NDArray[np.float32] = self.file.between(layer, start, end)
        return X if self.basis is None else self.basis.layers[layer].apply(X)

    def videos(self) -> Iterator[VideoClips]:
        """Yield the clips of each video, one video in memory at a time."""
        for video, start, end in self.file.ranges():
            n_crops = self._n_crops(video, start, end) if self.file.has_crops else 1
            features = {layer: self.read(layer, start, end) for layer in self.layers}
            if n_crops > 1:
                features = {layer: X.reshape(-1, n_crops, X.shape[1]) for layer, X in features.items()}
            columns = ("start_frame", "end_frame", "start_seconds")
            values: list[Any] = [self.file.between(name, start, end)[::n_crops] for name in columns]
            yield VideoClips(video, safe_name(video, keep_suffix=self.keep_suffix), features, *values)

    def _n_crops(self, video: str, start: int, end: int) -> int:
        """Return the crops of each clip; `StoreError` unless every clip has the same, numbered from 0."""
        crops = self.file.between("crop", start, end)
        frames = self.file.between("start_frame", start, end)
        n = max(1, int(crops.max()) + 1)
        grid = len(crops) % n == 0 and (crops.reshape(-1, n) == np.arange(n)).all()
        if not grid or (frames.reshape(-1, n) != frames[::n, None]).any():
            raise StoreError(f"the clips of {video} do not all have the same crops", subject=self.file.path)
        return n

    @contextmanager
    def writing(self, relative: str | PurePosixPath) -> Iterator[BinaryIO]:
        """Open a new file below the output folder; it appears in one step."""
        path = self.output / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"the folder cannot be made ({error.strerror or error})"
            raise StoreError(reason, subject=path.parent, hint="choose another -o") from error
        with writing_output(path) as file:
            yield file


class Preset(Protocol):
    """A layout that other people's code loads."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def purpose(self) -> str:
        """What loads it, in one line."""

    @property
    def needs(self) -> Needs:
        """Which features it takes."""

    @property
    def file_name(self) -> str | None:
        """Usual name of the file where the preset is one file; None where it is a folder."""

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield every file or folder that `write` makes, with the video it is of ("" for none)."""

    def write(self, job: Job) -> None:
        """Write all files."""


@dataclass(frozen=True)
class PerVideo:
    """A preset of a folder with the same files for each video, named after it; subfolders are kept."""

    name: str
    purpose: str
    needs: Needs
    files: Callable[[Sequence[str]], dict[str, Write]]
    """From the layers: ending of a file's name → what writes it."""
    file_name: None = None

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield the files of each video."""
        for video, name in job.names():
            for ending in self.files(job.layers):
                yield video, job.output / f"{name}{ending}"

    def write(self, job: Job) -> None:
        """Write the files of one video after the other."""
        files = self.files(job.layers)
        for clips in job.videos():
            for ending, write in files.items():
                with job.writing(f"{clips.name}{ending}") as file:
                    write(clips, file)
