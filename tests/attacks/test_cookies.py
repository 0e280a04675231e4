"""
Attack family A8, cookies, and what of A3 and A6 is done with a cookie: against whole sessions, sealed and in the store.

Whatever is done to a cookie, the caller is nobody or is who logged in; never anybody else, never an exception. Nothing
is said of a cookie that cannot be read, and no refusal is given for it: a browser cannot help what it sends.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy.identity.sessions.cookies import MAX_PIECES, PIECE_CHARS, SESSION
from authproxy.identity.sessions.seal import SessionKeys, encode_session, from_text, to_text
from authproxy.identity.sessions.session import Session
from policies.decision import Deny, Reason
from policies.principal import Principal
from policies.request import MAX_FIELDS_BYTES, AccessRequest, Head, TrustedPeers, read_head
from policies.tables import TenantTable
from tests.fakes.identity import a_request
from tests.fakes.sessions import Jar, World, named, some_keys, some_tokens, tenant_with

ACME, GLOBEX = tenant_with("acme"), tenant_with("globex")
ACME_STORE, GLOBEX_STORE = tenant_with("acme", "redis"), tenant_with("globex", "redis")


async def who(world: World, cookie: bytes | None, tenant: TenantTable = ACME) -> Principal:
    """Whom a cookie names; a hit must say what the miss said."""
    request = a_request(cookie=cookie)
    first = named(await world.sessions.identify(tenant, request, world.now))
    second = named(await world.sessions.identify(tenant, request, world.now))
    assert (first.subject, first.is_session_over) == (second.subject, second.is_session_over)
    return first


def is_nobody(found: Principal) -> bool:
    """And nothing is said, set or cleared."""
    return found.is_anonymous and not found.is_session_over and not found.set_cookie and not found.is_by_cookie


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def jar(world: World) -> Jar:
    jar = Jar()
    await world.log_in(jar)
    return jar


@pytest.fixture
async def large(world: World) -> Jar:
    """A session in two pieces."""
    jar = Jar()
    await world.log_in(jar, claims={"noise": secrets.token_urlsafe(3500)})
    assert len(jar.cookies) == 2
    return jar


# -- the sealed text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", [ACME, ACME_STORE], ids=["sealed", "ticket"])
async def test_no_character_can_be_changed(world: World, tenant: TenantTable) -> None:
    """Each character of the cookie's value, to its neighbour and to what is no base64url."""
    jar = Jar()
    await world.log_in(jar, tenant)
    text = jar.cookies[SESSION]
    for at in range(len(text)):
        for other in (chr(ord(text[at]) ^ 1), "!", "="):
            changed = f"{SESSION}={text[:at]}{other}{text[at + 1 :]}".encode()
            assert is_nobody(named(await world.sessions.identify(tenant, a_request(cookie=changed), world.now)))
    assert named(await who(world, jar.field, tenant)).sub == "ana"


async def test_no_bit_can_be_flipped(world: World, jar: Jar) -> None:
    """Version, key id, nonce, ciphertext and tag; the cookie was seen before, and that helps nobody."""
    assert (await who(world, jar.field)).sub == "ana"
    data = bytearray(from_text(jar.cookies[SESSION][2:]) or b"")
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        forged = f"{SESSION}=1.{to_text(bytes(data))}".encode()
        assert is_nobody(named(world.sessions.identify_now(ACME, a_request(cookie=forged), world.now)))
        data[at] ^= 1 << at % 8
    for cut in (1, 16, 17, len(data) - 1, len(data)):
        forged = f"{SESSION}=1.{to_text(bytes(data[:-cut]))}".encode()
        assert is_nobody(named(world.sessions.identify_now(ACME, a_request(cookie=forged), world.now)))


async def test_a_second_spelling_is_none(world: World, jar: Jar) -> None:
    """Padding, blanks, quotes, escapes, the other alphabet."""
    text = jar.cookies[SESSION]
    spellings = [
        f"{text}=",
        f"{text}==",
        f'"{text}"',
        text.replace("1.", "01.", 1),
        text.replace("1.", "1%2e", 1),
        f"{text}%00",
        f"{text}\x00",
        text[:2] + " " + text[2:],
    ]
    if "-" in text or "_" in text:
        spellings.append(text.replace("-", "+").replace("_", "/"))
    for spelling in spellings:
        assert is_nobody(await who(world, f"{SESSION}={spelling}".encode("latin-1")))


