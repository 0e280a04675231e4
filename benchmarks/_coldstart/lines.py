"""Rooms to compare with: first in, first out, and everybody at once, in the place of the one that is used."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from authproxy.activator import activator
from policies.coldstart import Room
from policies.fifo_queue import FifoQueue
from policies.waiting import Ledger

FAIR: Final = "Portero"
FIFO: Final = "first in, first out"
AT_ONCE: Final = "all at once"


class _FirstComeRoom(Room):
    """Portero's, but for whose turn it is."""

    __slots__ = ()

    def __init__(self, ledger: Ledger, now: float) -> None:
        super().__init__(ledger, now, FifoQueue())


class _OpenRoom(Room):
    """Lets in whoever is there as soon as the function is ready, as activators without a pace do."""

    __slots__ = ()

    def admit(self, concurrency: int | None, now: float) -> bool:
        del concurrency
        self._starting_until = float("-inf")
        return super().admit(None, now)

    def _limit(self, now: float, replicas: int) -> int | None:
        del now, replicas
        return None


ROOMS: Final[Mapping[str, Callable[[Ledger, float], Room]]] = {
    FAIR: Room,
    FIFO: _FirstComeRoom,
    AT_ONCE: _OpenRoom,
}


@contextlib.contextmanager
def rooms(line: str) -> Iterator[None]:
    """Activators make rooms of this kind until the end of the block."""
    names = vars(activator)
    usual = names["Room"]
    names["Room"] = ROOMS[line]
    try:
        yield
    finally:
        names["Room"] = usual
