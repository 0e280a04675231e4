"""
Anything that speaks HTTP as a backend, against a server that knows no functions platform.

Longer than other modules: two ways to learn whether it is ready, and all that an address could lead to.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import encode_basic_auth

from authproxy.backends.backend import Readiness
from authproxy.backends.http import HttpBackend
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.tables import BackendSpec
from tests.contracts.backend import BackendContract, World
from tests.fakes.http_service import FakeHttpService
from tests.fakes.places import place, tenant

EACH = "/{namespace}/{function}"
PATIENT_S = 20.0
HURRIED_S = 0.3


def backend(
    url: str, *, files: dict[str, bytes] | None = None, patience_s: float = PATIENT_S, **spec: Any
) -> HttpBackend:
    made = BackendSpec("web", "http", url, "admin" if files else None, **spec)
    return HttpBackend(made, (files or {}).__getitem__, timeout_s=patience_s, probe_timeout_s=patience_s)


@pytest.fixture
async def service() -> AsyncIterator[FakeHttpService]:
    async with FakeHttpService(awake={"acme/awake"}) as fake:
        yield fake


def world_of(made: HttpBackend, hurried: HttpBackend, service: FakeHttpService, **differing: Any) -> World:
    def break_api() -> None:
        service.status = service.wake_status = 500

    def hang_api() -> None:
        service.is_mute = service.is_wake_mute = True

    def talk_nonsense() -> None:
        service.status = 299

    def mute() -> None:
        service.is_mute = True

    return World(
        backend=made, hurried=hurried, namespace="acme", awake="awake", place=place, unknowable=frozenset(),
        stop=service.stop, break_api=break_api, hang_api=hang_api, talk_nonsense=talk_nonsense, mute=mute,
        **differing,
    )  # fmt: skip


class TestProbed(BackendContract):
    """Each function under a path of its own, with a probe and something that wakes."""

    @pytest.fixture
    async def world(self, service: FakeHttpService) -> AsyncIterator[World]:
        made, hurried = (
            backend(service.url + EACH, patience_s=patience_s, probe="/health", wake_url=service.url + "/wake")
            for patience_s in (PATIENT_S, HURRIED_S)
        )
        yield world_of(made, hurried, service, asleep="asleep")
        await made.close()
        await hurried.close()


class TestFixed(BackendContract):
    """One address, asked by a connection; nothing wakes it."""

    @pytest.fixture
    async def world(self, service: FakeHttpService) -> AsyncIterator[World]:
        made, hurried = (
            backend(service.url + "/acme/awake", patience_s=patience_s) for patience_s in (PATIENT_S, HURRIED_S)
        )
        yield world_of(made, hurried, service, unwakeable=frozenset())
        await made.close()
        await hurried.close()


# -- where ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address", "host", "target"),
    [
        ("http://web:8080/", Address("web", 8080), b"web:8080", b"/a%2Fb/100%25?x=1"),
        (
            "https://web.example/app/",
            Address("web.example", 443, is_tls=True),
            b"web.example",
            b"/app/a%2Fb/100%25?x=1",
        ),
        ("http://{function}.{namespace}.svc", Address("f.acme.svc", 80), b"f.acme.svc", b"/a%2Fb/100%25?x=1"),
        ("http://[::1]:81/{namespace}-{function}", Address("::1", 81), b"[::1]:81", b"/acme-f/a%2Fb/100%25?x=1"),
    ],
)
def test_the_path_follows_that_of_the_address(url: str, address: Address, host: bytes, target: bytes) -> None:
    """As it was judged, encoded once, so that even a slash inside of a segment is kept."""
    assert backend(url).destination(place("f", ("a/b", "100%")), "x=1") == Destination(address, target, host)


@pytest.mark.parametrize(
    ("function", "namespace", "url"),
    [
        ("a/b", "acme", "http://web/{function}"),
        ("..", "acme", "http://web/{function}"),
        ("f%2Fg", "acme", "http://web/{function}"),
        ("", "acme", "http://web"),
        ("evil.example", "acme", "http://{function}.svc"),
        ("f@evil", "acme", "http://{function}.svc"),
        ("f:81", "acme", "http://{function}.svc"),
        ("-f", "acme", "http://{function}.svc"),
        ("f", "a.globex", "http://{function}.{namespace}.svc"),
        ("f\r\nX: y", "acme", "http://web"),
    ],
)
def test_a_name_that_would_lead_elsewhere_is_no_function(function: str, namespace: str, url: str) -> None:
    """Whatever a name was let through by, it does not choose a host, a path or a field."""
    at = place(function, of=tenant("acme", namespace=namespace))
    assert backend(url).destination(at, None) == Deny(Reason.FUNCTION_UNKNOWN)


def test_names_do_not_choose_our_memory() -> None:
    """What is remembered of addresses is bounded."""
    made = backend("http://web/{function}")
    for n in range(10_000):
        made.destination(place(f"f{n}"), None)
    assert len(made._sites) <= 4096


@pytest.mark.parametrize(
    ("url", "spec"),
    [
        ("web:8080", {}),
        ("ftp://web", {}),
        ("http://", {}),
        ("http://web:99999", {}),
        ("http://user:secret@web", {}),
        ("http://web?x=1", {}),
        ("http://web#x", {}),
        ("http://web/../b", {}),
        ("http://web/%2e%2e", {}),
        ("http://web/a b", {}),
        ("http://web/{tenant}", {}),
        ("http://web:{function}", {}),
        ("{function}://web", {}),
        ("http://web\r\nX: y", {}),
        ("http://wéb", {}),
        ("http://web", {"probe": "health"}),
        ("http://web", {"probe": "/../health"}),
        ("http://web", {"wake_url": "wake"}),
        ("http://web", {"wake_url": "http://web/wake/{tenant}"}),
        ("http://web", {"wake_url": "http://web/wake?x={tenant}"}),
        ("http://web", {"wake_url": "http://web/wake#x"}),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(url: str, spec: dict[str, Any]) -> None:
    """Not at the first request, and without telling the password in it."""
    with pytest.raises(SettingsError) as raised:
        backend(url, **spec)
    assert "secret" not in str(raised.value)


# -- ready? -----------------------------------------------------------------------------------------


async def test_a_port_that_refuses_is_asleep_and_one_that_takes_connections_is_not(service: FakeHttpService) -> None:
    """A service that restarts is waited for, instead of refused."""
    made = backend(service.url)
    assert await made.readiness("acme", "f") == Readiness(1)
    await service.stop()
    assert await made.readiness("acme", "f") == Readiness(0)
    await service.start(int(service.url.rpartition(":")[2]))
    assert await made.readiness("acme", "f") == Readiness(1)
    await made.close()


@pytest.mark.parametrize("status", [200, 204, 302, 401, 404, 500])
async def test_any_answer_of_a_probe_but_not_now_is_ready(service: FakeHttpService, status: int) -> None:
    """A probe asks who is there, not how it is."""
    service.status = status
    made = backend(service.url + EACH, probe="/health")
    assert await made.readiness("acme", "awake") == Readiness(1)
    assert service.requests == [("GET", "/acme/awake/health", service.requests[0][2])]
    await made.close()


async def test_silence_of_one_that_was_ready_cannot_be_known(service: FakeHttpService) -> None:
    """It is busy: those who come are not held for that, and it is not woken. One that starts is not ready yet."""
    made = backend(service.url + EACH, probe="/health")
    assert await made.readiness("acme", "awake") == Readiness(1)
    service.is_mute = True
    made._api._probe_timeout_s = HURRIED_S
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "awake")
    assert await made.readiness("acme", "asleep") == Readiness(0)
    await made.close()


async def test_a_port_that_takes_no_connection_in_time_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of connections is silence, too; what it is of depends on what was known before."""
    is_full = True

    async def connect(*_: Any, **__: Any) -> tuple[None, Mock]:
        if is_full:
            await asyncio.Event().wait()
        return None, Mock()

    monkeypatch.setattr(asyncio, "open_connection", connect)
    made = backend("http://127.0.0.1:1", patience_s=HURRIED_S)
    assert await made.readiness("acme", "f") == Readiness(0)
    is_full = False
    assert await made.readiness("acme", "f") == Readiness(1)
    is_full = True
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "f")


