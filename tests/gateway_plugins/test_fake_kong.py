"""
The stand-in for Kong says on a plugin server's socket what a real Kong 3.9.1 was seen to say, and fails as it fails.

The messages were traced between a real Kong and a stock plugin server; here a scripted server writes them down. Longer
than other modules: that server, the messages and the failures belong together.

Longer than other modules: the stand-in's claims about Kong, one after another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from tests.fakes.kong_one import a_request
from tests.fakes.kong_pdk import RequestPdk
from tests.fakes.kong_request import Exited, KongRequest
from tests.fakes.kong_rpc import Entity, KongWorker, LuaError, RpcError, _was_disturbed
from tests.fakes.kong_values import Binary, EmptyMap, as_lua, pack

Message = list[Any]
Answers = Callable[[Message], Awaitable[bytes | None] | bytes | None]
"""Bytes to be written for a request; None: the connection is closed."""


def reply(message: Message, result: Any, error: Any = None) -> bytes:
    return bytes(msgpack.packb([1, message[1], error, result], use_bin_type=True))


class ScriptedServer:
    """A plugin server that answers as the test says, and keeps what it was asked."""

    def __init__(self, folder: Path, answers: Answers) -> None:
        self.folder = folder
        self.answers = answers
        self.asked: list[Message] = []
        self.connections = 0

    @contextlib.asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[KongWorker]:
        server = await asyncio.start_unix_server(self._serve, self.folder / "probe.socket")
        worker = KongWorker(self.folder, **options)
        try:
            yield worker
        finally:
            worker.close()
            server.close()
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        unpacker = msgpack.Unpacker(raw=True)
        try:
            while data := await reader.read(65536):
                unpacker.feed(data)
                for message in unpacker:
                    self.asked.append(message)
                    answer = self.answers(message)
                    if asyncio.iscoroutine(answer):
                        answer = await answer
                    if answer is None:
                        return
                    writer.write(answer)  # type: ignore[arg-type]  # bytes, once awaited
        finally:
            writer.close()


@contextlib.contextmanager
def patience(worker: KongWorker, seconds: float) -> Iterator[None]:
    """The read timeout of ``worker`` meanwhile; before and after it has time for whoever answers at all."""
    rpc = worker.rpc("probe")
    usual, rpc._timeout_s = rpc._timeout_s, seconds
    try:
        yield
    finally:
        rpc._timeout_s = usual


async def event(worker: KongWorker, entity: Entity, request: KongRequest | None = None) -> KongRequest:
    request = request or a_request()
    await worker.event(entity, RequestPdk(request), request.trace)
    return request


def playing(*steps: tuple[str, list[Any]] | str) -> Answers:
    """A handler that makes these calls, or ends."""

    def answers(message: Message) -> bytes:
        if message[2] == b"plugin.StartInstance":
            return reply(message, {"Name": "probe", "Id": 7, "Config": {}, "StartTime": 1.5})
        if message[2] == b"plugin.HandleEvent":
            left.clear()
            left.extend(steps)
        step = left.pop(0)
        data = step if isinstance(step, str) else {"Method": step[0], "Args": step[1]}
        return reply(message, {"Data": data, "EventId": 5})

    left: list[Any] = []
    return answers


# --- the wire -------------------------------------------------------------------------------------------------------


async def test_an_event_is_asked_as_a_real_kong_asked(tmp_path: Path) -> None:
    """Message by message: an instance, the event, a step with what a call gave, one without."""
    script = playing(("kong.request.get_header", ["x"]), ("kong.ctx.shared.set", ["tid", "t42"]), "ret")
    server = ScriptedServer(tmp_path, script)
    async with server.running() as worker:
        request = await event(worker, Entity("probe", {"message": "hi"}, route_id="r1"))
    started, *others = server.asked
    assert started[:3] == [0, 1, b"plugin.StartInstance"]
    [argument] = started[3]
    assert argument.keys() == {b"Name", b"Config"}
    assert argument[b"Name"] == b"probe"
    config = json.loads(argument[b"Config"])
    assert config.keys() == {"message", "__plugin_id", "__seq__", "__ws_id", "__key__", "route_id"}
    assert (config["message"], config["__seq__"]) == ("hi", 1)
    assert others == [
        [0, 2, b"plugin.HandleEvent", [{b"InstanceId": 7, b"EventName": b"access"}]],
        [0, 3, b"plugin.Step", [{b"EventId": 5, b"Data": b"1"}]],
        [0, 4, b"plugin.Step", [{b"EventId": 5}]],
    ]
    assert request.trace.pdk_calls == ["kong.request.get_header", "kong.ctx.shared.set"]
    assert request.trace.round_trips == 3
    assert request.shared == {b"tid": b"t42"}


async def test_an_exit_is_the_last_word(tmp_path: Path) -> None:
    """Kong says nothing more about an event that has ended the request."""
    server = ScriptedServer(tmp_path, playing(("kong.response.exit", [403, "body", {"H": "v"}])))
    async with server.running() as worker:
        request = a_request()
        with pytest.raises(Exited):
            await event(worker, Entity("probe", {}), request)
    assert [message[2] for message in server.asked] == [b"plugin.StartInstance", b"plugin.HandleEvent"]
    assert request.answer is not None
    assert (request.answer.status, request.answer.body) == (403, b"body")
    assert request.answer.fields == [(b"H", b"v"), (b"Content-Length", b"4")]


@pytest.mark.parametrize(
    ("method", "step", "data"),
    [
        ("kong.request.get_headers", b"plugin.StepMultiMap", {b"host": [b"a.test"], b"x": [b"1"]}),
        ("kong.router.get_route", b"plugin.StepRoute", {b"name": b"r"}),
        ("kong.router.get_service", b"plugin.StepService", []),
        ("kong.request.get_raw_body", b"plugin.Step", b""),
        ("kong.nginx.get_var", b"plugin.Step", b"GET"),
        ("kong.no.such.thing", b"plugin.Step", None),
    ],
)
async def test_a_step_is_called_by_what_it_brings(tmp_path: Path, method: str, step: bytes, data: Any) -> None:
    """Step methods by the call, header maps as lists; what there is not is nil."""
    arguments = ["request_method"] if method.endswith("get_var") else []
    server = ScriptedServer(tmp_path, playing((method, arguments), "ret"))
    async with server.running() as worker:
        await event(worker, Entity("probe", {}))
    assert server.asked[2][2:] == [step, [{b"EventId": 5} | ({} if data is None else {b"Data": data})]]


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        ({}, b"\x90"),
        (EmptyMap(), b"\x80"),
        ({"a": None}, b"\x90"),
        ({1: "x", 2: "y"}, b"\x92\xa1x\xa1y"),
        ({2: "y"}, b"\x81\x02\xa1y"),
        ([1.0, 1.5], b"\x92\x01\xcb\x3f\xf8\0\0\0\0\0\0"),
        (2**53, b"\xcb\x43\x40\0\0\0\0\0\0"),
        ("a" * 32, b"\xda\0\x20" + b"a" * 32),
        (b"\xff", b"\xa1\xff"),
        (Binary(b"\xff"), b"\xc4\x01\xff"),
        ([None, True], b"\x81\x02\xc3"),
    ],
    ids=[
        "empty",
        "no headers",
        "nil",
        "sequence",
        "gap",
        "whole number",
        "2^53",
        "str16",
        "no UTF-8",
        "raw body",
        "hole",
    ],
)
def test_values_travel_as_lua_packs_them(value: Any, packed: bytes) -> None:
    """An empty table is an array, nil is absent, 1.0 is 1, strings are old-style and any bytes."""
    assert pack(as_lua(value)) == packed


# --- failures -------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_fails_open_once_the_instance_is_known(tmp_path: Path) -> None:
    """The first request of a config is refused; later ones go on without the plugin, and the log says so."""
    worker = KongWorker(tmp_path)
    with pytest.raises(LuaError):
        await event(worker, Entity("probe", {}))
    server, entity = ScriptedServer(tmp_path, playing("ret")), Entity("probe", {})
    async with server.running() as worker:
        await event(worker, entity)
        server.answers = lambda _: None
        request = await event(worker, entity)
    assert request.trace.log == [("err", "no data")]
    request = await event(worker, entity)
    assert request.trace.log[0][0] == "err"


async def test_silence_fails_open_and_poisons_the_connection(tmp_path: Path) -> None:
    """It goes back into the pool with its answer outstanding: who takes it next is answered what was asked before."""
    may_answer = asyncio.Event()

    async def late(message: Message) -> bytes:
        if message[2] == b"plugin.HandleEvent" and message[1] == 3:
            await may_answer.wait()
        answer = script(message)
        assert isinstance(answer, bytes)
        return answer

    script, entity = playing("ret"), Entity("probe", {})
    server = ScriptedServer(tmp_path, late)
    async with server.running() as worker:
        await event(worker, entity)
        with patience(worker, 0.05):
            request = await event(worker, entity)
        assert request.trace.log == [("err", "no data")]
        asked = asyncio.create_task(event(worker, entity))
        await asyncio.sleep(0)  # the task has asked, and waits for the answer
        may_answer.set()
        with pytest.raises(LuaError, match="unexpected RPC response ID"):
            await asked
        assert (await event(worker, entity)).trace.log == []
    assert server.connections == 2


async def test_what_comes_late_on_an_idle_connection_closes_it(tmp_path: Path) -> None:
    """Kong looks at what lies in its pool; the next request gets a new connection."""
    may_answer = asyncio.Event()

    async def late(message: Message) -> bytes:
        if message[1] == 3:
            await may_answer.wait()
        answer = script(message)
        assert isinstance(answer, bytes)
        return answer

    script, entity = playing("ret"), Entity("probe", {})
    server = ScriptedServer(tmp_path, late)
    async with server.running() as worker:
        await event(worker, entity)
        with patience(worker, 0.05):
            assert (await event(worker, entity)).trace.log == [("err", "no data")]
        may_answer.set()
        [(reader, _)] = worker.rpc("probe")._pool
        async with asyncio.timeout(20):
            while not _was_disturbed(reader):  # noqa: ASYNC110  # streams tell whoever reads, and nobody else
                await asyncio.sleep(0.005)
        assert (await event(worker, entity)).trace.log == []
    assert server.connections == 2


async def test_the_connection_used_last_is_used_next(tmp_path: Path) -> None:
    """One request a connection at a time; as many as run at once, the warmest first."""
    server = ScriptedServer(tmp_path, playing("ret"))
    async with server.running() as worker:
        rpc = worker.rpc("probe")
        server.answers = lambda message: reply(message, message[1])
        await asyncio.gather(*(rpc.call("x") for _ in range(3)))
        assert server.connections == 3
        assert [await rpc.call("x") for _ in range(3)] == [4, 5, 6]
    assert server.connections == 3


async def test_an_unknown_instance_starts_all_of_its_plugin_anew(tmp_path: Path) -> None:
    """``no plugin instance``: every instance of that plugin is forgotten and the event is asked again."""
    script, lost = playing("ret"), {3: True}

    def answers(message: Message) -> bytes:
        if message[2] == b"plugin.HandleEvent" and lost.pop(message[1], False):
            return reply(message, None, "no plugin instance #7")
        answer = script(message)
        assert isinstance(answer, bytes)
        return answer

    server, entity = ScriptedServer(tmp_path, answers), Entity("probe", {})
    async with server.running() as worker:
        await event(worker, entity)
        request = await event(worker, entity)
    assert [message[2] for message in server.asked].count(b"plugin.StartInstance") == 2
    assert request.trace.log == [("warn", "no plugin instance #7")]


async def test_other_errors_of_an_event_fail_open_and_of_a_start_do_not(tmp_path: Path) -> None:
    """Kong logs the one and raises the other."""
    refusal: dict[bytes, str] = {b"plugin.StartInstance": "bad config"}
    script = playing("ret")
    server = ScriptedServer(tmp_path, lambda m: reply(m, None, refusal[m[2]]) if m[2] in refusal else script(m))
    async with server.running() as worker:
        with pytest.raises(LuaError, match="bad config"):
            await event(worker, Entity("probe", {}))
        refusal.clear()
        entity = Entity("probe", {})
        await event(worker, entity)
        refusal[b"plugin.HandleEvent"] = "whatever"
        assert (await event(worker, entity)).trace.log == [("err", "whatever")]


async def test_a_changed_config_is_another_instance(tmp_path: Path) -> None:
    """The new one is started, then the old one closed."""
    server, entity = ScriptedServer(tmp_path, playing("ret")), Entity("probe", {})
    async with server.running() as worker:
        await event(worker, entity)
        entity.seq = 2
        script = server.answers
        server.answers = lambda m: reply(m, {}) if m[2] == b"plugin.CloseInstance" else script(m)
        await event(worker, entity)
    assert [message[2] for message in server.asked[2:4]] == [b"plugin.StartInstance", b"plugin.CloseInstance"]
    assert server.asked[3][3] == [7]


@pytest.mark.parametrize("call", [("kong.service.set_target", ["h", "80"]), ("kong.response.get_status", [])])
async def test_a_call_that_raises_in_lua_is_never_answered(tmp_path: Path, call: tuple[str, list[Any]]) -> None:
    """Bad arguments, the wrong phase: the request fails, the plugin waits for ever."""
    server = ScriptedServer(tmp_path, playing(call, "ret"))
    async with server.running() as worker:
        with pytest.raises(LuaError):
            await event(worker, Entity("probe", {}))
    assert len(server.asked) == 2


async def test_garbage_from_the_server_is_a_lua_error_or_no_data(tmp_path: Path) -> None:
    """Neither hangs nor ends the worker."""
    server, entity = ScriptedServer(tmp_path, playing("ret")), Entity("probe", {})
    async with server.running() as worker:
        rpc = worker.rpc("probe")
        for garbage in (b"\xc1", b"\x90", b"\x01", b"\xa1x"):
            server.answers = lambda _, said=garbage: said  # type: ignore[misc]  # the loop's own
            with pytest.raises(LuaError):
                await rpc.call("x")
        server.answers = lambda _: b"\x93\x01"
        with patience(worker, 0.1), pytest.raises(RpcError, match="no data"):
            await rpc.call("x")
        rpc.close()  # what is never whole may come late
        server.answers = playing("ret")
        assert (await event(worker, entity)).trace.log == []


# --- beside the stock server ----------------------------------------------------------------------------------------

STOCK_PLUGIN: Final = """
import time
Schema = ({"how": {"type": "string"}},)
version, priority = "0.1.0", 900
class Plugin:
    def __init__(self, config):
        if config.get("how") == "init": raise RuntimeError("no")
        self.how = config.get("how")
    def access(self, kong):
        if self.how == "headers":
            got = kong.request.get_headers()
            return kong.response.exit(200, str(sorted(got.items())))
        kong.ctx.shared.set("seen", {"list": [1, 2], "empty": {}, "none": None})
        if self.how == "raise": raise RuntimeError("after a call")
        if self.how == "deny": return kong.response.exit(403, "no", {"X-A": ["1", "2"]})
        if self.how == "unknown": kong.no.such.method()
        if self.how == "bad": kong.service.set_target("h", "80")
        kong.service.set_target("10.0.0.1", 8080)
