"""Threads that compute on one core each: torch divides none of their operations among cores.

Cores that share an operation wait for each other at its end. That takes long while decoders use the same
cores: waiting threads poll, and the one that they wait for does not get its core.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["OneCoreThreads", "RunningGroups", "one_thread"]

_thread_count_lock = threading.Lock()  # torch's number of threads is global


class OneCoreThreads:
    """A fixed number of threads; tasks begin in the order of their submission."""

    def __init__(self, n: int) -> None:
        self._pool = ThreadPoolExecutor(n, "c3d-network", initializer=torch.set_num_threads, initargs=(1,))
        with one_thread():
            self._start(n)

    def _start(self, n: int) -> None:
        """Start all threads while torch is set to one thread; they keep that setting.

        A thread's number of OpenMP threads is fixed when it starts.
        """
        # A thread that waits at the barrier cannot take a second task, so n tasks start n threads.
        barrier = Barrier(n + 1)
        for _ in range(n):
            self._pool.submit(barrier.wait)
        barrier.wait()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call a function in one of the threads."""
        return self._pool.submit(function, *args)


class RunningGroups:
    """A batch whose groups of clips are being computed; implements `RunningBatch`.

    Parameters
    ----------
    groups
        Each group's results.
    finish
        Makes the features, float32 (N, D) for each layer, of all groups' results.
    """

    def __init__(
        self,
        groups: Sequence[Future[dict[str, Tensor]]],
        finish: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]],
    ) -> None:
        self._groups = groups
        self._finish = finish

    def done(self) -> bool:
        """Return whether a call would return without waiting for other threads."""
        return all(group.done() for group in self._groups)

    def __call__(self) -> dict[str, Tensor]:
        """Wait for the features and return them."""
        return self._finish([group.result() for group in self._groups])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread, for the calling thread and those that start meanwhile."""
    with _thread_count_lock:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