@pytest.mark.parametrize("probe", [None, "/health"])
async def test_a_host_without_address_cannot_be_known(probe: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service that is down does not put functions to sleep."""

    async def no_address(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_address)
    made = backend("http://nowhere.invalid", probe=probe)
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "f")
    await made.close()


# -- wake! ------------------------------------------------------------------------------------------


async def test_a_wake_names_the_function_and_brings_the_credentials(service: FakeHttpService) -> None:
    """In the address where it has a place for it, and as JSON."""
    service.authorization = encode_basic_auth("admin", "s3cret")
    made = backend(
        service.url + EACH,
        files={"admin/basic-auth-user": b"admin", "admin/basic-auth-password": b"s3cret\n"},
        probe="/health",
        wake_url=service.url + "/wake/{namespace}?function={function}",
    )
    await made.wake("acme", "f")
    (target, body), *others = service.wakes
    assert (target, others) == ("/wake/acme?function=f", [])
    assert json.loads(body) == {"function": "f", "namespace": "acme"}
    assert await made.readiness("acme", "f") == Readiness(1)
    assert await made.probe("acme", "f", "/x")
    assert not any("authorization" in fields for _, _, fields in service.requests)
    await made.close()


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500, 503])
async def test_a_wake_that_was_not_taken_has_failed(service: FakeHttpService, status: int) -> None:
    """Only 2xx is a yes; redirects are not followed."""
    service.wake_status = status
    made = backend(service.url, wake_url=service.url + "/wake")
    with pytest.raises(BackendUnavailable, match=str(status)):
        await made.wake("acme", "f")
    assert len(service.wakes) == 1
    with pytest.raises(BackendUnavailable):
        await made.wake("acme", "../x")
    await made.close()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Secret", id="the host of secret"),
        pytest.param("2852039166", id="169.254.169.254 as one number"),
        pytest.param("0", id="this machine"),
        pytest.param("0x7f000001", id="an address in base 16"),
        pytest.param("localhost", id="this machine by name"),
    ],
)
async def test_a_name_is_never_an_address_or_another_name(name: str) -> None:
    """Who may invoke ``*`` reaches functions: no machine by its number, and none under a name policy did not judge."""
    made = backend("http://{function}:8080", wake_url="http://scaler/{function}")
    assert made.destination(place(function=name), None) == Deny(Reason.FUNCTION_UNKNOWN)
    assert await made.readiness("acme", name) == Readiness(0, does_exist=False)
    assert isinstance(made.destination(place(function="f0"), None), Destination)
    named = backend("http://{function}.internal:8080")
    assert isinstance(named.destination(place(function="127"), None), Destination)
    await made.close()


@pytest.mark.parametrize(
    ("head", "endless"),
    [
        pytest.param(b"", b"HTTP/1.1 102 P\r\n\r\n" * 3000, id="interim answers"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9000, id="fields"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 50000, id="a field"),
    ],
)
async def test_an_answer_without_end_costs_little(head: bytes, endless: bytes) -> None:
    """A function may send what it likes to whoever probes it: it is cut off soon, and keeps nobody from their turn."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while True:
                writer.write(endless)
                await writer.drain()
                sent += len(endless)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = backend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", probe="/up")
    begun = asyncio.get_running_loop().time()
    assert await made.readiness("acme", "f") == Readiness(0)
    assert asyncio.get_running_loop().time() - begun < 10, "a probe may take twenty"
    assert sent < 16 * 1024 * 1024
    server.close()
    await made.close()


async def test_interim_answers_come_before_the_answer() -> None:
    """A few of them are what they are for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3 + b"HTTP/1.1 503 No\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = backend(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", probe="/up")
    assert await made.readiness("acme", "f") == Readiness(0)
    server.close()
    await made.close()
