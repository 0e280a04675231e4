"""
A cluster with Knative Serving over sockets: the Kubernetes API, and the ingress with the activator behind it.

Nothing here knows Portero. ``ready`` says how many pods a revision has and may be changed at any time; ``api`` and
``ingress`` inject failures; ``requests``, ``api_calls`` and ``cold_starts`` record what arrived. The ingress answers
as Envoy does, the activator as Go does: their fields and texts are what clients have seen on the wire.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import hdrs, web

_SERVING: Final = "/apis/serving.knative.dev/v1/namespaces/"
_AUTOSCALING: Final = "/apis/autoscaling.internal.knative.dev/v1alpha1/namespaces/"
_GO_TEXT: Final = "text/plain; charset=utf-8"
_REVISION_FIELDS: Final = ("Knative-Serving-Revision", "Knative-Serving-Namespace")


class BareResponse(web.Response):
    """An answer with the fields it was given and no invented Content-Type."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        if self.headers.get(hdrs.CONTENT_TYPE) == "application/octet-stream":
            del self.headers[hdrs.CONTENT_TYPE]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One request as the function's container got it."""

    function: str
    namespace: str
    method: str
    target: str
    """Path and query on the wire."""
    fields: dict[str, str]
    body: bytes


Handler = Callable[[Invocation], Awaitable[web.Response]]


@dataclass(slots=True)
class Failure:
    """What goes wrong from now on; set a member to have it, reset it to get over it."""

    status: int | None = None
    text: str = "injected"
    fields: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    body: bytes | None = None
    """Answer 200 with this body."""


@dataclass(slots=True)
class _Service:
    name: str
    namespace: str
    start_s: float
    percents: dict[str, int | None]
    """Revision -> share of the traffic."""
    handler: Handler | None
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    starting: asyncio.Task[None] | None = None
    is_silent: bool = False


