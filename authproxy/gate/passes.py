"""
Passes: what was judged at one door waits here for its request, which Kong sends on to the internal listener.

A pass names the judged state and is good once, for one request and a few seconds: an HMAC under a key of this process
binds it to tenant, function and subject, and to method, host and target as they will be sent. So nothing is judged
twice, and who can reach the internal listener without a pass reaches nothing. Here it is decided whether a request may
have what waits under its pass, and that what nobody fetches ends at the gate, exactly once. It refuses to know what the
request carries besides (``edges/internal.py``) and how it is sent (``gateway_plugins``).

What waits is still within reach of what happens meanwhile: a request that may leave stands in the registry of live
exchanges and ends when that cuts it; all others are asked about again by the gate before they leave.

All calls come from the gate's event loop.

Longer than other modules: who may have what waits, and that what waits ends once, are two sides of one book.

Source: RFC 2104 (HMAC), RFC 4648 section 5 (base64url).
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from authproxy.audit import get_logger
from authproxy.gate.live import GOING_AWAY
from authproxy.gate.verdict import Deferred, PageCall, Passed, Refused, Undecided
from policies.decision import Challenge, Deny, Reason, Refusal
from policies.pipeline import Ready
from policies.principal import Principal
from policies.request import AccessRequest, Head

Passable = Undecided | Passed | PageCall | Deferred

TTL_S: Final = 10.0
"""Kong sends the request on within milliseconds of its plugin's answer."""
MAX_WAITING: Final = 10_000
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Of the heads of all that waits: a head may have 32 KiB, and whoever sends one chooses how large it is."""
_ONE_BYTES: Final = 4 * 1024
"""What one takes besides its head."""
_NONCE_BYTES: Final = 16
_EXPIRY_BYTES: Final = 6
"""Milliseconds of this process's clock."""
_SIGNED_BYTES: Final = _NONCE_BYTES + _EXPIRY_BYTES
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{72}")
"""54 bytes are 72 characters without any to spare: a pass has one spelling."""
_PLUS_SLASH: Final = bytes.maketrans(b"-_", b"+/")
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")

_GONE: Final = Deny(Reason.CLIENT_GONE)
_MISUSED: Final = Deny(Reason.PASS_INVALID)
_DRAINING: Final = Deny(Reason.DRAINING, retry_after_s=1)
_CUT: Final = Deny(Reason.POLICY_UNAVAILABLE, "what allowed the request ended before it could leave", retry_after_s=1)

_log = get_logger("gate")


class PassGate(Protocol):
    """What is needed of ``authproxy.gate.gate.Gate``: how each kind of judged request ends without an answer."""

    def fail(self, passed: Passed, refusal: Refusal) -> Refused: ...

    def finish(self, passed: Passed, *, status: int, bytes_in: int, bytes_out: int, failure: Reason | None) -> None: ...

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused: ...

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused: ...

    def refuse_undecided(self, undecided: Undecided, refusal: Refusal) -> Refused: ...


class _Waiting:
    """What waits under one nonce."""

    __slots__ = ("bound", "expires_at", "size", "tenant", "verdict")

    def __init__(self, verdict: Passable, expires_at: float) -> None:
        tenant, function, subject = _named(verdict)
        self.verdict: Passable | Refused = verdict
        """``Refused``: it has ended at the gate already, and this is what its request is told."""
        self.expires_at = expires_at
        self.tenant = tenant
        self.bound = _joined(tenant, function, subject)
        """What the pass says that its request does not."""
        self.size = _size(verdict.request)


