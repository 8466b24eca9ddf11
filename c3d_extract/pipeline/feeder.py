"""From decoded frames to batches: a thread cuts frames into clips, and fills batches that span videos."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.decode import FramesDecoded, SlotsExhausted, VideoFailed, VideoRead
from c3d_extract.preprocess.clips import FrameBlock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from c3d_extract.decode import DecodeEvent, Decoder, NextVideo
    from c3d_extract.preprocess.clips import Clip, ClipAssembler

__all__ = ["QUEUED_BATCHES", "Batch", "BatchClip", "Feeder", "VideoEnd"]

QUEUED_BATCHES = 2
"""Batches that are ready, at most; another is being filled."""
_QUEUED_ITEMS = 1024  # ends of videos that failed or whose last clips were in earlier batches are small
_PUT_SECONDS = 0.2  # how often a feeder that waits for a place in the queue looks whether it was stopped


class BatchClip(NamedTuple):
    """A clip in a batch, and the number of its video."""

    task: int
    clip: Clip


class VideoEnd(NamedTuple):
    """The end of a video; it comes with, or after, the batch with the video's last clip."""

    event: VideoRead | VideoFailed
    n_frames: int


@dataclass
class Batch:
    """Clips that run together, and the ends of videos whose last clips are among them.

    The clips use the decoders' memory until the batch is released.
    """

    clips: list[BatchClip] = field(default_factory=list)
    ends: list[VideoEnd] = field(default_factory=list)
    is_released: bool = False

    def release(self) -> None:
        """Let go of the clips' frames, once."""
        if not self.is_released:
            self.is_released = True
            for _, clip in self.clips:
                clip.release()


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
    batch_size
        Returns a buffer for a batch, uint8 (N, T, H, W, 3).
    """

    def __init__(
        self,
        decoder: Decoder,
        videos: Iterable[NextVideo],
        *,
        release: Callable[[int], None],
        new_assembler: Callable[[], ClipAssembler],
        batch_size: Callable[[], int],
    ) -> None:
        super().__init__(name="c3d-feeder", daemon=True)
        self._queue: queue.Queue[_Queued] = queue.Queue(maxsize=_QUEUED_ITEMS)
        self._places = threading.Semaphore(QUEUED_BATCHES)
        self.handover_seconds = 0.0
        self._decoder = decoder
        self._videos = videos
        self._release = release
        self._new_assembler = new_assembler
        self._batch_size = batch_size
        self._stopped = threading.Event()
        self._stop_reason: BaseException | None = None
        self._assemblers: dict[int, ClipAssembler] = {}
        self._blocked_seconds = 0.0
        self._batch = Batch()
        self._in_batch: set[int] = set()  # tasks

    def stop(self, reason: BaseException | None = None) -> None:
        """End the thread; ``reason`` is raised in the thread that calls `next`."""
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
                self._queue.put_nowait(self._stop_reason)

    def _empty_queue(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def next(self, timeout: float | None) -> _Queued:
        """Take the next item; `queue.Empty` where there is none for this many seconds."""
        item = self._queue.get(timeout=timeout)
        if isinstance(item, Batch):
            self._places.release()
        return item

    def is_empty(self) -> bool:
        """Return whether nothing is ready."""
        return self._queue.empty()

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

    def _take(self, event: DecodeEvent) -> None:
        if isinstance(event, FramesDecoded):
            block = FrameBlock(event.frames, event.lease.hold())
            for clip in self._assembler(event.task).push(block, event.times_seconds):
                self._add(event.task, clip)
        elif isinstance(event, SlotsExhausted):
            # This batch's clips hold what the decoders wait for; others that run will let go of theirs.
            if self._queue.empty():
                self._put_batch()
        else:
            self._end(event)

    def _end(self, event: VideoRead | VideoFailed) -> None:
        self._release(event.task)
        assembler = self._assemblers.pop(event.task, None)
        n_frames = 0
        if assembler is not None and isinstance(event, VideoRead):
            for clip in assembler.finish():
                self._add(event.task, clip)
            n_frames = assembler.n_frames
        elif assembler is not None:
            assembler.close()
        end = VideoEnd(event, n_frames)
        if event.task in self._in_batch:
            self._batch.ends.append(end)
        else:
            self._put(end)

    def _assembler(self, task: int) -> ClipAssembler:
        found = self._assemblers.get(task)
        if found is None:
            found = self._assemblers[task] = self._new_assembler()
        return found

    def _add(self, task: int, clip: Clip) -> None:
        self._batch.clips.append(BatchClip(task, clip))
        self._in_batch.add(task)
        if len(self._batch.clips) >= self._batch_size():
            self._put_batch()

    def _put_batch(self) -> None:
        if self._batch.clips:
            self._wait(lambda: self._places.acquire(timeout=_PUT_SECONDS))
            self._put(self._batch)
            self._batch = Batch()
            self._in_batch.clear()

    def _put(self, item: _Queued) -> None:
        def is_put() -> bool:
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_PUT_SECONDS)
                return True
            return False

        self._wait(is_put)

    def _wait(self, is_done: Callable[[], bool]) -> None:
        started = time.monotonic()
        while not self._stopped.is_set() and not is_done():
            pass
        self._blocked_seconds += time.monotonic() - started
