"""
A DPoP proof: does it say that the holder of one key sends this very request with this very token?

``read_proof`` takes the proof apart and ``judge_proof`` compares it with the request, the token and the clock. Neither
proves anything alone: that the proof's own key has signed it is verified outside (``identity.tokens.dpop``), and that
it is shown for the first time is asked of a store (AP-R26). This module refuses to know both, and it gives out no
nonces (section 8 makes them optional): a proof is good for one use within the minute, which bounds what made-ahead
proofs are worth.

Source: RFC 9449 sections 4.2, 4.3 and 7.1; RFC 7638; RFC 7517 section 4; RFC 3986 section 6.2; rules AP-R25, R38, R44.
"""

from __future__ import annotations

import json
import re
from binascii import b2a_base64
from collections.abc import Mapping
from hashlib import sha256
from math import isfinite
from typing import Any, Final, NamedTuple

from policies.decision import Challenge, Deny, Reason
from policies.host import canonical_host
from policies.request import AccessRequest
from policies.strict_json import NotStrict, read_object
from policies.target import canonical_target
from policies.tokens import decode_segment

PROOF_ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "RS256")
"""What proofs may be signed with; all asymmetric. Told to clients in ``algs``."""
MAX_AGE_S: Final = 60.0
"""How long after ``iat`` a proof is taken; it is remembered as used for as long."""
MAX_AHEAD_S: Final = 10.0
"""How far a client's clock may run ahead."""
MAX_JTI_CHARS: Final = 128
_MAX_HEADER_BYTES: Final = 4 * 1024
"""An RSA key of 8192 bits has 1.4 KiB."""
_MAX_CLAIMS_BYTES: Final = 4 * 1024
_MAX_HTU_CHARS: Final = 2048

