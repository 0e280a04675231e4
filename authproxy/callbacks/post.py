"""
One attempt to deliver a callback: dial a vetted address, send, look at the status, hang up.

Nothing is kept between attempts: no connection, no look-up, no cookie, so that each one is judged for itself and a name
that points elsewhere by now (DNS rebinding) leads nowhere. Redirects are not followed, proxies and credentials of the
environment not used, the answer's body not read. Refuses to know who waits and how often it is tried.
"""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum
from ipaddress import ip_address
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from authproxy.callbacks.message import Callback
from authproxy.callbacks.target import Target
from authproxy.identity.providers.addresses import AddressRefused, Lookup, VettingResolver, system_lookup

ATTEMPT_S: Final = 10.0
"""From the look-up to the answer's head; GitHub's web hooks have the same."""
MAX_RETRY_AFTER_S: Final = 60.0
_NOBODY: Final[frozenset[str]] = frozenset()
_TOO_MANY_REQUESTS: Final = 429


class Outcome(Enum):
    """How one attempt ended."""

    DELIVERED = "delivered"
    """2xx."""
    AGAIN = "again"
    """It may help to try later: not reached, no answer in time, 429, 5xx."""
    REFUSED = "refused"
    """The receiver said no, or said to go elsewhere."""
    FORBIDDEN = "forbidden"
    """Its name has an address that may not be dialled, or its certificate is not its own."""


class Attempt(NamedTuple):
    """One attempt's end."""

    outcome: Outcome
    why: str
    """For the log: a status or a kind of failure, never what anybody sent."""
    retry_after_s: float = 0.0
    """What the receiver asks for, at most ``MAX_RETRY_AFTER_S``."""


class CallbackHttp:
    """
    Sends callbacks. One per process, to be closed.

    Args:
        allow_loopback_http: targets that are not TLS are dialled, on loopback alone; the demo and tests only.
        lookup: how names become addresses.
        ssl_context: None for the system's roots.
    """

    def __init__(
        self,
        *,
        allow_loopback_http: bool = False,
        lookup: Lookup = system_lookup,
        ssl_context: ssl.SSLContext | None = None,
        timeout_s: float = ATTEMPT_S,
    ) -> None:
        self._allow_loopback_http = allow_loopback_http
        self._lookup = lookup
        self._ssl: ssl.SSLContext | bool = ssl_context if ssl_context is not None else True
        self._timeout_s = timeout_s

    async def post(self, callback: Callback) -> Attempt:
        """Try once. Raises nothing but cancellation."""
        target = callback.target
        if not target.is_tls and not self._allow_loopback_http:
            return Attempt(Outcome.FORBIDDEN, "it is not https")
        resolver = VettingResolver(self._lookup, _NOBODY, is_loopback_only=not target.is_tls)
        literal = _literal(target)
        if literal is not None and not resolver.may_connect(literal, literal):
            return Attempt(Outcome.FORBIDDEN, "it has no public address")  # aiohttp does not resolve a literal
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session(resolver) as session,
                session.post(
                    URL(target.url, encoded=True),  # as judged, not quoted anew
                    data=callback.body,
                    headers=callback.fields,
                    skip_auto_headers=("Accept", "Accept-Encoding"),
                    allow_redirects=False,
                ) as answer,
            ):
                return _read_answer(answer.status, answer.headers.get("Retry-After", ""))
        except aiohttp.ClientConnectorCertificateError:
            return Attempt(Outcome.FORBIDDEN, "its certificate cannot be verified")
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, AddressRefused):
                return Attempt(Outcome.FORBIDDEN, "it has no public address")
            return Attempt(Outcome.AGAIN, "its name is not known")
        except TimeoutError:
            return Attempt(Outcome.AGAIN, f"no answer within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Attempt(Outcome.AGAIN, error.__class__.__name__)

    def _session(self, resolver: VettingResolver) -> aiohttp.ClientSession:
        """A session of one attempt: making one costs far less than the handshake that follows."""
        connector = aiohttp.TCPConnector(
            resolver=resolver,
            use_dns_cache=False,  # the addresses vetted are the addresses dialled
            force_close=True,
            ssl=self._ssl,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )


def _read_answer(status: int, retry_after: str) -> Attempt:
    if 200 <= status < 300:
        return Attempt(Outcome.DELIVERED, f"status {status}")
    if status >= 500 or status == _TOO_MANY_REQUESTS:
        # Delta seconds only (RFC 9110 section 10.2.3): a date would be read by two clocks.
        asked_s = (
            float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 9 else 0.0
        )
        return Attempt(Outcome.AGAIN, f"status {status}", min(asked_s, MAX_RETRY_AFTER_S))
    return Attempt(Outcome.REFUSED, f"status {status}")


def _literal(target: Target) -> str | None:
    """The target's address when its host is one."""
    host = target.host.strip("[]")
    try:
        ip_address(host)
    except ValueError:
        return None
    return host
