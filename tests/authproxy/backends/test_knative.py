"""
Knative Serving as a backend, against a cluster that speaks the Kubernetes API, and an ingress with its activator.

Longer than other modules: one platform, asked in two ways.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from authproxy.backends import Backends
from authproxy.backends.backend import Fields, Readiness, no_secrets
from authproxy.backends.cluster_api import TRAFFIC_S
from authproxy.backends.knative import AWAKE_S, KnativeBackend
from authproxy.backends.kubeconfig import InCluster
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec
from policies.target import canonical_target, encode_path
from tests.contracts.backend import BackendContract, World
from tests.fakes.cluster_keys import ClusterKeys
from tests.fakes.knative import FakeKnative, Invocation
from tests.fakes.places import place, tenant

INGRESS = "http://kourier.kourier-system"
LOCAL = "http://{function}.{namespace}.svc.cluster.local"
DOMAIN = "fn.example"
TOKEN = "service-account-token"
PATIENT: dict[str, Any] = {"api_timeout_s": 20, "probe_timeout_s": 20, "wake_timeout_s": 20}
HURRIED: dict[str, Any] = {"api_timeout_s": 0.3, "probe_timeout_s": 0.3, "wake_timeout_s": 0.2}


def backend(
    url: str = INGRESS, *, domain: str | None = DOMAIN, probe: str | None = None, **changed: Any
) -> KnativeBackend:
    spec = BackendSpec("kn", "knative", url, None, domain=domain, probe=probe)
    return KnativeBackend(spec, no_secrets, **(PATIENT | changed))


def kubeconfig(url: str) -> bytes:
    return yaml.safe_dump(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
    ).encode()


def backend_of(cluster: FakeKnative, **changed: Any) -> KnativeBackend:
    """One that may ask the cluster's API."""
    spec = BackendSpec("kn", "knative", cluster.url, None, domain=DOMAIN, cluster="kubeconfig")
    return KnativeBackend(spec, lambda _: kubeconfig(cluster.api_url), **(PATIENT | changed))


def request(*fields: tuple[bytes, bytes]) -> AccessRequest:
    read = read_head(
        Head("GET", b"/", [(b"Host", b"acme.localhost"), *fields], (1, 1), "127.0.0.1", "http"), TrustedPeers(())
    )
    assert isinstance(read, AccessRequest)
    return read


async def answer_of(cluster: FakeKnative, host: str, **fields: str) -> tuple[int, Fields, bytes]:
    """What a client of the ingress gets on the wire."""
    headers = {"Host": host, **{name.replace("_", "-"): value for name, value in fields.items()}}
    async with aiohttp.ClientSession() as session, session.get(cluster.url + "/", headers=headers) as answer:
        return answer.status, list(answer.raw_headers), await answer.read()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def cluster() -> AsyncIterator[FakeKnative]:
    async with FakeKnative(tokens={TOKEN}) as fake:
        fake.add("awake")
        fake.add("asleep", replicas=0)
        yield fake


def world_of(made: KnativeBackend, hurried: KnativeBackend, cluster: FakeKnative, **differing: Any) -> World:
    def break_api() -> None:
        cluster.api.status = 500
        cluster.ingress.status = 503

    def hang_api() -> None:
        cluster.api.hangs = cluster.ingress.hangs = True

    def talk_nonsense() -> None:
        cluster.api.body = b'{"status": {"traffic": "much"}}'

    return World(
        backend=made, hurried=hurried, namespace="acme", awake="awake", asleep="asleep", missing="missing", place=place,
        stop=cluster.stop, break_api=break_api, hang_api=hang_api, talk_nonsense=talk_nonsense, mute=cluster.silence,
        **differing,
    )  # fmt: skip


class TestByClusterApi(BackendContract):
    """Readiness is what the cluster says."""

    @pytest.fixture
    async def world(self, cluster: FakeKnative) -> AsyncIterator[World]:
        made, hurried = backend_of(cluster), backend_of(cluster, **HURRIED)
        yield world_of(made, hurried, cluster)
        await made.close()
        await hurried.close()


