"""
Anything else that speaks HTTP as a backend: one address, or one for each function.

It decides what the address of a function is and when such a service counts as ready: when it takes connections, or when
its probe answers where there is one. It refuses to know how many replicas there are, and whether a function exists: an
address tells neither. It counts as one replica, so that a function's ``concurrency`` is that of all behind the address.
Paths arrive as they were judged, encoded once, behind the address's own path.

``wake_url`` is POSTed to, with the credentials, when nothing answers; without one somebody else has to start what
sleeps, and requests are held until it does. Credentials go nowhere but there.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from asyncio import timeout
from typing import Final, NamedTuple

from authproxy.backends.backend import PROBE_TIMEOUT_S, Fields, Readiness, ReadSecret, no_secrets
from authproxy.backends.credentials import BasicCredentials
from authproxy.backends.platform_api import (
    API_TIMEOUT_S,
    NOT_NOW,
    PlatformApi,
    address_of,
    authority_of,
    is_probe_path,
    leads_elsewhere,
    parts_of,
)
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

_MEMO_ENTRIES: Final = 4096
_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9_]{0,61}[a-z0-9])?")
"""A name that may become part of a host: with a dot it would name somebody else's, with a capital the one without."""
_NAME: Final = re.compile(r"[-A-Za-z0-9_]+(?:\.[-A-Za-z0-9_]+)*")
"""A name that may become a segment of a path: no dot segment and no escape."""
_PLACEHOLDER: Final = re.compile(r"\{(?:function|namespace)\}")
_NO_NAME: Final = Deny(Reason.FUNCTION_UNKNOWN)
_API_FIELDS: Final = {"Accept": "*/*", "Content-Type": "application/json", "User-Agent": "portero"}
_PROBE_FIELDS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "portero"}


class _Site(NamedTuple):
    """One function's address."""

    url: str
    """Without a slash at its end."""
    address: Address
    prefix: str
    """Path of the address, before those of requests."""
    host: bytes


