"""Callers at one function, in virtual time: who sends when, how long each is served, and what became of everybody."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from policies.coldstart import Room
from policies.coldstart_events import (
    Arrived,
    AskReadiness,
    Bounds,
    Command,
    Event,
    Finished,
    ReadinessSeen,
    Refuse,
    Release,
    Tick,
    Wake,
    WakeSucceeded,
)
from policies.decision import Reason
from policies.waiting import Ledger, Line, Waiter


class Sent(NamedTuple):
    """One request: when, whose, and how long the function will have it."""

    at: float
    tenant: str
    flow: str
    service_s: float
    weight: int = 1
    tenant_weight: int = 1


@dataclass
class Outcome:
    """What became of the requests of one tenant and flow."""

    waits_s: list[float] = field(default_factory=list)
    """From arrival until let in."""
    refused: list[tuple[float, Reason]] = field(default_factory=list)
    served_s: float = 0.0
    served_at: list[float] = field(default_factory=list)
    """When each was let in."""

    def p99_s(self) -> float:
        waits = sorted(self.waits_s)
        return waits[min(len(waits) - 1, int(0.99 * len(waits)))] if waits else float("inf")


@dataclass
class World:
    """One room, one platform that never sleeps for long, and clients that wait until they are answered."""

    queue: Line | None = None
    concurrency: int = 10
    replicas: int = 1
    bounds: Bounds = Bounds(100, None, 10_000)  # noqa: RUF009 - a value without state
    max_wait_s: float = 30.0
    sleeps_until: float = 0.0
    """Asleep before that instant."""

    def run(self, traffic: Iterable[Sent], until: float) -> dict[tuple[str, str], Outcome]:
        """What became of everybody; checks on the way that the room keeps what it promises always (Q1, Q8)."""
        self._room = Room(Ledger(), 0.0, self.queue)
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._sent: dict[int, Sent] = {}
        self._numbers: Iterator[int] = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], Event]]] = []
        for sent in traffic:
            heapq.heappush(self._due, (sent.at, next(self._numbers), self._arrival(sent)))
        while True:
            tick = self._room.next_tick_at()
            at = self._due[0][0] if self._due else float("inf")
            now = at if tick is None else min(at, tick)
            if now > until:
                return self._outcomes
            event: Event = heapq.heappop(self._due)[2](now) if at <= now else Tick(now)
            self._feed(event, now)

    def _arrival(self, sent: Sent) -> Callable[[float], Event]:
        def arrive(now: float) -> Event:
            ticket = next(self._numbers)
            self._sent[ticket] = sent
            waiter = Waiter(ticket, sent.tenant, sent.flow, now + self.max_wait_s, sent.weight, sent.tenant_weight)
            return Arrived(waiter, now, self.bounds, self.concurrency)

        return arrive

    def _feed(self, event: Event, now: float) -> None:
        for command in self._room.on(event):
            self._obey(command, now)
        if self._room._waiters and self._room.ready:
            assert self._room.in_flight == self.concurrency * self.replicas, "Q1: a slot is idle while somebody waits"
        assert self._room.in_flight <= self.concurrency * self.replicas, "Q8"

    def _obey(self, command: Command, now: float) -> None:
        match command:
            case AskReadiness():
                self._feed(ReadinessSeen(self.replicas if now >= self.sleeps_until else 0, now), now)
            case Wake():
                self._feed(WakeSucceeded(now), now)
            case Release(ticket):
                sent = self._sent.pop(ticket)
                outcome = self._outcomes.setdefault((sent.tenant, sent.flow), Outcome())
                outcome.waits_s.append(now - sent.at)
                outcome.served_at.append(now)
                outcome.served_s += sent.service_s
                end = now + sent.service_s
                finish = (end, next(self._numbers), lambda at: Finished(at, ticket, at - now))
                heapq.heappush(self._due, finish)
            case Refuse(ticket, reason, _):
                sent = self._sent.pop(ticket)
                self._outcomes.setdefault((sent.tenant, sent.flow), Outcome()).refused.append((now, reason))
            case _:
                pass


def steady(
    tenant: str, flow: str, per_s: float, service_s: float, until: float, *, first_at: float = 0.0
) -> list[Sent]:
    """Evenly spaced requests."""
    count = int((until - first_at) * per_s)
    return [Sent(first_at + n / per_s, tenant, flow, service_s) for n in range(count)]
