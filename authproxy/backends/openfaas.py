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
from typing import Any, Final

import msgspec

from authproxy.backends.backend import MAX_REPLICAS, PROBE_TIMEOUT_S, Fields, Readiness, ReadSecret, no_secrets
from authproxy.backends.credentials import BasicCredentials
from authproxy.backends.platform_api import (
    API_TIMEOUT_S,
    NOT_NOW,
    ApiAnswer,
    PlatformApi,
    address_of,
    authority_of,
    is_probe_path,
    leads_elsewhere,
)
from authproxy.upstream.departure import Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

HEALTH_PATH: Final = "/_/health"
"""Answered by the watchdog in every function's container; others answer 404, which is an answer, too."""
_API_FIELDS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "portero"}
_PROBE_FIELDS: Final = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "portero"}
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
_MIN_LABEL: Final = "com.openfaas.scale.min"
_MAX_MIN: Final = 100
"""Of replicas that a label can make a wake ask for: labels are the tenant's, the cluster is everybody's."""
_REFUSED_WAKES: Final = {
    400: "it does not scale this function (the community edition knows one namespace)",
    401: "it does not take our credentials",
    403: "it does not let our credentials scale functions",
    404: "it does not know the function",
    429: "it has too much to do",
    501: "it cannot scale functions",
}


class _Status(msgspec.Struct, rename="camel"):
    """The part of OpenFaaS's FunctionStatus that matters; zero is left out of it."""

    replicas: int = 0
    """Wanted."""
    available_replicas: int = 0
    labels: Any = None
    """Strings by string; whatever a tenant brings to stand here does not keep the counts from being read."""


