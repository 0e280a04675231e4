"""
Attacks on the internal listener: whoever reaches it without the one pass of the one request reaches nothing.

"Nothing" is meant literally: no function, no call of the platform, no wake, and nothing kept of the attempt.

Longer than other modules: the tables of what is tried stand beside what is promised of them.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import secrets
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import pytest
import pytest_asyncio

from authproxy.gate.passes import Passes, target_of
from policies.request import Head
from tests.fakes.internal import Door, arriving, running_door, until
from tests.fakes.raw_client import RawAnswer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE: Final = "GET /reports/es?year=2026"
TARGET: Final = b"/reports/es?year=2026"
HOST: Final = "acme.test"
FIELD: Final = "X-Portero-Pass"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def the_door() -> AsyncIterator[Door]:
    async with running_door(ttl_s=120) as door:
        door.world.faas.add("survey-report", "acme")
        assert (await door.world.get("/reports/es", token=door.world.token())).status == 200
        yield door


@pytest_asyncio.fixture(loop_scope="module")
async def door(the_door: Door) -> AsyncIterator[Door]:
    """The platform has seen nothing of what follows, and nothing is left of it."""
    faas = the_door.world.faas
    faas.requests.clear()
    faas.status_calls.clear()
    faas.wake_calls.clear()
    yield the_door
    await until(the_door.is_idle)


async def issued(door: Door, line: str = LINE) -> str:
    token = door.passes.issue(await door.judged(line, token=door.world.token()))
    assert token is not None
    return token


async def sent(door: Door, data: bytes, *, to_head: bool = False) -> RawAnswer:
    async with door.client() as client:
        await client.send(data)
        return await client.answer(to_head=to_head)


def is_refused(door: Door, answer: RawAnswer) -> bool:
    """
    And nothing was sent or woken for it. Status calls do not count: a function that was served before is looked at
    again now and then, whoever asks meanwhile.
    """
    is_told = (answer.status, answer.field("x-portero-reason")) == (403, "pass-invalid")
    faas = door.world.faas
    return is_told and not (faas.requests or faas.wake_calls)


def flipped(token: str, bit: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[bit // 8] ^= 1 << bit % 8
    return base64.urlsafe_b64encode(raw).decode()


def swapped_case(token: str) -> str:
    return token.swapcase()


FORGERIES: Final[dict[str, Callable[[str], str]]] = {
    "nonce-bit": lambda token: flipped(token, 0),
    "expiry-bit": lambda token: flipped(token, 8 * 16 + 40),
    "mac-first-bit": lambda token: flipped(token, 8 * 22),
    "mac-last-bit": lambda token: flipped(token, 8 * 54 - 1),
    "cut-by-one": lambda token: token[:-1],
    "without-mac": lambda token: token[:30],
    "nonce-alone": lambda token: base64.urlsafe_b64encode(base64.urlsafe_b64decode(token)[:16]).decode(),
    "mac-of-zeros": lambda token: token[:30] + "A" * 42,
    "longer-by-one": lambda token: token + "A",
    "padded": lambda token: token + "==",
    "twice": lambda token: token + token,
    "list": lambda token: f"{token}, {token}",
    "quoted": lambda token: f'"{token}"',
    "scheme": lambda token: f"Bearer {token}",
    "plain-base64": lambda token: base64.b64encode(base64.urlsafe_b64decode(token)[:-3] + b"\xff\xef\xbe").decode(),
    "case": swapped_case,
    "percent": lambda token: "%" + token[1:],
    "spaces-inside": lambda token: token[:36] + " " + token[36:],
    "not-ascii": lambda token: token[:-1] + "\xe9",
    "empty": lambda _token: "",
    "null": lambda _token: "null",
    "guessed": lambda _token: secrets.token_urlsafe(54),
    "zeros": lambda _token: "A" * 72,
    "long": lambda _token: "A" * 20_000,
    "sql": lambda _token: "' OR 1=1 --",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_no_other_value_is_a_pass(door: Door, forge: Callable[[str], str]) -> None:
    """While a real one waits: nothing near it and nothing far from it opens anything."""
    token = await issued(door)
    value = forge(token)
    assert value != token
    assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, (FIELD, value))))
    door.passes.take_back(token)


@pytest.mark.parametrize("bit", range(0, 54 * 8, 7))
async def test_no_bit_of_a_pass_may_change(door: Door, bit: int) -> None:
    token = await issued(door)
    head = Head("GET", TARGET, ((b"Host", HOST.encode()),), (1, 1), "127.0.0.1", "http")
    assert door.passes.redeem(flipped(token, bit).encode(), head) is None
    door.passes.take_back(token)
    assert not len(door.passes)


OTHERS: Final[dict[str, tuple[str, bytes, str]]] = {
    "method": ("POST", TARGET, HOST),
    "head-for-get": ("HEAD", TARGET, HOST),
    "method-case": ("get", TARGET, HOST),
    "host": ("GET", TARGET, "globex.test"),
    "host-case": ("GET", TARGET, "ACME.test"),
    "host-port": ("GET", TARGET, "acme.test:80"),
    "host-dot": ("GET", TARGET, "acme.test."),
    "path": ("GET", b"/reports/fr?year=2026", HOST),
    "path-case": ("GET", b"/Reports/es?year=2026", HOST),
    "path-slash": ("GET", b"/reports/es/?year=2026", HOST),
    "path-spelling": ("GET", b"/reports/%65s?year=2026", HOST),
    "path-dots": ("GET", b"/reports/x/../es?year=2026", HOST),
    "function": ("GET", b"/function/survey-report/by-country/es?year=2026", HOST),
    "query": ("GET", b"/reports/es?year=2027", HOST),
    "query-longer": ("GET", TARGET + b"&a=b", HOST),
    "query-less": ("GET", b"/reports/es", HOST),
    "query-empty": ("GET", b"/reports/es?", HOST),
    "absolute": ("GET", b"http://acme.test" + TARGET, HOST),
    "split-elsewhere": ("GET", b"acme.test/reports/es?year=2026", ""),
}


@pytest.mark.parametrize(("method", "target", "host"), OTHERS.values(), ids=OTHERS.keys())
async def test_a_pass_is_for_one_request(door: Door, method: str, target: bytes, host: str) -> None:
    """Any other is refused, and has used it up: it is of no use for the right one either."""
    token = await issued(door)
    answer = await sent(door, arriving(method, target, host, (FIELD, token)), to_head=method == "HEAD")
    assert answer.status in {400, 403, 405}
    assert not door.world.faas.requests
    if answer.status == 403:
        assert is_refused(door, answer)
        assert not len(door.passes)
        assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, (FIELD, token))))
    door.passes.take_back(token)


async def test_a_second_host_does_not_help(door: Door) -> None:
    """Which of two would count is nobody's to choose."""
    token = await issued(door)
    answer = await sent(door, arriving("GET", TARGET, HOST, ("Host", "globex.test"), (FIELD, token)))
    assert answer.status in {400, 403}
    assert not door.world.faas.requests
    door.passes.take_back(token)


