"""
Server-side request forgery by ``X-Callback-Url``: whatever a caller writes and whatever names say, nothing private is
dialled (attack family A6; OpenFaaS delivers to any address).

What text is refused is ``tests/authproxy/callbacks/test_target.py``; here are the addresses behind hosts that are
listed, which is what an attacker with a name of his own (or a wildcard's) has a hand in.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from authproxy.callbacks.message import Callback
from authproxy.callbacks.post import CallbackHttp, Outcome
from authproxy.callbacks.sender import Callbacks
from authproxy.callbacks.target import Target, read_target
from tests.fakes.callback_receiver import CallbackReceiver
from tests.fakes.world import PLAIN, request_bytes, running_world

LISTED = frozenset({"hooks.example", "*.cb.example", "127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"})
"""Careless: even what is listed is not dialled when it is not public."""


class Inside:
    """Something that listens where nobody from outside may reach it; counts who does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    def connected(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made = Inside(server.sockets[0].getsockname()[1])
    yield made
    server.close()
    await server.wait_closed()


def to(host: str, port: int = 443, *, is_tls: bool = True) -> Callback:
    return Callback("acme", Target(host, port, is_tls=is_tls, path="/"), (), b"x")


def at_port(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let https targets lead to ``port``: what listens in here cannot have 443."""
    monkeypatch.setattr(Target, "url", property(lambda target: f"https://{target.host}:{port}{target.path}"))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "0.0.0.0"),
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255"),
        *("::1", "::", "fd00::1", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::7f00:1", "2002:7f00:1::1", "::127.0.0.1", "2130706433", "0x7f.1", "127.1"),
    ],
)
async def test_a_listed_name_with_a_private_address_is_not_dialled(
    address: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the address is dressed up, and also when a public one stands beside it."""
    at_port(inside.port, monkeypatch)
    for answers in ([address], ["1.1.1.1", address], [address, "1.1.1.1"]):

        async def lookup(_host: str, _port: int, answers: list[str] = answers) -> list[str]:
            return answers

        attempt = await CallbackHttp(lookup=lookup, timeout_s=20).post(to("hooks.example"))
        assert attempt.outcome is Outcome.FORBIDDEN
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:7f00:1]", "[fe80::1]"])
async def test_a_listed_literal_that_is_private_is_not_dialled(
    host: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No look-up would vet it."""
    at_port(inside.port, monkeypatch)
    attempt = await CallbackHttp(timeout_s=20).post(to(host))
    assert attempt.outcome is Outcome.FORBIDDEN
    assert inside.connections == 0


async def test_a_name_that_rebinds_between_attempts_leads_nowhere(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: every attempt looks up, vets and dials what it vetted."""
    at_port(inside.port, monkeypatch)
    asked: list[str] = []

    async def lookup(host: str, _port: int) -> list[str]:
        asked.append(host)
        if len(asked) == 1:
            raise OSError("try again")
        return ["127.0.0.1"]

    ends: Counter[str] = Counter()
    callbacks = Callbacks(
        CallbackHttp(lookup=lookup, timeout_s=20), lambda _tenant, outcome: ends.update([outcome]), pauses_s=(0.01,) * 4
    )
    callbacks.send(to("hooks.example"))
    async with asyncio.timeout(20):
        while len(callbacks):  # noqa: ASYNC110  # nobody is told by design
            await asyncio.sleep(0.005)
    assert asked == ["hooks.example"] * 2
    assert ends == {"forbidden": 1}
    assert inside.connections == 0


async def test_a_redirect_into_the_network_is_not_followed(inside: Inside) -> None:
    """The receiver is a stranger; what it says is a status and nothing more."""
    async with CallbackReceiver() as receiver:
        receiver.fields = {"Location": f"http://127.0.0.1:{inside.port}/", "Refresh": f"0; url=http://x:{inside.port}"}
        for status in (300, 301, 302, 303, 307, 308, 200, 305, 511):
            receiver.statuses = [status]
            await CallbackHttp(allow_loopback_http=True, timeout_s=20).post(
                to("127.0.0.1", receiver.port, is_tls=False)
            )
        assert {delivery.method for delivery in receiver.deliveries} == {"POST"}
        assert len(receiver.deliveries) == 9
    assert inside.connections == 0


async def test_the_environment_names_no_way(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would do the look-up itself, unvetted, and see the result."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{inside.port}")
    async with CallbackReceiver() as receiver:
        plain = to("127.0.0.1", receiver.port, is_tls=False)
        assert (await CallbackHttp(allow_loopback_http=True).post(plain)).outcome is Outcome.DELIVERED
    assert inside.connections == 0


@pytest.mark.parametrize("address", ["1.1.1.1", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"])
async def test_the_leave_for_loopback_is_for_loopback(address: str) -> None:
    """With the demo's setting, too, plain http goes nowhere else, whatever ``localhost`` resolves to."""

    async def lookup(_host: str, _port: int) -> list[str]:
        return [address]

    attempt = await CallbackHttp(allow_loopback_http=True, lookup=lookup, timeout_s=20).post(
        to("localhost", 80, is_tls=False)
    )
    assert attempt.outcome is Outcome.FORBIDDEN


@pytest.mark.parametrize(
    "text",
    [
        *("https://hooks.example@169.254.169.254/", "https://169.254.169.254#hooks.example/", "https://2852039166/"),
        *("https://169.254.169.254.cb.example@127.0.0.1/", "https://0xa9fea9fe/", "https://0251.0376.0251.0376/"),
        *("https://[::ffff:169.254.169.254]/", "http://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/"),
        *("https://127.0.0.1:6379/", "https://localhost:8089/", "https://10.0.0.1:22/", "https://hooks.example:25/"),
        *(
            "https://hooks.example/%0d%0aX/\r\nHost: evil",
            "https://hooks.example\r\n.cb.example/",
            "gopher://10.0.0.1/_",
        ),
    ],
    ids=repr,
)
def test_known_disguises_are_no_targets(text: str) -> None:
    """Userinfo, fragments, decimal and octal hosts, mapped addresses, other ports, other schemes, line breaks."""
    assert isinstance(read_target(text, LISTED), str)
    assert isinstance(read_target(text, LISTED, allow_loopback_http=True), str)


def test_a_wildcard_lets_no_address_in() -> None:
    """``1.1.1.1.cb.example`` is a name under the wildcard, whose addresses are vetted; an address is under none."""
    assert isinstance(read_target("https://169.254.169.254.cb.example/", LISTED), Target)
    assert isinstance(read_target("https://169.254.169.254/", frozenset({"*.169.254", "*.254"})), str)


async def test_over_the_wire_nothing_of_it_passes(inside: Inside, tmp_path: Path) -> None:
    """400 before anything is promised, woken or sent; the function never learns of the field."""
    shutil.copytree(PLAIN, tmp_path / "policies")
    file = tmp_path / "policies" / "acme.yaml"
    listed = "async: {callbacks: [hooks.example, '*.cb.example', 127.0.0.1]}"
    file.write_text(
        file.read_text().replace("survey-web: {access: public}", f"survey-web: {{access: public, {listed}}}")
    )
    async with running_world(tmp_path / "policies") as world:
        world.faas.add("survey-web", "acme", replicas=0)
        for text in (
            f"http://127.0.0.2:{inside.port}/",
            f"http://localhost:{inside.port}/",
            f"http://u@127.0.0.1:{inside.port}/",
            f"http://127.0.0.1:{inside.port}/#x",
            f"http://2130706433:{inside.port}/",
            f"https://127.0.0.1:{inside.port}/",
            "https://169.254.169.254/latest/meta-data/",
            "https://hooks.example@169.254.169.254/",
            "http://hooks.example/",
            "https://evil.example/",
            "https://hooks.ex\u00e4mple/",
            "",
        ):
            fields = [("X-Callback-Url", text)]
            answer = await world.send(request_bytes("POST /async-function/survey-web", fields=fields, body=b"x"))
            assert answer.status == 400, text
            assert "169.254" not in answer.body.decode()
        several = [("X-Callback-Url", f"http://127.0.0.1:{inside.port}/")] * 2
        assert (await world.send(request_bytes("POST /async-function/survey-web", fields=several))).status == 400
        assert not world.faas.wake_calls
        assert not world.faas.requests
        assert not world.app.parts.results.sizes().pending
        world.faas.awake["survey-web.acme"] = 1
        answer = await world.send(request_bytes("POST /function/survey-web", fields=several[:1], body=b"x"))
        assert answer.status == 200
        assert "callback" not in str(world.faas.requests[0].fields).lower()
    assert inside.connections == 0
