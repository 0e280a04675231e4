"""
The signing keys of one provider of one tenant, kept at hand (AP-R36, R43 to R45).

It decides when the provider is asked: once at first need, again behind the scenes when the soft lifetime is over, and
once more when a token names an unknown key; never twice at a time and never twice within ten seconds, however many
tokens ask and whether or not the last attempt failed. What was good stays in use until its hard lifetime is over: an
empty, broken or hostile answer never replaces it. After that there is no key, and no key means no caller.

It refuses to know tokens, tenants and claims. Time is an argument, or ``clock`` where an answer has just come in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil
from typing import Final, Protocol

from authproxy.identity.providers.http import ProviderHttp, is_same_site
from authproxy.identity.providers.keys import MISSING, Candidates, KeySet, Missing, SetRefused, Unavailable, read_jwks
from policies.errors import CannotKnow, ProviderUnavailable
from policies.tables import ProviderSpec

SOFT_TTL_S: Final = 300.0
SOFT_TTL_MIN_S: Final = 60.0
SOFT_TTL_MAX_S: Final = 900.0
"""Bounds on what the provider's Cache-Control may choose: a removed key dies within them."""
STALE_GRACE_S: Final = 60.0
"""How long after the soft lifetime keys are used unasked; a provider not asked for longer is asked first."""
HARD_TTL_S: Final = 24 * 3600.0
MIN_INTERVAL_S: Final = 10.0
"""Between two attempts."""
NEGATIVE_TTL_S: Final = 60.0
NEGATIVE_MAX: Final = 1024
DISCOVERY_TTL_S: Final = 3600.0
WAIT_S: Final = 11.0
"""Longest a request waits: two documents of 5 s each."""

log = logging.getLogger(__name__)


class FetchCounter(Protocol):
    """Counts fetches by (tenant, provider, outcome); outcomes are ``ok``, ``unreachable``, ``refused``."""

    def add(self, labels: tuple[str, str, str], /) -> None: ...


