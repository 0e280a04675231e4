"""
Attack family A4 through the whole proxy: forged tokens, broken credentials, and guessing without end.

The forgeries are those that the verifier is tested with alone; here they come over a socket, for a function that is
asleep, so that one that passed would be seen to wake it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.attacks.test_tokens import EC, ED, FORGERIES, RSA, Forge
from tests.fakes.proofs import a_proof, jkt_of
from tests.fakes.provider import FakeProvider, Key
from tests.fakes.siege import CANARY, Siege, besieged
from tests.fakes.world import RawAnswer

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPORT: Final = b"GET /function/survey-report HTTP/1.1\r\nHost: acme.test\r\n"
PUBLIC: Final = b"GET /function/survey-web HTTP/1.1\r\nHost: acme.test\r\n"
CLOSE: Final = b"Connection: close\r\n\r\n"
CHALLENGE: Final = re.compile(r'Bearer realm="acme"(?:, error="(\w+)", error_description="([^"\\]*)")?')


class Vouching(FakeProvider):
    """The world's provider, whose claims are those of an analyst of acme: all that is wrong is what a row changes."""

    def __init__(self, real: FakeProvider) -> None:
        self.__dict__ = real.__dict__

    def claims(self, sub: str = "ana", *, ttl_s: float = 600, **claims: Any) -> dict[str, Any]:
        every = {"organization": ["acme"], "groups": ["analysts"], **claims}
        return super().claims(sub, ttl_s=ttl_s, **every)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def asleep() -> AsyncIterator[Siege]:
    """No function is awake, so that an attack that got through would show as a wake call."""
    async with besieged(is_warm=False) as siege:
        siege.world.provider.keys[:] = [RSA, ED, EC]
        for key in siege.faas.awake:
            siege.faas.awake[key] = 0
        stranger = Vouching(siege.world.provider).mint(groups=[])
        await siege.refused(with_authorization(b"Bearer " + stranger.encode()), "no-rule-allows")
        yield siege


def with_authorization(value: bytes, head: bytes = REPORT) -> bytes:
    return head + b"Authorization: " + value + b"\r\n" + CLOSE


def check_challenge(answer: RawAnswer, *errors: str | None) -> None:
    """RFC 6750 section 3, and nothing of how the token was found to be bad beyond a constant sentence."""
    assert (answer.status, answer.field("cache-control")) == (401, "no-store")
    assert len(answer.all("www-authenticate")) == 1
    challenge = CHALLENGE.fullmatch(answer.field("www-authenticate") or "")
    assert challenge is not None, answer.field("www-authenticate")
    assert challenge[1] in errors
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "reason", "request_id"}
    if challenge[2] is not None:
        assert document["detail"] == challenge[2]


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_token_is_401_and_wakes_nobody(forge: Forge, asleep: Siege) -> None:
    """A4, R15, R24, R37, R44, R45, R52: on a protected and on a public function, the first and the second time."""
    token = forge(Vouching(asleep.world.provider))
    asked_before = asleep.world.provider.requests["other"]
    for head in (REPORT, REPORT, PUBLIC):
        answer = await asleep.refused(with_authorization(b"Bearer " + token.encode(), head), "credential-invalid")
        check_challenge(answer, "invalid_token", "invalid_request")
        for segment in filter(lambda segment: len(segment) > 8, token.split(".")):
            assert segment.encode() not in answer.wire
    assert not asleep.faas.status_calls
    assert asleep.world.provider.requests["other"] == asked_before, "no address out of a token is asked"