if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server
    start_dedicated_server("probe", Plugin, version, priority, Schema)
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock")
    (folder / "probe.py").write_text(STOCK_PLUGIN)
    return folder


async def test_a_stock_server_gives_the_verdicts_that_a_real_kong_got_of_it(stock: Path) -> None:
    """Allow, deny, a failed start, a silent failure, bytes that are no UTF-8: what was measured, measured again."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, stock / "probe.py", "-p", stock, "--socket-name", "probe.socket", "--no-lua-style"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    worker = KongWorker(stock)
    try:
        async with asyncio.timeout(20):
            while not _listens(stock / "probe.socket"):  # noqa: ASYNC110  # another process tells nobody
                await asyncio.sleep(0.02)
        verdicts = {how: await _verdict(worker, how) for how in ("allow", "deny", "init", "unknown", "bad", "headers")}
        assert verdicts == {
            "allow": "to 10.0.0.1",
            "deny": "403",
            "init": "500",
            "unknown": "to 10.0.0.1",
            "bad": "500",
            "headers": "200",
        }
        with patience(worker, 2):  # it is silent
            hostile = a_request([(b"Host", b"a"), (b"X", b"\xff")])
            assert await _verdict(worker, "headers", hostile) == "passed"
            assert await _verdict(worker, "raise") == "passed"
    finally:
        worker.close()
        process.kill()
        await process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


async def _verdict(worker: KongWorker, how: str, request: KongRequest | None = None) -> str:
    request = request or a_request()
    try:
        await event(worker, Entity("probe", {"how": how}), request)
    except LuaError:
        return "500"
    except Exited:
        assert request.answer is not None
        return str(request.answer.status)
    if request.trace.log and request.trace.log[-1] == ("err", "no data"):
        return "passed"
    return f"to {request.balancer['host'].decode()}"
