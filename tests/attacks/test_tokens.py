"""
Attack family A4, forged tokens, against the whole verifier: fetched keys, real signatures, one tenant's terms.

Each case changes one thing of a token that is otherwise accepted; the answer is 401 with an RFC 6750 code, says nothing
of the token, and is the same the second time, when the caches know it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from authproxy.identity.tokens.bearer import BearerIdentity
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.tables import TenantTable
from tests.fakes.identity import Clock, a_provider, a_request, a_tenant, an_identity
from tests.fakes.provider import FakeProvider, Key, b64, compact

RSA, EC, ED, STRANGER = Key("rsa", "RSA"), Key("ec", "EC"), Key("ed", "Ed25519"), Key("ec", "EC", 77)
DAY_S = 86_400


@pytest.fixture
def clock() -> Clock:
    return Clock(float(int(time.time())))


@pytest.fixture
async def provider(clock: Clock) -> AsyncIterator[FakeProvider]:
    async with FakeProvider(RSA, ED, EC) as running:
        running.now = clock
        yield running


@pytest.fixture
async def identity(clock: Clock) -> AsyncIterator[BearerIdentity]:
    made = an_identity(clock)
    yield made
    await made.close()


@pytest.fixture
def tenant(provider: FakeProvider) -> TenantTable:
    return a_tenant("acme", a_provider(provider.issuer))


def header(**members: Any) -> dict[str, Any]:
    every = {"typ": "JWT", "alg": "ES256", "kid": "ec", **members}
    return {name: value for name, value in every.items() if value is not ...}


def unsigned(head: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes) -> str:
    return ".".join((b64(json.dumps(head).encode()), b64(json.dumps(claims).encode()), b64(signature)))


def hmac_token(head: Mapping[str, Any], claims: Mapping[str, Any], secret: bytes) -> str:
    signed = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(
        head["alg"], hashlib.sha256
    )
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), digest).digest())}"


Forge = Callable[[FakeProvider], str]


def with_header(**members: Any) -> Forge:
    """Properly signed, with another header."""
    return lambda provider: compact(header(**members), provider.claims(), EC)


def without_signature(alg: str) -> Forge:
    return lambda provider: unsigned(header(alg=alg), provider.claims(), b"")


def with_raw_header(text: str) -> Forge:
    return lambda provider: compact(text.encode(), provider.claims(), EC)


def with_claims(**claims: Any) -> Forge:
    """Properly signed, with other claims; None leaves one out."""
    return lambda provider: compact(header(), provider.claims(**claims), EC)


def with_exp(text: str) -> Forge:
    def forge(provider: FakeProvider) -> str:
        claims = json.dumps(provider.claims(exp=424242)).replace("424242", text)
        return compact(header(), claims.encode(), EC)

    return forge


def signed_by_stranger(**members: Any) -> Forge:
    return lambda provider: compact(header(**members), provider.claims(), STRANGER)


def spliced(provider: FakeProvider) -> str:
    """Head and signature of one good token, claims of another."""
    head, _, signature = provider.mint().split(".")
    return f"{head}.{b64(json.dumps(provider.claims('root')).encode())}.{signature}"


def flipped(provider: FakeProvider) -> str:
    """One bit of the signature."""
    head, claims, signature = provider.mint().split(".")
    other = "B" if signature[5] != "B" else "C"
    return f"{head}.{claims}.{signature[:5]}{other}{signature[6:]}"


def cut(provider: FakeProvider) -> str:
    return provider.mint()[:-4]


def der_signature(provider: FakeProvider) -> str:
    """ECDSA in DER, as other protocols have it; JWS wants r and s side by side."""
    head, claims, _ = provider.mint().split(".")
    return f"{head}.{claims}.{b64(bytes.fromhex('3006020101020101'))}"


FORGERIES: dict[str, Forge] = {
    # algorithms
    **{f"alg {alg}": without_signature(alg) for alg in ("none", "None", "nOnE", "NONE", "")},
    **{
        f"alg {alg} signed": with_header(alg=alg)
        for alg in ("none", "RS256", "ES384", "ES512", "PS256", "EdDSA", "ES256K", "es256", "ES256 ", "RSA1_5")
    },
    "alg missing": with_header(alg=...),
    "alg null": with_header(alg=None),
    "alg list": with_header(alg=["ES256"]),
    "alg not on the provider's list": lambda provider: compact(
        header(alg="RS512", kid="rsa"), provider.claims(), RSA, "RS512"
    ),
    "PS256 not on the provider's list": lambda provider: compact(
        header(alg="PS256", kid="rsa"), provider.claims(), RSA, "PS256"
    ),
    "HS256 with the public PEM": lambda provider: hmac_token(
        header(alg="HS256", kid="rsa"), provider.claims(), RSA.public_pem()
    ),
    "HS256 with the public JWK": lambda provider: hmac_token(
        header(alg="HS256", kid="rsa"), provider.claims(), json.dumps(RSA.jwk()).encode()
    ),
    "HS512 with the public PEM": lambda provider: hmac_token(header(alg="HS512"), provider.claims(), EC.public_pem()),
    "HS256 with nothing": lambda provider: hmac_token(header(alg="HS256"), provider.claims(), b""),
    "RS256 header over an HMAC": lambda provider: hmac_token(
        header(alg="RS256", kid="rsa"), provider.claims(), RSA.public_pem()
    ),
    # keys that the token brings along
    "jwk": signed_by_stranger(jwk=STRANGER.jwk()),
    "jwk without kid": signed_by_stranger(jwk=STRANGER.jwk(), kid=...),
    "jku": signed_by_stranger(jku="https://evil.example/jwks"),
    "x5u": signed_by_stranger(x5u="https://evil.example/cert"),
    "x5c": signed_by_stranger(x5c=["MIIB"]),
    "jwk of the right key": with_header(jwk=EC.jwk()),
    # how the token is to be read
    "crit unknown": with_header(crit=["x"], x=1),
    "crit empty": with_header(crit=[]),
    "crit exp": with_header(crit=["exp"], exp=1),
    "b64 false": with_header(b64=False, crit=["b64"]),
    "b64 true": with_header(b64=True),
    "alg twice": with_raw_header('{"typ":"JWT","alg":"none","kid":"ec","alg":"ES256"}'),
    "kid twice": with_raw_header('{"typ":"JWT","alg":"ES256","kid":"other","kid":"ec"}'),
    "sub twice": lambda provider: compact(
        header(), json.dumps(provider.claims()).replace('"sub"', '"sub": "root", "sub"').encode(), EC
    ),
    "header in UTF-16": lambda provider: compact(json.dumps(header()).encode("utf-16"), provider.claims(), EC),
    "claims in UTF-16": lambda provider: compact(header(), json.dumps(provider.claims()).encode("utf-16"), EC),
    "claims an array": lambda provider: compact(header(), b"[1]", EC),
    "claims deep": lambda provider: compact(
        header(), json.dumps(provider.claims()).replace("{", '{"x": ' + "[" * 50 + "]" * 50 + ", ", 1).encode(), EC
    ),
    "nested": lambda provider: compact(header(cty="JWT"), provider.mint().encode(), EC),
    # kinds of token
    **{f"typ {kind}": with_header(typ=kind) for kind in ("logout+jwt", "dpop+jwt", "JOSE", "id_token", "", None, 7)},
    # which key
    "kid path": with_header(kid="../../../../dev/null"),
    "kid SQL": with_header(kid="x' UNION SELECT 'k' --"),
    "kid URL": with_header(kid="https://evil.example/key"),
    "kid command": with_header(kid="|id"),
    "kid long": with_header(kid="k" * 257),
    "kid unicode": with_header(kid="\u0435\u0441"),  # Cyrillic letters that look like ec
    "kid NUL": with_header(kid="ec\x00"),
    "kid case": with_header(kid="EC"),
    "kid number": with_header(kid=0),
    "kid null": with_header(kid=None),
    "kid list": with_header(kid=["ec"]),
    "kid of another key": with_header(kid="ed"),
    "kid unknown": with_header(kid="new"),
    "a stranger's key": signed_by_stranger(),
    "a stranger's key without kid": signed_by_stranger(kid=...),
    # signatures
    "spliced": spliced,
    "bit flipped": flipped,
    "cut": cut,
    "DER": der_signature,
    "zeros": lambda provider: unsigned(header(), provider.claims(), bytes(64)),  # CVE-2022-21449
    "empty signature": lambda provider: unsigned(header(), provider.claims(), b""),
    # claims
    **{f"no {name}": with_claims(**{name: None}) for name in ("exp", "aud", "iss", "sub")},
    "iat in the future": lambda provider: with_claims(iat=provider.now() + 31)(provider),
    "nbf in the future": lambda provider: with_claims(nbf=provider.now() + 31)(provider),
    "expired": lambda provider: with_claims(exp=provider.now() - 1)(provider),
    "expires now": lambda provider: with_claims(exp=provider.now())(provider),
    "for too long": lambda provider: with_claims(exp=provider.now() + DAY_S + 31)(provider),
    **{
        f"exp {text}": with_exp(text)
        for text in (
            "1e300",
            "1e999",
            '"9999999999"',
            "true",
            "false",
            "null",
            "Infinity",
            "NaN",
            "-1",
            "[]",
            "{}",
            "9" * 60,
        )
    },
    "aud of others": with_claims(aud=["a", "b"]),
    "aud empty": with_claims(aud=[]),
    "aud part": with_claims(aud="survey-other"),
    "aud with a number": with_claims(aud=["survey", 1]),
    "azp instead of aud": with_claims(aud="other", azp="survey"),
    "client_id instead of aud": with_claims(aud=["other"], client_id="survey", azp="survey"),
    "sub number": with_claims(sub=7),
    "sub with a line break": with_claims(sub="ana\r\nX-Portero-Tenant: globex"),
    "sub long": with_claims(sub="a" * 256),
    "iss with a slash": lambda provider: with_claims(iss=provider.issuer + "/")(provider),
    "iss list": lambda provider: with_claims(iss=[provider.issuer])(provider),
    "iss unknown": with_claims(iss="https://evil.example"),
    "iss of the other tenant": with_claims(iss="https://globex.example"),
    "iss a service account": with_claims(iss="acme/survey-ci"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_token_is_refused(
    forge: Forge,
    identity: BearerIdentity,
    provider: FakeProvider,
    tenant: TenantTable,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A4, R27: 401 with a code, twice the same, and not one byte of the token in log or answer."""
    good = await identity.identify(tenant, a_request(provider.mint()), clock.now)
    assert isinstance(good, Principal), "what is forged from must itself be good"
    token = forge(provider)
    with caplog.at_level(logging.DEBUG):
        first = await identity.identify(tenant, a_request(token), clock.now)
        second = await identity.identify(tenant, a_request(token), clock.now)
    assert isinstance(first, Challenge)
    assert first.reason is Reason.CREDENTIAL_INVALID
    assert first.error in ("invalid_token", "invalid_request")
    assert first.tenant == "acme"
    assert second == first
    assert identity.known_now(tenant, a_request(token), clock.now) is None
    for segment in filter(lambda segment: len(segment) > 8, token.split(".")):
        assert segment not in caplog.text + repr(first)
    assert set(provider.requests) == {"discovery", "jwks"}


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=["RSA", "EC", "Ed25519"])
async def test_the_honest_token_beside_them_is_accepted(
    key: Key, identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """The table above refuses for what was changed and for nothing else."""
    caller = await identity.identify(
        tenant, a_request(compact(header(kid=key.kid, alg=key.alg), provider.claims(), key)), clock.now
    )
    assert isinstance(caller, Principal)


async def test_another_tenants_provider_with_the_same_kid_is_no_one_here(
    identity: BearerIdentity, provider: FakeProvider, clock: Clock
) -> None:
    """R45, R46, T3: one kid in two tenants' sets; each set verifies its own tokens only, whatever iss says."""
    async with FakeProvider(Key("ec", "EC", 5)) as other:
        other.now = clock
        acme = a_tenant("acme", a_provider(provider.issuer))
        globex = a_tenant("globex", a_provider(other.issuer))
        theirs, ours = other.mint(), provider.mint()
        lying = other.mint(iss=provider.issuer)
        for _ in range(2):
            assert isinstance(await identity.identify(acme, a_request(ours), clock.now), Principal)
            assert isinstance(await identity.identify(globex, a_request(theirs), clock.now), Principal)
            for tenant, token in ((acme, theirs), (globex, ours), (acme, lying), (globex, lying)):
                assert isinstance(await identity.identify(tenant, a_request(token), clock.now), Challenge)
        assert other.requests["jwks"] == 1
        assert provider.requests["jwks"] <= 2


async def test_a_shared_issuers_token_opens_only_its_tenants(
    identity: BearerIdentity, provider: FakeProvider, clock: Clock
) -> None:
    """T4, T9: swapping only the host turns the answer into 403 tenant-mismatch."""
    tenants = {
        name: a_tenant(name, a_provider(provider.issuer, tenant_claim="organization")) for name in ("acme", "globex")
    }
    for name in tenants:
        token = provider.mint(organization={name: {}})
        for host, tenant in tenants.items():
            answer = await identity.identify(tenant, a_request(token), clock.now)
            if host == name:
                assert isinstance(answer, Principal)
            else:
                assert isinstance(answer, Deny)
                assert answer.reason is Reason.TENANT_MISMATCH


async def test_two_tokens_in_one_request_are_none(
    identity: BearerIdentity, provider: FakeProvider, tenant: TenantTable, clock: Clock
) -> None:
    """R38: a list of tokens is not a choice."""
    good = provider.mint()
    for field in (f"Bearer {good}, Bearer {good}", f"Bearer {good} {good}", f"Bearer {good},"):
        answer = await identity.identify(tenant, a_request(authorization=field.encode()), clock.now)
        assert isinstance(answer, Challenge)
        assert answer.error == "invalid_request"


async def test_secrets_never_reach_a_log_or_an_answer(
    identity: BearerIdentity,
    provider: FakeProvider,
    tenant: TenantTable,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """R27, A14: canaries in every place of a token, through success, refusal and a provider that is down."""
    canary = "canary-9d1f"
    token = provider.mint(canary, nonce=canary, groups=[canary], aud="other", key=Key(canary, "EC", 8))
    with caplog.at_level(logging.DEBUG):
        answers = [await identity.identify(tenant, a_request(token), clock.now)]
        provider.is_down = True
        clock.pass_s(2 * DAY_S)
        answers.append(await identity.identify(tenant, a_request(provider.mint(canary)), clock.now))
        answers.append(await identity.identify(tenant, a_request(authorization=b"Basic " + canary.encode()), clock.now))
        answers.append(await identity.identify(tenant, a_request(canary), clock.now))
    assert not any(isinstance(answer, Principal) for answer in answers)
    text = caplog.text + repr(answers)
    assert canary not in text
    assert not any(part in text for part in token.split("."))
