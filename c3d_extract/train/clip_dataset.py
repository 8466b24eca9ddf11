"""Clips of videos as a dataset of torch, by the tool's decoder and preprocessing, for any training loop."""

from __future__ import annotations

import logging
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from c3d_extract.compute.forward import ClipInput
from c3d_extract.decode import DecodeOptions, FramesDecoded, InProcessDecoder, VideoFailed
from c3d_extract.errors import UsageError, VideoError, printable
from c3d_extract.preprocess.clips import ClipAssembler, FrameBlock
from c3d_extract.preprocess.resize import FrameSampler
from c3d_extract.settings import ExtractSettings
from c3d_extract.sources.find import find_videos

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from c3d_extract.decode import DecodeEvent
    from c3d_extract.preprocess.clips import Clip
    from c3d_extract.sources.source import Source
    from c3d_extract.weights import Checkpoint

__all__ = ["ClipDataset", "ClipItem"]

_log = logging.getLogger(__name__)
_BUFFERED_CLIPS = 64  # 39 MB of C3D's clips in each worker


class ClipItem(NamedTuple):
    """One clip; a `torch.utils.data.DataLoader` makes one of the same fields for a batch.

    Attributes
    ----------
    clip
        float32 (3, T, H, W): what the checkpoint's network takes, the mean subtracted.
    label
        The number of its class.
    video
        The name of its video.
    start_frame
        The first of its frames.
    """

    clip: Tensor
    label: int
    video: str
    start_frame: int


class _RawClip(NamedTuple):
    frames: NDArray[np.uint8]
    source: Source
    start_frame: int


class ClipDataset(IterableDataset[ClipItem]):
    """Every clip of some videos, in a network's own input, one video after the other or shuffled.

    The workers of a `torch.utils.data.DataLoader` and the processes of `torch.distributed` share the videos.
    They may have unlike numbers of clips: where all must take as many steps, end an epoch by a number of
    steps.

    Parameters
    ----------
    videos
        Files, folders and globs, as `Extractor.extract_files` takes them.
    checkpoint
        Gives the clip's size, the preprocessing and the mean.
    labels
        The name of each video → the number of its class; by default the place of its folder in ``classes``.
    settings
        ``stride``, ``tail``, ``short``, ``fps`` and ``max_pixels`` are used.
    shuffle
        Take the videos in another order in each epoch, and mix the clips of several; see `set_epoch`.
    seed
        Decides the orders.
    buffer_size
        How many clips each worker mixes, as uint8.
    on_error
        ``skip`` logs a warning for a video that cannot be read, and goes on; ``fail`` raises it.

    Attributes
    ----------
    videos
        What was found, sorted by name.
    classes
        Names of the folders, sorted.

    Raises
    ------
    UsageError
        Where there are no videos, one has no label, or one is not a local file; and for several crops.
    """

    def __init__(
        self,
        videos: Iterable[str | os.PathLike[str]],
        checkpoint: Checkpoint,
        *,
        labels: Mapping[str, int] | None = None,
        settings: ExtractSettings | None = None,
        shuffle: bool = False,
        seed: int = 0,
        buffer_size: int = _BUFFERED_CLIPS,
        on_error: Literal["skip", "fail"] = "skip",
    ) -> None:
        found = find_videos(videos)
        found.check_any()
        self.videos = found.videos
        folders = {video.name: PurePosixPath(video.name).parent.name for video in self.videos}
        self.classes = sorted(set(folders.values()))
        own = {name: self.classes.index(folder) for name, folder in folders.items()}
        self._labels = own if labels is None else dict(labels)
        self._check()
        backbone = checkpoint.backbone
        self._settings = (settings or ExtractSettings()).for_backbone(backbone)
        if self._settings.n_crops > 1:
            raise UsageError("the centre crop alone is given", subject=f"crops={self._settings.crops}")
        self._length = backbone.clip[0]
        self._preprocessing = checkpoint.preprocessing
        self._mean = checkpoint.mean
        self._shuffle, self._seed = shuffle, seed
        # Shared with the workers of a DataLoader, which may outlive an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._buffer_size, self._on_error = buffer_size, on_error

    def _check(self) -> None:
        for video in self.videos:
            if video.name not in self._labels:
                raise UsageError("has no label", subject=video.name)
            if video.needs_staging:
                raise UsageError("is not a local file", subject=video.location, hint="fetch it first")

    def __repr__(self) -> str:
        return f"<ClipDataset of {len(self.videos)} videos, {len(self.classes)} folders>"

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: it decides the order, with ``seed``. Call it before each epoch."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[ClipItem]:
        normalise = ClipInput(self._mean[None], self._preprocessing.std, torch.device("cpu"))
        rng = np.random.default_rng((self._seed, int(self._epoch)))
        order = rng.permutation(len(self.videos)) if self._shuffle else np.arange(len(self.videos))
        number, n_readers = _reader()
        clips = (clip for i in order[number::n_readers] for clip in self._clips(self.videos[i]))
        for raw in _mixed(clips, self._buffer_size, rng) if self._shuffle else clips:
            x = normalise(torch.from_numpy(raw.frames)[None])[0]
            if self._preprocessing.colour == "rgb":
                x = x.flip(3)
            clip = x.permute(3, 0, 1, 2).contiguous()
            yield ClipItem(clip, self._labels[raw.source.name], raw.source.name, raw.start_frame)

    def _clips(self, source: Source) -> Iterator[_RawClip]:
        settings = self._settings
        sampler = FrameSampler(self._preprocessing)
        options = DecodeOptions(sampler, self._length, settings.max_pixels, settings.fps, settings.frame_step)
        events = InProcessDecoder(options).run([(0, source.path)])
        assembler = ClipAssembler(self._length, settings.stride, settings.tail, settings.short)
        try:
            for event in events:
                for clip in self._clips_of(event, assembler, source):
                    frames = np.concatenate([piece.frames for piece in clip.pieces])
                    clip.release()
                    yield _RawClip(frames, source, clip.span.start)
        finally:
            events.close()
            assembler.close()

    def _clips_of(self, event: DecodeEvent, assembler: ClipAssembler, source: Source) -> Iterator[Clip]:
        if isinstance(event, FramesDecoded):
            yield from assembler.push(FrameBlock(event.frames, event.lease.hold()), event.times_seconds)
        elif isinstance(event, VideoFailed):
            if self._on_error == "fail":
                raise VideoError(event.reason, subject=source.location)
            _log.warning("failed: %s: %s", printable(source.name), event.reason)
        else:
            yield from assembler.finish()


def _reader() -> tuple[int, int]:
    """Return the number of this worker among all workers of all processes, and how many there are."""
    rank, n_ranks = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, n_ranks = distributed.get_rank(), distributed.get_world_size()
    worker = get_worker_info()
    return (
        (rank, n_ranks)
        if worker is None
        else (
            rank * worker.num_workers + worker.id,
            n_ranks * worker.num_workers,
        )
    )


def _mixed(clips: Iterator[_RawClip], size: int, rng: np.random.Generator) -> Iterator[_RawClip]:
    """Yield a clip from a random place of a buffer, and fill its place with the next."""
    buffer: list[_RawClip] = []
    for clip in clips:
        if len(buffer) < size:
            buffer.append(clip)
            continue
        place = int(rng.integers(size))
        yield buffer[place]
        buffer[place] = clip
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
