"""
How Kong takes a request to its upstream: nginx's ``proxy_pass`` with Kong's ``proxy_set_header`` lines and balancer.

Kept-alive connections are used again, last in first out; ``retries: 0`` but for a kept one that ends before a byte of
an answer. What goes wrong raises ``Refused`` with the status that nginx gives it.

Longer than other modules: by a few lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from tests.fakes.kong_nginx import Refused
from tests.fakes.kong_request import Fields, KongRequest

_SET: Final = (
    *(("TE", "upstream_te"), ("Via", "upstream_via"), ("Host", "upstream_host"), ("Upgrade", "upstream_upgrade")),
    *(("Connection", "upstream_connection"), ("X-Forwarded-For", "upstream_x_forwarded_for")),
    *(("X-Forwarded-Proto", "upstream_x_forwarded_proto"), ("X-Forwarded-Host", "upstream_x_forwarded_host")),
    *(("X-Forwarded-Port", "upstream_x_forwarded_port"), ("X-Forwarded-Path", "upstream_x_forwarded_path")),
    *(("X-Forwarded-Prefix", "upstream_x_forwarded_prefix"), ("X-Real-IP", "remote_addr")),
    ("X-Kong-Request-Id", "kong_request_id"),
)
_DROPPED: Final = frozenset(name.lower().encode() for name, _ in _SET) | {
    *(b"content-length", b"transfer-encoding", b"keep-alive", b"expect"),
}
_HIDDEN: Final = frozenset(
    {
        *(b"connection", b"keep-alive", b"transfer-encoding", b"x-pad", b"x-accel-expires", b"x-accel-redirect"),
        *(b"x-accel-limit-rate", b"x-accel-buffering", b"x-accel-charset"),
    }
)
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([0-9]{3})(?: .*)?")

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request_head(request: KongRequest) -> bytes:
    """Request line and fields as they go to the upstream; names and values as nginx has them."""
    head = request.head
    lines = [head.method + b" " + request.variables["upstream_uri"] + b" HTTP/1.1"]
    for name, variable in _SET:
        if value := request.variable(variable):
            lines.append(name.encode() + b": " + value)
    if head.is_chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif head.content_length is not None:
        lines.append(b"Content-Length: %d" % head.content_length)
    lines += [name + b": " + value for name, value in request.fields if name.lower() not in _DROPPED]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(slots=True)
class UpstreamAnswer:
    """Its head has been read; ``pieces`` are what follows."""

    status: int
    fields: Fields
    """All but framing and what nginx keeps to itself."""
    came: Fields
    """All."""
    length: int | None
    connection: _Connection
    _upstreams: Upstreams
    _key: tuple[str, int]
    _is_chunked: bool
    _keeps_alive: bool
    has_body: bool
    _read_s: float
    _sending: asyncio.Task[None]
    """Of the request's body: an answer may come before its end."""

    @property
    def is_endless(self) -> bool:
        """The body ends where the connection does."""
        return self.has_body and self.length is None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, chunks joined. Raises: Refused when it is cut off."""
        reader = self.connection[0]
        try:
            if self.has_body:
                async for piece in self._framed(reader):
                    yield piece
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError, ValueError):
            self.abort()
            raise Refused(502) from None
        if self._keeps_alive and self._sending.done():
            self._upstreams.put_back(self._key, self.connection)
        else:
            self.abort()

    async def _framed(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        if self._is_chunked:
            while size := int((await self._timed(reader.readuntil(b"\n"))).split(b";")[0], 16):
                yield (await self._timed(reader.readexactly(size + 2)))[:-2]
            while await self._timed(reader.readuntil(b"\n")) != b"\r\n":
                pass
            return
        left = self.length
        while left is None or left > 0:
            piece = await self._timed(reader.read(65536 if left is None else min(left, 65536)))
            if not piece:
                if left is not None:
                    raise asyncio.IncompleteReadError(b"", left)
                return
            left = None if left is None else left - len(piece)
            yield piece

    async def _timed(self, reading: Any) -> bytes:
        async with asyncio.timeout(self._read_s):
            data: bytes = await reading
            return data

    def abort(self) -> None:
        """Close the connection at once."""
        self._sending.cancel()
        self.connection[1].transport.abort()


class Upstreams:
    """Connections of one worker to whatever requests are sent to."""

    def __init__(self, *, head_bytes: int) -> None:
        self._head_bytes = head_bytes
        self._kept: dict[tuple[str, int], list[_Connection]] = {}
        self.connections = 0
        """Made so far."""

    async def ask(self, request: KongRequest, body: AsyncIterator[bytes]) -> UpstreamAnswer:
        """Send the request and read the answer's head. Raises: Refused."""
        key = await _address(request)
        connection, is_kept = self._take(key), True
        if connection is None:
            connection, is_kept = await self._connect(key, _seconds(request, "connect_timeout")), False
        try:
            return await self._exchange(request, body, key, connection)
        except _NoAnswer:
            if not is_kept or request.head.has_body or request.head.method in {b"POST", b"LOCK", b"PATCH"}:
                raise Refused(502) from None
        connection = await self._connect(key, _seconds(request, "connect_timeout"))
        try:
            return await self._exchange(request, body, key, connection)
        except _NoAnswer:
            raise Refused(502) from None

    async def _exchange(
        self, request: KongRequest, body: AsyncIterator[bytes], key: tuple[str, int], connection: _Connection
    ) -> UpstreamAnswer:
        reader, writer = connection
        writer.write(request_head(request))
        sending = asyncio.create_task(_send_body(writer, body, is_chunked=request.head.is_chunked))
        reading = asyncio.create_task(self._read_head(reader, _seconds(request, "read_timeout"), sending))
        is_good = False
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                await sending  # Raises: Refused for a body that is none
            status, fields = await reading
            answer = self._answer(request, key, connection, status, fields, sending)
            is_good = True
            return answer
        finally:
            reading.cancel()
            if not is_good:
                sending.cancel()
                writer.transport.abort()
                await asyncio.gather(sending, reading, return_exceptions=True)

    async def _read_head(
        self, reader: asyncio.StreamReader, read_s: float, sending: asyncio.Task[None]
    ) -> tuple[int, Fields]:
        first = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        try:
            await asyncio.wait({first, sending}, return_when=asyncio.FIRST_COMPLETED)
            async with asyncio.timeout(read_s):  # counted from when all is sent
                wire = await first
        except TimeoutError:
            raise Refused(504) from None
        except (asyncio.IncompleteReadError, OSError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise Refused(502) from None
            raise _NoAnswer from None
        except asyncio.LimitOverrunError:
            raise Refused(502) from None
        finally:
            first.cancel()
        if len(wire) > self._head_bytes:
            raise Refused(502)  # upstream sent too big header
        lines = wire[:-4].split(b"\r\n")
        found = _STATUS.fullmatch(lines[0])
        if found is None:
            return 9, []  # nginx takes it for HTTP/0.9, and sends all of it on as it came; here without what was read
        pairs = [line.partition(b":") for line in lines[1:]]
        return int(found[1]), [(name, value.strip(b" ")) for name, _, value in pairs]

    def _answer(
        self,
        request: KongRequest,
        key: tuple[str, int],
        connection: _Connection,
        status: int,
        fields: Fields,
        sending: asyncio.Task[None],
    ) -> UpstreamAnswer:
        lengths = [value for name, value in fields if name.lower() == b"content-length"]
        codings = [value.lower() for name, value in fields if name.lower() == b"transfer-encoding"]
        if len(lengths) > 1 or (lengths and codings) or codings not in ([], [b"chunked"]):
            raise Refused(502)
        if lengths and not re.fullmatch(rb"[0-9]+", lengths[0]):
            raise Refused(502)
        closes = any(name.lower() == b"connection" and b"close" in value.lower() for name, value in fields)
        is_upgrade = status == 101 and request.header(b"upgrade") is not None
        has_body = request.head.method != b"HEAD" and status not in {204, 304} and not is_upgrade
        length = int(lengths[0]) if lengths else None
        is_framed = bool(codings) or length is not None or not has_body
        return UpstreamAnswer(
            status=status,
            fields=[(name, value) for name, value in fields if name.lower() not in _HIDDEN],
            came=fields,
            length=length,
            connection=connection,
            _upstreams=self,
            _key=key,
            _is_chunked=bool(codings),
            _keeps_alive=is_framed and not closes and status != 101,
            _sending=sending,
            has_body=has_body,
            _read_s=_seconds(request, "read_timeout"),
        )

    def _take(self, key: tuple[str, int]) -> _Connection | None:
        kept = self._kept.get(key, [])
        while kept:
            reader, writer = kept.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return None

    def put_back(self, key: tuple[str, int], connection: _Connection) -> None:
        """To be used again."""
        self._kept.setdefault(key, []).append(connection)

    async def _connect(self, key: tuple[str, int], connect_s: float) -> _Connection:
        try:
            async with asyncio.timeout(connect_s):
                connection = await asyncio.open_connection(*key, limit=max(65536, self._head_bytes))
        except TimeoutError:
            raise Refused(504) from None
        except OSError:
            raise Refused(502) from None
        self.connections += 1
        return connection

    def close(self) -> None:
        """Close what is kept."""
        for kept in self._kept.values():
            for _, writer in kept:
                writer.transport.abort()
        self._kept.clear()


class _NoAnswer(Exception):
    """The connection ended before a byte came."""


def _seconds(request: KongRequest, name: str) -> float:
    return float(request.balancer[name]) / 1000


async def _address(request: KongRequest) -> tuple[str, int]:
    """Where the balancer leads to. Raises: Refused."""
    host, port = request.balancer["host"].decode(), int(request.balancer["port"])
    is_address = re.fullmatch(r"[0-9.]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?", host) is not None
    if request.balancer["type"] not in {"name", b"name"}:
        if not is_address:
            request.trace.log.append(("err", f"failed to set the current peer (address: {host}): no host allowed"))
            raise Refused(500)
        return host.strip("[]"), port
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host.strip("[]"), port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        request.trace.log.append(("err", f"DNS resolution failed: {host}"))
        raise Refused(503) from None
    return str(found[0][4][0]), port


async def _send_body(writer: asyncio.StreamWriter, body: AsyncIterator[bytes], *, is_chunked: bool) -> None:
    with contextlib.suppress(ConnectionError):  # what it answers counts, if anything
        async for piece in body:
            writer.write(b"%X\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            await writer.drain()
        if is_chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
