"""Apply a transform to decoded frames: in one pass over the planes where that is proven, else in two steps.

A transform that samples lines of the frame (`FrameTransform.tables`) needs few of its pixels. Of 4:2:0 frames
the compiled kernel converts those alone, and weighs them in the same pass. Whether it makes the same pixels
as swscale's conversion of the whole frame, followed by the transform, is tried on noise: once for each kind
of frame, in each process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from c3d_extract.decode.colour import (
    Converter,
    PartialConverter,
    has_independent_blocks,
    kind_of,
    noise_like,
)

try:
    from c3d_extract._kernels import sample_planes
except ImportError:  # no C compiler was available at installation, or the processor has no AVX2
    sample_planes = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from c3d_extract.decode.base import FrameTransform
    from c3d_extract.decode.colour import FrameKind

__all__ = ["ColumnTable", "FrameSampling", "InPart", "OnePass", "Whole", "sample_planes"]

# Factors of V in R, U in B, U and V in G, by 2^-16: of BT.601, BT.709, FCC, SMPTE 240M, BT.2020 (libswscale's
# ff_yuv2rgb_coeffs). Which one a frame's numbers mean is found out on noise.
_MATRICES = (
    (104597, 132201, 25675, 53279),
    (117489, 138438, 13975, 34925),
    (104448, 132798, 24759, 53109),
    (117579, 136230, 16907, 35559),
    (110013, 140363, 12277, 42626),
)
_MIN_WIDTH = 32


class FrameSampling:
    """Applies a transform to the frames of one video.

    Parameters
    ----------
    transform
        Applied to every frame, or None for whole frames.
    """

    def __init__(self, transform: FrameTransform | None) -> None:
        self._transform = transform
        self._converter = Converter()
        self._ways: dict[FrameKind, Callable[[VideoFrame], NDArray[np.uint8]]] = {}

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the result for a frame, in an array of its own; PyAV's errors are not caught."""
        kind = kind_of(frame)
        way = self._ways.get(kind)
        if way is None:
            way = self._ways[kind] = self._choose(frame)
        return way(frame)

    def _choose(self, frame: VideoFrame) -> Callable[[VideoFrame], NDArray[np.uint8]]:
        transform = self._transform
        if transform is None:
            return self._converter.whole
        if has_independent_blocks(frame):
            one_pass = OnePass.verified(frame, transform)
            if one_pass is not None:
                return one_pass
        partial = self._converter.partial(frame, transform.lines)
        if partial is not None:
            return InPart(transform, partial)
        return Whole(transform, self._converter)


@dataclass(frozen=True)
class Whole:
    """Converts whole frames, then transforms them."""

    transform: FrameTransform
    converter: Converter

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the result for a frame."""
        return self.transform(self.converter.whole(frame))


@dataclass(frozen=True)
class InPart:
    """Converts the needed lines of frames of one kind, then transforms them."""

    transform: FrameTransform
    converter: PartialConverter

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the result for a frame."""
        return self.transform(self.converter.convert(frame), size=self.converter.size)