class JwksCache:
    """A ``KeySource`` over one provider's JWKS. Belongs to one event loop."""

    def __init__(
        self,
        tenant: str,
        provider: ProviderSpec,
        http: ProviderHttp,
        *,
        clock: Callable[[], float] = time.time,
        fetches: FetchCounter | None = None,
    ) -> None:
        self._tenant = tenant
        self._provider = provider
        self._http = http
        self._clock = clock
        self._fetches = fetches
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._soft_ttl_s = SOFT_TTL_S
        self._attempted_at: float | None = None
        self._has_failed = False
        """The last attempt failed."""
        self._task: asyncio.Task[None] | None = None
        self._unknown: OrderedDict[str, float] = OrderedDict()
        """kid -> when it may be asked for again."""
        self._jwks_uri = provider.jwks_uri
        self._discovered_at = 0.0

    def current(self, now: float) -> KeySet | None:
        """The set in use at ``now``; starts a refresh behind when the soft lifetime is over."""
        keys = self._keys
        if keys is None:
            return None
        age_s = now - self._fetched_at
        if -MIN_INTERVAL_S <= age_s <= self._soft_ttl_s:  # a request may have begun before the answer came
            return keys
        if age_s > HARD_TTL_S:
            return None
        self._start(now)
        if age_s > self._soft_ttl_s + STALE_GRACE_S and self._task is not None and not self._has_failed:
            return None  # nobody has asked for long: ask before believing, once; if it fails, go on with what was good
        return keys

    def key_now(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable | None:
        """See ``KeySource``. None only while an answer is on its way or may be asked for."""
        keys = self.current(now)
        if keys is not None:
            found = keys.choose(kid, algorithm)
            if found is not None:
                return found
            if kid is not None and self._unknown.get(kid, 0.0) > now:
                return MISSING
        if self._task is not None or self._may_attempt(now):
            return None
        return Missing(self._wait_s(now)) if keys is not None else Unavailable(self._retry_after_s(now))

    async def key(self, kid: str | None, algorithm: str, now: float) -> Candidates | Missing | Unavailable:
        """See ``KeySource``. All who wait share one fetch; one who leaves does not end it for the others."""
        found = self.key_now(kid, algorithm, now)
        if found is not None:
            return found
        task = self._start(now)
        if task is not None:
            await asyncio.wait((task,), timeout=WAIT_S)
        keys = self._keys
        if keys is None or self._clock() - self._fetched_at > HARD_TTL_S:
            return Unavailable(self._retry_after_s(now))
        found = keys.choose(kid, algorithm)
        if found is not None:
            return found
        if task is None or not task.done() or self._has_failed:
            return Missing(self._wait_s(now))
        if kid is not None:
            self._remember_unknown(kid, now)
        return MISSING

    async def close(self) -> None:
        """Stop the fetch that is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _may_attempt(self, now: float) -> bool:
        since_s = None if self._attempted_at is None else now - self._attempted_at
        return since_s is None or not 0.0 <= since_s < MIN_INTERVAL_S

    def _wait_s(self, now: float) -> float:
        """Until the next attempt."""
        return max(0.0, MIN_INTERVAL_S - (now - (self._attempted_at or now)))

    def _retry_after_s(self, now: float) -> int:
        return max(1, ceil(self._wait_s(now)))

    def _start(self, now: float) -> asyncio.Task[None] | None:
        """The fetch under way, a new one, or None when it is too early for one."""
        if self._task is None and self._may_attempt(now):
            self._attempted_at = now
            self._task = asyncio.get_running_loop().create_task(self._refresh())
            self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if task.cancelled():
            self._has_failed = True
        elif task.exception() is not None:
            self._has_failed = True
            log.error("provider keys: unexpected failure", exc_info=task.exception(), extra=self._labels())

    def _labels(self) -> dict[str, str]:
        return {"tenant": self._tenant, "provider": self._provider.name}

    async def _refresh(self) -> None:
        outcome = "ok"
        try:
            jwks_uri = await self._discover()
            document = await self._http.get(jwks_uri, self._provider.allowed_private_hosts)
            keys = read_jwks(document.value)
        except (CannotKnow, SetRefused) as error:
            outcome = "refused" if isinstance(error, SetRefused) else "unreachable"
            self._has_failed = True
            self._jwks_uri = self._provider.jwks_uri  # they may have moved: discover again
            log.warning("provider keys not fetched: %s", error, extra=self._labels())
        else:
            self._keys = keys if self._keys is None or not _is_equal(keys, self._keys) else self._keys
            self._fetched_at = self._clock()
            self._soft_ttl_s = _soft_ttl_s(document.cache_control)
            self._has_failed = False
        if self._fetches is not None:
            self._fetches.add((self._tenant, self._provider.name, outcome))

    async def _discover(self) -> str:
        """
        The address of the keys. Raises: ProviderUnavailable, SetRefused.

        Source: OpenID Connect Discovery 1.0 sections 4 and 4.3 (the issuer must be exactly the one asked).
        """
        if self._jwks_uri is not None and (
            self._provider.jwks_uri is not None or self._clock() - self._discovered_at < DISCOVERY_TTL_S
        ):
            return self._jwks_uri
        issuer = self._provider.issuer
        url = issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = await self._http.get(url, self._provider.allowed_private_hosts)
        if document.value.get("issuer") != issuer:
            raise SetRefused("discovery names another issuer")
        jwks_uri = document.value.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise SetRefused("discovery names no jwks_uri")
        try:
            is_near = is_same_site(jwks_uri, issuer)
        except ValueError as error:
            raise ProviderUnavailable("discovery names a jwks_uri that is no URL") from error
        if not is_near:
            raise SetRefused("discovery puts the keys on another site: if that is right, write jwks_uri in the policy")
        self._jwks_uri, self._discovered_at = jwks_uri, self._clock()
        return jwks_uri

    def _remember_unknown(self, kid: str, now: float) -> None:
        self._unknown[kid] = now + NEGATIVE_TTL_S
        self._unknown.move_to_end(kid)
        if len(self._unknown) > NEGATIVE_MAX:
            self._unknown.popitem(last=False)


def _is_equal(new: KeySet, old: KeySet) -> bool:
    """Equal sets stay one object, so that tokens in the cache keep their cheap re-check."""
    return new.by_kid == old.by_kid and new.without_kid == old.without_kid


def _soft_ttl_s(cache_control: str) -> float:
    """Source: RFC 9111 sections 4.2.1 and 5.2.2; bounded on both sides, whatever the provider says."""
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return SOFT_TTL_MIN_S
        digits = value.strip('" ')
        if name == "max-age" and digits.isascii() and digits.isdigit() and len(digits) < 10:
            return min(max(float(digits), SOFT_TTL_MIN_S), SOFT_TTL_MAX_S)
    return SOFT_TTL_S