_THUMBPRINT_MEMBERS: Final = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
"""Per kind of key, in the order of RFC 7638 section 3.2."""
_SECRET_MEMBERS: Final = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth", "k"))
_HEADER_MEMBERS: Final = frozenset(("typ", "alg", "jwk"))
_FOREIGN_MEMBERS: Final = frozenset(("jku", "x5u", "x5c", "b64", "crit", "zip", "enc"))
_HTU: Final = re.compile(r"(https?)://([^/?#@\\]+)(/[^?#]*)?(?:\?[^#]*)?(?:#.*)?", re.ASCII | re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _refuse(detail: str) -> Challenge:
    return Challenge(Reason.CREDENTIAL_INVALID, "invalid_dpop_proof", detail, scheme="DPoP")


NO_PROOF: Final = _refuse("the request brings no DPoP proof")
NOT_SIGNED: Final = _refuse("the DPoP proof is not signed by the key it names")
USED: Final = _refuse("the DPoP proof has been used before")
_NOT_A_JWT: Final = _refuse("the DPoP proof is not a signed JWT in compact form")
_BAD_HEADER: Final = _refuse("the DPoP proof's header is not acceptable")
_BAD_TYPE: Final = _refuse("the DPoP proof's type is not dpop+jwt")
_BAD_ALGORITHM: Final = _refuse("the DPoP proof's algorithm is not acceptable")
_BAD_KEY: Final = _refuse("the DPoP proof's key is not one public key")
_BAD_CLAIMS: Final = _refuse("the DPoP proof's claims are not acceptable")
_OTHER_METHOD: Final = _refuse("the DPoP proof is for another method")
_OTHER_ADDRESS: Final = _refuse("the DPoP proof is for another address")
_TOO_OLD: Final = _refuse("the DPoP proof is too old")
_FROM_THE_FUTURE: Final = _refuse("the DPoP proof was made in the future")
_OTHER_TOKEN: Final = _refuse("the DPoP proof is for another token")
OTHER_KEY: Final = Challenge(
    Reason.CREDENTIAL_INVALID, "invalid_token", "the token is bound to another key than the proof's", scheme="DPoP"
)


class Proof(NamedTuple):
    """What a proof says. Its signature is not verified yet."""

    alg: str
    """One of ``PROOF_ALGORITHMS``."""
    jwk: Mapping[str, Any]
    """The public key that it names; it may only disprove what it has signed."""
    thumbprint: str
    """Of the key (RFC 7638), base64url."""
    payload: bytes
    """The bytes that the claims were read from; a verifier must find exactly these signed."""
    method: str
    address: str
    """``htu`` as written."""
    issued_at: float
    jti: str
    token_digest: str
    """``ath``."""


def read_proof(value: bytes) -> Proof | Challenge:
    """
    The proof in a DPoP field's value, or why it is none. Never raises, whatever the bytes.

    Source: RFC 9449 section 4.3, checks 2 to 5 and 7; section 4.2 for the members.
    """
    if not value.isascii():
        return _NOT_A_JWT
    segments = value.decode("ascii").split(".", 3)
    if len(segments) != 3:
        return _NOT_A_JWT
    header_bytes, payload = decode_segment(segments[0]), decode_segment(segments[1])
    if header_bytes is None or payload is None or decode_segment(segments[2]) is None:
        return _NOT_A_JWT
    try:
        header = read_object(header_bytes, _MAX_HEADER_BYTES)
        claims = read_object(payload, _MAX_CLAIMS_BYTES)
    except NotStrict:
        return _BAD_HEADER
    if not header.keys() >= _HEADER_MEMBERS or not _FOREIGN_MEMBERS.isdisjoint(header):
        return _BAD_HEADER
    if header["typ"] != "dpop+jwt":
        return _BAD_TYPE
    algorithm, jwk = header["alg"], header["jwk"]
    if algorithm not in PROOF_ALGORITHMS:
        return _BAD_ALGORITHM
    key = thumbprint(jwk) if isinstance(jwk, dict) else None
    if key is None:
        return _BAD_KEY
    match claims:
        case {"htm": str(method), "htu": str(address), "jti": str(jti), "ath": str(token_digest), "iat": issued_at}:
            is_good = all(map(str.isprintable, (method, address, jti, token_digest))) and _is_instant(issued_at)
            if is_good and 0 < len(jti) <= MAX_JTI_CHARS and len(address) <= _MAX_HTU_CHARS:
                return Proof(algorithm, jwk, key, payload, method, address, float(issued_at), jti, token_digest)
    return _BAD_CLAIMS


def judge_proof(proof: Proof, request: AccessRequest, token: str, jkt: str, now: float) -> Challenge | None:
    """
    Whether the proof is of this request, of this token and of the key that the token is bound to, and of this minute.

    Args:
        proof: as ``read_proof`` gave it.
        request: that brought it.
        token: the access token, as shown.
        jkt: the key's thumbprint in the token's ``cnf``.
        now: Unix seconds.

    Returns: the refusal; None when nothing speaks against it but its signature and its second use.

    Source: RFC 9449 section 4.3, checks 8, 9, 11 and 12.
    """
    if proof.thumbprint != jkt:
        return OTHER_KEY
    if proof.token_digest != _base64url(sha256(token.encode("ascii", "replace")).digest()):
        return _OTHER_TOKEN
    if proof.method != request.method:
        return _OTHER_METHOD
    if not _is_address_of(proof.address, request):
        return _OTHER_ADDRESS
    if proof.issued_at > now + MAX_AHEAD_S:
        return _FROM_THE_FUTURE
    return None if now - proof.issued_at <= MAX_AGE_S else _TOO_OLD


def thumbprint(jwk: Mapping[str, Any]) -> str | None:
    """
    SHA-256 thumbprint of a public key as JWK, base64url; None for what is no public key, or says more than it may.

    Source: RFC 7638 sections 3 and 3.3 (members of the kind alone, in the order of their names, without blanks).
    """
    kind = jwk.get("kty")
    members = _THUMBPRINT_MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None or not _SECRET_MEMBERS.isdisjoint(jwk):
        return None
    chosen = {name: jwk.get(name) for name in members}
    for name, value in chosen.items():
        if not isinstance(value, str) or not value.isascii():
            return None
        if name not in ("kty", "crv") and decode_segment(value) is None:
            return None  # a second spelling of one key would be a second thumbprint
    return _base64url(sha256(json.dumps(chosen, separators=(",", ":"), sort_keys=True).encode()).digest())


def _is_address_of(htu: str, request: AccessRequest) -> bool:
    """
    Whether ``htu`` is the request's own address, query and fragment aside, each part in its one spelling.

    Ports that are the scheme's own are none, an empty path is ``/``; what our own grammars refuse is no address.
    """
    found = _HTU.fullmatch(htu)
    if found is None:
        return False
    scheme, authority, path = found[1].lower(), found[2], found[3] or "/"
    host = canonical_host(authority) if authority.isascii() else None
    if host is None:
        return False
    _, colon, port = authority.rpartition("]")[2].partition(":")
    default = _DEFAULT_PORTS[scheme]
    own_port = _DEFAULT_PORTS.get(request.scheme) if request.port is None else request.port
    if (scheme, host, int(port) if colon else default) != (request.scheme, request.host, own_port):
        return False
    target = canonical_target(path.encode("utf-8", "surrogatepass"))
    return not isinstance(target, Deny) and target.path == request.target.path


def _is_instant(value: Any) -> bool:
    """A bool is an int to Python, and a string a number to many libraries."""
    return (type(value) is int and abs(value) < 2**53) or (type(value) is float and isfinite(value))


def _base64url(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii").rstrip("=").translate(str.maketrans("+/", "-_"))
