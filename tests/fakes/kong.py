"""
A stand-in for a Kong worker: takes HTTP as nginx does, runs the plugins of a declarative config, and proxies as Kong.

The pieces: ``kong_nginx`` (heads), ``kong_router``, ``kong_config``, ``kong_lua`` (the snippets, for real, in LuaJIT),
``kong_rpc`` (plugin servers, for real, on their sockets), ``kong_runloop``, ``kong_upstream``. What Kong does when
something fails it does, too: where a plugin server fails, the request passes on to whatever comes next. Longer than
other modules: it is the way of one request through all of them.

    async with KongFront(kong_yml, sockets, dumps=dumps) as kong: ... kong.address ... kong.requests[-1]
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from tests.fakes.kong_config import Dumps, Step, read_config
from tests.fakes.kong_lua import KongLua
from tests.fakes.kong_nginx import NginxHead, Refused, read_body, read_head
from tests.fakes.kong_pdk import RequestPdk
from tests.fakes.kong_request import SERVER, Answer, Exited, KongRequest
from tests.fakes.kong_router import Route, Router
from tests.fakes.kong_rpc import KongWorker, LuaError, Trace
from tests.fakes.kong_runloop import balancer_of, drop_hops, error_answer, host_field, leave, prepare
from tests.fakes.kong_upstream import UpstreamAnswer, Upstreams

HEAD_BYTES: Final = 32 * 1024
"""nginx's ``proxy_buffer_size``, as kong/kong.conf has it: what the head of an upstream's answer may take."""
LINGER_S: Final = 5.0


@dataclass(slots=True)
class RequestTrace(Trace):
    """What became of one request."""

    line: bytes = b""
    verdict: Literal["nginx", "exit", "error", "proxied", "cut"] = "cut"
    """nginx refused it; a plugin answered; something failed; the upstream answered; nobody was answered."""
    status: int = 0
    target: tuple[str, int] | None = None
    """Where the balancer was to send it, once it was to leave."""
    route: str | None = None


@dataclass(slots=True)
class _Client:
    reader: _Reader
    writer: asyncio.StreamWriter
    peer: tuple[str, int] = ("127.0.0.1", 0)
    has_begun: bool = False
    """A byte of the answer to the present request has been written."""


class _Reader(asyncio.StreamReader):
    """Says when the client has gone, whatever is still to be read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()


@dataclass(slots=True)
class _Chain:
    route: Route
    steps: Sequence[Step]
    compiled: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """Of Lua plugins, by name and phase."""


