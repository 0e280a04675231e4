"""
OpenFaaS as a backend, against a server that speaks its API and reads paths as its gateway does.

Longer than other modules: the API, wakes, and whose answer is whose are one conversation with that server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from authproxy.backends.backend import MAX_REPLICAS, Readiness, ReadSecret
from authproxy.backends.credentials import REREAD_PAUSE_S
from authproxy.backends.openfaas import OpenFaasBackend
from authproxy.backends.platform_api import MAX_ANSWER_BYTES, MAX_API_CONNECTIONS
from authproxy.demo.functions_platform import FunctionsPlatform
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, CannotKnow, SettingsError
from policies.tables import BackendSpec
from tests.contracts.backend import BackendContract, World
from tests.fakes.jobs import until
from tests.fakes.openfaas import FakeOpenFaas, Invocation
from tests.fakes.places import place

GATEWAY = "http://gateway.openfaas:8080"
PATIENT: dict[str, Any] = {"timeout_s": 20.0, "probe_timeout_s": 20.0}


def backend(url: str = GATEWAY, credentials: tuple[str, str] | None = None, **changed: float) -> OpenFaasBackend:
    times = PATIENT | changed
    if credentials is None:
        return OpenFaasBackend(BackendSpec("faas", "openfaas", url, None), **times)
    files = {"admin": ":".join(credentials).encode()}
    return OpenFaasBackend(BackendSpec("faas", "openfaas", url, "admin"), secrets(files), **times)


def secrets(files: dict[str, bytes]) -> ReadSecret:
    def read(name: str) -> bytes:
        try:
            return files[name]
        except KeyError:
            raise CannotKnow(name) from None

    return read


@pytest.fixture
async def faas() -> AsyncIterator[FakeOpenFaas]:
    async with FakeOpenFaas() as fake:
        yield fake


class TestOpenFaas(BackendContract):
    @pytest.fixture
    async def world(self, faas: FakeOpenFaas) -> AsyncIterator[World]:
        faas.add("awake", "acme")
        faas.add("asleep", "acme", replicas=0, start_s=0.05)

        def break_api() -> None:
            faas.api.status = faas.wake.status = 500

        def hang_api() -> None:
            faas.api.hangs = faas.wake.hangs = True

        def talk_nonsense() -> None:
            faas.api.body = b'{"availableReplicas": "many"}'

        def mute() -> None:
            faas.proxy.hangs = True

        made, hurried = backend(faas.url), backend(faas.url, timeout_s=0.3, probe_timeout_s=0.3)
        yield World(
            backend=made, hurried=hurried, place=place,
            namespace="acme", awake="awake", asleep="asleep", missing="missing",
            stop=faas.stop, break_api=break_api, hang_api=hang_api, talk_nonsense=talk_nonsense, mute=mute,
        )  # fmt: skip
        await made.close()
        await hurried.close()


# -- the API ------------------------------------------------------------------------------------------


async def test_credentials_go_with_every_call_of_the_api() -> None:
    """``/system`` is behind basic auth; a wrong password is "cannot know", not "missing"."""
    async with FakeOpenFaas(credentials=("admin", "pässword")) as faas:
        faas.add("f", "acme", replicas=0)
        right, wrong = backend(faas.url, ("admin", "pässword")), backend(faas.url, ("admin", "guess"))
        assert (await right.readiness("acme", "f")).does_exist
        await right.wake("acme", "f")
        with pytest.raises(BackendUnavailable):
            await wrong.readiness("acme", "f")
        await right.close()
        await wrong.close()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'{"availableReplicas": null}', id="null"),
        pytest.param(b'{"availableReplicas": 1e99}', id="float"),
        pytest.param(b'{"availableReplicas": true}', id="boolean"),
        pytest.param(b"\xff\xfe", id="no utf-8"),
        pytest.param(b'{"a":' + b"[" * 20_000, id="deep"),
        pytest.param(b'{"name": "' + b"x" * MAX_ANSWER_BYTES + b'"}', id="too large"),
    ],
)
async def test_a_platform_that_talks_nonsense_is_unavailable(faas: FakeOpenFaas, body: bytes) -> None:
    """Garbage of any kind is one exception of ours, in bounded memory."""
    faas.add("f", "acme")
    faas.api.body = body
    made = backend(faas.url)
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "f")
    await made.close()


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 429, 500, 502, 503])
async def test_only_the_platforms_own_404_means_missing(faas: FakeOpenFaas, status: int) -> None:
    """OpenFaaS' own gateway makes a 404 of any error; we do not. Redirects are not followed."""
    faas.add("f", "acme")
    faas.api.status = status
    made = backend(faas.url)
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", "f")
    await made.close()


