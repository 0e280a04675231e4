"""
Requests that are answered later through the whole proxy: 202, a result to fetch, a callback, and who may have it.

Longer than other modules: one story, from what is promised to what is left of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from authproxy.app import App
from authproxy.edges.protocol import ClientConnection
from authproxy.settings import Settings
from tests.fakes.callback_receiver import CallbackReceiver
from tests.fakes.jobs import until
from tests.fakes.openfaas import Invocation
from tests.fakes.patient_redis import patience_with_redis
from tests.fakes.redis_server import redis_server
from tests.fakes.world import PLAIN, RawAnswer, World, parse_answer, request_bytes, running_world, send_raw

ASYNC = ("Prefer", "respond-async")
_WRITTEN = {
    "survey-submit: {access: public, max_body: 1KiB}": "survey-submit: {access: public, max_body: 1MiB, "
    "async: {max_async: 3, keep: 10m, callbacks: [127.0.0.1]}}\n  closed-one: {access: public, async: {allow: false}}",
    "survey-report: {cold_start: {max_wait: 10s, max_held: 2000}}": "survey-report: {cold_start: {max_wait: 10s, "
    "max_held: 1, overflow: async}, async: {max_async: 20}}",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain world, with functions that are answered later."""
    folder: Path = tmp_path_factory.mktemp("async") / "policies"
    shutil.copytree(PLAIN, folder)
    text = (folder / "acme.yaml").read_text()
    for was, now in _WRITTEN.items():
        assert was in text
        text = text.replace(was, now)
    (folder / "acme.yaml").write_text(text)
    return folder


@pytest.fixture
async def world(written: Path) -> AsyncIterator[World]:
    async with running_world(written) as world:
        yield world


def fields_of(invocation: Invocation) -> dict[str, str]:
    return {name.lower(): value for name, value in invocation.fields}


def asked(world: World) -> list[Invocation]:
    """What the functions got, but for probes."""
    return [invocation for invocation in world.faas.requests if invocation.path != b"/_/health"]


async def submit(world: World, *fields: tuple[str, str], **options: Any) -> RawAnswer:
    line = options.pop("line", "POST /function/survey-submit")
    return await world.send(request_bytes(line, fields=list(fields), body=options.pop("body", b"five"), **options))


def place_of(answer: RawAnswer) -> str:
    assert answer.status == 202, answer
    place = answer.field("location")
    assert place is not None
    return place


async def fetched(world: World, place: str, **options: Any) -> RawAnswer:
    """The result, once it is there."""
    async with asyncio.timeout(20):
        while (answer := await world.get(place, **options)).field("x-portero-result") == "pending":
            assert answer.status == 202
            assert answer.field("retry-after")
            await asyncio.sleep(0.02)
    return answer


async def test_a_cold_start_need_not_be_waited_for(world: World) -> None:
    """202 at once, pending while the function wakes, then its own answer, as often as it is asked for."""

    async def answers(invocation: Invocation) -> web.StreamResponse:
        return web.Response(status=201, body=b"got " + invocation.body, headers={"X-Mine": "1", "Set-Cookie": "a=b"})

    key = world.faas.add("survey-submit", "acme", replicas=0, start_s=60, handler=answers)
    accepted = await submit(world, ASYNC)
    place = place_of(accepted)
    assert accepted.field("preference-applied") == "respond-async"
    assert accepted.json()["survives_restart"] is False
    assert (await world.get(place)).field("x-portero-result") == "pending"
    await until(lambda: world.faas.wake_calls)
    world.faas.awake[key] = 1
    for _ in range(2):
        answer = await fetched(world, place)
        assert (answer.status, answer.body) == (201, b"got five")
        assert answer.field("x-mine") == "1"
        assert answer.field("set-cookie") is None
        assert "no-store" in (answer.field("cache-control") or "")
        assert answer.field("x-content-type-options") == "nosniff"
        assert "sandbox" in answer.all("content-security-policy")
    assert world.faas.wake_calls == [key]
    assert len(asked(world)) == 1
    assert world.app.parts.metrics.results_total.value(("acme", "done")) == 1


async def test_a_large_body_waits_with_its_request(world: World) -> None:
    """Beyond what is kept in memory; each caller gets back what it sent."""
    world.faas.add("survey-submit", "acme", replicas=0, start_s=0.3)
    bodies = [bytes([65 + number]) * 300_000 for number in range(3)]
    places = [place_of(await submit(world, ASYNC, body=body)) for body in bodies]
    for place in places:
        assert (await fetched(world, place)).status == 200
    assert sorted(invocation.body for invocation in asked(world)) == bodies
    await until(lambda: not world.app.parts.metrics.held_body_bytes.value())


