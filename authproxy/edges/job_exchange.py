"""
The exchange of a deferred request: nobody is connected, so that its body was kept and its answer is.

It decides how much of an answer is kept (``take``) and which of its fields mean something to whoever fetches it later.
It refuses to know where the answer goes. Source: RFC 9110 section 15.3.3 (202).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from authproxy.results.result import FIELD_BYTES
from authproxy.upstream.failures import ForwardFailed
from policies.decision import Reason

Fields = tuple[tuple[bytes, bytes], ...]

_UNKEPT: Final = frozenset(
    {
        b"set-cookie",  # a session made anew is its browser's alone, not whoever's the result is
        b"set-cookie2",
        b"retry-after",  # whoever fetches would take it for the result's own
        b"x-request-id",  # the fetching request has one
        b"ratelimit",
        b"ratelimit-policy",
    }
)
_UNKEPT_PREFIX: Final = b"access-control-"
"""Said of another path to another origin."""
TOO_LARGE_ANSWER: Final = "the function's answer is larger than may be kept"
NO_ROOM: Final = "there is no room to keep the function's answer"


class ResultTooLarge(Exception):
    """The answer is not kept, and the rest of it not read."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail


class KeptBody(Protocol):
    """What is needed of ``authproxy.upstream.held_body.HeldBody``, which is whole."""

    async def read(self) -> bytes: ...

    def rewind(self) -> None: ...

    def whole(self) -> bytes | None: ...

    @property
    def is_in_memory(self) -> bool: ...


class JobExchange:
    """
    See ``authproxy.upstream.exchange.Exchange``.

    Args:
        body: of the request, whole; None: it has none.
        max_bytes: longest answer, fields included.
        take: asked for room for so many more bytes; a reason: there is none.
    """

    def __init__(self, body: KeptBody | None, max_bytes: int, take: Callable[[int], Reason | None]) -> None:
        self.has_started = False
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.sent_body: bytes | None = None
        self.fields: Fields = ()
        """Of the answer, but for those of its connection and those that mean nothing later."""
        self.is_whole = False
        """The answer has come to its end."""
        self._body = body
        self._pieces: list[bytes] = []
        self._room = max_bytes
        self._take = take

    @property
    def body(self) -> bytes:
        """Of the answer."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    # -- the request's body ----------------------------------------------------------------------------------------

    @property
    def has_whole_body(self) -> bool:
        return self._body is None or self._body.is_in_memory

    def whole_body(self) -> bytes | None:
        body = b"" if self._body is None else self._body.whole()
        if body is not None:
            self.bytes_in = len(body)
        return body

    async def read(self) -> bytes:
        if self._body is None:
            return b""
        data = await self._body.read()
        self.bytes_in += len(data)
        return data

    @property
    def may_rewind(self) -> bool:
        return True

    def rewind(self) -> None:
        if self._body is not None and self.sent_body is None:
            self._body.rewind()
            self.bytes_in = 0

    async def send_continue(self) -> None:
        """Nobody waits to be told."""

    # -- the answer --------------------------------------------------------------------------------------------------

    def answer(self, status: int, block: bytes, body: bytes, content_length: int | None) -> None:  # noqa: ARG002  # says nothing here: it matters to what has no body
        self._begin(status, block)
        self._keep(body)
        self.finish()

    def start(self, status: int, block: bytes, content_length: int | None, first: bytes = b"") -> None:
        self._begin(status, block)
        if content_length is not None and content_length > self._room:
            raise ResultTooLarge(Reason.UPSTREAM_GARBLED, TOO_LARGE_ANSWER)  # why read what will not be kept
        self._keep(first)

    async def write(self, data: bytes) -> None:
        self._keep(data)

    def finish(self) -> None:
        self.is_whole = True

    def abort(self) -> None:
        self._pieces.clear()

    def _begin(self, status: int, block: bytes) -> None:
        self.has_started = True
        self.status = status
        fields = kept_fields(block)
        self._make_room(sum(len(name) + len(value) + FIELD_BYTES for name, value in fields))
        self.fields = fields

    def _keep(self, data: bytes) -> None:
        if data:
            self._make_room(len(data))
            self._pieces.append(data)
            self.bytes_out += len(data)

    def _make_room(self, count: int) -> None:
        """Raises: ResultTooLarge."""
        if count > self._room:
            raise ResultTooLarge(Reason.UPSTREAM_GARBLED, TOO_LARGE_ANSWER)
        if count and self._take(count) is not None:
            raise ResultTooLarge(Reason.OVERLOADED, NO_ROOM)
        self._room -= count

    # -- tunnels: a deferred request is never one ------------------------------------------------------------------

    def start_tunnel(self, block: bytes, sink: Callable[[bytes], None]) -> None:  # noqa: ARG002  # the protocol's
        raise ForwardFailed(Reason.UPSTREAM_GARBLED)

    def write_now(self, data: bytes) -> None:
        """Nobody is there."""

    def pause_reading(self) -> None:
        """Nobody is read from."""

    def resume_reading(self) -> None:
        """As above."""


def kept_fields(block: bytes) -> Fields:
    """The fields of ``block`` (``name: value CRLF`` lines) that are kept with an answer."""
    pairs = (line.partition(b":") for line in block.split(b"\r\n") if line)
    fields = ((name, value.strip(b" \t")) for name, _, value in pairs)
    return tuple((n, v) for n, v in fields if n.lower() not in _UNKEPT and not n.lower().startswith(_UNKEPT_PREFIX))
