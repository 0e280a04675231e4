"""A whole Portero over real sockets: app, provider, functions platform, and a client that sends bytes as they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from aiohttp import web

from authproxy.app import App
from authproxy.settings import Settings
from tests.fakes.openfaas import FakeOpenFaas, Invocation, echo
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.raw_client import unread

PLAIN: Final = Path(__file__).parents[1] / "worlds" / "plain"
VECTOR_WORLDS: Final = Path(__file__).parents[1] / "vectors" / "worlds"
ISSUER: Final = "https://id.test"
BACKEND: Final = "http://gateway.test:8080"
DIRECT: Final = "http://{function}:8081"
"""A backend's ``direct_url``; only the function named ``localhost`` can be reached by it."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it stood on the wire, parsed leniently: what is odd shows in the fields or the body."""

    status: int
    fields: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    wire: bytes

    def field(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    @property
    def reason(self) -> str | None:
        return self.field("x-portero-reason")

    def json(self) -> Any:
        return json.loads(self.body)


def parse_answer(wire: bytes) -> RawAnswer:
    """The final answer in ``wire``: interim ones (1xx but 101) are skipped; chunked bodies are joined."""
    head, _, body = wire.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    status = int(lines[0].split(b" ")[1])
    if 100 <= status < 200 and status != 101:
        return parse_answer(body)
    fields = tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1").strip())
        for name, _, value in (line.partition(b":") for line in lines[1:])
    )
    if ("transfer-encoding", "chunked") in fields:
        body = _join_chunks(body)
    return RawAnswer(status, fields, body, wire)


def _join_chunks(data: bytes) -> bytes:
    joined = b""
    while data:
        size_text, _, rest = data.partition(b"\r\n")
        size = int(size_text.split(b";")[0] or b"0", 16)
        if size == 0:
            break
        joined += rest[:size]
        data = rest[size + 2 :]
    return joined


async def send_raw(
    address: tuple[str, int], data: bytes, *, timeout_s: float = 20.0, half_close: bool = False
) -> RawAnswer | None:
    """Send ``data`` on a fresh connection and read to its end; None when nothing came back."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        if half_close:
            writer.write_eof()
        wire = b""
        try:
            async with asyncio.timeout(timeout_s):
                while piece := await reader.read(65536):
                    wire += piece
        except ConnectionError:
            wire += unread(reader)
        return parse_answer(wire) if wire else None
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request_bytes(
    line: str,
    *,
    host: str | None = "acme.test",
    token: str | None = None,
    fields: list[tuple[str, str]] | None = None,
    body: bytes = b"",
) -> bytes:
    """One request that asks for the connection to be closed. ``line`` is ``METHOD target[ version]``, verbatim."""
    version = "" if line.rpartition(" ")[2].startswith("HTTP/") else " HTTP/1.1"
    lines = [line + version]
    if host is not None:
        lines.append(f"Host: {host}")
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    lines += [f"{name}: {value}" for name, value in fields or []]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


class World:
    """Portero in front of a fake platform, with a provider that vouches for whoever a test names."""

    def __init__(self, folder: Path, provider: FakeProvider, faas: FakeOpenFaas, app: App) -> None:
        self.folder = folder
        self.provider = provider
        self.faas = faas
        self.app = app
        self.ci_key = Key(None, "EC", 77)

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    def token(
        self,
        sub: str = "ana",
        groups: tuple[str, ...] = ("analysts",),
        tenants: tuple[str, ...] = ("acme",),
        **claims: Any,
    ) -> str:
        return self.provider.mint(sub, **{"groups": list(groups), "organization": list(tenants), **claims})

    async def send(self, data: bytes, *, timeout_s: float = 20.0) -> RawAnswer:
        answer = await send_raw(self.app.public_address, data, timeout_s=timeout_s)
        if answer is None:
            raise ConnectionError("the connection was closed without an answer")
        return answer

    def stop_readiness(self) -> None:
        """What is found out from now on of a function that is awake is believed for ever, however long a test takes."""
        activator = self.app.parts.activator
        now = activator._clock()
        activator._clock = activator._tools.clock = lambda: now

    async def get(self, target: str, **options: Any) -> RawAnswer:
        return await self.send(request_bytes(f"GET {target}", **options))


def write_world(source: Path, target: Path, *, issuer: str, backend: str, direct_port: int = 8081) -> None:
    """Copy a policy folder with the addresses of the fakes filled in."""
    target.mkdir(parents=True, exist_ok=True)
    addresses = {ISSUER: issuer, BACKEND: backend, DIRECT: DIRECT.replace("8081", str(direct_port))}
    for file in source.glob("*.yaml"):
        text = file.read_text()
        for written, real in addresses.items():
            text = text.replace(written, real)
        (target / file.name).write_text(text)


@contextlib.asynccontextmanager
async def direct_function(faas: FakeOpenFaas) -> AsyncIterator[int]:
    """A function with an address of its own, whose port this is; what it gets stands in ``faas.requests``, too."""

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        path, mark, query = request.raw_path.partition("?")
        name, fields = (request.host or "").partition(":")[0], tuple(request.headers.items())
        target, body = request.raw_path.encode(), await request.read()
        asked = query.encode() if mark else None
        invocation = Invocation(name, "", request.method, target, path.encode(), asked, fields, body)
        faas.requests.append(invocation)
        return echo(invocation)

    runner = web.ServerRunner(web.Server(serve), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def a_function_named_localhost() -> Iterator[None]:
    """
    May be called at its own address: the one name that every machine resolves is one that no function may have.

    Blocks of this kind end in the reverse order of their beginning.
    """
    with patch("authproxy.backends.openfaas.leads_elsewhere", return_value=False):
        yield


@contextlib.asynccontextmanager
async def running_world(source: Path = PLAIN, **settings: Any) -> AsyncIterator[World]:
    """Everything started, and stopped at the end of the block. Functions are deployed by ``world.faas.add``."""
    with tempfile.TemporaryDirectory(prefix="portero-test-") as name, a_function_named_localhost():
        folder = Path(name)
        async with (
            FakeProvider(audience="survey") as provider,
            FakeOpenFaas() as faas,
            direct_function(faas) as direct_port,
        ):
            write_world(source, folder / "policies", issuer=provider.issuer, backend=faas.url, direct_port=direct_port)
            secrets = folder / "secrets" / "acme"
            secrets.mkdir(parents=True)
            (secrets / "ci.pem").write_bytes(Key(None, "EC", 77).public_pem())
            app = App(
                Settings(
                    **{
                        "policies": folder / "policies",
                        "secrets": folder / "secrets",
                        "listen": ("127.0.0.1", 0),
                        "admin": ("127.0.0.1", 0),
                        "audit": str(folder / "audit.log"),
                        "allow_loopback_http": True,
                        "drain": 1.0,
                        **settings,
                    }
                )
            )
            await app.start()
            try:
                yield World(folder, provider, faas, app)
            finally:
                await app.stop(0.5)
