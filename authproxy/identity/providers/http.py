"""
The one way Portero talks to providers: small JSON documents from places that policy names, and nothing else (AP-R43).

A provider's address is written by a tenant's editor and its answers by strangers, so both are treated as hostile: https
only, vetted addresses, no redirects, no proxies of the environment, no cookies, no compression, a bound on bytes and on
time, strict JSON. It refuses to know what the documents mean. What they say is never logged, nor what was sent.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from authproxy.identity.providers.addresses import AddressRefused, Lookup, VettingResolver, system_lookup
from authproxy.identity.providers.places import Places
from policies.errors import ProviderUnavailable
from policies.strict_json import NotStrict, read_object

MAX_BODY_BYTES: Final = 256 * 1024
"""A JWKS of 64 RSA keys with certificates has about 200 KiB; Google's has 2 KiB."""
TOTAL_TIMEOUT_S: Final = 5.0
"""From the look-up to the last byte: a provider that drips is one that does not answer."""
_READ_BYTES: Final = 16 * 1024
_JSON: Final = "application/json"
_FIELDS: Final = {"Accept": _JSON, "Accept-Encoding": "identity", "User-Agent": "portero"}
_ANSWERS: Final[Mapping[str, frozenset[int]]] = {"GET": frozenset({200}), "POST": frozenset({200, 201})}
_BEARER: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""RFC 6750 section 2.1."""


class Document(NamedTuple):
    """One JSON object from a provider."""

    value: dict[str, Any]
    cache_control: str
    """The field's value; empty when there was none."""
    status: int = 200

    def __repr__(self) -> str:
        """Without the object: a token endpoint's holds tokens."""
        return f"Document(status={self.status})"


class ProviderHttp:
    """
    Fetches JSON objects of providers. One per process; connections are shared only between callers who may reach the
    same hosts, so that one tenant's leave to enter a private network is of no use to another.

    Args:
        allow_loopback_http: plain http to loopback addresses; the demo and tests only.
        lookup: how names become addresses.
        ssl_context: None for the system's roots.
    """

    def __init__(
        self,
        *,
        allow_loopback_http: bool = False,
        lookup: Lookup = system_lookup,
        ssl_context: ssl.SSLContext | None = None,
        timeout_s: float = TOTAL_TIMEOUT_S,
    ) -> None:
        self._allow_loopback_http = allow_loopback_http
        self._lookup = lookup
        self._ssl: ssl.SSLContext | bool = ssl_context if ssl_context is not None else True
        self._timeout_s = timeout_s
        self._sessions: dict[tuple[frozenset[str], bool], tuple[aiohttp.ClientSession, VettingResolver]] = {}
        self._is_closed = False
        self.places = Places()

    async def get(self, url: str, allowed_private_hosts: frozenset[str], *, bearer: str | None = None) -> Document:
        """
        Fetch one JSON object. The failure's text names the host and the kind of failure, never content.

        With ``bearer``, an access token to show (userinfo), the answer must be ``application/json`` (OpenID Connect
        Core section 5.3.2): signed userinfo is not asked for.

        Raises: ProviderUnavailable, and nothing else but cancellation.
        """
        fields = _FIELDS
        if bearer is not None:
            if _BEARER.fullmatch(bearer) is None:
                raise ProviderUnavailable("the access token cannot be shown as a bearer token")
            fields = _FIELDS | {"Authorization": f"Bearer {bearer}"}
        return await self._ask("GET", url, allowed_private_hosts, fields, None, self._timeout_s, bearer is not None)

    async def post_form(
        self,
        url: str,
        fields: Mapping[str, str],
        allowed_private_hosts: frozenset[str],
        *,
        authorization: str | None = None,
        timeout_s: float | None = None,
    ) -> Document:
        """
        Send a form (``application/x-www-form-urlencoded``, UTF-8) and take one JSON object for the answer: 200 and 201,
        or a refusal from 400 to 499, which the caller tells apart by ``status``.

        ``authorization`` is the field's value, the tenant's client and never a caller. ``timeout_s`` is for an answer
        that is worth more patience than a document; None: as for ``get``.

        Raises: ProviderUnavailable, and nothing else but cancellation.
        """
        head = _FIELDS | {"Content-Type": "application/x-www-form-urlencoded"}
        if authorization is not None:
            head["Authorization"] = authorization
        body = urlencode(fields).encode("ascii")
        return await self._ask("POST", url, allowed_private_hosts, head, body, timeout_s or self._timeout_s, True)

    async def _ask(
        self,
        method: str,
        url: str,
        allowed_private_hosts: frozenset[str],
        fields: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
        must_say_json: bool,
    ) -> Document:
        target = self.judge_url(url)
        is_loopback_only = target.scheme == "http"
        session, resolver = self._session(allowed_private_hosts, is_loopback_only)
        host = target.raw_host or ""
        if _is_address(host) and not resolver.may_connect(host, host):
            raise ProviderUnavailable(f"{host} may not be connected to")  # aiohttp does not resolve a literal
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.places.taking(f"{host}:{target.port}"),
                session.request(
                    method,
                    target,
                    allow_redirects=False,
                    headers=fields,
                    data=body,
                    timeout=aiohttp.ClientTimeout(total=timeout_s),
                ) as answer,
            ):
                content = await _read(answer, host, must_say_json=must_say_json)
                cache_control = ", ".join(answer.headers.getall("Cache-Control", []))
            return Document(read_object(content, MAX_BODY_BYTES), cache_control, answer.status)
        except NotStrict as error:
            raise ProviderUnavailable(f"{host} did not answer with a JSON object") from error
        except TimeoutError as error:
            raise ProviderUnavailable(f"{host} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderUnavailable(f"{host} could not be asked: {_why(error)}") from error

    async def close(self) -> None:
        """Close all connections; later calls of ``get`` fail."""
        self._is_closed = True
        sessions = [session for session, _ in self._sessions.values()]
        self._sessions.clear()
        for session in sessions:
            await session.close()

    def judge_url(self, url: str) -> URL:
        """Raises: ProviderUnavailable for a URL that is never asked, nor has a browser sent to it."""
        try:
            target = URL(url)
            port = target.port
        except ValueError as error:
            raise ProviderUnavailable("the address is not a URL") from error
        if target.user is not None or target.password is not None or not target.host or not port or target.fragment:
            raise ProviderUnavailable("the address is not an https URL without user and fragment")
        if target.scheme == "https":
            return target
        if target.scheme == "http" and self._allow_loopback_http:
            return target
        raise ProviderUnavailable(f"{target.host} may only be asked over https")

    def _session(
        self, allowed_private_hosts: frozenset[str], is_loopback_only: bool
    ) -> tuple[aiohttp.ClientSession, VettingResolver]:
        if self._is_closed:
            raise ProviderUnavailable("closed")
        key = (allowed_private_hosts, is_loopback_only)
        found = self._sessions.get(key)
        if found is None:
            resolver = VettingResolver(self._lookup, allowed_private_hosts, is_loopback_only)
            connector = aiohttp.TCPConnector(
                resolver=resolver,
                use_dns_cache=False,  # the addresses vetted are the addresses dialled
                limit=0,  # ``Places`` bounds them
                ssl=self._ssl,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            )
            found = self._sessions[key] = (session, resolver)
        return found


def _why(error: Exception) -> str:
    """The kind of failure, and what an operator can do about the two that are made by settings."""
    if isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, AddressRefused):
        return "it has no public address (private_hosts in platform.yaml names hosts that need none)"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate cannot be verified (SSL_CERT_FILE in the environment names other authorities)"
    return error.__class__.__name__


