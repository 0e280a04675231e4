"""
What Kong says to the plugin server, and what it is answered: events, instances, order, ends.

Longer than other modules: all that Kong may ask is asked once.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

import pytest

from authproxy.metrics import Metrics
from gateway_plugins.handler import Call, Exit, Handler, Wait
from tests.fakes.plugin_caller import NAME, Caller, module, served


def echo(config: Mapping[str, Any]) -> Handler:
    """Asks for a word and answers 403 with it, or lets the request through."""
    word = yield Call("kong.request.get_header", ("x-word",))
    if word is None:
        return None
    yield Call("kong.ctx.shared.set", ("seen", word))
    return Exit(403, {"X-Name": str(config.get("name")), "Vary": ["a", "b"]}, word)


async def test_an_event_goes_on_by_steps_until_the_handler_ends() -> None:
    """The trace of a real Kong: HandleEvent, a step for each call, ``ret``."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        assert (first.method, first.args) == ("kong.request.get_header", [b"x-word"])
        last = await kong.step(first.event)
        assert last.is_over
        assert last.event == first.event
        assert world.server.running == 0


async def test_an_exit_is_the_last_that_is_heard_of_an_event() -> None:
    """Kong answers by itself and does not come back; nothing is kept."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance({"name": "one"}))
        second = await kong.step(first.event, b"no")
        assert (second.method, second.args) == ("kong.ctx.shared.set", [b"seen", b"no"])
        assert world.server.running == 1
        exit_ = await kong.step(first.event)
        assert exit_.args == [403, b"no", {b"X-Name": b"one", b"Vary": [b"a", b"b"]}]
        assert world.server.running == 0


async def test_bytes_that_are_not_utf8_come_and_go_unchanged() -> None:
    """One 0xff in a client's header ends a thread of the stock server, and the request gets through."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        await kong.step(first.event, b"\xff\xfe\x00")
        assert (await kong.step(first.event)).args[1] == b"\xff\xfe\x00"


