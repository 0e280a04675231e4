"""
A whole Portero that attacks are thrown at, with a tap on the wire behind it.

"The upstream received nothing" means here: not one byte left towards the functions platform, neither to a function nor
to its API. A fake platform alone could not say that, because it would refuse what is malformed as real ones do.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.fakes.openfaas import FakeOpenFaas
from tests.fakes.raw_client import RawClient, unread
from tests.fakes.tap import Tap
from tests.fakes.world import RawAnswer, World, parse_answer, running_world

WORLD: Final = Path(__file__).parents[1] / "attacks" / "world"
CANARY: Final = "CANARY7f3a"
"""Stands in hostile bytes; no answer may hold it."""
FUNCTIONS: Final = ("survey-web", "survey-submit", "survey-report", "files", "hidden", "raw", "geo-map", "mapped")
STATUS: Final = {
    "bad-request": 400,
    "tenant-conflict": 400,
    "credential-ambiguous": 400,
    "body-malformed": 400,
    "credential-missing": 401,
    "credential-invalid": 401,
    "no-rule-allows": 403,
    "denied-by-rule": 403,
    "tenant-mismatch": 403,
    "tenant-disabled": 403,
    "tenant-unknown": 404,
    "route-unknown": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "body-too-large": 413,
    "host-misdirected": 421,
    "https-required": 426,
    "too-many-failures": 429,
}
"""Reason -> status as design section 5 has it, written down a second time on purpose."""

_LOOK: Final = re.compile(rb"GET /system/function/([\w-]+)\?namespace=(\w+) HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*\r\n")


@dataclass(frozen=True, slots=True)
class Answered:
    """Everything that came back on one connection."""

    answers: list[RawAnswer]
    wire: bytes

    @property
    def only(self) -> RawAnswer:
        assert len(self.answers) == 1, [answer.status for answer in self.answers]
        return self.answers[0]


class Siege:
    """Throws bytes at a running world and looks at what happens on both sides."""

    def __init__(self, world: World, tap: Tap) -> None:
        self.world = world
        self.tap = tap
        self.token = world.token()
        self._known: set[str] = set()

    @property
    def faas(self) -> FakeOpenFaas:
        return self.world.faas

    def forget(self) -> None:
        """What happened so far is not the next attack's."""
        self._known.update(self.faas.status_calls)
        self.tap.forget()
        self.faas.requests.clear()
        self.faas.wake_calls.clear()
        self.faas.status_calls.clear()

    async def throw(self, wire: bytes, *, half_close: bool = False, timeout_s: float = 20.0) -> Answered:
        """Send ``wire`` on a fresh connection and read to its end."""
        back = await send_wire(self.world.app.public_address, wire, timeout_s=timeout_s, half_close=half_close)
        return Answered(split_answers(back, is_head=wire.startswith(b"HEAD ")), back)

    def client(self) -> RawClient:
        return RawClient(self.world.app.public_address)

    async def refused(self, wire: bytes, reason: str | None = None, *, half_close: bool = False) -> RawAnswer:
        """
        The one answer to an attack: a refusal of ours, with ``reason`` where one is given, that repeats nothing; and
        not one byte left for the platform. A later request on the same connection is not answered either.
        """
        self.forget()
        answer = (await self.throw(wire, half_close=half_close)).only
        self.check_refusal(answer, reason)
        self.check_untouched()
        return answer

    @property
    def sent_on(self) -> bytes:
        """What left since ``forget``, but for looks at functions that honest callers have woken an interest in."""
        return _LOOK.sub(
            lambda look: b"" if f"{look[1].decode()}.{look[2].decode()}" in self._known else look[0], self.tap.wire
        )

    @property
    def to_functions(self) -> bytes:
        """What left since ``forget`` for functions, without the looks at who is ready."""
        return _LOOK.sub(b"", self.tap.wire)

    def check_untouched(self) -> None:
        assert self.sent_on == b""
        assert not self.faas.requests
        assert not self.faas.wake_calls

    @staticmethod
    def check_refusal(answer: RawAnswer, reason: str | None = None) -> None:
        """A problem document with its reason in field and body, that quotes nothing of the request."""
        assert 400 <= answer.status < 500, answer.wire[:400]
        assert answer.reason is not None
        if reason is not None:
            assert (answer.status, answer.reason) == (STATUS.get(reason, answer.status), reason)
        assert answer.field("content-type") == "application/problem+json"
        document = answer.json()
        assert document["reason"] == answer.reason
        assert document["status"] == answer.status
        assert document["request_id"] == answer.field("x-request-id")
        check_silent(answer.wire)

    async def still_serves(self) -> None:
        """An honest request on a fresh connection is answered by the function, as itself and as nobody else."""
        answer = await self.world.get("/function/survey-report/honest?x=1", token=self.token)
        assert answer.status == 200, answer.wire[:300]
        assert (answer.json()["path"], answer.json()["query"]) == ("/honest", "x=1")


def check_silent(wire: bytes) -> None:
    """Neither the canary nor the words of an exception stand in an answer (AP-R52)."""
    for word in (CANARY.encode(), b"Traceback", b"aiohttp", b"Error", b"Exception", b"0x", b".py", b"\\x"):
        assert word not in wire, wire[:600]


def split_answers(wire: bytes, *, is_head: bool = False) -> list[RawAnswer]:
    """Every final answer on one connection, by its framing; what does not parse fails the test."""
    answers = []
    while wire:
        head, mark, rest = wire.partition(b"\r\n\r\n")
        assert mark, wire[:200]
        status = int(head[9:12])
        if 100 <= status < 200 and status != 101:
            wire = rest
            continue
        answer = parse_answer(head + mark + rest)
        length = answer.field("content-length")
        if is_head:
            size = 0
        elif answer.field("transfer-encoding") is not None:
            size = rest.index(b"0\r\n\r\n") + 5
        elif length is not None:
            size = int(length)
        else:
            size = len(rest)
        assert len(rest) >= size, "cut short"
        answers.append(parse_answer(head + mark + rest[:size]))
        wire = rest[size:]
    return answers


async def send_wire(address: tuple[str, int], data: bytes, *, timeout_s: float, half_close: bool) -> bytes:
    """Send ``data`` on a fresh connection and read to its end, or for ``timeout_s``: the bytes that came back."""
    reader, writer = await asyncio.open_connection(*address)
    wire = b""
    try:
        writer.write(data)
        if half_close:
            with contextlib.suppress(ConnectionError):
                writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while piece := await reader.read(65536):
                    wire += piece
    except ConnectionError:
        wire += unread(reader)
    finally:
        writer.transport.abort()
    return wire


@contextlib.asynccontextmanager
async def besieged(source: Path = WORLD, *, is_warm: bool = True, **settings: Any) -> AsyncIterator[Siege]:
    """A running world whose functions are awake, with the tap in place; warm: keys and readiness are at hand."""
    async with running_world(source, **settings) as world, Tap(world.faas.url) as tap:
        for namespace in ("acme", "globex", "closed"):
            for name in FUNCTIONS:
                world.faas.add(name, namespace)
        platform = world.policies / "platform.yaml"
        platform.write_text(platform.read_text().replace(world.faas.url, tap.url))
        assert await world.app.parts.folder.reload(), world.app.parts.folder.status.mistakes
        siege = Siege(world, tap)
        if is_warm:
            await siege.still_serves()
        yield siege