async def _read(answer: aiohttp.ClientResponse, host: str, *, must_say_json: bool) -> bytes:
    """The whole body, counted while it comes. Raises: ProviderUnavailable."""
    is_refusal = answer.method == "POST" and 400 <= answer.status < 500
    if answer.status not in _ANSWERS[answer.method] and not is_refusal:
        raise ProviderUnavailable(f"{host} answered {answer.status}")
    if must_say_json and answer.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
        raise ProviderUnavailable(f"{host} answered {answer.status} with another content type than {_JSON}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProviderUnavailable(f"{host} answered compressed, which was not asked for")
    if (answer.content_length or 0) > MAX_BODY_BYTES:
        raise ProviderUnavailable(f"{host} answered more than {MAX_BODY_BYTES} bytes")
    pieces = bytearray()
    async for piece in answer.content.iter_chunked(_READ_BYTES):
        pieces += piece
        if len(pieces) > MAX_BODY_BYTES:
            answer.close()
            raise ProviderUnavailable(f"{host} answered more than {MAX_BODY_BYTES} bytes")
    return bytes(pieces)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_same_site(url: str, other: str) -> bool:
    """
    Whether two URLs belong to one registrable host, judged without a list of public suffixes: equal hosts, or equal
    last two labels (three under a country where the second level is short, as in ``co.uk``). It may refuse too much,
    and the operator then writes the address into the policy. Raises: ValueError when one is no URL.
    """
    one, two = URL(url).host or "", URL(other).host or ""
    if one == two:
        return bool(one)
    if _is_address(one) or _is_address(two):
        return False
    labels = one.split(".")
    count = 3 if len(labels[-1]) == 2 and len(labels) > 2 and len(labels[-2]) <= 3 else 2
    return len(labels) >= count and labels[-count:] == two.split(".")[-count:]