class ColumnTable(NamedTuple):
    """Where a crop's columns lie in a line, arguments of ``sample_planes``; n is a multiple of 16.

    Each column has two pixels, neighbours or one twice. First in a line of luma, then in one of chroma.
    """

    pairs: NDArray[np.int32]
    """int32 (2, n / 8, 8): where two bytes begin that hold a column's pixels."""
    windows: NDArray[np.int32]
    """int32 (2, n / 8): where 16 bytes begin that hold those of 8 columns; -1 where none do."""
    inside: NDArray[np.uint8]
    """uint8 (2, n / 8, 16): which of the 16 bytes of the window, or else of the 8 pairs, they are."""
    weights: NDArray[np.int16]
    """int16 (n / 8, 16): their weights in 1/2048."""

    @classmethod
    def of(cls, columns: NDArray[np.int32], width: int) -> Self:
        """Return the table for int32 (4, columns): first and second pixel, and their weights."""
        n = columns.shape[1]
        padded = columns[:, np.minimum(np.arange(-(-n // 16) * 16), n - 1)]
        pixels, weights = (padded[part].T.reshape(-1, 16) for part in (slice(0, 2), slice(2, 4)))
        places = np.stack([pixels, pixels // 2])
        ends = np.array([width, width // 2])[:, None]  # no window and no pair reaches beyond its line
        lowest = np.minimum(places.min(2), ends - 16)
        pairs = np.minimum(places[..., ::2], ends[..., None] - 2)
        has_window = (places.max(2) < lowest + 16) & (lowest >= 0)
        in_window = places - lowest[..., None]
        in_pairs = places - pairs.repeat(2, axis=2) + np.arange(16) // 2 * 2
        return cls(
            np.ascontiguousarray(pairs, np.int32),
            np.where(has_window, lowest, -1).astype(np.int32),
            np.where(has_window[..., None], in_window, in_pairs).astype(np.uint8),
            np.ascontiguousarray(weights, np.int16),
        )


class OnePass:
    """Samples 4:2:0 frames of one kind from their planes, to the bit as swscale and the transform do."""

    _factors: ClassVar[dict[tuple[FrameKind, bytes, bytes], NDArray[np.int16] | None]] = {}

    def __init__(
        self, tables: tuple[NDArray[np.int32], NDArray[np.int32]], width: int, factors: NDArray[np.int16]
    ) -> None:
        self._rows, columns = tables
        self._table = ColumnTable.of(columns, width)
        self._given = (self._rows, *self._table, factors)
        self._shape = self._rows.shape[1], columns.shape[1], 3

    @classmethod
    def verified(cls, frame: VideoFrame, transform: FrameTransform) -> Self | None:
        """Return one for such frames, or None where it would not make the same pixels."""
        # The kernel reads 16 bytes of a line at a time, of chroma too.
        tables = transform.tables(frame.height, frame.width) if frame.width >= _MIN_WIDTH else None
        if tables is None or sample_planes is None:
            return None
        key = kind_of(frame), tables[0].tobytes(), tables[1].tobytes()
        if key not in cls._factors:
            cls._factors[key] = cls._find_factors(frame, transform, tables)
        factors = cls._factors[key]
        return None if factors is None else cls(tables, frame.width, factors)

    @classmethod
    def _find_factors(
        cls,
        frame: VideoFrame,
        transform: FrameTransform,
        tables: tuple[NDArray[np.int32], NDArray[np.int32]],
    ) -> NDArray[np.int16] | None:
        noise = noise_like(frame)
        expected = transform(Converter().whole(noise))
        for matrix in _MATRICES:
            for full_range in (False, True):
                factors = _swscale_factors(matrix, full_range=full_range)
                try:
                    if np.array_equal(cls(tables, frame.width, factors)(noise), expected):
                        return factors
                except ValueError:  # a crop that is too wide
                    return None
        return None

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the crop of a frame, uint8 (rows, columns, 3), B, G, R."""
        planes: Any = frame.planes
        crop = np.empty(self._shape, np.uint8)
        luma, u, v = planes
        sizes = luma.line_size, u.line_size, v.line_size
        sample_planes((luma, u, v), sizes, *self._given, crop)
        return crop


def _swscale_factors(matrix: tuple[int, int, int, int], *, full_range: bool) -> NDArray[np.int16]:
    """Return libswscale's numbers for x86 (ff_yuv2rgb_c_init_tables), int16 (6,), for ``sample_planes``.

    8 times the offset of luma, then, by 2^-13: factors of luma, of U in B and G, of V in G and R.
    """
    red_v, blue_u, green_u, green_v = matrix
    luma, offset = 1 << 16, 0
    if full_range:
        red_v, blue_u, green_u, green_v = (factor * 224 // 255 for factor in matrix)
    else:
        luma, offset = luma * 255 // 219, 16 << 16
    rounded = [(value + 4) >> 3 for value in (luma, blue_u, -green_u, -green_v, red_v)]
    return np.array([offset >> 13, *rounded], np.int16)