@pytest.mark.parametrize("size", [5, 300_000])
async def test_a_request_for_later_keeps_nothing_of_its_connection(world: World, size: int) -> None:
    """It may wait for ten minutes; its client is gone by then, and its body is all there is to keep."""
    world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    reader, writer = await asyncio.open_connection(*world.app.public_address)
    writer.write(request_bytes("POST /function/survey-submit", fields=[ASYNC], body=b"x" * size))
    edge = world.app._public
    assert edge is not None
    place = place_of(parse_answer(await reader.read()))
    writer.close()
    await until(lambda: not edge.connections)

    def is_forgotten() -> bool:
        gc.collect()
        return not any(type(one) is ClientConnection for one in gc.get_objects())

    await until(is_forgotten)
    world.faas.awake["survey-submit.acme"] = 1
    answer = await fetched(world, place)
    assert answer.json()["body"] == "x" * size


async def test_openfaas_callers_need_not_change(world: World) -> None:
    """/async-function/NAME with X-Callback-Url: the function and the receiver see one X-Call-Id."""
    world.faas.add("survey-submit", "acme", replicas=0, start_s=0.2)
    async with CallbackReceiver((503, 200)) as receiver:
        accepted = await submit(
            world, ("X-Callback-Url", receiver.url), ("X-Call-Id", "mine"), line="POST /async-function/survey-submit"
        )
        call_id = accepted.field("x-call-id")
        assert place_of(accepted) == f"/.portero/result/{call_id}"
        first, second = await receiver.wait_for(2)
    assert (first.method, first.path, first.body) == ("POST", "/hook", second.body)
    fields = second.fields
    assert (fields["x-call-id"], fields["x-function-name"], fields["x-function-status"]) == (
        call_id,
        "survey-submit",
        "200",
    )
    assert float(fields["x-duration-seconds"]) < 20
    (invocation,) = asked(world)
    assert fields_of(invocation)["x-call-id"] == call_id
    assert "x-callback-url" not in fields_of(invocation)
    assert (await fetched(world, place_of(accepted))).body == second.body
    await until(lambda: world.app.parts.metrics.callbacks_total.value(("acme", "delivered")) == 1)


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        ("GET /async-function/survey-submit", 405, "method-not-allowed"),
        ("POST /async-function/closed-one", 404, "route-unknown"),
        ("POST /async-function/hidden", 404, "route-unknown"),
        ("POST /async-function", 404, "route-unknown"),
    ],
)
async def test_async_function_is_a_path_like_another(world: World, line: str, status: int, reason: str) -> None:
    """With OpenFaaS' one method, and where policy allows it."""
    answer = await submit(world, line=line)
    assert (answer.status, answer.reason) == (status, reason)


async def test_a_result_is_its_owners(world: World) -> None:
    """Same tenant and same subject: everybody else learns nothing, not even that there is one."""
    world.faas.add("survey-report", "acme")
    world.faas.add("survey-report", "globex")
    token = world.token()
    place = place_of(await world.get("/reports/es", token=token, fields=[ASYNC]))
    assert (await fetched(world, place, token=token)).status == 200
    unknown = place[:-22] + "A" * 22
    strangers = [
        await world.get(place),
        await world.get(place, token=world.token("bob")),
        await world.get(place, token=world.token("ana", tenants=("globex",)), host="globex.test"),
        await world.get(place, host="globex.test"),
        await world.get(unknown, token=token),
        await world.send(request_bytes(f"DELETE {place}", token=world.token("bob"))),
    ]
    assert {(answer.status, answer.reason) for answer in strangers} == {(404, "result-unknown")}
    deleted = await world.send(request_bytes(f"DELETE {place}", token=token))
    assert deleted.status == 204
    assert (await world.get(place, token=token)).reason == "result-unknown"


async def test_a_deleted_request_never_reaches_its_function(world: World) -> None:
    """Who deletes a pending result wants nothing any more."""
    key = world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    place = place_of(await submit(world, ASYNC))
    assert (await world.send(request_bytes(f"DELETE {place}"))).status == 204
    await until(lambda: not world.app.parts.activator.held)
    await until(lambda: world.app.parts.metrics.results_total.value(("acme", "deleted")) == 1)
    world.faas.awake[key] = 1
    await asyncio.sleep(0.3)
    assert not asked(world)


