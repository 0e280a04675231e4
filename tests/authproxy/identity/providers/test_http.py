"""Where Portero may be sent to, and what it takes from there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from authproxy.identity.providers import addresses
from authproxy.identity.providers.addresses import AddressRefused, Reach, VettingResolver, reach_of
from authproxy.identity.providers.http import ProviderHttp, is_same_site
from authproxy.identity.providers.places import MAX_PER_HOST, MAX_REQUESTS
from policies.errors import ProviderUnavailable
from tests.authproxy.edges.test_tls import write_pair
from tests.fakes.provider import FakeProvider

NONE: frozenset[str] = frozenset()


class Listener:
    """Counts who connects to 127.0.0.1, and says nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.connections += 1
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made = Listener(server.sockets[0].getsockname()[1])
    yield made
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "64:ff9b::5db8:d70e", "::ffff:1.1.1.1"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Also through NAT64, and mapped."""
    assert reach_of(address) is Reach.PUBLIC


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "127.9.9.9"),
        *("::1", "fd00::1", "fc00::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    ],
)
def test_addresses_of_somebodys_own_network_are_private(address: str) -> None:
    """However they are dressed up."""
    assert reach_of(address) is Reach.PRIVATE


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"),
        *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "224.0.0.1"),
        *("0.0.0.0", "0.1.2.3", "255.255.255.255", "240.0.0.1", "::", "198.18.0.1", "192.0.2.1", "2001:db8::1"),
        *("2002:7f00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::127.0.0.1", "", "x", "127.1", "0x7f000001"),
        *("2130706433", "127.0.0.1 ", "::1%lo", "64:ff9b:1::7f00:1", "5f00::1"),
    ],
)
def test_addresses_where_no_provider_lives_are_never_reached(address: str) -> None:
    """Metadata services hand out credentials; tunnels hide where they end; what is no address is none."""
    assert reach_of(address) is Reach.NEVER


def resolver(
    addresses: list[str], allowed: frozenset[str] = NONE, *, is_loopback_only: bool = False
) -> VettingResolver:
    async def lookup(host: str, port: int) -> list[str]:
        return addresses

    return VettingResolver(lookup, allowed, is_loopback_only)


async def test_a_name_resolves_to_its_vetted_addresses() -> None:
    """Each once, in order."""
    results = await resolver(["1.1.1.1", "1.1.1.1", "2606:4700::1111"]).resolve("id.example", 443)
    assert [(result["host"], result["port"], result["family"]) for result in results] == [
        ("1.1.1.1", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]


@pytest.mark.parametrize(
    ("addresses", "allowed", "is_loopback_only"),
    [
        ([], NONE, False),
        (["10.0.0.1"], NONE, False),
        (["1.1.1.1", "10.0.0.1"], NONE, False),
        (["10.0.0.1"], frozenset({"other.example"}), False),
        (["169.254.169.254"], frozenset({"id.example"}), False),
        (["1.1.1.1"], NONE, True),
        (["127.0.0.1", "1.1.1.1"], NONE, True),
        (["10.0.0.1"], frozenset({"id.example"}), True),
        (["1.1.1.1"] * 15 + ["10.0.0.1"], NONE, False),
    ],
    ids=repr,
)
async def test_one_forbidden_address_refuses_the_name(
    addresses: list[str], allowed: frozenset[str], is_loopback_only: bool
) -> None:
    """A name with a good and a bad address would otherwise be a matter of luck."""
    with pytest.raises(AddressRefused):
        await resolver(addresses, allowed, is_loopback_only=is_loopback_only).resolve("id.example", 443)


async def test_a_listed_host_may_be_private() -> None:
    """AP-R43: host by host."""
    for name in ("id.example", "ID.Example"):
        assert await resolver(["10.0.0.1"], frozenset({name})).resolve("id.example", 443)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://id.example/",
            "http://127.0.0.1/",
            "ftp://id.example/",
            "file:///etc/passwd",
            "//id.example/",
            "x",
            "",
        ),
        *("https://user@id.example/", "https://u:p@id.example/", "https:///x", "https://id.example/#x", "https://[::1"),
        *(
            "https://id.example:0/",
            "https://id.example:99999/",
            "data:,x",
            "javascript:x",
            "unix:///run/x.sock",
            "https://",
        ),
    ],
    ids=repr,
)
async def test_only_https_urls_are_asked(url: str) -> None:
    """AP-R41 and R43: nothing is looked up for another."""

    async def lookup(host: str, port: int) -> list[str]:
        raise NotImplementedError

    http = ProviderHttp(lookup=lookup)
    with pytest.raises(ProviderUnavailable):
        await http.get(url, NONE)
    await http.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "10.0.0.1",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
    ],
)
async def test_a_forbidden_address_in_the_url_is_never_dialled(host: str, listener: Listener) -> None:
    """Literals are not resolved by aiohttp, so they are vetted apart; odd spellings of them too."""
    http = ProviderHttp(timeout_s=2)
    with pytest.raises(ProviderUnavailable):
        await http.get(f"https://{host}:{listener.port}/jwks", NONE)
    await http.close()
    assert listener.connections == 0


async def test_a_name_that_rebinds_is_asked_once_and_dialled_as_vetted(listener: Listener) -> None:
    """DNS rebinding: what was vetted is what is connected to; a second answer has no one to deceive."""
    answers = [["203.0.113.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1"]]
    asked = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    http = ProviderHttp(lookup=lookup, timeout_s=1)
    for _ in answers:
        with pytest.raises(ProviderUnavailable, match="private_hosts"):
            await http.get(f"https://rebind.example:{listener.port}/jwks", NONE)
    await http.close()
    assert asked == ["rebind.example"] * 3
    assert listener.connections == 0


async def test_a_name_that_rebinds_after_it_was_vetted_is_dialled_where_it_was(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding between the look and the dial: there is one look a connection, and the next one is vetted anew."""
    public, answers = "127.0.0.2", [["127.0.0.2"], ["127.0.0.1"]]
    monkeypatch.setattr(addresses, "reach_of", lambda ip: Reach.PUBLIC if ip == public else reach_of(ip))
    dialled: list[str] = []
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(public)
        writer.close()

    async with await asyncio.start_server(connected, public, listener.port):
        http = ProviderHttp(lookup=lookup, timeout_s=1)
        url = f"https://rebind.example:{listener.port}/jwks"
        with pytest.raises(ProviderUnavailable) as first:
            await http.get(url, NONE)
        with pytest.raises(ProviderUnavailable, match="private_hosts"):
            await http.get(url, NONE)
        await http.close()
    assert "private_hosts" not in str(first.value)
    assert (asked, dialled, listener.connections) == (["rebind.example"] * 2, [public], 0)


