"""
The head of one answer to a GET, over a connection of its own: how a function is probed.

It decides how much of an answer is looked at before there is a head: ``MAX_HEAD_BYTES``, interim answers (1xx) and all.
Functions are their tenants', and one that sends interim answers without end must cost no more than one that is silent:
a client that reads them as fast as they come never gets back to its own timeout. It refuses to know what an answer
means, and how long it may take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ssl import SSLContext
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from authproxy.backends.backend import Fields
from authproxy.upstream.departure import Address

MAX_HEAD_BYTES: Final = 32 * 1024
"""Of all heads together, up to the end of the one that counts."""
_PIECE_BYTES: Final = 4096
_SWITCHING: Final = 101
"""The only 1xx that no other answer follows."""


class _Head:
    def __init__(self) -> None:
        self.status = 0
        self.fields: Fields = []
        self.is_complete = False
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises: ValueError for what is no answer."""
        try:
            self._parser.feed_data(data)
        except (HttpParserUpgrade, HttpParserError) as error:
            if not self.is_complete:  # what follows a head is not looked at
                raise ValueError("no answer") from error

    def on_message_begin(self) -> None:
        if not self.is_complete:
            self.fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_complete:
            self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        if not self.is_complete:
            self.status = self._parser.get_status_code()
            self.is_complete = self.status >= 200 or self.status == _SWITCHING


async def answer_head(
    address: Address, target: bytes, fields: Mapping[str, str], tls: SSLContext | None
) -> tuple[int, Fields]:
    """
    Status and fields. ``fields`` have Host among them; ``tls`` is set exactly when ``address`` wants it.

    Raises: OSError when there is no connection, EOFError when it ends before there is an answer, ValueError when what
    came is none.
    """
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls, limit=_PIECE_BYTES)
    try:
        lines = b"".join(f"{name}: {value}\r\n".encode("ascii") for name, value in fields.items())
        writer.write(b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (target, lines))
        head, left = _Head(), MAX_HEAD_BYTES
        while not head.is_complete:
            data = await reader.read(min(_PIECE_BYTES, left))
            if not data:
                if left:
                    raise EOFError("no answer")
                raise ValueError("the head is too long")
            left -= len(data)
            head.feed(data)
        return head.status, head.fields
    finally:
        writer.transport.abort()
