"""
Who is authenticated. A subject is always ``(provider, sub)``: a bare name or an e-mail address never names anybody.

Source: OpenID Connect Core 1.0 section 5.7 (only iss and sub together identify an end user).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

ANONYMOUS_PROVIDER: Final = "anonymous"
SERVICE_ACCOUNT_PROVIDER: Final = "service-account"
API_KEY_PROVIDER: Final = "api-key"


class Confirmation(NamedTuple):
    """What a token is bound to (``cnf``, RFC 7800): whoever shows it must prove to have the key."""

    jkt: str | None = None
    """Base64url SHA-256 thumbprint of a JWK (RFC 9449 section 6.1)."""
    x5t: str | None = None
    """Base64url SHA-256 of a certificate (``x5t#S256``, RFC 8705 section 3.1)."""


class Principal:
    """
    One authenticated caller of one tenant, or ``anonymous``.

    Not a frozen dataclass: a principal is made once per token, lives in the token cache and is read on every request,
    and it carries the memo of its role mask (``rbac.py`` owns both memo slots; they hold no authority of their own).
    """

    __slots__ = (
        "assertion_block",
        "claims",
        "confirmation",
        "email",
        "expires_at",
        "groups",
        "has_unknown_groups",
        "inject_block",
        "is_by_cookie",
        "is_session_over",
        "issued_at",
        "issuer",
        "name",
        "only_function",
        "provider",
        "role_mask",
        "role_table",
        "session_id",
        "set_cookie",
        "sid",
        "sub",
        "subject",
    )

    def __init__(
        self,
        provider: str,
        sub: str,
        *,
        groups: frozenset[str] = frozenset(),
        has_unknown_groups: bool = False,
        email: str | None = None,
        claims: Mapping[str, Any] | None = None,
        expires_at: float | None = None,
    ) -> None:
        self.provider = provider
        self.sub = sub
        self.subject = f"{provider}|{sub}"
        """As policy files, keys and audit lines write it."""
        self.groups = groups
        self.has_unknown_groups = has_unknown_groups
        """The token speaks of groups and they cannot be had: ``groups`` is empty, and no condition may take it so."""
        self.email = email
        """Lower case; only when verified and of a domain that the provider may vouch for, else None."""
        self.claims: Mapping[str, Any] = claims if claims is not None else {}
        self.expires_at = expires_at
        """Unix seconds; None for anonymous."""
        self.issuer: str | None = None
        """Of the provider, for revocation; None for callers that no provider vouches for."""
        self.sid: str | None = None
        """The provider's session (OpenID Connect Back-Channel Logout 1.0 section 2.1)."""
        self.issued_at = 0.0
        """When the identity was established, Unix seconds: a logout ends what was established before it."""
        self.name: str | None = None
        """To show to the caller; never judged."""
        self.confirmation: Confirmation | None = None
        self.only_function: str | None = None
        """The one function of the tenant that the token was given out for; None: any."""
        self.session_id: str | None = None
        """Of Portero's own session."""
        self.is_by_cookie = False
        """A browser sends the credential by itself, whoever made it send the request: the cross-origin rule holds."""
        self.is_session_over = False
        """Nobody, but the browser brought a session that has ended: it is told so, and public functions stay public."""
        self.set_cookie = b""
        """``Set-Cookie`` lines that the answer carries; empty for almost every request."""
        self.assertion_block: dict[str, tuple[float, bytes]] | None = None
        """Function -> until when, and the signed lines for it (``authproxy.identity.tokens.assertion``)."""
        self.role_table: object = None
        self.role_mask = 0
        self.inject_block: tuple[str, bytes] | None = None
        """Tenant, and the identity fields for its functions, encoded once (``upstream_identity.py``)."""

    @property
    def is_anonymous(self) -> bool:
        return self.provider == ANONYMOUS_PROVIDER

    def __repr__(self) -> str:
        return f"Principal({self.subject!r}, groups={sorted(self.groups)!r})"


def anonymous() -> Principal:
    """The caller of a public function who brought no credential."""
    return Principal(ANONYMOUS_PROVIDER, "anonymous")
