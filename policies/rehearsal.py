"""
A request as an operator imagines it, judged by the code that judges real ones.

``policy test``, ``policy explain`` and ``/explain`` ask here. The request line goes through ``read_head`` and the
decision through ``pipeline.judge``, so that a rehearsal cannot differ from the data path; only what the world would say
is assumed: the caller is who the operator says, no limit is used up, the function is awake. Nothing is spent or woken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from policies.decision import Allow, Answer, Challenge, Decision, Defer, Deny, Page
from policies.limits import Check, Spent
from policies.peers import TrustedPeers, parse_address
from policies.pipeline import Identify, Ready, Spend, judge
from policies.principal import API_KEY_PROVIDER, SERVICE_ACCOUNT_PROVIDER, Principal, anonymous
from policies.rbac import may
from policies.request import AccessRequest, Head, read_head
from policies.tables import ACTIONS, Place, PolicySet, TenantTable
from policies.tenancy import resolve, tenant_of

SOMEWHERE: Final = "192.0.2.1"
"""The client's address when none is given (TEST-NET-1, RFC 5737)."""

_PRINTABLE: Final = bytes(range(0x21, 0x7F)).decode()
_NOBODY: Final = TrustedPeers()


Judged = Allow | Challenge | Deny | Answer | Page
"""A decision; of what is answered later, what it was allowed as."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How a request fared, and what was learnt on the way."""

    request: AccessRequest | None
    """None: the request line itself is refused."""
    principal: Principal
    decision: Judged
    place: Place | None = None
    """None: question 1 was not answered."""
    checks: tuple[Check, ...] = ()
    """Rates that question 4 would spend."""
    asked: frozenset[type] = field(default_factory=frozenset)
    """The needs that came up."""
    is_deferred: bool = False
    """Accepted with 202 and answered later."""

    @property
    def refusal(self) -> Challenge | Deny | None:
        """Why the policy says no, also where shadow mode would let the request through."""
        if isinstance(self.decision, Allow):
            return self.decision.shadowed[0] if self.decision.shadowed else None
        return None if isinstance(self.decision, Answer | Page) else self.decision


def read_request(line: str, default_host: str, client_ip: str = SOMEWHERE) -> AccessRequest | Deny:
    """
    ``GET /path`` (https, on ``default_host``) or ``GET http://host/path`` as the request it would be on the wire.

    Raises: ValueError when the line is neither, or ``client_ip`` no address.
    """
    method, space, url = line.partition(" ")
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, host, path = "https", default_host, url
    else:
        host, slash, path = rest.partition("/")
        path = slash + path or "/"
    if not space or not method or scheme not in {"http", "https"} or not path.startswith("/") or not host:
        raise ValueError(f"{line!r} is no request; expected METHOD /path or METHOD http://host/path")
    if parse_address(client_ip) is None:
        raise ValueError(f"{client_ip!r} is no address; expected such as {SOMEWHERE}")
    # Clients escape what is not ASCII; everything else is judged as written.
    target = quote(path, _PRINTABLE, errors="surrogatepass").encode()
    fields = ((b"Host", host.encode("utf-8", "surrogatepass")),)
    return read_head(Head(method, target, fields, (1, 1), client_ip, scheme), _NOBODY)


def default_host(tenant: TenantTable) -> str:
    """The tenant's first host; of ``*.suffix`` a host below it."""
    exact = [host for host in tenant.hosts if not host.startswith("*")]
    return exact[0] if exact else tenant.hosts[0].replace("*", "any", 1)


def caller(
    tenant: TenantTable,
    provider: str,
    subject: str,
    *,
    groups: frozenset[str] = frozenset(),
    email: str | None = None,
    claims: Mapping[str, Any] | None = None,
) -> Principal:
    """
    The principal that a good token of this caller would make, or a good API key.

    ``claims`` come on top of ``iss`` and ``sub``. An e-mail address counts where the provider may vouch for its domain.

    Raises: ValueError when the tenant has no such provider, service account or API key, or one of the latter two is
    given groups.
    """
    if provider == API_KEY_PROVIDER:
        key = next((key for key in tenant.api_keys if key.name == subject), None)
        if key is None:
            raise ValueError(f"{tenant.name} has no API key {subject!r}")
        if groups:
            raise ValueError("the groups of an API key stand in the policy and cannot be given here")
        return Principal(API_KEY_PROVIDER, subject, groups=key.groups, claims=claims, expires_at=key.expires_at)
    if provider == SERVICE_ACCOUNT_PROVIDER:
        account = next((account for account in tenant.service_accounts if account.name == subject), None)
        if account is None:
            raise ValueError(f"{tenant.name} has no service account {subject!r}")
        if groups:
            raise ValueError("the groups of a service account stand in the policy and cannot be given here")
        given = {"iss": f"{tenant.name}/{subject}", "sub": subject, **(claims or {})}
        return Principal(SERVICE_ACCOUNT_PROVIDER, subject, groups=account.groups, claims=given)
    known = {spec.name: spec for spec in tenant.providers}
    if provider not in known:
        expected = f"expected one of {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{tenant.name} has no provider {provider!r}; {expected}")
    address = email.lower() if email is not None else None
    if address is not None and address.rpartition("@")[2] not in known[provider].email_domains:
        address = None
    given = {"iss": known[provider].issuer, "sub": subject, **(claims or {})}
    return Principal(provider, subject, groups=groups, email=address, claims=given)


def rehearse(
    policies: PolicySet, request: AccessRequest | Deny, principal: Principal, now: float, action: str = "invoke"
) -> Rehearsal:
    """
    Judge a request. ``request`` may be the refusal that ``read_request`` gave: that is the decision, then.

    Actions other than ``invoke`` never come by the data path: for them questions 1 and 3 are asked.
    """
    if isinstance(request, Deny):
        return Rehearsal(None, principal, request)
    if action != "invoke":
        return _other_action(policies, request, principal, now, action)
    judging = judge(request, policies, now)
    place = None
    checks: tuple[Check, ...] = ()
    asked: set[type] = set()
    try:
        need = next(judging)
        while True:
            asked.add(type(need))
            place = need.place
            match need:
                case Identify():
                    need = judging.send(principal)
                case Spend():
                    checks = need.checks
                    need = judging.send(Spent(()))
                case Ready():
                    need = judging.send(None)
    except StopIteration as end:
        decision: Decision = end.value
        is_deferred = isinstance(decision, Defer)
        judged = decision.allow if isinstance(decision, Defer) else decision
        return Rehearsal(request, principal, judged, place, checks, frozenset(asked), is_deferred)


def _other_action(
    policies: PolicySet, request: AccessRequest, principal: Principal, now: float, action: str
) -> Rehearsal:
    if action not in ACTIONS:
        raise ValueError(f"{action!r} is no action; expected one of {', '.join(ACTIONS)}")
    place = resolve(request, policies)
    if not isinstance(place, Place):
        return Rehearsal(request, principal, place)
    verdict = may(place, principal, request, action, now)
    decision = verdict if isinstance(verdict, Challenge | Deny) else Allow(place, principal, verdict.rule)
    return Rehearsal(request, principal, decision, place, asked=frozenset({Identify}))


__all__ = ["SOMEWHERE", "Rehearsal", "anonymous", "caller", "default_host", "read_request", "rehearse", "tenant_of"]
