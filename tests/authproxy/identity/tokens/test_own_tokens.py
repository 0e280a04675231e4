"""Tokens for one function: what is copied into them, what a copy is worth, and what is never taken for one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from authproxy.identity.tokens.key_files import SIGNING
from authproxy.identity.tokens.keyring import KeyFolder
from authproxy.identity.tokens.own_claims import UnknownClaims
from authproxy.identity.tokens.own_tokens import MAX_TOKENS, ExchangeRefused, OwnTokens
from policies.conditions import compile_conditions
from policies.decision import Challenge, Deny, Reason
from policies.errors import KeysUnavailable
from policies.expressions import ConditionUnknown
from policies.principal import Confirmation, Principal, anonymous
from policies.tables import ApiKeySpec, Facts, TenantTable
from tests.fakes.identity import Clock, a_provider, a_request, a_tenant, an_account
from tests.fakes.own_keys import a_key_folder, session_key, signing_key
from tests.fakes.provider import Key, b64, compact

LOGIN = a_provider(email_domains=frozenset(("acme.example",)))
ACME = a_tenant("acme", LOGIN, accounts=(an_account(),))
CLAIMS = {"iss": "https://id.example", "sub": "ana", "department": "sales", "groups": ["analysts", "x"]}


class World:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.folder = a_key_folder(root, self.clock)
        self.own = OwnTokens(self.folder)
        self.key = Key(None, "EC", 71)

    def token(self, principal: Principal | None = None, function: str = "survey-report", **options: Any) -> str:
        tenant = options.pop("tenant", ACME)
        return self.own.exchange(tenant, principal or self.ana(), function, self.clock())[0]

    def ana(self, **changes: Any) -> Principal:
        options: dict[str, Any] = {
            "groups": frozenset(("analysts", "x")),
            "email": "ana@acme.example",
            "claims": CLAIMS,
            "expires_at": self.clock() + 3600,
            **changes,
        }
        principal = Principal("login", "ana", **options)
        principal.issuer, principal.sid, principal.issued_at = "https://id.example", "s1", self.clock() - 60
        principal.name = "Ana"
        return principal

    def judge(self, token: str, tenant: TenantTable = ACME) -> Principal | Challenge | Deny:
        return self.own.judge(tenant, token, self.clock())

    def accepted(self, token: str, tenant: TenantTable = ACME) -> Principal:
        caller = self.judge(token, tenant)
        assert isinstance(caller, Principal), caller
        return caller

    def claims(self, token: str) -> dict[str, Any]:
        return dict(jwt.decode(token, options={"verify_signature": False}))

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None, key: Key | None = None) -> str:
        signing = self.folder.signing_key()
        assert signing is not None
        made = {"typ": "at+jwt", "alg": (key or self.key).alg, "kid": signing.kid, **(header or {})}
        return compact({name: value for name, value in made.items() if value is not None}, claims, key or self.key)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- giving out -----------------------------------------------------------------------------------------------------


def test_a_token_is_for_one_function_and_short(world: World) -> None:
    """RFC 9068's form, signed by the key in use; the tenant's lifetime bounds it."""
    token, lifetime_s = world.own.exchange(ACME, world.ana(), "survey-report", world.clock())
    signing = world.folder.signing_key()
    assert signing is not None
    assert jwt.get_unverified_header(token) == {"typ": "at+jwt", "alg": "ES256", "kid": signing.kid}
    claims = world.claims(token)
    assert (claims["iss"], claims["aud"], claims["sub"]) == (
        "urn:portero:acme",
        "function:acme/survey-report",
        "login|ana",
    )
    assert (claims["exp"] - claims["iat"], lifetime_s) == (300, 300)
    assert claims["groups"] == ["analysts", "x"]
    assert claims["jti"] != world.claims(world.token())["jti"]


def test_a_token_ends_with_the_credential_it_was_given_for(world: World) -> None:
    """And never lives longer than an hour, whatever the table says."""
    assert world.own.exchange(ACME, world.ana(expires_at=world.clock() + 20.9), "f", world.clock())[1] == 20
    long = replace(ACME, token_lifetime_s=1e9)
    assert world.own.exchange(long, world.ana(expires_at=None), "f", world.clock())[1] == 3600
    with pytest.raises(ExchangeRefused):
        world.own.exchange(ACME, world.ana(expires_at=world.clock() + 0.9), "f", world.clock())


@pytest.mark.parametrize(
    ("change", "function"),
    [
        ({"only_function": "f"}, "f"),
        ({"only_function": "f"}, "g"),
        ({"is_by_cookie": True}, "f"),
        ({"session_id": "s"}, "f"),
        *(({}, name) for name in ("", "a/b", "a..b", "*", "a b", "x" * 129, "é", "../x", "f\n")),
    ],
)
def test_what_would_widen_or_outlive_is_not_exchanged(world: World, change: dict[str, Any], function: str) -> None:
    """A token for one function gives no other; a session's end could not reach a token; a name is a name."""
    principal = world.ana()
    for name, value in change.items():
        setattr(principal, name, value)
    with pytest.raises(ExchangeRefused) as caught:
        world.own.exchange(ACME, principal, function, world.clock())
    assert caught.value.refusal.reason is Reason.CREDENTIAL_INVALID


