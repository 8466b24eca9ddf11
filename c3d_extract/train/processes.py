"""Several processes that train one network: they join, exit together if one fails, and leave together."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from torch import distributed
from torch.distributed.rendezvous import rendezvous

from c3d_extract.errors import C3DError

if TYPE_CHECKING:
    from types import TracebackType

    import torch

__all__ = ["Processes"]

_FAILED = "failed"  # the key under which a failing process stores its error
_POLL_SECONDS = 0.5
_JOIN_TIMEOUT = timedelta(minutes=10)
# The others wait for the first process while it tests, which can exceed NCCL's default of ten minutes.
_STEP_TIMEOUT = timedelta(days=1)


class Processes:
    """A context for the processes of one run, started by torchrun or with its environment variables.

    A process that fails stores its error, and the others, which would wait for its gradient forever, exit
    within seconds. With a single process, nothing happens.

    Parameters
    ----------
    device
        The device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._store: Any = None  # torch exports no type of its stores
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return self
        store, rank, world = next(rendezvous("env://", timeout=_JOIN_TIMEOUT))
        self._store, self._rank = _reconnected(store), rank
        threading.Thread(target=self._watch, args=(_reconnected(store),), daemon=True).start()
        gpu = self._device.type == "cuda"
        distributed.init_process_group(
            "nccl" if gpu else "gloo", store=store, rank=rank, world_size=world, timeout=_STEP_TIMEOUT,
            device_id=self._device if gpu else None,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        if error is None or isinstance(error, SystemExit):  # all processes exit at the same point
            self._leave()
        else:
            self._fail(self._store, error)

    def _leave(self) -> None:
        """Wait for all processes and leave the group.

        The first still tests and writes when the others are done. If one exited then, the interpreter could
        shut down while gloo's threads use its tensors, and abort (pytorch#179291).
        """
        self._over.set()
        distributed.barrier()
        distributed.destroy_process_group()

    def _fail(self, store: Any, error: BaseException) -> None:
        self._over.set()
        with contextlib.suppress(RuntimeError):  # the store ends with the first process
            if not store.check([_FAILED]):
                store.set(_FAILED, f"process {self._rank}: {error or type(error).__name__}")
                time.sleep(3 * _POLL_SECONDS)  # if this process hosts the store, let the others read it
                return
        if "Connection closed by peer" in str(error) or isinstance(error, distributed.DistError):
            raise C3DError(_why(store), hint="the last state is kept") from error

    def _watch(self, store: Any) -> None:
        while not self._over.wait(_POLL_SECONDS):
            try:
                failed = store.check([_FAILED])
            except RuntimeError:
                failed = True
            if failed and not self._over.is_set():
                # The main thread may be blocked in a library, waiting for a gradient.
                sys.stderr.write(f"Error: {_why(store)}; the last state is kept\n")
                sys.stderr.flush()
                os._exit(1)


def _reconnected(store: Any) -> Any:
    """Return the same store with a separate connection, so that threads do not block each other."""
    if hasattr(store, "clone"):
        return store.clone()
    return distributed.TCPStore(store.host, store.port, is_master=False)  # type: ignore[attr-defined]  # torch 2.6


def _why(store: Any) -> str:
    try:
        return f"another process failed ({store.get(_FAILED).decode(errors='replace')})"
    except RuntimeError:
        return "the first process is gone"
