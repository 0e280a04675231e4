"""The vectors' world over real sockets: as a case wants it before its request, and what came of the request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

from aiohttp import web
from multidict import CIMultiDict

from policies.decision import Reason
from tests.fakes.openfaas import Handler, Invocation
from tests.fakes.vector_core import limits_of, whereto
from tests.fakes.vector_tokens import authorization
from tests.fakes.vectors import Answers, Outcome, Received, Vector, load_vectors, wire_bytes
from tests.fakes.world import RawAnswer, World

EVERY_VECTOR: Final = load_vectors()
VECTORS: Final = [vector for vector in EVERY_VECTOR if not vector.state.is_for_core_only]
PATIENCE_S: Final = 15.0
"""How long an audit line, or a request that is to be held, may take to show."""
ASKED_LAST: Final = {
    Reason.FUNCTION_UNKNOWN,
    Reason.QUEUE_FULL,
    Reason.WAKE_LIMITED,
    Reason.WAKE_FAILED,
    Reason.COLD_START_TIMEOUT,
    Reason.CONCURRENCY_LIMITED,
    Reason.BODY_TOO_LARGE,
}
"""Refusals of question 5 and after: only for these may the platform have been asked anything."""
OneWorld = TypeVar("OneWorld", bound=World)
Running = Callable[[Path], AbstractAsyncContextManager[OneWorld]]
"""Starts a world of a policy folder."""


class Worlds(Generic[OneWorld]):
    """One running world a folder for the cases that find it as it is; each of the others gets a fresh one."""

    def __init__(self, running: Running[OneWorld]) -> None:
        self._start = running
        self._stack = contextlib.AsyncExitStack()
        self._running: dict[Path, OneWorld] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def of(self, vector: Vector) -> AsyncIterator[OneWorld]:
        if vector.case.state is not None:
            async with self._start(vector.world) as world:
                _deploy(world, vector)
                yield world
            return
        world_or_none = self._running.get(vector.world)
        if world_or_none is None:
            world_or_none = await self._stack.enter_async_context(self._start(vector.world))
            self._running[vector.world] = world_or_none
            _deploy(world_or_none, vector)
        yield world_or_none


# --- the world before the request ---------------------------------------------------------------------------------


@cache
def _functions_of(world: Path) -> set[tuple[str, str]]:
    found = {whereto(vector) for vector in EVERY_VECTOR if vector.world == world}
    return {one for one in found if one is not None}


def _deploy(world: World, vector: Vector) -> None:
    """Every function that any vector of this world leads to, in the state that this one wants."""
    state = vector.state
    for function, namespace in _functions_of(vector.world):
        if function in state.missing:
            continue
        start_s = 0.05 if state.wake == "works" and not state.held else 60.0
        replicas = int(function not in state.asleep)
        world.faas.add(function, namespace, replicas=replicas, start_s=start_s, handler=_handler(state.answers))


def _handler(answers: Answers | None) -> Handler | None:
    if answers is None:
        return None

    async def answer(_: Invocation) -> web.StreamResponse:
        fields = CIMultiDict(answers.fields)
        return web.Response(status=answers.status, headers=fields, body=answers.body.encode())

    return answer


@contextlib.asynccontextmanager
async def prepared(world: World, vector: Vector) -> AsyncIterator[None]:
    """Limits used up, keys gone, requests held: as the case says."""
    state = vector.state
    world.provider.is_down = state.keys == "unavailable"
    if state.wake == "fails":
        world.faas.wake.status = 500
    if state.spent:
        _spend(world, vector)
    waking: asyncio.Task[None] | None = None
    held = [asyncio.create_task(world.send(request_bytes_of(world, vector))) for _ in range(sum(state.held.values()))]
    try:
        deadline = time.monotonic() + PATIENCE_S
        while world.app.parts.activator.held < len(held):
            assert time.monotonic() < deadline, "the requests that are to be held are not"
            await asyncio.sleep(0.005)
        waking = asyncio.create_task(_wake_for_one_more(world, len(held))) if held and state.wake == "works" else None
        yield
    finally:
        tasks = [*held, *([] if waking is None else [waking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wake_for_one_more(world: World, held: int) -> None:
    """What sleeps is ready when somebody waits beside those who did: not before the case's request has come."""
    while world.app.parts.activator.held <= held:  # noqa: ASYNC110  # sockets bring it about
        await asyncio.sleep(0.005)
    world.faas.awake |= dict.fromkeys(world.faas.awake, 1)