def test_nobody_gets_no_token(world: World) -> None:
    """An anonymous caller has nothing to exchange."""
    with pytest.raises(ExchangeRefused):
        world.own.exchange(ACME, anonymous(), "f", world.clock())


def test_without_signing_keys_nothing_is_given_out(tmp_path: Path) -> None:
    """The page says 503 keys-unavailable."""
    session_key(tmp_path, "a", 0.0)
    for own in (OwnTokens(KeyFolder(None)), OwnTokens(KeyFolder(tmp_path))):
        with pytest.raises(KeysUnavailable):
            own.exchange(ACME, World.ana(World(tmp_path / "other")), "f", 1_790_000_000.0)


# --- the copy and the original --------------------------------------------------------------------------------------


def test_the_bearer_is_the_original_for_that_function(world: World) -> None:
    """Whoever revokes finds issuer, session and time of the original; conditions find its claims."""
    caller = world.accepted(world.token())
    assert (caller.subject, caller.groups, caller.email, caller.name) == (
        "login|ana",
        frozenset(("analysts", "x")),
        "ana@acme.example",
        "Ana",
    )
    assert caller.only_function == "survey-report"
    assert (caller.issuer, caller.sid, caller.issued_at) == ("https://id.example", "s1", world.clock() - 60)
    assert caller.claims == CLAIMS
    assert caller.expires_at == world.clock() + 300
    assert not caller.is_by_cookie


def test_unknown_groups_stay_unknown(world: World) -> None:
    """They never turn into none."""
    caller = world.accepted(world.token(world.ana(groups=frozenset(), has_unknown_groups=True)))
    assert (caller.groups, caller.has_unknown_groups) == (frozenset(), True)


def _holds(expression: str, principal: Principal) -> bool | str:
    condition = compile_conditions(expression, None, effect="deny")
    assert condition is not None
    try:
        return condition(Facts(a_request(), principal, "f", "/", 0.0))
    except ConditionUnknown:
        return "unknown"


@pytest.mark.parametrize(
    "expression",
    [
        'claims.department == "sales"',
        "has(claims.suspended)",
        "!has(claims.suspended)",
        'claims.sub == "ana"',
        'claims.iss == "https://id.example"',
        "size(claims) > 0",
        '"x" in claims.groups',
    ],
)
def test_a_condition_on_claims_says_of_the_copy_what_it_says_of_the_original(world: World, expression: str) -> None:
    """Or, where claims were too many to be carried, that it cannot be known: then deny holds and allow does not."""
    original = world.ana()
    assert _holds(expression, world.accepted(world.token(original))) == _holds(expression, original)
    many = world.ana(claims={**CLAIMS, "noise": "x" * 6000})
    copy = world.accepted(world.token(many))
    assert _holds(expression, copy) == "unknown"
    assert copy.groups == original.groups
    assert copy.claims.get("department", "-") == "-"
    assert isinstance(copy.claims, UnknownClaims)
    assert len(copy.claims) == 1