class TestByProbing(BackendContract):
    """Readiness is what the function says. A silent ingress is one that holds; only one that is down is unknown."""

    @pytest.fixture
    async def world(self, cluster: FakeKnative) -> AsyncIterator[World]:
        cluster.add("asleep", replicas=0, start_s=0.5)
        cluster.add("far", replicas=0, start_s=60)
        made, hurried = backend(cluster.url), backend(cluster.url, **HURRIED)
        yield world_of(made, hurried, cluster, unknowable=frozenset({"stop"}), unwakeable=frozenset({"stop"}))
        await made.close()
        await hurried.close()

    async def test_a_sleeping_function_exists_without_replicas(self, world: World) -> None:
        """Who asks it is held; it is given up soon."""
        assert await world.hurried.readiness(world.namespace, "far") == Readiness(0, does_exist=True)


# -- where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "domain", "address", "host"),
    [
        pytest.param(INGRESS, DOMAIN, Address("kourier.kourier-system", 80), b"f.acme.fn.example", id="ingress"),
        pytest.param(
            "https://10.0.0.9:8443/", DOMAIN, Address("10.0.0.9", 8443, is_tls=True), b"f.acme.fn.example", id="https"
        ),
        pytest.param(
            LOCAL, None, Address("f.acme.svc.cluster.local", 80), b"f.acme.svc.cluster.local", id="cluster-local"
        ),
        pytest.param(
            LOCAL + ":8080",
            None,
            Address("f.acme.svc.cluster.local", 8080),
            b"f.acme.svc.cluster.local:8080",
            id="port",
        ),
    ],
)
def test_the_host_says_which_function(url: str, domain: str | None, address: Address, host: bytes) -> None:
    """Path and query leave as they were judged, a slash inside of a segment too."""
    where = backend(url, domain=domain).destination(place("f", ("a/b", "100%", "c?")), "x=1%20")
    assert where == Destination(address, b"/a%2Fb/100%25/c%3F?x=1%20", host)


def test_a_direct_address_is_used_where_policy_says_so() -> None:
    """As with other platforms."""
    where = backend().destination(place("f", direct_url="http://{function}.{namespace}:8080"), None)
    assert where == Destination(Address("f.acme", 8080), b"/", b"f.acme:8080")


@given(st.lists(st.text(min_size=1, max_size=6), max_size=4), st.booleans())
def test_the_path_that_leaves_is_the_path_that_was_judged(segments: list[str], slash: bool) -> None:
    """Decoded once, as the function will, it is the same again."""
    judged = canonical_target(encode_path(segments, has_trailing_slash=slash and bool(segments)).encode())
    if isinstance(judged, Deny):
        return
    where = backend().destination(place("f", judged.segments, has_trailing_slash=judged.has_trailing_slash), None)
    assert isinstance(where, Destination)
    assert canonical_target(where.target) == judged


@pytest.mark.parametrize(
    ("function", "namespace"),
    [
        pytest.param("f.globex", "acme", id="another namespace in the name"),
        pytest.param("f", "globex.fn.example", id="a domain in the namespace"),
        pytest.param("F", "acme", id="another spelling of one host"),
        pytest.param("f", "Acme", id="another spelling of the namespace"),
        pytest.param("f_g", "acme", id="no label"),
        pytest.param("-f", "acme", id="a hyphen first"),
        pytest.param("f" * 64, "acme", id="too long"),
        pytest.param("f:81", "acme", id="a port"),
        pytest.param("f@evil", "acme", id="a user"),
        pytest.param("f/..", "acme", id="a path"),
        pytest.param("f\r\nX: y", "acme", id="a field"),
        pytest.param("", "acme", id="none"),
        pytest.param("f", "", id="no namespace"),
        pytest.param("f\n", "acme", id="a line end"),
        pytest.param("ｆ", "acme", id="a wide letter"),  # noqa: RUF001 - that is the attack
    ],
)
@pytest.mark.parametrize("url", [INGRESS, LOCAL])
async def test_a_name_that_would_lead_elsewhere_is_no_function(url: str, function: str, namespace: str) -> None:
    """Whatever a name was let through by, the Host field names this function in this namespace or nothing leaves."""
    made = backend(url, domain=DOMAIN if url == INGRESS else None)
    at = place(function, of=replace(tenant("acme"), namespace=namespace))
    assert made.destination(at, None) == Deny(Reason.FUNCTION_UNKNOWN)
    assert await made.readiness(namespace, function) == Readiness(0, does_exist=False)
    with pytest.raises(BackendUnavailable):
        await made.wake(namespace, function)