async def test_a_negative_count_is_none(faas: FakeOpenFaas) -> None:
    """A broken count does not lower what others have."""
    faas.api.body = b'{"availableReplicas": -3}'
    made = backend(faas.url)
    assert (await made.readiness("acme", "f")).ready_replicas == 0
    await made.close()


@pytest.mark.parametrize("name", ["", "a/b", "f?namespace=globex", "..", "f%2Fg", "f g"])
async def test_no_name_reaches_another_part_of_the_api(faas: FakeOpenFaas, name: str) -> None:
    """Names are checked once more where they become part of an address."""
    made = backend(faas.url)
    with pytest.raises(BackendUnavailable):
        await made.readiness("acme", name)
    with pytest.raises(BackendUnavailable):
        await made.wake(name, "f")
    assert not faas.status_calls
    assert not faas.wake_calls
    await made.close()


async def test_a_rotated_password_is_read_when_the_old_one_is_refused() -> None:
    """Without a reload; and a file that is being written does not cost the credentials that there are."""
    files = {"admin": b"admin:old"}
    async with FakeOpenFaas(credentials=("admin", "new")) as faas:
        faas.add("f", "acme", replicas=0)
        made = OpenFaasBackend(BackendSpec("faas", "openfaas", faas.url, "admin"), secrets(files), **PATIENT)
        files["admin"] = b"half"
        with pytest.raises(BackendUnavailable):
            await made.readiness("acme", "f")
        files["admin"] = b"admin:new"
        credentials = made._credentials
        assert asyncio.get_running_loop().time() - credentials._reread_at < 15, "it was read, and when was noted"
        credentials._reread_at += 600
        with pytest.raises(BackendUnavailable):  # not read again within a second
            await made.readiness("acme", "f")
        credentials._reread_at -= 600 + REREAD_PAUSE_S
        assert (await made.readiness("acme", "f")).does_exist
        await made.close()


async def test_credentials_stay_with_the_api() -> None:
    """A probe goes to a function, which is the tenant's."""
    async with FakeOpenFaas(credentials=("admin", "s3cret")) as faas:
        faas.add("f", "acme")
        faas.has_watchdogs = False
        made = backend(faas.url, ("admin", "s3cret"))
        await made.readiness("acme", "f")
        assert await made.probe("acme", "f", None)
        (asked,) = faas.requests
        assert (asked.function, asked.namespace, asked.method, asked.target) == ("f", "acme", "GET", b"/_/health")
        assert not any(name.lower() == "authorization" for name, _ in asked.fields)
        await made.close()


# -- wakes ------------------------------------------------------------------------------------------


async def test_a_wake_does_not_stop_replicas_that_start(faas: FakeOpenFaas) -> None:
    """The API sets a number; three that somebody else asked for stay three."""
    faas.add("f", "acme", replicas=0, start_s=0.1, labels={"com.openfaas.scale.min": "3"})
    made = backend(faas.url)
    await made.wake("acme", "f")
    await made.wake("acme", "f")
    await until(lambda: faas.awake["f.acme"])
    await made.wake("acme", "f")
    assert await made.readiness("acme", "f") == Readiness(3)
    assert faas.wake_calls == ["f.acme"]
    await made.close()


@pytest.mark.parametrize(
    ("label", "replicas"),
    [
        ("2", 2),
        ("0", 1),
        ("-3", 1),
        ("", 1),
        ("many", 1),
        ("1.5", 1),
        ("\u0663", 1),
        ("9" * 5000, 1),
        ("999999999", 100),
    ],
)
async def test_a_wake_asks_for_the_functions_own_minimum(faas: FakeOpenFaas, label: str, replicas: int) -> None:
    """A label is the tenant's: nonsense is none, and no label empties the cluster."""
    faas.add("f", "acme", replicas=0, start_s=0.0, labels={"com.openfaas.scale.min": label})
    made = backend(faas.url)
    await made.wake("acme", "f")
    await until(lambda: faas.awake["f.acme"])
    assert await made.readiness("acme", "f") == Readiness(replicas)
    await made.close()


