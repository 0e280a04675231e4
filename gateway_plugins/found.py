"""
What the plugins of a chain have found of one request, as text that one leaves for the next in ``kong.ctx.shared``.

On the stock server each plugin is a process of its own, so the text is complete: whoever reads it knows the caller as
he was found, with claims and all. It never comes from a request's field, and Kong forgets it with the request. Nobody
but Kong's own plugins writes there, so it is believed; what cannot be read is nothing that was found, and refused.

It decides nothing. It holds no credential; a session's cookie that was made anew is in it, for the answer.
"""

from __future__ import annotations

import string
from typing import Any, Final, Literal

import msgspec

from policies.decision import Deny, LimitState, RuleRef
from policies.principal import Confirmation, Principal
from policies.stages import Earlier, Stage

FOUND: Final = "portero_found"
"""Key in ``kong.ctx.shared``."""
MAX_BYTES: Final = 1024 * 1024
"""Claims and groups of a caller make almost all of it; a session may hold as much."""

_MEMO_ENTRIES: Final = 2048
_MEMO_BYTES: Final = 16 * 1024
"""Callers with longer texts are read each time: together these bound the memo."""
_NOBODY: Final = b"null"
"""Nobody has asked yet."""
_HEX: Final = frozenset(string.hexdigits.lower())


class _Caller(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Every member of a ``Principal`` that is no memo of ours."""

    provider: str
    sub: str
    groups: list[str]
    claims: dict[str, Any]
    has_unknown_groups: bool = False
    email: str | None = None
    expires_at: float | None = None
    issuer: str | None = None
    sid: str | None = None
    issued_at: float = 0.0
    name: str | None = None
    confirmation: Confirmation | None = None
    only_function: str | None = None
    session_id: str | None = None
    is_by_cookie: bool = False
    is_session_over: bool = False
    set_cookie: str = ""


class _Found(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    version: Literal[1]
    done: list[Stage]
    request_id: str
    tenant: str
    function: str
    revision: str
    principal: msgspec.Raw
    """A ``_Caller``, read once for all requests of one credential, or null."""
    rule: RuleRef | None = None
    limits: list[LimitState] = []
    shadowed: list[Deny] = []


_encoder: Final = msgspec.json.Encoder()
_found_decoder: Final = msgspec.json.Decoder(_Found)
_caller_decoder: Final = msgspec.json.Decoder(_Caller)
_callers: Final[dict[tuple[str, bytes], Principal]] = {}
"""
(tenant, text) -> the principal: the same object for the same text, so that what is remembered on it (roles, identity
fields, the signed assertion) is not made anew for each request. A principal belongs to one tenant.
"""


def write_found(earlier: Earlier) -> bytes:
    """The text of ``earlier``. Raises: ValueError, TypeError for claims that are no JSON."""
    principal = earlier.principal
    return _encoder.encode(
        _Found(
            1,
            sorted(earlier.done),
            earlier.request_id,
            earlier.tenant,
            earlier.function,
            earlier.revision,
            msgspec.Raw(_encoder.encode(None if principal is None else _caller(principal))),
            earlier.rule,
            list(earlier.limits),
            list(earlier.shadowed),
        )
    )


def read_found(raw: object) -> Earlier | None:
    """
    What ``write_found`` was given; None when ``raw`` is no such text. Never raises, whatever it is.

    Args:
        raw: bytes; text where the stock server has decoded it.
    """
    if not isinstance(raw, bytes | str) or len(raw) > MAX_BYTES:
        return None
    try:
        found = _found_decoder.decode(raw)
        principal = _principal(found.tenant, bytes(found.principal))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(found.request_id) != 32 or not _HEX.issuperset(found.request_id):
        return None
    return Earlier(
        frozenset(found.done),
        principal,
        found.rule,
        tuple(found.limits),
        tuple(found.shadowed),
        found.request_id,
        found.tenant,
        found.function,
        found.revision,
    )


def _caller(principal: Principal) -> _Caller:
    return _Caller(
        principal.provider,
        principal.sub,
        sorted(principal.groups),
        dict(principal.claims),
        principal.has_unknown_groups,
        principal.email,
        principal.expires_at,
        principal.issuer,
        principal.sid,
        principal.issued_at,
        principal.name,
        principal.confirmation,
        principal.only_function,
        principal.session_id,
        principal.is_by_cookie,
        principal.is_session_over,
        principal.set_cookie.decode("ascii"),
    )


def _principal(tenant: str, text: bytes) -> Principal | None:
    """Raises: ValueError, MsgspecError."""
    if text == _NOBODY:
        return None
    known = _callers.get((tenant, text))
    if known is not None:
        return known
    caller = _caller_decoder.decode(text)
    principal = Principal(
        caller.provider,
        caller.sub,
        groups=frozenset(caller.groups),
        has_unknown_groups=caller.has_unknown_groups,
        email=caller.email,
        claims=caller.claims,
        expires_at=caller.expires_at,
    )
    principal.issuer = caller.issuer
    principal.sid = caller.sid
    principal.issued_at = caller.issued_at
    principal.name = caller.name
    principal.confirmation = caller.confirmation
    principal.only_function = caller.only_function
    principal.session_id = caller.session_id
    principal.is_by_cookie = caller.is_by_cookie
    principal.is_session_over = caller.is_session_over
    principal.set_cookie = caller.set_cookie.encode("ascii")
    if len(text) <= _MEMO_BYTES:
        if len(_callers) >= _MEMO_ENTRIES:
            _callers.clear()
        _callers[(tenant, text)] = principal
    return principal
