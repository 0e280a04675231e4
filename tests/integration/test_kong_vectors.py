"""
The vectors, asked of Kong in front of ``portero`` and of the four plugins in a chain; a refusal must leave the
functions platform untouched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.fakes.kong import KongFront
from tests.fakes.kong_world import Front, KongWorld, running_kong_world
from tests.fakes.real_kong import WITHOUT_KONG, RealKong
from tests.fakes.vector_world import ASKED_LAST, VECTORS, Worlds, is_problem, outcome_of, prepared, request_bytes_of
from tests.fakes.vectors import Outcome, Vector, mismatches

REFUSED_BY_NGINX: Final = frozenset({*range(400, 500), 501, 505})
"""What a case of the wire may be answered: an unknown transfer coding is 501 to nginx, HTTP/2.0 in text 505."""

IGNORED_BY_NGINX: Final = "a field's name with a byte that is not ASCII is refused"
"""nginx leaves such a field out, so that nobody behind it, Portero included, ever gets it."""


UNREADABLE_TO_KONG: Final = frozenset(
    {"an overlong dot is refused", "bytes that are no UTF-8 are refused", "an encoded surrogate is refused"}
)
"""Kong's default router (``traditional_compatible``) takes a decoded path for UTF-8; what is none it finds nowhere."""

WAYS: Final = pytest.mark.parametrize("chain", [False, True], ids=["one plugin", "chain"], scope="module")


def _worlds(front: Front, *, chain: bool) -> Worlds[KongWorld]:
    def running(folder: Path) -> AbstractAsyncContextManager[KongWorld]:
        return running_kong_world(folder, chain=chain, front=front)

    return Worlds(running)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds(chain: bool) -> AsyncIterator[Worlds[KongWorld]]:  # a parameter of the tests
    async with _worlds(KongFront, chain=chain) as worlds:
        yield worlds


@WAYS
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_kong_answers_as_the_vector_says(vector: Vector, worlds: Worlds[KongWorld]) -> None:
    """As the proxy does: status, reason, rule, fields, what the function received; nothing received if refused."""
    await _is_answered(vector, worlds)


@pytest.mark.kong
@WITHOUT_KONG
@pytest.mark.timeout(900)
@WAYS
async def test_a_real_kong_answers_as_the_vectors_say(chain: bool) -> None:  # a parameter
    """The same for all of them in one go; which are not is said together."""
    failed: dict[str, str] = {}
    async with _worlds(RealKong, chain=chain) as worlds:
        for vector in VECTORS:
            try:
                await _is_answered(vector, worlds)
            except AssertionError as error:
                failed[vector.name] = str(error)
    assert failed == {}


async def _is_answered(vector: Vector, worlds: Worlds[KongWorld]) -> None:
    async with worlds.of(vector) as world, prepared(world, vector):
        calls = len(world.faas.requests), len(world.faas.wake_calls), len(world.faas.status_calls)
        answer = await world.send(request_bytes_of(world, vector))
        if answer.field("x-request-id") is None:
            assert vector.case.wire or vector.name in UNREADABLE_TO_KONG
            assert answer.status in REFUSED_BY_NGINX
            assert (len(world.faas.requests), len(world.faas.wake_calls)) == calls[:2]
            return
        is_direct = world.trace.verdict == "proxied" and world.trace.target != world.app.public_address
        outcome = _without_kongs_own(await outcome_of(world, answer, is_status_known=not is_direct))
        if vector.name == IGNORED_BY_NGINX:
            assert outcome.received is not None
            assert not [name for name, _ in outcome.received.fields if name.lower().startswith("x-caf")]
            return
        assert mismatches(vector, outcome, has_parser=True) == []
        if vector.case.expect.decision != "allow" and answer.status != 202:
            assert len(world.faas.requests) == calls[0]
            if outcome.reason not in ASKED_LAST:
                assert len(world.faas.wake_calls) == calls[1]
                assert vector.case.state is None or len(world.faas.status_calls) == calls[2]
        if vector.state.answers is not None and outcome.received is not None:
            assert answer.body == vector.state.answers.body.encode()
        if outcome.reason is not None:
            is_problem(answer, is_head=vector.case.request.line.startswith("HEAD"))


def _without_kongs_own(outcome: Outcome) -> Outcome:
    """Kong tells every upstream the TCP peer in ``X-Real-IP``, whatever the client says and nobody can prevent it."""
    received = outcome.received
    if received is None or ("X-Real-IP", "127.0.0.1") not in received.fields:
        return outcome
    fields = tuple(field for field in received.fields if field != ("X-Real-IP", "127.0.0.1"))
    return replace(outcome, received=replace(received, fields=fields))