@pytest.mark.parametrize("labels", ["null", "[]", '"x"', '{"com.openfaas.scale.min": 7}', '{"a": {"b": null}}'])
async def test_labels_of_no_shape_do_not_keep_a_function_from_being_ready(faas: FakeOpenFaas, labels: str) -> None:
    """They are the tenant's words; the counts are the platform's."""
    faas.api.body = b'{"availableReplicas": 2, "labels": %b}' % labels.encode()
    made = backend(faas.url)
    assert await made.readiness("acme", "f") == Readiness(2)
    faas.add("f", "acme", replicas=0)
    faas.api.body = b'{"labels": %b}' % labels.encode()
    await made.wake("acme", "f")
    await made.close()


@pytest.mark.parametrize(
    ("status", "why"),
    [(400, "one namespace"), (401, "our credentials"), (403, "our credentials"), (429, "too much"), (500, "500")],
)
async def test_a_refused_wake_says_why(faas: FakeOpenFaas, status: int, why: str) -> None:
    """In our words, for the operator's log; the platform's body may hold anything."""
    faas.add("f", "acme", replicas=0)
    faas.wake.status = status
    made = backend(faas.url)
    with pytest.raises(BackendUnavailable, match=why) as raised:
        await made.wake("acme", "f")
    assert "injected" not in str(raised.value)
    await made.close()


async def test_a_namespace_that_the_platform_does_not_serve_is_not_known(faas: FakeOpenFaas) -> None:
    """The community edition has one; a tenant of another is not told that its functions do not exist."""
    faas.add("f", "acme")
    faas.only_namespace = "openfaas-fn"
    made = backend(faas.url)
    with pytest.raises(BackendUnavailable, match="400"):
        await made.readiness("acme", "f")
    with pytest.raises(BackendUnavailable):
        await made.wake("acme", "f")
    await made.close()


# -- whose answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 302, 401, 404, 405, 500])
async def test_an_answer_of_the_function_is_one_whatever_it_says(faas: FakeOpenFaas, status: int) -> None:
    """A probe asks who is there, not how it is."""

    async def answer(_: Invocation) -> web.StreamResponse:
        return web.Response(status=status)

    faas.add("f", "acme", handler=answer)
    made = backend(faas.url)
    assert await made.probe("acme", "f", None) is True
    await made.close()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_watchdog_that_says_not_now_is_not_the_function(faas: FakeOpenFaas, status: int) -> None:
    """It listens before the function does, and says so in its health check."""

    async def answer(_: Invocation) -> web.StreamResponse:
        return web.Response(status=status, text="not yet")

    faas.add("f", "acme", handler=answer)
    faas.has_watchdogs = False
    made = backend(faas.url)
    assert await made.probe("acme", "f", None) is False
    await made.close()


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_platform_that_answers_for_a_function_has_not_reached_it(faas: FakeOpenFaas, status: int) -> None:
    """Its own words for it, over the wire: readiness was too early."""
    faas.add("f", "acme")
    faas.proxy.status = status
    made = backend(faas.url)
    assert await made.probe("acme", "f", None) is False
    await made.close()


async def test_probes_that_hang_do_not_keep_others_from_being_asked_about(faas: FakeOpenFaas) -> None:
    """A tenant with many functions that stay silent is that tenant's trouble."""
    faas.add("f", "acme")
    faas.proxy.hangs = True
    made = backend(faas.url, probe_timeout_s=2.5)
    probes = [asyncio.create_task(made.probe("acme", "f", None)) for _ in range(2 * MAX_API_CONNECTIONS)]
    await asyncio.sleep(0.1)
    assert await made.readiness("acme", "f") == Readiness(1)
    assert not any(probe.done() for probe in probes)
    assert await asyncio.gather(*probes) == [False] * len(probes)
    await made.close()


