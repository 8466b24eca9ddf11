"""A process of its own for a part that may end its process: a new interpreter and a pipe to it.

It is started as decoders are, by `subprocess` (see `c3d_extract.decode.process`), and for the same reasons:
it works in every host, under Ray too, and neither imports the host's main script nor inherits its GPU.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from typing import Any, Self

from c3d_extract.decode.process import how_it_ended

__all__ = ["Child", "ChildEndedError"]

_START_COMMAND = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from c3d_extract.distributed.by_video import main; main(*map(int, sys.argv[1:3]))"
)


class ChildEndedError(Exception):
    """A child ended, or was silent for too long; the text says how."""


class Child:
    """A started process that runs `c3d_extract.distributed.by_video.main`; a context manager that kills it.

    Parameters
    ----------
    request
        The first message to it; picklable.
    deadline_seconds
        It may be silent for so long.
    """

    def __init__(self, request: object, *, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._connection, theirs = multiprocessing.Pipe()
        python = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        options = ["-P", f"-Xutf8={sys.flags.utf8_mode}", "-c", _START_COMMAND]
        numbers = (str(os.getpid()), str(theirs.fileno()))
        try:
            self._process = subprocess.Popen(
                [python, *options, *numbers, *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # data of the command line is written there
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for this process, which then kills the whole group
            )
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # it has already ended; the next receive reports that
            self._connection.send(request)

    def receive(self) -> Any:
        """Return the next message; ChildEndedError where none comes."""
        if not self._connection.poll(self._deadline_seconds):
            raise ChildEndedError(f"made no progress for {self._deadline_seconds:g} s")
        try:
            return self._connection.recv()
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            raise ChildEndedError(f"ended its process: {how_it_ended(self._process.poll())}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its decoders, too
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # limited: a process blocked on a dead disk ignores even SIGKILL
        self._connection.close()
