"""
Every way in which the stock plugin server lets a request into the upstream, or hangs: with ours and the rendered
config the client is refused, the upstream gets nothing, and the next request is served.

The rows are those measured on a real Kong with the stock server. What fails inside of the server is made to fail
there; a server that is down, frozen or killed is a process. Longer than other modules: it is one table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio
import yaml

from gateway_plugins import portero
from gateway_plugins.handler import Call, Exit, Handler, Wait
from tests.fakes.kong_process import KilledWorld, killed_world
from tests.fakes.kong_world import DUMPS, Front, KongWorld, rendered, running_kong_world
from tests.fakes.pulse import Pulse
from tests.fakes.world import RawAnswer, request_bytes, send_raw

REPORT = "GET /function/survey-report"
CALLERS: Final = 4
"""At once, of each kind."""


class Seen(NamedTuple):
    """One answer; instants are monotonic."""

    began: float
    ended: float
    may: bool
    status: int


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(front: Front) -> AsyncIterator[KongWorld]:
    async with running_kong_world(front=front) as world:
        world.faas.add("survey-report", "acme")
        world.faas.add("survey-web", "acme")
        yield world


@pytest.fixture
def world(running: KongWorld) -> Iterator[KongWorld]:
    """With nothing left of the test before."""
    running.faas.requests.clear()
    yield running
    running.provider.is_down = False


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def served(world: KongWorld) -> None:
    """The usual request is, by the function, once."""
    before = len(world.faas.requests)
    answer = await world.get("/function/survey-report", token=world.token())
    assert answer.status == 200
    assert len(world.faas.requests) == before + 1


# --- what fails in the server ---------------------------------------------------------------------------------------


def before_a_call(_plugin: portero.Plugin, _front: Any) -> Handler:
    raise RuntimeError("s3cret")
    yield Call("kong.node.get_id")


def after_a_call(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.node.get_id")
    raise RuntimeError("s3cret")


def after_the_facts(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.ctx.shared.get", ("portero_facts",))
    yield Call("kong.service.set_target", ("127.0.0.1", 9))
    raise RuntimeError("s3cret")


def a_lua_error(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.service.set_target", ("127.0.0.1", "80"))
    return None


def the_wrong_phase(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.response.get_status")
    return None


def a_wait_that_fails(_plugin: portero.Plugin, _front: Any) -> Handler:
    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("s3cret")

    yield Wait(fails())
    return None


def no_verdict(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.node.get_id")
    return None


def a_verdict_of_nothing(_plugin: portero.Plugin, _front: Any) -> Handler:
    yield Call("kong.ctx.shared.set", ("portero_verdict", {}))
    return None


def a_verdict_without_host(_plugin: portero.Plugin, _front: Any) -> Handler:
    verdict = {"host": "127.0.0.1", "port": 9, "scheme": "http", "path": "/", "clear": [], "set": {}}
    timeouts = {"connect_ms": 1, "write_ms": 1, "read_ms": 1}
    yield Call("kong.ctx.shared.set", ("portero_verdict", {**verdict, "timeouts": timeouts}))
    return None


FAILURES = {
    before_a_call: 500,
    after_a_call: 500,
    after_the_facts: 500,
    a_lua_error: 500,
    the_wrong_phase: 500,
    a_wait_that_fails: 500,
    no_verdict: 503,
    a_verdict_of_nothing: 500,
    a_verdict_without_host: 500,
}


@pytest.mark.parametrize(("handler", "status"), FAILURES.items(), ids=lambda one: getattr(one, "__name__", ""))
async def test_a_plugin_that_fails_refuses(
    world: KongWorld, monkeypatch: pytest.MonkeyPatch, handler: Any, status: int
) -> None:
    """An exception at any place, a call that raises in Kong, no verdict or half of one; several times in a row."""
    with monkeypatch.context() as patched:
        patched.setattr(portero.Plugin, "answer", handler)
        for _ in range(3):
            answer = await world.send(request_bytes(REPORT, token=world.token()))
            assert answer.status == status
            assert b"s3cret" not in answer.wire
    assert world.faas.requests == []
    await served(world)


async def test_a_plugin_that_cannot_be_made_refuses(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """``StartInstance`` fails: 500 until it does not."""

    def fails(_plugin: portero.Plugin, _config: Any) -> None:
        raise RuntimeError("s3cret")

    async with running_kong_world(front=front) as world:
        world.faas.add("survey-report", "acme")
        with monkeypatch.context() as patched:
            patched.setattr(portero.Plugin, "__init__", fails)
            answer = await world.send(request_bytes(REPORT, token=world.token()))
            assert answer.status == 500
        assert world.faas.requests == []
        await served(world)


async def test_an_answer_of_three_megabytes_arrives_whole(world: KongWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first 200 kilobytes of it."""

    def big(_plugin: portero.Plugin, _front: Any) -> Handler:
        yield Call("kong.node.get_id")
        return Exit(403, {"Content-Type": "text/plain"}, b"x" * 3_000_000)

    with monkeypatch.context() as patched:
        patched.setattr(portero.Plugin, "answer", big)
        answer = await world.send(request_bytes(REPORT))
        assert (answer.status, len(answer.body)) == (403, 3_000_000)
    await served(world)