def test_the_memo_of_addresses_is_bounded() -> None:
    """A caller who makes up names does not choose our memory."""
    made = backend()
    for n in range(6000):
        made.destination(place(f"f{n}"), None)
    assert len(made._memo) <= 4096


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        pytest.param({"url": INGRESS, "domain": None}, "one", id="all functions would be one"),
        pytest.param({"url": "http://{function}.svc", "domain": None}, "one", id="all namespaces would be one"),
        pytest.param({"url": "gateway", "domain": DOMAIN}, "address", id="no address"),
        pytest.param({"url": INGRESS, "domain": "Fn.Example"}, "domain", id="another spelling"),
        pytest.param({"url": INGRESS, "domain": "fn.example:80"}, "domain", id="a port"),
        pytest.param({"url": INGRESS, "domain": "fn example\r\n"}, "domain", id="a field"),
        pytest.param({"url": INGRESS, "domain": DOMAIN, "probe": "/../x"}, "probe", id="a path that could be another"),
        pytest.param({"url": INGRESS, "domain": DOMAIN, "credentials": "x"}, "credentials", id="credentials"),
        pytest.param({"url": INGRESS, "domain": DOMAIN, "cluster": "kube"}, "cluster", id="no such kubeconfig"),
        pytest.param({"url": INGRESS, "domain": DOMAIN, "cluster": "in-cluster"}, "pod", id="no pod"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], says: str
) -> None:
    """Not at the first request."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(SettingsError, match=says):
        KnativeBackend(BackendSpec(**({"name": "kn", "kind": "knative", "credentials": None} | spec)), no_secrets)


def test_a_kubeconfig_that_runs_programs_is_refused_by_the_backend() -> None:
    """With its name, so that an operator finds it."""
    document = yaml.safe_load(kubeconfig("https://x"))
    document["users"][0]["user"] = {"exec": {"command": "gke-gcloud-auth-plugin"}}
    with pytest.raises(SettingsError, match="exec"):
        KnativeBackend(
            BackendSpec("kn", "knative", INGRESS, None, domain=DOMAIN, cluster="kube"),
            lambda _: yaml.safe_dump(document).encode(),
        )


async def test_all_backends_know_the_kind() -> None:
    """By its name in platform.yaml, with the platform's secrets."""
    all_of_them = Backends(lambda _: kubeconfig("https://10.0.0.1"))
    spec = BackendSpec("kn", "knative", INGRESS, None, domain=DOMAIN, cluster="kube")
    all_of_them.replace({"kn": spec})
    assert isinstance(all_of_them["kn"], KnativeBackend)
    await all_of_them.close()


# -- what a client may not say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *["Knative-Serving-Revision", "Knative-Serving-Namespace", "Knative-Serving-Tag", "K-Passthrough-Lb"],
        *["K-Network-Probe", "K-Network-Hash", "K-Proxy-Request", "K-Original-Host", "K-Kubelet-Probe"],
        *["knative_serving_revision", "k_network_probe", "KNATIVE-SERVING-REVISION"],
    ],
)
def test_no_client_speaks_as_knative(name: str) -> None:
    """The activator believes these fields of anybody: who could send them would choose another tenant's revision."""
    assert b"secret-revision" not in request((name.encode(), b"secret-revision")).forward_block


