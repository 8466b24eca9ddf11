"""Starting a decoder process: a new interpreter that runs `c3d_extract.decode.worker.main`.

``multiprocessing.Process`` is not used, with any start method. It cannot start a process from a daemonic
process (a worker of a Pool or a DataLoader), it passes on the host program's start method (joblib's ``loky``
is known only in joblib's own processes), it imports the host's main script, and it shares the fork server
with the host, including its preloaded modules; after a fork that server is another process's child. Plain
fork is not possible: a decoder must not inherit torch, its locks and a GPU. So under every host a decoder is
started by `subprocess`, and receives only the import path of this process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

__all__ = ["DecoderProcess", "end_with_parent", "how_it_ended", "may_start_processes"]

_START_COMMAND = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from c3d_extract.decode.worker import main; main(*map(int, sys.argv[1:4]))"
)
# NumPy's BLAS would start one thread per core in every decoder, and decoders do no matrix products.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PARENT_CHECK_SECONDS = 0.5  # how often a decoder checks that its parent is running


def may_start_processes() -> bool:
    """Return whether decoders run in separate processes where the number of workers is not given.

    False in a daemonic process of multiprocessing: Python allows it no children, it does not stop them when
    it ends, and it already shares the cores with its siblings. False also where a process cannot inherit file
    descriptors (Windows).
    """
    return os.name == "posix" and not multiprocessing.current_process().daemon


class DecoderProcess:
    """A started decoder process.

    Parameters
    ----------
    connection
        The decoder's end of a pipe; closed in this process after the start.
    memory
        The descriptor of a file that both processes map.

    Raises
    ------
    OSError
        Where no process can be started.
    """

    def __init__(self, connection: Connection, memory: int) -> None:
        inherited = (connection.fileno(), memory)
        # Where Python is embedded in another program, the host sets multiprocessing's executable.
        python = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        # -P: import no module from the current folder. utf8: decode file names as in this process.
        command = [python, "-P", f"-Xutf8={sys.flags.utf8_mode}", "-c", _START_COMMAND]
        numbers = map(str, (os.getpid(), *inherited))
        try:
            with _ignoring_ctrl_c():
                self._process = subprocess.Popen(
                    [*command, *numbers, *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=inherited,
                    env=os.environ | _ONE_THREAD,
                )
        finally:
            connection.close()
        self.pid = self._process.pid

    @property
    def exitcode(self) -> int | None:
        """The exit code, -N after the signal N, None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def join(self, timeout: float) -> None:
        """Wait until it has ended, at most ``timeout`` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Block Ctrl-C while a process is started; it inherits the mask, so Python's startup is covered too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """Start a thread that exits this process when its parent has ended, even if a decoder call hangs."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def how_it_ended(exit_code: int | None) -> str:
    """Return how a process ended, from its exit code: -N after the signal N."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    return name + (" (out of memory, or killed by hand)" if name == "SIGKILL" else "")