class KongFront:
    """
    One worker behind one listener on the loopback.

    Args:
        config: a declarative config, as YAML or read from it.
        sockets: folder of the plugin servers' sockets, ``<name>.socket``.
        dumps: what each plugin's query command prints, by its name.
        read_timeout_s: ``lua_socket_read_timeout``.
        has_headers: False: ``headers = off``, no ``Server`` and ``Via`` of Kong's on answers.
        head_bytes: ``proxy_buffer_size``, as kong/kong.conf has it.
    """

    def __init__(
        self,
        config: str | Mapping[str, Any],
        sockets: Path,
        *,
        dumps: Dumps,
        read_timeout_s: float = 60.0,
        has_headers: bool = False,
        head_bytes: int = HEAD_BYTES,
    ) -> None:
        self._lua = KongLua()
        chains = [_Chain(route, steps) for route, steps in read_config(config, dumps)]
        self._chains = {id(chain.route): chain for chain in chains}
        for chain in chains:
            self._compile(chain)
        self._router = Router([chain.route for chain in chains])
        self._has_headers = has_headers
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.worker = KongWorker(sockets, read_timeout_s=read_timeout_s)
        self.upstreams = Upstreams(head_bytes=head_bytes)
        self.address: tuple[str, int] = ("", 0)
        self.requests: list[RequestTrace] = []

    def _compile(self, chain: _Chain) -> None:
        for step in chain.steps:
            for phase in ("access", "header_filter"):
                if step.is_lua and (snippets := step.snippets(phase)):
                    chain.compiled[step.entity.name, phase] = [self._lua.compile(code) for code in snippets]

    def said(self, text: str) -> int:
        """How many lines of the error log have ``text`` in them."""
        return sum(text in line for trace in self.requests for _, line in trace.log)

    async def start(self, port: int = 0) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", port, backlog=2048)
        self.address = self._server.sockets[0].getsockname()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        reader = _Reader(loop)

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.get_extra_info("peername")
            task = loop.create_task(self._serve(_Client(reader, writer, (peer[0], peer[1]))))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        return asyncio.StreamReaderProtocol(reader, connected, loop=loop)

    async def stop(self) -> None:
        """Close the listener and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self.worker.close()
        self.upstreams.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- one connection ---------------------------------------------------------------------------------------------

    async def _serve(self, client: _Client) -> None:
        try:
            while await self._next(client):
                client.has_begun = False
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            client.writer.close()

    async def _next(self, client: _Client) -> bool:
        """Serve one request. True: another may follow."""
        trace = RequestTrace()
        try:
            head = await read_head(client.reader)
        except Refused as refused:
            self.requests.append(trace)
            trace.verdict = "nginx"
            self._write_own(client, trace, error_answer(refused.status, None))
            await self._linger(client)
            return False
        if head is None:
            return False
        self.requests.append(trace)
        trace.line = head.line
        body = _Body(client, head)
        keeps = await self._exchange(client, head, body, trace) and head.keeps_alive
        await client.writer.drain()
        if body.is_over or client.writer.is_closing():
            return keeps
        if not keeps:
            await self._linger(client)
            return False
        return await body.discard()

    async def _linger(self, client: _Client) -> None:
        with contextlib.suppress(TimeoutError):
            client.writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await client.reader.read(65536):
                    pass

    async def _exchange(self, client: _Client, head: NginxHead, body: _Body, trace: RequestTrace) -> bool:
        match = self._router.match(host_field(head), head.uri)
        if match is None:
            request = KongRequest(head, Route({}, {}), trace, balancer_of({}), client.peer)
            with contextlib.suppress(Exited):
                request.error(404, b"no Route matched with those values")
            return self._finish(client, request, None)
        chain = self._chains[id(match.route)]
        trace.route = match.route.document.get("name")
        request = KongRequest(head, match.route, trace, balancer_of(match.route.service), client.peer, self.address[1])
        self._lua.prepare(request)
        prepare(request, match)
        try:
            for step in chain.steps:
                await self._access(step, chain, request)
        except Exited:
            return self._finish(client, request, chain)
        except LuaError as error:
            trace.log.append(("err", str(error)))
            request.fail()
            return self._finish(client, request, chain)
        leave(request)
        return await self._proxy(client, request, chain, body)

    async def _access(self, step: Step, chain: _Chain, request: KongRequest) -> None:
        if not step.is_lua:
            await self.worker.event(step.entity, RequestPdk(request), request.trace)
            return
        self._run(step.entity.name, chain, request)

    def _run(self, name: str, chain: _Chain, request: KongRequest) -> None:
        compiled = chain.compiled.get((name, request.phase), [])
        for index, snippet in enumerate(compiled):
            compiled[index] = self._lua.run(snippet, request)

    # --- proxying ---------------------------------------------------------------------------------------------------

    async def _proxy(self, client: _Client, request: KongRequest, chain: _Chain, body: _Body) -> bool:
        trace = request.trace
        assert isinstance(trace, RequestTrace)
        trace.target = (request.balancer["host"].decode(), int(request.balancer["port"]))
        work = asyncio.create_task(self._pass_on(client, request, chain, body))
        gone = asyncio.create_task(client.reader.gone.wait())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                trace.status = trace.status or 499
                return False
            return work.result()
        except Refused as refused:
            if client.has_begun:
                client.writer.transport.abort()
                return False
            trace.verdict = "error"
            request.answer = error_answer(refused.status, request.head)
            return self._finish(client, request, chain) and refused.status != 400
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _pass_on(self, client: _Client, request: KongRequest, chain: _Chain, body: _Body) -> bool:
        answer = await self.upstreams.ask(request, body.pieces())
        try:
            request.answer = Answer(answer.status, answer.fields, source="service")
            request.upstream_fields = answer.came
            if not self._filter(client, request, chain):
                answer.abort()
                return False
            is_chunked = answer.length is None and answer.has_body and request.head.version > 1000
            is_framed = is_chunked or not answer.is_endless
            keeps = self._write_head(client, request, is_chunked=is_chunked, is_framed=is_framed)
            if answer.status == 101 and not answer.has_body:
                await _tunnel(client, answer)
                return False
            async for piece in answer.pieces():
                client.writer.write(b"%X\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                await client.writer.drain()
            if is_chunked:
                client.writer.write(b"0\r\n\r\n")
        except BaseException:
            answer.abort()
            raise
        return keeps

    # --- answers ----------------------------------------------------------------------------------------------------

    def _finish(self, client: _Client, request: KongRequest, chain: _Chain | None) -> bool:
        """Write an answer of Kong's own. True: the connection can be kept."""
        if not self._filter(client, request, chain):
            return False
        answer = request.answer
        assert answer is not None
        keeps = self._write_head(client, request, is_chunked=False, is_framed=True)
        if request.head.method != b"HEAD":
            client.writer.write(answer.body or b"")
        return keeps

    def _filter(self, client: _Client, request: KongRequest, chain: _Chain | None) -> bool:
        """Run the header filters. False: one has raised, and the connection is closed without an answer."""
        request.phase = "header_filter"
        answer, trace = request.answer, request.trace
        assert answer is not None
        if answer.source == "service":
            drop_hops(request)
        try:
            for step in chain.steps if chain is not None else ():
                if step.is_lua and chain is not None:
                    self._run(step.entity.name, chain, request)
        except (LuaError, Exited) as error:
            trace.log.append(("err", f"header_filter: {error}"))
            client.writer.transport.abort()
            return False
        assert isinstance(trace, RequestTrace)
        sources: dict[str, Literal["proxied", "exit", "error"]] = {
            "service": "proxied",
            "exit": "exit",
            "error": "error",
        }
        trace.verdict = sources[answer.source]
        if self._has_headers:
            via = request.variable("upstream_http_via")
            if answer.source == "service":
                request.set_answer_header(b"Via", b", ".join(filter(None, (via, b"1.1 " + SERVER))))
            if answer.source != "service" or request.variable("sent_http_server") is None:
                request.set_answer_header(b"Server", SERVER)
        return True

    def _write_head(self, client: _Client, request: KongRequest, *, is_chunked: bool, is_framed: bool) -> bool:
        answer, trace = request.answer, request.trace
        assert answer is not None
        assert isinstance(trace, RequestTrace)
        trace.status = answer.status
        keeps = request.head.keeps_alive and is_framed
        if request.head.version < 1000:
            return False  # HTTP/0.9: no head at all
        connection = b"upgrade" if answer.status == 101 else b"keep-alive" if keeps else b"close"
        own = [(b"Transfer-Encoding", b"chunked")] if is_chunked else []
        _write_fields(client, answer.status, [*answer.fields, *own, (b"Connection", connection)])
        return keeps

    def _write_own(self, client: _Client, trace: RequestTrace, answer: Answer) -> None:
        """An answer to what is no request."""
        trace.status = answer.status
        _write_fields(client, answer.status, [*answer.fields, (b"Connection", b"close")])
        client.writer.write(answer.body or b"")


