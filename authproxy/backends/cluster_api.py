"""
What a cluster's API says of Knative services: is there one, and how many replicas of it are ready.

It decides which objects are read and what in them counts; it refuses to know ingress, activator and when to ask. It
reads only: a role that may ``get`` services and revisions of ``serving.knative.dev``, and ``podautoscalers`` of
``autoscaling.internal.knative.dev`` where a Knative before 1.0 leaves a revision's replicas out, is all it needs.

The way from a service to its replicas::

    Service.status.traffic[].revisionName     every revision that gets a share of the traffic
    Revision.status.actualReplicas            ready pods of it, or where that is left out
    PodAutoscaler.status.actualScale          the same, of the autoscaler of the revision's name

Which revisions have the traffic is remembered for a short while, so that a function in use costs one call; the memory
is good for "awake" alone, never for "asleep" or "missing".

Source: Knative Serving v1 API (Service, Revision), autoscaling v1alpha1 (PodAutoscaler); Kubernetes API conventions
(Status).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Final, NamedTuple, TypeVar

import msgspec

from authproxy.backends.backend import MAX_REPLICAS, Readiness
from authproxy.backends.kubeconfig import ClusterAccess
from authproxy.backends.platform_api import API_TIMEOUT_S, PlatformApi
from policies.errors import BackendUnavailable, CannotKnow, SettingsError

REREAD_S: Final = 60.0
"""Between two readings of token and certificates: a service account's token is good for minutes after its successor."""
REREAD_PAUSE_S: Final = 1.0
"""Between two readings because the API refused them."""
MAX_OBJECT_BYTES: Final = 1024 * 1024
"""Of one object; etcd takes 1.5 MiB, real ones are 2 to 20 KiB."""
MAX_REVISIONS: Final = 20
"""With a share of one service's traffic; more are not asked about."""
TRAFFIC_S: Final = 10.0
"""How long it is remembered which revisions have a service's traffic."""
_MEMO_ENTRIES: Final = 4096
_CONNECTIONS: Final = 64
_SERVING: Final = "apis/serving.knative.dev/v1"
_AUTOSCALING: Final = "apis/autoscaling.internal.knative.dev/v1alpha1"
_OBJECT_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_GARBAGE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_T = TypeVar("_T")


class _Target(msgspec.Struct, rename="camel"):
    revision_name: str | None = None
    percent: int | None = None
    """Left out: none, the target is reached by its tag only."""


class _ServiceStatus(msgspec.Struct):
    traffic: list[_Target] | None = None


class _Service(msgspec.Struct):
    status: _ServiceStatus | None = None


class _RevisionStatus(msgspec.Struct, rename="camel"):
    actual_replicas: int | None = None


class _Revision(msgspec.Struct):
    status: _RevisionStatus | None = None


class _AutoscalerStatus(msgspec.Struct, rename="camel"):
    actual_scale: int | None = None


class _Autoscaler(msgspec.Struct):
    status: _AutoscalerStatus | None = None


class _Details(msgspec.Struct):
    name: str | None = None
    kind: str | None = None


class _Failure(msgspec.Struct):
    """The API's own word for what went wrong: ``Status``."""

    kind: str | None = None
    reason: str | None = None
    details: _Details | None = None


class _Remembered(NamedTuple):
    revisions: tuple[str, ...]
    until: float


