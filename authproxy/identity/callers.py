"""
Question 2, all of it: who of those that can tell is asked about this request, and what is asked besides.

``Callers`` is the ``IdentitySource`` of the gate. Without ``Authorization`` a session cookie names the caller, if there
is one; with it the cookie is not looked at (design section 5). A credential is given to exactly one source, by form:
keys and tokens of Portero's own, signed tokens of a provider or service account, opaque tokens of the one provider that
may be asked about them. That choice proves nothing; each source ends in a proof or a refusal (AP-R37), and none is
tried after another, so that no credential is shown to whom it is not for.

Whoever was named by a token must then have the key or certificate that it is bound to (``bound``), must not have been
logged out since (``revocations``), and gets his groups from where they stand (``userinfo``). The usual caller, seen
before, is bound to nothing and is asked about again only when a logout has come in since.

Refuses to know how any of them decides. Errors that mean "cannot know" are refusals (503).

Longer than other modules: whom a credential is shown to, at once and with waiting, is read together.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from authproxy.audit import get_logger
from authproxy.identity.caller_sources import KeySource, Named, OwnTokenSource, RevocationsSeen, SessionSource
from authproxy.identity.shared.state import StateStore
from authproxy.identity.tokens import bound
from authproxy.identity.tokens.bearer import BearerIdentity
from authproxy.identity.tokens.introspection import Introspection
from authproxy.identity.tokens.own_tokens import ISSUER
from authproxy.identity.tokens.token_cache import Known
from authproxy.identity.tokens.userinfo import UserInfo
from policies.decision import Challenge, Deny, Reason
from policies.errors import CannotKnow, KeysUnavailable, StoreUnavailable
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import ProviderSpec, TenantTable
from policies.tokens import Credential, is_opaque, read_authorization, refuse, unverified_issuer

API_KEY_PREFIX: Final = "ptr_"
_PREFIX_AT: Final = slice(len("Bearer "), len("Bearer ") + len(API_KEY_PREFIX))
_PREFIX_BYTES: Final = API_KEY_PREFIX.encode("ascii")
_KEYS_WAIT_S: Final = 1.0
"""How long a token of ours waits for the file of API keys that it depends on; a reading takes a few milliseconds."""
_KEYS_LOOK_S: Final = 0.02
_EMPTY: Final = refuse("the Authorization field is empty", "invalid_request")
_NO_KEYS: Final = refuse("the token is not a usable API key")
_REVOKED: Final = refuse("the login behind the token has ended")

Kind = Literal["api-key", "own", "opaque", "bearer"]

_log = get_logger("identity")


class _Asked(NamedTuple):
    """A credential, and who is asked about it."""

    kind: Kind
    token: str

    def __repr__(self) -> str:
        return f"_Asked({self.kind})"


class Callers:
    """
    An ``IdentitySource`` over all others. One per process and event loop.

    Args:
        bearer: signed tokens of providers and service accounts; closed with this.
        sessions: of browsers.
        introspection: opaque tokens; closed with this.
        api_keys: keys of Portero's own.
        own_tokens: tokens of Portero's own.
        revocations: what was logged out.
        state: where proofs that were used are remembered, shared by all replicas.
        userinfo: groups that stand elsewhere; closed with this.
    """

    def __init__(
        self,
        bearer: BearerIdentity,
        sessions: SessionSource,
        introspection: Introspection,
        api_keys: KeySource,
        own_tokens: OwnTokenSource,
        revocations: RevocationsSeen,
        state: StateStore,
        *,
        userinfo: UserInfo,
    ) -> None:
        self._bearer = bearer
        self._find = bearer.find
        self._sessions = sessions
        self._introspection = introspection
        self._userinfo = userinfo
        self._api_keys = api_keys
        self._own_tokens = own_tokens
        self._revocations = revocations
        self._state = state

    # -- the source's three questions ----------------------------------------------------------------------------------

    def known_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        """
        The caller, if nothing has to be verified to name him. Hot: a signed token seen before costs the token cache's
        probes and one comparison.
        """
        if request.authorization is None:
            if request.cookie is not None and self._sessions.has_session(request):
                return self._sessions.known_now(tenant, request, now)
            return self._bearer.nobody(tenant)
        known = self._find(tenant, request, now)
        if known is None:
            return self._known_elsewhere(tenant, request, now)
        if known.settled == self._revocations.generation:
            return known.principal
        found = self._settle_known(tenant, request, known, now)
        return found if isinstance(found, Principal) else None

    def identify_now(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named | None:
        """See ``IdentitySource``: None when somebody has to be asked."""
        if request.authorization is None:
            if request.cookie is not None and self._sessions.has_session(request):
                return self._sessions.identify_now(tenant, request, now)
            return self._bearer.nobody(tenant)
        known = self._find(tenant, request, now)
        if known is not None:
            return _as_shown(self._settle_known(tenant, request, known, now), request)
        asked = self._whom_to_ask(tenant, request)
        if not isinstance(asked, _Asked):
            return _as_shown(asked, request)
        found = self._name_now(tenant, request, asked, now)
        if isinstance(found, Principal):
            found = self._settle_now(tenant, request, found, now)
        return _as_shown(found, request)

    async def identify(self, tenant: TenantTable, request: AccessRequest, now: float) -> Named:
        """See ``IdentitySource``. Never raises but on cancellation."""
        try:
            if request.authorization is None:
                if request.cookie is not None and self._sessions.has_session(request):
                    return await self._sessions.identify(tenant, request, now)
                return self._bearer.nobody(tenant)
            asked = self._whom_to_ask(tenant, request)
            found = await self._name(tenant, request, asked, now) if isinstance(asked, _Asked) else asked
            if isinstance(found, Principal) and isinstance(asked, _Asked):
                found = await self._settle(tenant, request, asked, found, now)
            shown = _as_shown(found, request)
            return shown if shown is not None else Deny(Reason.INTERNAL_ERROR, tenant=tenant.name)
        except CannotKnow as error:
            return _unknown(tenant, error)
        except Exception as error:  # noqa: BLE001 (whatever broke, the request must not pass; texts may hold secrets)
            _log.error("identifying failed", error=type(error).__name__, tenant=tenant.name)
            return Deny(Reason.INTERNAL_ERROR, tenant=tenant.name)

    def is_revoked(self, tenant: TenantTable, principal: Principal) -> bool:
        """Whether a logout has ended who was named before. Whom no provider vouches for only policy takes away."""
        if principal.issuer is None:
            return False
        return self._revocations.is_revoked(
            tenant.name,
            session_id=principal.session_id,
            issuer=principal.issuer,
            sub=principal.sub,
            sid=principal.sid,
            established_at=principal.issued_at,
        )

    def awaits_proof(self, tenant: TenantTable, request: AccessRequest, now: float) -> bool:
        """
        Whether the token was good a moment ago, and nothing is missing but the proof that this request brings: a
        guesser has no such token, and so is not who asks.
        """
        if not request.dpop or not bound.is_dpop(request):
            return False
        known, digest = self._find(tenant, request, now), bound.digest_of(request)
        principal = (
            known.principal
            if known is not None
            else self._own_tokens.known_now(tenant, digest, now) or self._introspection.known_now(tenant, digest, now)
        )
        return principal is not None and self._refuse_at_once(tenant, request, principal) is None

    def revoke_all(self) -> None:
        """Every token is verified or asked about anew, whatever was known of it."""
        for source in (self._bearer, self._introspection, self._userinfo, self._own_tokens):
            source.revoke_all()

    async def close(self) -> None:
        """See ``IdentitySource``. Sessions, API keys and stores are closed by who made them."""
        await self._introspection.close()
        await self._userinfo.close()
        await self._bearer.close()

    # -- whom a credential names ---------------------------------------------------------------------------------------

    def _whom_to_ask(self, tenant: TenantTable, request: AccessRequest) -> _Asked | Challenge:
        """By form alone, and each form has one source: a key of ours is never shown to a provider."""
        credential = read_authorization(request.authorization)
        if not isinstance(credential, Credential):
            return replace(credential or _EMPTY, tenant=tenant.name)
        token = credential.token
        if token.startswith(API_KEY_PREFIX):
            return _Asked("api-key", token)
        if is_opaque(token):
            return _Asked("opaque" if self._introspection.is_for(tenant) else "bearer", token)
        is_own = (unverified_issuer(token) or "").startswith(ISSUER)
        return _Asked("own" if is_own else "bearer", token)

    def _known_elsewhere(self, tenant: TenantTable, request: AccessRequest, now: float) -> Principal | None:
        """Who is known by another credential than a signed token of a provider or account."""
        authorization, digest = request.authorization, request.credential_digest
        if authorization is None or digest is None:
            return None
        if authorization[_PREFIX_AT] == _PREFIX_BYTES:
            return self._api_keys.known_now(tenant, request, now)
        found = self._own_tokens.known_now(tenant, digest, now) or self._introspection.known_now(tenant, digest, now)
        settled = None if found is None else self._settle_now(tenant, request, found, now)
        return settled if isinstance(settled, Principal) else None

    def _name_now(self, tenant: TenantTable, request: AccessRequest, asked: _Asked, now: float) -> Named | None:
        match asked.kind:
            case "api-key":
                return self._api_keys.identify_now(tenant, request, now) if _is_bearer(request) else _bad_key(tenant)
            case "own":
                found = self._own_tokens.judge(tenant, asked.token, now, request.credential_digest)
                return None if _is_being_read(found) else found
            case "opaque":
                return self._introspection.identify_now(tenant, bound.digest_of(request), now)
            case "bearer":
                return self._bearer.identify_now(tenant, request, now)

    async def _name(self, tenant: TenantTable, request: AccessRequest, asked: _Asked, now: float) -> Named:
        match asked.kind:
            case "api-key":
                return await self._api_keys.identify(tenant, request, now) if _is_bearer(request) else _bad_key(tenant)
            case "own":
                return await self._name_by_own_token(tenant, request, asked.token, now)
            case "opaque":
                return await self._introspection.identify(tenant, asked.token, bound.digest_of(request), now)
            case "bearer":
                return await self._bearer.identify(tenant, request, now)

    async def _name_by_own_token(self, tenant: TenantTable, request: AccessRequest, token: str, now: float) -> Named:
        """A token that was given out for an API key depends on the file of keys, which may have to be read first."""
        found = self._own_tokens.judge(tenant, token, now, request.credential_digest)
        waited_s = 0.0
        while _is_being_read(found) and waited_s < _KEYS_WAIT_S:
            await asyncio.sleep(_KEYS_LOOK_S)
            waited_s += _KEYS_LOOK_S
            found = self._own_tokens.judge(tenant, token, now + waited_s, request.credential_digest)
        return found

    # -- what is asked of whoever was named ----------------------------------------------------------------------------

    def _settle_known(self, tenant: TenantTable, request: AccessRequest, known: Known, now: float) -> Named | None:
        """As ``_settle_now``; remembers in the token cache's entry that nothing more is to be asked about this one."""
        principal, generation = known.principal, self._revocations.generation
        settled = self._settle_now(tenant, request, principal, now)
        if settled is principal and principal.confirmation is None:
            known.settled = generation
        return settled

    def _settle_now(
        self, tenant: TenantTable, request: AccessRequest, principal: Principal, now: float
    ) -> Named | None:
        """The caller, if what remains to be asked about him is at hand."""
        refusal = self._refuse_at_once(tenant, request, principal)
        if refusal is not None:
            return refusal
        if not bound.is_proven(principal, tenant.name, request):
            return None
        provider = self._asked_for_groups(tenant, principal)
        if provider is None:
            return principal
        return self._userinfo.complete_now(tenant, provider, bound.digest_of(request), principal, now)

    async def _settle(
        self, tenant: TenantTable, request: AccessRequest, asked: _Asked, principal: Principal, now: float
    ) -> Named:
        """The caller, with whatever it takes. Raises: StoreUnavailable."""
        refusal = self._refuse_at_once(tenant, request, principal) or await bound.refuse_possession(
            self._state, principal, tenant.name, request, asked.token, now
        )
        if refusal is not None:
            return replace(refusal, tenant=tenant.name)
        provider = self._asked_for_groups(tenant, principal)
        if provider is None:
            return principal
        digest = bound.digest_of(request)
        completed = await self._userinfo.complete(tenant, provider, asked.token, digest, principal, now)
        if isinstance(completed, Principal) and self.is_revoked(tenant, completed):
            return replace(_REVOKED, tenant=tenant.name)  # while userinfo was asked
        return completed

    def _refuse_at_once(self, tenant: TenantTable, request: AccessRequest, principal: Principal) -> Challenge | None:
        refusal = bound.refuse_bond(principal, request)
        if refusal is None and self.is_revoked(tenant, principal):
            refusal = _REVOKED
        return None if refusal is None else replace(refusal, tenant=tenant.name)

    def _asked_for_groups(self, tenant: TenantTable, principal: Principal) -> ProviderSpec | None:
        """The provider that has to say the groups of who showed a token of its own; copies of ours bring theirs."""
        if principal.issuer is None or principal.only_function is not None:
            return None
        provider = tenant.providers_by_issuer.get(principal.issuer)
        return provider if provider is not None and self._userinfo.is_needed(principal, provider) else None