class _Body:
    """The body of one request, read as it is wanted."""

    def __init__(self, client: _Client, head: NginxHead) -> None:
        self._client = client
        self._head = head
        self._pieces = read_body(client.reader, head)
        self._is_asked_for = False
        self.is_over = not head.has_body

    async def pieces(self) -> AsyncIterator[bytes]:
        expect = b",".join(value for name, value in self._head.fields if name.lower() == b"expect")
        if expect.lower() == b"100-continue" and self._head.version > 1000 and not self.is_over:
            self._client.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._is_asked_for = True
        async for piece in self._pieces:
            yield piece
        self.is_over = True

    async def discard(self) -> bool:
        """Read to its end. False: that cannot be had, and the connection is to be closed."""
        if self._is_asked_for or self._client.writer.is_closing():
            return False
        try:
            async with asyncio.timeout(LINGER_S):
                async for _ in self._pieces:
                    pass
        except (Refused, TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return False
        return True


def _write_fields(client: _Client, status: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
    client.has_begun = True
    phrase = responses.get(status, "").encode()
    lines = [b"HTTP/1.1 %d %b" % (status, phrase), *(name + b": " + value for name, value in fields)]
    client.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")


async def _tunnel(client: _Client, answer: UpstreamAnswer) -> None:
    reader, writer = answer.connection

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()

    pumps = [asyncio.create_task(pump(client.reader, writer)), asyncio.create_task(pump(reader, client.writer))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        answer.abort()
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
