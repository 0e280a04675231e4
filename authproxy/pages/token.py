"""
``POST /.portero/token``: a caller's token is exchanged for a short-lived one that one function takes.

It decides what may be asked for: a function of the tenant's own namespace, in the caller's own name, with a subject
token that stands for itself. Cookies are never looked at, so that no page can have a browser exchange anything. What
the token's bearer may do is judged when it is used, by the policies of then: nothing is promised here.

Refused are actor tokens (nobody acts for another here), subject tokens that are bound to a key (the new token would
not be), a token for one function that should become one for another, and credentials beside the subject token.

Source: RFC 8693 sections 2.1 and 2.2, RFC 6749 section 5.2, RFC 9449 section 5; design section 5 (cross-origin).
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, NamedTuple

from authproxy.gate.verdict import PageAnswer
from authproxy.identity.tokens.own_tokens import ExchangeRefused
from authproxy.pages.answers import document, failure
from authproxy.pages.form import read_form
from authproxy.pages.guard import refuse_too_many
from authproxy.pages.parts import Answered, Parts, Visit, identify
from policies.decision import Challenge, Deny, Reason
from policies.principal import Principal
from policies.request import AccessRequest
from policies.tables import TenantTable
from policies.tenancy import is_function_name

METHODS: Final = ("POST",)
GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 (the name of a kind of token)
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"

_TYPES: Final = frozenset({ACCESS_TOKEN, JWT})
_AUDIENCE: Final = "function:"
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]{1,8000}=*")
"""b64token (RFC 6750 section 2.1), as long as an Authorization field may bring."""
_FIELDS: Final = (("Cache-Control", "no-store"), ("Pragma", "no-cache"), ("X-Content-Type-Options", "nosniff"))


class _Asked(NamedTuple):
    subject_token: str
    audience: str
    token_type: str

    def __repr__(self) -> str:
        return f"_Asked(audience={self.audience!r})"


async def answer(parts: Parts, visit: Visit) -> Answered:
    """See the module. Refusals that waiting may heal (429, 503) are answered as everywhere."""
    tenant, request = visit.tenant, visit.request
    if refusal := await refuse_too_many(parts.store, tenant, "token", request.client_ip, visit.now):
        return refusal
    asked = _read(visit)
    if isinstance(asked, PageAnswer):
        return _refused(parts, tenant, asked)
    function = _function(tenant, asked.audience)
    if function is None:
        return _refused(parts, tenant, failure("invalid_target", "the tenant has no such function", Reason.BAD_REQUEST))
    caller = await identify(parts, visit, as_bearer(request, asked.subject_token))
    if isinstance(caller, Deny) and caller.reason is not Reason.TENANT_MISMATCH:
        return caller
    if not isinstance(caller, Principal) or caller.is_anonymous:
        detail = caller.detail if isinstance(caller, Challenge | Deny) else ""
        reason = caller.reason if isinstance(caller, Challenge | Deny) else Reason.CREDENTIAL_MISSING
        said = f"the subject token is refused: {detail}" if detail else "the subject token is refused"
        return _refused(parts, tenant, failure("invalid_request", said, reason))
    if caller.confirmation is not None or caller.is_by_cookie:
        said = "a subject token that is bound to a key cannot be exchanged"
        return _refused(parts, tenant, failure("invalid_request", said, Reason.CREDENTIAL_INVALID))
    if caller.only_function is not None and caller.only_function != function:
        said = "the subject token is for another function"
        return _refused(parts, tenant, failure("invalid_target", said, Reason.CREDENTIAL_INVALID))
    try:
        token, lifetime_s = parts.own_tokens.exchange(tenant, caller, function, visit.now)
    except ExchangeRefused as refused:
        return _refused(parts, tenant, failure("invalid_request", str(refused), refused.refusal.reason))
    parts.count_exchange(tenant, "ok")
    members = {
        "access_token": token,
        "issued_token_type": asked.token_type,
        "token_type": "Bearer",
        "expires_in": int(lifetime_s),
    }
    return document(members, fields=_FIELDS, subject=caller.subject)


def as_bearer(request: AccessRequest, token: str) -> AccessRequest:
    """
    The request as if ``token`` were its one credential. Proofs of possession are left out: they were made for this
    request and another token, and what is bound to a key is not exchanged.
    """
    field = b"Bearer " + token.encode("ascii")
    return request._replace(
        authorization=field, credential_digest=sha256(field).digest(), cookie=None, dpop=None, certificate=None
    )


def _read(visit: Visit) -> _Asked | PageAnswer:
    """What is asked for; nothing of the subject token is judged yet but its letters."""
    form = read_form(visit.call.case.head.fields, visit.body)
    if isinstance(form, Deny):
        return failure("invalid_request", form.detail, form.reason)
    if form.get("grant_type") != GRANT_TYPE:
        return failure("unsupported_grant_type", "only token exchange (RFC 8693) is served here", Reason.BAD_REQUEST)
    said = None
    if visit.request.authorization is not None:
        said = "credentials beside the subject token are not taken"
    elif "actor_token" in form or "actor_token_type" in form:
        said = "nobody acts for another here"
    elif form.get("subject_token_type") not in _TYPES:
        said = "subject_token_type must be access_token or jwt"
    elif _TOKEN.fullmatch(form.get("subject_token", "")) is None:
        said = "subject_token is missing or not a bearer token"
    elif form.get("requested_token_type", ACCESS_TOKEN) not in _TYPES:
        said = "requested_token_type may be access_token or jwt"
    if said is not None:
        return failure("invalid_request", said, Reason.BAD_REQUEST)
    if form.get("scope"):
        return failure("invalid_scope", "tokens for functions have no scopes", Reason.BAD_REQUEST)
    if "resource" in form or "audience" not in form:
        return failure("invalid_target", "audience must be function:<namespace>/<name>", Reason.BAD_REQUEST)
    return _Asked(form["subject_token"], form["audience"], form.get("requested_token_type", ACCESS_TOKEN))


def _function(tenant: TenantTable, audience: str) -> str | None:
    """The function's name; None for what is not one that the tenant may have. Whether it exists is not told."""
    if not audience.startswith(_AUDIENCE):
        return None
    namespace, slash, name = audience.removeprefix(_AUDIENCE).partition("/")
    if not slash or namespace != tenant.namespace or not is_function_name(name):
        return None
    if tenant.owns is not None and not any(pattern.matches(name) for pattern in tenant.owns):
        return None
    return name


def _refused(parts: Parts, tenant: TenantTable, answered: PageAnswer) -> PageAnswer:
    parts.count_exchange(tenant, "refused")
    return answered
