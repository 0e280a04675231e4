"""
What a token endpoint answered, taken apart: an answer of a stranger that may hold tokens, or a refusal.

It decides whether the members have the shape that they must have, and refuses to know what the tokens say. Nothing of
an answer is ever put into a text but its error code, and that only if it is a short plain word.

Source: RFC 6749 sections 5.1 and 5.2, OpenID Connect Core sections 3.1.3.3 and 12.2; rule AP-R25.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from authproxy.identity.providers.http import Document
from policies.errors import ProviderUnavailable

MAX_TOKEN_CHARS: Final = 16 * 1024
MIN_LIFETIME_S: Final = 30.0
"""A provider that says less would be asked with every request."""
MAX_LIFETIME_S: Final = 24 * 3600.0
INVALID_GRANT: Final = "invalid_grant"
_ERROR: Final = re.compile(r"[a-z_]{1,64}", re.ASCII)
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
"""Tokens are VSCHAR (RFC 6749 appendix A); a blank inside would make two of one."""


class Grant(NamedTuple):
    """Tokens, not verified."""

    access_token: str
    id_token: str | None
    refresh_token: str | None
    lifetime_s: float | None
    """Of the access token, bounded; None when the provider says nothing that makes sense."""

    def __repr__(self) -> str:
        return "Grant(...)"


def read_grant(document: Document) -> Grant:
    """Raises: ProviderUnavailable for an answer that a provider may not give."""
    answer = document.value
    kind = answer.get("token_type")
    if document.status != 200 or not isinstance(kind, str) or kind.lower() != "bearer":
        raise ProviderUnavailable("the token endpoint gave no bearer token")
    access_token = _token(answer, "access_token")
    if access_token is None:
        raise ProviderUnavailable("the token endpoint gave no access token")
    return Grant(
        access_token, _token(answer, "id_token"), _token(answer, "refresh_token"), _lifetime_s(answer.get("expires_in"))
    )


def error_code(document: Document) -> str | None:
    """The error that a refusal names, by its JSON member, never by a piece of text; None when it is no plain word."""
    code = document.value.get("error")
    return code if isinstance(code, str) and _ERROR.fullmatch(code) else None


def _token(answer: Mapping[str, Any], name: str) -> str | None:
    value = answer.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARS or _VISIBLE.fullmatch(value) is None:
        raise ProviderUnavailable(f"the token endpoint's {name} is no token")
    return value


def _lifetime_s(value: Any) -> float | None:
    """``expires_in`` is a number; some write it as text (RFC 6749 appendix A.14: digits)."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if type(value) is not int and not (type(value) is float and isfinite(value)):
        return None
    return min(max(float(value), MIN_LIFETIME_S), MAX_LIFETIME_S) if value > 0 else None
