"""Presets that keep one row a clip, or a video: parquet, csv, tensorboard."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from c3d_extract.files import writing_output
from c3d_extract.output.export.base import Needs
from c3d_extract.output.export.sprite import make_sprite
from c3d_extract.parquet import write_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from c3d_extract.output.export.base import Job, Preset

__all__ = ["PRESETS"]

_ROWS_AT_ONCE = 2048  # 34 MB of fc6
_NEEDS = Needs(rows="any")
PICTURED = "tensorboard"
"""The preset that has pictures of the rows, where it is told the folder of the videos."""


@dataclass(frozen=True)
class Table:
    """One file with one row a clip, or a video."""

    name: str
    purpose: str
    file_name: str
    write_table: Callable[[Job], None]
    needs: Needs = _NEEDS

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield the file."""
        yield "", job.output

    def write(self, job: Job) -> None:
        """Write the file."""
        self.write_table(job)


def _blocks(job: Job) -> Iterator[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Yield the columns and the features of some rows at a time; at least once, perhaps with no rows."""
    numbered = _ClipNumbers()
    for start in range(0, max(len(job.file), 1), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        between = partial(job.file.between, start=start, end=end)
        columns: dict[str, Any] = {"video": [name.decode() for name in between("video")]}
        if job.file.kind == "clips":
            columns["clip_index"] = numbered.next(columns["video"], between("start_frame").tolist())
            columns |= {"crop": between("crop")} if job.file.has_crops else {}
            columns |= {name: between(name) for name in ("start_seconds", "end_seconds")}
        yield columns, job.read(job.layer, start, end)


class _ClipNumbers:
    """Numbers the clips of each video from 0, in blocks of rows."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None
        self._number = 0

    def next(self, videos: list[str], frames: list[int]) -> NDArray[np.int64]:
        numbers = []
        for row in zip(videos, frames, strict=True):
            if self._last is None or self._last[0] != row[0]:
                self._number = 0
            elif self._last != row:  # equal rows are crops of one clip
                self._number += 1
            self._last = row
            numbers.append(self._number)
        return np.array(numbers, np.int64)


def _write_parquet(job: Job) -> None:
    metadata = {"c3d_extract": json.dumps({**job.file.attributes, "layer": job.layer})}
    write_columns(job.output, ({**columns, "embedding": X} for columns, X in _blocks(job)), metadata)


def _write_csv(job: Job) -> None:
    with writing_output(job.output) as raw:
        text = io.TextIOWrapper(raw, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        header = [f"{job.layer}_{i}" for i in range(job.size_of(job.layer))]
        for i, (columns, X) in enumerate(_blocks(job)):
            if i == 0:
                writer.writerow([*columns, *header])
            for *values, x in zip(*columns.values(), X, strict=True):
                writer.writerow([*values, *map(_number, x)])
        text.detach()  # flushed; the file itself is closed by its owner


def _number(value: np.float32) -> str:
    return f"{value:.9g}"  # all that float32 holds


@dataclass(frozen=True)
class Projector:
    """The files of TensorBoard's embedding projector."""

    name: str = PICTURED
    purpose: str = "TensorBoard's embedding projector: tensorboard --logdir DIR"
    needs: Needs = _NEEDS
    file_name: None = None

    def targets(self, job: Job) -> Iterator[tuple[str, Path]]:
        """Yield three files, and that of the pictures."""
        pictures = [] if job.root is None else ["sprite.png"]
        for name in ("tensors.tsv", "metadata.tsv", "projector_config.pbtxt", *pictures):
            yield "", job.output / name

    def write(self, job: Job) -> None:
        """Write the vectors, what is known of each, and the configuration that names both."""
        with job.writing("tensors.tsv") as file:
            for _, X in _blocks(job):
                np.savetxt(file, X, fmt="%.9g", delimiter="\t")
        with job.writing("metadata.tsv") as file:
            _write_metadata(file, (columns for columns, _ in _blocks(job)))
        lines = {"tensor_name": job.layer, "tensor_path": "tensors.tsv", "metadata_path": "metadata.tsv"}
        text = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in lines.items())
        if job.root is not None:
            text += _write_sprite(job, job.root)
        with job.writing("projector_config.pbtxt") as file:
            file.write(f"embeddings {{\n{text}}}\n".encode())


def _write_sprite(job: Job, root: Path) -> str:
    """Write a picture of each row; return what names them in the configuration."""
    sprite = make_sprite(job.file, root)
    with job.writing("sprite.png") as file:
        file.write(sprite.png)
    if sprite.n_missing:
        rows = f"{sprite.n_missing} of {len(job.file)} rows"
        job.warnings.append(
            f"{rows} have a grey picture: their videos are not below {root}, or cannot be read"
        )
    size = f"    single_image_dim: {sprite.side}\n" * 2
    return f'  sprite {{\n    image_path: "sprite.png"\n{size}  }}\n'


def _write_metadata(file: BinaryIO, blocks: Iterable[dict[str, Any]]) -> None:
    for i, columns in enumerate(blocks):
        if i == 0 and len(columns) > 1:  # a single column has no header
            file.write(("\t".join(columns) + "\n").encode())
        rows = zip(*columns.values(), strict=True)
        file.writelines(("\t".join(map(_cell, values)) + "\n").encode() for values in rows)


def _cell(value: object) -> str:
    """Return a value as text without tabs and line breaks, which would begin another cell."""
    return " ".join(str(value).split("\t")).replace("\n", " ").replace("\r", " ")


PRESETS: tuple[Preset, ...] = (
    Table(
        "parquet",
        "DuckDB, pandas, LanceDB, Hugging Face datasets: a vector column",
        "features.parquet",
        _write_parquet,
    ),
    Projector(),
    Table("csv", "spreadsheets and R: a column a value", "features.csv", _write_csv),
)
