"""
Knative Serving (and riff from 0.1 on, which is Knative) as a backend: functions are named by the Host field.

It decides how a function is addressed, which answers are the ingress's or the activator's own, and how one learns
whether a function is awake. It refuses to know when to ask and whom to hold; ``authproxy.activator`` does.

How a function is addressed
---------------------------
With ``domain`` every request goes to ``url`` (the ingress) with ``Host: <function>.<namespace>.<domain>``; without it
``url`` is a template, such as ``http://{function}.{namespace}.svc.cluster.local`` for what is visible in the cluster
only, and its authority is the Host. A path is decoded once, by the function: it leaves as it was judged.

Other things have such names too: a route's tag (``<tag>-<function>``), and in the cluster's own domain every Service of
the namespace. With ``cluster`` only Knative services are functions. Without it whoever may invoke ``canary-*`` reaches
the tag ``canary`` of every function, and by a cluster-local ``url`` whoever may invoke ``*`` all else that is there.

Is it awake?
------------
With ``cluster``, the cluster's API says (``cluster_api.py``), and asking wakes nobody. Without it the function is asked
by a short GET: an answer of its own is "awake", none within a second is "asleep", because the cluster's activator holds
what comes for a sleeping function. **Such a question wakes and keeps awake**: a request that must not wake
(``no_wake``) and the limit on wakes mean little there. So that asking about a function in use is harmless, its answer
is believed for 5 s, less than the shortest window (6 s) after which Knative takes a replica away, and void at once when
ingress or activator say for any function that they did not reach it. With ``probe: ""`` and without ``cluster`` nothing
is asked, every function is tried, and the cluster's activator does the holding.

A wake is one GET that the activator holds; it is a trigger, and is let go after two seconds. It is heard by then: the
activator tells the autoscaler of a revision's first request at once.

A client that calls itself ``kube-probe/...`` would be answered by the activator itself and pass the queue-proxy's
bound on concurrency: such a request does not leave.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Final

from authproxy.backends.backend import PROBE_TIMEOUT_S, Fields, Readiness, ReadSecret
from authproxy.backends.cluster_api import ClusterApi
from authproxy.backends.knative_answers import AnswerHead
from authproxy.backends.kubeconfig import ClusterAccess, InCluster, read_kubeconfig
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
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, CannotKnow, SettingsError
from policies.host import canonical_host
from policies.request import AccessRequest
from policies.tables import BackendSpec, Place

IN_CLUSTER: Final = "in-cluster"
AWAKE_S: Final = 5.0
"""How long a function's own answer is believed when it is asked by probing (module docstring)."""
WAKE_TIMEOUT_S: Final = 2.0
"""With the question before it whether there is such a service (1.5 s at most) no wake takes longer than 3.5 s."""
_MEMO_ENTRIES: Final = 4096
_LABEL: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
"""RFC 1123. Lower case only: in a Host field two spellings would be one function."""
_KUBELET: Final = re.compile(rb"(?:^|\n)user-agent:[ \t]*kube-probe/", re.IGNORECASE)
_NO_NAME: Final = Deny(Reason.FUNCTION_UNKNOWN)
_KUBELET_REFUSED: Final = Deny(
    Reason.BAD_REQUEST, "the User-Agent is that of a kubelet's probe, which this functions platform answers itself"
)


