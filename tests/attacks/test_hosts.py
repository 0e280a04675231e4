"""Attack family A3, host and tenant confusion: one host, one tenant, however spelled; and a token is of its tenant."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.authproxy.edges.test_tls import write_pair
from tests.fakes.raw_client import RawClient
from tests.fakes.siege import CANARY, Siege, besieged

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC: Final = b"GET /function/survey-web HTTP/1.1\r\n"
REPORT: Final = b"GET /function/survey-report HTTP/1.1\r\n"


def asked(line: bytes, host: bytes, fields: bytes = b"") -> bytes:
    return line + b"Host: " + host + b"\r\n" + fields + b"Connection: close\r\n\r\n"


def bearer(token: str) -> bytes:
    return b"Authorization: Bearer %b\r\n" % token.encode()


SPELLINGS: Final = {
    "plain": "{}",
    "upper": "{upper}",
    "mixed": "{title}",
    "dot": "{}.",
    "port": "{}:80",
    "port-https": "{}:443",
    "port-other": "{}:8088",
    "port-highest": "{}:65535",
    "dot-port": "{}.:8088",
    "upper-dot-port": "{upper}.:1",
    "blanks": " \t{} \t",
}
"""Different bytes, the same host."""


def spelled(form: str, host: str) -> bytes:
    return form.format(host, upper=host.upper(), title=host.title()).encode()


@pytest.mark.parametrize("form", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_every_spelling_of_a_host_is_the_same_tenant(form: str, siege: Siege) -> None:
    """R29, T1 (CVE-2026-48794): and the function is told the one name."""
    siege.forget()
    assert (await siege.throw(asked(PUBLIC, spelled(form, "acme.test")))).only.status == 200
    assert b"\r\nX-Portero-Tenant: acme\r\n" in siege.to_functions
    assert b"\r\nX-Forwarded-Host: acme.test\r\n" in siege.to_functions
    await siege.refused(asked(PUBLIC, spelled(form, "globex.test")), "credential-missing")
    await siege.refused(asked(PUBLIC, spelled(form, "closed.test")), "tenant-disabled")


@pytest.mark.parametrize("form", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_a_token_of_one_tenant_opens_no_other_in_any_spelling(form: str, siege: Siege) -> None:
    """R46, T4: the same token, the same function, the other host: 403 tenant-mismatch, in both directions."""
    tokens = {name: siege.world.token(tenants=(name,)) for name in ("acme", "globex")}
    for host, token in (("acme", "acme"), ("globex", "globex"), ("acme", "globex"), ("globex", "acme")):
        wire = asked(REPORT, spelled(form, f"{host}.test"), bearer(tokens[token]))
        if host == token:
            siege.forget()
            assert (await siege.throw(wire)).only.status == 200
            assert siege.faas.requests[-1].namespace == host
        else:
            await siege.refused(wire, "tenant-mismatch")
    await siege.refused(asked(REPORT, spelled(form, "closed.test"), bearer(tokens["acme"])), "tenant-disabled")


NO_HOSTS: Final = {
    "empty": b"",
    "userinfo": b"good@acme.test",
    "userinfo-behind": b"acme.test@evil.test",
    "userinfo-password": b"a:b@acme.test",
    "list": b"acme.test, globex.test",
    "list-no-space": b"acme.test,globex.test",
    "two-words": b"acme.test globex.test",
    "path": b"acme.test/function",
    "slash": b"acme.test/",
    "backslash": b"acme.test\\@evil.test",
    "query": b"acme.test?x",
    "fragment": b"acme.test#x",
    "scheme": b"http://acme.test",
    "scheme-relative": b"//acme.test",
    "port-empty": b"acme.test:",
    "port-zero": b"acme.test:0",
    "port-zeros": b"acme.test:0080",
    "port-large": b"acme.test:65536",
    "port-larger": b"acme.test:99999999999",
    "port-minus": b"acme.test:-1",
    "port-plus": b"acme.test:+80",
    "port-word": b"acme.test:http",
    "port-twice": b"acme.test:80:80",
    "port-space": b"acme.test: 80",
    "port-arabic": "acme.test:\u0668\u0660".encode(),
    "port-userinfo": b"acme.test:80@evil.test",
    "dots": b"acme.test..",
    "dot-first": b".acme.test",
    "dots-inside": b"acme..test",
    "dot-alone": b".",
    "escape": b"acme%2etest",
    "escape-NUL": b"acme.test%00",
    "underscore": b"acme_test",
    "asterisk": b"*",
    "wildcard": b"*.acme.test",
    "hyphen-first": b"-a.acme.test",
    "hyphen-last": b"a-.acme.test",
    "quote": b'"acme.test"',
    "bracket": b"[acme.test]",
    "bracket-open": b"[::1",
    "bracket-rest": b"[::1]x",
    "bracket-zone": b"[fe80::1%25eth0]",
    "ipv6-bare": b"::1",
    "ipv4-short": b"127.1",
    "ipv4-hex": b"0x7f.0.0.1",
    "ipv4-octal": b"0177.0.0.1",
    "ipv4-number": b"2130706433",
    "utf-8": "\u00e4cme.test".encode(),
    "fullwidth": "\uff41cme.test".encode(),
    "fullwidth-dot": "acme\uff0etest".encode(),
    "ideographic-dot": "acme\u3002test".encode(),
    "cyrillic": "\u0430cme.test".encode(),
    "long-s": "acme.te\u017ft".encode(),
    "soft-hyphen": "ac\u00adme.test".encode(),
    "zero-width": "acme\u200b.test".encode(),
    "latin-1": b"\xe4cme.test",
    "byte-ff": b"acme.test\xff",
    "tab": b"acme\t.test",
    "a-label-broken": b"xn--a.acme.test",
    "a-label-of-ascii": b"xn--acme-.acme.test",
    "a-label-upper": b"XN--ACME-.acme.test",
    "label-long": b"a" * 64 + b".acme.test",
    "name-long": b"a." * 130 + b"acme.test",
    "name-1-KiB": b"a" * 1024,
    "canary": CANARY.encode() + b"@acme.test",
}


@pytest.mark.parametrize("host", NO_HOSTS.values(), ids=NO_HOSTS.keys())
async def test_what_is_no_host_is_refused(host: bytes, siege: Siege) -> None:
    """R29, R30, R41: 400 and not the nearest tenant, with and without a token."""
    await siege.refused(asked(PUBLIC, host), "bad-request")
    await siege.refused(asked(REPORT, host, bearer(siege.token)), "bad-request")


@pytest.mark.parametrize(
    "host",
    [
        *["evil.test", "acme.test.evil.test", "evilacme.test", "acme.tes", "acme.testt", "cme.test", "acme", "test"],
        *[
            "127.0.0.1",
            "[::1]",
            "localhost",
            "a-acme.test",
            "acme-test",
            "xacme.test",
            "x.globex.test",
            "globex.test.acme",
        ],
        *["metadata.google.internal", "169.254.169.254", "xn--cme-qla.test"],
    ],
)
async def test_a_host_of_nobody_is_unknown(host: str, siege: Siege) -> None:
    """R28: suffixes match at a label's border; a good token makes no host one of ours."""
    await siege.refused(asked(PUBLIC, host.encode()), "tenant-unknown")
    await siege.refused(asked(REPORT, host.encode(), bearer(siege.token)), "tenant-unknown")


