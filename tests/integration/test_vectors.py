"""The vectors, asked of a running Portero over a raw socket; a refusal must leave the functions platform untouched."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes.vector_core import policies_of
from tests.fakes.vector_world import ASKED_LAST, VECTORS, Worlds, is_problem, outcome_of, prepared, request_bytes_of
from tests.fakes.vectors import Vector, mismatches
from tests.fakes.world import World, running_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worlds() -> AsyncIterator[Worlds[World]]:
    async with Worlds(running_world) as worlds:
        yield worlds


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
async def test_the_proxy_answers_as_the_vector_says(vector: Vector, worlds: Worlds[World]) -> None:
    """Status, reason, rule, fields, what the function received; and nothing received of what was refused."""
    async with worlds.of(vector) as world, prepared(world, vector):
        calls = len(world.faas.requests), len(world.faas.wake_calls), len(world.faas.status_calls)
        answer = await world.send(request_bytes_of(world, vector))
        outcome = await outcome_of(world, answer)
        assert mismatches(vector, outcome) == []  # the parser's refusals too: the edge words them as the core does
        if vector.case.expect.decision != "allow" and answer.status != 202:
            assert len(world.faas.requests) == calls[0]
            if outcome.reason not in ASKED_LAST:
                assert len(world.faas.wake_calls) == calls[1]
                assert vector.case.state is None or len(world.faas.status_calls) == calls[2]
        if vector.state.answers is not None and outcome.received is not None:
            assert answer.body == vector.state.answers.body.encode()
        if outcome.reason is not None:
            is_problem(answer, is_head=vector.case.request.line.startswith("HEAD"))


def test_the_worlds_have_a_policy() -> None:
    """A world that did not load would refuse everything."""
    for world in {vector.world for vector in VECTORS}:
        assert policies_of(world).rule_count > 0
