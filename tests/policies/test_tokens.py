"""What disqualifies a token before any key is touched, and how the Authorization field is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Challenge, Reason
from policies.tokens import (
    MAX_AUTHORIZATION_BYTES,
    Credential,
    UnverifiedHeader,
    inspect,
    is_opaque,
    read_authorization,
    unverified_issuer,
)
from tests.fakes.provider import b64

HEADER = {"alg": "ES256", "kid": "k1", "typ": "JWT"}
CLAIMS = {"iss": "https://id.example", "sub": "ana"}


def unsigned(header: Any = HEADER, claims: Any = CLAIMS, signature: str = "c2ln") -> str:
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return ".".join((*map(b64, parts), signature))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    """RFC 9110 section 11.1: scheme names are compared without case."""
    assert read_authorization(scheme + b" a.b-c_d~e+f/g==") == Credential("Bearer", "a.b-c_d~e+f/g==")


@pytest.mark.parametrize("scheme", [b"DPoP", b"dpop", b"DPOP"])
def test_a_token_may_be_shown_with_a_proof(scheme: bytes) -> None:
    """RFC 9449 section 7.1: the scheme says how the token is shown, and nothing is proven by it."""
    assert read_authorization(scheme + b" a.b.c") == Credential("DPoP", "a.b.c")


def test_no_field_is_no_credential() -> None:
    """Only absence is absence."""
    assert read_authorization(None) is None


@pytest.mark.parametrize(
    ("field", "error"),
    [
        pytest.param(b"", "invalid_request", id="empty"),
        pytest.param(b"  ", "invalid_request", id="blank"),
        pytest.param(b"Bearer", "invalid_request", id="alone"),
        pytest.param(b"Bearer ", "invalid_request", id="no token"),
        pytest.param(b"Bearer  abc", "invalid_request", id="two spaces"),
        pytest.param(b"Bearer\tabc", "invalid_request", id="tab"),
        pytest.param(b"Bearer abc ", "invalid_request", id="trailing space"),
        pytest.param(b"Bearer abc\n", "invalid_request", id="trailing newline"),
        pytest.param(b"Bearer abc\x00", "invalid_request", id="NUL"),
        pytest.param(b"Bearer abc, Bearer def", "invalid_request", id="two tokens"),
        pytest.param(b"Bearer abc def", "invalid_request", id="two words"),
        pytest.param(b'Bearer token="abc"', "invalid_request", id="parameter"),
        pytest.param(b"Bearer =", "invalid_request", id="padding only"),
        pytest.param(b"Bearer a=b", "invalid_request", id="padding inside"),
        pytest.param("Bearer é".encode(), "invalid_request", id="UTF-8"),
        pytest.param(b"Bearer \xff", "invalid_request", id="bytes"),
        pytest.param(b"Bearer:abc", "invalid_request", id="colon"),
        pytest.param(b"Bearer " + b"a" * MAX_AUTHORIZATION_BYTES, "invalid_request", id="too long"),
        pytest.param(b" Bearer abc", None, id="leading space"),
        pytest.param(b"Basic YTpi", None, id="Basic"),
        pytest.param(b"Bearers abc", None, id="another scheme"),
        pytest.param(b"DPoP", "invalid_request", id="DPoP alone"),
        pytest.param(b"DPoP  abc", "invalid_request", id="DPoP, two spaces"),
        pytest.param(b"DPoP abc, Bearer def", "invalid_request", id="two schemes"),
        pytest.param(b"DPoPs abc", None, id="like DPoP"),
        pytest.param(b"abc", None, id="bare token"),
    ],
)
def test_a_field_that_is_not_one_bearer_token_is_refused(field: bytes, error: str | None) -> None:
    """AP-R38 and R40: one grammar, and what does not fit it is a bad credential, never none."""
    refusal = read_authorization(field)
    assert isinstance(refusal, Challenge)
    assert refusal.reason is Reason.CREDENTIAL_INVALID
    assert refusal.error == error


@given(st.binary(max_size=200))
def test_any_bytes_in_the_field_give_an_answer(field: bytes) -> None:
    """Hostile bytes give a token or a refusal, never an exception."""
    assert isinstance(read_authorization(field), str | Challenge)


def test_a_token_tells_what_it_claims() -> None:
    """What is returned proves nothing, and is what was written."""
    found = inspect(unsigned())
    assert found == UnverifiedHeader("ES256", "k1", "https://id.example", json.dumps(CLAIMS).encode(), CLAIMS)


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_types_of_access_tokens_are_taken(kind: str) -> None:
    """RFC 9068 section 2.1 and RFC 7515 section 4.1.9: media types have no case."""
    assert isinstance(inspect(unsigned({**HEADER, "typ": kind})), UnverifiedHeader)


def test_type_and_kid_may_be_absent() -> None:
    """RFC 7515: both are optional."""
    found = inspect(unsigned({"alg": "RS256"}))
    assert isinstance(found, UnverifiedHeader)
    assert found.kid is None


BAD_HEADERS = {
    **{
        f"alg {alg!r}": {"alg": alg}
        for alg in ("none", "None", "nOnE", "NONE", "", "HS256", "HS512", "ES256K", "es256")
    },
    **{f"alg {alg!r}": {"alg": alg} for alg in (None, 7, True, ["ES256"], {"ES256": 1}, "RSA-OAEP", "dir", "Ed25519")},
    **{name: {name: "x"} for name in ("jku", "x5u", "x5c", "jwk", "b64", "crit")},
    "b64 true": {"b64": True},
    "b64 false": {"b64": False, "crit": ["b64"]},
    "crit empty": {"crit": []},
    **{f"typ {kind!r}": {"typ": kind} for kind in ("logout+jwt", "dpop+jwt", "JOSE", "id+jwt", "", None, 7, ["JWT"])},
    **{
        f"kid {kid!r}": {"kid": kid}
        for kid in ("", None, 7, ["k1"], {"k": 1}, "k\x001", "k\n1", "k\u20281", "k\ud8001")
    },
    "kid long": {"kid": "k" * 257},
    "kid very long": {"kid": "k" * 3000},
    "header long": {"x": "x" * 2048},
    "header deep": {"x": json.loads("[" * 20 + "]" * 20)},
}


@pytest.mark.parametrize("members", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_header_that_chooses_its_own_rules_is_refused(members: dict[str, Any]) -> None:
    """AP-R44, RFC 8725 sections 3.1 and 3.10: keys and algorithms are ours to choose."""
    refusal = inspect(unsigned({**HEADER, **members}))
    assert isinstance(refusal, Challenge)
    assert refusal.error == "invalid_token"


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "' OR 1=1 --", "k" * 256, "ключ", "http://evil/", "a b", "{acme}:rl"], ids=repr
)
def test_a_kid_is_only_a_name(kid: str) -> None:
    """A strange kid is not refused for its letters: it is only ever looked up."""
    found = inspect(unsigned({**HEADER, "kid": kid}))
    assert isinstance(found, UnverifiedHeader)
    assert found.kid == kid


BAD_TOKENS = {
    "empty": "",
    "dots": "..",
    "one segment": "abc",
    "two segments": "abc.def",
    "four segments": unsigned() + ".x",
    "five segments": "a.b.c.d.e",
    "many segments": "a." * 4000 + "a",
    "no signature": unsigned(signature=""),
    "signature padded": unsigned(signature="c2ln=="),
    "spare bits": unsigned(signature="c2lnc2m"),
    "length 1 mod 4": unsigned(signature="c2lnc"),
    "standard alphabet": unsigned(signature="+/+/"),
    "space": unsigned(signature="c2 n"),
    "too long": unsigned(signature="A" * 16384),
    "header not JSON": unsigned(b"x"),
    "header array": unsigned([1]),
    "header string": unsigned("ES256"),
    "header null": unsigned(None),
    "header empty": unsigned({}),
    "header twice alg": unsigned(b'{"alg":"none","alg":"ES256"}'),
    "header escaped twice": unsigned(b'{"alg":"ES256","\\u0061lg":"none"}'),
    "header UTF-16": unsigned(json.dumps(HEADER).encode("utf-16")),
    "header BOM": unsigned(b"\xef\xbb\xbf" + json.dumps(HEADER).encode()),
    "header bytes": unsigned(b'{"alg":"ES256","x":"\xff"}'),
    "header trailing": unsigned(json.dumps(HEADER).encode() + b"x"),
    "claims not JSON": unsigned(claims=b"x"),
    "claims array": unsigned(claims=[CLAIMS]),
    "claims string": unsigned(claims="x"),
    "claims twice": unsigned(claims=b'{"iss":"https://id.example","iss":"https://other.example"}'),
    "claims twice inside": unsigned(claims=b'{"iss":"i","a":{"b":1,"b":2}}'),
    "claims NaN": unsigned(claims=b'{"iss":"i","exp":NaN}'),
    "claims Infinity": unsigned(claims=b'{"iss":"i","exp":Infinity}'),
    "claims -Infinity": unsigned(claims=b'{"iss":"i","exp":-Infinity}'),
    "claims 1e999": unsigned(claims=b'{"iss":"i","exp":1e999}'),
    "claims digits": unsigned(claims=b'{"iss":"i","exp":' + b"9" * 5000 + b"}"),
    "claims deep": unsigned(claims=b'{"iss":"i","a":' + b"[" * 17 + b"]" * 17 + b"}"),
    "claims very deep": unsigned(claims=b'{"iss":"i","a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "claims surrogate": unsigned(claims=b'{"iss":"i","sub":"\\ud800"}'),
    "claims surrogate name": unsigned(claims=b'{"iss":"i","\\udfff":1}'),
    "claims surrogate deep": unsigned(claims=b'{"iss":"i","a":[[["\\ud800"]]]}'),
    "claims NUL": unsigned(claims=b'{"iss":"i"}\x00'),
    "nested token": unsigned(claims=unsigned().encode()),
    "no issuer": unsigned(claims={"sub": "ana"}),
    "issuer number": unsigned(claims={"iss": 7}),
    "issuer list": unsigned(claims={"iss": ["https://id.example"]}),
    "issuer empty": unsigned(claims={"iss": ""}),
    "issuer null": unsigned(claims={"iss": None}),
}


@pytest.mark.parametrize("token", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
def test_what_parsers_could_read_differently_is_refused(token: str) -> None:
    """RFC 8725 section 3.12, AP-R25: one strict reading or none; the refusal quotes nothing."""
    refusal = inspect(token)
    assert isinstance(refusal, Challenge)
    assert (refusal.reason, refusal.error) == (Reason.CREDENTIAL_INVALID, "invalid_token")
    assert "evil" not in refusal.detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(json_values, json_values, st.text(max_size=20))
def test_any_token_gives_an_answer(header: Any, claims: Any, signature: str) -> None:
    """Whatever stands in the segments, there is an answer and no exception."""
    assert isinstance(inspect(unsigned(header, claims, signature)), UnverifiedHeader | Challenge)


@given(st.text(max_size=100))
def test_any_text_gives_an_answer(token: str) -> None:
    """Whatever the token is, there is an answer and no exception."""
    assert isinstance(inspect(token), UnverifiedHeader | Challenge)


@pytest.mark.parametrize(
    ("token", "is_it"),
    [
        ("2YotnFZFEjr1zCsicMWpAA", True),
        ("a.b", True),
        ("a.b.c", True),
        ("a.b.c.d", True),
        (f"{b64(b'[1]')}.b.c", True),
        (f"{b64(b'x')}.b.c", True),
        (f"{b64(b'{')}.b", True),
        ("..", True),
        (unsigned(), False),
        (f"{b64(b'{')}.b.c", False),
        (f"{b64(b' {broken')}.", True),
        (f"{b64(b'{}')}..", False),
        (unsigned(header=b'{"alg":"none"}'), False),
    ],
)
def test_only_what_does_not_begin_as_a_jwt_is_opaque(token: str, is_it: bool) -> None:
    """A forged or damaged JWT is never handed to introspection instead of being refused."""
    assert is_opaque(token) is is_it


@pytest.mark.parametrize(
    ("token", "issuer"),
    [
        (unsigned(), "https://id.example"),
        (unsigned(claims={"iss": "urn:portero:acme"}), "urn:portero:acme"),
        (unsigned(claims={}), None),
        (unsigned(claims={"iss": 7}), None),
        (unsigned(claims={"iss": ["urn:portero:acme"]}), None),
        (unsigned(claims=b'{"iss":"a","iss":"b"}'), None),
        (unsigned(claims=b"[]"), None),
        ("opaque", None),
        ("a.b.c", None),
        ("", None),
    ],
)
def test_the_issuer_a_token_names_proves_nothing(token: str, issuer: str | None) -> None:
    """It is read strictly, or it is none: two readers must not see two issuers."""
    assert unverified_issuer(token) == issuer


@given(st.text(max_size=60))
def test_any_text_is_one_kind_of_token(token: str) -> None:
    """Never an exception, and what is opaque is no JWT that could be verified."""
    unverified_issuer(token)
    if is_opaque(token):
        assert isinstance(inspect(token), Challenge)
