"""The decoder process: decodes one video at a time into slots of shared memory.

Messages are pickled through a pipe. The main process sends `Setup`, once; then ``(task, path)`` for each
video, lists of slots that the decoder may fill, and ``STOP``. The decoder sends `Ready`, once; then lists of
`SlotsFilled`, VideoRead and VideoFailed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from c3d_extract.decode.base import FramesDecoded
from c3d_extract.decode.process import end_with_parent
from c3d_extract.decode.shared_memory import SlotMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from c3d_extract.decode.base import DecodeEvent, DecodeOptions
    from c3d_extract.decode.shared_memory import Layout

__all__ = ["STOP", "Ready", "Setup", "SlotsFilled", "main"]

STOP = "stop"
_SLOTS_PER_MESSAGE = 8  # each message wakes the main process up
_LONGEST_DELAY_SECONDS = 0.1  # of a filled slot, while the next ones are being filled


@dataclass(frozen=True)
class Setup:
    """What a decoder needs before its first video; ``number`` is the place of its heartbeat."""

    options: DecodeOptions
    layout: Layout
    number: int


@dataclass(frozen=True)
class Ready:
    """The process has started; ``why_unusable`` says why it cannot decode any video, or is None."""

    why_unusable: str | None


class SlotsFilled(NamedTuple):
    """Slots hold the next frames of a video, as many as there are times for each."""

    task: int
    slots: tuple[int, ...]
    times_seconds: tuple[list[float], ...]


def main(parent: int, connection: int, memory: int) -> None:
    """Decode videos until ``STOP`` is received; the entry point of a decoder process.

    Parameters
    ----------
    parent
        Process id of the main process.
    connection, memory
        File descriptors: one end of a pipe, and the file that both processes map.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    end_with_parent(parent)
    raise_oom_score()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the main process has ended
        _serve(Connection(connection), memory)


def raise_oom_score() -> None:
    """Make the kernel's OOM killer choose this process before the main process (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _serve(connection: Connection, memory: int) -> None:
    setup = connection.recv()
    slots = _SlotWriter(connection, SlotMemory(memory, setup.layout), setup.number)
    # Imported only now because it imports FFmpeg: where that fails, the reason is sent to the main process.
    from c3d_extract.decode.self_check import why_unusable

    connection.send(Ready(why_unusable()))
    while (message := connection.recv()) != STOP:
        if isinstance(message, list):
            slots.granted.extend(message)
        else:
            task, path = message
            _decode(task, path, setup.options, slots)


def _decode(task: int, path: Path, options: DecodeOptions, slots: _SlotWriter) -> None:
    from c3d_extract.decode.video import decode_video

    events = decode_video(task, path, options, next_buffer=slots.next, on_frame=slots.note_frame)
    for event in events:
        if isinstance(event, FramesDecoded):
            slots.add_filled(task, event.times_seconds)
        else:
            slots.send(task, event)


class _SlotWriter:
    """The writing end: fills the slots that it was granted, in their order."""

    def __init__(self, connection: Connection, memory: SlotMemory, number: int) -> None:
        self.connection = connection
        self.granted: deque[int] = deque()
        self._memory = memory
        self._number = number
        self._filled: list[tuple[int, list[float]]] = []
        self._first_filled = 0.0

    def note_frame(self) -> None:
        """Record the time of a decoded frame; the main process reads it periodically."""
        self._memory.heartbeats[self._number] = time.monotonic()

    def next(self) -> NDArray[np.uint8]:
        """Wait for a slot and return it; exit where the main process has ended."""
        try:
            self._wait_for_slot()
        except (EOFError, OSError):
            sys.exit()  # not an Exception, which would count as the failure of a video
        slot: NDArray[np.uint8] = self._memory.slots[self.granted[0]]
        return slot

    def _wait_for_slot(self) -> None:
        while not self.granted or self.connection.poll():
            self.granted.extend(self.connection.recv())  # nothing else is sent while a video is being decoded
        self.note_frame()  # the wait does not count as silence

    def add_filled(self, task: int, times_seconds: list[float]) -> None:
        """Note that the current slot is full; send it now, or with the next ones."""
        if not self._filled:
            self._first_filled = time.monotonic()
        self._filled.append((self.granted.popleft(), times_seconds))
        is_late = time.monotonic() - self._first_filled > _LONGEST_DELAY_SECONDS
        if is_late or not self.granted or len(self._filled) == _SLOTS_PER_MESSAGE:
            self.send(task)

    def send(self, task: int, end: DecodeEvent | None = None) -> None:
        """Send the filled slots, and the end of the video if it is given, as one message."""
        message: list[SlotsFilled | DecodeEvent] = [] if end is None else [end]
        if self._filled:
            slots, times = zip(*self._filled, strict=True)
            message.insert(0, SlotsFilled(task, slots, times))
            self._filled = []
        self.connection.send(message)
