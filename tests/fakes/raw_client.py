"""A client on a raw socket: sends exactly these bytes, reads answers by their framing and keeps what is left over."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass
class RawAnswer:
    status: int
    fields: list[tuple[str, str]]
    """Names in lower case, in the order received."""
    body: bytes

    def field(self, name: str) -> str | None:
        """The only value of a field, None without one."""
        values = [value for key, value in self.fields if key == name]
        if len(values) > 1:
            raise AssertionError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None


def unread(reader: asyncio.StreamReader) -> bytes:
    """What had come before a connection was reset; a stream that was not read by then shows nothing but the error."""
    return bytes(reader._buffer)  # type: ignore[attr-defined]


class RawClient:
    """``async with RawClient(address) as client``."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None, name: str | None = None) -> None:
        self._address = address
        self._tls = tls
        self._name = name
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            *self._address, ssl=self._tls, server_hostname=self._name if self._tls is not None else None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def get(self, target: str = "/", fields: str = "") -> RawAnswer:
        await self.send(f"GET {target} HTTP/1.1\r\nHost: acme.example\r\n{fields}\r\n".encode())
        return await self.answer()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        block = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
        first, *lines = block[:-4].split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        return int(first.split(" ")[1]), [(name.lower(), value) for name, _, value in pairs]

    async def answer(self, *, to_head: bool = False) -> RawAnswer:
        """The next answer that is not 1xx. Raises: IncompleteReadError when it is cut off."""
        return await asyncio.wait_for(self._answer(to_head=to_head), 20)

    async def _answer(self, *, to_head: bool) -> RawAnswer:
        status, fields = await self.head()
        while 100 <= status < 200:
            status, fields = await self.head()
        answer = RawAnswer(status, fields, b"")
        if to_head or status in {204, 304}:
            return answer
        if answer.field("transfer-encoding") == "chunked":
            while piece := await self.chunk():
                answer.body += piece
        elif (length := answer.field("content-length")) is not None:
            answer.body = await self.reader.readexactly(int(length))
        else:
            answer.body = await self.reader.read()
        return answer

    async def chunk(self) -> bytes:
        """One chunk; ``b""`` at the end, after which no trailer is tolerated."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def until_end(self) -> bytes:
        """Everything up to the close, within twenty seconds; of a connection that was reset what had come before."""
        wire = b""
        try:
            async with asyncio.timeout(20):
                while piece := await self.reader.read(65536):
                    wire += piece
        except ConnectionError:
            wire += unread(self.reader)
        return wire

    def close(self) -> None:
        """FIN."""
        self.writer.close()

    def reset(self) -> None:
        """RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SOL_SOCKET, SO_LINGER: on, 0 seconds
        self.writer.transport.abort()