class ClusterApi:
    """
    One cluster's.

    Args:
        name: of the backend, for messages.
        read_access: how it is reached, read anew by each call; blocks, may be called from any thread.

    Raises: SettingsError (or ``CannotKnow``) as ``read_access`` does, and for certificates that are none.
    """

    def __init__(
        self,
        name: str,
        read_access: Callable[[], ClusterAccess],
        *,
        timeout_s: float = API_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._read_access = read_access
        self._timeout_s = timeout_s
        self._clock = clock
        self._read_at = clock()
        self._access, tls = self._load()
        self._api = self._client(tls)
        self._traffic: dict[tuple[str, str], _Remembered] = {}

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """
        Ready replicas of all revisions that have a share of the traffic.

        Both names are labels already (RFC 1123). Raises: BackendUnavailable when it cannot be known, in bounded time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._readiness(namespace, function)
        except TimeoutError:
            raise BackendUnavailable(f"{self._name}: the cluster's API did not answer in time") from None

    async def does_exist(self, namespace: str, function: str) -> bool:
        """Whether there is such a service, in half the time. Raises: as ``readiness``."""
        try:
            async with asyncio.timeout(self._timeout_s / 2):
                return await self._service(namespace, function) is not None
        except TimeoutError:
            raise BackendUnavailable(f"{self._name}: the cluster's API did not answer in time") from None

    async def close(self) -> None:
        """Close connections. Idempotent."""
        await self._api.close()

    # -- from service to replicas --------------------------------------------------------------------------------------

    async def _readiness(self, namespace: str, function: str) -> Readiness:
        known = self._traffic.get((namespace, function))
        sleeping = None
        if known is not None and self._clock() < known.until:
            replicas = await self._replicas(namespace, known.revisions)
            if replicas:
                return Readiness(replicas)
            sleeping = known.revisions
        service = await self._service(namespace, function)
        if service is None:
            self._traffic.pop((namespace, function), None)
            return Readiness(0, does_exist=False)
        revisions = _with_traffic(service)
        if len(self._traffic) >= _MEMO_ENTRIES:
            self._traffic.clear()
        self._traffic[namespace, function] = _Remembered(revisions, self._clock() + TRAFFIC_S)
        return Readiness(0 if revisions == sleeping else await self._replicas(namespace, revisions))

    async def _service(self, namespace: str, function: str) -> _Service | None:
        return await self._get(f"{_SERVING}/namespaces/{namespace}", "services", function, _Service)

    async def _replicas(self, namespace: str, revisions: tuple[str, ...]) -> int:
        counts = await asyncio.gather(*(self._replicas_of(namespace, revision) for revision in revisions))
        return min(sum(counts), MAX_REPLICAS)

    async def _replicas_of(self, namespace: str, revision: str) -> int:
        found = await self._get(f"{_SERVING}/namespaces/{namespace}", "revisions", revision, _Revision)
        if found is None:  # gone since the service named it
            return 0
        if found.status is not None and found.status.actual_replicas is not None:
            return max(found.status.actual_replicas, 0)
        scaled = await self._get(f"{_AUTOSCALING}/namespaces/{namespace}", "podautoscalers", revision, _Autoscaler)
        if scaled is None or scaled.status is None:
            return 0
        return max(scaled.status.actual_scale or 0, 0)

    # -- the API -------------------------------------------------------------------------------------------------------

    async def _get(self, where: str, kind: str, name: str, form: type[_T]) -> _T | None:
        """One object; None when the API says that just this one is not there."""
        if not _OBJECT_NAME.fullmatch(name):
            raise BackendUnavailable(f"{self._name}: the cluster's API spoke of a name that is none")
        if self._clock() - self._read_at >= REREAD_S:
            await self._reread()
        status, body = await self._call(f"{where}/{kind}/{name}")
        if status == 401 and self._clock() - self._read_at >= REREAD_PAUSE_S and await self._reread():
            status, body = await self._call(f"{where}/{kind}/{name}")
        try:
            if status == 200:
                return msgspec.json.decode(body, type=form)
            if status == 404 and _is_missing(msgspec.json.decode(body, type=_Failure), kind, name):
                return None
        except _GARBAGE:
            raise BackendUnavailable(f"{self._name}: the cluster's API answered what is no object") from None
        hint = f"; its role may have to be allowed to get {kind}" if status == 403 else ""
        raise BackendUnavailable(f"{self._name}: the cluster's API answered {status} about {kind}{hint}")

    async def _call(self, path: str) -> tuple[int, bytes]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "portero"}
        if self._access.token is not None:
            headers["Authorization"] = f"Bearer {self._access.token}"
        answer = await self._api.call("GET", f"{self._access.url}/{path}", headers)
        return answer.status, answer.body

    def _load(self) -> tuple[ClusterAccess, SSLContext | None]:
        access = self._read_access()
        return access, access.tls() if access.url.startswith("https") else None

    def _client(self, tls: SSLContext | None) -> PlatformApi:
        return PlatformApi(
            self._name,
            timeout_s=self._timeout_s,
            max_answer_bytes=MAX_OBJECT_BYTES,
            max_connections=_CONNECTIONS,
            tls=tls,
        )

    async def _reread(self) -> bool:
        """Take up what was rotated; True when there is something new. What cannot be read leaves all as it is."""
        self._read_at = self._clock()
        try:
            access, tls = await asyncio.to_thread(self._load)
        except (SettingsError, CannotKnow):
            return False  # half a rotation: the next reading sees the whole
        if access == self._access:
            return False
        old, self._access = self._access, access
        if (old.url, old.authorities, old.certificate, old.key) != (
            access.url, access.authorities, access.certificate, access.key,
        ):  # fmt: skip
            before, self._api = self._api, self._client(tls)
            await before.close()  # whoever is asking meanwhile asks again
        return True


def _with_traffic(service: _Service) -> tuple[str, ...]:
    targets = (service.status.traffic if service.status is not None else None) or []
    names = dict.fromkeys(target.revision_name for target in targets if target.revision_name and target.percent)
    return tuple(names)[:MAX_REVISIONS]


def _is_missing(failure: _Failure, kind: str, name: str) -> bool:
    """
    The API's word that just this object is not there. A cluster without Knative answers 404 as well, in another form:
    "not installed" must never read as "no such function".
    """
    details = failure.details
    return (
        failure.kind == "Status"
        and failure.reason == "NotFound"
        and details is not None
        and details.name == name
        and details.kind in (kind, None)
    )
