"""The memory that decoders share with the main process: slots for frames, and a heartbeat of each decoder.

Unlike `multiprocessing.shared_memory` it does not use ``/dev/shm``. In containers that often has 64 MB, and a
process that writes beyond the available space is killed by SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from c3d_extract.errors import DecoderError

if TYPE_CHECKING:
    from c3d_extract.decode.base import DecodeOptions

__all__ = ["Layout", "SlotMemory", "anonymous_file"]


class Layout(NamedTuple):
    """Sizes of the memory.

    Attributes
    ----------
    n_slots
        Pieces of memory for consecutive frames of one video.
    n_heartbeats
        Decoders, at most.
    slot_shape
        Frames, rows, columns, channels.
    """

    n_slots: int
    n_heartbeats: int
    slot_shape: tuple[int, ...]

    @classmethod
    def of(cls, options: DecodeOptions, n_slots: int, n_heartbeats: int) -> Layout:
        """Return the layout for frames of ``options``."""
        return cls(n_slots, n_heartbeats, (options.n_frames, *options.transform.shape))

    @property
    def n_header_bytes(self) -> int:
        """Bytes before the slots: whole pages, so that a GPU's driver can lock those of the slots alone."""
        return -(-8 * self.n_heartbeats // mmap.PAGESIZE) * mmap.PAGESIZE

    @property
    def n_bytes(self) -> int:
        """The required size of the file."""
        return self.n_header_bytes + self.n_slots * prod(self.slot_shape)


class SlotMemory:
    """The memory, as one of the processes maps it.

    Parameters
    ----------
    descriptor
        A file of ``layout.n_bytes``; it may be closed afterwards.
    layout
        The same in every process.

    Attributes
    ----------
    heartbeats
        float64 (n_heartbeats): when each decoder decoded a frame last, in seconds of `time.monotonic`, which
        is the same clock in every process.
    slots
        uint8 (n_slots, *slot_shape).
    """

    def __init__(self, descriptor: int, layout: Layout) -> None:
        # Both views keep the mapping alive; it is unmapped when both are garbage-collected.
        memory = mmap.mmap(descriptor, layout.n_bytes)
        # Written by a decoder and read by the main process without a lock: it is one aligned store.
        self.heartbeats = np.frombuffer(memory, np.float64, layout.n_heartbeats)
        count = layout.n_slots * prod(layout.slot_shape)
        slots = np.frombuffer(memory, np.uint8, count, layout.n_header_bytes)
        self.slots = slots.reshape(layout.n_slots, *layout.slot_shape)


def anonymous_file(n_bytes: int) -> int:
    """Return the descriptor of a new file without a name, in memory where the kernel allows it.

    Raises
    ------
    DecoderError
        Where there is neither memory nor a folder for temporary files.
    """
    try:
        descriptor = os.memfd_create("c3d-decoder")
    except (AttributeError, OSError) as error:  # not Linux, an old kernel (ENOSYS), a sandbox (EPERM)
        return _temporary_file(n_bytes, error)
    os.ftruncate(descriptor, n_bytes)
    return descriptor


def _temporary_file(n_bytes: int, memfd_error: Exception) -> int:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(n_bytes))  # not sparse: a full disk must fail here, not later by SIGBUS
            file.flush()
            return os.dup(file.fileno())
    except OSError as error:
        raise DecoderError(
            f"no memory to share with a decoder: {memfd_error} (memfd_create), "
            f"and {error} (a temporary file of {n_bytes} bytes)",
            hint="set TMPDIR to a folder that can be written to",
        ) from error