FIELDS: Final = {
    "basic": (b"Basic dXNlcjpwYXNz", None),
    "digest": (b'Digest username="ana"', None),
    "negotiate": (b"Negotiate abc", None),
    "token-alone": (b"%(token)s", None),
    "bearer-x": (b"BearerX %(token)s", None),
    "bearer-alone": (b"Bearer", "invalid_request"),
    "bearer-space": (b"Bearer ", "invalid_request"),
    "two-spaces": (b"Bearer  %(token)s", "invalid_request"),
    "colon": (b"Bearer: %(token)s", "invalid_request"),
    "comma": (b"Bearer,%(token)s", "invalid_request"),
    "quoted": (b'Bearer "%(token)s"', "invalid_request"),
    "parameter": (b"Bearer token=%(token)s", "invalid_request"),
    "list": (b"Bearer %(token)s, Bearer %(token)s", "invalid_request"),
    "two-tokens": (b"Bearer %(token)s %(token)s", "invalid_request"),
    "trailing": (b"Bearer %(token)s x", "invalid_request"),
    "comma-behind": (b"Bearer %(token)s,", "invalid_request"),
    "padding": (b"Bearer %(token)s=", "invalid_token"),
    "dot-behind": (b"Bearer %(token)s.", "invalid_token"),
    "dot-first": (b"Bearer .%(token)s", "invalid_token"),
    "two-segments": (b"Bearer a.b", "invalid_token"),
    "five-segments": (b"Bearer a.b.c.d.e", "invalid_token"),
    "dots": (b"Bearer " + b"." * 8000, "invalid_token"),
    "opaque": (b"Bearer opaque", "invalid_token"),
    "long": (b"Bearer " + b"a" * 8186, "invalid_request"),
    "other-alphabet": (b"Bearer a+/=.b.c", "invalid_request"),
}


@pytest.mark.parametrize(("value", "error"), FIELDS.values(), ids=FIELDS.keys())
async def test_a_credential_that_cannot_be_read_is_not_none(value: bytes, error: str | None, asleep: Siege) -> None:
    """R37, R40 (GHSA-gv94-wp4h-vv8p): present and unreadable is 401 everywhere, and never the anonymous caller."""
    good = Vouching(asleep.world.provider).mint().encode()
    for head in (REPORT, PUBLIC):
        answer = await asleep.refused(with_authorization(value.replace(b"%(token)s", good), head), "credential-invalid")
        check_challenge(answer, error)
        assert good not in answer.wire


async def test_a_token_elsewhere_than_in_authorization_is_none(asleep: Siege) -> None:
    """RFC 6750 sections 2.2 and 2.3 are not spoken: tokens in a query stand in every log on the way."""
    good = Vouching(asleep.world.provider).mint().encode()
    form = b"access_token=" + good
    for wire in (
        b"GET /function/survey-report?access_token=%b HTTP/1.1\r\nHost: acme.test\r\n%b" % (good, CLOSE),
        REPORT + b"X-Access-Token: %b\r\nX-Auth-Token: %b\r\n%b" % (good, good, CLOSE),
        REPORT + b"Proxy-Authorization: Bearer %b\r\n%b" % (good, CLOSE),
        REPORT + b"Authorization_: Bearer %b\r\nX-Authorization: Bearer %b\r\n%b" % (good, good, CLOSE),
        REPORT + b"Cookie: access_token=%b; __Host-portero-session=%b\r\n%b" % (good, good, CLOSE),
        REPORT.replace(b"GET", b"POST")
        + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (len(form), form),
    ):
        answer = await asleep.refused(wire, "credential-missing")
        check_challenge(answer, None)
        assert good not in answer.wire


async def test_a_browser_gets_no_token_in_its_page(asleep: Siege) -> None:
    """R52: the page for people says no more than the document for machines."""
    fields = b"Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n"
    asleep.forget()
    answer = (await asleep.throw(with_authorization(b"Bearer <b>" + CANARY.encode(), REPORT + fields))).only
    assert answer.status == 401
    assert CANARY.encode() not in answer.wire
    asleep.check_untouched()


