# ruff: noqa: INP001 - pasted into functions, never installed
"""
Paste this into a function: who is calling, proven by Portero's signature and not by a header that anybody could send.

    caller = verify(request.headers.get("X-Portero-Assertion"))     # {"sub": "login|ana", "groups": [...], ...}

Needs PyJWT and cryptography (pip install "pyjwt[crypto]"). Raises jwt.PyJWTError for a missing, forged or expired
assertion, and for one made for another function or tenant: answer 401 then.
"""

from typing import Any

import jwt

JWKS_URL = "https://acme.example/.portero/jwks.json"  # of your tenant's own host
TENANT = "acme"
FUNCTION = "acme/survey-report"  # <namespace>/<function>

keys = jwt.PyJWKClient(JWKS_URL, lifespan=300, timeout=5)  # asks again for a key that it does not know


def verify(assertion: str | None) -> dict[str, Any]:
    """The claims: sub (provider|user), groups, email and name where known, iat, exp."""
    if not assertion:
        raise jwt.InvalidTokenError("the request did not come through Portero, or nobody is logged in")
    key = keys.get_signing_key_from_jwt(assertion)
    whole = jwt.decode_complete(
        assertion,
        key,
        algorithms=["ES256", "EdDSA"],
        issuer=f"urn:portero:{TENANT}",
        audience=f"function:{FUNCTION}",
        leeway=10,
        options={"require": ["exp", "iat", "sub", "aud", "iss"], "strict_aud": True},
    )
    if whole["header"].get("typ") != "portero-assertion+jwt":
        raise jwt.InvalidTokenError("a token of another kind")
    return dict(whole["payload"])
