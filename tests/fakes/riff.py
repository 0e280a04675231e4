"""
The http-gateway of riff 0.0.7 over a socket: topics in, replies out, all by what stands behind the topic.

Nothing here knows Portero. As the real one it looks at nothing of a request but path, body and two fields, takes any
method, and finds a topic by its bare name, whatever namespace it is in. ``published`` records what arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.knative import BareResponse, Failure, go_error

_GO_TEXT: Final = "text/plain; charset=utf-8"


class Message(NamedTuple):
    """One message on a topic."""

    topic: str
    fields: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    body: bytes
    content_type: str = "text/plain"
    error: str = ""
    """The header ``error`` of the reply."""


Function = Callable[[Message], Reply]


@dataclass(slots=True)
class FakeRiff:
    """Use as ``async with FakeRiff() as riff``."""

    timeout_s: float = 60.0
    """The gateway's patience for a reply."""
    answers_timeouts_with: int = 504
    """404 in early versions."""
    url: str = ""
    published: list[Message] = field(default_factory=list)
    failure: Failure = field(default_factory=Failure)
    topics: dict[str, Function | None] = field(default_factory=dict)
    """Topic -> what replies to it; None: nothing does."""
    is_kafka_down: bool = False
    _runner: web.ServerRunner | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        """The gateway goes down."""
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.failure.hangs:
            await self._stopping.wait()
        if self.failure.status is not None:
            return web.Response(status=self.failure.status)
        if self.failure.body is not None:
            return web.Response(body=self.failure.body)
        path = unquote(request.raw_path.partition("?")[0])
        if path == "/application/status":
            return web.Response(body=b'{"status":"UP"}', headers={"Content-Type": _GO_TEXT})
        for prefix, is_request in (("/requests/", True), ("/messages/", False)):
            if path.startswith(prefix):
                return await self._publish(path.removeprefix(prefix), request, is_request=is_request)
        return go_error(404, "404 page not found")

    async def _publish(self, topic: str, request: web.BaseRequest, *, is_request: bool) -> web.StreamResponse:
        if topic not in self.topics:
            return go_error(404, f"could not find Riff topic '{topic}'")
        body = await request.read()
        if self.is_kafka_down:
            return go_error(500, "kafka: client has run out of available brokers to talk to")
        fields = {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}
        message = Message(topic, fields, body)
        self.published.append(message)
        if not is_request:
            return web.Response(
                body=f"Message published to topic: {topic}\n".encode(), headers={"Content-Type": _GO_TEXT}
            )
        function = self.topics[topic]
        if function is None:
            await asyncio.sleep(self.timeout_s)
            return BareResponse(status=self.answers_timeouts_with)
        reply = function(message)
        status, content_type = (500, _GO_TEXT) if reply.error else (200, reply.content_type)
        return web.Response(status=status, body=reply.body, headers={"Content-Type": content_type})
