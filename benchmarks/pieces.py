"""Which video a changed piece comes from: embedded networks and thumbnails on videos of any kind.

    python benchmarks/pieces.py ../shared/data/samples [CHECKPOINT ...]

Videos of 100 frames and more are cut into pieces of 48 frames: up to three from the first half, kept as they
are, and up to three from the second, changed in each of `CHANGES`. A changed piece is given the video of the most
similar kept one (cosine of mean features, less their mean over the kept pieces). Nothing is trained on them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import av
import cv2
import numpy as np
import torch
from embedded import LAYERS, extract, thumbnails

from c3d_extract.decode import open_video
from c3d_extract.errors import VideoError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Frames = np.ndarray
"""uint8 (T, H, W, 3), B, G, R."""

N_FRAMES, ROWS = 48, 240


class Piece(NamedTuple):
    """A file with a piece of a video, and what was done to it."""

    path: Path
    video: str
    change: str


def _cropped(frames: Frames) -> Frames:
    _, rows, columns, _ = frames.shape
    return frames[:, rows // 4 :, : columns * 3 // 4]


def _darker(frames: Frames) -> Frames:
    return (204 * (frames / 255) ** 1.6 + 20).astype(np.uint8)


def _grey(frames: Frames) -> Frames:
    return frames.mean(axis=3, keepdims=True).repeat(3, axis=3).astype(np.uint8)


def _blurred(frames: Frames) -> Frames:
    _, rows, columns, _ = frames.shape
    small = (cv2.resize(frame, (columns // 8, rows // 8), interpolation=cv2.INTER_AREA) for frame in frames)
    return np.stack([cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_CUBIC) for frame in small])


def _noisy(frames: Frames) -> Frames:
    noise = np.random.default_rng(0).normal(0, 20, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Frames], Frames]] = {
    "none": lambda frames: frames,
    "darker": _darker,
    "grey": _grey,
    "blurred": _blurred,
    "noisy": _noisy,
    "cropped": _cropped,
    "mirrored": lambda frames: frames[:, :, ::-1],
    "all": lambda frames: _noisy(_darker(_cropped(frames)[:, :, ::-1])),
}


def frames_of(video: Path) -> Frames:
    """Return up to 360 frames, 240 rows high."""
    found: list[np.ndarray] = []
    with open_video(video) as reader:
        for frame in reader.frames():
            rows, columns = frame.bgr.shape[:2]
            found.append(cv2.resize(frame.bgr, (round(columns * ROWS / rows / 2) * 2, ROWS)))
            if len(found) == 360:
                break
    return np.stack(found)


def pieces_of(frames: Frames) -> Iterator[tuple[str, Frames]]:
    """Yield each piece with its change; ``kept`` for those of the first half."""
    half = len(frames) // 2
    for start, end in ((0, half), (half, len(frames))):
        for first in np.unique(np.linspace(start, max(end - N_FRAMES, start), 3).astype(int)):
            piece = frames[first : first + N_FRAMES]
            if start == 0:
                yield "kept", piece
            else:
                yield from ((name, change(piece)) for name, change in CHANGES.items())


def write(path: Path, frames: Frames) -> None:
    """Encode frames as H.264."""
    rows, columns = (length // 2 * 2 for length in frames.shape[1:3])
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(frame[:rows, :columns])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "bgr24")))
        container.mux(stream.encode())


def cut(videos: Path, folder: Path) -> list[Piece]:
    """Write the pieces of every video of at least 100 frames; others are left out."""
    pieces = []
    for video in sorted(path for path in videos.glob("*/*.*") if path.is_file()):
        try:
            frames = frames_of(video)
        except VideoError:
            continue
        if len(frames) < 100:
            continue
        for number, (change, piece) in enumerate(pieces_of(frames)):
            pieces.append(Piece(folder / f"{video.stem}-{number}.mkv", video.name, change))
            write(pieces[-1].path, piece)
    return pieces


def score(features: np.ndarray, pieces: list[Piece]) -> list[float]:
    """Return the share of pieces given the right video for each change, every video counting alike."""
    videos, changes = np.array([p.video for p in pieces]), np.array([p.change for p in pieces])
    kept = changes == "kept"
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit = unit - unit[kept].mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    right = videos[kept][(unit @ unit[kept].T).argmax(axis=1)] == videos
    names = sorted(set(videos))
    return [float(np.mean([right[(changes == c) & (videos == v)].mean() for v in names])) for c in CHANGES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument(
        "checkpoints", type=Path, nargs="*", default=[Path("weights/motion-mini.safetensors")]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pieces = cut(arguments.videos, Path(folder))
        paths = [piece.path for piece in pieces]
        print(f"{len({piece.video for piece in pieces})} videos, {len(pieces)} pieces")
        print(f"{'':32}", *(f"{name:>8}" for name in [*CHANGES, "mean"]), flush=True)
        mean, deviation = (np.stack(part) for part in zip(*map(thumbnails, paths), strict=True))
        _tell("24x32 grey, mean", score(mean, pieces))
        _tell("24x32 grey, deviation", score(deviation, pieces))
        for checkpoint in arguments.checkpoints:
            found = extract(checkpoint, paths, 16)
            for layer in LAYERS:
                _tell(f"{checkpoint.stem} {layer}", score(found[layer], pieces))


def _tell(what: str, right: list[float]) -> None:
    print(f"{what:32}", *(f"{value:8.3f}" for value in [*right, np.mean(right)]), flush=True)


if __name__ == "__main__":
    main()