@pytest.mark.parametrize("host", ["shop.acme.test", "SHOP.Acme.Test.:80"])
async def test_a_wildcard_host_is_its_tenant(host: str, siege: Siege) -> None:
    """The table above is not empty for a trivial reason."""
    siege.forget()
    assert (await siege.throw(asked(PUBLIC, host.encode()))).only.status == 200
    await siege.refused(asked(REPORT, host.encode(), bearer(siege.world.token(tenants=("globex",)))), "tenant-mismatch")


ELSEWHERE: Final = {
    "x-forwarded-host": b"X-Forwarded-Host: globex.test\r\n",
    "x-forwarded-host-list": b"X-Forwarded-Host: globex.test, acme.test\r\n",
    "x_forwarded_host": b"X_Forwarded_Host: globex.test\r\n",
    "forwarded": b"Forwarded: host=globex.test\r\n",
    "x-host": b"X-Host: globex.test\r\n",
    "x-original-host": b"X-Original-Host: globex.test\r\n",
    "x-forwarded-server": b"X-Forwarded-Server: globex.test\r\n",
    "x-http-host-override": b"X-HTTP-Host-Override: globex.test\r\n",
    "host_": b"Host_: globex.test\r\n",
    "x-tenant-id": b"X-Tenant-Id: globex\r\n",
    "x-scope-orgid": b"X-Scope-OrgID: globex\r\n",
    "referer": b"Referer: https://globex.test/\r\n",
    "origin": b"Origin: https://globex.test\r\n",
}


