"""
What a provider says of itself, kept at hand: where its endpoints are and what it promises to do.

It decides when the discovery document is asked for (once an hour, never twice at a time, never twice within ten
seconds, failures included) and which of its members may be believed. The document is a stranger's: its issuer must be
the one asked, byte for byte (AP-R43), and an endpoint counts only as an https address on the issuer's own site, or
where the operator wrote the address into the policy: secrets and codes are sent there. What was good stays in use for
a day when the provider cannot be asked. It refuses to know keys (``jwks``), tokens and clients.

Source: OpenID Connect Discovery 1.0 sections 3, 4 and 4.3; RFC 8414 section 2; RFC 9126 section 5; RFC 9207 section 3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from authproxy.identity.providers.http import ProviderHttp, is_same_site
from policies.errors import ProviderUnavailable
from policies.tables import ProviderSpec

TTL_S: Final = 3600.0
HARD_TTL_S: Final = 24 * 3600.0
"""How long what was good is used while the provider cannot be asked."""
MIN_INTERVAL_S: Final = 10.0
"""Between two attempts."""
MAX_PROVIDERS: Final = 10_000
MAX_ADDRESS_CHARS: Final = 2048
ENDPOINTS: Final = (
    "authorization_endpoint",
    "token_endpoint",
    "userinfo_endpoint",
    "introspection_endpoint",
    "revocation_endpoint",
    "end_session_endpoint",
    "pushed_authorization_request_endpoint",
)
"""The members that are used, by which ``ProviderSpec.endpoints`` names them too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The members that are used, types and places checked, the policy's own addresses put in."""

    endpoints: Mapping[str, str]
    """By their names in ``ENDPOINTS``; one that may not be used is not here."""
    misplaced: frozenset[str]
    """Endpoints that the document has and that may not be used: another site, or no https."""
    requires_pushed_requests: bool
    names_issuer_in_response: bool
    """RFC 9207: every authorization response has ``iss``."""

    def endpoint(self, name: str) -> str:
        """Raises: ProviderUnavailable when there is none, with what an operator can do about it."""
        address = self.endpoints.get(name)
        if address is not None:
            return address
        if name in self.misplaced:
            raise ProviderUnavailable(
                f"discovery has its {name} on another site than the issuer: if that is right, write it under endpoints"
            )
        raise ProviderUnavailable(f"discovery has no {name}")