async def test_a_text_that_was_decoded_with_escapes_is_sent_as_it_came() -> None:
    """Handlers that decode with surrogateescape give the client's own bytes back to Kong."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        yield Call("kong.log.err", (b"\xff\xc3".decode("utf-8", "surrogateescape"),))
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        assert (await kong.begin(await kong.instance())).args == [b"\xff\xc3"]


@pytest.mark.parametrize(
    "method", ["Step", "StepMultiMap", "StepConsumer", "StepCredential", "StepRoute", "StepService", "StepMemoryStats"]
)
async def test_every_kind_of_step_brings_its_value(method: str) -> None:
    """Kong names the step by the type of what it brings; the handler sees the value alone."""
    seen = []

    def answer(_config: Mapping[str, Any]) -> Handler:
        seen.append((yield Call("kong.request.get_headers")))
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        first = await kong.begin(await kong.instance())
        await kong.step(first.event, {"x": ["1", "2"], "empty": []}, method)
        assert seen == [{b"x": [b"1", b"2"], b"empty": []}]


async def test_the_messages_of_one_event_may_take_any_connection() -> None:
    """Kong takes whatever connection lies on top of its pool."""
    async with served(module(echo)) as world:
        one, two = await world.caller(), await world.caller()
        first = await one.begin(await two.instance())
        await two.step(first.event, b"w")
        assert (await one.step(first.event)).status == 403


async def test_requests_on_one_connection_are_answered_in_order() -> None:
    """What is asked while an earlier answer is waited for is answered after it."""
    gate = asyncio.Event()

    def answer(config: Mapping[str, Any]) -> Handler:
        if config.get("waits"):
            yield Wait(gate.wait())
        return Exit(403, {}, b"waits" if config.get("waits") else b"at once")

    async with served(module(answer)) as world:
        kong = await world.caller()
        waits, at_once = await kong.instance({"waits": True}), await kong.instance()
        kong.last_id = 0
        kong.writer.write(
            b"".join(
                kong.message(number, "HandleEvent", {"InstanceId": instance, "EventName": "access"})
                for number, instance in enumerate([at_once, waits, at_once, waits, at_once], 1)
            )
        )
        kong.say("GetStatus")
        assert (await kong.hear())[1] == 1
        await world.quiet(1)
        await asyncio.sleep(0.02)
        assert world.server.running == 1, "the second to wait begins when its turn comes"
        gate.set()
        heard = [await kong.hear() for _ in range(5)]
        assert [reply[1] for reply in heard] == [2, 3, 4, 5, 1]
        assert [reply[3][b"Data"][b"Args"][1] for reply in heard[:4]] == [b"waits", b"at once", b"waits", b"at once"]


async def test_a_handler_that_waits_holds_nobody_else_up() -> None:
    """No lock is held around handlers: a hundred wait together, and one that does not is answered meanwhile."""
    gate = asyncio.Event()

    def answer(config: Mapping[str, Any]) -> Handler:
        if config.get("waits"):
            yield Wait(gate.wait())
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        waits, at_once = await kong.instance({"waits": True}), await kong.instance()
        callers = [await world.caller() for _ in range(100)]
        asked = [asyncio.create_task(caller.begin(waits)) for caller in callers]
        await world.quiet(100)
        assert (await kong.begin(at_once)).is_over
        gate.set()
        assert all(step.is_over for step in await asyncio.gather(*asked))


async def test_what_a_handler_waited_for_is_sent_to_it_and_thrown_into_it() -> None:
    """A result comes back, an exception is raised where the handler waits."""
    seen: list[Any] = []

    async def fails() -> None:
        raise LookupError("not there")

    async def finds() -> str:
        return "found"

    def answer(_config: Mapping[str, Any]) -> Handler:
        seen.append((yield Wait(finds())))
        try:
            yield Wait(fails())
        except LookupError as error:
            seen.append(str(error))
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        assert (await kong.begin(await kong.instance())).is_over
        assert seen == ["found", "not there"]


async def test_what_is_done_already_is_not_waited_for() -> None:
    """A future that is done costs no turn of the loop."""

    def answer(_config: Mapping[str, Any]) -> Handler:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        future.set_result(b"now")
        return Exit(200, {}, (yield Wait(future)))

    async with served(module(answer)) as world:
        kong = await world.caller()
        assert (await kong.begin(await kong.instance())).args[1] == b"now"


async def test_a_call_by_which_kong_ends_ends_the_event_as_well() -> None:
    """Kong does not come back from ``kong.response.error`` either."""
    closed = []

    def answer(_config: Mapping[str, Any]) -> Handler:
        try:
            yield Call("kong.response.error", (418, "no"))
        finally:
            closed.append(True)
        return None

    async with served(module(answer)) as world:
        kong = await world.caller()
        assert (await kong.begin(await kong.instance())).method == "kong.response.error"
        assert world.server.running == 0
        assert closed == [True]


# -- instances ---------------------------------------------------------------------------------------------------------


async def test_an_instance_gets_its_configuration_and_an_id_of_its_own() -> None:
    """Kong's JSON is read once; the reply says what was understood."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        config = {"name": "é", "__plugin_id": "p", "list": [1, {"a": None}]}
        result = await kong.ask("StartInstance", {"Name": NAME, "Config": json.dumps(config)})
        assert result[b"Name"] == NAME.encode()
        assert result[b"Config"][b"name"] == "é".encode()
        assert result[b"StartTime"] > 1e9
        assert await kong.instance() != result[b"Id"]


async def test_ids_begin_at_random() -> None:
    """A restart must not let a worker's old id mean another configuration."""
    firsts = set()
    for _ in range(5):
        async with served(module(echo)) as world:
            kong = await world.caller()
            instance = await kong.instance()
            firsts |= {instance, (await kong.begin(instance)).event}
    assert len(firsts) == 10
    assert all(0 < one < 2**53 for one in firsts), "Lua's numbers are exact to there"
    assert min(firsts) > 10_000


@pytest.mark.parametrize("method", ["HandleEvent", "CloseInstance", "InstanceStatus"])
@pytest.mark.parametrize("instance", [0, -1, 2**63, 1.5, float("nan"), "1", b"\xff", None, True, [], {}], ids=repr)
async def test_an_instance_that_is_not_there_is_kongs_cue_to_start_anew(method: str, instance: Any) -> None:
    """Kong looks for ``no plugin instance`` in the error, and starts all instances of the plugin again."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        await kong.instance()
        argument = {"InstanceId": instance, "EventName": "access"} if method == "HandleEvent" else instance
        with pytest.raises(RuntimeError, match="no plugin instance #"):
            await kong.ask(method, argument)


async def test_a_closed_instance_is_gone_and_its_events_go_on() -> None:
    """Kong closes the old one when the new configuration has started."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        instance = await kong.instance()
        first = await kong.begin(instance)
        assert (await kong.ask("CloseInstance", instance))[b"Id"] == instance
        with pytest.raises(RuntimeError, match="no plugin instance"):
            await kong.begin(instance)
        assert (await kong.step(first.event)).is_over