@dataclass(slots=True)
class FakeKnative:
    """Use as ``async with FakeKnative() as cluster``; keys are (namespace, function), those of ``ready`` revisions."""

    domain: str = "fn.example"
    tokens: set[str] | None = None
    """Bearer tokens that the API takes; None: everybody may ask."""
    tls: ssl.SSLContext | None = None
    """Of the API."""
    timeout_s: float = 300.0
    """The activator's, for waiting and answering together."""
    queue_depth: int = 10_000
    leaves_replicas_out: bool = False
    """Revisions say nothing of replicas, as those of an old Knative."""
    url: str = ""
    api_url: str = ""
    ready: dict[tuple[str, str], int] = field(default_factory=dict)
    requests: list[Invocation] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    api_calls: list[str] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    """Kinds that the role may not get."""
    cold_starts: list[str] = field(default_factory=list)
    held: int = 0
    api: Failure = field(default_factory=Failure)
    ingress: Failure = field(default_factory=Failure)
    _services: dict[tuple[str, str], _Service] = field(default_factory=dict)
    _runners: list[web.ServerRunner] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def add(
        self,
        function: str,
        namespace: str = "acme",
        *,
        replicas: int = 1,
        start_s: float = 0.05,
        traffic: dict[str, int | None] | None = None,
        handler: Handler | None = None,
    ) -> None:
        """Deploy one service; without ``traffic`` all of it goes to its first revision. Without handler it echoes."""
        percents = {f"{function}-00001": 100} if traffic is None else traffic
        service = _Service(function, namespace, start_s, dict(percents), handler)
        self._services[namespace, function] = service
        for revision in percents:
            self.ready[namespace, revision] = replicas
        if replicas:
            service.awake.set()

    def sleep(self, function: str, namespace: str = "acme") -> None:
        """All its pods go away."""
        service = self._services[namespace, function]
        service.awake.clear()
        self.ready.update(dict.fromkeys(((namespace, revision) for revision in service.percents), 0))

    def roll_out(self, function: str, traffic: dict[str, int | None], namespace: str = "acme") -> None:
        """Other revisions get the traffic; the old ones lose their pods."""
        service = self._services[namespace, function]
        for revision in service.percents:
            self.ready[namespace, revision] = 0
        service.percents = dict(traffic)
        self.ready.update({(namespace, revision): 1 for revision in traffic})

    def silence(self, *, is_silent: bool = True) -> None:
        """Every function takes requests and answers none."""
        for service in self._services.values():
            service.is_silent = is_silent

    async def __aenter__(self) -> Self:
        self.url = await self._serve(self._ingress, None)
        self.api_url = await self._serve(self._api, self.tls)
        return self

    async def _serve(self, handler: Callable[[web.BaseRequest], Any], tls: ssl.SSLContext | None) -> str:
        runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        return f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Everything goes down."""
        self._stopping.set()
        for service in self._services.values():
            if service.starting is not None:
                service.starting.cancel()
        for runner in self._runners:
            await runner.cleanup()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _fails(self, failure: Failure) -> web.Response | None:
        if failure.hangs:
            await self._stopping.wait()
            return web.Response(status=500)
        if failure.status is not None:
            return BareResponse(status=failure.status, body=failure.text.encode(), headers=failure.fields)
        if failure.body is not None:
            return web.Response(status=200, body=failure.body)
        return None

    # -- the Kubernetes API --------------------------------------------------------------------------------------------

    async def _api(self, request: web.BaseRequest) -> web.StreamResponse:
        self.api_calls.append(request.path)
        if failed := await self._fails(self.api):
            return failed
        if request.method != "GET":
            return _status(405, "MethodNotAllowed", "", "")
        authorization = request.headers.get("Authorization", "")
        if self.tokens is not None and authorization.removeprefix("Bearer ") not in self.tokens:
            return _status(401, "Unauthorized", "", "")
        for prefix in (_SERVING, _AUTOSCALING):
            if request.path.startswith(prefix):
                namespace, kind, name = request.path.removeprefix(prefix).split("/")
                if kind in self.forbidden:
                    return _status(403, "Forbidden", kind, name)
                found = self._object(namespace, kind, name)
                return _status(404, "NotFound", kind, name) if found is None else web.json_response(found)
        return web.Response(status=404, text="404 page not found\n")

    def _object(self, namespace: str, kind: str, name: str) -> dict[str, Any] | None:
        meta = {"name": name, "namespace": namespace, "uid": "5a", "managedFields": [{"manager": "controller"}]}
        if kind == "services":
            service = self._services.get((namespace, name))
            if service is None:
                return None
            status: dict[str, Any] = {
                "conditions": [{"type": "Ready", "status": "True"}],
                "url": f"http://{name}.{namespace}.{self.domain}",
                "traffic": [
                    {"revisionName": revision, "latestRevision": True, **({"percent": percent} if percent else {})}
                    for revision, percent in service.percents.items()
                ],
            }
            return {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": meta, "status": status}
        replicas = self.ready.get((namespace, name))
        if replicas is None:
            return None
        if kind == "revisions":
            counts = {} if self.leaves_replicas_out else {"actualReplicas": replicas, "desiredReplicas": replicas}
            return {"apiVersion": "serving.knative.dev/v1", "kind": "Revision", "metadata": meta, "status": counts}
        if kind == "podautoscalers":
            return {"kind": "PodAutoscaler", "metadata": meta, "status": {"serviceName": name, "actualScale": replicas}}
        return None

    # -- ingress and activator -----------------------------------------------------------------------------------------

    async def _ingress(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers["Host"]
        self.hosts.append(host)
        if failed := await self._fails(self.ingress):
            return failed
        labels = host.partition(":")[0].split(".", 2)
        service = self._services.get((labels[1], labels[0])) if len(labels) == 3 else None
        if service is None or labels[2] not in (self.domain, "svc.cluster.local"):
            return BareResponse(status=404, headers={"Server": "envoy"})
        answer = await self._activator(service, request)
        answer.headers["Server"] = "envoy"
        answer.headers["x-envoy-upstream-service-time"] = "3"
        return answer

    async def _activator(self, service: _Service, request: web.BaseRequest) -> web.Response:
        if request.headers.get("User-Agent", "").startswith("kube-probe/"):
            return web.Response(status=200)
        if probed := request.headers.get("K-Network-Probe"):
            return (
                web.Response(text=probed) if probed == "activator" else go_error(400, "unexpected probe header value")
            )
        if not service.awake.is_set():
            if self.held >= self.queue_depth:
                return go_error(503, "pending request queue full")
            self._start(service)
        self.held += 1
        try:
            async with asyncio.timeout(self.timeout_s):
                await service.awake.wait()
                return await self._container(service, request)
        except TimeoutError:
            return web.Response(status=504, body=b"activator request timeout", headers={"Content-Type": _GO_TEXT})
        finally:
            self.held -= 1

    def _start(self, service: _Service) -> None:
        if service.starting is None:
            self.cold_starts.append(service.name)
            service.starting = asyncio.create_task(self._start_pods(service))

    async def _start_pods(self, service: _Service) -> None:
        try:
            await asyncio.sleep(service.start_s)
            self.ready.update(
                {(service.namespace, revision): 1 for revision, share in service.percents.items() if share}
            )
            service.awake.set()
        finally:
            service.starting = None

    async def _container(self, service: _Service, request: web.BaseRequest) -> web.Response:
        if service.is_silent:
            await self._stopping.wait()
        fields = {name: value for name, value in request.headers.items() if name not in _REVISION_FIELDS}
        invocation = Invocation(
            service.name, service.namespace, request.method, request.raw_path, fields, await request.read()
        )
        self.requests.append(invocation)
        if service.handler is not None:
            return await service.handler(invocation)
        return web.Response(text=f"{service.namespace}/{service.name} {request.raw_path}")


def go_error(status: int, text: str) -> web.Response:
    """What Go's ``http.Error`` writes."""
    fields = {"Content-Type": _GO_TEXT, "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, body=f"{text}\n".encode(), headers=fields)


def _status(code: int, reason: str, kind: str, name: str) -> web.Response:
    """A Status object, as the API answers whatever went wrong."""
    details = {"name": name, "group": "serving.knative.dev", "kind": kind} if name else {}
    document = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": f'{kind} "{name}": {reason}', "reason": reason, "details": details, "code": code,
    }  # fmt: skip
    return web.json_response(document, status=code)
