"""
Session cookies opened before, so that a repeated one costs a digest and a few probes.

It decides only whether everything still holds that led to the earlier answer; a hit is worth exactly what a miss is
(AP-R18): the keys, the clock, the tenant's table and what was revoked meanwhile are compared on every look. It refuses
to know cookies: it sees digests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from authproxy.identity.sessions.session import Session
from authproxy.identity.sessions.session_seams import RevocationList
from policies.principal import Principal
from policies.tables import TenantTable

MAX_OPENED: Final = 10_000
"""Cookies kept; one takes 2 to 20 KiB with its claims."""
_CLOCK_STEP_S: Final = 1.0
"""A clock that goes back further makes everything be judged anew."""

Slot = tuple[str, int, bytes]
"""Tenant, number of pieces, and SHA-256 of the sealed text: one cookie is two cookies in two tenants."""


class Known:
    """What one cookie came to. Mutable in ``until`` and ``generation`` alone."""

    __slots__ = ("cookie_version", "generation", "principal", "session", "since", "table", "until")

    def __init__(
        self,
        principal: Principal,
        session: Session,
        cookie_version: int,
        table: TenantTable,
        generation: int,
        now: float,
        until: float,
    ) -> None:
        self.principal = principal
        self.session = session
        """The newest version that was known, with the last use that the cookie itself tells of."""
        self.cookie_version = cookie_version
        self.table = table
        self.generation = generation
        self.since = now - _CLOCK_STEP_S
        self.until = until
        """From then on there is something to do, or it is over; Unix seconds."""


class OpenedCookies:
    """
    Bounded; the least recently used goes first.

    Args:
        revocations: says what was ended meanwhile.
        keys: that cookies open by; another object when they have changed, and then nothing that was opened is left.
        max_opened: cookies kept.
    """

    def __init__(self, revocations: RevocationList, keys: Callable[[], object], max_opened: int) -> None:
        self._revocations = revocations
        self._keys = keys
        self._opened_by: object = None
        self._max_opened = max_opened
        self._known: OrderedDict[Slot, Known] = OrderedDict()

    def find(self, tenant: TenantTable, slot: Slot, now: float) -> Principal | None:
        """Whose the cookie is, if there is nothing to do but to say so."""
        if self._keys() is not self._opened_by:
            self._begin_anew()
        known = self._known.get(slot)
        if known is None or not known.since <= now < known.until or known.table is not tenant:
            return None
        generation = self._revocations.generation
        if generation != known.generation:
            if is_revoked(self._revocations, known.session):
                del self._known[slot]
                return None
            known.generation = generation
        self._known.move_to_end(slot)
        return known.principal

    def peek(self, tenant: TenantTable, slot: Slot, now: float) -> Known | None:
        """What the cookie came to although something is to be done about it; the table must be the same."""
        if self._keys() is not self._opened_by:
            self._begin_anew()
        known = self._known.get(slot)
        return known if known is not None and known.table is tenant and known.since <= now else None

    def keep(self, slot: Slot, known: Known) -> None:
        self._known[slot] = known
        self._known.move_to_end(slot)
        if len(self._known) > self._max_opened:
            self._known.popitem(last=False)

    def forget(self, slot: Slot) -> None:
        self._known.pop(slot, None)

    def look_again(self, slot: Slot) -> None:
        """The next look finds something to do."""
        known = self._known.get(slot)
        if known is not None:
            known.until = 0.0

    def clear(self) -> None:
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)

    def _begin_anew(self) -> None:
        """A key that was taken away opens nothing any more."""
        self._known.clear()
        self._opened_by = self._keys()


def is_revoked(revocations: RevocationList, session: Session) -> bool:
    """Whether a logout has ended the session, or everything of its holder before it began or after."""
    return revocations.is_revoked(
        session.tenant,
        session_id=session.id,
        issuer=session.issuer,
        sub=session.sub,
        sid=session.sid,
        established_at=session.created_at,
    )
