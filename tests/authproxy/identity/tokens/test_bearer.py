"""Identity by bearer token: caches that change nothing, reloads, tenants, service accounts, keys that cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authproxy.identity.providers import accounts
from authproxy.identity.providers.keys import MISSING, Candidates, KeySet, Missing, Unavailable, signing_key
from authproxy.identity.providers.trust import TrustStore
from authproxy.identity.tokens import token_cache
from authproxy.identity.tokens.bearer import BearerIdentity
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.principal import Principal
from policies.tables import TenantTable
from tests.contracts.identity_source import IdentitySourceContract, World
from tests.fakes.identity import Clock, CountingMetrics, a_provider, a_request, a_tenant, an_account, an_identity
from tests.fakes.provider import FakeProvider, Key, compact


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        running.now = clock
        yield running


@pytest.fixture
async def identity(clock: Clock, tmp_path: Path) -> AsyncIterator[BearerIdentity]:
    made = an_identity(clock, tmp_path)
    yield made
    await made.close()


@pytest.fixture
def tenant(provider: FakeProvider) -> TenantTable:
    return a_tenant("acme", a_provider(provider.issuer))


class TestContract(IdentitySourceContract):
    """Bearer tokens keep the contract of every source."""

    @pytest.fixture
    def world(self, identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock) -> World:
        bad = ["x", "a.b.c", provider.mint(ttl_s=-1), provider.mint(aud="other"), provider.mint(key=Key("k1", "EC", 9))]
        return World(
            identity,
            tenant,
            a_tenant("globex", a_provider("https://globex.example")),
            a_request(),
            a_request(provider.mint()),
            "login|ana",
            [a_request(token) for token in bad] + [a_request(authorization=b"Basic YTpi")],
            clock.now,
        )


def outcome(answer: Principal | Refusal | None) -> object:
    """What a caller can tell apart."""
    return (answer.subject, answer.groups, answer.expires_at) if isinstance(answer, Principal) else answer


async def test_a_token_seen_before_is_answered_at_once(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """The second look verifies nothing and gives the very same caller; one fetch served both."""
    request = a_request(provider.mint(groups=["analysts"]))
    assert identity.identify_now(tenant, request, clock.now) is None
    assert identity.known_now(tenant, request, clock.now) is None
    first = await identity.identify(tenant, request, clock.now)
    assert identity.known_now(tenant, request, clock.now) is not None
    assert identity.identify_now(tenant, request, clock.now) is first
    assert identity.known_now(tenant, request, clock.now) is first
    other = identity.identify_now(tenant, a_request(provider.mint("bob")), clock.now)
    assert isinstance(other, Principal)
    assert provider.requests == {"discovery": 1, "jwks": 1}


async def test_no_credential_needs_no_verification(identity: BearerIdentity, tenant: TenantTable, clock: Clock) -> None:
    """One anonymous caller a tenant; a cookie is not a credential here; nothing for the gate to hold back."""
    nobody = identity.identify_now(tenant, a_request(), clock.now)
    assert nobody is identity.identify_now(tenant, a_request(cookie=b"a=b"), clock.now)
    assert nobody is not identity.identify_now(a_tenant("globex"), a_request(), clock.now)
    assert identity.known_now(tenant, a_request(), clock.now) is not None


async def test_a_cached_token_dies_at_its_expiry(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """R18: exp is looked at on every hit."""
    request = a_request(provider.mint(ttl_s=60))
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    clock.pass_s(59.9)
    assert isinstance(identity.identify_now(tenant, request, clock.now), Principal)
    clock.pass_s(0.2)
    assert identity.known_now(tenant, request, clock.now) is None
    assert isinstance(identity.identify_now(tenant, request, clock.now), Challenge)


async def test_a_cached_token_dies_with_its_key(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A key removed at the provider is gone within the soft lifetime, also for tokens in the cache."""
    request = a_request(provider.mint(ttl_s=3600))
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    provider.keys = [Key("k2", "EC", 2)]
    clock.pass_s(301)
    identity.identify_now(tenant, request, clock.now)  # starts the refresh behind
    await until(lambda: provider.requests["jwks"] == 2)
    refusal = await identity.identify(tenant, request, clock.now)
    assert isinstance(refusal, Challenge)
    assert isinstance(await identity.identify(tenant, a_request(provider.mint()), clock.now), Principal)


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  what is waited for is a task of the code under test
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)