@pytest.mark.parametrize("agent", [b"kube-probe/1.29", b"kube-probe/", b"  kube-probe/x"])
async def test_no_client_speaks_as_a_kubelet(cluster: FakeKnative, agent: bytes) -> None:
    """The activator would answer it itself, and the queue-proxy let it past its bound."""
    assert (await answer_of(cluster, "awake.acme.fn.example", User_Agent="kube-probe/1.29"))[0] == 200
    assert not cluster.requests  # the danger
    where = backend().destination(place("f"), None, request((b"User-Agent", agent)))
    assert isinstance(where, Deny)
    assert where.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "field",
    [(b"User-Agent", b"curl/8 (not kube-probe/1)"), (b"X-Note", b"kube-probe/1"), (b"X-User-Agent", b"kube-probe/1")],
)
def test_who_only_speaks_of_a_kubelet_passes(field: tuple[bytes, bytes]) -> None:
    """The field and the beginning of its value are what counts."""
    assert isinstance(backend().destination(place("f"), None, request(field)), Destination)


# -- whose answer is it? ---------------------------------------------------------------------------


async def test_a_full_queue_is_told_from_an_answer(cluster: FakeKnative) -> None:
    """The function was not reached; who cannot be tried again hears that the platform is overloaded."""
    cluster.queue_depth = 0
    status, fields, body = await answer_of(cluster, "asleep.acme.fn.example")
    assert (status, body) == (503, b"pending request queue full\n")
    assert backend().says_not_reached(status, fields)
    assert backend().failure_of(status, fields) is Reason.OVERLOADED


async def test_the_activators_patience_is_told_from_an_answer(cluster: FakeKnative) -> None:
    """The function may have been reached: never tried again."""
    cluster.timeout_s = 0.05
    cluster.silence()
    status, fields, body = await answer_of(cluster, "awake.acme.fn.example")
    assert (status, body) == (504, b"activator request timeout")
    assert not backend().says_not_reached(status, fields)
    assert backend().failure_of(status, fields) is Reason.UPSTREAM_TIMEOUT


async def test_a_host_that_the_ingress_does_not_know_is_told_from_an_answer(cluster: FakeKnative) -> None:
    """A function's own 404 is passed on, be it as empty as the ingress's."""
    status, fields, body = await answer_of(cluster, "missing.acme.fn.example")
    assert (status, body) == (404, b"")
    assert backend().failure_of(status, fields) is Reason.FUNCTION_UNKNOWN

    async def not_found(_: Invocation) -> web.Response:
        return web.Response(status=404)

    cluster.add("awake", handler=not_found)
    status, fields, _ = await answer_of(cluster, "awake.acme.fn.example")
    assert status == 404
    assert backend().failure_of(status, fields) is None
    assert not backend().says_not_reached(status, fields)


_ENVOY = [(b"server", b"envoy"), (b"content-type", b"text/plain"), (b"content-length", b"19")]


@pytest.mark.parametrize(
    ("status", "fields", "is_unreached", "reason"),
    [
        pytest.param(503, _ENVOY, True, Reason.UPSTREAM_UNREACHABLE, id="no healthy upstream"),
        pytest.param(503, [*_ENVOY, (b"x-envoy-upstream-service-time", b"1")], False, None, id="through Envoy"),
        pytest.param(503, [(b"server", b"nginx"), *_ENVOY[1:]], False, None, id="another server's"),
        pytest.param(
            503, [*_ENVOY[:2], (b"content-length", b"118")], False, None, id="reset: perhaps after it was read"
        ),
        pytest.param(
            504, [*_ENVOY[:2], (b"content-length", b"24")], False, Reason.UPSTREAM_TIMEOUT, id="Envoy's patience"
        ),
        pytest.param(500, _ENVOY, False, None, id="500"),
        pytest.param(502, _ENVOY, False, None, id="502"),
        pytest.param(200, _ENVOY, False, None, id="200"),
        pytest.param(
            404, [(b"Server", b"istio-envoy"), (b"Content-Length", b"0")], False, Reason.FUNCTION_UNKNOWN, id="istio"
        ),
        pytest.param(404, [(b"server", b"envoy"), (b"content-length", b"9")], False, None, id="a body"),
        pytest.param(503, [], False, None, id="no fields"),
    ],
)
def test_only_what_is_certain_is_the_platforms(
    status: int, fields: Fields, is_unreached: bool, reason: Reason | None
) -> None:
    """Everything else is the function's, and is passed on."""
    made = backend()
    assert made.says_not_reached(status, fields) is is_unreached
    assert made.failure_of(status, fields) is reason


