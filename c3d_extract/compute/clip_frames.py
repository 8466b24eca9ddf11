"""Which frames a batch of clips needs: each is sent to the device once; clips and crops are cut there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from c3d_extract.preprocess.clips import FrameBlock, Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from c3d_extract.preprocess.crops import FrameCrops

__all__ = ["ClipCrops", "FramePlan", "Pieces", "pieces_of", "stacked"]

Pieces = tuple[Piece, ...]
"""The frames of one clip, in their order."""


def pieces_of(clips: NDArray[np.uint8]) -> list[Pieces]:
    """Return the clips of an array, uint8 (N, L, H, W, 3)."""
    length = clips.shape[1]
    block = FrameBlock(np.ascontiguousarray(clips).reshape(-1, *clips.shape[2:]))
    return [(Piece(block, i * length, (i + 1) * length),) for i in range(len(clips))]


class ClipCrops(NamedTuple):
    """Which crop of its frames each clip of a batch is.

    Attributes
    ----------
    of_frames
        Where the crops lie.
    numbers
        The crop of each clip.
    """

    of_frames: FrameCrops
    numbers: Sequence[int]

    def cut(self, clip: int, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of frames (…, rows, columns, 3): the crop that a clip is."""
        return self.of_frames.cut(frames, self.numbers[clip])

    def take(self, places: Iterable[int]) -> Self:
        """Return the crops of some of the clips."""
        return self._replace(numbers=[self.numbers[place] for place in places])


def stacked(
    clips: Sequence[Pieces], out: NDArray[np.uint8], crops: ClipCrops | None = None
) -> NDArray[np.uint8]:
    """Copy the clips to the first rows of ``out``, uint8 (N, L, H, W, 3); fill it up with 0; return it."""
    for i, (row, pieces) in enumerate(zip(out, clips, strict=False)):
        frames = [piece.frames for piece in pieces]
        np.concatenate(frames if crops is None else [crops.cut(i, each) for each in frames], out=row)
    out[len(clips) :] = 0
    return out


class FramePlan(NamedTuple):
    """How clips are made of segments of consecutive frames.

    Attributes
    ----------
    segments
        uint8 (T, H, W, 3) each; no frame is in two of them.
    places
        int64 (N · L): for each frame of each clip, its place in the segments behind one another.
    """

    segments: list[NDArray[np.uint8]]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, clips: Sequence[Pieces]) -> Self:
        """Return the plan for clips."""
        ranges: dict[int, tuple[FrameBlock, int, int]] = {}
        for piece in (piece for pieces in clips for piece in pieces):
            _, start, end = ranges.get(id(piece.block), piece)
            ranges[id(piece.block)] = piece.block, min(start, piece.start), max(end, piece.end)
        offsets: dict[int, int] = {}
        n_frames = 0
        for key, (_, start, end) in ranges.items():
            offsets[key] = n_frames - start
            n_frames += end - start
        places = [
            np.arange(piece.start, piece.end) + offsets[id(piece.block)]
            for pieces in clips
            for piece in pieces
        ]
        segments = [block.frames[start:end] for block, start, end in ranges.values()]
        return cls(segments, np.concatenate(places))

    @property
    def n_frames(self) -> int:
        """Frames of all segments."""
        return sum(map(len, self.segments))

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Rows, columns and channels of a frame."""
        return self.segments[0].shape[1:]

    @property
    def is_in_order(self) -> bool:
        """Whether the segments behind one another are the clips, without a gap or a repetition."""
        return self.n_frames == len(self.places) and bool((np.diff(self.places) == 1).all())