class Passes:
    """
    One a process. ``close`` is owed.

    Args:
        gate: told of the end of what is never fetched.
        ttl_s: seconds that a pass is good for.
        max_waiting: at most so many at once, of which no tenant gets more than half of what the others leave.
        max_bytes: of the heads of all that waits, shared out likewise.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        gate: PassGate,
        *,
        ttl_s: float = TTL_S,
        max_waiting: int = MAX_WAITING,
        max_bytes: int = MAX_WAITING_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = gate
        self._ttl_s = ttl_s
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._waiting: dict[bytes, _Waiting] = {}
        """By nonce, in the order of their expiry."""
        self._of: Counter[str] = Counter()
        self._bytes = 0
        self._bytes_of: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        """Set while something waits."""
        self._is_closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    # -- issuing -----------------------------------------------------------------------------------------------------

    def issue(self, verdict: Passable) -> str | None:
        """
        The value of ``X-Portero-Pass`` for the request of ``verdict``, which from now on is ended from here.

        The request is to be sent with its own method, ``authority`` as Host and ``target_of`` as target. None when too
        many wait, or none are taken any more: ``verdict`` is the caller's still, and ``refuse`` ends it.

        Raises: RuntimeError outside an event loop.
        """
        now = self._clock()
        waiting = _Waiting(verdict, now + self._ttl_s)
        if self._is_closed or not self._has_room(waiting):
            return None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._ttl_s, self._expired)
        request = verdict.request
        nonce = secrets.token_bytes(_NONCE_BYTES)
        signed = nonce + math.ceil(waiting.expires_at * 1000).to_bytes(_EXPIRY_BYTES, "big")
        mac = self._mac(signed, waiting, request.method, request.authority.encode("ascii"), target_of(request))
        self._waiting[nonce] = waiting
        self._add(waiting, 1)
        if type(verdict) is Passed:
            verdict.on_cut = partial(self._cut, nonce)
        return binascii.b2a_base64(signed + mac, newline=False).translate(_URL_SAFE).decode("ascii")

    def _has_room(self, waiting: _Waiting) -> bool:
        tenant, size = waiting.tenant, waiting.size
        return _is_fair(1, self._of[tenant], len(self._waiting), self._max_waiting) and _is_fair(
            size, self._bytes_of[tenant], self._bytes, self._max_bytes
        )

    def _add(self, waiting: _Waiting, sign: int) -> None:
        tenant, size = waiting.tenant, sign * waiting.size
        self._bytes += size
        for book, count in ((self._of, sign), (self._bytes_of, size)):
            book[tenant] += count
            if not book[tenant]:
                del book[tenant]

    def _mac(self, signed: bytes, waiting: _Waiting, method: str, host: bytes, target: bytes) -> bytes:
        return hmac.digest(self._key, _joined(signed, waiting.bound, method, host, target), "sha256")

    # -- redeeming ---------------------------------------------------------------------------------------------------

    def redeem(self, token: bytes, head: Head) -> Passable | Refused | None:
        """
        What waits under ``token``, if it is for the request of ``head``; it is the caller's from now on.

        Never raises, whatever the bytes. A pass is used up by being shown, whatever comes of it.

        Returns:
            ``Refused``, of which the gate knows already, when what allowed the request has ended meanwhile (a policy, a
            login, the process); None when the pass is no pass, was used, has expired or is for another request.
        """
        raw = _decoded(token)
        if raw is None:
            return None
        signed = raw[:_SIGNED_BYTES]
        # That a probe of a dict takes its time by its key tells nobody anything: the nonce alone opens nothing.
        waiting = self._take(signed[:_NONCE_BYTES])
        if waiting is None:
            return None
        verdict = waiting.verdict
        hosts = [value for name, value in head.fields if name.lower() == b"host"]
        mac = self._mac(signed, waiting, head.method, hosts[0] if len(hosts) == 1 else b"", head.target)
        is_for_it = hmac.compare_digest(mac, raw[_SIGNED_BYTES:])
        if not is_for_it or waiting.expires_at <= self._clock():
            self._end(verdict, _GONE if is_for_it else _MISUSED)
            return None
        if type(verdict) is Passed and (why := _ended_by(verdict)) is not None:
            return self._end(verdict, why)
        return verdict

    def _take(self, nonce: bytes) -> _Waiting | None:
        waiting = self._waiting.pop(nonce, None)
        if waiting is not None:
            self._add(waiting, -1)
            if type(waiting.verdict) is Passed:
                waiting.verdict.on_cut = None  # no cycle may be left
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None
        return waiting

    # -- ending ------------------------------------------------------------------------------------------------------

    def refuse(self, verdict: Passable, refusal: Refusal) -> Refused:
        """
        End what does not wait here (``issue`` gave no pass, ``redeem`` gave it back): all that it holds is given back,
        it is counted and audited. Exactly once each; returns what to write.
        """
        if isinstance(verdict, Passed):
            refused = self._gate.fail(verdict, refusal)
            self._gate.finish(verdict, status=refused.problem.status, bytes_in=0, bytes_out=0, failure=refusal.reason)
            return refused
        if isinstance(verdict, PageCall):
            return self._gate.page_refused(verdict, refusal)
        if isinstance(verdict, Undecided):
            return self._gate.refuse_undecided(verdict, refusal)
        return self._gate.deferred_refused(verdict, refusal)

    def take_back(self, token: str) -> None:
        """The request will not be sent: end it now rather than when its pass expires. Never raises."""
        raw = _decoded(token.encode("utf-8", "surrogatepass"))
        waiting = None if raw is None else self._take(raw[:_NONCE_BYTES])
        if waiting is not None:
            self._end(waiting.verdict, _GONE)

    def sweep(self) -> None:
        """End what nobody has fetched in time."""
        now = self._clock()
        while self._waiting:
            nonce, waiting = next(iter(self._waiting.items()))
            if waiting.expires_at > now:
                return
            self._take(nonce)
            self._end(waiting.verdict, _GONE)

    async def close(self, patience_s: float = 0.0) -> None:
        """
        Issue no more, let what waits be fetched for ``patience_s``, and refuse the rest (503 ``draining``), whether it
        is still fetched or not. Idempotent.
        """
        self._is_closed = True
        until = self._clock() + patience_s
        while self._waiting and self._clock() < until:  # noqa: ASYNC110 (polled, so that no request has to tell)
            await asyncio.sleep(0.01)
        for nonce in tuple(self._waiting):
            self._end_early(nonce, _DRAINING)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, verdict: Passable | Refused, refusal: Refusal) -> Refused | None:
        """As ``refuse``, for what may have ended already, and keeping no other from being ended. None: it failed."""
        if isinstance(verdict, Refused):
            return verdict
        try:
            return self.refuse(verdict, refusal)
        except Exception:  # noqa: BLE001  # contained: the others have to be ended all the same
            _log.exception("ending a request that waited for its pass failed", request_id=verdict.case.request_id)
            return None

    def _cut(self, nonce: bytes, code: int) -> None:
        """See ``LiveExchange.on_cut``: what it holds is given back at once, and its request is told why."""
        waiting = self._waiting.get(nonce)
        if waiting is not None and isinstance(waiting.verdict, Passed):
            self._end_early(nonce, _DRAINING if code == GOING_AWAY else _ended_by(waiting.verdict) or _CUT)

    def _end_early(self, nonce: bytes, why: Refusal) -> None:
        """End what waits before anybody has fetched it, who is told ``why`` when he does."""
        waiting = self._waiting[nonce]
        if isinstance(waiting.verdict, Passed):
            waiting.verdict.on_cut = None
        refused = self._end(waiting.verdict, why)
        if refused is None:
            self._take(nonce)
        else:
            waiting.verdict = refused

    def _expired(self) -> None:
        self._timer = None
        self.sweep()
        if self._waiting and not self._is_closed:
            first = next(iter(self._waiting.values()))
            left_s = max(0.01, first.expires_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expired)


def target_of(request: AccessRequest) -> bytes:
    """The target, origin-form, that a request is sent to the internal listener with: canonical path, its own query."""
    path, query = request.target.path, request.target.query
    return (path if query is None else f"{path}?{query}").encode("ascii")


def _decoded(token: bytes) -> bytes | None:
    """The bytes of a pass in its one spelling; None: it is none."""
    if _TOKEN.fullmatch(token) is None:
        return None
    return binascii.a2b_base64(token.translate(_PLUS_SLASH))


def _joined(*parts: str | bytes) -> bytes:
    """Each with its length, so that no two lists of parts are one."""
    encoded = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join([len(part).to_bytes(4, "big") + part for part in encoded])


def _named(verdict: Passable) -> tuple[str, str, str]:
    """Tenant, function and subject; empty where there is none."""
    if isinstance(verdict, PageCall):
        return verdict.page.tenant.name, "", ""
    place = verdict.need.place if isinstance(verdict, Undecided) else verdict.allow.place
    principal = _principal_of(verdict) if isinstance(verdict, Undecided) else verdict.allow.principal
    return place.tenant.name, place.function, "" if principal is None else principal.subject


def _principal_of(undecided: Undecided) -> Principal | None:
    need = undecided.need
    return need.principal if isinstance(need, Ready) else undecided.case.principal


def _size(request: AccessRequest) -> int:
    """Bytes, roughly: the head stands in it as it came, as read, and as it will leave."""
    head = len(request.forward_block) + len(request.cookie or b"") + len(request.authorization or b"")
    return _ONE_BYTES + 3 * head


def _ended_by(passed: Passed) -> Refusal | None:
    """Why what was judged does not hold any more; None: it does."""
    try:
        is_revoked = passed.is_revoked()
    except Exception:  # noqa: BLE001 (an error never widens access)
        _log.exception("looking whether a request that waits was revoked failed")
        is_revoked = True
    if is_revoked:
        by_cookie = passed.allow.principal.is_by_cookie
        if by_cookie:
            return Challenge(Reason.SESSION_EXPIRED, detail="the session is over; log in again", tenant=passed.tenant)
        return Challenge(
            Reason.CREDENTIAL_INVALID, "invalid_token", "the login behind the token has ended", tenant=passed.tenant
        )
    return _CUT if passed.is_cut else None


def _is_fair(more: int, mine: int, everybodys: int, most: int) -> bool:
    """
    Whether a tenant that has ``mine`` of ``everybodys`` may have ``more``: half of what the others leave of ``most``,
    or a first one.
    """
    left = most - (everybodys - mine)
    return 2 * (mine + more) <= left or (not mine and more <= left)