# -- where it was made for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("home", "other"), [(ACME, GLOBEX), (ACME_STORE, GLOBEX_STORE)], ids=["sealed", "ticket"])
async def test_a_session_gives_nothing_on_another_tenants_host(
    world: World, home: TenantTable, other: TenantTable
) -> None:
    """A3, AP-R46: same keys, same store, same provider, same person; seen before or not."""
    jar = Jar()
    await world.log_in(jar, home)
    assert is_nobody(await who(world, jar.field, other))
    assert (await who(world, jar.field, home)).sub == "ana"
    assert is_nobody(await who(world, jar.field, other))
    assert await world.sessions.open(other, a_request(cookie=jar.field), world.now) is None


@pytest.mark.parametrize(
    ("purpose", "name"),
    [
        ("login", f"{SESSION}/1"),
        ("ticket", SESSION),
        ("session", SESSION),
        ("session", "__Host-portero-login-abcdefgh"),
    ],
)
async def test_what_was_sealed_for_something_else_is_no_session(world: World, purpose: str, name: str) -> None:
    """A login's state, a ticket, or what another cookie holds, although a whole session stands in it."""
    session = await world.log_in(Jar())
    text = world.sealer.seal("acme", purpose, name, encode_session(session))
    assert is_nobody(await who(world, f"{SESSION}=1.{text}".encode()))


async def test_a_session_under_another_name_is_none(world: World, jar: Jar) -> None:
    """Of a login, of a piece, without the prefix that browsers guard, and in another case (AP-R48)."""
    text = jar.cookies[SESSION]
    for name in (
        "__Host-portero-login-abcdefgh",
        f"{SESSION}.1",
        "portero-session",
        "__Secure-portero-session",
        SESSION.lower(),
        SESSION.upper(),
        f"{SESSION}s",
        f"{SESSION}.0",
        f"x{SESSION}",
        f"={SESSION}",
        "",
    ):
        assert is_nobody(await who(world, f"{name}={text}".encode()))


async def test_a_key_that_was_removed_opens_nothing() -> None:
    """Old key id: good while it is accepted, nobody's afterwards, also from the cache of another replica."""
    keys = [some_keys()]
    world, jar = World(keys=lambda: keys[0]), Jar()
    await world.log_in(jar)
    old = keys[0].current
    keys[0] = some_keys(old)
    assert (await who(world, jar.field)).sub == "ana"
    keys[0] = SessionKeys(keys[0].current, {})
    assert is_nobody(await who(World(keys=lambda: keys[0]), jar.field))


async def test_a_session_sealed_with_strange_keys_is_none(world: World) -> None:
    """Somebody runs a Portero of their own, with the same names and even the same key id."""
    known = world.sealer._keys()
    strange = World(keys=lambda: SessionKeys((known.current[0], secrets.token_bytes(32)), {}))
    jar = Jar()
    await strange.log_in(jar)
    assert is_nobody(await who(world, jar.field))


# -- pieces ------------------------------------------------------------------------------------------------------------


def swapped(jar: Jar) -> bytes:
    one, two = jar.cookies[SESSION], jar.cookies[f"{SESSION}.1"]
    return f"{SESSION}=2.{two}; {SESSION}.1={one[2:]}".encode()


PIECES: dict[str, Callable[[Jar], bytes]] = {
    "second missing": lambda jar: f"{SESSION}={jar.cookies[SESSION]}".encode(),
    "first missing": lambda jar: f"{SESSION}.1={jar.cookies[SESSION + '.1']}".encode(),
    "swapped": swapped,
    "second twice": lambda jar: jar.field + f"; {SESSION}.1={jar.cookies[SESSION + '.1']}".encode(),
    "first twice": lambda jar: jar.field + f"; {SESSION}={jar.cookies[SESSION]}".encode(),
    "second under a later name": lambda jar: jar.field.replace(b".1=", b".2="),
    "said to be one": lambda jar: jar.field.replace(b"=2.", b"=1."),
    "joined in one": lambda jar: f"{SESSION}=1.{jar.cookies[SESSION][2:]}{jar.cookies[SESSION + '.1']}".encode(),
    "said to be three": lambda jar: jar.field.replace(b"=2.", b"=3."),
    "said to be three, with an empty third": lambda jar: jar.field.replace(b"=2.", b"=3.") + f"; {SESSION}.2=".encode(),
    "second cut": lambda jar: jar.field[:-1],
    "second longer": lambda jar: jar.field + b"A",
}


