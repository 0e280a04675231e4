"""
The one client of the demo's provider: what is registered of it, and whether a caller is it.

It decides who may redeem and refresh, and where a browser may be sent; it refuses to know codes and tokens. Addresses
are compared as a whole and letter by letter.

Source: RFC 6749 sections 2.3.1 and 3.1.2; RFC 9700 section 2.1 (exact redirect URIs).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError


@dataclass(frozen=True, slots=True)
class Client:
    """A relying party under several origins: one a tenant's host."""

    client_id: str
    secret: str = field(repr=False)
    redirect_uris: frozenset[str] = frozenset()
    post_logout_redirect_uris: frozenset[str] = frozenset()
    logout_uris: Mapping[str, str] = field(default_factory=dict)
    """redirect_uri -> the back-channel logout address of the same origin."""


def single_words(pairs: Iterable[tuple[str, object]]) -> dict[str, str]:
    """
    Parameters of a query or a form by name. Raises: InvalidRequestError for one that comes twice, and for files.

    Source: RFC 6749 sections 3.1 and 3.2: "Parameters MUST NOT be included more than once"; an empty one is none.
    """
    words: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(value, str):
            raise InvalidRequestError("a parameter is not text")
        if name in words:
            raise InvalidRequestError("a parameter comes more than once")
        words[name] = value
    return {name: value for name, value in words.items() if value}


def authenticate(client: Client, authorization: str | None, words: Mapping[str, str]) -> None:
    """
    Whether a caller of the token endpoint is the client: by HTTP Basic or by the form, never by both.

    Raises: InvalidClientError (401), InvalidRequestError.
    """
    by_form = "client_secret" in words
    if authorization is not None and by_form:
        raise InvalidRequestError("the client authenticates in more than one way")
    if authorization is not None:
        name, secret = _basic(authorization)
    else:
        name, secret = words.get("client_id", ""), words.get("client_secret", "")
    is_name = hmac.compare_digest(name.encode(), client.client_id.encode())
    is_secret = hmac.compare_digest(secret.encode(), client.secret.encode())
    if not (is_name and is_secret) or words.get("client_id", client.client_id) != client.client_id:
        raise InvalidClientError("not a client of this provider", status_code=401)


def _basic(authorization: str) -> tuple[str, str]:
    """Name and secret, each form-encoded inside (RFC 6749 section 2.3.1). Raises: InvalidClientError."""
    scheme, _, value = authorization.partition(" ")
    try:
        pair = base64.b64decode(value.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        pair = ""
    name, colon, secret = pair.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise InvalidClientError("HTTP Basic authentication is wanted", status_code=401)
    return unquote_plus(name), unquote_plus(secret)
