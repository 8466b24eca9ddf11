"""What `Extractor.extract` takes: paths and addresses, encoded videos in memory, frames."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from c3d_extract.decode import FrameSequence, OpenedFile, file_of_bytes
from c3d_extract.errors import UsageError
from c3d_extract.sources.find import one_video

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from c3d_extract.decode import InMemoryVideo, ReadableFile
    from c3d_extract.preprocess.spec import Colour
    from c3d_extract.sources.source import Source

__all__ = ["VideoInput", "read_inputs"]

VideoInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | ReadableFile"
    " | NDArray[Any] | torch.Tensor | Iterable[NDArray[Any] | torch.Tensor]"
)
"""One video: a path or an address; its encoded bytes, or a file object of them; or its frames."""


def read_inputs(
    videos: Iterable[VideoInput], *, colour: Colour | None = None, fps: float | None = None
) -> list[InMemoryVideo | Source]:
    """Return what streams read for the inputs of `Extractor.extract_batch`.

    Raises
    ------
    UsageError
        Where one is no video, or ``colour`` and ``fps`` do not go with them.
    """
    found = [_encoded(video) or _frames(video, colour, fps) for video in videos]
    is_for_frames = colour is not None or fps is not None
    if found and is_for_frames and not any(isinstance(each, FrameSequence) for each in found):
        raise UsageError("are of frames alone", subject="colour= and fps=")
    return found


def _encoded(video: object) -> InMemoryVideo | Source | None:
    if isinstance(video, str | os.PathLike):
        return one_video(video)
    if isinstance(video, bytes | bytearray | memoryview):
        return OpenedFile(file_of_bytes(video), "<bytes>")
    return OpenedFile(cast("ReadableFile", video)) if hasattr(video, "read") else None


def _frames(frames: Any, colour: Colour | None, fps: float | None) -> FrameSequence:
    shape = getattr(frames, "shape", None)
    name = "<frames>" if shape is None else "<array>"
    if shape is not None and (len(shape) != 4 or shape[3] != 3):
        hint = "permute(0, 2, 3, 1)" if len(shape) == 4 and shape[1] == 3 else "uint8 (T, H, W, 3) is taken"
        raise UsageError(f"is of shape {tuple(shape)}", subject=name, hint=hint)
    if isinstance(frames, list | tuple) and any(isinstance(each, str | os.PathLike) for each in frames):
        raise UsageError("holds paths, not frames", subject=name, hint="extract_batch takes several videos")
    if not isinstance(frames, Iterable):
        kind = type(frames).__name__
        raise UsageError(
            f"is no video: a {kind}", hint="give a path, bytes, a file object, an array or frames"
        )
    if colour not in ("bgr", "rgb"):
        raise UsageError("say how frames are coloured", subject=name, hint='colour="rgb" or "bgr" (OpenCV)')
    if fps is None or not (math.isfinite(fps) and fps > 0):
        raise UsageError("say how many frames there are a second", subject=name, hint="such as fps=25")
    return FrameSequence(frames, colour=colour, fps=float(fps), name=name)