@pytest.mark.parametrize("forge", PIECES.values(), ids=PIECES)
async def test_pieces_are_whole_and_in_order(world: World, large: Jar, forge: Callable[[Jar], bytes]) -> None:
    """AP-R21: how many there are is sealed in, and what they are joined to is sealed as one."""
    assert is_nobody(await who(world, forge(large)))
    assert (await who(world, large.field)).sub == "ana"
    assert is_nobody(await who(world, forge(large)))


async def test_pieces_of_two_sessions_do_not_mix(world: World, large: Jar) -> None:
    """The same person's, of the same length."""
    other = Jar()
    await world.log_in(other, claims={"noise": secrets.token_urlsafe(3500)})
    mixed = f"{SESSION}={large.cookies[SESSION]}; {SESSION}.1={other.cookies[SESSION + '.1']}".encode()
    assert is_nobody(await who(world, mixed))


@pytest.mark.parametrize("count", ["0", "9", "10", "99999999", "-1", "1e9", "\u0661", "", "x", "+1", " 1", "1.1"])
async def test_a_bomb_of_a_count_is_nothing(world: World, large: Jar, count: str) -> None:
    """CVE-2024-24814: a count of 99999999 made a server look for as many."""
    field = large.field.replace(b"=2.", f"={count}.".encode())
    assert is_nobody(await who(world, field))


async def test_a_stale_session_never_shadows_a_newer_one(world: World, jar: Jar) -> None:
    """
    A session in one piece and the first piece of a longer one have one name: a browser cannot hold both, and pieces
    left over from a longer one are not looked at.
    """
    small = dict(jar.cookies)
    await world.log_in(jar, claims={"noise": secrets.token_urlsafe(3500), "groups": ["new"]})
    assert set(jar.cookies) == {SESSION, f"{SESSION}.1"}
    assert set(small) == {SESSION}
    assert (await who(world, jar.field)).groups == frozenset(("new",))
    left_over = jar.cookies[f"{SESSION}.1"]
    again = Jar()
    await world.log_in(again)
    again.cookies[f"{SESSION}.1"] = left_over
    again.cookies[f"{SESSION}.7"] = "garbage"
    assert (await who(world, again.field)).sub == "ana"


# -- the field ---------------------------------------------------------------------------------------------------------


async def test_a_name_that_stands_twice_is_no_session(world: World, jar: Jar) -> None:
    """AP-R48: one of them was planted, and nobody can say which; the order does not matter, nor that both are good."""
    mallory = Jar()
    await world.log_in(mallory, sub="mallory", claims={"sub": "mallory"})
    for field in (
        jar.field + b"; " + mallory.field,
        mallory.field + b"; " + jar.field,
        jar.field + b"; " + jar.field,
        jar.field + b";" + SESSION.encode() + b"=",
        SESSION.encode() + b" =x;" + jar.field,
    ):
        assert is_nobody(await who(world, field))


async def test_a_planted_session_does_not_survive_the_login(world: World, jar: Jar) -> None:
    """AP-R5: the attacker's cookie is in the victim's browser before the login; afterwards it is dead everywhere."""
    attacker = Jar()
    planted = await world.log_in(attacker, sub="mallory", claims={"sub": "mallory"})
    victim = Jar()
    victim.cookies = dict(attacker.cookies)
    session = await world.log_in(victim)
    assert session.id != planted.id
    assert (await who(world, victim.field)).sub == "ana"
    dead = await who(world, attacker.field)
    assert dead.is_anonymous
    assert dead.is_session_over


@pytest.mark.parametrize("planted", ["garbage", "1.", "1.AAAA", "8." + "A" * 100])
async def test_planted_garbage_does_not_keep_anybody_from_logging_in(world: World, planted: str) -> None:
    """The new session takes the place of whatever stands under its names."""
    victim = Jar()
    victim.cookies = {SESSION: planted, f"{SESSION}.1": planted, f"{SESSION}.7": planted}
    await world.log_in(victim)
    assert set(victim.cookies) == {SESSION}
    assert (await who(world, victim.field)).sub == "ana"


