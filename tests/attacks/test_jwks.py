"""
Attack family A5, providers that lie: whatever one answers, no key of its making is believed, nothing else is asked, and
what was good stays in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

import pytest

from authproxy.identity.tokens.bearer import BearerIdentity
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.tables import TenantTable
from tests.fakes.evil_provider import DISCOVERY_LIES, LIES, NEVER_LEARNED, EvilProvider
from tests.fakes.identity import Clock, a_provider, a_request, a_tenant, an_identity
from tests.fakes.patient_http import PatientHttp
from tests.fakes.provider import FakeProvider, Key, compact

EVERY_LIE = LIES + DISCOVERY_LIES


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def elsewhere() -> AsyncIterator[FakeProvider]:
    """Where lies lead: another server, which must never hear of us."""
    async with FakeProvider(NEVER_LEARNED) as running:
        yield running


@pytest.fixture
async def provider(elsewhere: FakeProvider, clock: Clock) -> AsyncIterator[EvilProvider]:
    async with EvilProvider() as running:
        running.now = clock
        running.elsewhere = elsewhere.jwks_uri.replace("127.0.0.1", "localhost")
        yield running


@pytest.fixture
async def identity(clock: Clock, provider: EvilProvider) -> AsyncIterator[BearerIdentity]:
    made = an_identity(clock, http=PatientHttp(provider.is_silent, timeout_s=0.3))
    yield made
    await made.close()


@pytest.fixture
def tenant(provider: EvilProvider) -> TenantTable:
    return a_tenant("acme", a_provider(provider.issuer))


def evil_token(provider: EvilProvider) -> str:
    return provider.mint(key=NEVER_LEARNED)


@pytest.mark.parametrize("lie", EVERY_LIE)
async def test_a_lie_at_the_first_fetch_gives_no_key(
    lie: str,
    identity: BearerIdentity,
    provider: EvilProvider,
    elsewhere: FakeProvider,
    tenant: TenantTable,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R25, R36, R43: 503 in bounded time; nobody else was asked; no content in the log."""
    provider.lie = lie
    started = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        answer = await identity.identify(tenant, a_request(evil_token(provider)), clock.now)
    assert isinstance(answer, Deny)
    assert answer.reason is Reason.KEYS_UNAVAILABLE
    assert answer.retry_after_s is not None
    assert time.monotonic() - started < 10, "an unbounded one would take a minute"
    assert not elsewhere.requests
    assert provider.requests["other"] == 0
    assert NEVER_LEARNED.jwk()["x"] not in caplog.text


@pytest.mark.parametrize("lie", EVERY_LIE)
async def test_a_lie_later_leaves_the_last_good_keys(
    lie: str,
    identity: BearerIdentity,
    provider: EvilProvider,
    elsewhere: FakeProvider,
    tenant: TenantTable,
    clock: Clock,
) -> None:
    """R36: honest callers go on being known, liars do not begin to be."""
    honest = a_request(provider.mint(ttl_s=40_000))
    assert isinstance(await identity.identify(tenant, honest, clock.now), Principal)
    provider.lie = lie
    clock.pass_s(3_700)  # discovery is asked again too
    for _ in range(2):
        assert isinstance(await identity.identify(tenant, honest, clock.now), Principal)
        answer = await identity.identify(tenant, a_request(evil_token(provider)), clock.now)
        assert isinstance(answer, Challenge)
        clock.pass_s(11)
    assert not elsewhere.requests
    fresh = a_request(provider.mint("bob"))
    assert isinstance(await identity.identify(tenant, fresh, clock.now), Principal)


async def test_an_endless_answer_is_read_no_further_than_its_bound(
    identity: BearerIdentity, provider: EvilProvider, tenant: TenantTable, clock: Clock
) -> None:
    """R25: 256 KiB, then the connection is cut; the sender gets rid of little more than socket buffers hold."""
    provider.lie = "endless"
    started = time.monotonic()
    assert isinstance(await identity.identify(tenant, a_request(provider.mint()), clock.now), Deny)
    assert time.monotonic() - started < 10, "the bound on time is 20 s here"
    assert provider.requests["pieces"] < 400


async def test_useless_keys_beside_good_ones_are_left_out(
    identity: BearerIdentity, provider: EvilProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A set may hold keys for encryption, of other kinds, too small or too large ones; they verify nothing."""
    small, even = Key("small", "RSA", 91, bits=1024), Key("even", "RSA", 92)
    good = provider.keys[0]
    others = [small.jwk(), even.jwk(e="Ag"), even.jwk(kid="tiny", e="Aw"), even.jwk(kid="large", e="AQAAAAAAAAAB")]
    others += [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "x"},
        {},
    ]
    others += [even.jwk(kid="bits", n="AQ" * 2000), even.jwk(kid="empty", n=""), {"kty": "NEW", "kid": "new"}]

    class Mixed:
        def __init__(self, jwk: dict[str, object]) -> None:
            self._jwk = jwk

        def jwk(self) -> dict[str, object]:
            return self._jwk

    provider.keys = [*[Mixed(jwk) for jwk in others], good]  # type: ignore[list-item]  # only jwk() is asked of them
    assert isinstance(await identity.identify(tenant, a_request(provider.mint(key=good)), clock.now), Principal)
    for key, kid in ((small, "small"), (even, "even"), (even, "tiny"), (even, "large"), (even, "bits")):
        token = compact({"alg": "RS256", "kid": kid}, provider.claims(), key)
        assert isinstance(await identity.identify(tenant, a_request(token), clock.now), Challenge)


async def test_sixty_four_keys_are_not_too_many(
    identity: BearerIdentity, provider: EvilProvider, tenant: TenantTable, clock: Clock
) -> None:
    """The bound is above what honest providers have."""
    provider.keys = [Key(f"k{number}", "EC", number % 4) for number in range(64)]
    assert isinstance(await identity.identify(tenant, a_request(provider.mint()), clock.now), Principal)


async def test_one_tenants_bad_provider_is_no_other_tenants_trouble(
    identity: BearerIdentity, provider: EvilProvider, clock: Clock
) -> None:
    """T7: key sets are per tenant, also of one and the same issuer."""
    acme, globex = (a_tenant(name, a_provider(provider.issuer)) for name in ("acme", "globex"))
    token = a_request(provider.mint())
    assert isinstance(await identity.identify(acme, token, clock.now), Principal)
    provider.lie = "hang"
    assert isinstance(await identity.identify(globex, token, clock.now), Deny)
    assert isinstance(identity.identify_now(acme, token, clock.now), Principal)
