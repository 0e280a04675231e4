"""A DPoP proof says of which request, token and key it is, and what says anything else is none (RFC 9449)."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Challenge, Reason
from policies.dpop import MAX_AGE_S, MAX_AHEAD_S, PROOF_ALGORITHMS, Proof, judge_proof, read_proof, thumbprint
from policies.problem import problem
from policies.request import AccessRequest
from policies.target import Target, canonical_target
from tests.fakes.identity import a_request
from tests.fakes.proofs import PROVER, a_proof, jkt_of, public_jwk
from tests.fakes.provider import Key, b64, compact

NOW: Final = 1_790_000_000.0
TOKEN: Final = "token"


def read(value: bytes) -> Proof:
    proof = read_proof(value)
    assert isinstance(proof, Proof), proof
    return proof


def judged(request: AccessRequest | None = None, now: float = NOW, **claims: Any) -> Challenge | None:
    return judge_proof(read(a_proof(TOKEN, NOW, **claims)), request or a_request(), TOKEN, jkt_of(), now)


def is_refused(answer: Proof | Challenge | None, error: str = "invalid_dpop_proof") -> bool:
    return (
        isinstance(answer, Challenge)
        and answer.reason is Reason.CREDENTIAL_INVALID
        and (answer.error, answer.scheme) == (error, "DPoP")
    )


@pytest.mark.parametrize("kind", ["EC", "EC384", "EC521", "Ed25519", "RSA"])
def test_a_good_proof_is_good_with_every_kind_of_key(kind: Any) -> None:
    """RFC 9449 section 4.2."""
    key = Key(None, kind, 5)
    proof = read(a_proof(TOKEN, NOW, key=key))
    assert proof.alg in PROOF_ALGORITHMS
    assert judge_proof(proof, a_request(), TOKEN, jkt_of(key), NOW) is None


def test_the_thumbprint_is_that_of_rfc_7638() -> None:
    """The example of its section 3.1, and further members change nothing."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    jwk = {"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert thumbprint(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


HEADERS: Final = {
    "typ absent": {"typ": None},
    "typ jwt": {"typ": "JWT"},
    "typ access token": {"typ": "at+jwt"},
    "typ media type": {"typ": "application/dpop+jwt"},
    "typ list": {"typ": ["dpop+jwt"]},
    "alg absent": {"alg": None},
    "alg none": {"alg": "none"},
    "alg HS256": {"alg": "HS256"},
    "alg list": {"alg": ["ES256"]},
    "no key": {"jwk": None},
    "key is text": {"jwk": "k"},
    "key is empty": {"jwk": {}},
    "secret key": {"jwk": {"kty": "oct", "k": "c2VjcmV0"}},
    "private key": {"jwk": {**public_jwk(), "d": "AAAA"}},
    "private key of RSA": {"jwk": {**public_jwk(Key(None, "RSA", 5)), "qi": "AAAA"}},
    "key of another kind": {"jwk": {**public_jwk(), "kty": "AKP"}},
    "coordinate missing": {"jwk": {"kty": "EC", "crv": "P-256", "x": "AAAA"}},
    "coordinate a number": {"jwk": {**public_jwk(), "x": 5}},
    "coordinate padded": {"jwk": {**public_jwk(), "x": "AA=="}},
    "coordinate with spare bits": {"jwk": {**public_jwk(), "x": "AB"}},
    "jku": {"jku": "https://evil.example/keys"},
    "x5u": {"x5u": "https://evil.example/cert"},
    "x5c": {"x5c": ["AAAA"]},
    "crit": {"crit": ["exp"]},
    "b64": {"b64": False},
    "zip": {"zip": "DEF"},
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_a4_a_header_that_is_not_a_proofs_is_refused(header: dict[str, Any]) -> None:
    """RFC 9449 section 4.3, checks 4, 5 and 7: type, algorithm, one public key and nothing that points elsewhere."""
    assert is_refused(read_proof(a_proof(header=header)))


@pytest.mark.parametrize("name", ["htm", "htu", "iat", "jti", "ath"])
def test_every_claim_has_to_be_there(name: str) -> None:
    """Check 3; ``ath`` too, since every proof here comes with a token."""
    assert is_refused(read_proof(a_proof(without=name)))


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": 1},
        {"htu": ["https://acme.localhost/"]},
        {"htu": "https://acme.localhost/" + "a" * 3000},
        {"htu": "https://acme.localhost/\n"},
        {"iat": "1790000000"},
        {"iat": True},
        {"iat": None},
        {"iat": 2**70},
        {"jti": ""},
        {"jti": "a" * 129},
        {"jti": 7},
        {"jti": "a\0b"},
        {"ath": None},
    ],
    ids=repr,
)
def test_claims_of_another_kind_are_refused(claims: dict[str, Any]) -> None:
    """What is a number, a text, and how long, is judged before anything is compared."""
    assert is_refused(read_proof(a_proof(**claims)))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b".",
        b"..",
        b"a.b.c",
        b"\xff.\xff.\xff",
        a_proof() + b".x",
        a_proof()[:-1] + b"=",
        a_proof() + b" ",
        a_proof().rpartition(b".")[0] + b".",
        compact(b'{"typ":"dpop+jwt","typ":"dpop+jwt"}', {}, PROVER).encode(),
        compact({"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk()}, b"[]", PROVER).encode(),
        compact(
            {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk()}, b'{"htm":"GET","htm":"GET"}', PROVER
        ).encode(),
        compact({"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk(), "x": "a" * 5000}, {}, PROVER).encode(),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_is_no_strict_jwt_is_no_proof(value: bytes) -> None:
    """Check 2, AP-R25: one reading or none."""
    assert is_refused(read_proof(value))


@given(st.binary(max_size=200) | st.text(alphabet="ab.-_=eyJ", max_size=60).map(str.encode))
def test_any_bytes_are_a_proof_or_a_refusal(value: bytes) -> None:
    """Never an exception."""
    assert isinstance(read_proof(value), Proof | Challenge)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["typ", "alg", "jwk", "kid"]), _json | st.just(public_jwk()), max_size=4),
    st.dictionaries(st.sampled_from(["htm", "htu", "iat", "jti", "ath"]), _json, max_size=5),
)
def test_any_json_is_a_proof_or_a_refusal(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """Whatever stands where; and what is read can be judged."""
    good = {"typ": "dpop+jwt", "alg": "ES256", "jwk": public_jwk()}
    for said in (header, {**good, **header}):
        parts = (json.dumps(said).encode("utf-8"), json.dumps(claims).encode("utf-8"), b"x")
        proof = read_proof(".".join(map(b64, parts)).encode())
        if isinstance(proof, Proof):
            assert judge_proof(proof, a_request(), TOKEN, jkt_of(), NOW) is not None


def target(path: bytes) -> Target:
    found = canonical_target(path)
    assert isinstance(found, Target)
    return found


ADDRESSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "as it is": ("https://acme.localhost/", {}),
    "no path": ("https://acme.localhost", {}),
    "upper case": ("HTTPS://ACME.localhost/", {}),
    "trailing dot": ("https://acme.localhost./", {}),
    "default port": ("https://acme.localhost:443/", {}),
    "default port in Host": ("https://acme.localhost/", {"port": 443}),
    "own port": ("https://acme.localhost:8443/", {"port": 8443}),
    "http": ("http://acme.localhost:80/", {"scheme": "http"}),
    "query and fragment are ignored": ("https://acme.localhost/?a=b#c", {}),
    "query of the request is ignored": ("https://acme.localhost/a", {"target": target(b"/a?x=1")}),
    "escapes in another case": ("https://acme.localhost/%c3%a9", {"target": target(b"/%C3%A9")}),
    "escapes of what needs none": ("https://acme.localhost/%61", {"target": target(b"/a")}),
    "trailing slash": ("https://acme.localhost/a/", {"target": target(b"/a/")}),
}


@pytest.mark.parametrize(("htu", "changes"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_spellings_of_the_own_address_are_one(htu: str, changes: dict[str, Any]) -> None:
    """Check 9: compared without query and fragment, each part in its one spelling (RFC 3986 section 6.2)."""
    assert judged(a_request(**changes), htu=htu) is None


OTHER_ADDRESSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "another tenant": ("https://globex.localhost/", {}),
    "a longer host": ("https://acme.localhost.evil.example/", {}),
    "userinfo": ("https://acme.localhost@evil.example/", {}),
    "userinfo of ours": ("https://evil@acme.localhost/", {}),
    "scheme": ("http://acme.localhost/", {}),
    "scheme and port": ("http://acme.localhost:443/", {}),
    "other scheme": ("wss://acme.localhost/", {}),
    "port": ("https://acme.localhost:8443/", {}),
    "port missing": ("https://acme.localhost/", {"port": 8443}),
    "port zero": ("https://acme.localhost:0/", {}),
    "path": ("https://acme.localhost/b", {}),
    "path case": ("https://acme.localhost/A", {"target": target(b"/a")}),
    "path prefix": ("https://acme.localhost/a", {"target": target(b"/a/b")}),
    "trailing slash": ("https://acme.localhost/a", {"target": target(b"/a/")}),
    "dot segments": ("https://acme.localhost/b/../a", {"target": target(b"/a")}),
    "double slash": ("https://acme.localhost//a", {"target": target(b"/a")}),
    "backslash": ("https://acme.localhost\\a", {"target": target(b"/a")}),
    "bad escape": ("https://acme.localhost/%zz", {}),
    "relative": ("/", {}),
    "empty": ("", {}),
    "blank": (" https://acme.localhost/", {}),
    "not ASCII": ("https://acme.localhost/\u00e9", {"target": target(b"/%C3%A9")}),
    "host not ASCII": ("https://acme\u3002localhost/", {}),
}


@pytest.mark.parametrize(("htu", "changes"), OTHER_ADDRESSES.values(), ids=OTHER_ADDRESSES.keys())
def test_any_other_address_is_refused(htu: str, changes: dict[str, Any]) -> None:
    """A proof made for one place is of no use in another (section 11.1), in whatever spelling."""
    assert is_refused(judged(a_request(**changes), htu=htu))


@pytest.mark.parametrize("method", ["POST", "get", "GET ", "", "HEAD"])
def test_another_method_is_refused(method: str) -> None:
    """Check 8: methods are compared exactly."""
    assert is_refused(judged(htm=method))


@pytest.mark.parametrize(
    ("age_s", "is_good"), [(0, True), (MAX_AGE_S, True), (MAX_AGE_S + 1, False), (-MAX_AHEAD_S, True), (-11, False)]
)
def test_a_proof_is_of_this_minute(age_s: float, is_good: bool) -> None:
    """Check 11; a clock that runs ahead is borne for ten seconds."""
    assert (judged(now=NOW + age_s) is None) is is_good


@pytest.mark.parametrize("ath", ["", "x", b64(b"\0" * 32), "fGtyZ2"])
def test_a_proof_of_another_token_is_refused(ath: str) -> None:
    """Check 12: ``ath`` is the token's own digest."""
    assert is_refused(judged(ath=ath))


def test_a_proof_of_another_key_says_so_of_the_token() -> None:
    """Section 7.1: the proof may be good, the token is not for who made it (``invalid_token``)."""
    proof = read(a_proof(TOKEN, NOW, key=Key(None, "EC", 78)))
    assert is_refused(judge_proof(proof, a_request(), TOKEN, jkt_of(), NOW), "invalid_token")


def test_a_refusal_tells_which_algorithms_are_taken() -> None:
    """RFC 9449 section 7.1: by the DPoP scheme, with ``algs``; a refusal by the Bearer scheme has none."""
    refusal = read_proof(b"x")
    assert isinstance(refusal, Challenge)
    fields = dict(problem(refusal, "r1").fields)
    assert fields["WWW-Authenticate"] == (
        'DPoP realm="portero", error="invalid_dpop_proof", error_description="the DPoP proof is not a signed JWT in '
        'compact form", algs="ES256 ES384 ES512 EdDSA PS256 RS256"'
    )
    plain = dict(problem(Challenge(Reason.CREDENTIAL_INVALID, "invalid_token"), "r1").fields)
    assert plain["WWW-Authenticate"].startswith("Bearer realm=")
    assert "algs" not in plain["WWW-Authenticate"]