SPELLINGS: Final = (
    "X_Portero_Pass",
    "X-Portero_Pass",
    "X.Portero.Pass",
    "XPorteroPass",
    "X-Portero-Pass-",
    "-X-Portero-Pass",
    "Portero-Pass",
    "X-Portero-Passes",
    "Authorization",
    "Cookie",
)


@pytest.mark.parametrize("name", SPELLINGS)
async def test_no_other_field_is_read_for_a_pass(door: Door, name: str) -> None:
    """A real pass in it opens nothing; beside the real field it is left alone."""
    token = await issued(door)
    assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, (name, token))))
    forged = (name, flipped(token, 0))
    answer = await sent(door, arriving("GET", TARGET, HOST, forged, (FIELD, token)))
    assert answer.status == 200
    assert not [one for one in door.world.faas.requests[0].fields if token in one[1]]


@pytest.mark.parametrize("name", ["x-portero-pass", "X-PORTERO-PASS"])
async def test_the_case_of_a_fields_name_does_not_matter(door: Door, name: str) -> None:
    """As HTTP has it (RFC 9110 section 5.1), so that two cases are not two fields."""
    first, second = await issued(door), await issued(door)
    assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, (name, first), (FIELD, second))))
    assert (await sent(door, arriving("GET", TARGET, HOST, (name, first)))).status == 200
    door.passes.take_back(second)


@pytest.mark.parametrize("values", [("", ""), ("real", "real"), ("real", "forged"), ("forged", "real"), ("real", "")])
async def test_two_passes_are_none(door: Door, values: tuple[str, str]) -> None:
    token = await issued(door)
    said = {"": "", "real": token, "forged": flipped(token, 3)}
    fields = [(FIELD, said[value]) for value in values]
    assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, *fields)))
    door.passes.take_back(token)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (("Authorization", "Bearer {token}"),),
        (("X-Portero-Subject", "login|ana"), ("X-Portero-Tenant", "acme")),
        (("X-Forwarded-For", "10.0.0.1"),),
    ],
    ids=["nothing", "token", "identity", "trusted-peer"],
)
async def test_who_brings_no_pass_gets_nothing(door: Door, fields: tuple[tuple[str, str], ...]) -> None:
    """Not even with a credential that the public listener would take: nothing is judged here."""
    said = [(name, value.format(token=door.world.token())) for name, value in fields]
    for target in (TARGET, b"/function/survey-web", b"/.portero/jwks.json", b"/"):
        assert is_refused(door, await sent(door, arriving("GET", target, HOST, *said)))


async def test_a_pass_is_good_once(door: Door) -> None:
    """Also on the same connection, with the very same bytes."""
    data = arriving("GET", TARGET, HOST, (FIELD, await issued(door)))
    async with door.client() as client:
        await client.send(data)
        assert (await client.answer()).status == 200
        for _ in range(3):
            await client.send(data)
            assert (await client.answer()).field("x-portero-reason") == "pass-invalid"
    assert len(door.world.faas.requests) == 1


