"""riff 0.0.x as a backend, against a gateway that looks at nothing of a request but its body and two fields."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from authproxy.backends import Backends
from authproxy.backends.backend import Fields, Readiness, no_secrets
from authproxy.backends.riff import UP_S, RiffBackend
from authproxy.upstream.departure import Address, Destination
from policies.decision import Deny, Reason
from policies.errors import BackendUnavailable, SettingsError
from policies.request import AccessRequest, Head, TrustedPeers, read_head
from policies.tables import BackendSpec, Place
from tests.contracts.backend import BackendContract, World
from tests.fakes.places import place, tenant
from tests.fakes.riff import FakeRiff, Message, Reply

GATEWAY = "http://gateway.riff-system"


def backend(url: str = GATEWAY, **changed: Any) -> RiffBackend:
    return RiffBackend(BackendSpec("riff", "riff", url, None), no_secrets, **changed)


def at(function: str = "square", segments: tuple[str, ...] = (), *, namespace: str = "default", **spec: Any) -> Place:
    return place(function, segments, of=tenant("acme", namespace=namespace), **spec)


def request(method: str = "POST") -> AccessRequest:
    fields = [(b"Host", b"acme.localhost"), (b"Content-Type", b"text/plain"), (b"Content-Length", b"1")]
    read = read_head(Head(method, b"/", fields, (1, 1), "127.0.0.1", "http"), TrustedPeers(()))
    assert isinstance(read, AccessRequest)
    return read


async def posted(riff: FakeRiff, where: Destination | Deny, body: bytes = b"3") -> tuple[int, Fields, bytes]:
    """What becomes of a request that leaves as the backend says."""
    assert isinstance(where, Destination)
    headers = {"Content-Type": "text/plain", "X-Portero-Subject": "alice"}
    url = riff.url + where.target.decode()
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status, list(answer.raw_headers), await answer.read()


@pytest.fixture
async def riff() -> AsyncIterator[FakeRiff]:
    async with FakeRiff(topics={"square": lambda message: Reply(str(int(message.body) ** 2).encode())}) as fake:
        yield fake


class TestRiff(BackendContract):
    """Nothing is known of functions but that the gateway is up."""

    @pytest.fixture
    async def world(self, riff: FakeRiff) -> AsyncIterator[World]:
        made, hurried = backend(riff.url, timeout_s=20), backend(riff.url, timeout_s=0.3)

        def break_api() -> None:
            riff.failure.status = 500

        def hang_api() -> None:
            riff.failure.hangs = True

        def talk_nonsense() -> None:
            riff.failure.body = b'{"status": {"UP": true}}'

        yield World(
            backend=made, hurried=hurried, namespace="default", awake="square", place=at,
            stop=riff.stop, break_api=break_api, hang_api=hang_api, talk_nonsense=talk_nonsense, mute=lambda: None,
        )  # fmt: skip
        await made.close()
        await hurried.close()

    async def test_a_function_that_is_silent_is_not_reached(self, world: World) -> None:
        """Nobody can tell: a probe would be work for the function, so the gateway is asked instead."""
        assert await world.backend.probe(world.namespace, world.awake, "/") is True

    def test_a_destination_says_path_and_query(self, world: World) -> None:
        """They cannot be said, and nothing leaves that has one."""
        for segments, query in (((), "a=1"), (("x",), None), (("x",), "a=1")):
            refused = world.backend.destination(world.place(world.awake, segments), query, request())
            assert isinstance(refused, Deny)
            assert refused.reason is Reason.BAD_REQUEST

    def test_an_answer_of_a_function_was_reached(self, world: World) -> None:
        """A function's answer is 200, or 500 for an error; there are no others."""
        fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"X-Other", b"proxy")]
        for status in (200, 500):
            assert not world.backend.says_not_reached(status, fields)
            assert world.backend.failure_of(status, fields) is None


# -- what can be said -----------------------------------------------------------------------------------------


async def test_a_request_gets_the_functions_reply(riff: FakeRiff) -> None:
    """By the topic of its name; nothing of the caller arrives but body, Content-Type and Accept."""
    where = backend().destination(at(), None, request())
    assert where == Destination(Address("gateway.riff-system", 80), b"/requests/square", b"gateway.riff-system")
    status, fields, body = await posted(riff, where)
    assert (status, body) == (200, b"9")
    assert backend().failure_of(status, fields) is None
    assert riff.published == [Message("square", {"Content-Type": "text/plain", "Accept": "*/*"}, b"3")]


async def test_a_message_is_taken_and_not_answered(riff: FakeRiff) -> None:
    """Where policy says ``message``."""
    where = backend().destination(at(is_message=True), None, request())
    assert isinstance(where, Destination)
    assert where.target == b"/messages/square"
    assert (await posted(riff, where))[2] == b"Message published to topic: square\n"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_can_be_said(method: str) -> None:
    """The gateway would make a request for work of any method: a GET would do what policy allowed for reading."""
    refused = backend().destination(at(), None, request(method))
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.allowed_methods) == (Reason.METHOD_NOT_ALLOWED, ("POST",))