async def test_the_honest_token_beside_them_wakes_and_passes(asleep: Siege) -> None:
    """The tables refuse for what was changed; each algorithm that is not on the tenant's list is still refused."""
    vouching = Vouching(asleep.world.provider)
    asleep.forget()
    answer = (await asleep.throw(with_authorization(b"bEARER " + vouching.mint(key=EC).encode()))).only
    assert answer.status == 200, answer.wire
    assert asleep.faas.wake_calls == ["survey-report.acme"]
    for key in (RSA, ED):
        await asleep.refused(with_authorization(b"Bearer " + vouching.mint(key=key).encode()), "credential-invalid")


# -- guessing ----------------------------------------------------------------------------------------------------------

GUESSES: Final = 5


@pytest_asyncio.fixture(loop_scope="module")
async def guarded() -> AsyncIterator[Siege]:
    """Five wrong credentials an hour and address."""
    async with besieged() as siege:
        for name in ("acme", "globex"):
            file = siege.world.policies / f"{name}.yaml"
            text = file.read_text()
            limit = f"  - {{id: guessing, per: identity-failure, rate: {GUESSES}/h, burst: {GUESSES}}}\n"
            file.write_text(text + limit if "limits:" in text else text + "limits:\n" + limit)
        folder = siege.world.app.parts.folder
        assert await folder.reload(), folder.status.mistakes
        await siege.still_serves()
        yield siege


async def test_guessing_is_stopped_before_it_is_looked_at(guarded: Siege) -> None:
    """R31: then 429 for whatever is not known, a good token included; and no key is asked for, nothing sent on."""
    for number in range(GUESSES):
        await guarded.refused(with_authorization(b"Bearer guess%d" % number), "credential-invalid")
    asked = Counter(guarded.world.provider.requests)
    fresh = guarded.world.token("eve")
    for value in (b"guess", b"a.b.c", fresh.encode()):
        for head in (REPORT, PUBLIC):
            answer = await guarded.refused(with_authorization(b"Bearer " + value, head), "too-many-failures")
            assert 1 <= int(answer.field("retry-after") or 0) <= 3600
    assert guarded.world.provider.requests == asked


async def test_those_who_are_known_pass_beside_a_guesser(guarded: Siege) -> None:
    """R31: a cached token, no token at all, and another tenant are not the guesser's."""
    for number in range(GUESSES * 2):
        await guarded.throw(with_authorization(b"Bearer guess%d" % number))
    await guarded.refused(with_authorization(b"Bearer guess"), "too-many-failures")
    await guarded.still_serves()
    assert (await guarded.throw(PUBLIC + CLOSE)).only.status == 200
    await guarded.refused(REPORT + CLOSE, "credential-missing")
    theirs = guarded.world.token(tenants=("globex",)).encode()
    globex = REPORT.replace(b"acme.test", b"globex.test")
    assert (await guarded.throw(with_authorization(b"Bearer " + theirs, globex))).only.status == 200


async def test_a_missing_credential_is_no_guess(guarded: Siege) -> None:
    """Nor is a good one without the right, nor one of another tenant: only credential-invalid counts."""
    for _ in range(GUESSES * 4):
        await guarded.refused(REPORT + CLOSE, "credential-missing")
    strangers = {
        "no-rule-allows": guarded.world.token("bob", ()),
        "tenant-mismatch": guarded.world.token(tenants=("globex",)),
    }
    for reason, token in strangers.items():
        for _ in range(GUESSES * 2):
            await guarded.refused(with_authorization(b"Bearer " + token.encode()), reason)
    assert (
        await guarded.throw(with_authorization(b"Bearer " + guarded.world.token("eve").encode()))
    ).only.status == 200


async def test_spellings_of_an_address_are_one_guesser(guarded: Siege) -> None:
    """R10, R31: what a stranger says of his address gives him no second account."""
    for number in range(GUESSES):
        fields = b"X-Forwarded-For: 192.0.2.%d\r\nForwarded: for=192.0.2.%d\r\nX-Real-IP: 192.0.2.%d\r\n" % (
            (number,) * 3
        )
        await guarded.refused(with_authorization(b"Bearer guess", REPORT + fields), "credential-invalid")
    await guarded.refused(
        with_authorization(b"Bearer guess", REPORT + b"X-Forwarded-For: 192.0.2.77\r\n"), "too-many-failures"
    )


