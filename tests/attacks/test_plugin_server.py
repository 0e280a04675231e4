"""
Whoever can speak on a plugin's socket says what he likes: he gets a refusal, an error, or a closed connection.

The socket is open to processes of one user only; what Kong says on it was nevertheless chosen by clients in part.
"""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_plugins.handler import Call, Exit, Handler
from tests.fakes.plugin_caller import NAME, Caller, Served, module, served

METHODS = (
    "StartInstance", "CloseInstance", "HandleEvent", "Step", "StepMultiMap", "StepError", "GetStatus", "GetPluginInfo",
    "InstanceStatus", "SetPluginDir", "__class__", "",
)  # fmt: skip


def guarded(_config: Mapping[str, Any]) -> Handler:
    """Lets through who says the word, and nobody else."""
    word = yield Call("kong.request.get_header", ("x-word",))
    return None if word == b"word" else Exit(403, {}, b"")


async def still_serves(world: Served) -> None:
    """Another connection is judged as ever."""
    kong = await world.caller()
    first = await kong.begin(await kong.instance())
    assert (await kong.step(first.event, b"wrong")).status == 403
    first = await kong.begin(await kong.instance())
    assert (await kong.step(first.event, b"word")).is_over
    await kong.close()
    world.callers.remove(kong)


def packed(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


NO_REQUESTS = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "reserved byte": b"\xc1",
    "a number": b"\x00",
    "nil": b"\xc0",
    "text of four": b"\xa4abcd",
    "too short": packed([0, 1, "plugin.GetStatus"]),
    "too long": packed([0, 1, "plugin.GetStatus", [], 1]),
    "a response": packed([1, 1, None, {"Data": "ret"}]),
    "a notification": packed([2, "serverPid", 1]),
    "a map": packed({0: 0, 1: 1, 2: "plugin.GetStatus", 3: []}),
    "no number for an id": packed([0, "1", "plugin.GetStatus", []]),
    "a float for an id": packed([0, 1.0, "plugin.GetStatus", []]),
    "a truth for an id": packed([0, True, "plugin.GetStatus", []]),
    "no name for a method": packed([0, 1, 7, []]),
    "a list for a method": packed([0, 1, ["plugin.GetStatus"], []]),
    "no list of arguments": packed([0, 1, "plugin.GetStatus", {}]),
    "nil for arguments": packed([0, 1, "plugin.GetStatus", None]),
    "a list as key": b"\x81\x90\x01",
    "nested without end": b"\x91" * 100_000,
    "an array of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "an extension of four billion": b"\xc9\xff\xff\xff\xff\x05",
    "a time that is none": b"\xd7\xff" + b"\xff" * 8,
    "an array of arrays of 60,000": b"\xdc\xea\x60" * 1000,
}


@pytest.mark.parametrize("data", NO_REQUESTS.values(), ids=NO_REQUESTS)
@pytest.mark.parametrize("is_after_a_request", [False, True], ids=["first", "after a request"])
async def test_what_is_no_request_closes_its_connection_and_no_other(data: bytes, is_after_a_request: bool) -> None:
    """No exception, no silence, no memory for lengths that are only claimed."""
    async with served(module(guarded)) as world:
        kong = await world.caller()
        if is_after_a_request:
            kong.writer.write(kong.message(1, "GetStatus") + data)
            assert (await kong.hear())[1] == 1
        else:
            kong.writer.write(data)
        assert await kong.is_closed()
        await still_serves(world)


async def test_a_message_that_never_ends_is_cut_off() -> None:
    """Arrays of short arrays get round the bound of each; the bytes of a message are bounded as a whole."""
    async with served(module(guarded)) as world:
        kong = await world.caller()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece = b"\xdc\x03\xe8" + packed([0] * 1000) * 1000
        kong.writer.write(b"\x94\x00\x01\xa1x\xdc\x03\xe8")
        try:
            for _ in range(30):
                kong.writer.write(piece)
                await kong.writer.drain()
        except ConnectionError:
            pass
        assert await kong.is_closed()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
        await still_serves(world)


