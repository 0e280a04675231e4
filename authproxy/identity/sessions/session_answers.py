"""
What a cookie comes to that names nobody: nothing, nothing that can be read, or a session that is over.

Such a caller is anonymous and never refused for the cookie's sake: a browser cannot help what it sends, and public
functions stay public. It refuses to know why a session is over beyond the word that is counted.
"""

from __future__ import annotations

from typing import Final, Literal

from authproxy.identity.sessions import cookies
from authproxy.identity.sessions.session_cookies import clearing, lines
from authproxy.identity.sessions.session_seams import SessionMetrics
from policies.principal import Principal, anonymous
from policies.request import AccessRequest

Outcome = Literal["begun", "ended", "expired", "revoked", "unreadable"]
"""Of ``portero_sessions_total``."""
_MAX_OVER: Final = 1024


class Answers:
    """One anonymous caller for each thing that may be said to it, so that its role mask is worked out once."""

    def __init__(self, metrics: SessionMetrics | None) -> None:
        self._counter = metrics.sessions_total if metrics is not None else None
        self._nobodies: dict[str, Principal] = {}
        self._over: dict[tuple[str, ...], Principal] = {}

    def count(self, tenant: str, outcome: Outcome) -> None:
        if self._counter is not None:
            self._counter.add((tenant, outcome))

    def nobody(self, tenant: str) -> Principal:
        """Who brought no session."""
        nobody = self._nobodies.get(tenant)
        if nobody is None:
            nobody = self._nobodies[tenant] = anonymous()
        return nobody

    def unreadable(self, tenant: str) -> Principal:
        """Who brought what is no session of this tenant: nothing is said of it."""
        self.count(tenant, "unreadable")
        return self.nobody(tenant)

    def over(
        self, tenant: str, request: AccessRequest, outcome: Literal["expired", "revoked"], *, keeps_cookie: bool = False
    ) -> Principal:
        """
        Who brought a session that is over. The browser is told to forget one that has expired, unless ``keeps_cookie``.

        Not one that was revoked: whoever did that has told the browser already, maybe together with a new session that
        an answer to a request of before, arriving late, would clear.
        """
        self.count(tenant, outcome)
        names = cookies.session_names(request.cookie) if outcome == "expired" and not keeps_cookie else ()
        slot = (tenant, *names)
        nobody = self._over.get(slot)
        if nobody is None:
            if len(self._over) >= _MAX_OVER:
                self._over.clear()
            nobody = self._over[slot] = anonymous()
            nobody.is_session_over = True
            nobody.set_cookie = lines(clearing(request)) if names else b""
        return nobody
