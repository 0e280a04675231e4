"""
What a tenant's file says of Portero as a client of its providers: logins, questions about opaque tokens, addresses of
their endpoints, and how long what a login comes to is good for.

Secrets and keys are names here; whether they exist is known to ``serve`` alone. Refuses to know who may do what.
"""

from __future__ import annotations

from typing import Final, Literal

from policies.documents import Source
from policies.findings import Findings
from policies.locators import flaw_of_endpoint
from policies.model import Client, Introspection, Login, Provider, Sessions, TenantDocument
from policies.quantities import seconds
from policies.tables import ClientSpec, IntrospectionSpec, LoginSpec, SessionsSpec

MIN_IDLE_S: Final = 120.0
"""Seconds. When a session was last used is written at most once a minute: less would end sessions that are in use."""
MAX_ABSOLUTE_S: Final = 30 * 24 * 3600.0
"""Seconds; browsers keep cookies for 400 days, and nobody should."""
MAX_INTROSPECTION_AGE_S: Final = 3600.0
"""Seconds. The provider may have revoked the token meanwhile."""
MIN_TOKEN_LIFETIME_S: Final = 10.0
MAX_TOKEN_LIFETIME_S: Final = 3600.0
"""Seconds. What was given out cannot be taken back by the provider's logout alone."""
KEYS_OF_CALLERS: Final = "api-keys"
"""Name beside the tenant's secrets under which digests of API keys lie."""

