"""
Tokens that are bound to a key or to a certificate: has the bearer of this one shown that it is his?

What a token is bound to was read from its verified claims (``Principal.confirmation``) and is never ignored: a token of
a key is taken by the ``DPoP`` scheme with a proof and in no other way, and one of a certificate over a connection that
was made with that very certificate, or behind a trusted peer that says so. A token that is bound to nothing is no DPoP
token, so that ``DPoP`` never means less than it says. A bond to both is proven twice.

Refuses to know how tokens are verified. Source: RFC 9449 sections 7.1 and 7.2 (no downgrade to ``Bearer``); RFC 8705
section 3; rule AP-R37.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Final

from authproxy.identity.shared.state import StateStore
from authproxy.identity.tokens.dpop import refuse_proof
from policies.decision import Challenge, Reason
from policies.principal import Principal
from policies.request import AccessRequest, ShownProof
from policies.tokens import refuse

_AS_BEARER: Final = Challenge(
    Reason.CREDENTIAL_INVALID,
    "invalid_token",
    "the token is bound to a key: show it by DPoP, with a proof",
    None,
    "DPoP",
)
_NOT_BOUND: Final = Challenge(
    Reason.CREDENTIAL_INVALID, "invalid_token", "the token is not bound to a key", None, "DPoP"
)
_NO_CERTIFICATE: Final = refuse("the token is bound to a client certificate, and the connection has none")
_OTHER_CERTIFICATE: Final = refuse("the token is bound to another client certificate")


def is_dpop(request: AccessRequest) -> bool:
    """Whether the token is shown by the ``DPoP`` scheme."""
    return request.authorization is not None and request.authorization[:4].lower() == b"dpop"


def refuse_bond(principal: Principal, request: AccessRequest) -> Challenge | None:
    """
    Why the token may not be shown like this, proof aside; None when nothing speaks against it.

    Args:
        principal: whom the verified token names.
        request: that shows it.
    """
    confirmation = principal.confirmation
    has_key = confirmation is not None and confirmation.jkt is not None
    if has_key != is_dpop(request):
        return _AS_BEARER if has_key else _NOT_BOUND
    if confirmation is None or confirmation.x5t is None:
        return None
    if request.certificate is None:
        return _NO_CERTIFICATE
    shown = urlsafe_b64encode(request.certificate).rstrip(b"=").decode("ascii")
    return None if shown == confirmation.x5t else _OTHER_CERTIFICATE


def is_proven(principal: Principal, tenant: str, request: AccessRequest) -> bool:
    """Whether no proof is needed, or this very request's has been taken before (it was held, or it streams)."""
    if principal.confirmation is None or principal.confirmation.jkt is None:
        return True
    shown = request.dpop
    return isinstance(shown, ShownProof) and shown.accepted_for == (tenant, digest_of(request))


async def refuse_possession(
    state: StateStore, principal: Principal, tenant: str, request: AccessRequest, token: str, now: float
) -> Challenge | None:
    """
    Why possession of the token's key is not shown; None when it is, or when there is none to show.

    Raises: StoreUnavailable.
    """
    if is_proven(principal, tenant, request):
        return None
    jkt = "" if principal.confirmation is None else principal.confirmation.jkt or ""
    refusal = await refuse_proof(state, tenant, request, token, jkt, now)
    if refusal is None:
        _take(tenant, request)
    return refusal


def believe(principal: Principal, tenant: str, request: AccessRequest) -> None:
    """
    ``principal`` is whom this very request was found to name before, when its proof was taken: to read it anew and ask
    about it again is no second use.
    """
    if principal.confirmation is not None and principal.confirmation.jkt is not None:
        _take(tenant, request)


def _take(tenant: str, request: AccessRequest) -> None:
    if isinstance(request.dpop, ShownProof):
        request.dpop.accepted_for = (tenant, digest_of(request))


def digest_of(request: AccessRequest) -> bytes:
    return request.credential_digest or sha256(request.authorization or b"").digest()
