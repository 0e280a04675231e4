"""
Small calls to a functions platform and probes of its functions: bounded in time, bytes and connections.

It decides what an address is and what goes wrong with a call, in one exception; it refuses to know any platform's API.
Redirects are not followed, cookies not kept, proxies of the environment not used, nothing is unpacked.
"""

from __future__ import annotations

import re
from asyncio import Semaphore, timeout
from collections.abc import Mapping
from ssl import SSLContext, create_default_context
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import aiohttp
from yarl import URL

from authproxy.backends.answer_head import answer_head
from authproxy.backends.backend import PROBE_TIMEOUT_S, Fields
from authproxy.upstream.departure import Address
from policies.errors import BackendUnavailable, SettingsError

API_TIMEOUT_S: Final = 3.0
"""Of one call, connection and answer together; OpenFaaS's own calls to the cluster take up to 1 s."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Of one answer; those of OpenFaaS are 1 to 4 KiB."""
MAX_API_CONNECTIONS: Final = 32
MAX_PROBE_CONNECTIONS: Final = 1024
"""At once, apart from the calls': many silent functions of one tenant must not keep others from being asked about."""
NOT_NOW: Final = frozenset({502, 503, 504})
"""Statuses of who cannot serve yet: a watchdog before its function, a proxy before its upstream."""
_PROBE_PATH: Final = re.compile(r"/[-A-Za-z0-9._~!$&'()*+,;=:@/]*(?:\?[-A-Za-z0-9._~!$&'()*+,;=:@/?]*)?")
_NO_NAME_OF_A_HOST: Final = re.compile(r"[0-9]+|0x[0-9a-f]*|localhost", re.IGNORECASE)
_UNCLEAN: Final = re.compile(r"/\.{0,2}/|/\.{1,2}$")
"""Dot segments and empty ones, but for a slash at the end."""


class ApiAnswer(NamedTuple):
    status: int
    fields: Fields
    body: bytes


class NotReached(BackendUnavailable):
    """There was no answer: nothing listens there, or not in time, or it broke off."""


class PlatformApi:
    """
    Calls under the name of one backend.

    Args:
        name: of the backend, for messages.
        tls: how https addresses are verified; None: as the system does.
        max_connections: at once; further calls wait, within their time.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float = API_TIMEOUT_S,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        max_connections: int = MAX_API_CONNECTIONS,
        tls: SSLContext | None = None,
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._probe_timeout_s = probe_timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._max_connections = max_connections
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._probing = Semaphore(MAX_PROBE_CONNECTIONS)

    async def call(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> ApiAnswer:
        """
        One call, and its whole answer. ``url`` is sent as it is: percent-encoded, nothing user-made in it unchecked.

        Raises: BackendUnavailable (``NotReached`` for want of an answer); never with the address or a credential.
        """
        return await self._call(method, url, headers, body, self._timeout_s)

    async def probe(self, url: str, headers: Mapping[str, str]) -> ApiAnswer | None:
        """
        GET, within the time of a probe, and the head of the answer. None: not in time. Raises as ``call``.

        It connects anew each time: an old connection proves nothing of a new replica.
        """
        base, slash, rest = url.partition("//")[2].partition("/")
        address = address_of(url[: len(url) - len(slash + rest)])
        try:
            async with timeout(self._probe_timeout_s), self._probing:
                tls = self._tls_of_probes() if address.is_tls else None
                status, fields = await answer_head(address, f"/{rest}".encode("ascii"), {"Host": base, **headers}, tls)
                return ApiAnswer(status, fields, b"")
        except TimeoutError:
            return None
        except (OSError, EOFError) as error:
            raise NotReached(f"{self.name}: the platform could not be reached") from error
        except ValueError as error:
            raise BackendUnavailable(f"{self.name}: the platform's answer is none") from error

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> ApiAnswer:
        try:
            async with (
                timeout(timeout_s),
                self._open().request(
                    method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                return ApiAnswer(answer.status, list(answer.raw_headers), await self._read(answer))
        except TimeoutError as error:
            raise NotReached(f"{self.name}: the platform did not answer in time") from error
        except (aiohttp.ClientConnectionError, OSError) as error:
            raise NotReached(f"{self.name}: the platform could not be reached") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise BackendUnavailable(f"{self.name}: the platform's answer is none") from error

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > self._max_answer_bytes:
                raise ValueError("answer too large")
        return bytes(body)

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use because it belongs to the running event loop."""
        if self._session is None:
            self._session = self._make()
        return self._session

    def _tls_of_probes(self) -> SSLContext:
        if self._tls is None:
            self._tls = create_default_context()
        return self._tls

    def _make(self) -> aiohttp.ClientSession:
        tls = True if self._tls is None else self._tls
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_connections, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # ours is around it
            trust_env=False,
            auto_decompress=False,  # an answer that unpacks to gibibytes would not be stopped by the cap
        )


def parts_of(url: str) -> SplitResult:
    """
    A platform's address, taken apart.

    Raises: SettingsError when it is none: http or https with a host, no user, query or fragment.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        url.encode("ascii")
    except ValueError:
        is_usable = False
    if not is_usable:
        raise SettingsError([f"{url!r} is not the address of a functions platform"])
    if "@" in parts.netloc:
        raise SettingsError(["the address holds a user name; credentials have a setting of their own"])
    if "?" in url or "#" in url:
        raise SettingsError([f"{url!r}: an address of a functions platform has no query and no fragment"])
    return parts


def address_of(url: str) -> Address:
    """Where to connect to, with the scheme's port where none is named. Raises SettingsError when it is no address."""
    parts = parts_of(url)
    is_tls = parts.scheme == "https"
    return Address(parts.hostname or "", parts.port or (443 if is_tls else 80), is_tls)


def authority_of(url: str) -> bytes:
    """Host and port as the Host field has them. Raises SettingsError when it is no address."""
    return parts_of(url).netloc.encode("ascii")


def leads_elsewhere(template: str, function: str, namespace: str) -> bool:
    """
    Whether these names make the host of ``template`` a machine's address or this machine: resolvers read a host whose
    last label is a number as an IPv4 address (``2852039166`` is 169.254.169.254), and ``localhost`` as their own.
    """
    authority = template.partition("//")[2].partition("/")[0].partition("?")[0]
    host, colon, port = authority.rpartition(":")
    last = (host if colon and port.isdigit() else authority).rpartition(".")[2]
    if "{" not in last:
        return False
    return (
        _NO_NAME_OF_A_HOST.fullmatch(last.replace("{function}", function).replace("{namespace}", namespace)) is not None
    )


def is_probe_path(path: str) -> bool:
    """Whether ``path`` reads the same to everybody: no escape, no dot or empty segment, no space."""
    return _PROBE_PATH.fullmatch(path) is not None and _UNCLEAN.search(path.partition("?")[0]) is None