class HttpBackend:
    """
    One service, or one for each function.

    Args:
        timeout_s: of one wake.
        probe_timeout_s: of one probe, and of one question whether the service takes connections.

    Raises: SettingsError when an address, a path or the credentials cannot be used.
    """

    def __init__(
        self,
        spec: BackendSpec,
        read_secret: ReadSecret = no_secrets,
        *,
        timeout_s: float = API_TIMEOUT_S,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
    ) -> None:
        self.name = spec.name
        self._url = _Template(spec.url)
        self._wake_url = None if spec.wake_url is None else _Template(spec.wake_url, may_have_query=True)
        self._probe_path = spec.probe
        if spec.probe and not is_probe_path(spec.probe):
            raise SettingsError([f"probe: {spec.probe!r} is not a path without escapes"])
        self._credentials = BasicCredentials(spec, read_secret)
        self._api = PlatformApi(spec.name, timeout_s=timeout_s, probe_timeout_s=probe_timeout_s)
        self._probe_timeout_s = probe_timeout_s
        self._sites: dict[tuple[str, str], _Site | None] = {}
        self._ready: set[tuple[str, str]] = set()
        """Functions that were ready when last asked; bounded as ``_sites``."""

    # -- where -------------------------------------------------------------------------------------------------------

    def destination(
        self,
        place: Place,
        query: str | None,
        request: AccessRequest | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> Destination | Deny:
        """See ``Backend.destination``: the path as it was judged, behind the address's own."""
        site = self._site(place.tenant.namespace, place.function)
        if site is None:
            return _NO_NAME
        target = site.prefix + place.path
        return Destination(site.address, (target if query is None else f"{target}?{query}").encode("ascii"), site.host)

    def _site(self, namespace: str, function: str) -> _Site | None:
        key = namespace, function
        try:
            return self._sites[key]
        except KeyError:
            pass
        url = self._url.fill(namespace, function)
        site = None if url is None else _Site(url, address_of(url), parts_of(url).path, authority_of(url))
        if len(self._sites) >= _MEMO_ENTRIES:
            self._sites.clear()
        self._sites[key] = site
        return site

    # -- whose answer -------------------------------------------------------------------------------------------------

    def says_not_reached(self, status: int, fields: Fields) -> bool:  # noqa: ARG002 - the protocol's signature
        """Nothing is certain of a server that we do not know."""
        return False

    def failure_of(self, status: int, fields: Fields) -> Reason | None:  # noqa: ARG002 - the protocol's signature
        """None: every answer is the service's."""
        return None

    # -- ready? wake! ------------------------------------------------------------------------------------------------

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """
        One replica when the probe answers or, without one, when the service takes a connection; none when it refuses.

        Silence means "not yet" of what was not ready before; of what was, that it is busy: that cannot be known.
        """
        key, site = (namespace, function), self._site(namespace, function)
        if site is None:
            return Readiness(0, does_exist=False)
        is_ready = await (self._ask(site, self._probe_path) if self._probe_path else self._connect(site.address))
        if is_ready is None:
            if key in self._ready:
                raise BackendUnavailable(f"{self.name}: the service did not answer in time")
            return Readiness(0)
        if is_ready:
            if len(self._ready) >= _MEMO_ENTRIES:
                self._ready.clear()
            self._ready.add(key)
        else:
            self._ready.discard(key)
        return Readiness(int(is_ready))

    async def probe(self, namespace: str, function: str, path: str | None) -> bool:
        """See ``Backend.probe``. Without a path of its own ``readiness`` has said already all that is known."""
        path = self._probe_path if path is None else path
        site = self._site(namespace, function)
        if site is None or (path and not is_probe_path(path)):
            raise BackendUnavailable(f"{self.name}: no path or name that can be probed")
        return not path or bool(await self._ask(site, path))

    async def wake(self, namespace: str, function: str) -> None:
        """POST to ``wake_url`` with the names as JSON; any 2xx when it was taken. Without one nothing happens."""
        if self._wake_url is None:
            return
        url = self._wake_url.fill(namespace, function)
        if url is None:
            raise BackendUnavailable(f"{self.name}: no name that can be woken")
        body = json.dumps({"function": function, "namespace": namespace}).encode()
        answer = await self._api.call("POST", url, _API_FIELDS | self._credentials.headers(), body)
        if answer.status == 401 and await self._credentials.reread():
            answer = await self._api.call("POST", url, _API_FIELDS | self._credentials.headers(), body)
        if not 200 <= answer.status < 300:
            raise BackendUnavailable(f"{self.name}: a wake was answered with {answer.status}")

    async def close(self) -> None:
        await self._api.close()

    async def _ask(self, site: _Site, path: str) -> bool | None:
        """None: no answer in time. Raises BackendUnavailable."""
        try:
            answer = await self._api.probe(site.url + path, _PROBE_FIELDS)
        except BackendUnavailable as error:
            if isinstance(error.__cause__, socket.gaierror):
                raise
            return False
        return None if answer is None else answer.status not in NOT_NOW

    async def _connect(self, address: Address) -> bool | None:
        """None: no answer in time. Raises BackendUnavailable."""
        try:
            async with timeout(self._probe_timeout_s):
                _, writer = await asyncio.open_connection(address.host, address.port)
        except socket.gaierror as error:
            raise BackendUnavailable(f"{self.name}: the service's host has no address") from error
        except TimeoutError:
            return None
        except OSError:
            return False
        writer.transport.abort()
        return True


class _Template:
    """An address that may hold ``{function}`` and ``{namespace}``. Raises SettingsError when it is none."""

    def __init__(self, url: str, *, may_have_query: bool = False) -> None:
        self._url = url.rstrip("/")
        base, mark, query = _PLACEHOLDER.sub("x", self._url).partition("?")
        parts = parts_of(base if may_have_query else base + mark + query)
        if not is_probe_path(f"{parts.path or '/'}{mark}{query}"):
            raise SettingsError([f"{url!r} holds more than plain text, {{function}} and {{namespace}}"])
        authority = self._url.split("//", 1)[1].partition("/")[0].partition("?")[0]
        self._namespace = _LABEL if "{namespace}" in authority else _NAME
        self._function = _LABEL if "{function}" in authority else _NAME

    def fill(self, namespace: str, function: str) -> str | None:
        """None: a name that would lead elsewhere."""
        if not self._namespace.fullmatch(namespace) or not self._function.fullmatch(function):
            return None
        if leads_elsewhere(self._url, function, namespace):
            return None
        return self._url.replace("{function}", function).replace("{namespace}", namespace)
