"""
Has the holder of a key sent this request? Verifies a DPoP proof and sees to it that it is shown once (RFC 9449).

What a proof says is judged by ``policies.dpop``; here its signature is verified with the key it names, which is the one
that the token is bound to, and its ``jti`` is put into the store that all replicas share. A store that cannot be asked
is a refusal (AP-R26): whoever can stop the store must not be able to replay. Only the holder of a token's own key comes
as far as the store, so strangers cannot fill it.

Refuses to know tokens beyond their text. No nonces are given out (RFC 9449 section 8 makes them optional).

Source: RFC 9449 sections 4.3, 11.1.
"""

from __future__ import annotations

from typing import Final

from authproxy.identity.providers.keys import SetRefused, read_jwks
from authproxy.identity.providers.signature import is_signed
from authproxy.identity.shared.state import StateStore, key
from policies.decision import Challenge
from policies.dpop import MAX_AGE_S, MAX_AHEAD_S, NO_PROOF, NOT_SIGNED, USED, Proof, judge_proof, read_proof
from policies.request import AccessRequest

_CLOCKS_S: Final = 5.0
"""How far the clocks of replicas may be apart: a proof is remembered for so much longer than it is good."""


async def refuse_proof(
    state: StateStore, tenant: str, request: AccessRequest, token: str, jkt: str, now: float
) -> Challenge | None:
    """
    Why the request's proof is none; None when it is good, and from then on it is used.

    Args:
        state: shared by all replicas.
        tenant: name of the host's tenant.
        request: with the proof in ``dpop``.
        token: the access token as shown.
        jkt: thumbprint of the key that the verified token is bound to.
        now: Unix seconds.

    Raises: StoreUnavailable.
    """
    if not request.dpop:
        return NO_PROOF
    proof = read_proof(request.dpop)
    if isinstance(proof, Challenge):
        return proof
    refusal = judge_proof(proof, request, token, jkt, now)
    if refusal is not None:
        return refusal
    if not _is_signed_by_its_key(request.dpop.decode("ascii"), proof):
        return NOT_SIGNED
    until = proof.issued_at + MAX_AGE_S + MAX_AHEAD_S + _CLOCKS_S
    is_first = await state.add(key(tenant, "dpop", proof.thumbprint, proof.jti), b"1", max(1.0, until - now))
    return None if is_first else USED


def _is_signed_by_its_key(text: str, proof: Proof) -> bool:
    try:
        keys = read_jwks({"keys": [dict(proof.jwk)]})
    except SetRefused:
        return False
    return any(is_signed(text, one, proof) for one in (*keys.by_kid.values(), *keys.without_kid))
