"""
One refresh of one session over all replicas: a lease says who asks the provider, the result is shared with the others.

A refresh token that rotates may be shown once; shown twice, a provider that detects reuse ends the whole login. So:

- Who wants to refresh looks for a result first, then takes the lease, then looks again, and asks the provider only when
  the lease is its own at that moment. The lease is renewed at a third of its time for as long as the provider takes.
- Before asking it leaves word that it is about to. Who takes over from a holder that left such word and no result gives
  it a moment (``SETTLE_S``) to bring one: a Redis that paused ends the lease of a holder that is alive.
- A result is written by version: a holder that lost its lease meanwhile overwrites nothing newer. When it cannot be
  written it is kept, and written as soon as the store answers.
- ``invalid_grant`` means nothing before the shared result was read once more: another may have been quicker. Who took
  over from a holder that left word waits longer for that one's result (``SETTLE_REFUSED`` times as long): the no may be
  about a token that was shown twice, and to believe it logs a person out whose new token is on its way.

When the store cannot be asked, sealed-cookie sessions go on without a lease (design section 16), once per process.
What can go wrong then: two replicas that get requests of the same session at the same time both show its refresh token,
and a provider that detects reuse logs that person out. That is chosen over refusing everybody for as long as the store
is down, because the harm is a login, not an access; and it is made rare: not before the store has been down for as long
as a lease lasts, not while the session is still fresh, and not when another replica was seen to be refreshing it.
Sessions that live in the store wait for it, as they do anyway. A process that is stopped between its last look at the
lease and the sending of its request can show the token late; no lease can prevent that.

This module refuses to know who waits for the result.

Longer than other modules: it is one protocol among replicas, and its steps are only right together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from authproxy.audit import get_logger
from authproxy.identity.sessions.lifetime import renewed
from authproxy.identity.sessions.renewals import Over, Renewal, Renewals
from authproxy.identity.sessions.session import GrantInvalid, Session, SessionOver, Tokens
from authproxy.identity.shared.state import StateStore, key
from policies.errors import CannotKnow, ProviderUnavailable, StoreUnavailable
from policies.tables import ProviderSpec, TenantTable

LEASE_S: Final = 3.0
"""A holder that is dead keeps the others waiting for so long."""
SETTLE_S: Final = 1.0
SETTLE_REFUSED: Final = 5
WORD_S: Final = 120.0
"""How long word of a refresh that was begun is kept: longer than any provider is waited for."""
POLL_S: Final = (0.05, 0.1)
"""Between two looks at another's result."""
WAIT_S: Final = 20.0
"""For the lease and for another's result, in all."""
PROVIDER_S: Final = 60.0
"""For the provider. Longer than anybody waits: a token that was rotated is not to be lost."""
WRITE_AGAIN_S: Final = 0.2
"""Between two attempts to write a result; below ``SETTLE_S``."""
MAX_UNWRITTEN: Final = 1000


class RefreshClient(Protocol):
    """How a provider's token endpoint is asked."""

    async def refresh(self, tenant: TenantTable, provider: ProviderSpec, session: Session, now: float) -> Tokens:
        """
        Redeem the session's refresh token; the answer is verified.

        Raises: GrantInvalid when it is refused for good; SessionOver when the answer is about somebody else;
            ProviderUnavailable, KeysUnavailable for anything that may pass.
        """


class Asked(NamedTuple):
    """One session to be refreshed."""

    tenant: TenantTable
    provider: ProviderSpec
    session: Session

    @property
    def ends_at(self) -> float:
        """Unix seconds."""
        return self.session.created_at + self.tenant.sessions.absolute_s


class Ended(NamedTuple):
    """How a refresh ended. An error is a value here: everybody who waits gets one of their own."""

    result: Renewal | CannotKnow
    outcome: str
    """As in the metric: refreshed, shared, over, provider_unavailable, store_unavailable."""


class _Unwritten(NamedTuple):
    asked: Asked
    renewal: Renewal


class _Holder:
    """One try to be the one who asks the provider."""

    __slots__ = ("has_ended", "is_asking", "name")

    def __init__(self) -> None:
        self.name = secrets.token_hex(8)
        self.is_asking = False
        self.has_ended = False


