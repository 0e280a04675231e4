"""
An activator in front of a platform that speaks OpenFaaS's API over a socket, and a caller of it.

By the clock of the loop that a test runs on: a ``SteadyLoop`` where the test has times in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from authproxy.activator import Activator, Grant
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.metrics import Metrics
from policies.decision import Deny
from policies.principal import Principal
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec, Place
from tests.fakes.openfaas import FakeOpenFaas

ANA: Final = Principal("login", "ana")
FUNCTION: Final = "survey-report"
KEY: Final = f"{FUNCTION}.acme"
HOT: Final = Grant(-1, is_cold=False, released_at=0.0)
"""Let in without being held."""


def request_of(client_ip: str = "127.0.0.1", *fields: tuple[bytes, bytes]) -> AccessRequest:
    head = Head("GET", b"/", [(b"Host", b"acme.localhost"), *fields], (1, 1), client_ip, "http")
    read = read_head(head, TrustedPeers(()))
    assert isinstance(read, AccessRequest)
    return read


REQUEST: Final = request_of()


class Front:
    """Enters and leaves as the gate does. ``arguments`` are the activator's; None: what it takes by itself."""

    def __init__(self, faas: FakeOpenFaas, **arguments: Any) -> None:
        self.faas = faas
        self.backend = OpenFaasBackend(BackendSpec("faas", "openfaas", faas.url, None), timeout_s=0.4)
        self.metrics = Metrics()
        usual = {"clock": asyncio.get_running_loop().time, "jitter": lambda: 0.0, "prober": always_there}
        given = {name: value for name, value in (usual | arguments).items() if value is not None}
        self.activator = Activator({"faas": self.backend}, self.metrics, **given)

    async def enter(self, at: Place, principal: Principal = ANA, **how: Any) -> Grant | Deny:
        """At once if that may be, else held."""
        if self.activator.ready_now(at):
            return HOT
        return await self.activator.hold(at, principal, REQUEST, **how)

    def leave(self, at: Place, grant: Grant | Deny) -> None:
        assert isinstance(grant, Grant)
        self.activator.finished(at, None if grant is HOT else grant)

    def hold(self, at: Place, principal: Principal = ANA, **how: Any) -> asyncio.Task[Grant | Deny]:
        return asyncio.create_task(self.activator.hold(at, principal, REQUEST, **how))


async def always_there(*_: object) -> bool:
    """A prober for tests that are not about probes."""
    return True


@asynccontextmanager
async def front(**arguments: Any) -> AsyncIterator[Front]:
    async with FakeOpenFaas() as faas:
        made = Front(faas, **arguments)
        try:
            yield made
        finally:
            await made.activator.close()
            await made.backend.close()
        assert made.activator.held == 0


def let_in(answer: Grant | Deny) -> Grant:
    assert isinstance(answer, Grant), answer
    return answer


def refused(answer: Grant | Deny) -> Deny:
    assert isinstance(answer, Deny), answer
    return answer


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not condition():
        assert loop.time() < deadline, "it did not come to pass"
        await asyncio.sleep(0.005)
