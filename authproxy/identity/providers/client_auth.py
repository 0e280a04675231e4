"""
How a tenant's client proves itself to a provider: with a secret, with a signature, or not at all.

It decides what is added to one request to a token, introspection, revocation or pushed-request endpoint. It refuses to
know what the request is for. Secrets are read when they are used, so that a rotated one is seen without a restart; they
and what is made of them never stand in a log or an exception.

The audience of a signed assertion is the issuer and nothing else: an assertion for an endpoint's address can be asked
for by whoever gets to name endpoints, and then be used at another provider (draft-ietf-oauth-rfc7523bis section 4;
RFC 7523 section 3 leaves the value to agreement).

Source: RFC 6749 section 2.3.1, RFC 7523 sections 2.2 and 3, OpenID Connect Core section 9.
"""

from __future__ import annotations

import secrets as randomness
from base64 import b64encode
from functools import lru_cache
from typing import Final, NamedTuple, assert_never
from urllib.parse import quote_plus

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authproxy.identity.providers.keys import signing_key
from authproxy.identity.secrets import Secrets, SecretUnavailable
from policies.errors import ProviderUnavailable
from policies.tables import ClientSpec

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LIFETIME_S: Final = 60
"""Used at once; a provider remembers ``jti`` for as long."""
MAX_KEYS: Final = 256
_PREFERRED: Final = ("ES256", "EdDSA", "RS256", "ES384", "ES512")
"""Of the algorithms that fit a key, the first one here: what providers are most likely to take."""
_NO_KEY: Final = "not an unencrypted private key (PEM) that is fit to sign"
_NO_TEXT: Final = "not text in UTF-8"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Proof(NamedTuple):
    """What one request carries to say who the client is."""

    fields: dict[str, str]
    """Of the form."""
    authorization: str | None
    """Value of the Authorization field."""

    def __repr__(self) -> str:
        return f"Proof(fields={sorted(self.fields)})"


def prove(client: ClientSpec, tenant: str, issuer: str, secrets: Secrets, now: float) -> Proof:
    """
    The client's proof for one request to the provider with this issuer; good for that request alone.

    Raises: ProviderUnavailable when the secret cannot be read or is no key; the text is for the log.
    """
    match client.auth:
        case "none":
            return Proof({"client_id": client.client_id}, None)
        case "client_secret_basic":
            pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret_text(client, tenant, secrets))}"
            return Proof({}, f"Basic {b64encode(pair.encode('ascii')).decode('ascii')}")
        case "client_secret_post":
            secret = _secret_text(client, tenant, secrets)
            return Proof({"client_id": client.client_id, "client_secret": secret}, None)
        case "private_key_jwt":
            assertion = _assertion(client, issuer, _secret(client, tenant, secrets), now)
            fields = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
            return Proof({"client_id": client.client_id, **fields}, None)
        case _:
            assert_never(client.auth)


def flaw_of_secret(client: ClientSpec, content: bytes) -> str | None:
    """
    Why this content cannot be the client's secret or key; None when it can. The text never quotes it.

    Source: RFC 6749 appendix A.2 (a client secret is printable ASCII; other text is let pass, line breaks are not).
    """
    if not content:
        return "is empty"
    if client.auth == "private_key_jwt":
        return None if _load(content) else _NO_KEY
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return _NO_TEXT
    if not text.isprintable():
        return "has line breaks or control characters: expected the secret and nothing else"
    if text != text.strip():
        return "begins or ends with a blank: expected the secret and nothing else"
    return None


def _assertion(client: ClientSpec, issuer: str, pem: bytes, now: float) -> str:
    loaded = _load(pem)
    if loaded is None:
        raise ProviderUnavailable(f"secret {client.secret}: {_NO_KEY}")
    key, algorithm = loaded
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": issuer,
        "jti": randomness.token_urlsafe(16),
        "iat": int(now),
        "exp": int(now) + ASSERTION_LIFETIME_S,
    }
    return jwt.encode(claims, key, algorithm=algorithm)


@lru_cache(maxsize=MAX_KEYS)
def _load(pem: bytes) -> tuple[PrivateKey, str] | None:
    """The key and what it signs with; None when it is none. Remembered: checking an RSA key takes milliseconds."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: encrypted
        return None
    if not isinstance(key, PrivateKey):
        return None
    fit = signing_key(key.public_key())
    algorithm = next((name for name in _PREFERRED if fit is not None and name in fit.algorithms), None)
    return None if algorithm is None else (key, algorithm)


def _secret_text(client: ClientSpec, tenant: str, secrets: Secrets) -> str:
    try:
        return _secret(client, tenant, secrets).decode("utf-8")
    except UnicodeDecodeError:
        raise ProviderUnavailable(f"secret {client.secret}: {_NO_TEXT}") from None  # the cause holds the secret


def _secret(client: ClientSpec, tenant: str, secrets: Secrets) -> bytes:
    if client.secret is None:
        raise ProviderUnavailable("the policy names no secret for the client")
    try:
        return secrets.read(tenant, client.secret)
    except SecretUnavailable as error:
        raise ProviderUnavailable(str(error)) from error
