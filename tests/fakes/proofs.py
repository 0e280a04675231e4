"""Proofs of possession as clients make them, and lies in their form."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from policies.dpop import thumbprint
from policies.request import AccessRequest, ShownProof
from tests.fakes.identity import a_request
from tests.fakes.provider import Key, b64, compact

PROVER: Final = Key(None, "EC", 77)
ADDRESS: Final = "https://acme.localhost/"


def jkt_of(key: Key = PROVER) -> str:
    """The thumbprint that a provider puts into ``cnf``."""
    jkt = thumbprint(key.jwk())
    if jkt is None:
        raise ValueError("not a public key")
    return jkt


def public_jwk(key: Key = PROVER) -> dict[str, Any]:
    """What stands in a proof's header."""
    return key.jwk(use=None, alg=None)


def a_proof(
    token: str = "token",
    now: float = 1_790_000_000.0,
    *,
    key: Key = PROVER,
    header: dict[str, Any] | None = None,
    without: str = "",
    **claims: Any,
) -> bytes:
    """
    A good proof of ``GET https://acme.localhost/``, but for what is given.

    Args:
        token: that it is for.
        now: when it was made, Unix seconds.
        key: that signs it.
        header: members that replace those of a good one; None leaves one out.
        without: a claim that is left out.
        **claims: that replace those of a good one.
    """
    said = {"typ": "dpop+jwt", "alg": key.alg, "jwk": public_jwk(key), **(header or {})}
    told = {
        "htm": "GET",
        "htu": ADDRESS,
        "iat": int(now),
        "jti": b64(sha256(repr((now, token, sorted(claims.items(), key=str))).encode()).digest()[:12]),
        "ath": b64(sha256(token.encode()).digest()),
        **claims,
    }
    told.pop(without, None)
    return compact({name: value for name, value in said.items() if value is not None}, told, key).encode()


def showing(token: str, proof: bytes | None, scheme: str = "DPoP", **changes: Any) -> AccessRequest:
    """A request as ``read_head`` makes it: with the digest of its credential, and its proof an object of its own."""
    authorization = f"{scheme} {token}".encode()
    return a_request(
        authorization=authorization,
        credential_digest=sha256(authorization).digest(),
        dpop=None if proof is None else ShownProof(proof),
        **changes,
    )
