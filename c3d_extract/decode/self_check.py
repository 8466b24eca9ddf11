"""Check that the installed PyAV can read videos: a failure common to all videos ends the run at once."""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from c3d_extract.errors import DecoderError

__all__ = ["HINT", "check_decoding", "unusable_error", "why_unusable"]

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
    """Decode a test video of two frames with the normal reader; this takes about 5 ms.

    Raises
    ------
    DecoderError
        Where that fails, or the frames differ.
    """
    reason = why_unusable()
    if reason is not None:
        raise unusable_error(reason)


def unusable_error(reason: str) -> DecoderError:
    """Return what `check_decoding` raises, from what `why_unusable` returned in another process."""
    return DecoderError(reason, hint=f"{HINT}; see c3d-tools doctor")


def why_unusable() -> str | None:
    """Return, in one line, why no video can be read with this installation, or None."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="c3d-")
        path = Path(folder.name) / "check.gif"
        path.write_bytes(_VIDEO)
    except OSError:  # no folder to write to, which is not PyAV's fault
        return None
    with folder:
        try:
            colours = _colours(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, every video would fail in this way
            return f"{_versions()} cannot read videos as c3d-extract needs: {_cause(error)}"
    if colours != _COLOURS:
        return f"{_versions()} decodes a test video wrongly: {colours} instead of {_COLOURS}"
    return None


def _colours(path: Path) -> list[tuple[int, ...]]:
    """Return the colour, B, G, R, of each frame that has one uniform colour."""
    from c3d_extract.decode.reader import open_video  # it imports PyAV, which may fail

    with open_video(path, max_pixels=1 << 16) as reader:
        frames = [frame.bgr.copy() for frame in reader.frames()]
        if (trouble := reader.trouble()) is not None:
            raise DecoderError(trouble)
    return [tuple(int(c) for c in frame[0, 0]) for frame in frames if np.all(frame == frame[0, 0])]


def _cause(error: Exception) -> str:
    """Return the error in one line; the library's own error where ours was raised from it."""
    cause = error.__cause__ or error
    return " ".join(f"{type(cause).__name__}: {cause}".split())


def _versions() -> str:
    try:
        installed = version("av")
    except PackageNotFoundError:
        return "PyAV (not installed)"
    try:
        from c3d_extract.decode.pyav import FFMPEG_VERSION
    except Exception:  # noqa: BLE001 - the import error is already in the message
        return f"PyAV {installed}"
    return f"PyAV {installed} (FFmpeg {FFMPEG_VERSION})"
