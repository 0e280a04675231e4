"""
OpenFaaS as a backend: its API says who is ready and wakes, its gateway (or the function itself) takes the requests.

It decides how a judged path is written so that the function sees exactly that path, and refuses what cannot be written.
It refuses to know when to ask and whom to hold; ``activator`` does. Credentials never leave for anywhere but
``/system`` of the configured address.

How the gateway reads paths
---------------------------
Its router decodes a path, then writes the decoded path into an address and parses that again: two decodings before the
function. Only a request whose ``Accept`` starts with ``text/event-stream`` takes another way and is decoded once. One
encoding means the same both ways for every character but ``%``, ``?`` and ``#``; a path with one of those is encoded
twice, and refused for an event stream. A slash inside of a segment is lost either way and is refused.
(gateway/handlers/forwarding_proxy.go; ``tests/fakes/gopath.py`` re-reads paths like that.)
"""

from __future__ import annotations

import json
import re
from asyncio import timeout
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from authproxy.backends.backend import Readiness
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

API_TIMEOUT_S: Final = 3.0
"""Of one call to ``/system``, connection and answer together; the gateway's own calls to the cluster take up to 1 s."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Of an answer of ``/system/function``; real ones are 1 to 4 KiB."""
MAX_API_CONNECTIONS: Final = 32
_MEMO_ENTRIES: Final = 4096
_MEMO_PATH_CHARS: Final = 256
"""Longer paths are written each time: together these bound the memo to a few mebibytes."""
_NAME: Final = re.compile(r"[-a-zA-Z_0-9]+(?:\.[-a-zA-Z_0-9]+)*")
"""What the gateway's router takes for a name, but for empty pieces between dots, which would be dot segments."""
_NEEDS_TWO_ENCODINGS: Final = re.compile(r"[%?#]")
_LOST_SLASH: Final = Deny(
    Reason.BAD_REQUEST, "the path holds an encoded slash, which this functions platform cannot be told"
)
_TWO_READINGS: Final = Deny(
    Reason.BAD_REQUEST, "the path holds an encoded '%', '?' or '#', which cannot be told for an event stream"
)
_NO_NAME: Final = Deny(Reason.FUNCTION_UNKNOWN)

_FOREIGN_ERRORS: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.MsgspecError, RecursionError)
"""What aiohttp and msgspec raise when the platform is down, slow or talks nonsense."""


class _Status(msgspec.Struct, rename="camel"):
    """The part of OpenFaaS's FunctionStatus that matters; zero is left out of it."""

    available_replicas: int = 0