def test_a_method_that_is_not_known_is_not_said() -> None:
    """Whoever asks without the head."""
    assert isinstance(backend().destination(at(), None), Deny)


@pytest.mark.parametrize(
    ("segments", "has_slash", "query"),
    [(("a",), False, None), (("a",), True, None), ((), False, ""), ((), False, "x=1")],
    ids=["a path", "a path with a slash", "an empty query", "a query"],
)
def test_path_and_query_cannot_be_said(segments: tuple[str, ...], has_slash: bool, query: str | None) -> None:
    """A rule for a path would be judged, and the function would never hear of it."""
    refused = backend().destination(at(segments=segments, has_trailing_slash=has_slash), query, request())
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "function",
    [
        "other/topic",
        "",
        "..",
        "a..b",
        "A",
        "square ",
        "squ%61re",
        "x?y",
        "x#y",
        "s\r\nX: y",
        "replies\n",
        "é",
        "x" * 300,
    ],
)
async def test_a_name_that_would_be_another_topic_is_no_function(function: str) -> None:
    """The gateway decodes a path and takes all the rest of it for the topic."""
    assert backend().destination(at(function), None, request()) == Deny(Reason.FUNCTION_UNKNOWN)
    assert await backend().readiness("default", function) == Readiness(0, does_exist=False)


@pytest.mark.parametrize("namespace", ["acme", "globex", "Default"])
async def test_a_namespace_does_not_seem_to_separate(namespace: str) -> None:
    """The gateway finds topics by bare name: a tenant of another namespace would reach everybody's functions."""
    refused = backend().destination(at(namespace=namespace), None, request())
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.FUNCTION_UNKNOWN
    assert await backend().readiness(namespace, "square") == Readiness(0, does_exist=False)
    with pytest.raises(BackendUnavailable):
        await backend().wake(namespace, "square")


# -- whose answer is it? -----------------------------------------------------------------------------------------


async def failure(riff: FakeRiff, function: str = "square") -> tuple[int, Reason | None]:
    status, fields, _ = await posted(riff, backend().destination(at(function), None, request()))
    assert not backend().says_not_reached(status, fields)
    return status, backend().failure_of(status, fields)


async def test_a_topic_that_is_not_there_is_an_unknown_function(riff: FakeRiff) -> None:
    """The gateway's own 404."""
    assert await failure(riff, "missing") == (404, Reason.FUNCTION_UNKNOWN)


@pytest.mark.parametrize("status", [504, 404], ids=["now", "early versions"])
async def test_a_function_that_does_not_reply_is_a_timeout(riff: FakeRiff, status: int) -> None:
    """Early gateways said 404 without a text: that is no unknown function."""
    riff.topics["slow"], riff.timeout_s, riff.answers_timeouts_with = None, 0.01, status
    assert await failure(riff, "slow") == (status, Reason.UPSTREAM_TIMEOUT)


async def test_a_gateway_that_cannot_publish_is_not_the_function(riff: FakeRiff) -> None:
    """Nor is it certain that nothing was published: never tried again."""
    riff.is_kafka_down = True
    assert await failure(riff) == (500, Reason.UPSTREAM_UNREACHABLE)


async def test_an_error_of_the_function_is_the_functions(riff: FakeRiff) -> None:
    """500 by the header ``error`` of its reply, passed on with its body."""
    riff.topics["bad"] = lambda _: Reply(b"no number", error="error-client-content-type-unsupported")
    assert await failure(riff, "bad") == (500, None)


# -- the gateway -----------------------------------------------------------------------------------------


async def test_the_gateways_health_is_asked_once_for_all_functions() -> None:
    """And once a second; its trouble is heard of when that is over."""
    async with FakeRiff() as riff:
        now = [0.0]
        made = backend(riff.url, clock=lambda: now[0])
        assert await made.readiness("default", "a") == await made.readiness("default", "b") == Readiness(1)
        riff.failure.status = 503
        assert await made.readiness("default", "a") == Readiness(1)
        now[0] = UP_S
        for _ in range(2):
            with pytest.raises(BackendUnavailable):
                await made.readiness("default", "a")
        await made.close()


@pytest.mark.parametrize(
    "spec",
    [
        {"url": "gateway"},
        {"url": "http://{function}.riff"},
        {"credentials": "x"},
        {"domain": "fn.example"},
        {"cluster": "in-cluster"},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_settings_that_riff_has_not_are_refused(spec: dict[str, Any]) -> None:
    """They would seem to do something."""
    with pytest.raises(SettingsError):
        RiffBackend(
            BackendSpec(**({"name": "r", "kind": "riff", "url": GATEWAY, "credentials": None} | spec)), no_secrets
        )


async def test_all_backends_know_the_kind() -> None:
    """By its name in platform.yaml."""
    all_of_them = Backends(no_secrets)
    all_of_them.replace({"r": BackendSpec("r", "riff", GATEWAY, None)})
    assert isinstance(all_of_them["r"], RiffBackend)
    await all_of_them.close()
