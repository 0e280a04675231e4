"""
Whose turn it is when several share one thing by weight: one level of start-time fair queueing.

Theory
======

Each share has a *tag*: the service it has had, divided by its weight, in seconds. Who has the least is next. One who
comes anew starts at the *virtual time*: the tag it would have had, had it been here all along. So nobody saves up turns
by staying away, and nobody gains by coming under ever new names: the virtual time goes on by each second served,
divided by the weights of all who are *active*, and a share is active until the virtual time has reached its tag, also
when nothing of it waits any more (the virtual time of the ideal system that serves everybody at once, a little each).
Those with nothing that waits count for no more than those who wait or are served: a crowd of names, each gone after one
short service, would otherwise hold the time back for all who have had a long one.

How long a service takes is known only at its end. It is charged by a guess when it begins and put right when it ends;
the virtual time knows no guesses, so that a wrong one harms nobody but him it was made about, and only until then.

When nothing waits, everything is forgotten: nobody was kept from anything. Services that end later count for nothing.

Source: P. Goyal, H. M. Vin, H. Cheng: Start-time Fair Queueing (SIGCOMM 1996); A. Parekh, R. Gallager: A Generalized
Processor Sharing Approach to Flow Control (1993). The guess and its correction: Kubernetes API Priority and Fairness.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from policies.priorities import Heap

MAX_WEIGHT: Final = 1000
"""More would lose itself in what a float can tell apart, and then a tag would stand still."""


class Share:
    """One of those who share. ``weight`` is the one it had when it last began to wait."""

    __slots__ = ("guessed_s", "is_active", "name", "running", "tag", "weight")

    def __init__(self, name: str) -> None:
        self.name = name
        self.weight = 1
        self.tag = 0.0
        self.guessed_s = 0.0
        """What of the tag, times weight, is a guess: services that have not ended."""
        self.running = 0
        self.is_active = False


S = TypeVar("S", bound=Share)


class Level(Generic[S]):
    """
    The shares that compete with each other. Whoever has somebody waiting has joined; ``join``, ``leave``, ``dispatch``
    and ``settle`` are O(log shares) amortised. Remembers those who wait, are active or are being served; nobody else.
    """

    __slots__ = ("_busy_sum", "_idle", "_waiting", "period", "shares", "virtual_s", "weight_sum")

    def __init__(self) -> None:
        self.shares: dict[str, S] = {}
        self.virtual_s = 0.0
        self.weight_sum = 0
        """Of those who are active."""
        self._busy_sum = 0
        """Of those who wait or are being served."""
        self.period = 0
        """How often everything was forgotten."""
        self._waiting: Heap[S] = Heap()
        self._idle: Heap[S] = Heap()
        """Active, with nothing that waits: by the virtual time at which they no longer are."""

    def first(self) -> S | None:
        """Whose turn it is; None when nothing waits."""
        return self._waiting.first()

    def join(self, share: S, weight: int) -> None:
        """Something of this share waits, for the first time or again."""
        weight = bounded_weight(weight)
        self.shares[share.name] = share
        self._idle.discard(share)
        if share.is_active:
            self.weight_sum -= share.weight
        if share.running:
            self._busy_sum -= share.weight
        share.weight = weight
        share.is_active = True
        self.weight_sum += weight
        self._busy_sum += weight
        share.tag = max(share.tag, self.virtual_s)
        self._waiting.set(share, share.tag)

    def leave(self, share: S) -> None:
        """Nothing of this share waits any longer."""
        self._waiting.discard(share)
        if self._waiting:
            if not share.running:
                self._busy_sum -= share.weight
            self._rest(share)
            return
        self.period += 1
        self.shares = {}
        self._idle = Heap()
        self.virtual_s = 0.0
        self.weight_sum = self._busy_sum = 0

    def dispatch(self, share: S, guess_s: float, *, does_stay: bool) -> None:
        """One of this share is served from now on. Without ``does_stay`` no other of it waits: ``leave`` follows."""
        if (confirmed := share.tag - share.guessed_s / share.weight) > self.virtual_s:  # nobody who waits has had less
            self._reach(confirmed)
        share.guessed_s += guess_s
        share.tag += guess_s / share.weight
        share.running += 1
        if does_stay:
            self._waiting.set(share, share.tag)

    def settle(self, share: S, period: int, guess_s: float, served_s: float) -> None:
        """It has been served, for so long; ``period`` is that of its ``dispatch``."""
        if period != self.period:
            return
        at_most = 2 * self._busy_sum
        share.running -= 1
        share.guessed_s = share.guessed_s - guess_s if share.running else 0.0
        share.tag += (served_s - guess_s) / share.weight
        if share in self._waiting:
            self._waiting.set(share, share.tag)
        else:
            if not share.running:
                self._busy_sum -= share.weight
            self._idle.discard(share)
            self._rest(share)
        self._advance(served_s, at_most)

    def portion(self, name: str, weight: int) -> float:
        """In (0, 1]: what of the service somebody of this name gets, or would get, while all others stay."""
        share = self.shares.get(name)
        if share is not None and share.is_active:
            return share.weight / self.weight_sum
        weight = bounded_weight(weight)
        return weight / (self.weight_sum + weight)

    def _rest(self, share: S) -> None:
        if share.tag > self.virtual_s:
            if not share.is_active:
                share.is_active = True
                self.weight_sum += share.weight
            self._idle.set(share, share.tag)
            return
        self._retire(share)

    def _retire(self, share: S) -> None:
        if share.is_active:
            share.is_active = False
            self.weight_sum -= share.weight
        if not share.running:
            del self.shares[share.name]

    def _advance(self, served_s: float, at_most: int) -> None:
        """
        Spread a service over those active; whoever is reached on the way gets no more of it.

        ``at_most``: weights that it is spread over.
        """
        while (idle := self._idle.first()) is not None:
            needed_s = (idle.tag - self.virtual_s) * min(self.weight_sum, at_most)
            if needed_s > served_s:
                break
            served_s -= max(0.0, needed_s)
            self.virtual_s = max(self.virtual_s, idle.tag)
            self._idle.discard(idle)
            self._retire(idle)
        self.virtual_s += served_s / min(self.weight_sum, at_most)

    def _reach(self, tag: float) -> None:
        self.virtual_s = tag
        while (idle := self._idle.first()) is not None and idle.tag <= tag:
            self._idle.discard(idle)
            self._retire(idle)


def bounded_weight(weight: int) -> int:
    """Within 1 and ``MAX_WEIGHT``."""
    return min(max(weight, 1), MAX_WEIGHT)
