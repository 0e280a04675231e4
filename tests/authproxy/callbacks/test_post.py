"""One attempt to deliver a callback: where it may go, and what its end means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from authproxy.callbacks.message import Callback
from authproxy.callbacks.post import CallbackHttp, Outcome
from authproxy.callbacks.target import Target
from tests.authproxy.edges.test_tls import write_pair
from tests.fakes.callback_receiver import CallbackReceiver


def callback(port: int, *, host: str = "127.0.0.1", is_tls: bool = False, path: str = "/hook?x=%20") -> Callback:
    fields = (("User-Agent", "portero"), ("X-Call-Id", "id-1"), ("Content-Type", "text/plain"))
    return Callback("acme", Target(host, port, is_tls=is_tls, path=path), fields, b"the answer")


@pytest.fixture
async def receiver() -> AsyncIterator[CallbackReceiver]:
    async with CallbackReceiver() as running:
        yield running


async def test_it_is_a_post_of_fields_and_body(receiver: CallbackReceiver) -> None:
    """As given, to the path as written, and nothing of ours beside."""
    attempt = await CallbackHttp(allow_loopback_http=True).post(callback(receiver.port))
    assert attempt.outcome is Outcome.DELIVERED
    (delivery,) = receiver.deliveries
    assert (delivery.method, delivery.path, delivery.body) == ("POST", "/hook?x=%20", b"the answer")
    assert set(delivery.fields) == {"host", "user-agent", "x-call-id", "content-type", "content-length", "connection"}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((200, Outcome.DELIVERED), (202, Outcome.DELIVERED), (204, Outcome.DELIVERED)),
        *((429, Outcome.AGAIN), (500, Outcome.AGAIN), (502, Outcome.AGAIN), (503, Outcome.AGAIN)),
        *((400, Outcome.REFUSED), (401, Outcome.REFUSED), (404, Outcome.REFUSED), (410, Outcome.REFUSED)),
        *((301, Outcome.REFUSED), (302, Outcome.REFUSED), (307, Outcome.REFUSED), (308, Outcome.REFUSED)),
    ],
)
async def test_what_a_status_means(receiver: CallbackReceiver, status: int, outcome: Outcome) -> None:
    """Only what may pass is tried again; a redirect is a no, and nobody goes where it leads."""
    receiver.statuses = [status]
    receiver.fields = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    attempt = await CallbackHttp(allow_loopback_http=True).post(callback(receiver.port))
    assert attempt.outcome is outcome
    assert list(receiver.by_path()) == ["/hook?x=%20"]


@pytest.mark.parametrize(
    ("said", "is_read_s"),
    [("7", 7), ("0", 0), ("99999999", 60), ("-1", 0), ("1e9", 0), ("٣", 0), ("9" * 400, 0), ("soon", 0), ("", 0)],
)
async def test_retry_after_is_heard_within_bounds(receiver: CallbackReceiver, said: str, is_read_s: float) -> None:
    """A receiver can ask for patience, not for ever."""
    receiver.statuses, receiver.fields = [503], {"Retry-After": said}
    attempt = await CallbackHttp(allow_loopback_http=True).post(callback(receiver.port))
    assert attempt.retry_after_s == is_read_s


async def test_a_receiver_that_says_nothing_is_not_waited_for(receiver: CallbackReceiver) -> None:
    """It may have taken it; it gets it again."""
    receiver.before = asyncio.Event().wait
    attempt = await CallbackHttp(allow_loopback_http=True, timeout_s=0.2).post(callback(receiver.port))
    assert attempt.outcome is Outcome.AGAIN


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"])
async def test_a_receiver_that_talks_nonsense_is_tried_again(answer: bytes) -> None:
    """A broken connection, no HTTP, a head without end: an attempt that failed, never an exception."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        attempt = await CallbackHttp(allow_loopback_http=True).post(callback(server.sockets[0].getsockname()[1]))
    assert attempt.outcome is Outcome.AGAIN


async def test_nobody_there_is_tried_again() -> None:
    """A port that nobody listens on may be one whose server starts just now."""
    assert (await CallbackHttp(allow_loopback_http=True).post(callback(1))).outcome is Outcome.AGAIN


async def test_plain_http_needs_leave(receiver: CallbackReceiver) -> None:
    """Also when a target was made that no reading makes."""
    assert (await CallbackHttp().post(callback(receiver.port))).outcome is Outcome.FORBIDDEN
    assert not receiver.deliveries


async def test_over_tls_the_certificate_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A self-made one is no reason to hand over a result, however often."""
    certificate, key = write_pair(tmp_path, "hooks.example")
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate, key)
    monkeypatch.setattr("authproxy.identity.providers.addresses.reach_of", _everything_is_public)

    async def lookup(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with CallbackReceiver(ssl_context=server_side) as receiver:
        monkeypatch.setattr(Target, "url", property(lambda target: f"https://{target.host}:{target.port}{target.path}"))
        trusting = ssl.create_default_context(cadata=certificate.read_text())
        given = callback(receiver.port, host="hooks.example", is_tls=True)
        other = callback(receiver.port, host="other.example", is_tls=True)
        assert (await CallbackHttp(lookup=lookup).post(given)).outcome is Outcome.FORBIDDEN
        assert (await CallbackHttp(lookup=lookup, ssl_context=trusting).post(other)).outcome is Outcome.FORBIDDEN
        assert not receiver.deliveries
        assert (await CallbackHttp(lookup=lookup, ssl_context=trusting).post(given)).outcome is Outcome.DELIVERED
        assert receiver.deliveries[0].fields["host"] == f"hooks.example:{receiver.port}"


def _everything_is_public(_address: str) -> object:
    from authproxy.identity.providers.addresses import Reach

    return Reach.PUBLIC