async def test_two_hundred_cookies_hide_nothing(world: World, jar: Jar) -> None:
    """Ours is found among them wherever it stands; two hundred of ours are nothing."""
    others = [f"c{n}={secrets.token_urlsafe(20)}".encode() for n in range(200)]
    for at in (0, 100, 200):
        assert (await who(world, b"; ".join([*others[:at], jar.field, *others[at:]]))).sub == "ana"
    assert is_nobody(await who(world, b"; ".join([jar.field] * 200)))
    numbered = [f"{SESSION}.{n}=x".encode() for n in range(200)]
    assert (await who(world, b"; ".join([*numbered, jar.field]))).sub == "ana"


async def test_a_session_of_the_largest_size_passes_the_limit_of_heads(world: World) -> None:
    """What we set comes back to us: all pieces, other cookies beside them, below what a head may hold."""
    jar = Jar()
    await world.log_in(jar, claims={"noise": secrets.token_urlsafe(3600)}, id_token=None)
    assert 5000 < len(jar.field) < 7 * 1024
    request = read_head(a_head(jar.field + b"; other=" + b"x" * 8000), TrustedPeers())
    assert isinstance(request, AccessRequest)
    assert (await who(world, request.cookie)).sub == "ana"
    beyond = read_head(a_head(jar.field + b"; other=" + b"x" * MAX_FIELDS_BYTES), TrustedPeers())
    assert isinstance(beyond, Deny)
    assert beyond.reason is Reason.HEAD_TOO_LARGE


def a_head(cookie: bytes) -> Head:
    return Head("GET", b"/", ((b"Host", b"acme.localhost"), (b"Cookie", cookie)), (1, 1), "192.0.2.7", "https")


async def test_pieces_beyond_all_measure_are_not_opened(world: World) -> None:
    """Eight full pieces: longer than we ever write."""
    field = "; ".join(
        f"{SESSION}{f'.{n}' if n else ''}={'8.' if not n else ''}{'A' * PIECE_CHARS}" for n in range(MAX_PIECES)
    )
    assert is_nobody(await who(world, field.encode()))


async def test_time_ends_a_copy_too(world: World, jar: Jar) -> None:
    """An expired cookie is over, however it is shown; the browser is told to forget it."""
    field = jar.field
    world.clock.pass_s(ACME.sessions.idle_s)
    found = await who(world, field)
    assert found.is_session_over
    assert b"Max-Age=0" in found.set_cookie


_shared = World()
_field: list[bytes] = []


def the_field() -> bytes:
    """One good session for all examples."""
    if not _field:
        jar = Jar()
        asyncio.run(_shared.log_in(jar))
        _field.append(jar.field)
    return _field[0]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 200), st.sampled_from([ACME, GLOBEX, ACME_STORE]))
def test_nothing_that_is_done_to_the_bytes_raises(junk: bytes, at: int, cut: int, tenant: TenantTable) -> None:
    """AP-R22: bytes put in, taken out and put in place of others. Nobody, or who logged in; and never a refusal."""
    good = the_field()
    at %= len(good) + 1
    for cookie in (junk, good[:at] + junk + good[at + cut :], SESSION.encode() + b"=" + junk, junk + b"; " + good):
        found: Any = _shared.sessions.identify_now(tenant, a_request(cookie=cookie), _shared.now)
        assert isinstance(found, Principal)
        assert found.is_anonymous or (found.sub == "ana" and tenant is ACME)
        assert isinstance(_shared.sessions.known_now(tenant, a_request(cookie=cookie), _shared.now), Principal | None)
        _shared.sessions.has_session(a_request(cookie=cookie))


async def test_a_session_shows_no_secret_where_it_is_printed(world: World, jar: Jar) -> None:
    """A14: neither tokens, nor the session's secret, nor claims, nor the cookie."""
    session = await world.sessions.open(ACME, jar.request(), world.now)
    assert isinstance(session, Session)
    tokens = some_tokens(world.now, {"email": "canary@acme.example"})
    printed = repr((session, tokens, await who(world, jar.field), world.sessions, world.sealer))
    for canary in ("refresh-1", "c2lnbmF0dXJl", "canary", repr(session.secret), jar.cookies[SESSION][2:]):
        assert canary not in printed