async def test_revocation_makes_every_token_new(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A new epoch voids what was verified before it."""
    request = a_request(provider.mint())
    first = await identity.identify(tenant, request, clock.now)
    identity.revoke_all()
    assert identity.known_now(tenant, request, clock.now) is None
    assert identity.identify_now(tenant, request, clock.now) is not first


@pytest.mark.parametrize(
    "change",
    [
        {"audiences": frozenset({"other"})},
        {"algorithms": frozenset({"RS256"})},
        {"tenant_claim": "organization"},
        {"max_token_lifetime_s": 60.0},
    ],
    ids=repr,
)
async def test_a_reload_with_other_terms_voids_cached_tokens(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock, change: dict[str, Any]
) -> None:
    """What was verified under one provider spec says nothing under another."""
    request = a_request(provider.mint())
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    stricter = a_tenant("acme", replace(tenant.providers[0], **change))
    assert identity.known_now(stricter, request, clock.now) is None
    assert isinstance(await identity.identify(stricter, request, clock.now), Challenge | Deny)


async def test_a_reload_with_kinder_terms_voids_remembered_refusals(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """An operator who adds an audience sees it work at once."""
    request = a_request(provider.mint(aud="other"))
    for _ in range(2):
        assert isinstance(await identity.identify(tenant, request, clock.now), Challenge)
    kinder = a_tenant("acme", replace(tenant.providers[0], audiences=frozenset({"survey", "other"})))
    assert isinstance(identity.identify_now(kinder, request, clock.now), Principal)


async def test_a_clock_that_jumps_back_makes_no_hit_of_a_miss(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A11: a token that would be from the future is refused from the cache too."""
    request = a_request(provider.mint())
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    clock.pass_s(-20)
    assert isinstance(identity.identify_now(tenant, request, clock.now), Principal)
    clock.pass_s(-11)
    assert isinstance(identity.identify_now(tenant, request, clock.now), Challenge)


async def test_a_reload_with_equal_terms_keeps_cached_tokens(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """An unrelated change of policy costs nobody a verification, and no fetch."""
    request = a_request(provider.mint())
    first = await identity.identify(tenant, request, clock.now)
    reloaded = a_tenant("acme", a_provider(provider.issuer), a_provider("https://new.example", name="new"))
    assert identity.identify_now(reloaded, request, clock.now) is first
    moved = a_tenant("acme", a_provider(provider.issuer, where="acme.yaml:9"))
    assert isinstance(identity.identify_now(moved, request, clock.now), Principal)
    assert provider.requests["jwks"] == 1


async def test_a_removed_provider_is_gone_at_once(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """Its cached tokens are 401 in the next request."""
    request = a_request(provider.mint())
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    assert isinstance(identity.identify_now(a_tenant("acme"), request, clock.now), Challenge)


async def test_the_same_token_is_two_tokens_in_two_tenants(
    identity: BearerIdentity, provider: FakeProvider, clock: Clock
) -> None:
    """R17: one shared issuer, each tenant on its own terms, whichever asks first."""
    acme = a_tenant("acme", a_provider(provider.issuer, tenant_claim="organization"))
    globex = a_tenant("globex", a_provider(provider.issuer, tenant_claim="organization", name="sso"))
    request = a_request(provider.mint(organization=["acme"]))
    for _ in range(2):
        caller = await identity.identify(acme, request, clock.now)
        assert isinstance(caller, Principal)
        refusal = await identity.identify(globex, request, clock.now)
        assert isinstance(refusal, Deny)
        assert refusal.reason is Reason.TENANT_MISMATCH
    both = a_request(provider.mint(organization=["acme", "globex"]))
    ours = await identity.identify(acme, both, clock.now)
    theirs = await identity.identify(globex, both, clock.now)
    assert isinstance(ours, Principal)
    assert isinstance(theirs, Principal)
    assert (ours.subject, theirs.subject) == ("login|ana", "sso|ana")
    assert identity.identify_now(acme, both, clock.now) is ours
    assert identity.identify_now(globex, both, clock.now) is theirs


async def test_keys_that_cannot_be_had_are_503(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """R36: never "skip the signature"; the next attempt waits, and the caller is told how long."""
    provider.is_down = True
    request = a_request(provider.mint())
    refusal = await identity.identify(tenant, request, clock.now)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.KEYS_UNAVAILABLE
    assert refusal.retry_after_s == 10
    assert identity.identify_now(tenant, request, clock.now + 4) == replace(refusal, retry_after_s=6)
    assert provider.requests["discovery"] == 1
    provider.is_down = False
    clock.pass_s(10)
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)


async def test_a_token_refused_for_its_key_is_good_once_the_key_is_known(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A refusal is remembered only for as long as the keys it was given under are in use."""
    assert isinstance(await identity.identify(tenant, a_request(provider.mint()), clock.now), Principal)
    new = Key("k1", "EC", 3)  # the same kid with another key, which no provider should do and some have done
    early = a_request(provider.mint(key=new))
    for _ in range(3):
        assert isinstance(identity.identify_now(tenant, early, clock.now), Challenge)
    provider.keys = [new]
    clock.pass_s(301)
    identity.identify_now(tenant, early, clock.now)
    await until(lambda: provider.requests["jwks"] == 2)
    late = a_request(provider.mint(key=new))
    assert isinstance(await identity.identify(tenant, late, clock.now), Principal)
    assert isinstance(await identity.identify(tenant, early, clock.now), Principal)


async def test_a_token_that_only_has_to_wait_is_not_remembered(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A token for the near future: refused now, good when its time has come."""
    request = a_request(provider.mint(nbf=clock.now + 33))
    assert isinstance(await identity.identify(tenant, request, clock.now), Challenge)
    assert isinstance(identity.identify_now(tenant, request, clock.now + 4), Principal)


async def test_caches_are_bounded_and_counted(provider: FakeProvider, tenant: TenantTable, clock: Clock) -> None:
    """Least recently used goes first; hits, misses and forgeries are told apart."""
    metrics = CountingMetrics()
    identity = an_identity(clock, max_tokens=3, metrics=metrics)
    requests = [a_request(provider.mint(f"u{number}")) for number in range(4)]
    for request in requests[:3]:
        await identity.identify(tenant, request, clock.now)
    identity.identify_now(tenant, requests[0], clock.now)
    identity.identify_now(tenant, requests[3], clock.now)
    assert metrics.token_cache_total.counts == {("hit",): 1, ("miss",): 4}
    assert [identity.known_now(tenant, request, clock.now) is not None for request in requests] == [
        True,
        False,
        True,
        True,
    ]
    metrics.token_cache_total.counts.clear()
    forged = a_request(provider.mint(key=Key("k1", "EC", 9)))
    for _ in range(3):
        identity.identify_now(tenant, forged, clock.now)
    assert metrics.token_cache_total.counts == {("miss",): 1, ("forged",): 2}
    assert metrics.jwks_fetches_total.counts == {("acme", "login", "ok"): 1}
    await identity.close()


async def test_groups_that_cannot_be_used_are_counted(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """The caller is named without groups, and operators can see why."""
    caller = await identity.identify(tenant, a_request(provider.mint(groups={"admin": True})), clock.now)
    assert isinstance(caller, Principal)
    assert caller.groups == frozenset()
    assert identity.unusable_groups == 1


# --- service accounts ----------------------------------------------------------------------------------------------


def account_token(key: Key, clock: Clock, alg: str | None = None, **changes: Any) -> str:
    claims = {"iss": "acme/survey-ci", "sub": "survey-ci", "aud": "survey", "iat": clock.now, "exp": clock.now + 600}
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return compact({"typ": "JWT", "alg": alg or key.alg}, claims, key, alg)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "acme"
    made.mkdir()
    return made


async def test_what_is_kept_of_claims_is_bounded(
    identity: BearerIdentity, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account writes its claims itself, and six KiB of empty lists take 120 in memory: few such are kept."""
    monkeypatch.setattr(token_cache, "MAX_CLAIMS_BYTES", 12_000)
    key = Key(None)
    (folder / "survey-ci.pem").write_bytes(key.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(),))
    tokens = [account_token(key, clock, jti=str(number), x=[[]] * 1300) for number in range(5)]
    for token in [*tokens, tokens[4], account_token(key, clock)]:
        assert isinstance(await identity.identify(tenant, a_request(token), clock.now), Principal)
    kept = [identity.known_now(tenant, a_request(token), clock.now) is not None for token in tokens]
    assert kept == [False, False, False, True, True]
    clock.pass_s(601)
    assert not any(identity.known_now(tenant, a_request(token), clock.now) for token in tokens)
    again = [account_token(key, clock, jti=str(number), x=[[]] * 600) for number in range(5)]
    for token in again:
        await identity.identify(tenant, a_request(token), clock.now)
    assert sum(identity.known_now(tenant, a_request(token), clock.now) is not None for token in again) > 3


@pytest.mark.parametrize("kind", ["RSA", "EC", "EC384", "EC521", "Ed25519"])
async def test_a_service_account_signs_with_its_own_key(
    identity: BearerIdentity, folder: Path, clock: Clock, kind: Any
) -> None:
    """RSA as Dispatch had it, and better ones."""
    key = Key(None, kind)
    (folder / "survey-ci.pem").write_bytes(key.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(),))
    request = a_request(account_token(key, clock))
    caller = await identity.identify(tenant, request, clock.now)
    assert isinstance(caller, Principal)
    assert (caller.subject, caller.groups) == ("service-account|survey-ci", frozenset({"ci"}))
    assert identity.identify_now(tenant, request, clock.now) is caller


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512"])
async def test_dispatchs_tokens_are_accepted_with_leave(
    identity: BearerIdentity, folder: Path, clock: Clock, alg: str
) -> None:
    """``iss: <tenant>/<name>``, no sub, no aud, iat a minute back, an hour long."""
    key = Key(None, "RSA")
    (folder / "survey-ci.pem").write_bytes(key.public_pem())
    token = account_token(key, clock, alg, sub=None, aud=None, iat=clock.now - 60, exp=clock.now + 3540)
    legacy = a_tenant("acme", accounts=(an_account(allows_missing_audience=True),))
    assert isinstance(await identity.identify(legacy, a_request(token), clock.now), Principal)
    assert isinstance(
        await identity.identify(a_tenant("acme", accounts=(an_account(),)), a_request(token), clock.now), Challenge
    )


async def test_a_service_account_of_another_tenant_is_an_unknown_issuer(
    identity: BearerIdentity, folder: Path, clock: Clock
) -> None:
    """The tenant in iss must be the host's, also where both have an account of that name with that key."""
    key = Key(None)
    (folder / "survey-ci.pem").write_bytes(key.public_pem())
    (folder.parent / "globex").mkdir()
    (folder.parent / "globex" / "survey-ci.pem").write_bytes(key.public_pem())
    request = a_request(account_token(key, clock))
    for name, kind in (("acme", Principal), ("globex", Challenge), ("acme", Principal)):
        tenant = a_tenant(name, accounts=(an_account(),))
        assert isinstance(await identity.identify(tenant, request, clock.now), kind)


async def test_an_account_may_have_two_keys_while_it_changes(
    identity: BearerIdentity, folder: Path, clock: Clock
) -> None:
    """Both are tried, whatever kid the token has; a third is refused."""
    old, new, third = (Key("any", "RSA", number) for number in range(3))
    (folder / "old.pem").write_bytes(old.public_pem())
    (folder / "new.pem").write_bytes(new.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(public_keys=("old.pem", "new.pem")),))
    for key, kind in ((old, Principal), (new, Principal), (third, Challenge)):
        assert isinstance(await identity.identify(tenant, a_request(account_token(key, clock)), clock.now), kind)


async def test_taking_the_key_file_away_revokes_the_account(
    identity: BearerIdentity, folder: Path, clock: Clock
) -> None:
    """No "last good" for files: within seconds cached tokens are refused too."""
    key = Key(None)
    file = folder / "survey-ci.pem"
    file.write_bytes(key.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(),))
    request = a_request(account_token(key, clock))
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    file.unlink()
    clock.pass_s(11)
    identity.identify_now(tenant, request, clock.now)
    async with asyncio.timeout(20):  # the file is read in a thread
        while isinstance(refusal := await identity.identify(tenant, request, clock.now), Principal):  # noqa: ASYNC110  # as said
            await asyncio.sleep(0.005)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.KEYS_UNAVAILABLE


@pytest.mark.parametrize("is_cached", [True, False], ids=["seen before", "new"])
async def test_a_key_taken_away_while_nobody_called_is_not_used_once_more(
    identity: BearerIdentity, folder: Path, clock: Clock, is_cached: bool
) -> None:
    """After a minute without callers the file is looked at first, by whoever is the first to call again."""
    key = Key(None)
    file = folder / "survey-ci.pem"
    file.write_bytes(key.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(),))
    request = a_request(account_token(key, clock))
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)
    file.unlink()
    clock.pass_s(61)
    again = request if is_cached else a_request(account_token(key, clock))
    assert identity.identify_now(tenant, again, clock.now) is None
    assert identity.known_now(tenant, again, clock.now) is None
    refusal = await identity.identify(tenant, again, clock.now)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.KEYS_UNAVAILABLE


async def test_a_folder_that_does_not_answer_lets_no_account_in(
    identity: BearerIdentity, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of before are not used in place of those that could not be read in time."""
    key = Key(None)
    (folder / "survey-ci.pem").write_bytes(key.public_pem())
    tenant = a_tenant("acme", accounts=(an_account(),))
    request = a_request(account_token(key, clock))
    assert isinstance(await identity.identify(tenant, request, clock.now), Principal)

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "to_thread", never)
    monkeypatch.setattr(accounts, "RECHECK_S", 0.05)
    clock.pass_s(61)
    refusal = await identity.identify(tenant, request, clock.now)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.KEYS_UNAVAILABLE


# --- the cache changes nothing -------------------------------------------------------------------------------------

KEYS = [Key(f"k{number % 2}", "EC", number) for number in range(4)] + [Key(None, "EC", 4)]
SPECS = [
    a_provider(),
    a_provider(audiences=frozenset({"other", "survey"})),
    a_provider(audiences=frozenset({"other"})),
    a_provider(tenant_claim="organization"),
]


class Source:
    """A ``KeySource`` whose keys the test sets."""

    def __init__(self) -> None:
        self.keys: KeySet | None = None

    def current(self, now: float) -> KeySet | None:
        return self.keys

    def key_now(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable | None:
        return Unavailable(10) if self.keys is None else self.keys.choose(kid, algorithm) or MISSING

    async def key(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing."""


def key_set(numbers: frozenset[int]) -> KeySet | None:
    """None where these keys make no set."""
    made = [signing_key(KEYS[number].private.public_key(), KEYS[number].kid) for number in sorted(numbers)]
    kids = [key.kid for key in made if key is not None and key.kid is not None]
    if not made or len(set(kids)) != len(kids):
        return None
    return KeySet.of(key for key in made if key is not None)


TOKENS = [
    compact(
        {"alg": "ES256", **({"kid": key.kid} if key.kid else {})},
        {"iss": "https://id.example", "sub": sub, "aud": aud, "exp": exp, "nbf": nbf, "organization": organization},
        key,
    )
    for key in KEYS
    for sub, aud, exp, nbf, organization in (
        ("ana", "survey", 1000, 0, "acme"),
        ("bob", ["other"], 500, 100, "globex"),
        ("eve", "survey", 87_100, 0, ["acme", "globex"]),
    )
]

events = st.one_of(
    st.tuples(st.just("look"), st.integers(0, len(TOKENS) - 1)),
    st.tuples(st.just("look"), st.integers(0, len(TOKENS) - 1)),
    st.tuples(st.just("time"), st.sampled_from([-50.0, 1.0, 8.0, 60.0, 300.0])),
    st.tuples(st.just("keys"), st.frozensets(st.integers(0, len(KEYS) - 1), max_size=3)),
    st.tuples(st.just("spec"), st.integers(0, len(SPECS) - 1)),
    st.tuples(st.just("epoch"), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=40))
def test_a_hit_is_worth_exactly_what_a_miss_is(history: list[tuple[str, Any]]) -> None:
    """R18, A11: whatever happened before, a cache that is full and one that is empty give the same answer."""
    clock, source = Clock(10.0), Source()
    source.keys = key_set(frozenset({0, 1}))
    trust = TrustStore(lambda tenant, spec: source, lambda tenant, spec: source)
    cached, empty = (an_identity(clock) for _ in range(2))
    for identity in (cached, empty):
        identity._trust = identity._tokens._trust = trust
    tenant = a_tenant("acme", SPECS[0])
    for what, value in history:
        match what:
            case "time":
                clock.pass_s(value)
            case "keys":
                source.keys = key_set(value)
            case "spec":
                tenant = a_tenant("acme", SPECS[value])
            case "epoch":
                cached.revoke_all()
            case _:
                request = a_request(TOKENS[value])
                empty._tokens.clear()
                expected = outcome(empty.identify_now(tenant, request, clock.now))
                assert outcome(cached.identify_now(tenant, request, clock.now)) == expected
                assert outcome(cached.identify_now(tenant, request, clock.now)) == expected