# -- by the cluster's API --------------------------------------------------------------------------


async def test_asking_the_cluster_wakes_nobody(cluster: FakeKnative) -> None:
    """Not one request through the ingress."""
    made = backend_of(cluster)
    assert await made.readiness("acme", "asleep") == Readiness(0)
    assert not cluster.hosts
    await made.close()


async def test_a_wake_is_a_trigger(cluster: FakeKnative) -> None:
    """It is not waited for: two seconds in production, and the autoscaler has heard of it by then."""
    cluster.add("asleep", replicas=0, start_s=600)
    made = backend_of(cluster, wake_timeout_s=2)
    await asyncio.wait_for(made.wake("acme", "asleep"), 20)
    assert cluster.cold_starts == ["asleep"]
    await made.close()


async def test_with_the_clusters_word_a_tag_is_no_function(cluster: FakeKnative) -> None:
    """``canary-awake`` is a host of the ingress and no service: a right to ``canary-*`` is none to ``awake``."""
    made = backend_of(cluster)
    assert await made.readiness("acme", "canary-awake") == Readiness(0, does_exist=False)
    with pytest.raises(BackendUnavailable):
        await made.wake("acme", "canary-awake")
    assert not cluster.hosts
    await made.close()


@pytest.mark.parametrize(
    ("traffic", "replicas", "ready"),
    [
        pytest.param({"f-00001": 100}, {"f-00001": 3}, 3, id="one revision"),
        pytest.param({"f-00002": 90, "f-00003": 10}, {"f-00002": 2, "f-00003": 1}, 3, id="shares of two"),
        pytest.param({"f-00002": 100, "f-00001": None}, {"f-00002": 0, "f-00001": 5}, 0, id="a tag has no traffic"),
        pytest.param({"f-00001": 100}, {"f-00001": -2}, 0, id="a negative count"),
        pytest.param({}, {}, 0, id="not rolled out yet"),
    ],
)
@pytest.mark.parametrize("is_old", [False, True], ids=["by revision", "by autoscaler"])
async def test_replicas_of_all_that_have_traffic_are_counted(
    cluster: FakeKnative, traffic: dict[str, int | None], replicas: dict[str, int], ready: int, is_old: bool
) -> None:
    """Revisions that only a tag or nobody reaches serve nobody."""
    cluster.leaves_replicas_out = is_old
    cluster.add("f", traffic=traffic)
    cluster.ready.update({("acme", revision): count for revision, count in replicas.items()})
    made = backend_of(cluster)
    assert await made.readiness("acme", "f") == Readiness(ready)
    await made.close()


async def test_a_function_in_use_costs_one_call(cluster: FakeKnative) -> None:
    """Which revision has the traffic is remembered while it has replicas, and for ten seconds."""
    clock = Clock()
    made = backend_of(cluster, clock=clock)
    for _ in range(5):
        assert await made.readiness("acme", "awake") == Readiness(1)
    assert [call.split("/")[-2] for call in cluster.api_calls] == ["services", *["revisions"] * 5]
    clock.now += TRAFFIC_S
    await made.readiness("acme", "awake")
    assert len(cluster.api_calls) == 8
    await made.close()


async def test_a_function_that_wakes_costs_two_calls_a_question(cluster: FakeKnative) -> None:
    """It is asked about many times a second: its revision's replicas, and whether it is still that revision."""
    made = backend_of(cluster)
    for _ in range(5):
        assert await made.readiness("acme", "asleep") == Readiness(0)
    assert len(cluster.api_calls) == 10
    await made.close()


async def test_a_rollout_is_not_taken_for_sleep(cluster: FakeKnative) -> None:
    """The old revision's pods are gone: the service is asked again before anybody says "asleep"."""
    made = backend_of(cluster)
    assert await made.readiness("acme", "awake") == Readiness(1)
    cluster.roll_out("awake", {"awake-00002": 100})
    assert await made.readiness("acme", "awake") == Readiness(1)
    await made.close()


