"""
What a function is told about its caller, and the bytes that a request leaves with.

Everything here is written after everything a stranger sent was removed (``header_fields``), so that a function may
believe it. Values are made safe for a field, never trusted to be: what is not visible ASCII is percent-encoded.

An anonymous caller has no ``X-Portero-Subject``: a function that asks "is there a subject?" must not be told yes.
Credentials stay here. ``Authorization``, and cookies of Portero's own, reach a function only with
``forward_credentials: true``; other cookies are between browser and function and always pass.

Refuses to know how a caller proved who it is. Source: design section 5; AP-R6, R23, R33; W3C Trace Context.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

from policies.decision import LimitState
from policies.header_fields import is_our_cookie
from policies.principal import Principal
from policies.problem import field_block
from policies.ratelimit import ratelimit_fields
from policies.request import ALL_METHODS, AccessRequest
from policies.tables import Place
from policies.tenancy import cors_fields

MAX_GROUPS_BYTES: Final = 4096
"""Of the whole ``X-Portero-Groups`` value: beyond it the field is left out and marked, never cut in the middle."""
_SUBJECT_SAFE: Final = "!#$&'()*+,/:;=?@[]^`{|}"
"""Left bare in a subject: visible ASCII but ``%``, ``"``, ``<``, ``>`` and the backslash."""
_GROUP_SAFE: Final = "!#$&'()*+/:;=?@[]^`{|}"
"""As a subject, without the comma that separates groups."""
_HEX: Final = "0123456789abcdef"
_METHODS: Final = {method: method.encode("ascii") + b" " for method in ALL_METHODS}
"""The usual ones, encoded."""


def request_block(
    request: AccessRequest, place: Place, principal: Principal, request_id: str, target: bytes, host: bytes
) -> bytes:
    """
    The whole head a request leaves with, but for framing and the final empty line.

    Args:
        request: its own fields are passed on as ``forward_block``.
        place: names tenant and function.
        principal: who was found to be calling.
        request_id: see ``request_fields``.
        target: origin-form, as the backend encodes it.
        host: what the backend wants in Host.
    """
    return b"".join(
        (
            _METHODS.get(request.method) or request.method.encode("ascii") + b" ",
            target,
            b" HTTP/1.1\r\nHost: ",
            host,
            b"\r\n",
            request.forward_block,
            b"" if request.authorization is None and request.cookie is None else credential_fields(request, place),
            request_fields(request, request_id),
            inject_block(place, principal),
        )
    )


def inject_block(place: Place, principal: Principal) -> bytes:
    """
    ``X-Portero-Tenant``, ``X-Portero-Subject`` and ``X-Portero-Groups`` as lines.

    Encoded once and kept on the principal with the tenant's name that stands in it: a principal object can never carry
    one tenant's name into another.
    """
    name = place.tenant.name
    kept = principal.inject_block
    if kept is not None and kept[0] == name:
        return kept[1]
    block = b"X-Portero-Tenant: %b\r\n%b" % (name.encode("ascii", "replace"), _identity_lines(principal))
    principal.inject_block = (name, block)
    return block


def request_fields(request: AccessRequest, request_id: str) -> bytes:
    """
    ``X-Request-Id``, ``traceparent`` and ``X-Forwarded-For/Proto/Host``, written anew.

    The caller's trace goes on with a parent id of ours; without one a sampled trace begins, whose id is the request id.

    Args:
        request: canonical already; its members hold no CR, LF or NUL.
        request_id: 32 lower-case hex digits, as ``X-Request-Id`` says it; other text is made safe and hashed into ids.
    """
    if len(request_id) == 32 and not request_id.strip(_HEX):
        ids = request_id
    else:
        ids = blake2b(request_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        request_id = quote(request_id, _SUBJECT_SAFE, errors="surrogatepass")
    parent = request.traceparent
    trace_id, flags = (ids, "01") if parent is None else (parent[3:35], parent[53:55])
    return (
        f"X-Request-Id: {request_id}\r\ntraceparent: 00-{trace_id}-{ids[16:]}-{flags}\r\n"
        f"X-Forwarded-For: {request.client_ip}\r\nX-Forwarded-Proto: {request.scheme}\r\n"
        f"X-Forwarded-Host: {request.host}\r\n"
    ).encode("ascii", "replace")


def credential_fields(request: AccessRequest, place: Place) -> bytes:
    """``Authorization`` and ``Cookie`` as far as the function may see them; read_head has seen that they are clean."""
    if request.cookie is None and request.authorization is None:
        return b""
    cookie, authorization = request.cookie, request.authorization
    if not place.spec.forwards_credentials:
        authorization = None
        cookie = None if cookie is None else without_our_cookies(cookie)
    block = b"" if authorization is None else b"Authorization: %b\r\n" % authorization
    return block + b"Cookie: %b\r\n" % cookie if cookie else block


def without_our_cookies(cookie: bytes) -> bytes:
    """``cookie`` without the pairs of Portero's own (``__Host-portero...``); malformed pairs pass as they are."""
    if b"portero" not in cookie.lower():
        return cookie
    return b"; ".join(pair.strip(b" ") for pair in cookie.split(b";") if not is_our_cookie(pair))


def answer_block(place: Place, request: AccessRequest, request_id: str, limits: Sequence[LimitState]) -> bytes:
    """
    What Portero adds to a function's answer: ``X-Request-Id``, ``RateLimit``, the route's CORS; as lines.

    ``request_id`` is Portero's own and so are the names of limits (made safe by ``ratelimit_fields``): only what a
    caller has a part in goes through ``field_block``.
    """
    lines = f"X-Request-Id: {request_id}\r\n"
    if limits:
        (_, policies), (_, left) = ratelimit_fields(limits)
        lines += f"RateLimit-Policy: {policies}\r\nRateLimit: {left}\r\n"
    if place.route is not None and (cors := cors_fields(request, place)):
        return lines.encode("ascii", "replace") + field_block(cors)
    return lines.encode("ascii", "replace")


def _identity_lines(principal: Principal) -> bytes:
    if principal.is_anonymous:
        return b""
    subject = quote(principal.subject, _SUBJECT_SAFE, errors="surrogatepass")
    lines = f"X-Portero-Subject: {subject}\r\n"
    groups = ",".join([quote(group, _GROUP_SAFE, errors="surrogatepass") for group in sorted(principal.groups)])
    if principal.has_unknown_groups or len(groups) > MAX_GROUPS_BYTES:
        lines += "X-Portero-Groups-Truncated: 1\r\n"
    elif groups:
        lines += f"X-Portero-Groups: {groups}\r\n"
    return lines.encode("ascii")
