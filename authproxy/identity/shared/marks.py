"""
What was revoked, as one replica knows it: marks of sessions, subjects and providers' sessions, and the look-up.

A mark says: what was established up to then is over, and until when anybody could ask. It is applied by whole seconds:
what begins in the second of the logout, or in the next one, is over too. Issuers write whole seconds (``iat``), so
within one second nobody can tell which came first; and the clocks of replicas and issuers, kept by NTP, may differ by
one second (``SKEW_S``) without a logged-out session living on. The price: who is logged out everywhere and logs in
again within two seconds has to log in once more.

Marks end by the monotonic clock: a clock that jumps ahead and back again forgets nothing. Their number is bounded: what
there is no room for becomes one mark for its whole tenant, which ends more than was asked and never less. This module
does no I/O and refuses to know who told it.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal, NamedTuple, get_args

Kind = Literal["session", "subject", "sid", "tenant"]
"""A session of ours; all of a provider's subject; of a provider's session; all there is of a tenant."""
KINDS: Final = get_args(Kind)
SKEW_S: Final = 1
MAX_MARKS: Final = 200_000
"""About 400 bytes each."""
GRACE_S: Final = 3600
"""A mark is kept so long after its end: for clocks that differ, and are set back."""
_LATEST: Final = 253_402_300_800
"""The year 10000, Unix seconds: no instant is later."""
_DIGEST_BYTES: Final = 16
MEMO: Final = 16_384
"""Digests at hand: callers that come again are not digested again (0.6 us each)."""


class Mark(NamedTuple):
    """One thing that was revoked. Instants are whole Unix seconds."""

    tenant: str
    kind: Kind
    digest: bytes
    """Of what was revoked: whoever reads the store learns no subject."""
    at: int
    """What was established up to then is over. Of no meaning for a session of ours, which is over whenever it began."""
    until: int
    """Nobody needs to ask any more after that."""

    def encode(self) -> str:
        """Equal marks are equal text."""
        return json.dumps([self.tenant, self.kind, self.digest.hex(), self.at, self.until], separators=(",", ":"))

    @classmethod
    def decode(cls, text: bytes) -> Mark | None:
        """None for what no ``encode`` has written."""
        try:
            tenant, kind, digest, at, until = json.loads(text)
            mark = cls(tenant, kind, bytes.fromhex(digest), at, until)
        except (ValueError, TypeError, RecursionError):
            return None
        if not isinstance(tenant, str) or kind not in KINDS or len(mark.digest) != _DIGEST_BYTES:
            return None
        return mark if all(type(number) is int and 0 <= number <= _LATEST for number in (at, until)) else None


@lru_cache(maxsize=MEMO)
def digest(kind: Kind, first: str = "", second: str = "") -> bytes:
    """Of what is revoked; the parts are told apart by the first one's length."""
    text = f"{kind}\0{len(first)}\0{first}{second}"
    return sha256(text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def make_mark(tenant: str, kind: Kind, parts: tuple[str, ...], at: float, until: float) -> Mark:
    """
    A mark, by whole seconds.

    Raises: ValueError for instants that are none (NaN and infinite ones): they would compare as never revoked.
    """
    if not (math.isfinite(at) and math.isfinite(until)):
        raise ValueError("the instants of a revocation are finite numbers")
    return Mark(
        tenant,
        kind,
        digest(kind, *parts),
        min(max(math.floor(at), 0), _LATEST),
        min(max(math.ceil(until), 0), _LATEST),
    )


class _Known(NamedTuple):
    mark: Mark
    over_before: int
    """What was established before that is over."""
    forget_at: float
    """Monotonic."""


class _TenantMarks:
    """Those of one tenant."""

    __slots__ = ("by_digest", "floor")

    def __init__(self) -> None:
        self.by_digest: dict[bytes, _Known] = {}
        self.floor: float = -math.inf
        """Whatever was established before is over."""


class Marks:
    """
    All marks known here.

    Args:
        max_marks: more than so many become one mark for the tenant that has the most.
    """

    def __init__(self, *, max_marks: int = MAX_MARKS) -> None:
        self._max_marks = max_marks
        self._tenants: dict[str, _TenantMarks] = {}
        self._count = 0
        self._ends: list[tuple[float, str, bytes]] = []
        """Heap of (when to look whether a mark may be forgotten, tenant, digest)."""
        self.joins = 0
        """How often the bound was met."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mark]:
        """A snapshot."""
        marks = [known.mark for marks in self._tenants.values() for known in marks.by_digest.values()]
        return iter(marks)

    def is_revoked(
        self,
        tenant: str,
        *,
        session_id: str | None,
        issuer: str | None,
        sub: str | None,
        sid: str | None,
        established_at: float,
    ) -> bool:
        """
        Whether a mark ends what was established then.

        The comparisons are written so that an instant that is no number (NaN) is before any other: it is over.
        """
        marks = self._tenants.get(tenant)
        if marks is None:
            return False
        if not established_at >= marks.floor:
            return True
        by_digest = marks.by_digest
        if session_id is not None and digest("session", session_id) in by_digest:
            return True
        if issuer is None:
            return False
        if sub is not None:
            known = by_digest.get(digest("subject", issuer, sub))
            if known is not None and not established_at >= known.over_before:
                return True
        if sid is not None:
            known = by_digest.get(digest("sid", issuer, sid))
            if known is not None and not established_at >= known.over_before:
                return True
        return False

    def add(self, new: Mark, now: float, monotonic: float) -> bool:
        """
        Apply a mark; True when something may be over that was not before.

        Args:
            new: joined with what is known of the same: the later instants count.
            now: Unix seconds, to tell for how long the mark is to be kept.
            monotonic: of the same moment.
        """
        marks = self._tenants.setdefault(new.tenant, _TenantMarks())
        old = marks.by_digest.get(new.digest)
        if old is not None:
            new = new._replace(at=max(old.mark.at, new.at), until=max(old.mark.until, new.until))
            if new == old.mark:
                return False
        else:
            self._count += 1
        self._put(marks, new, monotonic + max(0.0, new.until - now) + GRACE_S)
        if self._count > self._max_marks:
            self._join_most(now, monotonic)
        return old is None or new.at > old.mark.at

    def forget_ended(self, monotonic: float) -> None:
        """Drop what nobody needs to ask for any more."""
        while self._ends and self._ends[0][0] <= monotonic:
            _, tenant, name = heapq.heappop(self._ends)
            marks = self._tenants.get(tenant)
            known = marks.by_digest.get(name) if marks is not None else None
            if marks is None or known is None or known.forget_at > monotonic:
                continue  # renewed meanwhile, or joined with others
            del marks.by_digest[name]
            self._count -= 1
            if known.mark.kind == "tenant":
                marks.floor = -math.inf
            if not marks.by_digest:
                del self._tenants[tenant]

    def _put(self, marks: _TenantMarks, new: Mark, forget_at: float) -> None:
        over_before = new.at + 1 + SKEW_S
        marks.by_digest[new.digest] = _Known(new, over_before, forget_at)
        if new.kind == "tenant":
            marks.floor = max(marks.floor, over_before)
        heapq.heappush(self._ends, (forget_at, new.tenant, new.digest))
        if len(self._ends) > 2 * self._count + 64:
            self._ends = [
                (known.forget_at, tenant, name)
                for tenant, others in self._tenants.items()
                for name, known in others.by_digest.items()
            ]
            heapq.heapify(self._ends)

    def _join_most(self, now: float, monotonic: float) -> None:
        """All marks of the tenant that has the most become one, which ends whatever any of them has ended."""
        tenant, marks = max(self._tenants.items(), key=lambda item: len(item[1].by_digest))
        all_of_it = [known.mark for known in marks.by_digest.values()]
        latest = max(mark.at for mark in all_of_it)
        self._count -= len(all_of_it)
        marks.by_digest.clear()
        self.joins += 1
        self.add(
            Mark(tenant, "tenant", digest("tenant"), latest, max(mark.until for mark in all_of_it)), now, monotonic
        )