async def test_a_cluster_without_knative_is_unknown_not_missing(cluster: FakeKnative) -> None:
    """Its 404 is of another form; so is that about another object."""
    made = backend_of(cluster)
    for body in (
        "404 page not found\n",
        json.dumps({"kind": "Status", "reason": "NotFound", "details": {"name": "other", "kind": "services"}}),
        json.dumps({"kind": "Status", "reason": "NotFound", "details": {"name": "awake", "kind": "namespaces"}}),
        json.dumps({"kind": "Status", "reason": "NotFound"}),
        "",
    ):
        cluster.api.status, cluster.api.text = 404, body
        with pytest.raises(BackendUnavailable):
            await made.readiness("acme", "awake")
    await made.close()


@pytest.mark.parametrize("kind", ["services", "revisions", "podautoscalers"])
async def test_what_the_role_may_not_read_is_unknown(cluster: FakeKnative, kind: str) -> None:
    """And the message says which right is wanting."""
    cluster.forbidden, cluster.leaves_replicas_out = {kind}, True
    made = backend_of(cluster)
    with pytest.raises(BackendUnavailable, match=f"403.*{kind}") as failed:
        await made.readiness("acme", "awake")
    assert TOKEN not in str(failed.value)
    await made.close()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'{"status": {"traffic": [{"revisionName": "../../secrets/x", "percent": 100}]}}', id="traversal"),
        pytest.param(b'{"status": {"traffic": [{"revisionName": "a?x=y", "percent": 100}]}}', id="query"),
        pytest.param(b'{"status": {"traffic": [{"revisionName": 1, "percent": 100}]}}', id="number"),
        pytest.param(b'{"status": {"traffic": [{"revisionName": "a", "percent": 1e99}]}}', id="float"),
        pytest.param(b'{"a":' + b"[" * 100_000, id="deep"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
        pytest.param(b'{"a": "' + b"x" * 1_100_000 + b'"}', id="too large"),
    ],
)
async def test_an_api_that_talks_nonsense_is_unknown(cluster: FakeKnative, body: bytes) -> None:
    """One exception of ours, in bounded memory, and no call to another path."""
    cluster.api.body = body
    made = backend_of(cluster)
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "awake")
    assert {call.split("/")[-2] for call in cluster.api_calls} == {"services"}
    await made.close()


async def test_more_revisions_than_anybody_has_are_not_all_asked_about(cluster: FakeKnative) -> None:
    """A service does not choose how many calls we make."""
    cluster.add("f", traffic={f"f-{n:05}": 1 for n in range(100)})
    made = backend_of(cluster)
    assert await made.readiness("acme", "f") == Readiness(20)
    assert len(cluster.api_calls) == 21
    await made.close()


async def test_a_pod_asks_its_own_cluster(tmp_path: Path) -> None:
    """With its service account, by TLS that its cluster's authority vouches for."""
    (tmp_path / "token").write_text(TOKEN)
    keys = ClusterKeys()
    (tmp_path / "ca.crt").write_text(keys.authority)
    async with FakeKnative(tls=keys.server(tmp_path), tokens={TOKEN}) as own:
        own.add("f")
        host, _, port = own.api_url.removeprefix("https://").partition(":")
        spec = BackendSpec("kn", "knative", own.url, None, domain=DOMAIN, cluster="in-cluster")
        made = KnativeBackend(spec, no_secrets, in_cluster=InCluster(host, port, tmp_path))
        assert await made.readiness("acme", "f") == Readiness(1)
        await made.close()


# -- by probing ------------------------------------------------------------------------------------


async def test_asking_about_a_function_in_use_is_harmless() -> None:
    """Asked once a second it is probed each fifth; Knative's shortest window is six."""
    async with FakeKnative() as cluster:
        cluster.add("f")
        clock = Clock()
        made = backend(cluster.url, clock=clock)
        for _ in range(11):
            assert await made.readiness("acme", "f") == Readiness(1)
            clock.now += 1
        assert len(cluster.requests) == 3
        assert AWAKE_S < 6
        await made.close()


