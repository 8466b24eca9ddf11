"""Whether this PyAV can read videos at all: a failure that would be every video's ends the run at once."""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from c3d_extract.decode.pool import DecodeOptions, decode
from c3d_extract.errors import DecoderError
from c3d_extract.preprocess.spec import Preprocessing

__all__ = ["HINT", "check_decoding", "unusable", "why_unusable"]

HINT = "install a version that c3d-extract allows"

# Two frames of 8x8, all red and all blue, as Pillow 12 writes them:
#   red, blue = (Image.new("P", (8, 8), i) for i in (0, 1)), each after putpalette([200, 30, 10, 10, 60, 220])
#   red.save(name, "GIF", save_all=True, append_images=[blue], duration=40, optimize=False)
_VIDEO = bytes.fromhex(
    "47494638396108000800810000c81e0a0a3cdc00000000000021f90400040000002c000000000800080000080f000108"
    "1c48b0a0c18308132a4c18100021f90400040000002c000000000800080081c81e0a0a3cdc000000000000080f000308"
    "1c48b0a0c18308132a4c1810003b"
)
_COLOURS = [(10, 30, 200), (220, 60, 10)]  # B, G, R


def check_decoding() -> None:
    """Decode a video of two frames the way every video is decoded; some 5 ms.

    Raises
    ------
    DecoderError
        Where that fails, or gives other frames.
    """
    reason = why_unusable()
    if reason is not None:
        raise unusable(reason)


def unusable(reason: str) -> DecoderError:
    """Make what `check_decoding` raises of what `why_unusable` said in another process."""
    return DecoderError(reason, hint=f"{HINT}; see c3d-tools doctor")


def why_unusable() -> str | None:
    """Say, in one line, why no video can be read here, or None."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="c3d-")
        path = Path(folder.name) / "check.gif"
        path.write_bytes(_VIDEO)
    except OSError:  # nowhere to write, which is no fault of PyAV's: videos will show
        return None
    with folder:
        try:
            colours = _colours(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, every video would end like this
            return f"{_versions()} cannot read videos as c3d-extract needs: {_plain(error)}"
    if colours != _COLOURS:
        return f"{_versions()} decodes a test video wrongly: {colours} instead of {_COLOURS}"
    return None


def _colours(path: Path) -> list[tuple[int, ...]]:
    """Return the colour of each frame, B, G, R, where it has one."""
    crops = [crop for crop, _ in decode(path, DecodeOptions(Preprocessing(), 1 << 16)) if crop is not None]
    return [tuple(int(c) for c in crop[0, 0]) for crop in crops if np.all(crop == crop[0, 0])]


def _plain(error: Exception) -> str:
    """Return the error in one line, and rather the library's than what was made of it."""
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())


def _versions() -> str:
    try:
        installed = version("av")
    except PackageNotFoundError:
        return "PyAV (not installed)"
    try:
        from av import ffmpeg_version_info
    except Exception:  # noqa: BLE001 - it says what is wrong elsewhere
        return f"PyAV {installed}"
    return f"PyAV {installed} (FFmpeg {ffmpeg_version_info})"
