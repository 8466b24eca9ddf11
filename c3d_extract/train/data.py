"""Training clips: the clip at each position of a run, and its augmentation.

All random numbers come from (seed, position), so the state of the sampler is the number of completed
iterations, and any number of processes that share the positions use the same clips as a single one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import ceil, inf
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from c3d_extract.decode import FrameFolder, open_video
from c3d_extract.decode.process import end_with_parent
from c3d_extract.decode.timestamps import steady_times
from c3d_extract.decode.video import resampled
from c3d_extract.errors import VideoError
from c3d_extract.preprocess.resize import FrameSampler, PlacedCropSampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from c3d_extract.decode import Frame, PyAVReader
    from c3d_extract.preprocess.spec import Preprocessing
    from c3d_extract.train.lists import VideoList
    from c3d_extract.train.recipes import Recipe
    from c3d_extract.train.synthetic import SyntheticClips

__all__ = [
    "ClipSet",
    "LabelledClip",
    "SyntheticClipSet",
    "TestVideos",
    "TrainingBatch",
    "TrainingClips",
    "VideoClipSet",
    "collate",
    "start_worker",
    "training_batches",
]

_TEST_CLIPS = 10
_MANY_FRAMES = 1000  # 66 MB when resized, kept in memory; longer videos are seeked instead

LabelledClip = tuple["NDArray[np.uint8]", tuple[int, ...]]
"""Frames uint8 (T, H, W, 3), B, G, R, and their correct classes."""


class ClipSet(Protocol):
    """Training or test clips, at the network's size, with their classes."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network's outputs."""

    @property
    def n_items(self) -> int | None:
        """Clips per epoch; None for endless data."""

    def clip(self, item: int, rng: np.random.Generator) -> LabelledClip:
        """Return clip ``item``, cropped and mirrored at random."""

    def test_clips(self, item: int) -> list[LabelledClip]:
        """Return clips that cover video ``item``, cropped at the centre; deterministic."""


@dataclass(frozen=True)
class SyntheticClipSet:
    """Synthetic clips, rendered on demand; ``n_items`` limits a test set."""

    clips: SyntheticClips
    n_items: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.clips.labels

    def clip(self, item: int, rng: np.random.Generator) -> LabelledClip:
        """Return clip ``item``, whose random numbers depend on ``item`` only."""
        del rng
        return self.clips.clip(item)

    def test_clips(self, item: int) -> list[LabelledClip]:
        """Return the one clip."""
        return [self.clips.clip(item)]


class VideoClipSet:
    """Clips cut from videos.

    Parameters
    ----------
    videos
        The source videos.
    preprocessing
        Frames are resized and cropped as it says; the crop of a training clip is placed at random.
    recipe
        ``mirror``, ``clips_per_video`` and ``segment_seconds`` are used.
    seed
        Decides each video's fixed segments.
    n_frames
        Frames per clip.
    fps
        Frames per second that videos are resampled to; None for the frames as they are decoded.
    frame_step
        Every how many of the decoded frames one is taken, where ``fps`` is None.
    """

    def __init__(
        self,
        videos: VideoList,
        preprocessing: Preprocessing,
        recipe: Recipe,
        *,
        seed: int,
        n_frames: int = 16,
        fps: float | None = None,
        frame_step: int = 1,
    ) -> None:
        self.labels = videos.labels
        self.n_items: int | None = len(videos.videos) * recipe.clips_per_video
        self.videos = videos.videos
        self._preprocessing, self._recipe, self._seed = preprocessing, recipe, seed
        self._n_frames, self._fps, self._frame_step = n_frames, fps, frame_step

    def clip(self, item: int, rng: np.random.Generator) -> LabelledClip:
        """Return consecutive frames from a random place, cropped and mirrored at random."""
        number, segment = divmod(item, self._recipe.clips_per_video)
        path, labels = self.videos[number]
        first = np.random.default_rng((self._seed, number, segment)).random()
        second, place = rng.random(), (rng.random(), rng.random())
        sampler = PlacedCropSampler(self._preprocessing, place)
        clip = np.stack(self._frames_at(path, sampler, first, second, self._recipe.segment_seconds))
        mirrored = rng.random() < self._recipe.mirror
        return np.ascontiguousarray(clip[:, :, ::-1] if mirrored else clip), labels

    def test_clips(self, item: int) -> list[LabelledClip]:
        """Return up to ten clips spread evenly over the video, cropped at the centre."""
        path, labels = self.videos[item]
        return [(np.stack(frames), labels) for frames in self._spread(path)]

    def _spread(self, path: Path) -> Iterable[list[NDArray[np.uint8]]]:
        sampler = FrameSampler(self._preprocessing)
        with open_video(path) as reader:
            is_long = (_n_stated(reader) or 0) / self._step(_fps(reader)) > _MANY_FRAMES
            frames = [] if is_long else list(self._sampled(reader, sampler))
        if is_long:
            places = np.linspace(0, 1 - 1e-9, _TEST_CLIPS)
            return [self._frames_at(path, sampler, 0.0, place) for place in places]
        last = max(len(frames) - self._n_frames, 0)
        places = np.linspace(0, last, _TEST_CLIPS)
        starts = sorted({round(place) for place in places}) if last >= _TEST_CLIPS else [last // 2]
        return [self._padded(frames[start : start + self._n_frames]) for start in starts]

    def _sampled(
        self, reader: PyAVReader | FrameFolder, sampler: FrameSampler, start: int = 0
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames that clips are made of, from decoded frame ``start`` on, cropped."""
        timed = _cropped(_since(reader, start), sampler)
        if self._fps is None:
            frames = (frame for frame, _ in timed)
        else:
            steady = steady_times(timed, reader.info.fps)
            frames = (frame for frame, _ in resampled(steady, reader.info, self._fps))
        return islice(frames, 0, None, self._frame_step)

    def _step(self, native_fps: float) -> float:
        """Return how many decoded frames there are for each frame that is taken."""
        return self._frame_step if self._fps is None else native_fps / self._fps

    def _frames_at(
        self, path: Path, sampler: FrameSampler, first: float, second: float, segment_seconds: float = 0.0
    ) -> list[NDArray[np.uint8]]:
        """Return the frames of a clip from a random place, or the last ones, cropped.

        ``first`` chooses the segment (the whole video if ``segment_seconds`` is 0) and ``second`` the place
        in it, both as fractions 0–1 of the length that the container states.
        """
        with open_video(path) as reader:
            n_spanned = ceil((self._n_frames - 1) * self._step(_fps(reader))) + 1
            total = _n_stated(reader) or 10 * n_spanned
            wanted = int(segment_seconds * _fps(reader)) if segment_seconds else total
            length = min(total, max(n_spanned, wanted))
            start = int(first * max(total - length, 0))
            start += int(second * (max(length - n_spanned, 0) + 1))
            frames: list[NDArray[np.uint8]] = []
            with contextlib.suppress(VideoError):  # for other errors, _last raises
                frames += islice(self._sampled(reader, sampler, start), self._n_frames)
        return frames if len(frames) == self._n_frames else self._last(path, sampler)

    def _last(self, path: Path, sampler: FrameSampler) -> list[NDArray[np.uint8]]:
        # The video is shorter than its container states, so its end is found by decoding all of it.
        with open_video(path) as reader:
            return self._padded(list(deque(self._sampled(reader, sampler), maxlen=self._n_frames)))

    def _padded(self, frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        # A video of fewer frames repeats its last one, as extraction does by default.
        return frames + [frames[-1]] * (self._n_frames - len(frames))


def _n_stated(reader: PyAVReader | FrameFolder) -> int | None:
    """Return the number of frames that the container states, or None."""
    if isinstance(reader, FrameFolder):
        return len(reader)
    seconds = reader.info.duration_seconds
    return int(seconds * _fps(reader)) if np.isfinite(seconds) else None


def _fps(reader: PyAVReader | FrameFolder) -> float:
    return reader.info.fps if 0 < reader.info.fps < inf else 25.0


def _cropped(
    frames: Iterator[Frame], sampler: FrameSampler
) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    for frame in frames:
        cropped = sampler(frame.bgr), frame.pts_seconds
        del frame  # so that the reader can use its memory again
        yield cropped


def _since(reader: PyAVReader | FrameFolder, start: int) -> Iterator[Frame]:
    if start == 0:
        return reader.frames()
    if isinstance(reader, FrameFolder):
        return reader.frames(first=start)
    # Half a frame early, so that rounding cannot skip the first frame.
    return reader.frames(start_seconds=(start - 0.5) / _fps(reader))


class TrainingBatch(NamedTuple):
    """The network's input: clips uint8 (N, T, H, W, 3), targets float32 (N, classes), failures."""

    clips: torch.Tensor
    targets: torch.Tensor
    failures: list[str]


@dataclass
class ArrayBatch:
    """A batch sent by a worker: arrays go through a pipe, tensors would go through /dev/shm.

    In containers /dev/shm often has 64 MB, and a worker that writes more than that is killed.
    """

    clips: NDArray[np.uint8]
    targets: NDArray[np.float32]
    failures: list[str]

    def tensors(self) -> TrainingBatch:
        """Return the batch as tensors that share its memory."""
        return TrainingBatch(torch.from_numpy(self.clips), torch.from_numpy(self.targets), self.failures)

    def pin_memory(self) -> TrainingBatch:
        """Return the batch in page-locked memory; called by the loader if there is a GPU."""
        clips, targets, failures = self.tensors()
        return TrainingBatch(clips.pin_memory(), targets.pin_memory(), failures)


class TrainingClips(Dataset[Any]):
    """Position p of a run → its clip: item p % n of epoch p // n, each epoch in its own order."""

    def __init__(self, clips: ClipSet, seed: int) -> None:
        self.clips = clips
        self._seed = seed
        self._order: tuple[int, NDArray[np.intp]] | None = None

    def __getitem__(self, position: int) -> LabelledClip | str:
        """Return the clip, or the error as text."""
        item = position if self.clips.n_items is None else self._item(position, self.clips.n_items)
        try:
            return self.clips.clip(item, np.random.default_rng((self._seed, position, 1)))
        except VideoError as error:
            return str(error)

    def _item(self, position: int, n_items: int) -> int:
        epoch, place = divmod(position, n_items)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch, 0)).permutation(n_items)
        return int(self._order[1][place])