def test_what_is_too_much_for_a_field_is_left_out_and_unknown(world: World) -> None:
    """The original's claims first, then groups: never half of them."""
    groups = frozenset(f"{number:03}-{'g' * 200}" for number in range(100))
    token = world.token(world.ana(groups=groups))
    assert len(token) < 8000
    caller = world.accepted(token)
    assert (caller.groups, caller.has_unknown_groups) == (frozenset(), True)
    longest = Principal("l" * 64, "\U0001f600" * 255, email="e" * 254, expires_at=None)
    longest.name, longest.issuer, longest.sid = "\U0001f600" * 128, "https://" + "i" * 500, "s" * 255
    assert len(world.token(longest, function="f" * 128)) < 8000


def test_what_a_provider_gave_to_us_is_not_handed_on(world: World) -> None:
    """Distributed claims come with an access token of their source; whoever is handed the copy can read it."""
    sources = {"src1": {"endpoint": "https://graph.example/", "access_token": "canary"}}
    claims = {**CLAIMS, "_claim_names": {"groups": "src1"}, "_claim_sources": sources}
    token = world.token(world.ana(claims=claims))
    assert "canary" not in json.dumps(world.claims(token))
    assert world.accepted(token).claims == {**CLAIMS, "_claim_names": {"groups": "src1"}}


def test_a_binding_is_carried(world: World) -> None:
    """A token bound to a key does not become one for whoever has it."""
    for bound in (Confirmation(jkt="J" * 43), Confirmation(x5t="X" * 43)):
        principal = world.ana()
        principal.confirmation = bound
        assert world.accepted(world.token(principal)).confirmation == bound
    nothing: list[Any] = [{}, {"jkt": 5}, {"jwk": {}}, None, "x"]
    for cnf in nothing:
        token = world.sign({**world.claims(world.token()), "cnf": cnf})
        assert isinstance(world.judge(token), Challenge)


@pytest.mark.parametrize(
    "tenant",
    [
        replace(ACME, providers=()),
        replace(ACME, providers=(replace(LOGIN, name="other"),)),
        replace(ACME, providers=(replace(LOGIN, issuer="https://evil.example"),)),
        replace(ACME, providers=(replace(LOGIN, tenant_claim="org"),)),
        replace(ACME, providers=(replace(LOGIN, requires_bound_tokens=True),)),
        replace(ACME, namespace="other"),
    ],
    ids=["gone", "renamed", "another issuer", "for other tenants", "bound tokens alone", "namespace"],
)
def test_a_copy_ends_when_policy_no_longer_knows_who_vouched(world: World, tenant: TenantTable) -> None:
    """Judged before or not: a hit is worth what a miss is (AP-R18)."""
    token = world.token()
    assert isinstance(world.judge(token, tenant), Challenge)
    world.accepted(token)
    assert isinstance(world.judge(token, tenant), Challenge)


def test_a_domain_that_a_provider_may_no_longer_vouch_for_is_no_email(world: World) -> None:
    """Bindings by e-mail end with it."""
    token = world.token()
    caller = world.accepted(token, replace(ACME, providers=(replace(LOGIN, email_domains=frozenset()),)))
    assert caller.email is None


def test_groups_of_accounts_are_the_policys_of_now(world: World) -> None:
    """Never the token's."""
    account = Principal("service-account", "survey-ci", groups=frozenset(("ci",)), expires_at=world.clock() + 600)
    token = world.token(account)
    changed = a_tenant("acme", accounts=(an_account(groups=frozenset(("less",))),))
    assert world.accepted(token, changed).groups == {"less"}
    assert isinstance(world.judge(token, a_tenant("acme")), Challenge)


class _Live:
    def __init__(self) -> None:
        self.answer: bool | None = True

    def is_live(self, tenant: TenantTable, name: str, key_id: str, now: float) -> bool | None:
        assert (name, key_id) == ("reporting", "k1")
        return self.answer


