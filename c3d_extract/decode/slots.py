"""Which slots of the shared memory are free: taken by one thread, given back by any."""

from __future__ import annotations

import multiprocessing
import threading
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

__all__ = ["Slots"]


class Slots:
    """The free slots of a pool of decoders.

    Parameters
    ----------
    n
        How many there are.

    Attributes
    ----------
    woken
        For `multiprocessing.connection.wait`: becomes readable when slots are given back after
        `wait_for_some`.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._free = list(range(n))
        self._generation = 0
        self._lock = threading.Lock()
        self._is_awaited = False
        self.woken: Connection
        self.woken, self._wake = multiprocessing.Pipe(duplex=False)

    def take(self, n: int) -> list[int]:
        """Return at most ``n`` free slots."""
        with self._lock:
            taken = self._free[-n:] if n > 0 else []
            del self._free[len(self._free) - len(taken) :]
            return taken

    def wait_for_some(self) -> bool:
        """Return whether none is free; then `woken` tells when there are some."""
        with self._lock:
            self._is_awaited = not self._free
            return self._is_awaited

    def clear_woken(self) -> None:
        """Make `woken` unreadable again."""
        while self.woken.poll():
            self.woken.recv_bytes()

    def give_back(self, slots: Iterable[int]) -> None:
        """Add free slots."""
        self._give_back(self._generation, slots)

    def release_of(self, slot: int) -> Callable[[], None]:
        """Return a function that gives a slot back, and does nothing after `reset`."""
        return partial(self._give_back, self._generation, (slot,))

    def _give_back(self, generation: int, slots: Iterable[int]) -> None:
        with self._lock:
            if generation != self._generation:
                return
            self._free.extend(slots)
            was_awaited, self._is_awaited = self._is_awaited, False
        if was_awaited:
            self._wake.send_bytes(b"x")

    def reset(self, taken: Iterable[int]) -> None:
        """Make every slot free but those in ``taken``, whoever held them."""
        with self._lock:
            self._generation += 1
            self._free = sorted(set(range(self._n)) - set(taken))
            self._is_awaited = False
        self.clear_woken()

    def close(self) -> None:
        """Close the pipe behind `woken`."""
        self.woken.close()
        self._wake.close()
