"""Bound tokens: a stolen one is of no use without its key or certificate, and a proof is of use once."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any, Final

import pytest

from authproxy.identity.shared.state_memory import MemoryState
from authproxy.identity.tokens.bound import is_proven, refuse_bond, refuse_possession
from policies.decision import Challenge
from policies.dpop import MAX_AGE_S
from policies.errors import StoreUnavailable
from policies.principal import Confirmation, Principal
from policies.request import AccessRequest, ShownProof
from tests.fakes.callers import BrokenState
from tests.fakes.identity import a_request
from tests.fakes.proofs import PROVER, a_proof, jkt_of, public_jwk, showing
from tests.fakes.provider import Key, b64, compact

NOW: Final = 1_790_000_000.0
CERTIFICATE: Final = sha256(b"certificate").digest()
X5T: Final = urlsafe_b64encode(CERTIFICATE).rstrip(b"=").decode()


def bound_to(jkt: str | None = None, x5t: str | None = None) -> Principal:
    principal = Principal("login", "ana")
    if jkt is not None or x5t is not None:
        principal.confirmation = Confirmation(jkt, x5t)
    return principal


async def possession(
    state: MemoryState, request: AccessRequest, token: str = "token", now: float = NOW
) -> Challenge | None:
    return await refuse_possession(state, bound_to(jkt_of()), "acme", request, token, now)


@pytest.mark.parametrize("kind", ["EC", "EC384", "EC521", "Ed25519", "RSA"])
async def test_the_holder_of_the_key_may_show_the_token(kind: Any) -> None:
    """With every kind of key."""
    key = Key(None, kind, 6)
    request = showing("token", a_proof("token", NOW, key=key))
    ana = bound_to(jkt_of(key))
    assert refuse_bond(ana, request) is None
    assert await refuse_possession(MemoryState(), ana, "acme", request, "token", NOW) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_bound_token_is_no_bearer_token(scheme: str) -> None:
    """RFC 9449 section 7.2: a thief who has the token alone would show it like that."""
    refusal = refuse_bond(bound_to(jkt_of()), showing("token", a_proof("token", NOW), scheme))
    assert isinstance(refusal, Challenge)
    assert (refusal.error, refusal.scheme) == ("invalid_token", "DPoP")


@pytest.mark.parametrize("principal", [bound_to(), bound_to(x5t=X5T)], ids=["to nothing", "to a certificate"])
def test_a_token_without_a_key_is_no_dpop_token(principal: Principal) -> None:
    """AP-R37: the scheme never means less than it says, whatever proof comes along."""
    request = showing("token", a_proof("token", NOW), certificate=CERTIFICATE)
    assert isinstance(refuse_bond(principal, request), Challenge)


def test_an_unbound_token_needs_nothing() -> None:
    """Also beside a proof that nobody asked for."""
    request = showing("token", b"rubbish", "Bearer")
    assert refuse_bond(bound_to(), request) is None
    assert is_proven(bound_to(), "acme", request)


FORGED: Final[dict[str, bytes | None]] = {
    "none": None,
    "empty": b"",
    "rubbish": b"rubbish",
    "another key": a_proof("token", NOW, key=Key(None, "EC", 79)),
    "signed by another key": compact(
        {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk()},
        {"htm": "GET", "htu": "https://acme.localhost/", "iat": NOW, "jti": "j", "ath": b64(sha256(b"token").digest())},
        Key(None, "EC", 79),
    ).encode(),
    "signature changed": a_proof("token", NOW)[:-4] + b"AAAA",
    "signature empty": a_proof("token", NOW).rpartition(b".")[0] + b".AA",
    "claims changed": b".".join(
        [a_proof("token", NOW, jti=one).split(b".")[part] for part, one in enumerate(("a", "b", "a"))]
    ),
    "algorithm of another kind": a_proof("token", NOW, header={"alg": "EdDSA"}),
    "key not on the curve": a_proof("token", NOW, header={"jwk": {**public_jwk(), "x": b64(b"\1" * 32)}}),
    "key says encryption": a_proof("token", NOW, header={"jwk": {**public_jwk(), "use": "enc"}}),
    "another token": a_proof("other", NOW),
    "another method": a_proof("token", NOW, htm="POST"),
    "another tenant": a_proof("token", NOW, htu="https://globex.localhost/"),
    "too old": a_proof("token", NOW - MAX_AGE_S - 1),
    "of the future": a_proof("token", NOW + 11),
}


@pytest.mark.parametrize("proof", FORGED.values(), ids=FORGED.keys())
async def test_a_proof_that_is_none_is_refused(proof: bytes | None) -> None:
    """A thief has the token and no key; whatever he makes up changes nothing and uses up nothing."""
    state = MemoryState()
    request = showing("token", proof)
    assert isinstance(await possession(state, request), Challenge)
    assert not is_proven(bound_to(jkt_of()), "acme", request)
    assert await possession(state, showing("token", a_proof("token", NOW))) is None


async def test_a_weak_key_is_no_key() -> None:
    """RFC 7518 section 3.3: bounds on keys hold for those that clients make too."""
    weak = Key(None, "RSA", 9, bits=1024)
    request = showing("token", a_proof("token", NOW, key=weak))
    assert isinstance(
        await refuse_possession(MemoryState(), bound_to(jkt_of(weak)), "acme", request, "token", NOW), Challenge
    )


async def test_a_proof_is_taken_once() -> None:
    """RFC 9449 section 11.1: the same bytes in another request are a replay, for as long as the proof would be good."""
    state = MemoryState()
    proof = a_proof("token", NOW)
    assert await possession(state, showing("token", proof)) is None
    for later_s in (0, 1, MAX_AGE_S):
        refusal = await possession(state, showing("token", proof), now=NOW + later_s)
        assert isinstance(refusal, Challenge)
        assert refusal.error == "invalid_dpop_proof"
    assert await possession(state, showing("token", a_proof("token", NOW, jti="next"))) is None


async def test_a_request_that_is_asked_about_again_is_no_replay() -> None:
    """It was held, or it streams: its own proof has been taken, also when it has become old meanwhile."""
    state = MemoryState()
    request = showing("token", a_proof("token", NOW))
    assert await possession(state, request) is None
    assert is_proven(bound_to(jkt_of()), "acme", request)
    assert await possession(state, request, now=NOW + 600) is None


async def test_what_was_proven_is_proven_for_one_token_of_one_tenant() -> None:
    """AP-R17: the mark on the proof names both."""
    request = showing("token", a_proof("token", NOW))
    assert await possession(MemoryState(), request) is None
    assert not is_proven(bound_to(jkt_of()), "globex", request)
    other = showing("other", None)._replace(dpop=request.dpop)
    assert not is_proven(bound_to(jkt_of()), "acme", other)


async def test_a_proof_that_no_request_owns_is_never_marked() -> None:
    """Plain bytes are judged each time."""
    state = MemoryState()
    request = a_request(authorization=b"DPoP token", dpop=a_proof("token", NOW))
    assert await possession(state, request) is None
    assert isinstance(await possession(state, request), Challenge)


async def test_jtis_of_two_keys_and_of_two_tenants_are_apart() -> None:
    """Nobody uses up another's proofs by guessing their names."""
    state = MemoryState()
    other = Key(None, "EC", 80)
    for tenant, key in (("acme", PROVER), ("acme", other), ("globex", PROVER)):
        request = showing("token", a_proof("token", NOW, key=key, jti="one"))
        assert await refuse_possession(state, bound_to(jkt_of(key)), tenant, request, "token", NOW) is None