def test_a_copy_of_an_api_key_ends_with_the_key(world: World) -> None:
    """Revoked in the file, out of the policy, or past its end; what cannot be known is 503."""
    live = _Live()
    world.own = OwnTokens(world.folder, api_keys=live)
    spec = ApiKeySpec("reporting", frozenset(("ci",)), world.clock() + 100, "acme.yaml:9")
    tenant = replace(ACME, api_keys=(spec,))
    key = Principal("api-key", "reporting", groups=frozenset(("ci", "gone")))
    key.sid = "k1"
    token = world.token(key)
    caller = world.accepted(token, tenant)
    assert (caller.groups, caller.expires_at) == (frozenset(("ci",)), world.clock() + 100)
    assert world.accepted(token, tenant) is caller
    live.answer = None
    unknown = world.judge(token, tenant)
    assert isinstance(unknown, Deny)
    assert unknown.reason is Reason.KEYS_UNAVAILABLE
    live.answer = False
    assert isinstance(world.judge(token, tenant), Challenge)
    live.answer = True
    world.accepted(token, tenant)
    assert isinstance(world.judge(token, ACME), Challenge)
    assert isinstance(OwnTokens(world.folder).judge(tenant, token, world.clock()), Challenge)
    world.clock.pass_s(100)
    assert isinstance(world.judge(token, tenant), Challenge)


# --- seen before ----------------------------------------------------------------------------------------------------


def test_a_repeat_is_the_same_principal_until_its_end(world: World) -> None:
    """Under the credential's digest, too, which is how the hot path asks."""
    token = world.token()
    caller = world.own.judge(ACME, token, world.clock(), b"d" * 32)
    assert world.own.known_now(ACME, b"d" * 32, world.clock()) is caller
    assert world.own.known_now(replace(ACME, token_lifetime_s=5), b"d" * 32, world.clock()) is caller
    assert world.own.known_now(a_tenant("globex"), b"d" * 32, world.clock()) is None
    world.clock.pass_s(300)
    assert world.own.known_now(ACME, b"d" * 32, world.clock()) is None
    expired = world.judge(token)
    assert isinstance(expired, Challenge)
    assert "expired" in expired.detail
    world.clock.pass_s(-600)
    assert isinstance(world.judge(token), Challenge)


def test_all_can_be_forgotten(world: World) -> None:
    """A revocation that was not known here."""
    world.own.judge(ACME, world.token(), world.clock(), b"d" * 32)
    world.own.revoke_all()
    assert world.own.known_now(ACME, b"d" * 32, world.clock()) is None


def test_the_memory_is_bounded_and_refusals_leave_nothing(world: World) -> None:
    """The least recently used goes first."""
    token = world.token()
    world.judge(token[:-8] + "AAAAAAAA")
    assert not world.own._tokens
    for number in range(MAX_TOKENS):
        world.own._tokens[("acme", number.to_bytes(32))] = None  # type: ignore[assignment]  # only counted
    world.accepted(token)
    assert len(world.own._tokens) == MAX_TOKENS
    assert ("acme", bytes(32)) not in world.own._tokens


def test_rotation_keeps_tokens_until_their_key_is_taken_away(world: World) -> None:
    """Seen before or not; a key that only waits is good to verify with."""
    seen, unseen = world.token(), world.token()
    world.accepted(seen)
    signing_key(world.root, "2026-02", world.clock(), "EC", 72)
    world.clock.pass_s(2)
    world.accepted(seen)
    world.accepted(unseen)
    (world.root / SIGNING / "2026-01.pem").unlink()
    world.clock.pass_s(2)
    for token in (seen, unseen):
        refusal = world.judge(token)
        assert isinstance(refusal, Challenge)
        assert "key" in refusal.detail
    world.accepted(world.token())