class OpenFaasBackend:
    """
    One OpenFaaS gateway.

    Args:
        credentials: user and password of ``/system``; None: the gateway asks for none.

    Raises: SettingsError when the address is none.
    """

    def __init__(
        self, spec: BackendSpec, credentials: tuple[str, str] | None = None, *, timeout_s: float = API_TIMEOUT_S
    ) -> None:
        self.name = spec.name
        self._url = spec.url.rstrip("/")
        self._gateway = _address(self._url)
        self._host = _authority(self._url)
        if credentials is not None and ":" in credentials[0]:
            raise SettingsError(["a user name with a colon cannot be sent (RFC 7617 section 2)"])
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "portero"}
        if credentials is not None:
            self._headers["Authorization"] = aiohttp.encode_basic_auth(*credentials)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._memo: dict[tuple[str, str, str, str | None], Destination] = {}

    # -- where -------------------------------------------------------------------------------------------------------

    def destination(self, place: Place, query: str | None, request: AccessRequest | None = None) -> Destination | Deny:
        """See ``Backend.destination``."""
        key = (place.function, place.path, place.tenant.namespace, place.spec.direct_url)
        found = self._memo.get(key)
        if found is None:
            made = self._make(place, request)
            if isinstance(made, Deny):
                return made
            found = made
            if len(place.path) <= _MEMO_PATH_CHARS and not _takes_two_encodings(place):
                if len(self._memo) >= _MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[key] = found
        if query is None:
            return found
        return Destination(found.address, b"%b?%b" % (found.target, query.encode("ascii")), found.host)

    def _make(self, place: Place, request: AccessRequest | None) -> Destination | Deny:
        function, namespace = place.function, place.tenant.namespace
        if not _NAME.fullmatch(function) or not _NAME.fullmatch(namespace) or "." in namespace:
            return _NO_NAME
        if (template := place.spec.direct_url) is not None:
            if "." in function:  # it would name a host in somebody else's domain
                return _NO_NAME
            url = template.replace("{function}", function).replace("{namespace}", namespace)
            return Destination(_address(url), place.path.encode("ascii"), _authority(url))
        path = place.path
        if _takes_two_encodings(place):
            if request is None or b"text/event-stream" in request.forward_block.lower():
                return _TWO_READINGS
            path = path.replace("%", "%25")
        elif any("/" in segment for segment in place.segments):
            return _LOST_SLASH
        return Destination(self._gateway, f"/function/{function}.{namespace}{path}".encode("ascii"), self._host)

    def says_not_reached(self, status: int, fields: list[tuple[bytes, bytes]]) -> bool:
        """
        See ``Backend.says_not_reached``: the provider's 503 "no endpoints available".

        Its 500 "can't reach service" does not count: the function may have read the request before it broke off. Nor
        does the gateway's empty 502, which is how it reports a timeout. A function can pretend; all it gets is one more
        attempt and a question to the platform.
        """
        if status != 503:
            return False
        return any(name.lower() == b"x-openfaas-internal" and value.strip() == b"proxy" for name, value in fields)

    # -- the API -----------------------------------------------------------------------------------------------------

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """``GET /system/function/<fn>?namespace=``. Anything but 200 and 404 is "cannot know", a 500 above all."""
        status, body = await self._call("GET", "function", namespace, function)
        if status == 404:
            return Readiness(0, does_exist=False)
        if status != 200:
            raise BackendUnavailable(f"{self.name}: the platform's API answered {status}")
        try:
            replicas = msgspec.json.decode(body, type=_Status).available_replicas
        except _FOREIGN_ERRORS as error:
            raise BackendUnavailable(f"{self.name}: the platform's API answered no function status") from error
        return Readiness(max(replicas, 0))

    async def wake(self, namespace: str, function: str) -> None:
        """``POST /system/scale-function/<fn>?namespace=``; 202 (or 200) when the platform took it."""
        document = {"serviceName": function, "namespace": namespace, "replicas": 1}
        status, _ = await self._call("POST", "scale-function", namespace, function, json.dumps(document).encode())
        if status not in (200, 202):
            raise BackendUnavailable(f"{self.name}: the platform answered a wake with {status}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(
        self, method: str, verb: str, namespace: str, function: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        if not _NAME.fullmatch(function) or not _NAME.fullmatch(namespace):
            raise BackendUnavailable(f"{self.name}: no name that the platform's API takes")
        url = URL(f"{self._url}/system/{verb}/{function}?namespace={namespace}", encoded=True)
        headers = self._headers if body is None else self._headers | {"Content-Type": "application/json"}
        try:
            async with (
                timeout(self._timeout_s),
                self._open().request(method, url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return answer.status, await _read(answer)
        except _FOREIGN_ERRORS as error:
            what = "did not answer in time" if isinstance(error, TimeoutError) else "could not be reached"
            raise BackendUnavailable(f"{self.name}: the platform's API {what}") from error

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use because it belongs to the running event loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_API_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,  # an answer that unpacks to gibibytes would not be stopped by the cap
            )
        return self._session


def _takes_two_encodings(place: Place) -> bool:
    """True when the gateway's two ways of reading would differ (never for a path without any escape)."""
    if "%" not in place.path or place.spec.direct_url is not None:
        return False
    segments = place.segments
    return any(map(_NEEDS_TWO_ENCODINGS.search, segments)) and not any("/" in segment for segment in segments)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body, up to the cap. Raises ValueError above it."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError("answer too large")
    return bytes(body)


def _address(url: str) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError([f"{url!r} is not the address of a functions platform"]) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError([f"{url!r} is not the address of a functions platform"])
    is_tls = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if is_tls else 80), is_tls)


def _authority(url: str) -> bytes:
    """Host and port as the Host field has them."""
    return urlsplit(url).netloc.rpartition("@")[2].encode("ascii")