async def test_a_flood_of_unknown_keys_asks_for_them_once(asleep: Siege) -> None:
    """A5 over the wire: 200 tokens of 200 keys cost the provider one look within ten seconds, and honest ones pass."""
    vouching = Vouching(asleep.world.provider)
    forged = FORGERIES["kid unknown"](vouching)
    good = with_authorization(b"Bearer " + vouching.mint(key=EC).encode())
    assert (await asleep.throw(good)).only.status == 200
    before, began = asleep.world.provider.requests["jwks"], time.monotonic()
    header, claims, signature = forged.split(".")
    floods = [f"{header}.{claims}.{signature[:-4]}{number:04d}" for number in range(1000, 1200)]
    answers = await asyncio.gather(*(asleep.throw(with_authorization(b"Bearer " + text.encode())) for text in floods))
    assert {answer.only.status for answer in answers} == {401}
    assert (await asleep.throw(good)).only.status == 200
    assert asleep.world.provider.requests["jwks"] - before <= 1 + (time.monotonic() - began) // 10


def by_dpop(token: str, proof: bytes, close: bytes = CLOSE) -> bytes:
    return REPORT + b"Authorization: DPoP %b\r\nDPoP: %b\r\n" % (token.encode(), proof) + close


def proof_for(token: str, **claims: Any) -> bytes:
    return a_proof(token, time.time(), htu="http://acme.test/function/survey-report", **claims)


async def test_a_stolen_bound_token_opens_nothing(siege: Siege) -> None:
    """R37, RFC 9449 section 7.2: as bearer token, without a proof, or with somebody else's."""
    token = siege.world.token(cnf={"jkt": jkt_of()})
    other = proof_for(token, key=Key(None, "EC", 81))
    for wire in (
        with_authorization(b"Bearer " + token.encode()),
        with_authorization(b"DPoP " + token.encode()),
        by_dpop(token, other),
        by_dpop(token, b"a.b.c"),
        by_dpop(token, proof_for(token, htm="POST")),
        by_dpop(token, a_proof(token, time.time(), htu="http://globex.test/function/survey-report")),
        by_dpop(siege.token, proof_for(siege.token)),
    ):
        answer = await siege.refused(wire, "credential-invalid")
        challenge = answer.field("www-authenticate") or ""
        assert challenge.startswith('DPoP realm="acme", error="')
        assert challenge.endswith('algs="ES256 ES384 ES512 EdDSA PS256 RS256"')


async def test_a_proof_is_good_for_one_request(siege: Siege) -> None:
    """RFC 9449 section 11.1: the same bytes again, on the same connection or another, are a replay."""
    token = siege.world.token(cnf={"jkt": jkt_of()})
    wire = by_dpop(token, proof_for(token, jti="once"), b"\r\n")
    siege.forget()
    async with siege.client() as client:
        statuses = []
        for _ in range(3):
            await client.send(wire)
            statuses.append((await client.answer()).status)
    assert statuses == [200, 401, 401]
    assert len(siege.faas.requests) == 1
    assert b"dpop" not in siege.to_functions.lower()
    await siege.refused(by_dpop(token, proof_for(token, jti="once")), "credential-invalid")
    assert (await siege.throw(by_dpop(token, proof_for(token, jti="twice")))).only.status == 200


async def test_a_proof_holds_for_the_request_that_was_held(siege: Siege) -> None:
    """It is asked about again when its function is awake: that is no second use."""
    token = siege.world.token(cnf={"jkt": jkt_of()})
    key = "survey-report.acme"
    siege.faas.awake[key] = 0
    await siege.world.app.parts.folder.reload()
    siege.faas.add("survey-report", "acme", replicas=0, start_s=0.05)
    siege.forget()
    assert (await siege.throw(by_dpop(token, proof_for(token, jti="held")))).only.status == 200
    assert siege.faas.wake_calls == [key]
