"""A decoder process: a fresh interpreter that runs `c3d_extract.decode.pool.main`.

Not ``multiprocessing.Process``, whatever its start method. That refuses to start anything in a daemonic
process (a Pool's, a DataLoader's worker), hands on the host program's start method, which only joblib's own
processes know where it is ``loky``, imports the host's main script, and shares its fork server with the host,
preloaded modules and all; after a fork that server is another process's child. Plain fork is out: a decoder
must not inherit torch, its locks and a GPU. So every decoder begins the same way under every host: with what
`subprocess` starts, on the import path of this process, and with nothing else of it.
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

_BEGIN = (
    "import sys; sys.path[:] = sys.argv[5:]; "
    "from c3d_extract.decode.pool import main; main(*map(int, sys.argv[1:5]))"
)
# NumPy's matrix products would start a thread a core in every decoder, which multiplies no matrices.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LOOK_SECONDS = 0.5  # how often a decoder looks whether its parent is there


def may_start_processes() -> bool:
    """Say whether decoders get processes of their own where nobody said how many.

    Not in a daemonic process of multiprocessing: it may have no children by Python's rules, ends without
    a word to them, and is one of many that share the cores already. Nor where a process cannot be given open
    files (Windows).
    """
    return os.name == "posix" and not multiprocessing.current_process().daemon


class DecoderProcess:
    """A started decoder process.

    Parameters
    ----------
    connection
        The decoder's end of a pipe; closed here, as it is the decoder's now.
    memory, n_bytes
        A file descriptor that both map, and its size.

    Raises
    ------
    OSError
        Where no process can be started.
    """

    def __init__(self, connection: Connection, memory: int, n_bytes: int) -> None:
        given = (connection.fileno(), memory)
        # The interpreter that the host told multiprocessing of, where it is embedded in another program.
        python = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        # -P: a folder that is the current one by chance holds no module of ours. utf8: one coding of names.
        command = [python, "-P", f"-Xutf8={sys.flags.utf8_mode}", "-c", _BEGIN]
        numbers = map(str, (os.getpid(), *given, n_bytes))
        try:
            with _without_ctrl_c():
                self._process = subprocess.Popen(
                    [*command, *numbers, *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=given,
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
def _without_ctrl_c() -> Iterator[None]:
    """Start a process that never hears Ctrl-C, not even while Python starts: the mask is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int) -> None:
    """Exit when the parent process is gone, even in the midst of a decoder call that never returns."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
