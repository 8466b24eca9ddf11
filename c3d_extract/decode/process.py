"""Starting a decoder process: a fresh interpreter that runs `c3d_extract.decode.worker.main`.

Not ``multiprocessing.Process``, whatever its start method. That refuses to start anything in a daemonic
process (a worker of a Pool or a DataLoader), passes on the host program's start method, which only joblib's
own processes know where it is ``loky``, imports the host's main script, and shares its fork server with the
host, preloaded modules included; after a fork that server is another process's child. Plain fork is not
possible: a decoder must not inherit torch, its locks and a GPU. So every decoder starts in the same way
under every host: by `subprocess`, with the import path of this process, and with nothing else of it.
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

__all__ = ["DecoderProcess", "end_with_parent", "may_start_processes"]

_START_COMMAND = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    "from c3d_extract.decode.worker import main; main(*map(int, sys.argv[1:4]))"
)
# NumPy's matrix library would start a thread for each core in every decoder, which multiplies no matrices.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PARENT_CHECK_SECONDS = 0.5  # how often a decoder checks that its parent is running


def may_start_processes() -> bool:
    """Say whether decoders get processes of their own where the number of workers is not given.

    Not in a daemonic process of multiprocessing: by Python's rules it may have no children, it does not stop
    them when it ends, and it is one of many that share the cores already. Nor where a process cannot inherit
    open files (Windows).
    """
    return os.name == "posix" and not multiprocessing.current_process().daemon


class DecoderProcess:
    """A started decoder process.

    Parameters
    ----------
    connection
        The decoder's end of a pipe; closed here, as only the decoder uses it from now on.
    memory
        The descriptor of a file that both processes map.

    Raises
    ------
    OSError
        Where no process can be started.
    """

    def __init__(self, connection: Connection, memory: int) -> None:
        inherited = (connection.fileno(), memory)
        # Where Python is embedded in another program, the host tells multiprocessing which interpreter to
        # run.
        python = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        # -P: no module may come from the current folder. utf8: file names are decoded as in this process.
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
        """Wait until it has ended, for so many seconds at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Start a process that never receives Ctrl-C, not even while Python starts: the mask is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """Exit when the parent process has ended, even during a decoder call that never returns."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
