"""
Every way in which Kong's stock server for Python lets a request through, loses one, or grows: here it is a refusal.

The rows are those of the failure table that was measured on a real Kong 3.9.1 with kong-pdk 0.36.

Longer than other modules: each row of what can fail has its own rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from gateway_plugins import stock
from gateway_plugins.events import Event
from gateway_plugins.handler import Call, Exit, Handler, Wait
from gateway_plugins.instances import Instances
from gateway_plugins.server import PluginServer
from tests.fakes.identity import Clock
from tests.fakes.plugin_caller import Served, module, served, until


@contextlib.contextmanager
def standing_clock() -> Iterator[Clock]:
    """What the server goes by, but for the loop's own timers, is as late as the test says."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for name in ("server", "events", "protocol"):
            stack.enter_context(patch(f"gateway_plugins.{name}.time", SimpleNamespace(monotonic=clock)))
        yield clock


def one_event(world: Served) -> Event:
    """The only one that runs."""
    [event] = world.server._events._running.values()
    return event


def before(_config: Mapping[str, Any]) -> Handler:
    if _config is not None:
        raise RuntimeError("s3cret: before the first call")
    yield Call("kong.node.get_id")
    return None


def not_a_generator(_config: Mapping[str, Any]) -> Any:
    raise RuntimeError("s3cret: no generator at all")


def nothing(_config: Mapping[str, Any]) -> Any:
    return None


def strange_wish(_config: Mapping[str, Any]) -> Any:
    yield "s3cret"


def no_awaitable(_config: Mapping[str, Any]) -> Handler:
    yield Wait("s3cret")  # type: ignore[arg-type] # the mistake is the test
    return None


def unpackable(_config: Mapping[str, Any]) -> Handler:
    yield Call("kong.ctx.shared.set", ("s3cret", object()))
    return None


def surrogate(_config: Mapping[str, Any]) -> Handler:
    yield Call("kong.ctx.shared.set", ("s3cret", "\ud800"))
    return None


def strange_end(_config: Mapping[str, Any]) -> Any:
    return "s3cret"
    yield Call("")


def truthy_end(_config: Mapping[str, Any]) -> Any:
    return True
    yield Call("")


def unpackable_exit(_config: Mapping[str, Any]) -> Handler:
    return Exit(403, {"x": object()}, b"")  # type: ignore[dict-item] # the mistake is the test
    yield Call("")


def cancels_itself(_config: Mapping[str, Any]) -> Handler:
    if _config is not None:
        raise asyncio.CancelledError
    yield Call("")
    return None