async def test_a_plugin_that_cannot_be_made_is_an_error_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Kong answers 500 then; what was wrong stands in the log."""

    def init(_config: Mapping[str, Any]) -> None:
        raise ValueError("the folder s3cret is not there; no plugin instance")

    async with served(module(echo, init=init)) as world:
        kong = await world.caller()
        with pytest.raises(RuntimeError) as error:
            await kong.instance()
        assert "s3cret" not in str(error.value)
        assert "no plugin instance" not in str(error.value), "Kong would ask again and again"
        assert "s3cret" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"n": 1' + b"0" * 30 + b"}",
        b'{"a":"\\ud800"}',
    ],
    ids=lambda value: repr(value[:12]),
)
async def test_a_configuration_that_is_none_starts_nothing(config: bytes) -> None:
    """An error of StartInstance is a 500 of Kong: nobody gets through."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        with pytest.raises(RuntimeError, match="does not take this configuration"):
            await kong.ask("StartInstance", {"Name": NAME, "Config": config})
        assert await kong.instance()


async def test_instances_are_bounded_and_the_longest_idle_one_goes() -> None:
    """Workers that died have closed nothing; what is in use is never forgotten."""
    async with served(module(echo), max_instances=3) as world:
        kong = await world.caller()
        busy = await kong.instance()
        running = await kong.begin(busy)
        idle, used = await kong.instance(), await kong.instance()
        await kong.step((await kong.begin(idle)).event)
        await kong.step((await kong.begin(used)).event)
        newest = await kong.instance()
        with pytest.raises(RuntimeError, match="no plugin instance"):
            await kong.begin(idle)
        for instance in (busy, used, newest):
            await kong.begin(instance)
        with pytest.raises(RuntimeError, match="does not take"):
            await kong.instance()
        assert (await kong.step(running.event)).is_over


async def test_the_status_says_what_runs() -> None:
    """For who looks at the server by hand; Kong itself does not ask."""
    async with served(module(echo)) as world:
        kong = await world.caller()
        instance = await kong.instance({"name": "n"})
        status = await kong.ask("GetStatus")
        assert status[b"Pid"] == os.getpid()
        assert [one[b"Id"] for one in status[b"Plugins"][NAME.encode()][b"Instances"]] == [instance]
        assert (await kong.ask("InstanceStatus", instance))[b"Config"] == {b"name": b"n"}
        info = await kong.ask("GetPluginInfo", NAME)
        assert (info[b"Phases"], info[b"Priority"], info[b"Version"]) == ([b"access"], 7, b"1.0")
        assert info[b"Schema"][b"fields"][0][b"config"][b"fields"] == [{b"word": {b"type": b"string"}}]


# -- two sockets -------------------------------------------------------------------------------------------------------


async def test_an_event_belongs_to_its_plugins_socket() -> None:
    """Who may speak on one plugin's socket has no say in another's events."""
    async with served(module(echo), module(echo, "portero-other")) as world:
        one, other = await world.caller(), await world.caller("portero-other")
        first = await one.begin(await one.instance())
        foreign = await other.step(first.event, b"w")
        assert (foreign.status, foreign.reason) == (503, "policy-unavailable")
        with pytest.raises(RuntimeError, match="no plugin instance"):
            await other.begin(await one.instance())
        with pytest.raises(RuntimeError, match="this is the socket of"):
            await other.instance()
        assert (await one.step(first.event, b"w")).method == "kong.ctx.shared.set"


async def test_what_happens_is_counted() -> None:
    """Events by their end, calls to Kong, connections."""
    metrics = Metrics()

    def answer(config: Mapping[str, Any]) -> Handler:
        yield Call("kong.node.get_id")
        if config.get("fails"):
            raise RuntimeError("it fails")
        return Exit(403, {}, b"") if config.get("refuses") else None

    async with served(module(answer), metrics=metrics) as world:
        kong: Caller = await world.caller()
        for config in ({}, {"fails": True}, {"refuses": True}, {"refuses": True}):
            first = await kong.begin(await kong.instance(config))
            await kong.step(first.event)
        await kong.step(first.event)
        assert metrics.kong_connections.value() == 1
        counted = {
            outcome: metrics.kong_events_total.value((NAME, outcome))
            for outcome in ("allowed", "answered", "failed", "unknown", "abandoned")
        }
        assert counted == {"allowed": 1, "answered": 2, "failed": 1, "unknown": 1, "abandoned": 0}
        assert metrics.kong_pdk_calls_total.value((NAME,)) == 6
