"""The memory that a decoder process shares with the main process: a ring of slots, and a heartbeat.

Unlike `multiprocessing.shared_memory` it does not use ``/dev/shm``. In containers that often has 64 MB, and a
process that writes beyond the available space is killed by SIGBUS.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from c3d_extract.errors import DecoderError

if TYPE_CHECKING:
    from c3d_extract.decode.base import DecodeOptions

__all__ = ["SlotMemory", "anonymous_file"]

_N_SLOTS = 4  # one being written, one being read, two queued; 2.4 MB for 16 frames of 112x112


class SlotMemory:
    """A decoder's memory, as one of the two processes maps it.

    Parameters
    ----------
    descriptor
        A file of `n_bytes`; it may be closed afterwards.
    options
        Determine the size of a slot.

    Attributes
    ----------
    last_frame
        When a frame was decoded last, in seconds of `time.monotonic`, which is the same clock in every
        process.
    slots
        uint8 (slots, frames, *shape of a frame).
    """

    def __init__(self, descriptor: int, options: DecodeOptions) -> None:
        # Both views keep the mapping alive; it is unmapped when both are garbage-collected.
        memory = mmap.mmap(descriptor, self.n_bytes(options))
        shape = self._shape(options)
        # Written by the decoder and read by the main process without a lock: it is one aligned store.
        self.last_frame = ctypes.c_double.from_buffer(memory)
        slots = np.frombuffer(memory, np.uint8, prod(shape), ctypes.sizeof(ctypes.c_double))
        self.slots = slots.reshape(shape)

    @staticmethod
    def _shape(options: DecodeOptions) -> tuple[int, ...]:
        return _N_SLOTS, options.n_frames, *options.transform.shape

    @classmethod
    def n_bytes(cls, options: DecodeOptions) -> int:
        """Return the required size of the file."""
        return ctypes.sizeof(ctypes.c_double) + prod(cls._shape(options))


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
