"""
Several whole Porteros behind one name that people log in at, with what replicas share: policies, secrets, keys, Redis.

A browser knows one origin a tenant; which replica answers is the test's choice (``browser(at=1)``, ``move``), as it is
a load balancer's. The provider is the demo's, and says besides what a test makes up. ``localhost`` is a function with
an address of its own, so that it speaks websockets; ``live`` streams; ``report``, ``open`` and ``job`` echo.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast
from urllib.parse import urlencode

from aiohttp import web

from authproxy.app import App
from authproxy.demo.people import PASSWORD
from authproxy.demo.provider import CLIENT_ID, Provider
from authproxy.demo.provider_grants import Grant, ProviderSession
from authproxy.demo.provider_tokens import LOGOUT_EVENT, LOGOUT_JWT, LOGOUT_TOKEN_S
from authproxy.identity.tokens.api_key_file import new_key, write_line
from authproxy.settings import Settings
from tests.fakes.openfaas import FakeOpenFaas, Invocation
from tests.fakes.own_keys import session_key, signing_key
from tests.fakes.patient_redis import patience_with_redis
from tests.fakes.provider import Key
from tests.fakes.raw_client import RawClient
from tests.fakes.redis_server import RedisServer
from tests.fakes.scripted_browser import CannotBrowse, Page, ScriptedBrowser
from tests.fakes.world import RawAnswer, a_function_named_localhost, request_bytes, send_raw

TENANTS: Final = ("acme", "globex")
PORT: Final = 8088
"""Of the origins that browsers know; nobody listens there."""
REPORT: Final = "/reports/es?year=2026"
CI_KEY: Final = Key(None, "EC", 78)
"""Of the service account ``ci`` of each tenant."""
_WEBSOCKET: Final = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
)


class Vouching(Protocol):
    """What a provider needs to be put behind Porteros; the demo's has it."""

    client_secret: str

    @property
    def issuer(self) -> str: ...

    def register(self, origins: Iterable[str], connect_to: tuple[str, int]) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class LoginProvider(Provider):
    """The demo's, with a hand in what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.gives_refresh_tokens = True

    def sessions_of(self, sub: str) -> list[ProviderSession]:
        """Of each browser that this person logged in with, oldest first."""
        return self._grants.sessions_of(sub)

    def withdraw(self, sub: str) -> None:
        """The person's grants end, and nobody is told."""
        for session in self.sessions_of(sub):
            self._grants.end(session)

    def logout_token(self, **claims: Any) -> str:
        """Good unless ``claims`` make it otherwise; one given as None is left out."""
        said = {"aud": CLIENT_ID, "jti": secrets.token_urlsafe(16), "events": {LOGOUT_EVENT: {}}} | claims
        return self._signer._signed(
            LOGOUT_JWT, {name: value for name, value in said.items() if value is not None}, LOGOUT_TOKEN_S
        )

    def _tokens(self, grant: Grant, refresh_token: str) -> web.Response:
        answer = super()._tokens(grant, refresh_token)
        if self.gives_refresh_tokens:
            return answer
        members = json.loads(answer.text or "")
        del members["refresh_token"]
        return web.json_response(members)


