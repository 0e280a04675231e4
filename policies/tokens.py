"""
Question 2, as far as it can be judged without a key: is this an access token that may be verified at all?

``read_authorization`` and ``inspect`` look at what is not yet believed and only ever refuse; nothing they return proves
anything. The signature is verified outside (``authproxy.identity``), and what the claims then are worth is decided by
``claims.judge_claims``. This module refuses to know keys, providers and clocks.

Which error code (RFC 6750 section 3.1), always with status 401:

- another scheme than Bearer and DPoP: none, as for a caller who did not know what is asked of him;
- a field that is not the scheme, SP and a token: ``invalid_request``;
- a token that is malformed, forged, expired or not meant for us: ``invalid_token``;
- a proof of possession that is none: ``invalid_dpop_proof`` (``dpop``).

Source: RFC 6750 section 2.1, RFC 7515 sections 4 and 5, RFC 7519, RFC 8725, RFC 9068 section 2.1, RFC 9449 section 7.1;
rules AP-R38, R40 and R44.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any, Final, Literal, NamedTuple

from policies.claims import judge_claims
from policies.decision import Challenge, Reason
from policies.strict_json import NotStrict, read_object

MAX_AUTHORIZATION_BYTES: Final = 8 * 1024
"""Of the whole field value; common servers take 8 KiB a field, Kerberos-sized tokens excepted."""
MAX_TOKEN_CHARS: Final = 16 * 1024
"""Of a token that came another way than by the field."""
MAX_HEADER_BYTES: Final = 2 * 1024
MAX_KID_CHARS: Final = 256

ALGORITHMS: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
)
"""Every algorithm that is ever verified. All are asymmetric: a public key must never be able to serve as a secret."""
ACCESS_TOKEN_TYPES: Final = frozenset(("jwt", "at+jwt", "application/at+jwt"))
"""Lower case. Absent is allowed too; ``logout+jwt``, ``dpop+jwt`` and whatever else are other kinds of token."""
REFUSED_HEADER_MEMBERS: Final = frozenset(("jku", "x5u", "x5c", "jwk", "b64", "crit"))
"""Members by which a token would choose its own key, or change how it is to be read."""

Scheme = Literal["Bearer", "DPoP"]

_B64TOKEN: Final = re.compile(rb"[A-Za-z0-9\-._~+/]+=*")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_TO_BASE64: Final = str.maketrans("-_", "+/")


class Credential(NamedTuple):
    """What the Authorization field holds, unproven."""

    scheme: Scheme
    """How the token is shown; whether it may be shown like that depends on what it is bound to (``identity.bound``)."""
    token: str

    def __repr__(self) -> str:
        return f"Credential({self.scheme})"


class UnverifiedHeader(NamedTuple):
    """What a token says of itself. None of it is proven; it may only choose which key *disproves* it."""

    alg: str
    """One of ``ALGORITHMS``."""
    kid: str | None
    """Printable, 1..256 characters; only ever a key of a dict (R44)."""
    issuer: str
    payload: bytes
    """The bytes that ``claims`` were read from; a verifier must find exactly these signed."""
    claims: dict[str, Any]

    def __repr__(self) -> str:
        return f"UnverifiedHeader({self.alg})"


def refuse(detail: str, error: str | None = "invalid_token") -> Challenge:
    """A credential that is present and bad; ``detail`` is a constant sentence that quotes nothing."""
    return Challenge(Reason.CREDENTIAL_INVALID, error, detail)


_OTHER_SCHEME: Final = refuse("the Authorization scheme is neither Bearer nor DPoP", None)
_BAD_FIELD: Final = refuse("the Authorization field is not the scheme, one space and a token", "invalid_request")
_FIELD_TOO_LONG: Final = refuse("the Authorization field is longer than 8 KiB", "invalid_request")
_NOT_A_JWT: Final = refuse("the token is not a signed JWT in compact form")
_TOO_LONG: Final = refuse("the token is too long")
_BAD_HEADER: Final = refuse("the token's header is not acceptable")
_BAD_TYPE: Final = refuse("the token is of another type than an access token")
_BAD_ALGORITHM: Final = refuse("the token's algorithm is not acceptable")
_BAD_CLAIMS: Final = refuse("the token's claims are not one strict JSON object")
_NO_ISSUER: Final = refuse("the token names no issuer")


def read_authorization(value: bytes | None) -> Credential | Challenge | None:
    """
    Take the access token out of the Authorization field.

    Returns: the token with its scheme; None when there is no field; a refusal for anything else, since a credential
    that is present and cannot be read must not be taken for none. Two tokens in one field never fit the grammar (R38).

    Source: RFC 6750 section 2.1, RFC 9449 section 7.1, RFC 9110 section 11.4 (the scheme is case-insensitive).
    """
    if value is None:
        return None
    if len(value) > MAX_AUTHORIZATION_BYTES:
        return _FIELD_TOO_LONG
    scheme: Scheme
    if value[:6].lower() == b"bearer":
        scheme, size = "Bearer", 6
    elif value[:4].lower() == b"dpop":
        scheme, size = "DPoP", 4
    else:
        return _OTHER_SCHEME if value.strip() else _BAD_FIELD
    if value[size : size + 1] != b" ":
        # "Bearer" alone or with a tab is a broken Bearer; "BearerX" is the name of some other scheme.
        return _OTHER_SCHEME if value[size : size + 1].isalnum() else _BAD_FIELD
    token = value[size + 1 :]
    if _B64TOKEN.fullmatch(token) is None:
        return _BAD_FIELD
    return Credential(scheme, token.decode("ascii"))


def is_opaque(token: str) -> bool:
    """
    Whether a token is something else than a JWT, so that only who gave it out can say what it means (RFC 7662).

    Three parts of which the first is base64url of what begins like an object: that much a signed JWT shows, and a token
    that is damaged behind it is a bad JWT and not an opaque token.
    """
    header, dot, rest = token.partition(".")
    if not dot or rest.count(".") != 1:
        return True
    return not (decode_segment(header) or b"").lstrip(b" \t\r\n").startswith(b"{")


def unverified_issuer(token: str) -> str | None:
    """``iss`` of a JWT, believed by nobody: it may choose who *disproves* the token. None when it names none."""
    if len(token) > MAX_TOKEN_CHARS:
        return None
    payload = decode_segment(token.partition(".")[2].partition(".")[0])
    try:
        issuer = read_object(payload or b"", MAX_TOKEN_CHARS).get("iss")
    except NotStrict:
        return None
    return issuer if isinstance(issuer, str) else None


def inspect(token: str) -> UnverifiedHeader | Challenge:
    """
    Everything that disqualifies a token before any key is touched.

    Source: RFC 7515 section 5.2 steps 1 to 6; RFC 8725 sections 3.1, 3.10 and 3.11.
    """
    if len(token) > MAX_TOKEN_CHARS:
        return _TOO_LONG
    segments = token.split(".", 3)
    if len(segments) != 3:
        return _NOT_A_JWT
    header_bytes = decode_segment(segments[0])
    payload = decode_segment(segments[1])
    if header_bytes is None or payload is None or decode_segment(segments[2]) is None:
        return _NOT_A_JWT
    try:
        header = read_object(header_bytes, MAX_HEADER_BYTES)
    except NotStrict:
        return _BAD_HEADER
    if (refusal := _judge_header(header)) is not None:
        return refusal
    try:
        claims = read_object(payload, MAX_TOKEN_CHARS)
    except NotStrict:
        return _BAD_CLAIMS
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer:
        return _NO_ISSUER
    return UnverifiedHeader(header["alg"], header.get("kid"), issuer, payload, claims)


def _judge_header(header: dict[str, Any]) -> Challenge | None:
    if not REFUSED_HEADER_MEMBERS.isdisjoint(header):
        return _BAD_HEADER
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        return _BAD_ALGORITHM
    if "typ" in header:
        kind = header["typ"]
        if not isinstance(kind, str) or kind.lower() not in ACCESS_TOKEN_TYPES:
            return _BAD_TYPE
    if "kid" in header:
        kid = header["kid"]
        if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_CHARS or not kid.isprintable():
            return _BAD_HEADER
    return None


def decode_segment(segment: str) -> bytes | None:
    """Base64url without padding and with zero spare bits (RFC 7515 section 2): one spelling per value, else None."""
    if _SEGMENT.fullmatch(segment) is None or len(segment) % 4 == 1:
        return None
    padded = segment.translate(_TO_BASE64) + "=" * (-len(segment) % 4)
    try:
        decoded = a2b_base64(padded, strict_mode=True)
    except (Base64Error, ValueError):
        return None
    return decoded if b2a_base64(decoded, newline=False).decode("ascii") == padded else None


__all__ = [
    "ALGORITHMS",
    "Credential",
    "Scheme",
    "UnverifiedHeader",
    "decode_segment",
    "inspect",
    "is_opaque",
    "judge_claims",
    "read_authorization",
    "refuse",
    "unverified_issuer",
]
