"""
Porteros that share one function's slots over a network that loses, delays, doubles and reorders: no task, no real time.

What is real: ``settle_slots.lua`` in a redis-server, and ``Share``. A test moves each word, reply and message itself.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

from redis import Redis

from authproxy.activator.cluster_redis import SETTLE
from authproxy.activator.cluster_slots import GRACE_S, TTL_S, Grant, Share, Word

START_S: Final = 1_700_000_000.0
_HASH: Final = "portero:{activator}:slots:f"
_SINCE: Final = "portero:{activator}:since"
_TO: Final = "portero:{activator}:to:"
_MARK: Final = "portero:{activator}:to:-"


class Row(NamedTuple):
    granted: int
    wanted: int


class SlotServer:
    """One function's slots in a real Redis whose clock is ``now``. Not for use by two tests at once."""

    def __init__(self, port: int) -> None:
        self.now = START_S
        self._client = Redis(port=port)
        self._heard = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no types here
        self._heard.psubscribe(_TO + "*")
        self.forget()
        self._client.set(_SINCE, "1")

    def forget(self) -> None:
        """Lose all data."""
        self._client.flushall()

    def become_another(self) -> None:
        """It was ended and came back with what had been saved, or a replica of it took over."""
        self._client.set(_SINCE, f"1 {'0' * 40}")

    def settle(self, holder: str, word: Word) -> tuple[Grant | None, list[tuple[str, Grant]]]:
        """Carry it out: the reply (None: something newer was said), and who is told what."""
        words = (word.number, word.in_use, word.wanted, word.capacity, int(1e6 * TTL_S), int(1e6 * GRACE_S), _TO, "f")
        reply = self._client.eval(SETTLE.text.decode(), 2, _HASH, _SINCE, int(1e6 * self.now), holder, *map(str, words))
        told = self._messages()
        return (Grant(reply[0], reply[1], bool(reply[2])) if isinstance(reply, list) else None), told

    def put(self, holder: str, row: str) -> None:
        """Write what a holder's row is, whatever it may be."""
        self._client.hset(_HASH, holder, row)

    def rows(self) -> dict[str, Row]:
        """What is there of holders that are not forgotten."""
        rows = {}
        stored: dict[bytes, bytes] = self._client.hgetall(_HASH)  # type: ignore[assignment]  # never str with this client
        for name, row in stored.items():
            if name:
                _, granted, wanted, _, _, expires = map(int, row.split())
                if expires > 1e6 * self.now:
                    rows[name.decode()] = Row(granted, wanted)
        return rows

    def close(self) -> None:
        self._heard.close()
        self._client.close()

    def _messages(self) -> list[tuple[str, Grant]]:
        self._client.publish(_MARK, "")
        told: list[tuple[str, Grant]] = []
        while True:
            message = self._heard.get_message(timeout=20)
            if message is None:
                raise AssertionError("the mark was not heard")
            if message["type"] != "pmessage":
                continue
            channel = message["channel"].decode()
            if channel == _MARK:
                return told
            version, granted, scarce, name = message["data"].split()
            assert name == b"f"
            told.append((channel.removeprefix(_TO), Grant(int(version), int(granted), bool(int(scarce)))))


class Holder:
    """A Portero: its share, a waiting room that obeys it, and what is on its way to and from Redis."""

    _names = itertools.count()

    def __init__(self, server: SlotServer, capacity: int) -> None:
        self.name = f"{next(self._names):06d}"
        self.server = server
        self.capacity = capacity
        self.share = Share()
        self.waiting = 0
        self.in_use = 0
        self._held = 0
        self._numbers = itertools.count(1)
        self.asked: Word | None = None
        self.reply: Grant | None = None
        self.late: list[Word] = []
        """Words that were given up, and may be carried out still."""
        self.messages: list[Grant] = []

    @property
    def is_active(self) -> bool:
        return bool(self.waiting or self.in_use or self.share.held or self.share.has_news)

    def arrive(self) -> None:
        self.waiting += 1
        self._go()

    def leave(self) -> None:
        self.waiting -= 1
        self._go()

    def finish(self) -> None:
        self.in_use -= 1
        self._held -= 1
        self._go()

    def ask(self) -> Word:
        """Begin to settle; the word is on its way."""
        self.share.give_up()
        self._obey()
        self.asked = self.share.word(next(self._numbers), self.server.now)
        self.reply = None
        return self.asked

    def carry_out(self, word: Word) -> list[tuple[str, Grant]]:
        reply, told = self.server.settle(self.name, word)
        if word is self.asked:
            assert reply is not None, "the newest word counts"
            self.reply = reply
        return told

    def hear_reply(self) -> None:
        assert self.reply is not None
        self.share.replied(self.reply, self.server.now)
        self.asked = self.reply = None
        self._obey()

    def give_up(self) -> None:
        """No reply in time; the word may arrive later all the same."""
        if self.asked is not None and self.reply is None:
            self.late.append(self.asked)
        self.asked = self.reply = None

    def hear(self, grant: Grant) -> None:
        self.share.pushed(grant, self.server.now)
        self._obey()

    def _obey(self) -> None:
        self._held = self.share.held
        self._go()

    def _go(self) -> None:
        """What the waiting room does: whoever may leaves, and what is wanted is said."""
        while True:
            released = min(self.waiting, max(0, self._held - self.in_use))
            self.waiting -= released
            self.in_use += released
            self.share.want(self.in_use, self.in_use + self.waiting, self.capacity, self.server.now)
            if self.share.held == self._held:
                return
            self._held = self.share.held