class KnativeBackend:
    """
    One cluster with Knative Serving.

    Args:
        in_cluster: where a pod finds its cluster; None: from the environment. Used with ``cluster: in-cluster`` only.

    Raises: SettingsError with every mistake at once.
    """

    def __init__(
        self,
        spec: BackendSpec,
        read_secret: ReadSecret,
        *,
        in_cluster: InCluster | None = None,
        api_timeout_s: float = API_TIMEOUT_S,
        probe_timeout_s: float = PROBE_TIMEOUT_S,
        wake_timeout_s: float = WAKE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(spec)
        self.name = spec.name
        self._url = spec.url.rstrip("/")
        self._domain = spec.domain
        self._probe_path = "/" if spec.probe is None else spec.probe
        self._clock = clock
        self._cluster = _cluster(spec, read_secret, in_cluster, api_timeout_s, clock)
        self._probes = PlatformApi(spec.name, probe_timeout_s=probe_timeout_s)
        self._wakes = PlatformApi(spec.name, probe_timeout_s=wake_timeout_s)
        self._memo: dict[tuple[str, str, str | None], tuple[Address, bytes]] = {}
        self._answered_until: dict[tuple[str, str], float] = {}
        """Until when a function is believed to be awake that was asked by probing."""

    # -- where -------------------------------------------------------------------------------------------------------

    def destination(self, place: Place, query: str | None, request: AccessRequest | None = None) -> Destination | Deny:
        """See ``Backend.destination``."""
        if request is not None and b"kube-probe/" in request.forward_block and _KUBELET.search(request.forward_block):
            return _KUBELET_REFUSED
        key = (place.function, place.tenant.namespace, place.spec.direct_url)
        found = self._memo.get(key)
        if found is None:
            if not self._is_name(place.tenant.namespace, place.function):
                return _NO_NAME
            if len(self._memo) >= _MEMO_ENTRIES:
                self._memo.clear()
            found = self._memo[key] = self._where(*key)
        path = place.path if query is None else f"{place.path}?{query}"
        return Destination(found[0], path.encode("ascii"), found[1])

    def _where(self, function: str, namespace: str, direct_url: str | None) -> tuple[Address, bytes]:
        url = _filled(direct_url or self._url, function, namespace)
        if self._domain is None or direct_url is not None:
            return address_of(url), authority_of(url)
        return address_of(url), f"{function}.{namespace}.{self._domain}".encode("ascii")

    def says_not_reached(self, status: int, fields: Fields) -> bool:
        """See ``Backend.says_not_reached``: a 503 of activator, queue-proxy or Envoy, sent in the function's place."""
        if status != 503:
            return False
        head = AnswerHead(fields)
        if not head.is_activators_503 and not head.is_no_upstream:
            return False
        self._answered_until.clear()
        return True

    def failure_of(self, status: int, fields: Fields) -> Reason | None:
        """See ``Backend.failure_of``."""
        if status not in (404, 503, 504):
            return None
        head = AnswerHead(fields)
        if status == 503:
            if head.is_activators_503:
                return Reason.OVERLOADED
            return Reason.UPSTREAM_UNREACHABLE if head.is_no_upstream else None
        if status == 504:
            return Reason.UPSTREAM_TIMEOUT if head.is_timeout else None
        return Reason.FUNCTION_UNKNOWN if head.is_no_host else None

    # -- ready? wake! ------------------------------------------------------------------------------------------------

    async def readiness(self, namespace: str, function: str) -> Readiness:
        """See ``Backend.readiness``: the cluster's API, or else the function itself (module docstring)."""
        if not self._is_name(namespace, function):
            return Readiness(0, does_exist=False)
        if self._cluster is not None:
            return await self._cluster.readiness(namespace, function)
        if not self._probe_path:
            return Readiness(1)
        key, now = (namespace, function), self._clock()
        if now < self._answered_until.get(key, 0.0):
            return Readiness(1)
        answer = await self._ask(self._probes, namespace, function, self._probe_path)
        if answer is None:
            return Readiness(0)
        if answer.status == 404 and AnswerHead(answer.fields).is_no_host:
            return Readiness(0, does_exist=False)
        if answer.status in NOT_NOW:
            return Readiness(0)
        if len(self._answered_until) >= _MEMO_ENTRIES:
            self._answered_until.clear()
        self._answered_until[key] = self._clock() + AWAKE_S
        return Readiness(1)

    async def wake(self, namespace: str, function: str) -> None:
        """See ``Backend.wake``: one GET, which the activator holds; with ``probe: ""`` it is ``GET /``."""
        if not self._is_name(namespace, function):
            raise BackendUnavailable(f"{self.name}: there is no such function")
        if self._cluster is not None and not await self._cluster.does_exist(namespace, function):
            raise BackendUnavailable(f"{self.name}: there is no such function")
        answer = await self._ask(self._wakes, namespace, function, self._probe_path or "/")
        if answer is not None and answer.status == 404 and AnswerHead(answer.fields).is_no_host:
            raise BackendUnavailable(f"{self.name}: the ingress knows no such function")

    async def probe(self, namespace: str, function: str, path: str | None) -> bool:
        """See ``Backend.probe``: a GET through the ingress."""
        path = self._probe_path if path is None else path
        if not path:
            return True
        if not is_probe_path(path) or not self._is_name(namespace, function):
            raise BackendUnavailable(f"{self.name}: neither function nor path that could be probed")
        answer = await self._ask(self._probes, namespace, function, path)
        if answer is None or answer.status in NOT_NOW:
            return False
        return not (answer.status == 404 and AnswerHead(answer.fields).is_no_host)

    async def close(self) -> None:
        await self._probes.close()
        await self._wakes.close()
        if self._cluster is not None:
            await self._cluster.close()

    def _is_name(self, namespace: str, function: str) -> bool:
        """Whether the two are names, and lead to nothing but a function."""
        if not _LABEL.fullmatch(namespace) or not _LABEL.fullmatch(function):
            return False
        return not leads_elsewhere(self._url, function, namespace)

    async def _ask(self, api: PlatformApi, namespace: str, function: str, path: str) -> ApiAnswer | None:
        """
        The head of the function's answer to a GET, or of who answered for it; None: not in time, held most likely.

        Raises: BackendUnavailable when the ingress cannot be reached.
        """
        _, host = self._where(function, namespace, None)
        headers = {
            "Host": host.decode("ascii"),
            "User-Agent": "portero",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        return await api.probe(f"{_filled(self._url, function, namespace)}{path}", headers)


def _filled(template: str, function: str, namespace: str) -> str:
    return template.replace("{function}", function).replace("{namespace}", namespace)


def _check(spec: BackendSpec) -> None:
    """Raises: SettingsError with every mistake."""
    mistakes = []
    filled = _filled(spec.url, "f", "n")
    try:
        address_of(filled)
    except SettingsError as error:
        mistakes += error.mistakes
    if spec.domain is None:
        if "{function}" not in spec.url or "{namespace}" not in spec.url:
            text = "expected domain: <the cluster's domain>, or a url with {function} and {namespace}: without either"
            mistakes.append(f"{text} all functions would be one")
    elif canonical_host(spec.domain) != spec.domain or spec.domain.startswith("["):
        mistakes.append(f"domain: {spec.domain!r} is no host in the spelling of the wire")
    if spec.probe and not is_probe_path(spec.probe):
        mistakes.append(f"probe: {spec.probe!r} is no path; expected such as /healthz")
    if spec.credentials is not None:
        mistakes.append("credentials: Knative's ingress asks for none; the cluster's API takes those of cluster")
    if mistakes:
        raise SettingsError(mistakes)


def _cluster(
    spec: BackendSpec,
    read_secret: ReadSecret,
    in_cluster: InCluster | None,
    timeout_s: float,
    clock: Callable[[], float],
) -> ClusterApi | None:
    """Raises: SettingsError when the cluster cannot be asked as the entry says."""
    if spec.cluster is None:
        return None
    if spec.cluster == IN_CLUSTER:
        pod = in_cluster or InCluster.found_in(os.environ)
        return ClusterApi(spec.name, pod.read, timeout_s=timeout_s, clock=clock)
    name = spec.cluster

    def read() -> ClusterAccess:
        return read_kubeconfig(read_secret(name))

    try:
        return ClusterApi(spec.name, read, timeout_s=timeout_s, clock=clock)
    except CannotKnow as error:
        raise SettingsError([f"cluster: {error}"]) from error
