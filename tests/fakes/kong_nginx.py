"""
Request heads and bodies as nginx 1.25 reads them, and what it refuses before any of Kong's plugins is asked.

As in Kong: ``underscores_in_headers on``, ``ignore_invalid_headers on``, ``client_header_buffer_size 1k``,
``large_client_header_buffers 4 8k``, ``merge_slashes on``, no limit on bodies. Everything is bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, NamedTuple

HEADER_BUFFER: Final = 1024
LARGE_BUFFER: Final = 8192
LARGE_BUFFERS: Final = 4
MAX_LENGTH: Final = 2**63 - 1

_METHOD: Final = rb"(?P<method>[A-Z_-]+)"
_PATH: Final = rb"[\x21-\x7e\x80-\xff]*"
_AUTHORITY: Final = rb"(?P<host>\[[0-9A-Za-z:._~!$&'()*+,;=-]*\]|[A-Za-z0-9.-]*)(?::[0-9]*)?"
_TARGET: Final = rb"(?:[A-Za-z][A-Za-z0-9+.-]*://" + _AUTHORITY + rb")?(?P<uri>/" + _PATH + rb"|\?" + _PATH + rb"|)"
_VERSION: Final = rb"HTTP/(?P<major>1)\.(?P<minor>[0-9]{1,3})"
_LINE: Final = re.compile(_METHOD + rb" +" + _TARGET + rb"(?: +(?:" + _VERSION + rb" *)?)?")
_NEWER: Final = re.compile(_METHOD + rb" +" + _TARGET + rb" +HTTP/(?:[2-9]|1[0-9])")
_NAME: Final = re.compile(rb"[A-Za-z0-9_-]+")
_NO_NAME: Final = re.compile(rb"[\x00-\x20\x7f]")
_ONCE: Final = frozenset(
    {
        *(b"host", b"if-modified-since", b"if-unmodified-since", b"if-match", b"if-none-match", b"content-length"),
        *(b"content-range", b"if-range", b"transfer-encoding", b"expect", b"authorization"),
    }
)


class Refused(Exception):
    """nginx answers this status by itself."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class NginxHead:
    """One request head that nginx takes."""

    line: bytes
    """``$request``: as sent, without its end."""
    method: bytes
    uri: bytes
    """``$request_uri``."""
    version: int
    """9, 1000, 1001, ..."""
    host: bytes
    """``$host``: of the target or the field, lower case, without port."""
    fields: tuple[tuple[bytes, bytes], ...]
    """As sent, without those whose names nginx ignores."""
    content_length: int | None
    is_chunked: bool
    keeps_alive: bool

    @property
    def path(self) -> bytes:
        return self.uri.partition(b"?")[0]

    @property
    def args(self) -> bytes | None:
        """``$args``: ends at a ``#``."""
        _, mark, query = self.uri.partition(b"#")[0].partition(b"?")
        return query if mark and query else None

    @property
    def has_body(self) -> bool:
        return self.is_chunked or bool(self.content_length)


class _Line(NamedTuple):
    text: bytes
    method: bytes
    uri: bytes
    version: int
    host: bytes | None


async def read_head(reader: asyncio.StreamReader) -> NginxHead | None:
    """The next head; None when the client has ended. Raises: Refused."""
    lines: list[bytes] = []
    while True:
        line = await _read_line(reader, lines)
        if not line:
            if lines:
                raise Refused(400)
            return None
        if not lines and line.strip(b"\r\n") == b"":
            continue
        lines.append(line)
        if len(lines) == 1:
            parsed = _read_request_line(line)
            if parsed.version < 1000:
                return _head(parsed, [])
        elif line in {b"\r\n", b"\n"}:
            return _head(parsed, [_read_field(one) for one in lines[1:-1]])


async def _read_line(reader: asyncio.StreamReader, before: list[bytes]) -> bytes:
    status = 494 if before else 414
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial.strip(b"\r\n") and not before:
            raise Refused(400) from None
        return b""
    except asyncio.LimitOverrunError:
        raise Refused(status) from None
    except ConnectionError:
        return b""
    if not _fits([*before, line]):
        raise Refused(status)
    return line


def _fits(lines: list[bytes]) -> bool:
    room, buffers = HEADER_BUFFER, 0
    for line in lines:
        if len(line) > room:
            buffers += 1
            room = LARGE_BUFFER
            if buffers > LARGE_BUFFERS or len(line) > LARGE_BUFFER:
                return False
        room -= len(line)
    return True