Auth = Literal["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
Path = tuple[str | int, ...]


def compile_login(
    source: Source[TenantDocument], login: Login, provider: str, path: Path, findings: Findings
) -> LoginSpec:
    """The ``login`` of the provider of that name; ``path`` leads to it."""
    client = _client(source, login, path, findings)
    if "openid" not in login.scopes:
        text = "expected openid among the scopes: without it the provider does not say who has logged in"
        findings.mistake(source, text, *path, "scopes")
    for index, scope in enumerate(login.scopes):
        if not _is_visible(scope) or not set(scope).isdisjoint(' "\\'):
            text = f"{scope!r} is no scope; expected one word an item, such as [openid, email]"
            findings.mistake(source, text, *path, "scopes", index)
    return LoginSpec(client, tuple(dict.fromkeys(login.scopes)), login.title or provider, login.par)


def compile_introspection(
    source: Source[TenantDocument], entry: Introspection, path: Path, findings: Findings
) -> IntrospectionSpec:
    """The ``introspection`` of a provider; ``path`` leads to it."""
    client = _client(source, entry, path, findings)
    if entry.client_secret is None and entry.client_key is None and entry.client_auth in (None, "none"):
        # RFC 7662 section 2.1: else whoever has a guess could ask whether it is a token.
        text = "expected client_secret or client_key: a provider tells nobody about tokens who does not say who asks"
        findings.mistake(source, text, *path)
    if seconds(entry.max_age) > MAX_INTROSPECTION_AGE_S:
        text = f"{entry.max_age} is too long; expected at most 1h, for so long a revoked token would be believed"
        findings.mistake(source, text, *path, "max_age")
    return IntrospectionSpec(client, seconds(entry.max_age))


def check_one_introspection(source: Source[TenantDocument], findings: Findings) -> None:
    """A token that says nothing of itself can be shown to one provider: to others it is nobody's business."""
    first: int | None = None
    for index, provider in enumerate(source.document.identity):
        if provider.introspection is None:
            continue
        if first is None:
            first = index
        else:
            where = source.where("identity", first, "introspection")
            text = f"expected one provider with introspection; the first is at {where}, and an opaque token names none"
            findings.mistake_of_key(source, text, "identity", index, "introspection")


def compile_endpoints(
    source: Source[TenantDocument], provider: Provider, path: Path, findings: Findings, *, allow_loopback_http: bool
) -> dict[str, str]:
    """Addresses by their names in discovery; ``path`` leads to ``endpoints``."""
    endpoints: dict[str, str] = provider.endpoints.model_dump(exclude_none=True)
    for name, address in endpoints.items():
        if flaw := flaw_of_endpoint(address, allow_loopback_http=allow_loopback_http):
            findings.mistake(source, flaw, *path, name)
    return endpoints


def compile_sessions(source: Source[TenantDocument], findings: Findings) -> SessionsSpec:
    """A tenant's ``sessions``; the defaults where it says nothing."""
    document = source.document
    entry = document.sessions or Sessions()
    absolute_s = seconds(entry.absolute)
    is_idle_given = "idle" in entry.model_fields_set
    idle_s = seconds(entry.idle) if is_idle_given else min(seconds(entry.idle), absolute_s)
    if document.sessions is not None and not any(provider.login is not None for provider in document.identity):
        text = "nobody can have a session: expected login: {…} at one of the providers in identity"
        findings.mistake_of_key(source, text, "sessions")
    if idle_s < MIN_IDLE_S:
        key, value = ("idle", entry.idle) if is_idle_given else ("absolute", entry.absolute)
        findings.mistake(source, f"{value} is too short; expected at least 2m", "sessions", key)
    if absolute_s > MAX_ABSOLUTE_S:
        findings.mistake(source, f"{entry.absolute} is too long; expected at most 720h", "sessions", "absolute")
    if idle_s > absolute_s:
        text = f"a session ends after {entry.absolute} and so before {entry.idle} without use"
        findings.mistake(source, f"{text}; expected idle <= absolute", "sessions", "idle")
    return SessionsSpec(entry.store, idle_s, absolute_s)


def compile_token_lifetime(source: Source[TenantDocument], findings: Findings) -> float:
    """Seconds that a token of Portero's own is good for."""
    lifetime = source.document.token_lifetime
    if not MIN_TOKEN_LIFETIME_S <= seconds(lifetime) <= MAX_TOKEN_LIFETIME_S:
        findings.mistake(source, f"{lifetime} is no lifetime of tokens; expected 10s to 1h", "token_lifetime")
    return seconds(lifetime)


def _client(source: Source[TenantDocument], entry: Client, path: Path, findings: Findings) -> ClientSpec:
    if not _is_visible(entry.client_id):
        text = f"{entry.client_id!r} is no client_id; expected visible ASCII as the provider has registered it"
        findings.mistake(source, text, *path, "client_id")
    for key in ("client_secret", "client_key"):
        if getattr(entry, key) == KEYS_OF_CALLERS:
            text = f"the name {KEYS_OF_CALLERS!r} is Portero's own: the digests of API keys lie there"
            findings.mistake(source, text, *path, key)
    if entry.client_secret is not None and entry.client_key is not None:
        text = "client_secret and client_key are both given; expected one of them"
        findings.mistake_of_key(source, text, *path, "client_key")
    elif entry.client_auth is not None and (flaw := _flaw_of_auth(entry, entry.client_auth)):
        findings.mistake(source, flaw, *path, "client_auth")
    usual: Auth = "none"
    if entry.client_secret is not None:
        usual = "client_secret_basic"
    elif entry.client_key is not None:
        usual = "private_key_jwt"
    return ClientSpec(entry.client_id, entry.client_auth or usual, entry.client_secret or entry.client_key)


def _flaw_of_auth(entry: Client, auth: Auth) -> str | None:
    match auth:
        case "private_key_jwt":
            return None if entry.client_key is not None else f"{auth} signs with a key; expected client_key"
        case "none":
            given = "client_secret" if entry.client_secret is not None else "client_key"
            is_public = entry.client_secret is None and entry.client_key is None
            return None if is_public else f"none is for clients without a secret; leave {given} or client_auth out"
        case _:
            return None if entry.client_secret is not None else f"{auth} shows a secret; expected client_secret"


def _is_visible(text: str) -> bool:
    """RFC 6749 appendix A: what a client_id and a scope consist of."""
    return text.isascii() and text.isprintable()