async def test_of_many_at_the_same_moment_one_gets_in(door: Door) -> None:
    data = arriving("GET", TARGET, HOST, (FIELD, await issued(door)))
    clients = [door.client() for _ in range(20)]
    for client in clients:
        await client.__aenter__()
    for client in clients:
        client.writer.write(data)
    answers = await asyncio.gather(*(client.answer() for client in clients))
    for client in clients:
        await client.__aexit__(None, None, None)
    assert sorted(answer.status for answer in answers) == [200] + [403] * 19
    assert len(door.world.faas.requests) == 1


async def test_a_pass_of_another_process_opens_nothing(door: Door) -> None:
    """Each has a key of its own: not even what is waiting here under the same nonce."""
    verdict = await door.judged(LINE, token=door.world.token())
    token = await issued(door)
    elsewhere = Passes(door.gate)
    assert len({door.passes._key, elsewhere._key}) == 2
    assert len(elsewhere._key) == 32
    other = elsewhere.issue(verdict)
    assert other is not None
    mixed = base64.urlsafe_b64decode(token)[:22] + base64.urlsafe_b64decode(other)[22:]
    for value in (other, base64.urlsafe_b64encode(mixed).decode()):
        assert is_refused(door, await sent(door, arriving("GET", TARGET, HOST, (FIELD, value))))
    assert not len(door.passes)  # it was shown, if only in part
    await elsewhere.close()


async def test_an_expired_pass_opens_nothing(door: Door) -> None:
    """Whether it was swept already or not."""
    now = 0.0
    passes = Passes(door.gate, clock=lambda: now)
    verdict = await door.judged(LINE, token=door.world.token())
    token = passes.issue(verdict)
    assert token is not None
    head = Head("GET", target_of(verdict.request), ((b"Host", HOST.encode()),), (1, 1), "127.0.0.1", "http")
    now = 10.0
    assert passes.redeem(token.encode(), head) is None
    assert not len(passes)


async def test_one_tenants_pass_is_of_no_use_to_another(door: Door) -> None:
    """A caller of another tenant, with a pass of his own for the same path at his host, does not get acme's."""
    door.world.faas.add("survey-report", "globex")
    token = door.world.token("gil", tenants=("globex",))
    verdict: Any = await door.judged("GET /function/survey-report?year=2026", token=token, host="globex.test")
    value = door.passes.issue(verdict)
    assert value is not None
    data = arriving("GET", b"/function/survey-report?year=2026", HOST, (FIELD, value))
    assert (await sent(door, data)).field("x-portero-reason") == "pass-invalid"
    assert not door.world.faas.requests


async def test_ten_thousand_guesses_leave_nothing_behind(door: Door) -> None:
    """Well formed or not, they cost no memory; a real pass is good among them."""
    token = await issued(door)
    head = Head("GET", TARGET, ((b"Host", HOST.encode()),), (1, 1), "127.0.0.1", "http")

    def guess(count: int) -> None:
        for number in range(count):
            value = secrets.token_urlsafe(54) if number % 2 else secrets.token_urlsafe(number % 200)
            assert door.passes.redeem(value.encode(), head) is None

    guess(100)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        guess(10_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 20_000
    assert len(door.passes) == 1
    assert (await sent(door, arriving("GET", TARGET, HOST, (FIELD, token)))).status == 200


async def test_a_flood_of_guesses_over_the_wire_is_refused(door: Door) -> None:
    async with door.client() as client:
        for _ in range(300):
            await client.send(arriving("GET", TARGET, HOST, (FIELD, secrets.token_urlsafe(54))))
            assert is_refused(door, await client.answer())


async def test_hostile_bytes_raise_nothing(door: Door) -> None:
    """Of the pass, of the method, of the target and of the host alike, with a pass waiting."""
    hostile = [b"", b"\xff" * 72, b"\0" * 72, b"A" * 71 + b"\n", b"A" * 72 + b"\n", "é".encode() * 36, b"=" * 72]
    head = Head("GET", TARGET, ((b"Host", HOST.encode()),), (1, 1), "127.0.0.1", "http")
    for value in hostile:
        assert door.passes.redeem(value, head) is None
    for change in (
        {"method": "\udcff\ud800"},
        {"target": b"\xff\0"},
        {"fields": ((b"Host", b"\xff"),)},
        {"fields": ()},
        {"fields": (*head.fields, *head.fields)},
        {"fields": (*head.fields, (b"host", b"globex.test"))},
        {"fields": ((b"", b""), (b"\xff", b"\xff"))},
    ):
        token = await issued(door)
        assert door.passes.redeem(token.encode(), head._replace(**change)) is None
    assert not len(door.passes)


async def test_what_a_stranger_tried_stands_in_the_audit_without_the_pass(door: Door) -> None:
    """Who looks later sees that it was tried, and finds nothing that would open anything."""
    token = await issued(door)
    before = len(door.audit())
    assert is_refused(door, await sent(door, arriving("GET", b"/reports/fr", HOST, (FIELD, token))))
    audit = door.audit()[before:]
    assert audit.count("pass-invalid") == 2  # who showed it, and what was judged and is of no use any more
    assert token not in audit
    assert token[:22] not in audit
