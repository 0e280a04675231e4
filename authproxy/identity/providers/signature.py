"""
Has this key signed exactly these bytes? Shared by everything that reads a compact JWS of a stranger.

Only the signature is PyJWT's business here: its claim checks take strings for numbers and the last of two members, so
what the bytes mean is judged from strict JSON by ``policies``. Refuses to know whose key it is.

Source: RFC 7515 section 5.2; rule AP-R25.
"""

from __future__ import annotations

from typing import Final, Protocol

import jwt

from authproxy.identity.providers.keys import SigningKey
from policies.tokens import ALGORITHMS

_jws: Final = jwt.PyJWS(algorithms=sorted(ALGORITHMS))


class SignedHeader(Protocol):
    """What has been read of the token already."""

    @property
    def alg(self) -> str:
        """Allowed by the reader; one that does not fit the key is no signature."""

    @property
    def payload(self) -> bytes:
        """The decoded second part, as the claims were read from it."""


def is_signed(token: str, key: SigningKey, header: SignedHeader) -> bool:
    """Whether ``key`` signed the token (compact form) and exactly the bytes that were read. Never raises."""
    if header.alg not in key.algorithms:
        return False
    try:
        signed = _jws.decode(
            token,
            key.key,
            algorithms=[header.alg],
            options={"verify_signature": True, "enforce_minimum_key_length": True},
        )
    except (jwt.PyJWTError, ValueError, TypeError):  # cryptography's own for a signature of a wrong shape
        return False
    return bool(signed == header.payload)
