"""
riff 0.0.x as a backend: a gateway that puts a request's body on a topic and waits for the reply on another.

It decides what such a gateway can be told at all, and refuses everything else: of a request only its body and the
fields ``Content-Type`` and ``Accept`` (and those in the gateway's own RIFF_HTTP_HEADERS_WHITELIST) reach the function.
Method, path and query do not. It refuses to know whether a function has replicas: Kafka holds what comes for a
sleeping one, so that every function counts as ready while the gateway is up.

**riff 0.0.x knows no namespaces**: its gateway looks for a topic by its bare name. Two tenants kept apart by namespaces
would reach each other's functions here. So every tenant on it has ``namespace: default``, and the rule that tenants
of one namespace share no names (``owns``) keeps them apart; a function of another namespace is unknown.

Source: riff v0.0.7, http-gateway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from authproxy.backends.backend import Fields, Readiness, ReadSecret
from authproxy.backends.platform_api import API_TIMEOUT_S, PlatformApi, address_of, authority_of, is_probe_path
from authproxy.upstream.departure import Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

NAMESPACE: Final = "default"
UP_S: Final = 1.0
"""How long the gateway's word that it is up is good, for all functions together."""
_TOPIC: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
"""Name of a Topic resource (RFC 1123 subdomain): no slash, which the gateway would take for part of it."""
_GO_TEXT: Final = b"text/plain; charset=utf-8"
_NO_NAME: Final = Deny(Reason.FUNCTION_UNKNOWN)
_NO_NAMESPACE: Final = Deny(
    Reason.FUNCTION_UNKNOWN, f"this functions platform has no namespaces; expected namespace: {NAMESPACE}"
)
_POST_ONLY: Final = Deny(
    Reason.METHOD_NOT_ALLOWED,
    "functions of this platform are not told the method: POST only",
    allowed_methods=("POST",),
)
_LOST_PATH: Final = Deny(
    Reason.BAD_REQUEST, "the request has a path behind its function, which this functions platform cannot be told"
)
_LOST_QUERY: Final = Deny(Reason.BAD_REQUEST, "the request has a query, which this functions platform cannot be told")


class _Health(msgspec.Struct):
    status: str


class RiffBackend:
    """
    One http-gateway of riff 0.0.x.

    Raises: SettingsError with every mistake at once.
    """

    def __init__(
        self,
        spec: BackendSpec,
        read_secret: ReadSecret,  # noqa: ARG002 - every kind is made with the same two
        *,
        timeout_s: float = API_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        mistakes = [f"{name}: riff has none" for name in ("credentials", "domain", "cluster") if getattr(spec, name)]
        if "{" in spec.url:
            mistakes.append(f"{spec.url!r}: one gateway serves all functions; expected no template")
        self.name = spec.name
        self._url = spec.url.rstrip("/")
        try:
            self._address, self._host = address_of(self._url), authority_of(self._url)
        except SettingsError as error:
            mistakes += error.mistakes
        if mistakes:
            raise SettingsError(mistakes)
        self._api = PlatformApi(spec.name, timeout_s=timeout_s)
        self._clock = clock
        self._up_until = float("-inf")

    def destination(self, place: Place, query: str | None, request: AccessRequest | None = None) -> Destination | Deny:
        """See ``Backend.destination``. Without ``request`` the method is not known, and that is refused."""
        if place.tenant.namespace != NAMESPACE:
            return _NO_NAMESPACE
        if not _TOPIC.fullmatch(place.function):
            return _NO_NAME
        if request is None or request.method != "POST":
            return _POST_ONLY
        if place.segments or place.has_trailing_slash:
            return _LOST_PATH
        if query is not None:
            return _LOST_QUERY
        verb = "messages" if place.spec.is_message else "requests"
        return Destination(self._address, f"/{verb}/{place.function}".encode("ascii"), self._host)

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """See ``Backend.readiness``: one, while ``GET /application/status`` says UP."""
        if namespace != NAMESPACE or not _TOPIC.fullmatch(function):
            return Readiness(0, does_exist=False)
        if self._clock() >= self._up_until:
            await self._ask()
        return Readiness(1)

    async def wake(self, namespace: str, function: str) -> None:
        """See ``Backend.wake``: nothing to do, the message itself wakes."""
        if not (await self.readiness(namespace, function)).does_exist:
            raise BackendUnavailable(f"{self.name}: there is no such function")

    async def probe(self, namespace: str, function: str, path: str | None) -> bool:
        """See ``Backend.probe``: the gateway is asked, because a function would take a message for work to do."""
        if path == "":
            return True
        if (path is not None and not is_probe_path(path)) or not _TOPIC.fullmatch(function):
            raise BackendUnavailable(f"{self.name}: neither function nor path that could be probed")
        return (await self.readiness(namespace, function)).does_exist

    def says_not_reached(self, status: int, fields: Fields) -> bool:  # noqa: ARG002 - the contract's
        """Never certain: a gateway that failed to publish may have published."""
        return False

    def failure_of(self, status: int, fields: Fields) -> Reason | None:
        """
        See ``Backend.failure_of``. A reply of a function is 200, or 500 when it is an error; every other status is the
        gateway's, and so is what Go's ``http.Error`` wrote.
        """
        if status == 504:
            return Reason.UPSTREAM_TIMEOUT
        if status == 404:  # without a text it is how early gateways report a timeout
            return Reason.FUNCTION_UNKNOWN if _is_go_error(fields) else Reason.UPSTREAM_TIMEOUT
        if status == 500 and _is_go_error(fields):
            return Reason.UPSTREAM_UNREACHABLE
        return None

    async def close(self) -> None:
        await self._api.close()

    async def _ask(self) -> None:
        answer = await self._api.call("GET", f"{self._url}/application/status", {"User-Agent": "portero"})
        try:
            is_up = answer.status == 200 and msgspec.json.decode(answer.body, type=_Health).status == "UP"
        except (msgspec.MsgspecError, ValueError, RecursionError):
            is_up = False
        if not is_up:
            self._up_until = float("-inf")
            raise BackendUnavailable(f"{self.name}: the gateway does not say that it is up")
        self._up_until = self._clock() + UP_S


def _is_go_error(fields: Fields) -> bool:
    found = {name.lower(): value.strip() for name, value in fields}
    return found.get(b"content-type") == _GO_TEXT and found.get(b"x-content-type-options") == b"nosniff"