HALVES = {
    "half a request": Caller.message(1, "GetStatus")[:-3],
    "a text of four billion": b"\xdb\xff\xff\xff\xff",
    "bytes of 9 MiB": b"\xc6" + struct.pack(">I", 9 * 2**20),
    "a request and half of one": Caller.message(1, "GetStatus") + b"\x94",
}


@pytest.mark.parametrize("data", HALVES.values(), ids=HALVES)
async def test_half_a_message_does_not_hold_a_place_for_ever(data: bytes) -> None:
    """Who says half of something is closed; who says nothing keeps the connection, as Kong's pool does."""
    async with served(module(guarded), silent_s=0.1) as world:
        half, silent = await world.caller(), await world.caller()
        half.writer.write(data)
        assert await half.is_closed()
        assert await silent.ask("GetStatus")


arguments = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["InstanceId", "EventId", "EventName", "Data", "Name", "Config", "access", NAME, "{}", "word"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["InstanceId", "EventId", "EventName", "Data", "Name", "Config"]) | st.integers(0, 3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
requests = st.tuples(
    st.sampled_from(METHODS).map(lambda method: f"plugin.{method}") | st.text(st.characters(codec="ascii"), max_size=5),
    st.lists(arguments, max_size=2),
)


async def _hear_all(kong: Caller, count: int) -> list[list[Any]]:
    async with asyncio.timeout(20):
        return [await kong.hear() for _ in range(count)]


@settings(max_examples=60)
@given(st.lists(requests, min_size=1, max_size=6), st.integers(1, 40))
def test_any_request_is_answered_in_its_turn(said: list[tuple[str, list[Any]]], piece: int) -> None:
    """Whatever the method and its arguments, however it is cut: a reply for each, and nobody is let through by it."""

    async def play() -> None:
        async with served(module(guarded)) as world:
            kong = await world.caller()
            data = b"".join(
                packed([0, number, method, arguments]) for number, (method, arguments) in enumerate(said, 1)
            )
            for start in range(0, len(data), piece):
                kong.writer.write(data[start : start + piece])
                await asyncio.sleep(0)
            replies = await _hear_all(kong, len(said))
            assert [reply[:2] for reply in replies] == [[1, number] for number in range(1, len(said) + 1)]
            for _, _, error, result in replies:
                assert (error is None) != (result is None)
                assert not (isinstance(result, dict) and result.get(b"Data") == b"ret")
            await still_serves(world)

    asyncio.run(play())


@settings(max_examples=80)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_are_borne(data: bytes) -> None:
    """Noise, whole or cut in two: the server goes on, and others are judged as ever."""

    async def play() -> None:
        async with served(module(guarded)) as world:
            for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
                kong = await world.caller()
                try:
                    for piece in pieces:
                        kong.writer.write(piece)
                        await asyncio.sleep(0)
                    kong.writer.write_eof()
                except ConnectionError:
                    pass
                assert await kong.is_closed()
            await still_serves(world)

    asyncio.run(play())


@settings(max_examples=60)
@given(st.data())
def test_a_request_with_one_byte_changed_is_borne(data: st.DataObject) -> None:
    """The neighbourhood of what Kong says, where the checks are thinnest."""

    async def play() -> None:
        async with served(module(guarded)) as world:
            kong = await world.caller()
            instance = await kong.instance()
            event = (await kong.begin(instance)).event
            whole = bytearray(
                kong.message(5, "Step", {"EventId": event, "Data": b"nope"})
                + kong.message(6, "HandleEvent", {"InstanceId": instance, "EventName": "access"})
            )
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
            kong.writer.write(bytes(whole))
            kong.writer.write_eof()
            assert await kong.is_closed()
            await still_serves(world)

    asyncio.run(play())
