"""Explained clips as a figure: the frames of each clip as a strip, and below it a strip for each unit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure

from c3d_extract.analysis.figures import plain_text, save_figure
from c3d_extract.files import writing_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from c3d_extract.analysis.explain import Explanation

__all__ = ["ExplainedClip", "draw_explanations"]

MOST_COLUMNS = 16
"""Of a longer clip, so many frames are drawn in a strip."""
FRAMES_PER_SECOND = 6
"""Of an animation: slow enough to follow."""
_CONTRAST_QUANTILE = 0.998  # a few pixels are far larger than all others
_LABEL_INCHES = 1.1


class ExplainedClip(NamedTuple):
    """An `Explanation` with the name of its video, its first frame there, and the names of its units."""

    video: str
    start_frame: int
    explanation: Explanation
    unit_names: Sequence[str]

    @property
    def frames_text(self) -> str:
        """The numbers of its frames."""
        return f"frames {self.start_frame} to {self.start_frame + len(self.explanation.frames) - 1}"

    def rows(self) -> list[tuple[str, NDArray[np.uint8]]]:
        """Return the label and the pictures, uint8 (T, H, W, 3), of the clip and of each unit."""
        units = zip(map(plain_text, self.unit_names), self.explanation.units, strict=True)
        shown = [(f"{name}\n{unit.activation:.2f}", _visible(unit.pixels)) for name, unit in units]
        return [("clip", self.explanation.frames), *shown]


def draw_explanations(clips: Sequence[ExplainedClip], path: Path, heading: str = "") -> None:
    """Draw clips one below the other: a still of strips, or where ``path`` ends in .gif an animation.

    Raises StoreError if the file cannot be written.
    """
    if path.suffix.lower() == ".gif":
        _draw_animation(clips, path, heading)
    else:
        save_figure(_strips(clips, heading), path)


def _visible(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a picture in which 0 is grey, with one contrast for all its frames."""
    largest = np.quantile(np.abs(pixels), _CONTRAST_QUANTILE) or 1.0
    return (127.5 + 127.5 * pixels / largest).clip(0, 255).astype(np.uint8)


def _strips(clips: Sequence[ExplainedClip], heading: str) -> Figure:
    n_frames, rows, columns, _ = clips[0].explanation.frames.shape
    step = -(-n_frames // MOST_COLUMNS)
    n_rows = sum(len(clip.rows()) for clip in clips)
    width, height = _LABEL_INCHES + n_frames / step, n_rows * rows / columns + 0.45 * len(clips) + 0.4
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(plain_text(heading))
    axes = iter(figure.subplots(n_rows, 1, squeeze=False)[:, 0])
    for clip in clips:
        for number, (label, pictures) in enumerate(clip.rows()):
            shown = next(axes)
            _draw_strip(shown, label, pictures[::step])
            if number == 0:
                shown.set_title(
                    f"{plain_text(clip.video[-80:])}, {clip.frames_text}", fontsize=10, loc="left"
                )
        shown.set_xticks((np.arange(0, n_frames, step) / step + 0.5) * (columns + 1))
        shown.set_xticklabels([str(clip.start_frame + i) for i in range(0, n_frames, step)])
    return figure


def _draw_strip(axes: Any, label: str, pictures: NDArray[np.uint8]) -> None:
    # A white column parts one frame from the next.
    parted = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    axes.imshow(np.concatenate(list(parted), axis=1), interpolation="nearest")
    _without_frame(axes)
    axes.set_ylabel(label, rotation="horizontal", ha="right", va="center")


def _without_frame(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)


def _draw_animation(clips: Sequence[ExplainedClip], path: Path, heading: str) -> None:
    n_columns = max(len(clip.rows()) for clip in clips)
    figure = Figure(figsize=(2.2 * n_columns, 2.6 * len(clips) + 0.4), layout="constrained")
    figure.suptitle(plain_text(heading))
    images: list[tuple[Any, NDArray[np.uint8]]] = []
    for axes_of_clip, clip in zip(figure.subplots(len(clips), n_columns, squeeze=False), clips, strict=True):
        for axes, (label, pictures) in zip(axes_of_clip, clip.rows(), strict=True):
            images.append((axes.imshow(pictures[0], interpolation="nearest"), pictures))
            _without_frame(axes)
            axes.set_title(label, fontsize=9)
        axes_of_clip[0].set_xlabel(f"{plain_text(clip.video[-28:])}\n{clip.frames_text}", fontsize=8)

    def show_frame(number: int) -> list[Any]:
        for image, pictures in images:
            image.set_data(pictures[number])
        return [image for image, _ in images]

    _save_animation(FuncAnimation(figure, show_frame, len(images[0][1]), blit=False), path)


def _save_animation(animation: FuncAnimation, path: Path) -> None:
    # Its writer takes a path alone, and would leave half a file there.
    with TemporaryDirectory(prefix="c3d-") as folder, writing_output(path) as file:
        whole = Path(folder) / "animation.gif"
        animation.save(whole, writer="pillow", fps=FRAMES_PER_SECOND, dpi=80)
        file.write(whole.read_bytes())
