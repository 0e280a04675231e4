"""What a function is told of its caller by a signed statement: as of the moment at which the request leaves."""

from __future__ import annotations

import time
from typing import Any

from policies.principal import Principal
from policies.tables import Place
from tests.fakes.world import running_world


async def test_a_request_that_was_held_leaves_with_a_statement_of_the_release() -> None:
    """A function may take minutes to wake: what was signed when the request came would have expired on arrival."""
    async with running_world() as world:
        asked: list[float] = []

        def block(place: Place, principal: Principal, now: float) -> bytes:
            del place, principal
            asked.append(now)
            return b"X-Portero-Assertion: e30\r\n"

        gate: Any = world.app.parts.gate
        gate._assert = block
        world.faas.add("survey-report", "acme", replicas=0, start_s=0.5)
        began = time.time()
        assert (await world.get("/reports/es", token=world.token())).status == 200
        assert asked
        assert asked[0] - began >= 0.4