class RefreshOnce:
    """
    Refreshes sessions, each once at a time over all replicas; the caller sees to it within this process.

    Args:
        store: where leases and results are.
        client: asks the provider.
        clock: Unix seconds.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        store: StateStore,
        client: RefreshClient,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._client = client
        self._renewals = Renewals(store)
        self._clock = clock
        self._monotonic = monotonic
        self._log = get_logger("identity")
        self._down_since: float | None = None
        """Monotonic, as ``_failed_at``: since when no call was answered, and when the last one was not."""
        self._failed_at = -WAIT_S
        self._unwritten: dict[tuple[str, str], _Unwritten] = {}
        self._writer: asyncio.Task[None] | None = None

    async def run(self, asked: Asked) -> Ended:
        """Never raises but when it is cancelled."""
        try:
            return await self._run(asked)
        except StoreUnavailable as error:
            return Ended(error, "store_unavailable")
        except CannotKnow as error:
            return Ended(error, "provider_unavailable")
        except Exception:  # noqa: BLE001  # a defect is an answer too: those who wait must not wait for ever
            self._log.exception("session-refresh-failed", tenant=asked.tenant.name)
            return Ended(ProviderUnavailable("the refresh failed"), "provider_unavailable")

    async def close(self) -> None:
        """Try once more to write what could not be written. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer}, timeout=1.0)
            self._writer = None
            with contextlib.suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._write_all()

    async def _run(self, asked: Asked) -> Ended:
        """Raises: CannotKnow, before the provider was asked."""
        if asked.session.refresh_token is None or self._clock() >= asked.ends_at:
            return Ended(Over(asked.session.version), "over")
        holder = _Holder()
        deadline = self._monotonic() + WAIT_S
        has_seen_another = False
        while True:
            try:
                if (ended := await self._look(asked)) is not None:
                    return ended
                self._down_since = None
                if await self._store.acquire(_lease(asked), holder.name, LEASE_S) is None:
                    has_seen_another = True
                elif (ended := await self._hold(asked, holder)) is not None:
                    return ended
                else:
                    holder = _Holder()
            except StoreUnavailable:
                if self._may_go_alone(asked) and not has_seen_another:
                    return await self._ask(asked)
                if self._monotonic() >= deadline:
                    raise
            if self._monotonic() >= deadline:
                raise ProviderUnavailable("another replica refreshes the session for too long")
            await asyncio.sleep(random.uniform(*POLL_S))  # noqa: S311  # so that replicas do not look in step

    def _may_go_alone(self, asked: Asked) -> bool:
        """
        Whether to refresh without a lease, now that the store has failed.

        Raises: StoreUnavailable when waiting for it is of no use either.
        """
        now = self._monotonic()
        if self._down_since is None or now - self._failed_at > LEASE_S:
            self._down_since = now
        self._failed_at = now
        if self._clock() < asked.session.fresh_until:
            raise StoreUnavailable("the session is fresh still: it is refreshed when the store is back")
        if self._store.is_shared and now - self._down_since < LEASE_S:
            return False
        if asked.tenant.sessions.store == "redis":
            raise StoreUnavailable("the store that keeps the session does not answer")
        return True

    async def _look(self, asked: Asked) -> Ended | None:
        """Another's result. Raises: StoreUnavailable."""
        renewal = await self._renewals.read(asked.session)
        if renewal is None:
            return None
        return Ended(renewal, "over" if isinstance(renewal, Over) else "shared")

    # -- with the lease ----------------------------------------------------------------------------------------------

    async def _hold(self, asked: Asked, holder: _Holder) -> Ended | None:
        """
        Refresh while the lease is kept; None when it was lost before the provider was asked.

        Raises: StoreUnavailable, before the provider was asked.
        """
        keeper = asyncio.create_task(self._keep(asked, holder), name="identity: keep a lease")
        try:
            if (ended := await self._look(asked)) is not None:
                return ended
            takes_over = await self._store.get(_word(asked)) is not None
            if takes_over and (ended := await self._settle(asked)) is not None:
                return ended
            await self._store.put(_word(asked), holder.name.encode(), WORD_S)
            looked_at = self._monotonic()
            if not await self._store.renew(_lease(asked), holder.name, LEASE_S):
                return None
            if self._monotonic() - looked_at > LEASE_S / 2:
                return None  # this process was stopped: the lease may be another's by now
            holder.is_asking = True
            ended = await self._ask(asked, takes_over=takes_over)
            if (asked.tenant.name, asked.session.id) not in self._unwritten:
                with contextlib.suppress(StoreUnavailable):
                    await self._store.delete(_word(asked))
            return ended
        finally:
            holder.has_ended = True
            keeper.cancel()
            with contextlib.suppress(StoreUnavailable):
                await self._store.release(_lease(asked), holder.name)

    async def _keep(self, asked: Asked, holder: _Holder) -> None:
        """
        Renew the lease. Once the provider is asked, one that was lost is taken again where it is free.

        Ends by ``has_ended`` too: a cancellation can be swallowed (``asyncio.wait_for`` before Python 3.12), and nobody
        may keep a lease for a refresh that is over.
        """
        while not holder.has_ended:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(StoreUnavailable):
                if holder.has_ended or await self._store.renew(_lease(asked), holder.name, LEASE_S):
                    continue
                if not holder.is_asking or await self._store.acquire(_lease(asked), holder.name, LEASE_S) is None:
                    return
        with contextlib.suppress(StoreUnavailable):
            await self._store.release(_lease(asked), holder.name)

    async def _settle(self, asked: Asked, moments: int = 1) -> Ended | None:
        """The result of a holder that had begun, if it brings one within so many moments. Raises: StoreUnavailable."""
        until = self._monotonic() + moments * SETTLE_S
        while self._monotonic() < until:
            await asyncio.sleep(POLL_S[0])
            if (ended := await self._look(asked)) is not None:
                return ended
        return None

    # -- the provider ------------------------------------------------------------------------------------------------

    async def _ask(self, asked: Asked, *, takes_over: bool = False) -> Ended:
        """Ask the provider and share what it says. Never raises: the token has been shown, nothing may start over."""
        try:
            async with asyncio.timeout(PROVIDER_S):
                tokens = await self._client.refresh(asked.tenant, asked.provider, asked.session, self._clock())
            newer = renewed(asked.session, tokens, asked.provider, asked.tenant, self._clock())
        except (GrantInvalid, SessionOver):
            return await self._refused(asked, takes_over=takes_over)
        except TimeoutError:
            return Ended(ProviderUnavailable("the provider did not answer in time"), "provider_unavailable")
        except StoreUnavailable as error:
            return Ended(error, "store_unavailable")
        except CannotKnow as error:
            return Ended(error, "provider_unavailable")
        except Exception:  # noqa: BLE001  # what it was must not lead to a second try
            self._log.exception("session-refresh-failed", tenant=asked.tenant.name)
            return Ended(ProviderUnavailable("the refresh failed"), "provider_unavailable")
        return await self._share(asked, newer)

    async def _refused(self, asked: Asked, *, takes_over: bool) -> Ended:
        """The provider's no: the session is over, unless another has renewed it. Where that is not known: neither."""
        try:
            if (ended := await self._look(asked)) is not None:
                return ended
            if takes_over and (ended := await self._settle(asked, SETTLE_REFUSED)) is not None:
                return ended
        except StoreUnavailable as error:
            return Ended(error, "store_unavailable")
        return await self._share(asked, Over(asked.session.version))

    async def _share(self, asked: Asked, renewal: Renewal) -> Ended:
        ttl_s = asked.ends_at - self._clock()
        try:
            if not await self._renewals.write(asked.session, renewal, ttl_s):
                ended = await self._look(asked)
                if ended is not None:
                    return ended
        except StoreUnavailable:
            self._write_later(_Unwritten(asked, renewal))
        except ValueError:  # too large to be written down: then each replica has to fetch it
            self._log.warning("session-renewal-not-shared", tenant=asked.tenant.name)
        return Ended(renewal, "over" if isinstance(renewal, Over) else "refreshed")

    def _write_later(self, unwritten: _Unwritten) -> None:
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._log.warning("session-renewal-not-shared", tenant=unwritten.asked.tenant.name)
            return
        self._unwritten[unwritten.asked.tenant.name, unwritten.asked.session.id] = unwritten
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="identity: share renewed sessions")

    async def _write(self) -> None:
        while self._unwritten:
            await asyncio.sleep(WRITE_AGAIN_S)
            with contextlib.suppress(StoreUnavailable):
                await self._write_all()

    async def _write_all(self) -> None:
        """Raises: StoreUnavailable, with the rest unwritten."""
        for slot, unwritten in tuple(self._unwritten.items()):
            asked, renewal = unwritten
            ttl_s = asked.ends_at - self._clock()
            if ttl_s > 0:
                await self._renewals.write(asked.session, renewal, ttl_s)
            if self._unwritten.get(slot) is unwritten:
                del self._unwritten[slot]


def _lease(asked: Asked) -> str:
    return key(asked.tenant.name, "refreshing", asked.session.id)


def _word(asked: Asked) -> str:
    return key(asked.tenant.name, "refresh-begun", asked.session.id, str(asked.session.version))