async def test_http_is_for_loopback_and_with_leave_only() -> None:
    """The demo's setting opens loopback, by address or by name, and nothing else."""
    async with FakeProvider() as provider:

        async def lookup(host: str, port: int) -> list[str]:
            return ["127.0.0.1"] if host == "demo.localhost" else ["1.1.1.1"]

        http = ProviderHttp(allow_loopback_http=True, lookup=lookup, timeout_s=1)
        assert (await http.get(provider.jwks_uri, NONE)).value["keys"]
        assert (await http.get(f"http://demo.localhost:{provider.port}/jwks", NONE)).value["keys"]
        for url in ("http://id.example/jwks", "http://10.0.0.1/jwks", "http://169.254.169.254/latest"):
            with pytest.raises(ProviderUnavailable):
                await http.get(url, frozenset({"id.example", "10.0.0.1"}))
        await http.close()


async def test_leave_for_one_tenant_is_none_for_another(listener: Listener) -> None:
    """Who may reach a private host reaches it, and lends no connection to who may not."""

    async def lookup(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    http = ProviderHttp(lookup=lookup, timeout_s=1)
    url = f"https://id.internal:{listener.port}/jwks"
    for allowed, connections in ((NONE, 0), (frozenset({"id.internal"}), 1), (NONE, 1)):
        with pytest.raises(ProviderUnavailable):
            await http.get(url, allowed)
        await asyncio.sleep(0.02)
        assert listener.connections == connections
    mine, _ = http._session(frozenset({"id.internal"}), False)
    theirs, _ = http._session(NONE, False)
    assert mine.connector is not theirs.connector
    await http.close()


async def test_no_cookies_no_environment_no_compression() -> None:
    """The session remembers nothing and asks for nothing but JSON as it is."""
    http = ProviderHttp()
    session, _ = http._session(NONE, False)
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
    assert not session.trust_env
    assert not session.auto_decompress
    await http.close()
    with pytest.raises(ProviderUnavailable):
        await http.get("https://id.example/", NONE)


async def test_a_certificate_of_unknown_authority_says_what_to_set(tmp_path: Path) -> None:
    """A company's own authority is what operators forget."""
    certificate, key = write_pair(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    http = ProviderHttp(lookup=_loopback, timeout_s=2)
    with pytest.raises(ProviderUnavailable, match="SSL_CERT_FILE"):
        await http.get(f"https://localhost:{server.sockets[0].getsockname()[1]}/", frozenset({"localhost"}))
    await http.close()
    server.close()


async def _loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_the_failure_names_the_host_and_quotes_nothing() -> None:
    """What a stranger answered is in no exception's text, and so in no log."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 canary\r\nX: canary\r\nContent-Length: 6\r\n\r\ncanary")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    http = ProviderHttp(allow_loopback_http=True, timeout_s=1)
    with pytest.raises(ProviderUnavailable) as caught:
        await http.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", NONE)
    assert str(caught.value) == "127.0.0.1 did not answer with a JSON object"
    await http.close()
    server.close()


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("https://id.example/x", "https://id.example/y", True),
        ("https://id.example.com/", "https://keys.example.com/", True),
        ("https://example.com/", "https://keys.example.com/", True),
        ("https://login.corp.co.uk/", "https://keys.corp.co.uk/", True),
        ("https://a.co.uk/", "https://b.co.uk/", False),
        ("https://accounts.google.com/", "https://www.googleapis.com/", False),
        ("https://id.example.com/", "https://id.example.com.evil/", False),
        ("https://id.example.com/", "https://idexample.com/", False),
        ("https://10.0.0.1/", "https://11.0.0.1/", False),
        ("https://localhost/", "https://other/", False),
        ("https://id.example.com/", "file:///x", False),
        ("", "", False),
    ],
    ids=repr,
)
def test_same_site_is_judged_on_the_strict_side(one: str, other: str, is_same: bool) -> None:
    """Labels count, not letters."""
    assert is_same_site(one, other) is is_same


async def silent_servers(count: int, stack: contextlib.AsyncExitStack) -> list[str]:
    """URLs of servers that take connections and say nothing."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    urls = []
    for _ in range(count):
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        await stack.enter_async_context(server)
        urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    return urls


@pytest.mark.parametrize("silent", [6, 40], ids=["few-hosts", "many-hosts"])
async def test_providers_that_are_slow_keep_nobody_elses_waiting(silent: int) -> None:
    """
    Whoever writes a tenant's file chooses its providers, and strangers how often they are asked: connections that end
    nowhere must not be all that there are.
    """
    async with contextlib.AsyncExitStack() as stack:
        urls = await silent_servers(silent, stack)
        http = ProviderHttp(allow_loopback_http=True, timeout_s=8.0)
        stack.push_async_callback(http.close)
        asking = [asyncio.create_task(http.get(url, NONE)) for url in urls * 20]
        await asyncio.sleep(0.3)
        assert http.places.taken <= min(MAX_REQUESTS, silent * MAX_PER_HOST)
        async with FakeProvider() as honest, asyncio.timeout(4.0):
            answer = await http.get(f"{honest.issuer}/.well-known/openid-configuration", NONE)
        assert answer.value["issuer"] == honest.issuer
        for task in asking:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, ProviderUnavailable | asyncio.CancelledError) for one in ended)
        assert (http.places.taken, http.places._hosts) == (0, {})
