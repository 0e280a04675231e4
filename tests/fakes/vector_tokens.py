"""Credentials of the vectors: who asks becomes an Authorization field, wrong in just the way the case says."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any, Final

from tests.fakes.provider import AUDIENCE, Key, b64, compact
from tests.fakes.vectors import Caller, Tamper
from tests.fakes.world import ISSUER

PROVIDER_KEY: Final = Key("k1")
STRANGERS_KEY: Final = Key("k1", "EC", 1)
"""Says the same key id as the provider's own."""
ACCOUNT_KEYS: Final = {"ci": Key(None, "EC", 77)}


def authorization(caller: Caller | None, issuer: str = ISSUER) -> str | None:
    """
    What the Authorization field says for this caller; None: no field.

    Args:
        caller: as the case has it.
        issuer: of the provider that runs; claims of a case that name the vectors' issuer are left as they are.
    """
    if caller is None:
        return None
    if caller.raw is not None:
        return caller.raw
    now = int(time.time())
    if caller.service_account is not None:
        name = caller.service_account
        key = ACCOUNT_KEYS[name.rpartition("/")[2]]
        account = name if "/" in name else f"acme/{name}"
        claims: dict[str, Any] = {"iss": account, "sub": account, "groups": caller.groups}
    else:
        key = PROVIDER_KEY
        claims = {"iss": issuer, "sub": caller.subject, "groups": caller.groups, "organization": caller.tenants}
        claims |= {"email": caller.email, "email_verified": caller.email_verified}
    claims = {"aud": AUDIENCE, "iat": now, "exp": now + 600} | claims | caller.claims
    header: dict[str, Any] = {"typ": "at+jwt", "alg": key.alg, "kid": key.kid}
    return f"Bearer {_signed(header, claims, key, caller.tamper, now)}"


def _signed(header: dict[str, Any], claims: dict[str, Any], key: Key, tamper: Tamper | None, now: int) -> str:
    match tamper:
        case "expired":
            claims |= {"iat": now - 1000, "exp": now - 5}
        case "future":
            claims["iat"] = now + 300
        case "not-yet":
            claims["nbf"] = now + 300
        case "audience":
            claims["aud"] = "somebody-else"
        case "no-audience":
            claims["aud"] = None
        case "issuer":
            claims["iss"] = "https://elsewhere.test"
        case "type":
            header["typ"] = "logout+jwt"
        case "critical":
            header |= {"crit": ["exp"]}
        case "embedded-key":
            header["jwk"] = STRANGERS_KEY.jwk()
        case "unknown-key":
            header["kid"] = "nobody's"
        case "no-expiry":
            claims["exp"] = None
        case "endless":
            claims["exp"] = now + 400 * 86_400
        case "no-subject":
            claims["sub"] = None
    claims = {name: value for name, value in claims.items() if value is not None}
    header = {name: value for name, value in header.items() if value is not None}
    match tamper:
        case "algorithm-none":
            return f"{b64(json.dumps(header | {'alg': 'none'}).encode())}.{b64(json.dumps(claims).encode())}."
        case "algorithm-hs256":
            # The classic: the public key, which everybody has, taken for a shared secret.
            signing = f"{b64(json.dumps(header | {'alg': 'HS256'}).encode())}.{b64(json.dumps(claims).encode())}"
            return f"{signing}.{b64(hmac.digest(key.public_pem(), signing.encode(), hashlib.sha256))}"
        case "payload":
            head, _, signature = compact(header, claims, key).split(".")
            return f"{head}.{b64(json.dumps(claims | {'groups': ['sre']}).encode())}.{signature}"
        case "signature" | "unknown-key" | "embedded-key":
            return compact(header, claims, STRANGERS_KEY)
        case _:
            return compact(header, claims, key)