async def test_a_store_that_cannot_be_asked_lets_nobody_in() -> None:
    """AP-R26: raised, for the caller to refuse with; and a proof is not marked as taken."""
    request = showing("token", a_proof("token", NOW))
    with pytest.raises(StoreUnavailable):
        await possession(BrokenState(), request)
    assert not is_proven(bound_to(jkt_of()), "acme", request)


async def test_strangers_do_not_fill_the_store() -> None:
    """Only a proof by the token's own key comes as far as the store."""
    for proof in FORGED.values():
        assert isinstance(await possession(BrokenState(), showing("token", proof)), Challenge)


@pytest.mark.parametrize(
    ("certificate", "is_good"),
    [(CERTIFICATE, True), (None, False), (b"", False), (sha256(b"other").digest(), False), (CERTIFICATE[:31], False)],
)
def test_a_token_of_a_certificate_wants_that_very_one(certificate: bytes | None, is_good: bool) -> None:
    """RFC 8705 section 3: the thumbprint of the connection's certificate, and no other."""
    request = showing("token", None, "Bearer", certificate=certificate)
    assert (refuse_bond(bound_to(x5t=X5T), request) is None) is is_good
    assert is_proven(bound_to(x5t=X5T), "acme", request)


def test_a_token_of_both_wants_both() -> None:
    """Neither stands in for the other."""
    both = bound_to(jkt_of(), X5T)
    proof = a_proof("token", NOW)
    assert refuse_bond(both, showing("token", proof, certificate=CERTIFICATE)) is None
    assert not is_proven(both, "acme", showing("token", proof, certificate=CERTIFICATE))
    assert isinstance(refuse_bond(both, showing("token", proof)), Challenge)
    assert isinstance(refuse_bond(both, showing("token", proof, "Bearer", certificate=CERTIFICATE)), Challenge)


def test_a_proof_is_an_object_of_its_own() -> None:
    """The mark lives as long as the request, and equal proofs do not share it."""
    one, two = ShownProof(b"a"), ShownProof(b"a")
    one.accepted_for = ("acme", b"")
    assert (one == two, two.accepted_for) == (True, None)