class TestVideos(Dataset[Any]):
    """Video n of a test set → its clips, or the error as text."""

    __test__ = False  # or pytest would collect it

    def __init__(self, clips: ClipSet) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return self.clips.n_items or 0

    def __getitem__(self, item: int) -> list[LabelledClip] | str:
        """Return the clips, or the error as text."""
        try:
            return self.clips.test_clips(item)
        except VideoError as error:
            return str(error)


def training_batches(
    clips: ClipSet, positions: Iterable[list[int]], *, seed: int, n_workers: int, pinned: bool
) -> Iterator[TrainingBatch]:
    """Yield the batch of each list of positions, made by ``n_workers`` processes or, for 0, in this one.

    ``pinned`` copies them to page-locked memory.
    """
    loader = DataLoader(
        TrainingClips(clips, seed),
        batch_sampler=positions,
        num_workers=n_workers,
        collate_fn=partial(_collate_arrays, n_classes=len(clips.labels)),
        pin_memory=pinned,
        worker_init_fn=start_worker,
    )
    for batch in loader:
        yield batch if isinstance(batch, TrainingBatch) else batch.tensors()


def collate(found: Sequence[LabelledClip | str], n_classes: int) -> TrainingBatch:
    """Return a batch; a clip that could not be read, given as the error's text, has no row.

    The target of a clip with several correct classes has equal parts for each.
    """
    return _collate_arrays(found, n_classes).tensors()


def _collate_arrays(found: Sequence[LabelledClip | str], n_classes: int) -> ArrayBatch:
    failures = [clip for clip in found if isinstance(clip, str)]
    clips = [clip for clip in found if not isinstance(clip, str)]
    targets = np.zeros((len(clips), n_classes), np.float32)
    for row, (_, labels) in zip(targets, clips, strict=True):
        row[list(labels)] = 1 / len(labels)
    pixels = np.stack([frames for frames, _ in clips]) if clips else np.zeros((0, 1, 1, 1, 3), np.uint8)
    return ArrayBatch(pixels, targets, failures)


def start_worker(worker: int) -> None:
    """Bind a worker to the training process: ignore Ctrl-C, and exit when that process exits.

    Otherwise a worker that is sending a batch when the training process is killed would wait forever.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(os.getppid())
