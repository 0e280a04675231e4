"""
Who is authenticated. A subject is always ``(provider, sub)``: a bare name or an e-mail address never names anybody.

Source: OpenID Connect Core 1.0 section 5.7 (only iss and sub together identify an end user).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ANONYMOUS_PROVIDER: Final = "anonymous"
SERVICE_ACCOUNT_PROVIDER: Final = "service-account"


class Principal:
    """
    One authenticated caller of one tenant, or ``anonymous``.

    Not a frozen dataclass: a principal is made once per token, lives in the token cache and is read on every request,
    and it carries the memo of its role mask (``rbac.py`` owns both memo slots; they hold no authority of their own).
    """

    __slots__ = (
        "claims",
        "email",
        "expires_at",
        "groups",
        "has_unknown_groups",
        "inject_block",
        "provider",
        "role_mask",
        "role_table",
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