@dataclass(slots=True)
class LoginReplicas:
    """What runs. ``at`` is the number of a replica everywhere."""

    folder: Path
    provider: LoginProvider
    faas: FakeOpenFaas
    settings: Mapping[str, Any]
    api_key: str
    """Of ``reporting`` of acme."""
    replicas: list[App] = field(default_factory=list)
    sockets: list[Mapping[str, str]] = field(default_factory=list)
    """Heads that the function with the websocket got, names in lower case."""

    @staticmethod
    def origin(tenant: str = "acme") -> str:
        return f"http://{tenant}.localhost:{PORT}"

    def address(self, at: int = 0) -> tuple[str, int]:
        return self.replicas[at].public_address

    def browser(self, at: int = 0) -> ScriptedBrowser:
        """A new one, with no cookies, whose requests reach that replica."""
        browser = ScriptedBrowser()
        self.move(browser, at)
        return browser

    def move(self, browser: ScriptedBrowser, at: int) -> None:
        """From now on another replica answers it."""
        browser.connect = {f"{tenant}.localhost:{PORT}": self.address(at) for tenant in TENANTS}

    async def log_in(
        self,
        person: str = "ana",
        *,
        tenant: str = "acme",
        at: int = 0,
        browser: ScriptedBrowser | None = None,
        path: str = REPORT,
    ) -> ScriptedBrowser:
        """A browser in which this person has logged in. Raises: CannotBrowse when that does not lead to ``path``."""
        browser = browser or self.browser(at)
        page = await browser.go(self.origin(tenant) + path)
        if page.forms:
            page = await browser.submit(page, {"person": person, "password": PASSWORD})
        if page.url != self.origin(tenant) + path or not session_of(browser, tenant):
            raise CannotBrowse(f"the login ended at {page.url}: {page.status} {page.text[:500]}")
        return browser

    async def whoami(self, browser: ScriptedBrowser, tenant: str = "acme") -> Page:
        """As a script of the tenant's page asks."""
        return await browser.fetch(Page(self.origin(tenant) + "/", 200, (), b"", ()), "/.portero/whoami")

    async def ask(
        self,
        line: str,
        *,
        at: int = 0,
        tenant: str = "acme",
        cookie: str | None = None,
        token: str | None = None,
        fields: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> RawAnswer:
        """One request as a program sends it, redirects not followed."""
        more = [*(fields or []), *([("Cookie", cookie)] if cookie else [])]
        wire = request_bytes(line, host=f"{tenant}.localhost:{PORT}", token=token, fields=more, body=body)
        answer = await send_raw(self.address(at), wire)
        if answer is None:
            raise ConnectionError("the connection was closed without an answer")
        return answer

    async def post(self, path: str, form: Mapping[str, str], *, at: int = 0, **options: Any) -> RawAnswer:
        fields = [("Content-Type", "application/x-www-form-urlencoded"), *options.pop("fields", [])]
        return await self.ask(f"POST {path}", at=at, fields=fields, body=urlencode(form).encode(), **options)

    async def tell_logout(self, *, at: int = 0, tenant: str = "acme", **claims: Any) -> int:
        """The provider's back channel reaches this replica; the status that it gets."""
        form = {"logout_token": self.provider.logout_token(**claims)}
        return (await self.post("/.portero/backchannel-logout", form, at=at, tenant=tenant)).status

    async def restart(self, at: int) -> None:
        """The process ends and another takes its place, at another address."""
        await self.replicas[at].stop(0.1)
        self.replicas[at] = await _started(self.settings)
        self._register()

    def stream(self, at: int = 0, *, path: str = "/function/live", **credentials: str | None) -> Stream:
        """An answer that goes on and on."""
        return Stream(self.address(at), path, (("Accept", "text/event-stream"),), **credentials)

    def websocket(self, at: int = 0, *, origin: str | None = None, **credentials: str | None) -> Stream:
        """As a page of ``origin`` opens it (the tenant's own if none is given)."""
        fields = (*_WEBSOCKET, ("Origin", origin or self.origin()))
        return Stream(self.address(at), "/function/localhost/socket", fields, **credentials)

    def _register(self) -> None:
        self.provider.register([self.origin(tenant) for tenant in TENANTS], self.address(0))

    async def start(self, number: int) -> None:
        for _ in range(number):
            self.replicas.append(await _started(self.settings))
        self._register()

    async def stop(self) -> None:
        for app in self.replicas:
            await app.stop(0.1)


class Stream(RawClient):
    """``async with world.stream(...) as stream``: an open exchange, and when it ended. ``status`` is its answer's."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        fields: tuple[tuple[str, str], ...],
        *,
        cookie: str | None = None,
        token: str | None = None,
        tenant: str | None = None,
    ) -> None:
        super().__init__(address)
        own = [("Host", f"{tenant or 'acme'}.localhost:{PORT}"), *fields]
        own += [("Cookie", cookie)] if cookie else []
        own += [("Authorization", f"Bearer {token}")] if token else []
        head = "".join(f"{name}: {value}\r\n" for name, value in own)
        self._wire = f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()
        self.status = 0
        self.fields: list[tuple[str, str]] = []
        self.received = b""
        self.ended_at: float | None = None
        """Unix seconds."""
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.send(self._wire)
        self.status, self.fields = await self.head()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        await super().__aexit__(kind, error, trace)

    @property
    def is_open(self) -> bool:
        return self.ended_at is None

    async def end(self, timeout_s: float) -> float:
        """When it ended, Unix seconds. Raises: AssertionError when it goes on."""
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=timeout_s)
        assert self.ended_at is not None, f"still open after {timeout_s} s"
        return self.ended_at

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                self.received += data
        self.ended_at = time.time()


def cookie_of(browser: ScriptedBrowser, tenant: str = "acme") -> str:
    """The Cookie field that the browser sends to the tenant's host."""
    return "; ".join(f"{name}={value}" for name, value in browser.jar.values(f"{tenant}.localhost").items())


def session_of(browser: ScriptedBrowser, tenant: str = "acme") -> dict[str, str]:
    """The cookies of its session there."""
    every = browser.jar.values(f"{tenant}.localhost").items()
    return {name: value for name, value in every if name.startswith("__Host-portero-session")}


@contextlib.asynccontextmanager
async def running_replicas(
    number: int = 1,
    *,
    redis: RedisServer | None = None,
    store: str = "cookie",
    has_keys: bool = True,
    tenant: Mapping[str, Any] | None = None,
    login: Mapping[str, Any] | None = None,
    provider: Vouching | None = None,
    **settings: Any,
) -> AsyncIterator[LoginReplicas]:
    """
    Everything started, and stopped at the end of the block.

    Args:
        number: of replicas.
        redis: that they share, and wait for as long as a machine may stand still.
        store: of sessions, in both tenants.
        has_keys: they have a folder of keys.
        tenant: members of both tenants' files, besides.
        login: members of the provider's entry, besides.
        provider: instead of the demo's; ``log_in`` is not for it.
        settings: of each Portero.
    """
    with (
        tempfile.TemporaryDirectory(prefix="portero-replicas-") as name,
        a_function_named_localhost(),
        patience_with_redis(),
    ):
        folder, provider = Path(name), provider or LoginProvider()
        await provider.start()
        heads: list[Mapping[str, str]] = []
        async with (
            FakeOpenFaas() as faas,
            _websocket_function(heads) as of_acme,
            _websocket_function(heads) as of_globex,
            contextlib.AsyncExitStack() as ends,
        ):
            ends.push_async_callback(provider.stop)
            ports = dict(zip(TENANTS, (of_acme, of_globex), strict=True))
            backends = {
                one: {"kind": "openfaas", "url": faas.url, "direct_url": f"http://{{function}}:{port}"}
                for one, port in ports.items()
            }
            hosts = {one: {"hosts": [f"{one}.localhost"], "backend": one, "namespace": one} for one in TENANTS}
            _write(folder, "policies/platform.yaml", {"version": 1, "backends": backends, "tenants": hosts})
            for one in TENANTS:
                _write(
                    folder, f"policies/{one}.yaml", _tenant_file(one, provider, store, login or {}) | dict(tenant or {})
                )
                _write(folder, f"secrets/{one}/login-client", provider.client_secret)
                _write(folder, f"secrets/{one}/ci.pem", CI_KEY.public_pem().decode())
                for function in ("report", "open", "job", "localhost"):
                    faas.add(function, one)
                faas.add("live", one, handler=endless)
            key, entry = new_key("reporting", "", time.time())
            _write(folder, "secrets/acme/api-keys", write_line(entry) + "\n")
            if has_keys:
                session_key(folder / "keys", "2026-01", time.time() - 10_000)
                signing_key(folder / "keys", "2026-01", time.time() - 10_000, number=72)
            every = _settings(folder, redis, has_keys=has_keys) | settings
            world = LoginReplicas(folder, cast(LoginProvider, provider), faas, every, key, sockets=heads)
            ends.push_async_callback(world.stop)
            await world.start(number)
            yield world


async def endless(_: Invocation) -> web.StreamResponse:
    """Server-sent events, ten a second, for longer than any test."""
    return _Endless(headers={"Content-Type": "text/event-stream"})


class _Endless(web.StreamResponse):
    async def write_eof(self, data: bytes = b"") -> None:
        for _ in range(1200):
            await self.write(b"data: x\n\n")
            await asyncio.sleep(0.1)
        await super().write_eof(data)


@contextlib.asynccontextmanager
async def _websocket_function(heads: list[Mapping[str, str]]) -> AsyncIterator[int]:
    """A function that repeats what it is told over a websocket; its port."""

    async def serve(request: web.Request) -> web.StreamResponse:
        heads.append({name.lower(): value for name, value in request.headers.items()})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(str(message.data))
        return socket

    application = web.Application()
    application.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _tenant_file(name: str, provider: Vouching, store: str, login: Mapping[str, Any]) -> dict[str, Any]:
    entry = {
        "name": "login",
        "issuer": provider.issuer,
        "audiences": ["survey"],
        "algorithms": ["ES256"],
        "tenant_claim": "organization",
        "claims": {"groups": "groups", "name": "name"},
        "login": {"client_id": CLIENT_ID, "client_secret": "login-client"},
        **login,
    }
    return {
        "version": 1,
        "tenant": name,
        "identity": [entry],
        "sessions": {"store": store},
        "service_accounts": [{"name": "ci", "public_key": "ci.pem", "audiences": ["survey"], "groups": ["ci"]}],
        "api_keys": [{"name": "reporting", "groups": ["ci"]}] if name == "acme" else [],
        "functions": {
            "open": {"access": "public"},
            "report": {"assertion": True},
            "localhost": {"direct_url": True},
        },
        "routes": [{"id": "report", "path": "/reports/{country}", "function": "report", "to": "/{country}"}],
        "roles": {
            "analyst": {"allow": [{"functions": ["report", "live", "localhost"], "actions": ["invoke"]}]},
            "program": {"allow": [{"functions": ["job", "report"], "actions": ["invoke"]}]},
        },
        "bindings": [
            {"id": "analysts", "roles": ["analyst"], "groups": ["analysts", "developers"]},
            {"id": "programs", "roles": ["program"], "groups": ["ci"]},
        ],
    }


def _settings(folder: Path, redis: RedisServer | None, *, has_keys: bool) -> dict[str, Any]:
    return {
        "policies": folder / "policies",
        "secrets": folder / "secrets",
        "keys": folder / "keys" if has_keys else None,
        "redis": None if redis is None else redis.url,
        "listen": ("127.0.0.1", 0),
        "admin": ("127.0.0.1", 0),
        "audit": str(folder / "audit.log"),
        "allow_loopback_http": True,
        "drain": 1.0,
    }


async def _started(settings: Mapping[str, Any]) -> App:
    app = App(Settings.model_validate(settings))
    await app.start()
    return app


def _write(folder: Path, name: str, content: Any) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