@pytest.mark.parametrize("fields", ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_only_host_names_the_tenant(fields: bytes, siege: Siege) -> None:
    """R2, T1: nothing else a stranger says moves a request to another tenant, whoever's token it brings."""
    theirs = siege.world.token(tenants=("globex",))
    await siege.refused(asked(REPORT, b"acme.test", fields + bearer(theirs)), "tenant-mismatch")
    siege.forget()
    assert (await siege.throw(asked(REPORT, b"acme.test", fields + bearer(siege.token)))).only.status == 200
    assert siege.faas.requests[-1].namespace == "acme"
    assert b"X-Portero-Tenant: acme\r\n" in siege.to_functions


async def test_a_hint_confirms_and_never_chooses(siege: Siege) -> None:
    """T2: Dispatch's header disagreeing with the host is 400, and agreeing changes nothing."""
    for name in (b"X-Dispatch-Org", b"X-Portero-Tenant", b"x-dispatch-ORG"):
        for token in (siege.token, siege.world.token(tenants=("globex",))):
            wire = asked(REPORT, b"acme.test", name + b": globex\r\n" + bearer(token))
            await siege.refused(wire, "tenant-conflict")
        siege.forget()
        confirmed = asked(REPORT, b"acme.test", name + b": acme\r\n" + bearer(siege.token))
        assert (await siege.throw(confirmed)).only.status == 200
        assert b"ispatch" not in siege.to_functions
        await siege.refused(asked(REPORT, b"evil.test", name + b": acme\r\n" + bearer(siege.token)), "tenant-unknown")


async def test_no_host_at_all_is_refused(siege: Siege) -> None:
    """Also in 1.0, and also when the target names one (RFC 9112 section 3.2)."""
    for line in (
        b"GET /function/survey-web HTTP/1.0\r\n",
        b"GET http://acme.test/function/survey-web HTTP/1.0\r\n",
        b"GET http://acme.test/function/survey-web HTTP/1.1\r\n",
        PUBLIC,
    ):
        await siege.refused(line + b"Connection: close\r\n\r\n", "bad-request")


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def over_tls(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Siege, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = write_pair(folder, "acme.test")
    async with besieged(tls_cert=certificate, tls_key=key, is_warm=False) as siege:
        yield siege, certificate


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def over(siege: Siege, name: str, *heads: bytes) -> list[tuple[int, str | None]]:
    """Status and reason of each head's answer, on one connection made for ``name``."""
    async with RawClient(siege.world.app.public_address, unverified(), name) as client:
        found = []
        for head in heads:
            await client.send(head)
            answer = await client.answer()
            found.append((answer.status, answer.field("x-portero-reason")))
        return found


def kept(line: bytes, host: bytes, fields: bytes = b"") -> bytes:
    return line + b"Host: " + host + b"\r\n" + fields + b"\r\n"


MISDIRECTED: Final = (421, "host-misdirected")


@pytest.mark.parametrize("form", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_a_host_other_than_the_one_of_the_handshake_is_misdirected(
    form: str, over_tls: tuple[Siege, Path]
) -> None:
    """A3, domain fronting: 421 in every spelling, with a good token of either tenant."""
    siege, _ = over_tls
    siege.forget()
    for token in (siege.token, siege.world.token(tenants=("globex",))):
        wire = kept(REPORT, spelled(form, "globex.test"), bearer(token))
        assert await over(siege, "acme.test", wire) == [MISDIRECTED]
        assert await over(siege, "globex.test", kept(REPORT, spelled(form, "acme.test"), bearer(token))) == [
            MISDIRECTED
        ]
        assert await over(siege, "evil.test", wire) == [MISDIRECTED]
    siege.check_untouched()
    agreed = kept(REPORT, spelled(form, "acme.test"), bearer(siege.token))
    assert await over(siege, "acme.test", agreed) == [(200, None)]
    assert await over(siege, "ACME.TEST", agreed) == [(200, None)]


async def test_a_connection_does_not_change_its_host(over_tls: tuple[Siege, Path]) -> None:
    """Each request of a connection is compared, not the first alone; and the good ones go on."""
    siege, _ = over_tls
    siege.forget()
    ours = kept(REPORT, b"acme.test", bearer(siege.token))
    theirs = kept(REPORT, b"globex.test", bearer(siege.world.token(tenants=("globex",))))
    other_host = kept(PUBLIC, b"shop.acme.test")
    found = await over(siege, "acme.test", ours, theirs, other_host, ours)
    assert found == [(200, None), MISDIRECTED, MISDIRECTED, (200, None)]
    assert {seen.namespace for seen in siege.faas.requests} == {"acme"}


async def test_a_handshake_without_a_name_leaves_it_to_host(over_tls: tuple[Siege, Path]) -> None:
    """No SNI, no contradiction: the host alone names the tenant, and tokens are still of theirs."""
    siege, _ = over_tls
    theirs = bearer(siege.world.token(tenants=("globex",)))
    assert await over(siege, "", kept(REPORT, b"acme.test", theirs)) == [(403, "tenant-mismatch")]
    assert await over(siege, "", kept(REPORT, b"globex.test", theirs)) == [(200, None)]


async def test_over_tls_the_scheme_is_https(over_tls: tuple[Siege, Path]) -> None:
    """And a stranger does not talk it down."""
    siege, _ = over_tls
    siege.forget()
    wire = kept(b"GET /secure HTTP/1.1\r\n", b"acme.test", b"X-Forwarded-Proto: http\r\n")
    assert await over(siege, "acme.test", wire) == [(200, None)]
    assert b"\r\nX-Forwarded-Proto: https\r\n" in siege.to_functions


async def test_plain_http_on_the_tls_port_is_served_to_nobody(over_tls: tuple[Siege, Path]) -> None:
    """Nor does a broken handshake keep anybody else out."""
    siege, _ = over_tls
    siege.forget()
    reader, writer = await asyncio.open_connection(*siege.world.app.public_address)
    writer.write(asked(PUBLIC, b"acme.test"))
    with contextlib.suppress(ConnectionError):
        assert not (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP")
    writer.transport.abort()
    siege.check_untouched()
    assert await over(siege, "acme.test", kept(PUBLIC, b"acme.test")) == [(200, None)]