def _read_request_line(line: bytes) -> _Line:
    line = _without_end(line)
    found = _LINE.fullmatch(line)
    if found is None:
        raise Refused(505 if _NEWER.match(line) else 400)
    minor, method, uri, host = found["minor"], found["method"], found["uri"], found["host"]
    if host is None and not uri.startswith(b"/"):
        raise Refused(400)
    version = 9 if minor is None else 1000 + int(minor)
    if version == 9 and method != b"GET":
        raise Refused(400)
    if not _is_possible(uri.partition(b"?")[0].partition(b"#")[0] or b"/"):
        raise Refused(400)
    return _Line(line, method, uri or b"/", version, _validated_host(host) if host is not None else None)


def _without_end(line: bytes) -> bytes:
    """Without LF or CRLF. A lone CR anywhere else stays, and is refused by whoever reads on."""
    line = line.removesuffix(b"\n")
    return line.removesuffix(b"\r")


def _is_possible(path: bytes) -> bool:
    """Whether nginx can decode it without leaving the root, meeting a NUL or half an escape."""
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path) or b"%00" in path:
        return False
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda escape: bytes([int(escape[1], 16)]), path)
    depth = 0
    for segment in decoded.split(b"/")[1:]:
        if segment == b"..":
            depth -= 1
        elif segment not in {b"", b"."}:
            depth += 1
        if depth < 0:
            return False
    return True


def _read_field(line: bytes) -> tuple[bytes, bytes] | None:
    """None: nginx ignores it. Raises: Refused."""
    line = re.sub(rb"\r*\n\Z", b"", line)
    name, _, value = line.partition(b":")
    if not name or _NO_NAME.search(name) or b"\0" in value or b"\r" in value:
        raise Refused(400)
    return (name, value.strip(b" ")) if _NAME.fullmatch(name) else None


def _validated_host(host: bytes) -> bytes:
    if b".." in host or re.search(rb"[/\x00-\x20\x7f]", host):
        raise Refused(400)
    found = re.match(rb"\[[^\]]*\]|[^:]*", host)
    name = (found[0] if found is not None else host).removesuffix(b".")
    if not name:
        raise Refused(400)
    return name.lower()


def _head(line: _Line, found: list[tuple[bytes, bytes] | None]) -> NginxHead:
    fields = tuple(field for field in found if field is not None)
    by_name: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        by_name.setdefault(name.lower(), []).append(value)
    if any(len(by_name.get(name, ())) > 1 for name in _ONCE):
        raise Refused(400)
    host = by_name.get(b"host")
    name_of_host = _validated_host(host[0]) if host is not None else None
    if host is None and line.version > 1000:
        raise Refused(400)
    length, is_chunked = _framing(line.version, by_name)
    if line.method in {b"CONNECT", b"TRACE"}:
        raise Refused(405)
    connection = b",".join(by_name.get(b"connection", ())).lower()
    asks_to_keep = line.version > 1000 or (line.version == 1000 and b"keep-alive" in connection)
    return NginxHead(
        line=line.text,
        method=line.method,
        uri=line.uri,
        version=line.version,
        host=line.host or name_of_host or b"kong",
        fields=fields,
        content_length=length,
        is_chunked=is_chunked,
        keeps_alive=asks_to_keep and b"close" not in connection,
    )


def _framing(version: int, by_name: dict[bytes, list[bytes]]) -> tuple[int | None, bool]:
    length: int | None = None
    if lengths := by_name.get(b"content-length"):
        if not re.fullmatch(rb"[0-9]+", lengths[0]) or int(lengths[0]) > MAX_LENGTH:
            raise Refused(400)
        length = int(lengths[0])
    codings = by_name.get(b"transfer-encoding")
    if codings is None:
        return length, False
    if version < 1001:
        raise Refused(400)
    if codings[0].lower() != b"chunked":
        raise Refused(501)
    if length is not None:
        raise Refused(400)
    return None, True


async def read_body(reader: asyncio.StreamReader, head: NginxHead) -> AsyncIterator[bytes]:
    """The body in pieces, without chunks and trailers. Raises: Refused, IncompleteReadError when the client ends."""
    if not head.is_chunked:
        async for piece in _read_exactly(reader, head.content_length or 0):
            yield piece
        return
    try:
        while True:
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n", await reader.readuntil(b"\n"))
            if size is None:
                raise Refused(400)
            if not int(size[1], 16):
                break
            async for piece in _read_exactly(reader, int(size[1], 16)):
                yield piece
            end = await reader.readexactly(1)
            if (await reader.readexactly(1) if end == b"\r" else end) != b"\n":
                raise Refused(400)
        while await reader.readuntil(b"\n") not in {b"\r\n", b"\n"}:
            pass
    except asyncio.LimitOverrunError:
        raise Refused(400) from None


async def _read_exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        piece = await reader.read(min(length, 65536))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece
