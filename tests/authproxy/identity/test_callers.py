"""One source over all: each credential has one judge, and whoever is named by it is asked for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authproxy.identity.caller_sources import KeySource, OwnTokenSource, RevocationsSeen, SessionSource
from authproxy.identity.providers.oidc import OidcClient
from authproxy.identity.sessions.sessions import Sessions
from authproxy.identity.shared.revocations import Revocations
from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.tokens.api_keys import ApiKeys
from authproxy.identity.tokens.introspection import IntrospectionClient
from authproxy.identity.tokens.own_tokens import OwnTokens, issuer_of
from authproxy.identity.tokens.userinfo import UserInfoClient
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.errors import ProviderUnavailable
from policies.peers import TrustedPeers
from policies.principal import Principal
from policies.request import AccessRequest, HeadMemo, read_head
from policies.tables import ClientSpec, GroupsSpec, IntrospectionSpec, ProviderSpec, TenantTable
from tests.contracts.identity_source import IdentitySourceContract, World
from tests.fakes.callers import BrokenState, Parts, active, an_own_principal, as_any
from tests.fakes.identity import Clock, a_provider, a_request, a_tenant
from tests.fakes.proofs import a_proof, jkt_of, showing
from tests.fakes.provider import FakeProvider, Key, b64, compact
from tests.fakes.tenancy import NOBODY, a_head

SESSION = b"__Host-portero-session=x"


def _are_what_callers_asks() -> None:
    """Checked by types alone: the real parts fit the seams."""
    _sessions: SessionSource = cast("Sessions", None)
    _keys: KeySource = cast("ApiKeys", None)
    _tokens: OwnTokenSource = cast("OwnTokens", None)
    _revocations: RevocationsSeen = cast("Revocations", None)
    _introspection: IntrospectionClient = cast("OidcClient", None)
    _userinfo: UserInfoClient = cast("OidcClient", None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        running.now = clock
        yield running


@pytest.fixture
async def parts(clock: Clock) -> AsyncIterator[Parts]:
    made = Parts(clock)
    yield made
    await made.callers.close()


def asked(issuer: str, **changes: Any) -> ProviderSpec:
    spec = IntrospectionSpec(ClientSpec("portero", "client_secret_basic", "acme-client"))
    return a_provider(issuer, introspection=spec, **changes)


@pytest.fixture
def tenant(provider: FakeProvider) -> TenantTable:
    return a_tenant("acme", asked(provider.issuer))


def bearer(token: str, **changes: Any) -> AccessRequest:
    return showing(token, None, "Bearer", **changes)


def is_invalid(answer: Principal | Refusal | None) -> bool:
    return isinstance(answer, Challenge) and answer.reason is Reason.CREDENTIAL_INVALID and answer.tenant == "acme"


class TestContract(IdentitySourceContract):
    """All sources together keep the contract of each."""

    @pytest.fixture(params=["signed", "opaque", "api-key", "session", "dpop"])
    def world(
        self, request: pytest.FixtureRequest, parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
    ) -> World:
        parts.client.answers["opaque"] = active(clock.now)
        parts.sessions.people[SESSION] = an_own_principal()
        bad = ["x", "a.b.c", "ptr_bad", "ptr_", provider.mint(ttl_s=-1), provider.mint(key=Key("k1", "EC", 9))]
        jwt = provider.mint(cnf={"jkt": jkt_of()})
        good = {
            "signed": bearer(provider.mint()),
            "opaque": bearer("opaque"),
            "api-key": bearer("ptr_good"),
            "session": a_request(cookie=SESSION),
            "dpop": showing(jwt, a_proof(jwt, clock.now)),
        }[request.param]
        other = a_tenant("globex", a_provider("https://globex.example"))
        if request.param in {"api-key", "session"}:
            pytest.skip("the stand-ins know one tenant") if request.node.name.startswith(
                "test_a_credential_is"
            ) else None
        return World(
            parts.callers,
            tenant,
            other,
            a_request(),
            good,
            "api-key|reporting" if request.param == "api-key" else "login|ana",
            [*map(bearer, bad), showing("opaque", None), showing("ptr_good", None), bearer(jwt)],
            clock.now,
        )


async def test_authorization_wins_over_a_session(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """Design section 5: a good one names the caller, a bad one is refused, and the cookie is not looked at."""
    parts.sessions.people[SESSION] = Principal("login", "from-session")
    good = bearer(provider.mint(), cookie=SESSION)
    named = await parts.callers.identify(tenant, good, clock.now)
    assert isinstance(named, Principal)
    assert named.sub == "ana"
    for credential in (b"", b"Basic YTpi", b"Bearer x", b"Bearer a.b.c"):
        request = a_request(authorization=credential, cookie=SESSION)
        assert is_invalid(await parts.callers.identify(tenant, request, clock.now))
    assert parts.sessions.asked == 0


async def test_a_session_names_the_caller_where_there_is_no_credential(
    parts: Parts, tenant: TenantTable, clock: Clock
) -> None:
    """By cookie; other cookies are nobody's, and what sessions refuse is refused."""
    ana = parts.sessions.people[SESSION] = Principal("login", "ana")
    request = a_request(cookie=SESSION)
    assert parts.callers.known_now(tenant, request, clock.now) is ana
    assert parts.callers.identify_now(tenant, request, clock.now) is ana
    assert await parts.callers.identify(tenant, request, clock.now) is ana
    for other in (None, b"", b"a=b"):
        nobody = parts.callers.known_now(tenant, a_request(cookie=other), clock.now)
        assert isinstance(nobody, Principal)
        assert nobody.is_anonymous
    parts.sessions.people.clear()
    refusal = await parts.callers.identify(tenant, request, clock.now)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.SESSION_STORE_UNAVAILABLE


async def test_each_credential_is_shown_to_one_judge(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A key of ours, a signed token, good or bad, and a token of ours are never shown to a provider."""
    own = compact({"alg": "ES256", "typ": "at+jwt", "kid": "k"}, {"iss": issuer_of("acme")}, Key("k", "EC", 3))
    other = compact({"alg": "ES256", "typ": "at+jwt", "kid": "k"}, {"iss": issuer_of("globex")}, Key("k", "EC", 3))
    for token in ("ptr_bad", provider.mint(ttl_s=-1), own, other, compact({"alg": "none"}, {}, Key("k"))):
        assert is_invalid(await parts.callers.identify(tenant, bearer(token), clock.now))
    assert parts.client.asked == []
    assert parts.own_tokens.judged == [own, other]
    assert is_invalid(await parts.callers.identify(tenant, bearer("opaque"), clock.now))
    assert parts.client.asked == ["opaque"]
    without = a_tenant("acme", a_provider(provider.issuer))
    assert is_invalid(await parts.callers.identify(without, bearer("opaque"), clock.now))
    assert is_invalid(await parts.callers.identify(without, bearer("ptr_bad"), clock.now))
    assert parts.client.asked == ["opaque"]


async def test_a_token_of_ours_names_its_caller(parts: Parts, tenant: TenantTable, clock: Clock) -> None:
    """Judged by who gave it out, without any I/O; bound as its original was."""
    own = compact({"alg": "ES256", "typ": "at+jwt"}, {"iss": issuer_of("acme")}, Key("k", "EC", 3))
    parts.own_tokens.people[own] = an_own_principal
    found = parts.callers.identify_now(tenant, bearer(own), clock.now)
    assert isinstance(found, Principal)
    assert found.only_function == "survey-report"
    parts.own_tokens.people[own] = lambda: an_own_principal(jkt=jkt_of())
    assert is_invalid(parts.callers.identify_now(tenant, bearer(own), clock.now))
    assert isinstance(await parts.callers.identify(tenant, showing(own, a_proof(own, clock.now)), clock.now), Principal)


async def test_a_token_of_ours_waits_for_the_file_of_keys(parts: Parts, tenant: TenantTable, clock: Clock) -> None:
    """It is being read at the moment: that is no refusal yet, and none for ever."""
    own = compact({"alg": "ES256", "typ": "at+jwt"}, {"iss": issuer_of("acme")}, Key("k", "EC", 3))
    answers: list[Principal | Refusal] = [*[Deny(Reason.KEYS_UNAVAILABLE)] * 3, an_own_principal()]
    parts.own_tokens.people[own] = lambda: answers.pop(0)
    assert parts.callers.identify_now(tenant, bearer(own), clock.now) is None
    assert isinstance(await parts.callers.identify(tenant, bearer(own), clock.now), Principal)
    parts.own_tokens.people[own] = lambda: Deny(Reason.KEYS_UNAVAILABLE)
    assert isinstance(await parts.callers.identify(tenant, bearer(own), clock.now), Deny)


# -- bound tokens ----------------------------------------------------------------------------------------------------


async def test_a_bound_token_wants_a_new_proof_with_every_request(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """AP-R37: that the token was seen before proves nothing about who shows it now."""
    token = provider.mint(cnf={"jkt": jkt_of()})
    first = showing(token, a_proof(token, clock.now))
    ana = await parts.callers.identify(tenant, first, clock.now)
    assert isinstance(ana, Principal)
    assert parts.callers.known_now(tenant, first, clock.now) is ana, "the same request again: it was held"
    replayed = showing(token, a_proof(token, clock.now))
    for thief in (
        replayed,
        showing(token, None),
        showing(token, b"x"),
        bearer(token),
        bearer(token)._replace(dpop=first.dpop),
    ):
        assert parts.callers.known_now(tenant, thief, clock.now) is None
        assert not isinstance(parts.callers.identify_now(tenant, thief, clock.now), Principal)
        refusal = await parts.callers.identify(tenant, thief, clock.now)
        assert is_invalid(refusal)
        assert isinstance(refusal, Challenge)
        assert refusal.scheme == "DPoP"
    again = showing(token, a_proof(token, clock.now, jti="next"))
    assert await parts.callers.identify(tenant, again, clock.now) is ana


async def test_a_store_that_is_down_refuses_proofs_and_nothing_else(
    provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """AP-R26, R50: whoever can stop the store must not be able to replay; other callers go on."""
    parts = Parts(clock, state=BrokenState())
    token = provider.mint(cnf={"jkt": jkt_of()})
    refusal = await parts.callers.identify(tenant, showing(token, a_proof(token, clock.now)), clock.now)
    assert isinstance(refusal, Deny)
    assert (refusal.reason, refusal.tenant) == (Reason.SESSION_STORE_UNAVAILABLE, "acme")
    assert is_invalid(await parts.callers.identify(tenant, showing(token, b"x"), clock.now))
    assert isinstance(await parts.callers.identify(tenant, bearer(provider.mint()), clock.now), Principal)
    await parts.callers.close()


async def test_a_token_of_a_certificate_wants_it_with_every_request(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """RFC 8705: also from the token cache."""
    digest = sha256(b"certificate").digest()
    token = provider.mint(cnf={"x5t#S256": b64(digest)})
    assert isinstance(await parts.callers.identify(tenant, bearer(token, certificate=digest), clock.now), Principal)
    assert isinstance(parts.callers.known_now(tenant, bearer(token, certificate=digest), clock.now), Principal)
    for other in (None, sha256(b"other").digest()):
        assert parts.callers.known_now(tenant, bearer(token, certificate=other), clock.now) is None
        assert is_invalid(parts.callers.identify_now(tenant, bearer(token, certificate=other), clock.now))
        assert is_invalid(await parts.callers.identify(tenant, bearer(token, certificate=other), clock.now))


async def test_a_provider_may_demand_bound_tokens(parts: Parts, provider: FakeProvider, clock: Clock) -> None:
    """``bound_tokens: require``: a plain token is refused, signed or opaque."""
    tenant = a_tenant("acme", asked(provider.issuer, requires_bound_tokens=True))
    parts.client.answers["opaque"] = active(clock.now)
    for token in (provider.mint(), "opaque"):
        assert is_invalid(await parts.callers.identify(tenant, bearer(token), clock.now))
    token = provider.mint(cnf={"jkt": jkt_of()})
    assert isinstance(
        await parts.callers.identify(tenant, showing(token, a_proof(token, clock.now)), clock.now), Principal
    )


async def test_an_opaque_token_is_bound_as_its_provider_says(parts: Parts, tenant: TenantTable, clock: Clock) -> None:
    """RFC 9449 section 6.2: a hit wants a proof as a miss does."""
    parts.client.answers["opaque"] = active(clock.now, token_type="DPoP", cnf={"jkt": jkt_of()})
    for jti in ("one", "two"):
        request = showing("opaque", a_proof("opaque", clock.now, jti=jti))
        assert isinstance(await parts.callers.identify(tenant, request, clock.now), Principal)
        assert is_invalid(await parts.callers.identify(tenant, bearer("opaque"), clock.now))
        assert parts.callers.known_now(tenant, bearer("opaque"), clock.now) is None
    assert parts.client.asked == ["opaque"] * 2, "once for each scheme that it was shown by"


# -- logouts ---------------------------------------------------------------------------------------------------------


async def test_a_logout_reaches_tokens_that_are_known(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """By subject, for tokens issued before it; a token of a later login is good."""
    old = bearer(provider.mint(iat=clock.now - 60))
    assert isinstance(await parts.callers.identify(tenant, old, clock.now), Principal)
    bob = bearer(provider.mint("bob", iat=clock.now - 60))
    assert isinstance(await parts.callers.identify(tenant, bob, clock.now), Principal)
    await parts.revocations.revoke_subject("acme", provider.issuer, "ana", clock.now, clock.now + 86_400)
    assert parts.callers.known_now(tenant, old, clock.now) is None
    assert is_invalid(parts.callers.identify_now(tenant, old, clock.now))
    assert is_invalid(await parts.callers.identify(tenant, old, clock.now))
    assert isinstance(parts.callers.known_now(tenant, bob, clock.now), Principal)
    clock.pass_s(30)
    new = bearer(provider.mint(iat=clock.now))
    assert isinstance(await parts.callers.identify(tenant, new, clock.now), Principal)


async def test_a_logout_of_one_session_ends_its_tokens_alone(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """By ``sid``, signed, opaque and our own."""
    own = compact({"alg": "ES256", "typ": "at+jwt"}, {"iss": issuer_of("acme")}, Key("k", "EC", 3))

    def copy() -> Principal:
        principal = an_own_principal()
        principal.issuer, principal.sid, principal.issued_at = provider.issuer, "s1", clock.now - 60
        return principal

    parts.own_tokens.people[own] = copy
    parts.client.answers["opaque"] = active(clock.now, sid="s1", iat=clock.now - 60)
    tokens = [provider.mint(sid="s1", iat=clock.now - 60), "opaque", own]
    other = bearer(provider.mint(sid="s2", iat=clock.now - 60))
    for request in (*map(bearer, tokens), other):
        assert isinstance(await parts.callers.identify(tenant, request, clock.now), Principal)
    await parts.revocations.revoke_sid("acme", provider.issuer, "s1", clock.now, clock.now + 86_400)
    for token in tokens:
        assert parts.callers.known_now(tenant, bearer(token), clock.now) is None
        assert is_invalid(await parts.callers.identify(tenant, bearer(token), clock.now))
    assert isinstance(await parts.callers.identify(tenant, other, clock.now), Principal)


async def test_a_logout_in_one_tenant_is_none_in_another(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """One tenant's provider, or operator, ends nothing of another's."""
    other = a_tenant("globex", *tenant.providers)
    request = bearer(provider.mint(iat=clock.now - 60))
    assert isinstance(await parts.callers.identify(other, request, clock.now), Principal)
    await parts.revocations.revoke_subject("acme", provider.issuer, "ana", clock.now, clock.now + 86_400)
    assert isinstance(await parts.callers.identify(other, request, clock.now), Principal)
    assert is_invalid(await parts.callers.identify(tenant, request, clock.now))


async def test_the_usual_caller_is_asked_about_once_a_logout(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hot path: between two logouts, whoever was seen is compared with a number and nothing else."""
    request = bearer(provider.mint())
    ana = await parts.callers.identify(tenant, request, clock.now)
    assert parts.callers.known_now(tenant, request, clock.now) is ana
    looks = 0

    def look(*_args: object, **_kwargs: object) -> bool:
        nonlocal looks
        looks += 1
        return False

    monkeypatch.setattr(parts.revocations, "is_revoked", look)
    for _ in range(5):
        assert parts.callers.known_now(tenant, request, clock.now) is ana
    assert looks == 0
    parts.revocations.generation += 1
    for _ in range(5):
        assert parts.callers.known_now(tenant, request, clock.now) is ana
    assert looks == 1


# -- groups ----------------------------------------------------------------------------------------------------------


async def test_groups_come_from_userinfo_where_policy_says_so(
    parts: Parts, provider: FakeProvider, clock: Clock
) -> None:
    """The token's own are not believed; a hit has the same groups as a miss."""
    tenant = a_tenant("acme", asked(provider.issuer, groups=GroupsSpec(source="userinfo")))
    token = provider.mint(groups=["admins"], ttl_s=3600)
    parts.client.answers[token] = {"sub": "ana", "groups": ["analysts"]}
    request = bearer(token)
    assert parts.callers.identify_now(tenant, request, clock.now) is None
    ana = await parts.callers.identify(tenant, request, clock.now)
    assert isinstance(ana, Principal)
    assert ana.groups == frozenset({"analysts"})
    assert parts.callers.known_now(tenant, request, clock.now) is ana
    assert parts.callers.known_now(tenant, request, clock.pass_s(901)) is None
    parts.client.answers[token] = ProviderUnavailable("no")
    assert parts.callers.identify_now(tenant, request, clock.now) is None
    refusal = await parts.callers.identify(tenant, request, clock.now)
    assert isinstance(refusal, Deny)
    assert refusal.reason is Reason.PROVIDER_UNAVAILABLE


async def test_a_thief_of_a_bound_token_makes_nobody_ask_for_groups(
    parts: Parts, provider: FakeProvider, clock: Clock
) -> None:
    """Possession first."""
    tenant = a_tenant("acme", asked(provider.issuer, groups=GroupsSpec(source="userinfo")))
    token = provider.mint(cnf={"jkt": jkt_of()})
    assert is_invalid(await parts.callers.identify(tenant, showing(token, b"x"), clock.now))
    assert is_invalid(await parts.callers.identify(tenant, bearer(token), clock.now))
    assert parts.client.asked == []


async def test_a_logout_while_userinfo_is_asked_is_seen(parts: Parts, provider: FakeProvider, clock: Clock) -> None:
    """What was true before the wait need not be true after it."""
    tenant = a_tenant("acme", asked(provider.issuer, groups=GroupsSpec(source="userinfo")))
    request = bearer(provider.mint(iat=clock.now - 60))
    parts.client.opened.clear()
    waiting = asyncio.create_task(parts.callers.identify(tenant, request, clock.now))
    while not parts.client.asked:  # noqa: ASYNC110  what is waited for is a task of the code under test
        await asyncio.sleep(0.005)
    await parts.revocations.revoke_subject("acme", provider.issuer, "ana", clock.now, clock.now + 86_400)
    parts.client.opened.set()
    assert is_invalid(await waiting)


# -- whatever happens ------------------------------------------------------------------------------------------------


async def test_a_defect_is_500_and_its_text_stays_with_nobody(
    parts: Parts, tenant: TenantTable, clock: Clock, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Never access, never an exception, and no token in a log."""
    parts.client.answers["opaque-CANARY"] = RuntimeError("broke at opaque-CANARY")
    refusal = await parts.callers.identify(tenant, bearer("opaque-CANARY"), clock.now)
    assert isinstance(refusal, Deny)
    assert (refusal.reason, refusal.detail) == (Reason.INTERNAL_ERROR, "")
    out = capfd.readouterr()
    assert "CANARY" not in out.out + out.err + caplog.text


async def test_a_client_that_leaves_is_not_swallowed(parts: Parts, tenant: TenantTable, clock: Clock) -> None:
    """Cancellation is the one thing that passes."""
    parts.client.opened.clear()
    waiting = asyncio.create_task(parts.callers.identify(tenant, bearer("opaque"), clock.now))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    parts.client.opened.set()


async def test_revoking_all_asks_everybody_anew(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """Signed, opaque and our own."""
    parts.client.answers["opaque"] = active(clock.now)
    requests = [bearer(provider.mint()), bearer("opaque")]
    for request in requests:
        assert isinstance(await parts.callers.identify(tenant, request, clock.now), Principal)
        assert parts.callers.known_now(tenant, request, clock.now) is not None
    parts.callers.revoke_all()
    for request in requests:
        assert parts.callers.known_now(tenant, request, clock.now) is None
    assert parts.own_tokens.revoked == 1


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    authorization=st.none()
    | st.binary(max_size=40)
    | st.text(alphabet="ptr_eyJ.-aB ", max_size=30).map(lambda text: b"Bearer " + text.encode())
    | st.text(alphabet="ptr_eyJ.-aB ", max_size=30).map(lambda text: b"DPoP " + text.encode()),
    cookie=st.none() | st.binary(max_size=30),
    dpop=st.none() | st.binary(max_size=30),
    certificate=st.none() | st.binary(min_size=32, max_size=32),
)
def test_any_request_has_an_answer_and_no_access(
    authorization: bytes | None, cookie: bytes | None, dpop: bytes | None, certificate: bytes | None
) -> None:
    """AP-R37, R38: whatever is presented, nobody but the anonymous caller comes out of it, and nothing is raised."""

    async def ask() -> None:
        clock = Clock()
        parts = Parts(clock)
        tenant = a_tenant("acme", asked("https://id.example"))
        request = a_request(
            authorization=authorization,
            credential_digest=None if authorization is None else sha256(authorization).digest(),
            cookie=cookie,
            dpop=dpop,
            certificate=certificate,
        )
        answers = (
            parts.callers.known_now(tenant, request, clock.now),
            parts.callers.identify_now(tenant, request, clock.now),
            await parts.callers.identify(tenant, request, clock.now),
        )
        for answer in answers:
            assert answer is None or isinstance(answer, Challenge) or as_any(answer).is_anonymous
            if authorization is not None:
                assert not isinstance(answer, Principal)
        await parts.callers.close()

    asyncio.run(ask())


async def test_a_full_store_refuses_proofs(provider: FakeProvider, tenant: TenantTable, clock: Clock) -> None:
    """What must not be forgotten is not forgotten to make room."""
    parts = Parts(clock, state=MemoryState(max_entries=4))  # of which one tenant may have half
    token = provider.mint(cnf={"jkt": jkt_of()})
    for number in range(4):
        request = showing(token, a_proof(token, clock.now, jti=f"j{number}"))
        answer = await parts.callers.identify(tenant, request, clock.now)
        assert isinstance(answer, Principal if number < 2 else Deny)
    replayed = showing(token, a_proof(token, clock.now, jti="j0"))
    assert not isinstance(await parts.callers.identify(tenant, replayed, clock.now), Principal)
    await parts.callers.close()


async def test_reloaded_terms_hold_for_callers_that_were_settled(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """AP-R18: a hit under other terms is no hit, whatever was found before."""
    request = bearer(provider.mint())
    assert isinstance(await parts.callers.identify(tenant, request, clock.now), Principal)
    assert isinstance(parts.callers.known_now(tenant, request, clock.now), Principal)
    stricter = a_tenant("acme", replace(tenant.providers[0], requires_bound_tokens=True))
    assert parts.callers.known_now(stricter, request, clock.now) is None
    assert is_invalid(await parts.callers.identify(stricter, request, clock.now))
    moved = a_tenant("acme", replace(tenant.providers[0], groups=GroupsSpec(source="userinfo")))
    assert parts.callers.known_now(moved, request, clock.now) is None


async def test_a_stranger_does_not_name_a_certificate(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """A2, AP-R2: from the wire to the answer; whoever stole a bound token knows the certificate, which is public."""
    der = b"\x30\x03\x02\x01\x05"
    token = provider.mint(cnf={"x5t#S256": b64(sha256(der).digest())})
    field = (b"Client-Cert", b":MAMCAQU=:")
    believed = TrustedPeers(["10.0.0.0/8"], believes_certificates=True)
    unheard = TrustedPeers(["10.0.0.0/8"])
    bearer_field = (b"Authorization", b"Bearer " + token.encode())

    async def ask(peer: str, trusted: TrustedPeers, *fields: tuple[bytes, bytes]) -> Principal | Refusal:
        request = read_head(a_head(b"/", bearer_field, *fields, peer=peer), trusted)
        assert isinstance(request, AccessRequest)
        return await parts.callers.identify(tenant, request, clock.now)

    assert isinstance(await ask("10.0.0.1", believed, field), Principal)
    assert is_invalid(await ask("10.0.0.1", believed))
    assert is_invalid(await ask("10.0.0.1", unheard, field))
    assert is_invalid(await ask("198.51.100.7", believed, field))
    for name in (b"client_cert", b"X-Client-Cert", b"SSL-Client-Cert", b"X-SSL-Client-Cert", b"Client-Cert-Chain"):
        assert is_invalid(await ask("10.0.0.1", believed, (name, field[1])))
        assert is_invalid(await ask("198.51.100.7", believed, (name, field[1])))


async def test_a_proof_sent_twice_on_one_connection_is_a_replay(
    parts: Parts, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """From the wire to the answer: a connection's memo of its last head must not make two requests one."""
    token = provider.mint(cnf={"jkt": jkt_of()})
    proof = a_proof(token, clock.now)
    head = a_head(b"/", (b"Authorization", b"DPoP " + token.encode()), (b"DPoP", proof), scheme="https")
    memo = HeadMemo()
    answers = []
    for _ in range(2):
        request = read_head(head, NOBODY, memo)
        assert isinstance(request, AccessRequest)
        answers.append(await parts.callers.identify(tenant, request, clock.now))
    assert isinstance(answers[0], Principal)
    assert is_invalid(answers[1])
    other = read_head(head._replace(target=b"/other"), NOBODY, memo)
    assert isinstance(other, AccessRequest)
    assert is_invalid(await parts.callers.identify(tenant, other, clock.now)), "the proof names the address"
