"""
The internal listener on a real gate, and what Kong does before it: have a request judged, get a pass, send it on.

``Door`` stands beside a whole Portero (``world``), whose public listener serves to warm functions and tokens up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from authproxy.edges.internal import InternalJudge
from authproxy.edges.public import PublicEdge
from authproxy.gate.gate import Gate
from authproxy.gate.passes import Passable, Passes, target_of
from authproxy.gate.verdict import Undecided
from policies.pipeline import Ready
from policies.request import AccessRequest, Head
from tests.fakes.raw_client import RawAnswer, RawClient
from tests.fakes.world import World, running_world

Fields = tuple[tuple[str, str], ...]


class Door:
    """One internal listener; ``send`` is the whole way of one request."""

    def __init__(self, world: World, passes: Passes, judge: InternalJudge, address: tuple[str, int]) -> None:
        self.world = world
        self.passes = passes
        self.judge = judge
        self.address = address

    @property
    def gate(self) -> Gate:
        return self.world.app.parts.gate

    def client(self) -> RawClient:
        return RawClient(self.address)

    async def judged(
        self, line: str, *fields: tuple[str, str], token: str | None = None, host: str = "acme.test"
    ) -> Any:
        """What the gate says of a request as Kong's plugin asks it; one that would be held is ``Undecided``."""
        method, _, target = line.partition(" ")
        said = [("Host", host), *([] if token is None else [("Authorization", f"Bearer {token}")]), *fields]
        raw = tuple((name.encode(), value.encode("latin-1")) for name, value in said)
        verdict: Any = self.gate.decide_now(Head(method, target.encode(), raw, (1, 1), "198.51.100.7", "http"))
        if isinstance(verdict, Undecided) and not isinstance(verdict.need, Ready):
            return await self.gate.decide_unheld(verdict)
        return verdict

    def sent_on(self, verdict: Passable, *fields: tuple[str, str]) -> bytes:
        """Its head as Kong sends it here, with a pass; ``fields`` frame its body."""
        token = self.passes.issue(verdict)
        assert token is not None
        return as_kong_sends(verdict.request, token, *fields)

    async def send(self, line: str, *fields: tuple[str, str], body: bytes = b"", **options: Any) -> RawAnswer:
        """Judged, and fetched on a connection of its own."""
        if body:
            fields = (*fields, ("Content-Length", str(len(body))))
        verdict = await self.judged(line, *fields, **options)
        async with self.client() as client:
            framing: Fields = (("Content-Length", str(len(body))),) if body else ()
            await client.send(self.sent_on(verdict, *framing) + body)
            return await client.answer(to_head=line.startswith("HEAD "))

    def subjects(self) -> list[str | None]:
        """Who each function was told that the caller is."""
        return [_field(invocation.fields, "x-portero-subject") for invocation in self.world.faas.requests]

    def is_idle(self) -> bool:
        """Nothing waits, runs or is held, and no place is taken."""
        parts = self.world.app.parts
        rooms = [driver.room.in_flight for driver in parts.activator._drivers.values()]
        return not (len(self.passes) or len(parts.live) or parts.activator.held or any(rooms))

    def audit(self) -> str:
        """All that was audited so far."""
        audit = self.world.app.parts.audit
        assert audit is not None
        audit.flush()
        return (self.world.folder / "audit.log").read_text()


def as_kong_sends(request: AccessRequest, token: str, *fields: tuple[str, str]) -> bytes:
    """The head of ``request`` as Kong sends it to the internal listener; ``fields`` frame its body."""
    return arriving(request.method, target_of(request), request.authority, ("X-Portero-Pass", token), *fields)


def arriving(method: str, target: bytes, host: str, *fields: tuple[str, str]) -> bytes:
    said = "".join(f"{name}: {value}\r\n" for name, value in (("Host", host), *fields))
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, said.encode("latin-1"))


def _field(fields: Fields, name: str) -> str | None:
    return next((value for key, value in fields if key.lower() == name), None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for is a task of the code under test
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running_door(*, ttl_s: float = 10.0, **settings: Any) -> AsyncIterator[Door]:
    """A world with an internal listener; ``settings`` are Portero's."""
    async with running_world(**settings) as world:
        parts, app = world.app.parts, world.app
        passes = Passes(parts.gate, ttl_s=ttl_s)
        public: Any = app._public
        judge = InternalJudge(parts.gate, passes)
        edge = PublicEdge(judge, parts.pool, pages=public.delivery._own._pages, jobs=app._jobs)
        try:
            yield Door(world, passes, judge, await edge.start("127.0.0.1", 0))
        finally:
            await passes.close()
            await edge.stop(0)