async def test_the_platforms_word_ends_what_is_believed() -> None:
    """A function that is not reached is asked again at once."""
    async with FakeKnative() as cluster:
        cluster.add("f")
        made = backend(cluster.url)
        assert await made.readiness("acme", "f") == Readiness(1)
        cluster.sleep("f")
        cluster.queue_depth = 0
        assert await made.readiness("acme", "f") == Readiness(1)
        status, fields, _ = await answer_of(cluster, "f.acme.fn.example")
        assert made.says_not_reached(status, fields)
        assert await made.readiness("acme", "f") == Readiness(0)
        await made.close()


async def test_awake_is_what_the_function_says_itself() -> None:
    """Any answer of its own; of 503 and its like nobody knows whose they are."""
    statuses = iter([200, 301, 404, 405, 500, 502, 503, 504])
    async with FakeKnative() as cluster:

        async def answer(_: Invocation) -> web.Response:
            return web.Response(status=next(statuses))

        cluster.add("f", handler=answer)
        clock = Clock()
        made = backend(cluster.url, clock=clock)
        seen = []
        for _ in range(8):
            seen.append((await made.readiness("acme", "f")).ready_replicas)
            clock.now += AWAKE_S
        assert seen == [1, 1, 1, 1, 1, 0, 0, 0]
        await made.close()


async def test_a_question_wakes_and_the_next_finds_it_awake() -> None:
    """What the module warns of: without the cluster's API there is no other way to ask."""
    async with FakeKnative() as cluster:
        cluster.add("f", replicas=0, start_s=0.3)
        made = backend(cluster.url, probe_timeout_s=0.1)
        assert await made.readiness("acme", "f") == Readiness(0)
        assert cluster.cold_starts == ["f"]
        for _ in range(30):
            if (await made.readiness("acme", "f")).ready_replicas:
                break
        assert await made.readiness("acme", "f") == Readiness(1)
        assert cluster.cold_starts == ["f"]
        await made.close()


async def test_with_probes_off_every_function_is_tried() -> None:
    """Nothing is asked; the cluster's activator holds."""
    async with FakeKnative() as cluster:
        cluster.add("f", replicas=0)
        made = backend(cluster.url, probe="")
        assert await made.readiness("acme", "f") == Readiness(1)
        assert await made.probe("acme", "f", None) is True
        assert not cluster.hosts
        await made.close()


async def test_probes_say_nothing_of_callers(cluster: FakeKnative) -> None:
    """Path of the setting, our own name, no credential, no field that Knative believes."""
    made = backend(cluster.url, probe="/healthz?deep=1")
    assert await made.probe("acme", "awake", None)
    assert cluster.requests[0].target == "/healthz?deep=1"
    assert cluster.requests[0].fields == {
        "Host": "awake.acme.fn.example", "User-Agent": "portero", "Accept": "*/*", "Accept-Encoding": "identity",
    } | ({"Connection": "close"} if "Connection" in cluster.requests[0].fields else {})  # fmt: skip
    await made.close()


async def test_what_is_believed_of_functions_is_bounded(cluster: FakeKnative) -> None:
    """A wildcard route to one function does not let callers fill our memory with its names."""
    made = backend(cluster.url)
    made._answered_until.update({("acme", f"f{n}"): 0.0 for n in range(4096)})
    assert await made.readiness("acme", "awake") == Readiness(1)
    assert len(made._answered_until) == 1
    await made.close()


@pytest.mark.parametrize(("namespace", "name"), [("acme", "2130706433"), ("acme", "localhost"), ("acme", "0x7f")])
async def test_a_function_is_never_an_address(namespace: str, name: str) -> None:
    """Where a function's name ends the host, one that resolvers read as an address is no function."""
    made = KnativeBackend(BackendSpec("kn", "knative", "http://{namespace}.{function}:8080", None), no_secrets)
    assert made.destination(place(function=name), None) == Deny(Reason.FUNCTION_UNKNOWN)
    assert await made.readiness(namespace, name) == Readiness(0, does_exist=False)
    with pytest.raises(BackendUnavailable):
        await made.wake(namespace, name)
    await made.close()
