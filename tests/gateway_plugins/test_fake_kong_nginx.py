"""The stand-in for Kong reads heads as a real nginx does: the same taken, the same refused, the same values."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.kong_nginx import Refused, read_body, read_head
from tests.fakes.world import send_raw

CONFIG: Final = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; underscores_in_headers on; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; default_type text/plain;
  server {{
    listen 127.0.0.1:{port}; server_name kong;
    location / {{ return 200 "$request_method|$request_uri|$host|$args|$http_x_a|$http_x_b"; }}
  }}
}}
"""
LINE: Final = b"GET /a HTTP/1.1"
HEADS: Final = {
    "usual": b"GET /a?b=1&c HTTP/1.1\r\nHost: A.test\r\nX-A: 1",
    "line feeds alone": b"GET /a HTTP/1.1\nHost: a\nX-A: 1",
    "empty lines before": b"\r\n\r\nGET /a HTTP/1.1\r\nHost: a",
    "more spaces": b"GET   /a   HTTP/1.1  \r\nHost: a",
    "tab for a space": b"GET\t/a HTTP/1.1\r\nHost: a",
    "lower case": b"get /a HTTP/1.1\r\nHost: a",
    "method with a digit": b"GET2 /a HTTP/1.1\r\nHost: a",
    "method with _ and -": b"X_Y-Z /a HTTP/1.1\r\nHost: a",
    "method with !": b"G!T /a HTTP/1.1\r\nHost: a",
    "unknown method": b"PROPFIND /a HTTP/1.1\r\nHost: a",
    "TRACE": b"TRACE /a HTTP/1.1\r\nHost: a",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a",
    "CONNECT with a path": b"CONNECT /a HTTP/1.1\r\nHost: a",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: a",
    "no path": b"GET a HTTP/1.1\r\nHost: a",
    "absolute": b"GET http://B.test:81/a?x HTTP/1.1\r\nHost: a",
    "absolute without a path": b"GET http://b.test HTTP/1.1\r\nHost: a",
    "absolute with a query alone": b"GET http://b.test?x HTTP/1.1\r\nHost: a",
    "absolute with userinfo": b"GET http://u@b.test/a HTTP/1.1\r\nHost: a",
    "absolute v6": b"GET http://[::1]:80/a HTTP/1.1\r\nHost: a",
    "absolute without a host": b"GET http:///a HTTP/1.1\r\nHost: a",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a",
    "tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: a",
    "NUL in the target": b"GET /a\0b HTTP/1.1\r\nHost: a",
    "DEL in the target": b"GET /a\x7f HTTP/1.1\r\nHost: a",
    "byte in the target": b"GET /caf\xe9 HTTP/1.1\r\nHost: a",
    "quotes in the target": b'GET /"<{}> HTTP/1.1\r\nHost: a',
    "fragment": b"GET /a#f HTTP/1.1\r\nHost: a",
    "fragment in the query": b"GET /a?b#f HTTP/1.1\r\nHost: a",
    "encoded NUL": b"GET /a%00 HTTP/1.1\r\nHost: a",
    "encoded NUL in the query": b"GET /a?%00 HTTP/1.1\r\nHost: a",
    "half an escape": b"GET /a%2 HTTP/1.1\r\nHost: a",
    "no escape": b"GET /a%zz HTTP/1.1\r\nHost: a",
    "no escape in the query": b"GET /a?%zz HTTP/1.1\r\nHost: a",
    "out of the root": b"GET /a/../../b HTTP/1.1\r\nHost: a",
    "out of the root, escaped": b"GET /%2e%2e/b HTTP/1.1\r\nHost: a",
    "out of the root, slashes": b"GET //../b HTTP/1.1\r\nHost: a",
    "up within the root": b"GET /a/b/../../c HTTP/1.1\r\nHost: a",
    "dots of the query": b"GET /a?/../../.. HTTP/1.1\r\nHost: a",
    "HTTP/1.0": b"GET /a HTTP/1.0",
    "HTTP/1.2": b"GET /a HTTP/1.2\r\nHost: a",
    "HTTP/1.999": b"GET /a HTTP/1.999\r\nHost: a",
    "HTTP/1.1000": b"GET /a HTTP/1.1000\r\nHost: a",
    "HTTP/01.1": b"GET /a HTTP/01.1\r\nHost: a",
    "HTTP/0.9 by name": b"GET /a HTTP/0.9\r\nHost: a",
    "HTTP/2.0 in text": b"GET /a HTTP/2.0\r\nHost: a",
    "HTTP/11.1": b"GET /a HTTP/11.1\r\nHost: a",
    "http in lower case": b"GET /a http/1.1\r\nHost: a",
    "no version": b"GET /a\r\nHost: a",
    "POST without version": b"POST /a\r\nHost: a",
    "carriage return in the line": b"GET /a\rb HTTP/1.1\r\nHost: a",
    "no host": LINE,
    "two hosts": LINE + b"\r\nHost: a\r\nhost: a",
    "empty host": LINE + b"\r\nHost:",
    "host with a path": LINE + b"\r\nHost: a/b",
    "host with a space": LINE + b"\r\nHost: a b",
    "host with two dots": LINE + b"\r\nHost: a..b",
    "host with a dot at its end": LINE + b"\r\nHost: a.:80",
    "host that is a dot": LINE + b"\r\nHost: .",
    "host that is a port": LINE + b"\r\nHost: :80",
    "host with a byte": LINE + b"\r\nHost: \xe9.test",
    "host with userinfo": LINE + b"\r\nHost: a@b",
    "host v6": LINE + b"\r\nHost: [::1]:80",
    "field without a colon": LINE + b"\r\nHost: a\r\nX-A",
    "field without a name": LINE + b"\r\nHost: a\r\n: x",
    "space before the colon": LINE + b"\r\nHost: a\r\nX-A : 1",
    "space before the name": LINE + b"\r\nHost: a\r\n X-A: 1",
    "tab before the name": LINE + b"\r\nHost: a\r\n\tX-A: 1",
    "folded": LINE + b"\r\nHost: a\r\nX-A: 1\r\n 2",
    "name with a byte": LINE + b"\r\nHost: a\r\nX-\xe9: 1\r\nX-A: 2",
    "name with a dot": LINE + b"\r\nHost: a\r\nX.A: 1",
    "name with an underscore": LINE + b"\r\nHost: a\r\nX_A: 1",
    "name with NUL": LINE + b"\r\nHost: a\r\nX\0A: 1",
    "value with NUL": LINE + b"\r\nHost: a\r\nX-A: 1\x002",
    "value with a carriage return": LINE + b"\r\nHost: a\r\nX-A: 1\rX-B: 2",
    "carriage returns at its end": LINE + b"\r\nHost: a\r\nX-A: 1\r\r",
    "value with control bytes": LINE + b"\r\nHost: a\r\nX-A: \x01\x1f\x7f\xff",
    "value with spaces around": LINE + b"\r\nHost: a\r\nX-A:   1  2  ",
    "value with a tab before": LINE + b"\r\nHost: a\r\nX-A:\t1",
    "two of a name": LINE + b"\r\nHost: a\r\nX-A: 1\r\nx-a: 2",
    "two lengths": LINE + b"\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0",
    "length with a sign": LINE + b"\r\nHost: a\r\nContent-Length: +0",
    "length below nought": LINE + b"\r\nHost: a\r\nContent-Length: -1",
    "length that is a list": LINE + b"\r\nHost: a\r\nContent-Length: 0, 0",
    "empty length": LINE + b"\r\nHost: a\r\nContent-Length:",
    "length beyond all": LINE + b"\r\nHost: a\r\nContent-Length: 9223372036854775808",
    "length and chunks": LINE + b"\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
    "chunks twice": LINE + b"\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "another coding": LINE + b"\r\nHost: a\r\nTransfer-Encoding: xchunked",
    "gzip before chunks": LINE + b"\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
    "chunks in HTTP/1.0": b"GET /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
    "two authorizations": LINE + b"\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b",
    "two expectations": LINE + b"\r\nHost: a\r\nExpect: a\r\nExpect: b",
    "two if-matches": LINE + b"\r\nHost: a\r\nIf-Match: a\r\nIf-Match: b",
    "two content types": LINE + b"\r\nHost: a\r\nContent-Type: a\r\nContent-Type: b",
    "target that just fits": b"GET /" + b"a" * 8176 + b" HTTP/1.1\r\nHost: a",
    "target that does not fit": b"GET /" + b"a" * 8177 + b" HTTP/1.1\r\nHost: a",
    "field that just fits": LINE + b"\r\nHost: a\r\nX-B: " + b"b" * 8185,
    "field that does not fit": LINE + b"\r\nHost: a\r\nX-B: " + b"b" * 8186,
    "fields that just fit": LINE + b"\r\nHost: a" + 4 * (b"\r\nX-C: " + b"c" * 8180),
    "fields that do not fit": LINE + b"\r\nHost: a" + 5 * (b"\r\nX-C: " + b"c" * 8000),
    "nine hundred fields": LINE + b"\r\nHost: a" + 900 * b"\r\nX-C: c",
}


