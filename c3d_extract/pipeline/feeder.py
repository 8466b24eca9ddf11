"""From decoded frames to batches: a thread cuts frames into clips, and fills batches that span videos."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.decode import FramesDecoded, VideoFailed, VideoRead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.decode import Decoder, NextVideo
    from c3d_extract.preprocess.clips import Clip, ClipAssembler, ClipSpan

__all__ = ["Batch", "ClipOwner", "Feeder", "VideoEnd"]

_QUEUED_BATCHES = 2  # one running, one ready, one being filled
_PUT_SECONDS = 0.2  # how often a feeder that waits for a place in the queue looks whether it was stopped


class ClipOwner(NamedTuple):
    """The video and the frames of the clip at one place of a batch."""

    task: int
    span: ClipSpan
    start_seconds: float
    end_seconds: float


@dataclass
class Batch:
    """Clips uint8 (N, T, H, W, 3), of which the first ``len(owners)`` are in use."""

    clips: NDArray[np.uint8]
    owners: list[ClipOwner] = field(default_factory=list)


class VideoEnd(NamedTuple):
    """The end of a video; it comes after the batch with the video's last clip."""

    event: VideoRead | VideoFailed
    n_frames: int


_Queued = Batch | VideoEnd | BaseException | None  # None: all videos are done


class Feeder(threading.Thread):
    """Runs a decoder; puts batches and ends of videos on a bounded queue.

    Parameters
    ----------
    decoder
        Used by this thread alone until it has ended.
    videos
        What the decoder is given: task numbers and paths, in the order in which they are decoded.
    release
        Called with the task of each video that has been decoded.
    new_assembler
        Makes what cuts the frames of one video into clips.
    new_buffer
        Makes a buffer for a batch, uint8 (N, T, H, W, 3).
    """

    def __init__(
        self,
        decoder: Decoder,
        videos: Iterable[NextVideo],
        *,
        release: Callable[[int], None],
        new_assembler: Callable[[], ClipAssembler],
        new_buffer: Callable[[], NDArray[np.uint8]],
    ) -> None:
        super().__init__(name="c3d-feeder", daemon=True)
        self.queue: queue.Queue[_Queued] = queue.Queue(maxsize=_QUEUED_BATCHES)
        self.handover_seconds = 0.0
        self._decoder = decoder
        self._videos = videos
        self._release = release
        self._new_assembler = new_assembler
        self._new_buffer = new_buffer
        self._stopped = threading.Event()
        self._stop_reason: BaseException | None = None
        self._assemblers: dict[int, ClipAssembler] = {}
        self._blocked_seconds = 0.0
        self._batch = Batch(new_buffer())
        self._ends: list[VideoEnd] = []  # of videos with clips in the batch that is being filled

    def stop(self, reason: BaseException | None = None) -> None:
        """End the thread; ``reason`` is raised in the thread that continues to read the queue."""
        # The reason is set before anything is taken off the queue: a reader that finds a batch missing asks
        # `check` and learns why.
        self._stop_reason = self._stop_reason or reason
        self._stopped.set()
        self._empty_queue()
        if self.ident is not None:  # it was started
            self.join()
        self._empty_queue()  # what was being put while the queue was emptied
        if self._stop_reason is not None:
            with contextlib.suppress(queue.Full):  # another thread has put its own reason
                self.queue.put_nowait(self._stop_reason)

    def _empty_queue(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.queue.get_nowait()

    def check(self) -> None:
        """Raise the reason for which another thread stopped this one: batches may be missing since then."""
        if self._stop_reason is not None:
            raise self._stop_reason

    def run(self) -> None:
        """Feed, in a thread of its own."""
        try:
            with contextlib.closing(self._decoder.run(self._videos, self._stopped)) as events:
                for event in events:
                    if self._stopped.is_set():
                        return
                    started, blocked = time.monotonic(), self._blocked_seconds
                    self._take(event)
                    waited = self._blocked_seconds - blocked
                    self.handover_seconds += time.monotonic() - started - waited
            self._put_batch()
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that reads the queue
            self._put(error)

    def _take(self, event: FramesDecoded | VideoRead | VideoFailed) -> None:
        if isinstance(event, FramesDecoded):
            for clip in self._assembler(event.task).push(event.frames, event.times_seconds):
                self._add(event.task, clip)
            return
        self._release(event.task)
        assembler = self._assemblers.pop(event.task, None)
        n_frames = 0
        if assembler is not None and isinstance(event, VideoRead):
            for clip in assembler.finish():
                self._add(event.task, clip)
            n_frames = assembler.n_frames
        end = VideoEnd(event, n_frames)
        if any(owner.task == event.task for owner in self._batch.owners):
            self._ends.append(end)
        else:
            self._put(end)

    def _assembler(self, task: int) -> ClipAssembler:
        found = self._assemblers.get(task)
        if found is None:
            found = self._assemblers[task] = self._new_assembler()
        return found

    def _add(self, task: int, clip: Clip) -> None:
        self._batch.clips[len(self._batch.owners)] = clip.frames
        self._batch.owners.append(ClipOwner(task, clip.span, clip.start_seconds, clip.end_seconds))
        if len(self._batch.owners) == len(self._batch.clips):
            self._put_batch()

    def _put_batch(self) -> None:
        if self._batch.owners:
            self._put(self._batch)
            self._batch = Batch(self._new_buffer())
        for end in self._ends:
            self._put(end)
        self._ends = []

    def _put(self, item: _Queued) -> None:
        started = time.monotonic()
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put(item, timeout=_PUT_SECONDS)
                break
        self._blocked_seconds += time.monotonic() - started