# --- what is never taken for one ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        *({"typ": typ} for typ in ("JWT", "portero-assertion+jwt", "logout+jwt", "dpop+jwt", "AT+JWT", "", None, 5)),
        *({"alg": "none"}, {"alg": "HS256"}, {"alg": "ES384"}, {"alg": "EdDSA"}, {"alg": "RS256"}),
        *({"kid": None}, {"kid": ""}, {"kid": "other"}, {"kid": "../x"}, {"kid": 5}, {"kid": "k" * 300}),
        *({"jku": "https://evil.example"}, {"jwk": {}}, {"x5c": []}, {"crit": ["b64"], "b64": False}),
    ],
    ids=json.dumps,
)
def test_another_header_is_refused(world: World, header: dict[str, Any]) -> None:
    """Signed by the right key over the right claims all the same (AP-R15, R44, R45)."""
    claims = world.claims(world.token())
    world.accepted(world.sign(claims))
    assert isinstance(world.judge(world.sign(claims, header)), Challenge)


_ABSENT = object()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("iss", value)
            for value in ("urn:portero:globex", "urn:portero:", "https://id.example", "acme/x", _ABSENT, 5)
        ),
        *(
            ("aud", value)
            for value in ("function:globex/f", "function:acme/", "function:acme/a/b", "survey", 5, _ABSENT)
        ),
        *(("aud", value) for value in (["function:acme/survey-report"], "function:acme/..", "function:acmex/f", "")),
        *(("exp", value) for value in (0, 1e300, True, "9999999999", None, _ABSENT, 1_790_000_300.5, 1_800_000_000)),
        *(("iat", value) for value in (1_790_000_031, "0", None, _ABSENT, True, 1_790_000_000.5)),
        *(("sub", value) for value in ("ana", "|ana", "login|", "", 5, _ABSENT, ["login|ana"], "globex-login|ana")),
        *(("sub", value) for value in ("service-account|root", "api-key|root", "anonymous|anonymous")),
        *(("orig_iss", value) for value in ("https://other.example", 5, _ABSENT, None)),
        *(("orig_iat", value) for value in ("0", None, _ABSENT)),
        ("orig_sid", 5),
    ],
)
def test_other_claims_are_refused(world: World, name: str, value: Any) -> None:
    """By whoever could sign: what is written by another version or by mistake never widens."""
    claims = {**world.claims(world.token()), name: value}
    assert isinstance(world.judge(world.sign({k: v for k, v in claims.items() if v is not _ABSENT})), Challenge)


@pytest.mark.parametrize("groups", ["analysts", {"a": 1}, [5], ["a", None], None, _ABSENT])
def test_groups_of_another_form_are_unknown(world: World, groups: Any) -> None:
    """Not none, and not an exception."""
    claims = {**world.claims(world.token()), "groups": groups}
    caller = world.accepted(world.sign({k: v for k, v in claims.items() if v is not _ABSENT}))
    assert caller.has_unknown_groups


def test_another_key_of_the_same_name_is_refused(world: World) -> None:
    """A forger knows every kid: they are public."""
    refusal = world.judge(world.sign(world.claims(world.token()), key=Key(None, "EC", 73)))
    assert isinstance(refusal, Challenge)
    assert "signature" in refusal.detail


@pytest.mark.parametrize("tenant", ["globex", "acm", "acmee"])
def test_a_token_of_one_tenant_is_nothing_in_another(world: World, tenant: str) -> None:
    """The keys are the same: ``iss`` tells tenants apart, before anything else is looked at."""
    refusal = world.judge(world.token(), a_tenant(tenant, LOGIN))
    assert isinstance(refusal, Challenge)
    assert refusal.tenant == tenant


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "x" * 20_000, "ptr_x", "\udcff.e30.x", "é.é.é", "e30.e30."])
def test_garbage_is_refused(world: World, text: str) -> None:
    """Never an exception."""
    assert isinstance(world.judge(text), Challenge)


def test_every_changed_character_is_noticed(world: World) -> None:
    """One spelling a token: no second one that a denylist would not know."""
    token = world.token()
    for position in range(0, len(token), 7):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        assert isinstance(world.judge(changed), Challenge), position
    claims = b64(json.dumps(world.claims(token)).encode())
    head, _, tail = token.split(".")
    assert isinstance(world.judge(f"{head}.{claims}.{tail}"), Challenge)