def _nginx() -> str:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.fail("nginx is missing; tests/system-packages.sh has it")
    return program


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[tuple[str, int]]:
    folder = tmp_path_factory.mktemp("nginx")
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=free_port))
    process = subprocess.Popen([_nginx(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"])
    try:
        _until_pid(folder / "nginx.pid", process)
        yield "127.0.0.1", free_port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_pid(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while not (file.exists() and file.read_text().strip()):
        assert process.poll() is None, "nginx does not start"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
async def test_a_head_is_taken_and_refused_as_nginx_does(head: bytes, nginx: tuple[str, int]) -> None:
    """The status, and of what is taken method, target, host, query and fields."""
    wire = head + b"\r\nConnection: close\r\n\r\n"
    assert await _read(wire) == await _asked(nginx, wire)


async def _asked(address: tuple[str, int], wire: bytes) -> tuple[int, bytes]:
    if b" HTTP/" not in wire.split(b"\n")[0]:
        answer = await _plain(address, wire)
        if not answer.startswith(b"HTTP/"):
            is_page = answer.startswith(b"<html>")  # HTTP/0.9 has no head
            return (400, b"") if is_page else (200, answer)
    raw = await send_raw(address, wire)
    assert raw is not None
    return raw.status, raw.body if raw.status == 200 else b""


async def _plain(address: tuple[str, int], wire: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(wire)
    read = b""
    with suppress(ConnectionError):
        read = await reader.read()
    writer.close()
    return read


async def _read(wire: bytes) -> tuple[int, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    try:
        head = await read_head(reader)
    except Refused as refused:
        return 400 if refused.status == 494 else refused.status, b""
    assert head is not None
    values = [_values(head.fields, name) for name in (b"x_a", b"x_b")]
    return 200, b"|".join([head.method, head.uri, head.host, head.args or b"", *values])


def _values(fields: tuple[tuple[bytes, bytes], ...], name: bytes) -> bytes:
    """The first of them: since 1.23 nginx joins them, and the one at hand may be older."""
    return next((value for key, value in fields if key.lower().replace(b"-", b"_") == name), b"")


# --- bodies ---------------------------------------------------------------------------------------------------------


async def _body(head: bytes, body: bytes) -> bytes:
    reader = asyncio.StreamReader()
    reader.feed_data(LINE + b"\r\nHost: a\r\n" + head + b"\r\n\r\n" + body)
    reader.feed_eof()
    read = await read_head(reader)
    assert read is not None
    pieces: AsyncIterator[bytes] = read_body(reader, read)
    return b"".join([piece async for piece in pieces])


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        (b"X: y", b"abc", b""),
        (b"Content-Length: 3", b"abcdef", b"abc"),
        (
            b"Transfer-Encoding: chunked",
            b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nmore",
            b"abc0123456789",
        ),
        (b"Transfer-Encoding: Chunked", b"0\r\n\r\n", b""),
    ],
    ids=["none", "length", "chunks", "no chunk"],
)
async def test_a_body_is_read_to_its_end_and_no_further(head: bytes, body: bytes, expected: bytes) -> None:
    """What follows belongs to the next request."""
    assert await _body(head, body) == expected


@pytest.mark.parametrize("body", [b"-1\r\n", b"x\r\n", b"\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3 3\r\nabc\r\n"])
async def test_chunks_that_are_none_are_refused(body: bytes) -> None:
    """400, as nginx answers."""
    with pytest.raises(Refused, match="400"):
        await _body(b"Transfer-Encoding: chunked", body)