async def test_a_stranger_is_not_promised_anything(world: World) -> None:
    """The five questions come first: no result, no wake, whatever is preferred."""
    world.faas.add("survey-report", "acme", replicas=0)
    for token in (None, "nonsense", world.token("bob", ()), world.token(tenants=("globex",))):
        answer = await world.get("/reports/es", token=token, fields=[ASYNC])
        assert answer.status in {401, 403}
        answer = await submit(world, line="POST /async-function/survey-report", token=token)
        assert answer.status in {401, 403}
    assert not world.faas.wake_calls
    assert not world.app.parts.results.sizes().pending


async def test_what_overflows_is_answered_later(world: World) -> None:
    """overflow: async: who finds no place to wait gets 202 instead of a refusal, and its answer in the end."""
    key = world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    token = world.token()
    waiting = asyncio.create_task(world.get("/reports/es", token=token))
    await until(lambda: world.app.parts.activator.held)
    spared = await world.get("/reports/de", token=token)
    place = place_of(spared)
    assert spared.field("preference-applied") is None
    world.faas.awake[key] = 1
    assert (await waiting).status == 200
    assert (await fetched(world, place, token=token)).status == 200
    assert len(asked(world)) == 2


async def test_a_caller_has_so_many_under_way(world: World) -> None:
    """max_async: of its address, for nobody in particular; it may go on when one is done."""
    key = world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
    places = [place_of(await submit(world, ASYNC)) for _ in range(3)]
    refused = await submit(world, ASYNC)
    assert (refused.status, refused.reason) == (429, "queue-full")
    assert refused.field("retry-after")
    world.faas.awake[key] = 1
    for place in places:
        await fetched(world, place)
    place_of(await submit(world, ASYNC))


async def test_who_may_no_longer_is_refused_when_it_runs(world: World) -> None:
    """A role that is taken away meanwhile: the result is that refusal, and the function never saw the request."""
    key = world.faas.add("survey-report", "acme", replicas=0, start_s=60)
    token = world.token()
    place = place_of(await world.get("/reports/es", token=token, fields=[ASYNC]))
    file = world.policies / "acme.yaml"
    file.write_text(file.read_text().replace("groups: [analysts]", "groups: [others]"))
    assert await world.app.parts.folder.reload()
    world.faas.awake[key] = 1
    answer = await fetched(world, place, token=token)
    assert (answer.status, answer.reason) == (403, "no-rule-allows")
    assert json.loads(answer.body)["reason"] == "no-rule-allows"
    assert not asked(world)


async def test_a_burst_of_requests_for_later_leaves_nothing(world: World) -> None:
    """Each has its own result, whoever's was first; all counters return to nothing."""
    world.faas.add("survey-web", "acme", replicas=0, start_s=0.3)

    async def one(number: int) -> None:
        token = world.token(f"ana-{number}")
        place = place_of(await world.get(f"/function/survey-web/c{number}", token=token, fields=[ASYNC]))
        answer = await fetched(world, place, token=token)
        assert f"c{number}".encode() in answer.body

    await asyncio.gather(*(one(number) for number in range(30)))
    assert len(asked(world)) == 30
    await until(lambda: not world.app.parts.live)
    assert not world.app.parts.activator.held


@pytest.mark.redis
async def test_a_result_is_fetched_wherever_it_is_asked_for(written: Path) -> None:
    """Two Porteros with one Redis: accepted at one, fetched at the other, kept over the end of the first."""
    with redis_server() as redis, patience_with_redis():
        async with running_world(written, redis=redis.url) as world:
            world.faas.add("survey-submit", "acme")
            settings: dict[str, Any] = {
                "policies": world.policies,
                "secrets": world.folder / "secrets",
                "listen": ("127.0.0.1", 0),
                "admin": ("127.0.0.1", 0),
                "audit": "off",
                "allow_loopback_http": True,
                "redis": redis.url,
            }
            other = App(Settings(**settings))
            await other.start()
            try:
                accepted = await submit(world, ASYNC)
                assert accepted.json()["kept_in"] == "redis"
                assert "a restart of this server before that ends the request" in accepted.json()["detail"]
                place = place_of(accepted)
                assert (await fetched(world, place)).status == 200
                world.faas.add("survey-submit", "acme", replicas=0, start_s=60)
                await asyncio.sleep(1.5)  # until nobody believes any more that it is awake
                stopped = place_of(await submit(world, ASYNC))
                await world.app.stop(0.1)
                for where, status in ((place, 200), (stopped, 503)):
                    answer = await send_raw(other.public_address, request_bytes(f"GET {where}"))
                    assert answer is not None
                    assert (answer.status, answer.field("x-portero-result")) == (status, "done")
            finally:
                await other.stop(0)