class Discovery:
    """
    Provider metadata of all tenants' providers. One a process; belongs to one event loop.

    Args:
        http: how providers are asked; not closed with this.
        clock: Unix seconds.
    """

    def __init__(self, http: ProviderHttp, *, clock: Callable[[], float] = time.time) -> None:
        self._http = http
        self._clock = clock
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()

    async def of(self, tenant: str, provider: ProviderSpec) -> Metadata:
        """
        What the provider says, at most an hour old, or a day while it cannot be asked.

        Raises: ProviderUnavailable.
        """
        addresses = tuple(sorted(provider.endpoints.items()))
        key = (tenant, provider.name, provider.issuer, provider.allowed_private_hosts, addresses)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > MAX_PROVIDERS:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return await entry.get(lambda: self._fetch(tenant, provider), self._clock)

    async def endpoint(self, tenant: str, provider: ProviderSpec, name: str) -> str:
        """One address; what the policy names is not asked for. Raises: ProviderUnavailable."""
        written = provider.endpoints.get(name)
        return written if written is not None else (await self.of(tenant, provider)).endpoint(name)

    async def close(self) -> None:
        """Stop what is being fetched."""
        entries = list(self._entries.values())
        self._entries.clear()
        for entry in entries:
            await entry.close()

    async def _fetch(self, tenant: str, provider: ProviderSpec) -> Metadata:
        url = provider.issuer.rstrip("/") + "/.well-known/openid-configuration"
        document = await self._http.get(url, provider.allowed_private_hosts)
        metadata = self._read(document.value, provider)
        if metadata.misplaced:
            log.warning(
                "discovery: not used, for being on another site than the issuer: %s",
                ", ".join(sorted(metadata.misplaced)),
                extra={"tenant": tenant, "provider": provider.name},
            )
        return metadata

    def _read(self, document: Mapping[str, Any], provider: ProviderSpec) -> Metadata:
        """Raises: ProviderUnavailable for a document that says what no honest provider says."""
        named = document.get("issuer")
        if named != provider.issuer:
            # What strangers say is not repeated, but for what an operator mistypes.
            is_slip = isinstance(named, str) and named.rstrip("/") == provider.issuer.rstrip("/")
            expected = f": the policy's issuer must be {named!r}, byte for byte" if is_slip else ""
            raise ProviderUnavailable(f"discovery names another issuer{expected}")
        endpoints: dict[str, str] = {}
        misplaced: set[str] = set()
        for name in ENDPOINTS:
            address = provider.endpoints.get(name)
            if address is None:
                address = document.get(name)
                if address is None:
                    continue
                if not isinstance(address, str):
                    raise ProviderUnavailable(f"discovery's {name} is no text")
                if not self._is_usable(address, provider.issuer):
                    misplaced.add(name)
                    continue
            endpoints[name] = address
        return Metadata(
            endpoints,
            frozenset(misplaced),
            _flag(document, "require_pushed_authorization_requests"),
            _flag(document, "authorization_response_iss_parameter_supported"),
        )

    def _is_usable(self, address: str, issuer: str) -> bool:
        if len(address) > MAX_ADDRESS_CHARS or not address.isascii() or not address.isprintable() or " " in address:
            return False
        try:
            target = self._http.judge_url(address)
            return target.scheme == issuer.partition(":")[0] and is_same_site(address, issuer)
        except (ProviderUnavailable, ValueError):
            return False


class _Entry:
    """One provider's metadata and the one fetch of it that may be under way."""

    __slots__ = ("attempted_at", "fetched_at", "metadata", "task", "why")

    def __init__(self) -> None:
        self.metadata: Metadata | None = None
        self.fetched_at = 0.0
        self.attempted_at: float | None = None
        self.task: asyncio.Task[Metadata] | None = None
        self.why = "not asked yet"

    async def get(self, fetch: Callable[[], Coroutine[Any, Any, Metadata]], clock: Callable[[], float]) -> Metadata:
        """All who wait share one fetch; one who leaves does not end it for the others. Raises: ProviderUnavailable."""
        now = clock()
        if self.metadata is not None and -MIN_INTERVAL_S <= now - self.fetched_at <= TTL_S:
            return self.metadata
        if self.task is None and (self.attempted_at is None or not 0.0 <= now - self.attempted_at < MIN_INTERVAL_S):
            self.attempted_at = now
            self.task = asyncio.get_running_loop().create_task(fetch())
            self.task.add_done_callback(lambda task: self._ended(task, clock()))
        if self.task is not None:
            await asyncio.wait((self.task,))  # bounded: the fetch has a deadline of its own
        if self.metadata is not None and clock() - self.fetched_at <= HARD_TTL_S:
            return self.metadata
        raise ProviderUnavailable(self.why)

    async def close(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _ended(self, task: asyncio.Task[Metadata], now: float) -> None:
        if self.task is task:
            self.task = None
        if task.cancelled():
            self.why = "closed"
            return
        error = task.exception()
        if error is None:
            self.metadata, self.fetched_at = task.result(), now
        elif isinstance(error, ProviderUnavailable):
            self.why = str(error)
        else:
            self.why = "discovery failed unexpectedly"
            log.error("discovery: unexpected failure", exc_info=error)


def _flag(document: Mapping[str, Any], name: str) -> bool:
    """Raises: ProviderUnavailable for what is there and no boolean: ``"false"`` must not weaken what is checked."""
    value = document.get(name, False)
    if not isinstance(value, bool):
        raise ProviderUnavailable(f"discovery's {name} is no boolean")
    return value