async def test_work_before_the_first_call_holds_up_nobody(world: KongWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight requests of which each waits for all the others are answered."""
    all_wait = asyncio.Barrier(8)

    def slow(_plugin: portero.Plugin, _front: Any) -> Handler:
        yield Wait(all_wait.wait())
        return Exit(403, {}, b"")

    with monkeypatch.context() as patched:
        patched.setattr(portero.Plugin, "answer", slow)
        answers = await asyncio.gather(*(world.send(request_bytes(REPORT)) for _ in range(8)))
        assert {answer.status for answer in answers} == {403}
    await served(world)


# --- what strangers send --------------------------------------------------------------------------------------------

HOSTILE = {
    "a field that nobody reads": ([("X-A", "\udcff")], 401),
    "the credential": ([("Authorization", "Bearer \udcff.\udcff.\udcff")], 400),
    "a cookie": ([("Cookie", "__Host-portero=\udcff; \udcff")], 400),
    "the trace": ([("traceparent", "\udcff")], 400),
    "the facts' own separator": ([("X-A", "a\x0bportero/1\x1fb")], 401),
    "a verdict": ([("portero_verdict", "x"), ("Portero-Facts", "x")], 401),
    "a pass": ([("X-Portero-Pass", "a" * 64)], 401),
    "an identity": ([("X-Portero-Subject", "root"), ("X_Portero_Subject", "root")], 401),
}


@pytest.mark.parametrize(("fields", "status"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_bytes_that_are_no_text_pass_nobody(world: KongWorld, fields: list[tuple[str, str]], status: int) -> None:
    """One byte ``0xff`` in anything a plugin reads made the stock server let everybody in."""
    answer = await world.send(request_bytes(REPORT, fields=fields))
    assert (answer.status, world.trace.verdict) == (status, "exit")
    assert world.faas.requests == []
    await served(world)


@pytest.mark.parametrize(
    ("target", "status"),
    [("/function/survey-report/\udcff", 404), ("/function/survey-report?\udcff", 400), ("/\udcff", 404)],
)
async def test_bytes_that_are_no_text_in_a_target_pass_nobody(world: KongWorld, target: str, status: int) -> None:
    """Refused for what they are; a path like that Kong's router itself finds nowhere."""
    answer = await world.send(request_bytes(f"GET {target}", token=world.token()))
    assert answer.status == status
    assert world.faas.requests == []
    await served(world)


async def test_such_a_byte_in_a_field_of_the_function_arrives(world: KongWorld) -> None:
    """Nobody here has to read it."""
    wire = request_bytes(REPORT, token=world.token(), fields=[("X-A", "\udcff")])
    assert (await world.send(wire)).status == 200
    assert dict(world.faas.requests[-1].fields)["X-A"] == "\udcff"


async def test_a_client_that_leaves_while_it_is_judged_leaves_nothing(
    world: KongWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kong does not notice; the event ends where it would have ended."""
    has_left = asyncio.Event()

    def slow(_plugin: portero.Plugin, _front: Any) -> Handler:
        yield Wait(has_left.wait())
        return Exit(403, {}, b"")

    server = world.app._server  # type: ignore[attr-defined]  # KongApp's
    before = server.running  # calls that raised in Kong wait for their time to be up
    with monkeypatch.context() as patched:
        patched.setattr(portero.Plugin, "answer", slow)
        _, writer = await asyncio.open_connection(*world.kong.address)
        writer.write(request_bytes(REPORT))
        async with asyncio.timeout(15):
            while server.running == before:  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.005)
            writer.transport.abort()
            await asyncio.sleep(0.05)
            has_left.set()
            while server.running > before:  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.005)
    assert world.faas.requests == []
    await served(world)


# --- what is missing in Kong ----------------------------------------------------------------------------------------


def _without(name: str, config: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(config)
    for service in document["services"]:
        service["plugins"] = [plugin for plugin in service["plugins"] if plugin["name"] != name]
    return document


@pytest.mark.parametrize(("missing", "status"), [("pre-function", 500), ("portero", 503), ("post-function", 502)])
async def test_a_plugin_that_is_missing_in_kong_refuses_everybody(
    world: KongWorld, front: Front, missing: str, status: int
) -> None:
    """No facts, no judgement; no verdict, no admission; nobody to aim it, the dead address."""
    config = _without(missing, rendered(world.policies))
    async with front(config, world.sockets, dumps=DUMPS) as kong:
        answer = await send_raw(kong.address, request_bytes(REPORT, token=world.token()))
        assert answer is not None
        assert answer.status == status
    assert world.faas.requests == []
    await served(world)


# --- the server down, frozen, killed --------------------------------------------------------------------------------


async def _asked(world: KilledWorld) -> RawAnswer:
    return await world.send(request_bytes(REPORT, token=world.token()))


async def _killed(world: KilledWorld) -> None:
    """Functions that run, and one request served, so that Kong's worker knows an instance."""
    world.faas.add("survey-report", "acme")
    assert (await _asked(world)).status == 200
    world.faas.requests.clear()


async def test_a_server_that_is_down_refuses(front: Front) -> None:
    """503 by the second lock; a worker that has no instance yet answers 500. Back, it serves at once."""
    async with killed_world(front=front) as world:
        await _killed(world)
        await world.kill()
        assert [(await _asked(world)).status for _ in range(3)] == [503, 503, 503]
        async with front(rendered(world.folder / "policies"), world.folder / "sockets", dumps=DUMPS) as other:
            answer = await send_raw(other.address, request_bytes(REPORT, token=world.token()))
            assert answer is not None
            assert answer.status == 500
            assert world.faas.requests == []
            await world.start()
            assert (await _asked(world)).status == 200
            again = await send_raw(other.address, request_bytes(REPORT, token=world.token()))
            assert again is not None
            assert again.status == 200


async def test_a_server_that_is_silent_refuses(front: Front) -> None:
    """Beyond Kong's read timeout; connections with answers outstanding refuse, too, and then all is well."""
    async with killed_world(read_timeout_s=2.0, front=front) as world:
        await _killed(world)
        world.freeze()
        answers = await asyncio.gather(*(_asked(world) for _ in range(4)))
        assert {answer.status for answer in answers} == {503}
        assert world.kong.said("no data") >= 4
        world.thaw()
        assert {(await _asked(world)).status for _ in range(8)} <= {200, 500, 503}
        assert (await _asked(world)).status == 200
        assert len(world.faas.requests) == [trace.status for trace in world.kong.requests[1:]].count(200)


async def test_a_server_that_comes_back_takes_no_old_instance_for_another(front: Front) -> None:
    """Instance ids do not begin anew: Kong is told that there is none, and starts it."""
    async with killed_world(front=front) as world:
        await _killed(world)
        await world.kill()
        await world.start()
        assert (await _asked(world)).status == 200
        assert world.kong.said("no plugin instance") == 1


@pytest.mark.slow
async def test_killed_under_load_nobody_passes_unjudged(front: Front) -> None:
    """Half of the callers may not: they are refused before, meanwhile and after. Back within 2 s of its start."""
    with Pulse() as pulse:
        async with killed_world(front=front) as world:
            await _killed_under_load(world, pulse)


async def _killed_under_load(world: KilledWorld, pulse: Pulse) -> None:
    await _killed(world)
    allowed, others = request_bytes(REPORT, token=world.token()), request_bytes(REPORT)
    seen: list[Seen] = []
    is_over = asyncio.Event()

    async def caller(wire: bytes) -> None:
        while not is_over.is_set():
            began = time.monotonic()
            answer = await world.send(wire)
            seen.append(Seen(began, time.monotonic(), wire is allowed, answer.status))

    async def answers(count: int) -> float:
        """Instant at which so many more have come."""
        most = len(seen) + count
        async with asyncio.timeout(20):
            while len(seen) < most:  # noqa: ASYNC110  # the callers tell nobody
                await asyncio.sleep(0.01)
        return time.monotonic()

    callers = [asyncio.create_task(caller(wire)) for wire in (allowed, others) for _ in range(CALLERS)]
    try:
        await answers(10 * CALLERS)
        await world.kill()
        killed_at = time.monotonic()
        gone_until = await answers(10 * CALLERS)
        await world.start()
        started_at = time.monotonic()
        async with asyncio.timeout(20):
            while not (back := [one.ended for one in seen if one.began > killed_at and one.status == 200]):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
        settled_at = await answers(10 * CALLERS)
        await answers(10 * CALLERS)
    finally:
        is_over.set()
        await asyncio.gather(*callers)
    assert {one.status for one in seen if not one.may} <= {401, 502, 503}
    assert {one.status for one in seen if one.may} <= {200, 502, 503}
    meanwhile = {one.status for one in seen if one.began > killed_at and one.ended < gone_until}
    assert meanwhile
    assert meanwhile <= {502, 503}
    served = sum(one.status == 200 for one in seen)
    assert served <= len(world.faas.requests) <= served + CALLERS  # some were at the function when it was killed
    assert {dict(one.fields)["X-Portero-Subject"] for one in world.faas.requests} == {"login|ana"}
    assert pulse.took_s(started_at, back[0]) < 2.0
    assert {one.status for one in seen if one.began > settled_at and one.may} == {200}
    assert {one.status for one in seen if one.began > settled_at and not one.may} == {401}