@pytest.mark.parametrize(
    ("probe", "asked"),
    [(None, ["/_/health"]), ("/ready?deep=1", ["/ready?deep=1"]), ("", [])],
    ids=["own", "set", "off"],
)
async def test_the_health_path_is_a_setting_of_the_platform(
    faas: FakeOpenFaas, probe: str | None, asked: list[str]
) -> None:
    """Without one, what every watchdog has; a function's own setting goes before."""
    faas.add("f", "acme")
    faas.has_watchdogs = False
    made = OpenFaasBackend(BackendSpec("faas", "openfaas", faas.url, None, probe=probe), **PATIENT)
    assert await made.probe("acme", "f", None)
    assert await made.probe("acme", "f", "/own")
    assert [seen.target.decode() for seen in faas.requests] == [*asked, "/own"]
    await made.close()


async def test_the_demos_functions_answer_a_probe() -> None:
    """Its platform is OpenFaaS to us; a function that sleeps there is not reached."""
    platform = FunctionsPlatform({"acme": ("survey-web",)}, user="u", password="p", start_delay_s=0, idle_s=None)
    await platform.start()
    try:
        await platform.settled()
        made = backend(platform.url, ("u", "p"))
        assert await made.probe("acme", "survey-web", None) is True
        assert await made.probe("acme", "survey-web", "/no/such/path") is True
        await platform.sleep("survey-web")
        assert await made.probe("acme", "survey-web", None) is False
        await made.close()
    finally:
        await platform.stop()


@pytest.mark.parametrize("probe", ["health", "/a b", "/../x", "/%2e"])
def test_a_health_path_that_is_none_is_refused_at_the_start(probe: str) -> None:
    """Not at the first cold start."""
    with pytest.raises(SettingsError):
        OpenFaasBackend(BackendSpec("faas", "openfaas", GATEWAY, None, probe=probe))


_MARK = (b"X-OpenFaaS-Internal", b"proxy")
_EMPTY = (b"Content-Length", b"0")
_TYPE = (b"Content-Type", b"text/plain")


@pytest.mark.parametrize(
    ("status", "fields", "is_unreached", "failure"),
    [
        (503, [_MARK], True, Reason.UPSTREAM_UNREACHABLE),
        (503, [(b"x-openfaas-internal", b" proxy "), _TYPE], True, Reason.UPSTREAM_UNREACHABLE),
        (503, [(b"X-OpenFaaS-Internal", b"other")], False, None),
        (503, [], False, None),
        (500, [_MARK], False, Reason.UPSTREAM_UNREACHABLE),
        (500, [_EMPTY], False, None),
        (502, [_EMPTY], False, Reason.UPSTREAM_UNREACHABLE),
        (502, [(b"content-length", b" 0 "), (b"X-Call-Id", b"1")], False, Reason.UPSTREAM_UNREACHABLE),
        (502, [_EMPTY, _TYPE], False, None),
        (502, [_EMPTY, _EMPTY], False, None),
        (502, [(b"Content-Length", b"2")], False, None),
        (502, [], False, None),
        (504, [_EMPTY], False, None),
        (404, [_MARK], False, None),
        (200, [_MARK], False, None),
    ],
)
def test_the_platforms_words_for_not_reached(
    status: int, fields: list[tuple[bytes, bytes]], is_unreached: bool, failure: Reason | None
) -> None:
    """
    Only after the marked 503 the function surely has not read the request, so that it may be sent again.

    The platform's own failures are named as such; what a function may have sent for reasons of its own is passed on.
    """
    assert backend().says_not_reached(status, fields) is is_unreached
    assert backend().failure_of(status, fields) is failure


@pytest.mark.parametrize("name", ["2852039166", "0x7f000001", "localhost"])
def test_a_direct_url_never_leads_to_a_machine(name: str) -> None:
    """A function whose name resolvers read as an address is not called at it."""
    made = OpenFaasBackend(BackendSpec("faas", "openfaas", "http://gateway:8080", None))
    refused = made.destination(place(name, direct_url="http://{function}:80"), None)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.FUNCTION_UNKNOWN


async def test_no_platform_counts_without_end() -> None:
    """Whatever number it says, it stays one that may be multiplied and written down."""
    async with FakeOpenFaas() as faas:
        faas.add("f", "acme", replicas=10**30)
        made = backend(faas.url)
        assert (await made.readiness("acme", "f")).ready_replicas == MAX_REPLICAS
        await made.close()
