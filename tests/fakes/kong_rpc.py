"""
Kong's side of ``MsgPack:1``: how a Kong worker asks a plugin server over its unix socket, mistakes included.

One outstanding request a connection; connections in a pool, last in first out, into which a connection goes back even
when its answer never came. What fails is logged and the request goes on (``RpcError``), but for what raises inside of
Kong (``LuaError``). Strings are bytes in both directions; a Lua table is a dict or a list. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgpack

from tests.fakes.kong_values import Binary, EmptyMap, as_lua, pack

CLAIM_STEP_S: Final = 0.02
"""How often a request looks whether another one has started the instance; Kong: 0.1."""
CLAIM_S: Final = 10.0


class RpcError(Exception):
    """Kong logs it and goes on to the upstream as if there were no plugin."""


class LuaError(Exception):
    """Raised inside of Kong: the request is answered 500, and the plugin server is never told."""


class Pdk(Protocol):
    """Answers the calls of one request. Raises LuaError, and whatever ends the request (``kong.response.exit``)."""

    def call(self, method: str, arguments: Sequence[Any]) -> Any: ...


MULTI_MAPS: Final = frozenset(
    {
        "kong.request.get_query",
        "kong.request.get_headers",
        "kong.response.get_headers",
        "kong.service.response.get_headers",
    }
)
RAW_BODIES: Final = frozenset(
    {"kong.request.get_raw_body", "kong.response.get_raw_body", "kong.service.response.get_raw_body"}
)
STEPS: Final = dict.fromkeys(MULTI_MAPS, "plugin.StepMultiMap") | {
    "kong.client.get_credential": "plugin.StepCredential",
    "kong.client.authenticate": "plugin.StepCredential",
    "kong.client.load_consumer": "plugin.StepConsumer",
    "kong.client.get_consumer": "plugin.StepConsumer",
    "kong.node.get_memory_stats": "plugin.StepMemoryStats",
    "kong.router.get_route": "plugin.StepRoute",
    "kong.router.get_service": "plugin.StepService",
}


@dataclass(slots=True)
class Trace:
    """What the plugins of one request did."""

    pdk_calls: list[str] = field(default_factory=list)
    round_trips: int = 0
    """Requests to plugin servers in events of this request; starting an instance does not count."""
    log: list[tuple[str, str]] = field(default_factory=list)
    """Level and text."""


@dataclass(slots=True)
class Entity:
    """A plugin as it stands in the declarative config."""

    name: str
    config: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    seq: int = 1
    """Grows when the config changes."""
    route_id: str | None = None
    service_id: str | None = None

    def as_json(self) -> bytes:
        """The ``Config`` of StartInstance."""
        places = {"route_id": self.route_id, "service_id": self.service_id}
        own = {"__plugin_id": self.id, "__seq__": self.seq, "__ws_id": WORKSPACE, "__key__": self.key}
        config = {**self.config, **own, **places}
        return json.dumps({name: value for name, value in config.items() if value is not None}).encode()

    @property
    def key(self) -> str:
        return f"plugins:{self.name}:{self.route_id or ''}:{self.service_id or ''}:::{WORKSPACE}"


WORKSPACE: Final = str(uuid.uuid4())


@dataclass(slots=True)
class _Instance:
    name: str
    seq: int
    id: Any = None


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Rpc:
    """The calls of one worker to one plugin server."""

    def __init__(self, socket: Path, *, read_timeout_s: float, pool_size: int = 256) -> None:
        self._socket = socket
        self._timeout_s = read_timeout_s
        self._pool: list[_Connection] = []
        self._pool_size = pool_size
        self._last_id = 0
        self.connections = 0
        """Made so far."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """The result. Raises: RpcError, LuaError."""
        self._last_id += 1
        number = self._last_id
        reader, writer = connection = await self._connect()
        is_kept = False
        try:
            writer.write(pack(as_lua([0, number, method, list(arguments)])))
            await writer.drain()
            unpacker = msgpack.Unpacker(raw=True, strict_map_key=False)
            while True:
                for message in unpacker:
                    if message[0] == 2:
                        continue
                    if message[0] != 1:
                        raise LuaError("RPC response expected from Go plugin server")
                    if message[1] != number:
                        raise LuaError("unexpected RPC response ID from Go plugin server")
                    is_kept = True
                    if message[2] is not None:
                        raise RpcError(message[2].decode("utf-8", "replace"))
                    return message[3]
                try:
                    async with asyncio.timeout(self._timeout_s):
                        data = await reader.read(4096)
                except TimeoutError:
                    is_kept = True  # with its answer outstanding
                    raise RpcError("no data") from None
                if not data:
                    raise RpcError("no data")
                unpacker.feed(data)
        except OSError as error:
            raise RpcError(str(error)) from error
        except (IndexError, TypeError, AttributeError, ValueError) as error:  # MessagePack or its reader raised in Lua
            raise LuaError(f"{type(error).__name__}: {error}") from error
        finally:
            self._put_back(connection, is_kept=is_kept)

    async def _connect(self) -> _Connection:
        while self._pool:
            reader, writer = self._pool.pop()
            if not _was_disturbed(reader) and not writer.is_closing():
                return reader, writer
            writer.transport.abort()  # nginx closes what ends or speaks while it lies in the pool
        try:
            connection = await asyncio.open_unix_connection(self._socket)
        except OSError as error:
            raise RpcError(error.strerror or str(error)) from error
        self.connections += 1
        return connection

    def _put_back(self, connection: _Connection, *, is_kept: bool) -> None:
        if not is_kept or connection[1].is_closing():
            connection[1].transport.abort()
            return
        self._pool.append(connection)
        if len(self._pool) > self._pool_size:
            oldest = self._pool.pop(0)[1]
            oldest.transport.abort()

    def close(self) -> None:
        """Close what lies in the pool."""
        for _, writer in self._pool:
            writer.transport.abort()
        self._pool.clear()


def _was_disturbed(reader: asyncio.StreamReader) -> bool:
    return reader.at_eof() or bool(reader._buffer)  # type: ignore[attr-defined]  # no public way to see bytes at hand


class KongWorker:
    """One nginx worker: its instances at the plugin servers, and the events of its requests."""

    def __init__(self, sockets: Path, *, read_timeout_s: float = 60.0, pool_size: int = 256) -> None:
        self._sockets = sockets
        self._timeout_s = read_timeout_s
        self._pool_size = pool_size
        self._rpcs: dict[str, Rpc] = {}
        self._instances: dict[str, _Instance] = {}

    def rpc(self, name: str) -> Rpc:
        """The calls to the server of the plugin of this name, at ``<sockets>/<name>.socket``."""
        if name not in self._rpcs:
            socket = self._sockets / f"{name}.socket"
            self._rpcs[name] = Rpc(socket, read_timeout_s=self._timeout_s, pool_size=self._pool_size)
        return self._rpcs[name]

    async def event(self, entity: Entity, pdk: Pdk, trace: Trace, phase: str = "access") -> None:
        """
        Have the plugin handle one event.

        Returns also when the server failed: then the trace's log says so and the request goes on. Raises: LuaError,
        and what ends the request, from ``pdk.call``.
        """
        while True:
            try:
                await self._handle(entity, pdk, trace, phase)
            except RpcError as error:
                if "no plugin instance" in str(error).lower():
                    self._forget(entity.name)
                    trace.log.append(("warn", str(error)))
                    continue
                trace.log.append(("err", str(error)))
            return

    async def _handle(self, entity: Entity, pdk: Pdk, trace: Trace, phase: str) -> None:
        rpc = self.rpc(entity.name)
        instance = await self._instance(entity, trace)
        trace.round_trips += 1
        step = await rpc.call("plugin.HandleEvent", {"InstanceId": instance, "EventName": phase})
        event = _member(step, b"EventId") if step is not None else None
        while step is not None and (asked := _member(step, b"Data")) != b"ret":
            method = _member(asked, b"Method").decode("utf-8", "replace")
            arguments = _member(asked, b"Args")
            trace.pdk_calls.append(method)
            result = _fixed(method, pdk.call(method, arguments if isinstance(arguments, list) else [arguments]))
            trace.round_trips += 1
            step = await rpc.call(STEPS.get(method, "plugin.Step"), {"EventId": event, "Data": result})

    async def _instance(self, entity: Entity, trace: Trace) -> Any:
        waited_s = 0.0
        while (found := self._instances.get(entity.id)) is not None and found.id is None:
            await asyncio.sleep(CLAIM_STEP_S)
            waited_s += CLAIM_STEP_S
            if waited_s > CLAIM_S:
                self._instances.pop(entity.id, None)
                raise RpcError(f"Could not claim instance_id for {entity.name} (key: {entity.id})")
        if found is not None and found.seq == entity.seq:
            return found.id
        claimed = self._instances[entity.id] = _Instance(entity.name, entity.seq)
        try:
            started = await self.rpc(entity.name).call(
                "plugin.StartInstance", {"Name": entity.name, "Config": entity.as_json()}
            )
            claimed.id = _member(started, b"Id")
        except RpcError as error:
            trace.log.append(("err", f"starting instance: {error}"))
            raise LuaError(str(error)) from error
        finally:
            if claimed.id is None:
                self._instances.pop(entity.id, None)
        if found is not None:
            with contextlib.suppress(RpcError):
                await self.rpc(entity.name).call("plugin.CloseInstance", found.id)
        return claimed.id

    def _forget(self, name: str) -> None:
        for key in [key for key, instance in self._instances.items() if instance.name == name]:
            del self._instances[key]

    def close(self) -> None:
        for rpc in self._rpcs.values():
            rpc.close()


def _member(table: Any, name: bytes) -> Any:
    """Indexing a value that is no table raises in Lua; a name that is not there is nil."""
    if not isinstance(table, dict):
        raise LuaError(f"attempt to index a {type(table).__name__} value")
    return table.get(name)


def _fixed(method: str, result: Any) -> Any:
    if method in RAW_BODIES and isinstance(result, bytes):
        return Binary(result)
    if method in MULTI_MAPS and isinstance(result, dict):
        fixed = {name: [] if value is True else _listed(value) for name, value in result.items()}
        return fixed or EmptyMap()
    return result


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (bytes, str)) else value