def _spend(world: World, vector: Vector) -> None:
    """Use up what the case says, as the same request would; no time passes then, in which it could be had again."""
    tenant, checks, parallels = limits_of(vector)
    parts, now = world.app.parts, time.time()
    budget: Any = parts.activator._tools.spend_wake
    for judge in (parts.gate, parts.gate._asking, budget.__self__):
        judge._clock = lambda: now
    for check in checks:
        while parts.store.spend_now(tenant, (check,), now).refused is None:  # type: ignore[union-attr]  # in memory
            pass
    for limit in parallels:
        for _ in range(limit.maximum):
            parts.gate._concurrency.take((limit,))


# --- what came of it ----------------------------------------------------------------------------------------------


def request_bytes_of(world: World, vector: Vector) -> bytes:
    """The case's request with a token of this world's provider."""
    return wire_bytes(vector.case, authorization(vector.case.as_, world.provider.issuer))


async def outcome_of(world: World, answer: RawAnswer, *, is_status_known: bool = True) -> Outcome:
    """By the answer, the audit line and what the platform got. ``is_status_known``: the line says
    the answer's status, which nobody learns of what Kong hands to the function itself.
    """
    request_id = answer.field("x-request-id")
    line = await _audited(world, request_id)
    assert line.get("status") == (answer.status if is_status_known else None)
    assert line.get("reason") == answer.reason
    arrived = [one for one in world.faas.requests if ("x-request-id", request_id) in _lowered(one.fields)]
    received = None
    if arrived and not line.get("deferred"):  # what is accepted for later may have run already
        [invocation] = arrived
        received = Received(
            f"{invocation.method} {invocation.target.decode()}", invocation.fields, invocation.body.decode()
        )
    return Outcome(
        line["outcome"],
        answer.status,
        Reason(answer.reason) if answer.reason is not None else None,
        line.get("tenant"),
        arrived[0].function if arrived else None,
        line.get("rule"),
        answer.fields,
        received,
        tuple(map(Reason, line.get("shadowed", ()))),
    )


def _lowered(fields: tuple[tuple[str, str], ...]) -> set[tuple[str, str]]:
    return {(name.lower(), value) for name, value in fields}


async def _audited(world: World, request_id: str | None) -> dict[str, Any]:
    """The audit line of this request; of one that is answered later the first, which says that it was accepted."""
    audit = world.app.parts.audit
    assert audit is not None
    assert request_id is not None
    deadline = time.monotonic() + PATIENCE_S
    while True:
        audit.flush()
        text = (world.folder / "audit.log").read_text()
        found = [line for line in text.splitlines() if request_id in line]
        if found or time.monotonic() > deadline:
            parsed: list[dict[str, Any]] = [json.loads(line) for line in found]
            first, *others = parsed
            assert not others or first["deferred"]
            return first
        await asyncio.sleep(0.005)


def is_problem(answer: RawAnswer, *, is_head: bool) -> None:
    """RFC 9457, or a page for a browser; for HEAD the fields alone."""
    kind = answer.field("content-type")
    assert kind in {"application/problem+json", "text/html; charset=utf-8"}
    assert answer.field("cache-control") == "no-store"
    if is_head:
        assert answer.body == b""
    elif kind == "application/problem+json":
        document = answer.json()
        assert (document["status"], document["reason"]) == (answer.status, answer.reason)
        assert document["request_id"] == answer.field("x-request-id")
