"""Draw which frames make which clip, for docs/clips.md, by the function that a run uses.

python docs/figures/clips.py        # writes docs/images/clips.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.preprocess.clips import clip_spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from c3d_extract.preprocess.clips import ClipSpan, Short, Tail

OUTPUT = Path(__file__).resolve().parents[1] / "images" / "clips.svg"
LENGTH, CELL, BAR, LEFT, WIDTH = 16, 11, 9, 190, 760
FRAME, CLIP, PADDED = "#90a4ae", "#3f51b5", "#ffb300"


class Row(NamedTuple):
    """One video of ``n_frames``, cut by these policies."""

    title: str
    n_frames: int
    stride: int = LENGTH
    tail: Tail = "drop"
    short: Short = "pad"


ROWS = (
    Row("42 frames, --stride 16", 42),
    Row("--stride 8", 42, stride=8),
    Row("--tail pad", 42, tail="pad"),
    Row("--tail back", 42, tail="back"),
    Row("10 frames, --short pad", 10),
    Row("10 frames, --short loop", 10, short="loop"),
)


def _boxes(x: int, y: int, n: int, height: int, colour: str) -> Iterator[str]:
    for k in range(n):
        yield f'<rect x="{x + k * CELL}" y="{y}" width="{CELL - 1}" height="{height}" fill="{colour}"/>'


def _repeated(row: Row, span: ClipSpan, x: int, y: int) -> Iterator[str]:
    """Draw the frames that fill a clip up, each with its number."""
    yield from _boxes(x, y, span.n_padded_frames, BAR, PADDED)
    for k in range(span.n_padded_frames):
        number = k % row.n_frames if row.short == "loop" else span.end - 1
        middle = x + k * CELL + CELL // 2
        yield f'<text x="{middle}" y="{y + 7}" font-size="7" text-anchor="middle">{number}</text>'


def _row(row: Row, top: int) -> tuple[list[str], int]:
    """Return the drawing of a row, and where the next one begins."""
    parts = [
        f'<text x="12" y="{top + 9}">{row.title}</text>',
        *_boxes(LEFT, top, row.n_frames, CELL - 1, FRAME),
    ]
    y = top + CELL + 5
    for span in clip_spans(row.n_frames, LENGTH, stride=row.stride, tail=row.tail, short=row.short):
        x, n = LEFT + span.start * CELL, span.end - span.start
        parts += [*_boxes(x, y, n, BAR, CLIP), *_repeated(row, span, x + n * CELL, y)]
        y += BAR + 3
    return parts, y + 14


def drawing() -> str:
    """Return the figure as SVG."""
    parts, y = [], 16
    for row in ROWS:
        more, y = _row(row, y)
        parts += more
    for x, colour, word in (
        (LEFT, FRAME, "frame"),
        (290, CLIP, "frame of a clip"),
        (440, PADDED, "repeated frame, and which (from 0)"),
    ):
        parts += [*_boxes(x, y, 1, CELL - 1, colour), f'<text x="{x + 18}" y="{y + 9}">{word}</text>']
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" role="img" '
        'aria-label="Which frames make which clip" font-family="sans-serif" font-size="12">'
    )
    return "\n".join((head, f'<rect width="{WIDTH}" height="{y + 24}" fill="white"/>', *parts, "</svg>\n"))


if __name__ == "__main__":
    OUTPUT.write_text(drawing(), encoding="utf-8")
