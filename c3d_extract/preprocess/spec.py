"""What a network wants done to its frames: size, crop, channel order and scale, each with its source.

The authors' tool (image_io and video_data_layer of C3D v1.0) resizes each frame to 171x128 with OpenCV's
default bilinear interpolation, subtracts a mean cube at uncropped coordinates and takes the centre crop of
112x112. The networks of torchvision take what its ``VideoClassification`` transform makes of frames.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from c3d_extract.errors import WeightsError
from c3d_extract.preprocess.crops import FrameCrops, centre_offset, rounded_centre_offset
from c3d_extract.settings import CROPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from c3d_extract.settings import Crops

__all__ = ["Colour", "Preprocessing", "Resampling"]

Colour = Literal["bgr", "rgb"]
"""Channel order of a network's input."""

Resampling = Literal["opencv", "torchvision"]
"""Whose arithmetic resizes and crops.

``opencv``: bilinear in fixed point, the crop's offset rounded down. ``torchvision``: bilinear in float32
without antialiasing, rounded to uint8, the crop's offset rounded to the even number.
"""

_MAX_SIDE = 4096  # of the resized frame; the compiled sampler's tables have a fixed size (MAX_COLUMNS)


@dataclass(frozen=True)
class Preprocessing:
    """How frames become a network's input.

    Attributes
    ----------
    resize
        Rows and columns that every frame is resized to (image_io.cpp).
    crop
        Rows and columns of the centre crop.
    colour
        Channel order of the input: ``bgr`` as OpenCV and the original tool, or ``rgb``.
    std
        Divisor of each channel after the mean is subtracted, in the order B, G, R; the original has none.
    resampling
        Whose arithmetic resizes and crops.
    keeps_aspect
        Whether ``resize``, then a square, is the size of the shorter side alone, and the longer one follows
        from the frame's aspect ratio.
    """

    resize: tuple[int, int] = (128, 171)
    crop: tuple[int, int] = (112, 112)
    colour: Colour = "bgr"
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resampling: Resampling = "opencv"
    keeps_aspect: bool = False

    @property
    def offset(self) -> tuple[int, int]:
        """First row and first column of the crop in a frame of the size ``resize``: (8, 29) by default."""
        return self.offset_in(self.resize)

    def offset_in(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Return the first row and first column of the centre crop in a resized frame."""
        if self.resampling == "torchvision":
            return rounded_centre_offset(resized, self.crop)
        return centre_offset(resized, self.crop)

    def several_crops(self, crops: Crops) -> FrameCrops | None:
        """Return where torchvision's five or ten crops lie in a frame; None for the centre crop alone."""
        n = CROPS[crops]
        if n == 1:
            return None
        if self.keeps_aspect:
            return FrameCrops.stacked(self.crop, n)
        return FrameCrops.whole(self.resize, self.crop, n)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns that a frame of this size is resized to."""
        if not self.keeps_aspect:
            return self.resize
        short, (low, high) = self.resize[0], sorted((height, width))
        long = int(short * high / low)  # torchvision's _compute_resized_output_size
        return (short, long) if height <= width else (long, short)

    def identity(self) -> dict[str, str]:
        """Return what must be equal for features to be comparable, as a flat dict.

        What the authors' tool does is described by ``colour`` and the network.
        """
        if self.resampling == "opencv":
            return {"colour": self.colour}
        (rows, columns), crop = self.resize, "x".join(map(str, self.crop))
        size = f"shorter side {rows}" if self.keeps_aspect else f"{rows}x{columns}"
        std = ",".join(f"{value:.9g}" for value in self.std)
        return {"colour": self.colour, "preprocessing": f"{self.resampling} {size}, crop {crop}, std {std}"}

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
                resampling=values.get("resampling", "opencv"),
                keeps_aspect=bool(values.get("keeps_aspect", False)),
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise WeightsError(f"not a description of preprocessing: {error!r}") from error
        parsed._check()
        return parsed

    def _check(self) -> None:
        fits = all(0 < c <= r <= _MAX_SIDE for c, r in zip(self.crop, self.resize, strict=True))
        if not fits or self.colour not in ("bgr", "rgb") or not all(s > 0 for s in self.std):
            raise WeightsError("preprocessing needs 0 < crop <= resize, colour bgr or rgb, and std above 0")
        if self.resampling not in ("opencv", "torchvision"):
            raise WeightsError("preprocessing is resampled as by opencv or torchvision")
        if self.keeps_aspect and self.resize[0] != self.resize[1]:
            raise WeightsError(
                "preprocessing that keeps the aspect ratio needs one size for the shorter side"
            )
