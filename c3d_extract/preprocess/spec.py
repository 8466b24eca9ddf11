"""What a network wants done to its frames: size, crop, channel order and scale, each with its source.

The authors' tool (image_io and video_data_layer of C3D v1.0) resizes each frame to 171x128 with OpenCV's
default bilinear interpolation, subtracts a mean cube at uncropped coordinates and takes the centre crop of
112x112.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.crops import centre_offset

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Colour", "Preprocessing"]

Colour = Literal["bgr", "rgb"]
"""Channel order of a network's input."""

_MAX_SIDE = 4096  # of the resized frame; the compiled sampler's tables have a fixed size (MAX_COLUMNS)


@dataclass(frozen=True)
class Preprocessing:
    """How frames become a network's input.

    Attributes
    ----------
    resize
        Rows and columns that every frame is resized to, aspect ratio not kept (image_io.cpp).
    crop
        Rows and columns of the centre crop.
    colour
        Channel order of the input: ``bgr`` as OpenCV and the original tool, or ``rgb``.
    std
        Divisor of each channel after the mean is subtracted, in the order B, G, R; the original has none.
    """

    resize: tuple[int, int] = (128, 171)
    crop: tuple[int, int] = (112, 112)
    colour: Colour = "bgr"
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def offset(self) -> tuple[int, int]:
        """First row and first column of the centre crop: (8, 29) by default."""
        return centre_offset(self.resize, self.crop)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` accepts."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `to_json` returned.

        Raises
        ------
        WeightsError
            Where a value is missing, of another type or out of range.
        """
        try:
            parsed = cls(
                resize=(int(values["resize"][0]), int(values["resize"][1])),
                crop=(int(values["crop"][0]), int(values["crop"][1])),
                colour=values["colour"],
                std=(float(values["std"][0]), float(values["std"][1]), float(values["std"][2])),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise WeightsError(f"not a description of preprocessing: {error!r}") from error
        fits = all(0 < c <= r <= _MAX_SIDE for c, r in zip(parsed.crop, parsed.resize, strict=True))
        if not fits or parsed.colour not in ("bgr", "rgb") or not all(s > 0 for s in parsed.std):
            raise WeightsError("preprocessing needs 0 < crop <= resize, colour bgr or rgb, and std above 0")
        return parsed