@pytest.mark.parametrize(
    "answer",
    [
        before,
        not_a_generator,
        nothing,
        strange_wish,
        no_awaitable,
        unpackable,
        surrogate,
        strange_end,
        truthy_end,
        unpackable_exit,
        cancels_itself,
    ],
    ids=lambda answer: answer.__name__,
)
async def test_a_handler_that_fails_at_once_is_a_refusal(
    answer: Callable[[Mapping[str, Any]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The stock server is silent, and its lock stays held: every later event hangs for ever."""
    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        for _ in range(3):
            refused = await kong.begin(instance)
            assert (refused.status, refused.reason) == (500, "internal-error")
            assert b"s3cret" not in refused.args[1]
        assert world.server.running == 0
    assert "handler-failed" in capsys.readouterr().err


async def test_a_handler_that_fails_after_a_call_is_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    """The stock server never answers: 60 seconds, fail open, a poisoned connection."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        raise RuntimeError("s3cret: after")

    async with served(module(answer)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        refused = await kong.step(first.event)
        assert (refused.status, refused.reason) == (500, "internal-error")
        assert b"s3cret" not in refused.args[1]
        assert world.server.running == 0
    assert "s3cret: after" in capsys.readouterr().err


async def test_a_wait_that_fails_is_a_refusal_where_kong_waits() -> None:
    """Whatever the gate raises, and however late, is answered."""

    async def fails_late() -> None:
        await asyncio.sleep(0.02)
        raise RuntimeError("late")

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Wait(fails_late())
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        assert (await kong.begin(await kong.instance())).reason == "internal-error"


async def test_many_failures_do_not_fill_a_disk(capsys: pytest.CaptureFixture[str]) -> None:
    """Who has found a request that fails cannot write a line for each of them: ten a second."""
    async with served(module(before)) as world:
        world.server._events._failures._clock = clock = Clock()
        kong = await world.caller()
        instance = await kong.instance()
        for _ in range(2):
            for _ in range(150):
                await kong.begin(instance)
            clock.pass_s(1)
    assert capsys.readouterr().err.count("handler-failed") == 20


async def test_a_long_silence_is_filled_with_a_cheap_call() -> None:
    """Kong's patience ends after 60 s of silence; it is asked for something before, and the wait goes on."""
    gate = asyncio.Event()

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Wait(gate.wait())
        return Exit(204, {}, b"waited")

    async with served(module(answer), keepalive_s=0.03) as world:
        one, two = await world.caller(), await world.caller()
        step = await one.begin(await one.instance())
        for caller in (two, one, one, two):
            assert (step.method, step.args) == ("kong.node.get_id", [])
            step = await caller.step(step.event, b"00000000-0000-4000-8000-000000000000")
        gate.set()
        step = await two.step(step.event, b"id")
        assert step.args[1] == b"waited"
        assert world.server.running == 0


def test_no_silence_is_as_long_as_kongs_patience() -> None:
    """60 s by default (``nginx_http_lua_socket_read_timeout``); on either server."""
    keepalive_s = inspect.signature(PluginServer).parameters["keepalive_s"].default
    assert max(keepalive_s, stock.SILENCE_S) <= 20


async def test_what_ends_while_kong_is_at_work_is_told_at_its_next_step() -> None:
    """The result waits for the step; it is sent once, and the cheap call's own result is nobody's."""
    gate = asyncio.Event()
    seen = []

    async def result() -> str:
        await gate.wait()
        return "result"

    def answer(_config: Mapping[str, Any]) -> Handler:
        seen.append((yield Wait(result())))
        seen.append((yield Call("kong.ctx.shared.get", ("x",))))
        return None

    async with served(module(answer), keepalive_s=0.02) as world:
        kong = await world.caller()
        step = await kong.begin(await kong.instance())
        assert step.method == "kong.node.get_id"
        gate.set()
        await asyncio.sleep(0.01)
        step = await kong.step(step.event, b"node")
        assert step.method == "kong.ctx.shared.get"
        assert (await kong.step(step.event, b"x")).is_over
        assert seen == ["result", b"x"]


async def test_a_step_of_an_event_that_kong_waits_for_already_is_refused() -> None:
    """Two that claim the same event: the one that came later has no say in it."""
    gate = asyncio.Event()

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        yield Wait(gate.wait())
        return None

    async with served(module(answer)) as world:
        one, two = await world.caller(), await world.caller()
        first = await one.begin(await one.instance())
        asked = asyncio.create_task(one.step(first.event))
        await until(lambda: one_event(world).connection is not None)
        for method in ("Step", "StepError"):
            assert (await two.step(first.event, method=method)).reason == "policy-unavailable"
        gate.set()
        assert (await asked).is_over


@pytest.mark.parametrize("event", [0, 1, -1, 2**64 - 1, 0.5, float("nan"), "1", None, True, [1], {"a": 1}], ids=repr)
@pytest.mark.parametrize("method", ["Step", "StepError"])
async def test_a_step_of_no_event_is_a_refusal(event: Any, method: str) -> None:
    """After a restart Kong comes with events of before. An error would let them through to their service."""
    async with served(module(before)) as world:
        kong = await world.caller()
        refused = await kong.step(event, b"x", method)
        assert (refused.status, refused.reason) == (503, "policy-unavailable")


async def test_a_call_that_kong_says_failed_is_a_refusal() -> None:
    """No Kong of today says so; the handler knows no way on."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        assert (await kong.step(first.event, "bad", "StepError")).reason == "internal-error"
        assert world.server.running == 0


async def test_an_ended_event_cannot_be_stepped_again() -> None:
    """A verdict is told once."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        assert (await kong.step(first.event)).is_over
        assert (await kong.step(first.event)).status == 503


@pytest.mark.parametrize("phase", ["log", "rewrite", "response", "__init__", ""])
async def test_there_is_one_phase(phase: str) -> None:
    """The phase is a name that Kong sends; it reaches no attribute of the plugin."""
    async with served(module(before)) as world:
        kong = await world.caller()
        with pytest.raises(RuntimeError, match="phase access only"):
            await kong.begin(await kong.instance(), phase)


async def test_a_mistake_of_ours_is_an_answer_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kong is told of an error, the connection stays, and the error's text with us."""

    def breaks(*_arguments: object) -> None:
        raise RuntimeError("s3cret")

    async with served(module(truthy_end)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        with monkeypatch.context() as patched:
            patched.setattr(Instances, "get", breaks)
            with pytest.raises(RuntimeError, match="internal error"):
                await kong.begin(instance)
        assert (await kong.begin(instance)).status == 500
    assert "rpc-failed" in capsys.readouterr().err


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_events_beyond_the_bound_are_refused_at_once() -> None:
    """503 with Retry-After, not a queue."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        return None

    async with served(module(answer), max_events=3) as world:
        kong = await world.caller()
        instance = await kong.instance()
        running = [await kong.begin(instance) for _ in range(3)]
        refused = await kong.begin(instance)
        assert (refused.status, refused.reason) == (503, "overloaded")
        assert int(refused.args[2][b"Retry-After"]) >= 1
        assert (await kong.step(running[0].event)).is_over
        assert (await kong.begin(instance)).method == "kong.node.get_id"


async def test_an_event_that_kong_never_comes_back_to_is_closed() -> None:
    """A call that fails inside Kong is never told; the stock server keeps such a thread for ever."""
    ended = []

    def answer(_config: Mapping[str, Any]) -> Handler:
        try:
            yield Call("kong.service.request.set_header", ("bad", {}))
        finally:
            ended.append("closed")
        return None

    async with served(module(answer), step_timeout_s=0.1) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        await world.quiet()
        assert ended == ["closed"]
        assert (await kong.step(first.event)).status == 503


async def test_a_wait_is_not_a_silence_of_kong() -> None:
    """Kong's own time runs only while it is at work."""
    gate = asyncio.Event()

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Wait(gate.wait())
        return None

    async with served(module(answer), step_timeout_s=0.05) as world:
        kong = await world.caller()
        asked = asyncio.create_task(kong.begin(await kong.instance()))
        await asyncio.sleep(0.2)
        gate.set()
        assert (await asked).is_over


@pytest.mark.parametrize("is_kept_alive", [False, True], ids=["while Kong waits", "while Kong is at work"])
async def test_a_wait_that_nobody_asks_for_any_more_is_cancelled(is_kept_alive: bool) -> None:
    """Kong's worker died: what the gate took for the request is given back."""
    ended: list[str] = []

    async def hold() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    def answer(_config: Mapping[str, Any]) -> Handler:
        try:
            yield Wait(hold())
        finally:
            ended.append("closed")
        return None

    async with served(module(answer), step_timeout_s=0.1, keepalive_s=0.02 if is_kept_alive else 15) as world:
        kong = await world.caller()
        kong.say("HandleEvent", {"InstanceId": await kong.instance(), "EventName": "access"})
        if is_kept_alive:
            await kong.hear()
        else:
            await world.quiet(1)
            await kong.close()
        await world.quiet()
        await until(lambda: sorted(ended) == ["cancelled", "closed"])


class Taking:
    """A handler that has to give back what its wait comes to, as the gate's places are."""

    def __init__(self, *, is_stubborn: bool = False) -> None:
        self.done = asyncio.Event()
        self.is_stubborn = is_stubborn
        self.told: list[str] = []

    async def take(self) -> str:
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            if not self.is_stubborn:
                raise
        self.told.append("taken")
        return "a place"

    def answer(self, _config: Mapping[str, Any]) -> Handler:
        place = yield Wait(self.take())
        try:
            yield Call("kong.ctx.shared.set", ("portero_verdict", place))
        except BaseException:
            self.told.append(f"{place} given back")
            raise
        return None


async def test_what_came_of_a_wait_is_given_back_when_kong_never_comes_for_it() -> None:
    """It was there while Kong was at work for us, and Kong's worker died."""
    plugin = Taking()
    with standing_clock() as clock:
        async with served(module(plugin.answer), step_timeout_s=0.1, keepalive_s=0.02) as world:
            kong = await world.caller()
            assert (await kong.begin(await kong.instance())).method == "kong.node.get_id"
            plugin.done.set()
            await until(lambda: plugin.told == ["taken"])
            clock.pass_s(0.2)
            await world.quiet()
            assert plugin.told == ["taken", "a place given back"]


async def test_what_came_of_a_wait_is_given_back_when_kong_leaves_at_that_moment() -> None:
    """The connection breaks between the result and the turn of the loop that would have answered."""
    plugin = Taking()
    async with served(module(plugin.answer)) as world:
        kong = await world.caller()
        kong.say("HandleEvent", {"InstanceId": await kong.instance(), "EventName": "access"})
        await world.quiet(1)
        event = one_event(world)
        assert event.future is not None
        plugin.done.set()
        while not event.future.done():  # noqa: ASYNC110 (each turn of the loop counts)
            await asyncio.sleep(0)
        event.lost()
        assert plugin.told == ["taken", "a place given back"]


@pytest.mark.parametrize("comes", [False, True], ids=["Kong does not come", "Kong comes"])
async def test_what_came_of_a_wait_is_given_back_at_the_end_of_the_drain(comes: bool) -> None:
    """Whoever comes too late is refused; what was taken for it is not kept."""
    plugin = Taking()
    with standing_clock() as clock:
        async with served(module(plugin.answer), keepalive_s=0.02) as world:
            kong = await world.caller()
            step = await kong.begin(await kong.instance())
            plugin.done.set()
            stopping = asyncio.create_task(world.server.stop(0.1))
            await until(lambda: plugin.told == ["taken"])
            clock.pass_s(0.2)
            await until(lambda: world.server._events._is_closed)
            if comes:
                assert (await kong.step(step.event)).reason == "draining"
            clock.pass_s(0.2)
            await stopping
            assert plugin.told == ["taken", "a place given back"]


async def test_what_cannot_be_cancelled_any_more_is_given_back() -> None:
    """A wait may be past the point where it can be stopped."""
    plugin = Taking(is_stubborn=True)
    async with served(module(plugin.answer)) as world:
        kong = await world.caller()
        kong.say("HandleEvent", {"InstanceId": await kong.instance(), "EventName": "access"})
        await world.quiet(1)
        await kong.close()
        await world.quiet()
        await until(lambda: plugin.told == ["taken", "a place given back"])


async def test_a_generator_that_does_not_want_to_end_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """It can yield and raise at its close as it likes: the event is over."""

    def stubborn(config: Mapping[str, Any]) -> Iterator[Call]:
        try:
            yield Call("kong.node.get_id")
        finally:
            if config.get("raises"):
                raise RuntimeError("it does not end")
            yield Call("kong.node.get_id")

    async with served(module(stubborn), step_timeout_s=0.05) as world:  # type: ignore[arg-type] # the mistake is the test
        kong = await world.caller()
        await kong.begin(await kong.instance())
        await kong.begin(await kong.instance({"raises": True}))
        await world.quiet()
        assert (await kong.begin(await kong.instance())).method == "kong.node.get_id"
    assert capsys.readouterr().err.count("handler-failed-at-its-end") >= 2


async def test_fifty_thousand_refusals_leave_nothing_behind() -> None:
    """The stock server grows by 10 kB with each of them."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.ctx.shared.get", ("facts",))
        return Exit(403, {"X-Reason": "no"}, b"x" * 1000)

    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()

        async def refuse(count: int) -> None:
            """In pipelines of 500 first messages, then their steps: as fast as one connection takes them."""
            for _ in range(count // 500):
                message = kong.message(1, "HandleEvent", {"InstanceId": instance, "EventName": "access"})
                kong.writer.write(message * 500)
                events = [(await kong.hear())[3][b"EventId"] for _ in range(500)]
                assert world.server.running == 500
                kong.writer.write(b"".join(kong.message(2, "Step", {"EventId": event}) for event in events))
                heard = [(await kong.hear())[3][b"Data"][b"Args"][0] for _ in events]
                assert heard == [403] * 500
            assert world.server.running == 0

        await refuse(2_000)
        gc.collect()
        before_ = len(gc.get_objects())
        await refuse(50_000)
        gc.collect()
        assert len(gc.get_objects()) - before_ < 500


# -- bodies, halves, readers -------------------------------------------------------------------------------------------


async def test_three_megabytes_come_and_go() -> None:
    """The stock server with greenlets sends a part of an answer beyond 200 kB, and hangs."""
    body = bytes(range(256)) * 12_000

    def answer(_config: Mapping[str, Any]) -> Handler:
        found = yield Call("kong.request.get_raw_body")
        return Exit(200, {}, found + b"!")

    async with served(module(answer)) as world:
        kong = await world.caller()
        for _ in range(2):
            first = await kong.begin(await kong.instance())
            assert (await kong.step(first.event, body)).args[1] == body + b"!"


async def test_a_message_may_come_byte_by_byte() -> None:
    """Nothing depends on what arrives together."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        return Exit(403, {}, (yield Call("kong.request.get_header", ("x",))))

    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        for byte in kong.message(9, "HandleEvent", {"InstanceId": instance, "EventName": "access"}):
            kong.writer.write(bytes([byte]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        reply = await kong.hear()
        assert reply[1] == 9
        whole = kong.message(10, "Step", {"EventId": reply[3][b"EventId"], "Data": b"word"})
        for cut in range(0, len(whole), 7):
            kong.writer.write(whole[cut : cut + 7])
            await asyncio.sleep(0.001)
        assert (await kong.hear())[3][b"Data"][b"Args"][1] == b"word"


async def test_a_connection_whose_reply_was_not_read_stays_in_order() -> None:
    """A poisoned connection: the next asker finds the old reply first, by its number, then its own."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        unread = kong.say("HandleEvent", {"InstanceId": instance, "EventName": "access"})
        asked = kong.say("HandleEvent", {"InstanceId": instance, "EventName": "access"})
        replies = [await kong.hear(), await kong.hear()]
        assert [reply[1] for reply in replies] == [unread, asked]
        assert replies[0][3][b"EventId"] != replies[1][3][b"EventId"]


async def test_who_does_not_read_is_not_answered_for_ever() -> None:
    """What waits to be written is bounded: no more is taken from who does not read, and in the end it is cut off."""
    made = 0

    def answer(_config: Mapping[str, Any]) -> Handler:
        nonlocal made
        made += 1
        return Exit(200, {}, bytes(100_000))
        yield Call("")

    async with served(module(answer), silent_s=0.3) as world:
        kong, other = await world.caller(), await world.caller()
        instance = await kong.instance()
        kong._reader._transport.pause_reading()  # type: ignore[attr-defined] # streams have no other way to stop reading
        kong.writer.write(kong.message(1, "HandleEvent", {"InstanceId": instance, "EventName": "access"}) * 2000)
        await until(lambda: made > 0)
        assert (await other.begin(instance)).status == 200
        await world.connected(1)
        assert made < 20


async def test_a_reader_that_was_slow_gets_everything() -> None:
    """Writing goes on where it stopped, and reading with it."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        return Exit(200, {}, bytes(100_000))
        yield Call("")

    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        kong._reader._transport.pause_reading()  # type: ignore[attr-defined] # streams have no other way to stop reading
        message = kong.message(1, "HandleEvent", {"InstanceId": instance, "EventName": "access"})
        kong.writer.write(message * 100)
        await asyncio.sleep(0.05)
        kong._reader._transport.resume_reading()  # type: ignore[attr-defined] # as above
        for _ in range(100):
            assert (await kong.hear())[3][b"Data"][b"Args"][0] == 200


async def test_connections_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """One too many is closed at once and told once a second; those that are there go on."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        return Exit(403, {}, b"")
        yield Call("")

    async with served(module(answer), max_connections=2) as world:
        world.server._connections._refused._clock = Clock()  # within one second, however long it takes
        one, two = await world.caller(), await world.caller()
        instance = await one.instance()
        for _ in range(10):
            extra = await world.caller()
            assert await extra.is_closed()
        assert (await two.begin(instance)).status == 403
        await two.close()
        await world.connected(1)
        three = await world.caller()
        assert (await three.begin(instance)).status == 403
    assert capsys.readouterr().err.count("too-many-connections") == 1


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_draining_refuses_what_is_new_and_lets_the_rest_end() -> None:
    """Until the deadline the sockets answer: 503 ``draining`` says more than Kong's own 502."""
    gate = asyncio.Event()

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Wait(gate.wait())
        return Exit(403, {}, b"judged")

    async with served(module(answer)) as world:
        one, two = await world.caller(), await world.caller()
        instance = await one.instance()
        asked = asyncio.create_task(one.begin(instance))
        await world.quiet(1)
        stopping = asyncio.create_task(world.server.stop(60))
        await until(lambda: world.server._events.is_draining)
        refused = await two.begin(instance)
        assert (refused.status, refused.reason) == (503, "draining")
        late = await world.caller()
        assert (await late.begin(await late.instance())).reason == "draining"
        gate.set()
        assert (await asked).args[1] == b"judged"
        await asyncio.wait_for(stopping, 20)
        assert await two.is_closed()
        assert not world.path().exists()


async def test_past_the_deadline_everything_is_refused() -> None:
    """At once where Kong waits, at its next step where it is at work."""
    ended = []

    def answer(config: Mapping[str, Any]) -> Handler:
        try:
            if config.get("waits"):
                yield Wait(asyncio.sleep(60))
            yield Call("kong.node.get_id")
        finally:
            ended.append(True)
        return None

    with standing_clock() as clock:
        async with served(module(answer)) as world:
            waiting, working, gone = await world.caller(), await world.caller(), await world.caller()
            asked = asyncio.create_task(waiting.begin(await waiting.instance({"waits": True})))
            instance = await working.instance()
            first, _never = await working.begin(instance), await gone.begin(instance)
            await world.quiet(3)
            stopping = asyncio.create_task(world.server.stop(0.3))
            await until(lambda: world.server._events.is_draining)
            await asyncio.sleep(0.05)
            assert not asked.done()
            clock.pass_s(0.3)
            assert (await asked).reason == "draining"
            assert (await working.step(first.event)).reason == "draining"
            assert world.server.running == 1, "the one that never comes is waited for"
            clock.pass_s(0.3)
            await asyncio.wait_for(stopping, 20)
            assert world.server.running == 0
            assert ended == [True, True, True]


async def test_after_a_restart_kong_starts_anew() -> None:
    """Old instances are unknown, old events refused, new ones served; the file left behind is no hindrance."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        event = (await kong.begin(instance)).event
        path = world.path()
    assert not path.exists()
    async with served(module(answer)) as world:
        kong = await world.caller()
        with pytest.raises(RuntimeError, match="no plugin instance"):
            await kong.begin(instance)
        assert (await kong.step(event)).status == 503
        assert (await kong.begin(await kong.instance())).method == "kong.node.get_id"


def test_all_of_it_runs_on_uvloop() -> None:
    """The command line installs uvloop: waits, 3 MB, a slow reader, too many connections and the end behave alike."""
    uvloop = pytest.importorskip("uvloop")
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(test_a_long_silence_is_filled_with_a_cheap_call())
        runner.run(test_three_megabytes_come_and_go())
        runner.run(test_a_reader_that_was_slow_gets_everything())
        runner.run(test_draining_refuses_what_is_new_and_lets_the_rest_end())
        runner.run(test_past_the_deadline_everything_is_refused())
        runner.run(test_a_wait_that_nobody_asks_for_any_more_is_cancelled(is_kept_alive=False))


async def test_a_refusal_is_a_problem_document_as_everywhere() -> None:
    """RFC 9457, with the request's id in body and field."""
    async with served(module(before)) as world:
        kong = await world.caller()
        refused = await kong.begin(await kong.instance())
        _status, body, fields = refused.args
        assert json.loads(body)["request_id"] == fields[b"X-Request-Id"].decode()
        assert json.loads(body)["type"] == "urn:portero:reason:internal-error"
        assert fields[b"Cache-Control"] == b"no-store"