def _is_bearer(request: AccessRequest) -> bool:
    return not bound.is_dpop(request)


def _bad_key(tenant: TenantTable) -> Challenge:
    return replace(_NO_KEYS, tenant=tenant.name)


def _is_being_read(found: Named) -> bool:
    return isinstance(found, Deny) and found.reason is Reason.KEYS_UNAVAILABLE


def _as_shown(found: Named | None, request: AccessRequest) -> Named | None:
    """A refusal by the scheme that the token was shown with (RFC 9449 section 7.1)."""
    if isinstance(found, Challenge) and found.scheme == "Bearer" and bound.is_dpop(request):
        return replace(found, scheme="DPoP")
    return found


def _unknown(tenant: TenantTable, error: CannotKnow) -> Deny:
    if isinstance(error, StoreUnavailable):
        reason, detail = Reason.SESSION_STORE_UNAVAILABLE, "whether the proof was used before cannot be known now"
    elif isinstance(error, KeysUnavailable):
        reason, detail = Reason.KEYS_UNAVAILABLE, "the keys of the token's issuer cannot be had at the moment"
    else:
        reason, detail = Reason.PROVIDER_UNAVAILABLE, "the token's provider cannot be asked at the moment"
    return Deny(reason, detail, retry_after_s=1, tenant=tenant.name)