class OpenFaasBackend:
    """
    One OpenFaaS gateway.

    Args:
        timeout_s: of one call to ``/system``.

    Raises: SettingsError when the address is none or the credentials cannot be read.
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
        self._url = spec.url.rstrip("/")
        self._gateway = address_of(self._url)
        self._host = authority_of(self._url)
        self._health_path = HEALTH_PATH if spec.probe is None else spec.probe
        if self._health_path and not is_probe_path(self._health_path):
            raise SettingsError([f"probe: {self._health_path!r} is not a path without escapes"])
        self._credentials = BasicCredentials(spec, read_secret)
        self._api = PlatformApi(spec.name, timeout_s=timeout_s, probe_timeout_s=probe_timeout_s)
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
        if not _are_names(namespace, function):
            return _NO_NAME
        if (template := place.spec.direct_url) is not None:
            # It would name a host in somebody else's domain, or no function's at all.
            if "." in function or leads_elsewhere(template, function, namespace):
                return _NO_NAME
            url = template.replace("{function}", function).replace("{namespace}", namespace)
            return Destination(address_of(url), place.path.encode("ascii"), authority_of(url))
        path = place.path
        if _takes_two_encodings(place):
            if request is None or b"text/event-stream" in request.forward_block.lower():
                return _TWO_READINGS
            path = path.replace("%", "%25")
        elif any("/" in segment for segment in place.segments):
            return _LOST_SLASH
        return Destination(self._gateway, f"/function/{function}.{namespace}{path}".encode("ascii"), self._host)

    # -- whose answer -------------------------------------------------------------------------------------------------

    def says_not_reached(self, status: int, fields: Fields) -> bool:
        """
        See ``Backend.says_not_reached``: the provider's 503 "no endpoints available".

        Its 500 "can't reach service" does not count: the function may have read the request before it broke off. Nor
        does the gateway's empty 502, which is how it reports a timeout. A function can pretend; all it gets is one more
        attempt and a question to the platform.
        """
        return status == 503 and _has_mark(fields)

    def failure_of(self, status: int, fields: Fields) -> Reason | None:
        """
        See ``Backend.failure_of``: what the provider marks, and the gateway's 502 for any error or timeout.

        That 502 has neither body nor ``Content-Type``, and the provider gives every answer of a function one.
        (faas-provider/proxy/proxy.go, gateway/handlers/forwarding_proxy.go)
        """
        if status in (500, 503):
            return Reason.UPSTREAM_UNREACHABLE if _has_mark(fields) else None
        if status == 502 and not any(name.lower() == b"content-type" for name, _ in fields):
            lengths = [value.strip() for name, value in fields if name.lower() == b"content-length"]
            return Reason.UPSTREAM_UNREACHABLE if lengths == [b"0"] else None
        return None

    async def probe(self, namespace: str, function: str, path: str | None) -> bool:
        """See ``Backend.probe``: through the gateway, because that is the way that requests take."""
        if path is None:
            path = self._health_path
        if not path:
            return True
        if not is_probe_path(path) or not _are_names(namespace, function):
            raise BackendUnavailable(f"{self.name}: no path or name that can be probed")
        answer = await self._api.probe(f"{self._url}/function/{function}.{namespace}{path}", _PROBE_FIELDS)
        return (
            answer is not None
            and answer.status not in NOT_NOW
            and self.failure_of(answer.status, answer.fields) is None
        )

    # -- the API -----------------------------------------------------------------------------------------------------

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """``GET /system/function/<fn>?namespace=``. Anything but 200 and 404 is "cannot know", a 500 above all."""
        status = await self._status(namespace, function)
        return (
            Readiness(0, does_exist=False)
            if status is None
            else Readiness(min(max(status.available_replicas, 0), MAX_REPLICAS))
        )

    async def wake(self, namespace: str, function: str) -> None:
        """
        ``POST /system/scale-function/<fn>?namespace=``; 202 (or 200) when the platform took it.

        It sets a number, so that it would stop replicas which are starting: a function of which some are wanted already
        is left alone. The number is the function's own minimum, as for OpenFaaS's gateway.
        """
        status = await self._status(namespace, function)
        if status is None:
            raise BackendUnavailable(f"{self.name}: the platform refused a wake: {_REFUSED_WAKES[404]}")
        if status.replicas > 0:
            return
        document = {"serviceName": function, "namespace": namespace, "replicas": _minimum(status)}
        answer = await self._call("POST", "scale-function", namespace, function, json.dumps(document).encode())
        if answer.status not in (200, 202):
            why = _REFUSED_WAKES.get(answer.status, f"it answered {answer.status}")
            raise BackendUnavailable(f"{self.name}: the platform refused a wake: {why}")

    async def close(self) -> None:
        await self._api.close()

    async def _status(self, namespace: str, function: str) -> _Status | None:
        """None: there is no such function. Raises BackendUnavailable."""
        answer = await self._call("GET", "function", namespace, function)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise BackendUnavailable(f"{self.name}: the platform's API answered {answer.status}")
        try:
            return msgspec.json.decode(answer.body, type=_Status)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BackendUnavailable(f"{self.name}: the platform's API answered no function status") from error

    async def _call(
        self, method: str, verb: str, namespace: str, function: str, body: bytes | None = None
    ) -> ApiAnswer:
        if not _are_names(namespace, function):
            raise BackendUnavailable(f"{self.name}: no name that the platform's API takes")
        url = f"{self._url}/system/{verb}/{function}?namespace={namespace}"
        fields = _API_FIELDS if body is None else _API_FIELDS | {"Content-Type": "application/json"}
        answer = await self._api.call(method, url, fields | self._credentials.headers(), body)
        if answer.status == 401 and await self._credentials.reread():
            answer = await self._api.call(method, url, fields | self._credentials.headers(), body)
        return answer


def _are_names(namespace: str, function: str) -> bool:
    return _NAME.fullmatch(function) is not None and _NAME.fullmatch(namespace) is not None and "." not in namespace


def _has_mark(fields: Fields) -> bool:
    return any(name.lower() == b"x-openfaas-internal" and value.strip() == b"proxy" for name, value in fields)


def _minimum(status: _Status) -> int:
    label = status.labels.get(_MIN_LABEL) if isinstance(status.labels, dict) else None
    if not isinstance(label, str) or not label.isascii() or not label.isdigit() or len(label) > 9:
        return 1
    return min(max(int(label), 1), _MAX_MIN)


def _takes_two_encodings(place: Place) -> bool:
    """True when the gateway's two ways of reading would differ (never for a path without any escape)."""
    if "%" not in place.path or place.spec.direct_url is not None:
        return False
    segments = place.segments
    return any(map(_NEEDS_TWO_ENCODINGS.search, segments)) and not any("/" in segment for segment in segments)
