"""
The internal listener: what was judged elsewhere is fetched by its pass, and goes the way of any other request.

Longer than other modules: each way that a request can take is taken once, and each that it can end meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from authproxy.gate.verdict import Deferred, PageCall, Passed, Refused, Undecided
from authproxy.identity.sessions.session import Tokens
from authproxy.upstream.tunnel import accept_proof
from policies.decision import Deny, Reason
from policies.request import Head
from tests.fakes.identity import a_request as a_login
from tests.fakes.internal import Door, running_door, until
from tests.fakes.raw_client import RawAnswer

REPORT = "GET /reports/es"
SUBMIT = "POST /function/survey-submit"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = (
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", KEY.decode()),
    ("Sec-WebSocket-Version", "13"),
)


@pytest.fixture(autouse=True)
def _what_is_known_to_be_awake_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than a second: a machine that stands still is not to make another verdict of it."""
    monkeypatch.setattr("policies.coldstart.FRESH_S", 60.0)


def reason(answer: RawAnswer) -> str | None:
    return answer.field("x-portero-reason")


async def awake(door: Door, function: str = "survey-report", token: str | None = None, **deployed: Any) -> str:
    """A token that is known, and a function known to be awake."""
    token = token or door.world.token()
    door.world.faas.add(function, "acme", **deployed)
    line = {"survey-report": "/reports/es"}.get(function, f"/function/{function}")
    assert (await door.world.get(line, token=token)).status == 200
    door.world.faas.requests.clear()
    return token


async def change_policy(door: Door, old: str, new: str) -> None:
    file = door.world.policies / "acme.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert await door.world.app.parts.folder.reload(), door.world.app.parts.folder.status.mistakes


# -- the way of a request ---------------------------------------------------------------------------------------------


async def test_what_may_leave_leaves_as_it_was_judged() -> None:
    """Its fields are those of the judged head; what was added on the way, the pass included, is not seen by anyone."""
    async with running_door() as door:
        token = await awake(door)
        verdict = await door.judged(REPORT + "?a=b", ("X-Own", "mine"), ("X-Portero-Pass", "client's"), token=token)
        assert type(verdict) is Passed
        async with door.client() as client:
            added = (("X-Own", "other"), ("X-Added", "1"), ("X-Portero-Subject", "root"), ("Authorization", "Bearer x"))
            sent = door.sent_on(verdict, *added)
            await client.send(sent)
            answer = await client.answer()
        value = sent.partition(b"X-Portero-Pass: ")[2].partition(b"\r\n")[0].decode()
        assert len(value) == 72
        assert answer.status == 200
        assert answer.field("x-request-id") == verdict.request_id
        seen = json.loads(answer.body)
        assert (seen["path"], seen["query"]) == ("/by-country/es", "a=b")
        fields = {name.lower(): value for name, value in seen["fields"]}
        assert fields["x-own"] == "mine"
        assert fields["x-portero-subject"] == "login|ana"
        assert not {"x-added", "x-portero-pass", "authorization"} & set(fields)
        assert value not in json.dumps(seen)
        await until(door.is_idle)
        audit = door.audit()
        assert audit.count(verdict.request_id) == 1
        assert value not in audit
        assert "x-portero-pass" not in audit.lower()


async def test_what_is_asleep_is_held_here() -> None:
    """It is woken, released and answered, as at the proxy."""
    async with running_door() as door:
        door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.3)
        verdict = await door.judged(REPORT, token=door.world.token())
        assert type(verdict) is Undecided
        assert not door.world.faas.wake_calls
        async with door.client() as client:
            await client.send(door.sent_on(verdict))
            answer = await client.answer()
        assert answer.status == 200
        assert answer.field("x-portero-cold-start") == "true"
        assert door.subjects() == ["login|ana"]
        assert len(door.world.faas.wake_calls) == 1
        await until(door.is_idle)


async def test_a_head_request_is_answered_without_a_body() -> None:
    async with running_door() as door:
        token = await awake(door)
        answer = await door.send("HEAD /function/survey-report", token=token)
        assert (answer.status, answer.body) == (200, b"")
        assert [one.method for one in door.world.faas.requests] == ["HEAD"]


@pytest.mark.parametrize("replicas", [0, 1], ids=["asleep", "awake"])
@pytest.mark.parametrize("arrives", ["length", "chunked"])
async def test_a_body_arrives_as_it_is_framed_now(replicas: int, arrives: str) -> None:
    """Kong makes a length of chunks when it buffers, and could make chunks of a body that came without a length."""
    async with running_door() as door:
        if replicas:
            await awake(door, "survey-submit")
        else:
            door.world.faas.add("survey-submit", "acme", replicas=0, start_s=0.1)
        other = ("Transfer-Encoding", "chunked") if arrives == "length" else ("Content-Length", "5")
        verdict = await door.judged(SUBMIT, other)
        assert type(verdict) is (Passed if replicas else Undecided)
        async with door.client() as client:
            if arrives == "length":
                await client.send(door.sent_on(verdict, ("Content-Length", "5")) + b"hello")
            else:
                head = door.sent_on(verdict, ("Transfer-Encoding", "chunked"))
                await client.send(head + b"5\r\nhello\r\n0\r\n\r\n")
            answer = await client.answer()
        assert answer.status == 200
        assert [one.body for one in door.world.faas.requests] == [b"hello"]


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
@pytest.mark.parametrize("judged", [(), (("Content-Length", "5"),)], ids=["none", "shorter"])
async def test_the_whole_body_that_arrives_is_sent(judged: tuple[tuple[str, str], ...], is_awake: bool) -> None:
    """Also of a request that was judged without one (HTTP/2 names no length), or with another length: never a part."""
    async with running_door() as door:
        if is_awake:
            await awake(door, "survey-web")
        else:
            door.world.faas.add("survey-web", "acme", replicas=0, start_s=0.1)
        verdict = await door.judged("POST /function/survey-web", *judged)
        body = b"0123456789" * 30_000
        async with door.client() as client:
            await client.send(door.sent_on(verdict, ("Content-Length", str(len(body)))) + body[:7])
            await asyncio.sleep(0.05)
            await client.send(body[7:])
            assert (await client.answer()).status == 200
            await client.send(door.sent_on(await door.judged("GET /function/survey-web")))
            assert (await client.answer()).status == 200
        assert [(one.method, one.body) for one in door.world.faas.requests] == [("POST", body), ("GET", b"")]


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_only_the_framing_is_that_of_the_arriving_head(is_awake: bool) -> None:
    """Wherever the request stands that was judged; nothing else of it has changed, its credentials' proof included."""
    async with running_door() as door:
        if is_awake:
            await awake(door, "survey-submit")
        else:
            door.world.faas.add("survey-submit", "acme", replicas=0)
        verdict = await door.judged(SUBMIT + "?a=b", ("Transfer-Encoding", "chunked"), ("Origin", "https://a.test"))
        was = verdict.request
        fields = (("Content-Length", "7"), ("Connection", "close"), ("Expect", "100-continue"), ("Origin", "null"))
        fetched = fetch(door, door.sent_on(verdict, *fields))
        assert fetched is verdict
        assert verdict.request is verdict.case.request
        assert is_awake or verdict.need.request is verdict.request
        assert verdict.request == was._replace(
            content_length=7, is_chunked=False, expects_continue=True, keeps_alive=False
        )
        refused = door.passes.refuse(verdict, Deny(Reason.CLIENT_GONE))
        assert refused.request_id == verdict.case.request_id
        verdict = await door.judged(SUBMIT, ("Transfer-Encoding", "chunked"))
        too_large = fetch(door, door.sent_on(verdict, ("Content-Length", "1025")))
        assert isinstance(too_large, Refused)
        assert too_large.problem.reason is Reason.BODY_TOO_LARGE
        assert door.is_idle()


def fetch(door: Door, sent: bytes) -> Any:
    """What the judge says to a head, without a socket."""
    first, *lines = sent.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = [line.partition(": ") for line in lines]
    fields = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs)
    return door.judge.decide_now(Head(method, target.encode(), fields, (1, 1), "127.0.0.1", "http"))


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_a_body_that_turns_out_too_large_is_refused_before_it_is_read(is_awake: bool) -> None:
    """Its length was not known when it was judged. Nothing is woken for it and everything is given back."""
    async with running_door() as door:
        if is_awake:
            await awake(door, "survey-submit")
        else:
            door.world.faas.add("survey-submit", "acme", replicas=0)
        verdict = await door.judged(SUBMIT, ("Transfer-Encoding", "chunked"))
        assert type(verdict) is (Passed if is_awake else Undecided)
        async with door.client() as client:
            await client.send(door.sent_on(verdict, ("Content-Length", "1025"), ("Expect", "100-continue")))
            status, fields = await client.head()
        assert (status, dict(fields)["x-portero-reason"]) == (413, "body-too-large")
        assert dict(fields)["x-request-id"] == verdict.case.request_id
        assert not door.world.faas.requests
        assert not door.world.faas.wake_calls
        await until(door.is_idle)
        assert door.audit().count(verdict.case.request_id) == 1


async def test_a_chunked_body_has_the_same_bound() -> None:
    async with running_door() as door:
        await awake(door, "survey-submit")
        verdict = await door.judged(SUBMIT, ("Transfer-Encoding", "chunked"))
        async with door.client() as client:
            head = door.sent_on(verdict, ("Transfer-Encoding", "chunked"))
            await client.send(head + b"401\r\n" + b"x" * 1025 + b"\r\n0\r\n\r\n")
            assert reason(await client.answer()) == "body-too-large"
        assert not [one for one in door.world.faas.requests if one.body]
        await until(door.is_idle)


async def test_who_asks_whether_to_send_is_told() -> None:
    """``Expect: 100-continue`` counts as it arrives, whatever the judged head said."""
    async with running_door() as door:
        await awake(door, "survey-submit")
        verdict = await door.judged(SUBMIT, ("Content-Length", "5"))
        async with door.client() as client:
            await client.send(door.sent_on(verdict, ("Content-Length", "5"), ("Expect", "100-continue")))
            assert (await client.head())[0] == 100
            await client.send(b"hello")
            assert (await client.answer()).status == 200
        assert [one.body for one in door.world.faas.requests] == [b"hello"]


async def test_one_connection_carries_requests_of_many_callers() -> None:
    """Kong keeps its connections: each request is whoever's its pass is, and the same bytes again are nobody's."""
    async with running_door() as door:
        ana = await awake(door)
        eve = door.world.token("eve")
        assert (await door.world.get("/reports/es", token=eve)).status == 200
        door.world.faas.requests.clear()
        async with door.client() as client:
            sent = b""
            for caller in (ana, eve, ana, ana, eve):
                sent = door.sent_on(await door.judged(REPORT, token=caller))
                await client.send(sent)
                assert (await client.answer()).status == 200
            await client.send(sent)
            assert reason(await client.answer()) == "pass-invalid"
            await client.send(door.sent_on(await door.judged(REPORT, token=eve)))
            assert (await client.answer()).status == 200
        assert door.subjects() == [f"login|{name}" for name in ("ana", "eve", "ana", "ana", "eve", "eve")]


async def test_pipelined_requests_keep_their_passes_apart() -> None:
    async with running_door() as door:
        ana = await awake(door)
        eve = door.world.token("eve")
        assert (await door.world.get("/reports/es", token=eve)).status == 200
        door.world.faas.requests.clear()
        first, second = [door.sent_on(await door.judged(REPORT, token=token)) for token in (ana, eve)]
        async with door.client() as client:
            await client.send(first + second + first)
            answers = [await client.answer() for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 403]
        assert door.subjects() == ["login|ana", "login|eve"]


# -- websockets, own pages, later answers -----------------------------------------------------------------------------


async def websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_proof(KEY)
    )
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def test_a_websocket_is_tunnelled() -> None:
    """The key of the judged head is the one that the function proves to have read."""
    async with running_door() as door:
        token = await awake(door)
        server = await asyncio.start_server(websocket, "127.0.0.1", 0)
        async with server:
            verdict = await door.judged("GET /function/survey-report/ws", *UPGRADE, token=token)
            assert type(verdict) is Passed
            address = verdict.destination.address._replace(port=server.sockets[0].getsockname()[1])
            verdict.destination = verdict.destination._replace(address=address)
            async with door.client() as client:
                await client.send(door.sent_on(verdict, *UPGRADE))
                assert (await client.head())[0] == 101
                await client.send(b"frames")
                assert await client.reader.readexactly(6) == b"frames"
            await until(door.is_idle)


@pytest.mark.parametrize("judged", [True, False])
async def test_what_was_judged_as_a_websocket_arrives_as_one(judged: bool) -> None:
    """An upgrade that nobody judged as such, or the other way round, is no request that the pass was given for."""
    async with running_door() as door:
        token = await awake(door)
        verdict = await door.judged("GET /function/survey-report/ws", *(UPGRADE if judged else ()), token=token)
        async with door.client() as client:
            await client.send(door.sent_on(verdict, *(() if judged else UPGRADE)))
            status, fields = await client.head()
        assert (status, dict(fields)["x-portero-reason"]) == (403, "pass-invalid")
        assert not door.world.faas.requests
        await until(door.is_idle)


async def test_own_pages_are_answered_here() -> None:
    async with running_door() as door:
        verdict = await door.judged("GET /.portero/whoami", token=door.world.token())
        assert type(verdict) is PageCall
        async with door.client() as client:
            await client.send(door.sent_on(verdict))
            answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["subject"]) == (200, "login|ana")


async def test_what_is_answered_later_is_accepted_here() -> None:
    """With its body, which only this listener gets to see."""
    async with running_door() as door:
        await change_policy(door, "max_body: 1KiB}", "max_body: 1KiB, async: {allow: true}}")
        door.world.faas.add("survey-submit", "acme")
        verdict = await door.judged(SUBMIT, ("Prefer", "respond-async"), ("Content-Length", "5"))
        assert type(verdict) is Deferred
        answer = await door.send(SUBMIT, ("Prefer", "respond-async"), body=b"later")
        assert answer.status == 202
        await until(lambda: door.world.faas.requests)
        assert door.world.faas.requests[0].body == b"later"
        door.passes.refuse(verdict, Deny(Reason.CLIENT_GONE))


# -- what ends meanwhile ----------------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_ends_the_hold() -> None:
    """Kong closes its connection when its client has gone: the place is free at once, the audit says why."""
    async with running_door() as door:
        door.world.faas.add("survey-report", "acme", replicas=0, start_s=60)
        verdict = await door.judged(REPORT, token=door.world.token())
        async with door.client() as client:
            await client.send(door.sent_on(verdict))
            await until(lambda: door.world.app.parts.activator.held)
        await until(door.is_idle)
        [line] = [line for line in door.audit().splitlines() if verdict.case.request_id in line]
        assert json.loads(line)["reason"] == "client-gone"


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_what_nobody_fetches_gives_everything_back(is_awake: bool) -> None:
    """Its place in flight, its ``concurrent`` limit and its entry among the living, within the pass's time."""
    async with running_door(ttl_s=0.1) as door:
        token = await awake(door, replicas=1) if is_awake else door.world.token()
        if not is_awake:
            door.world.faas.add("survey-report", "acme", replicas=0)
        verdict = await door.judged(REPORT, token=token)
        sent = door.sent_on(verdict)
        assert not door.is_idle()
        await until(door.is_idle)
        async with door.client() as client:
            await client.send(sent)
            assert reason(await client.answer()) == "pass-invalid"
        assert not door.world.faas.requests
        [line] = [line for line in door.audit().splitlines() if verdict.case.request_id in line]
        assert (json.loads(line)["reason"], json.loads(line)["status"]) == ("client-gone", 499)


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_a_policy_that_ends_meanwhile_ends_the_request(is_awake: bool) -> None:
    """A pass is no way past a rule that was taken away after it was issued."""
    async with running_door(ttl_s=60.0) as door:
        token = await awake(door) if is_awake else door.world.token()
        if not is_awake:
            door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.1)
        verdict = await door.judged(REPORT, token=token)
        assert type(verdict) is (Passed if is_awake else Undecided)
        sent = door.sent_on(verdict)
        await change_policy(door, "groups: [analysts]}", "groups: [others]}")
        async with door.client() as client:
            await client.send(sent)
            answer = await client.answer()
        assert reason(answer) == ("policy-unavailable" if is_awake else "no-rule-allows")
        assert answer.field("x-request-id") == verdict.case.request_id
        assert not door.world.faas.requests
        await until(door.is_idle)


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_a_policy_that_still_allows_it_does_not(is_awake: bool) -> None:
    async with running_door(ttl_s=60.0) as door:
        token = await awake(door) if is_awake else door.world.token()
        if not is_awake:
            door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.1)
        sent = door.sent_on(await door.judged(REPORT, token=token))
        await change_policy(door, "groups: [analysts]}", "groups: [analysts, others]}")
        async with door.client() as client:
            await client.send(sent)
            assert (await client.answer()).status == 200


class Session:
    """Ana's session of acme in a browser."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._sessions = door.world.app.parts.identity.sessions
        self._session: Any = None
        self.fields: tuple[tuple[str, str], ...] = ()

    @property
    def _tenant(self) -> Any:
        return self._door.world.app.parts.folder.active.tenants["acme"]

    async def begin(self) -> Session:
        gate: Any = self._door.gate
        provider, now = self._tenant.providers[0], gate._clock()
        claims = {"iss": provider.issuer, "sub": "ana", "groups": ["analysts"], "organization": ["acme"]}
        tokens = Tokens(provider.issuer, "ana", None, claims, None, None, None, now + 600, now)
        self._session, values = await self._sessions.begin(self._tenant, provider, tokens, a_login(), now)
        self.fields = (("Cookie", "; ".join(value.partition(";")[0] for value in values)),)
        return self

    async def end(self) -> None:
        gate: Any = self._door.gate
        await self._sessions.end(self._tenant, self._session, a_login(), gate._clock())


@pytest.mark.parametrize("is_awake", [True, False], ids=["awake", "asleep"])
async def test_a_logout_meanwhile_ends_the_request(is_awake: bool) -> None:
    """At once, whether the registry of what runs has come round to it or not."""
    async with running_door() as door:
        if is_awake:
            await awake(door)
        else:
            door.world.faas.add("survey-report", "acme", replicas=0, start_s=0.1)
        session = await Session(door).begin()
        verdict = await door.judged(REPORT, *session.fields)
        assert type(verdict) is (Passed if is_awake else Undecided)
        sent = door.sent_on(verdict)
        await session.end()
        async with door.client() as client:
            await client.send(sent)
            answer = await client.answer()
        assert (answer.status, reason(answer)) == (401, "session-expired")
        assert not door.world.faas.requests
        await until(door.is_idle)


async def test_a_public_function_is_not_told_of_who_was_logged_out() -> None:
    """Nobody may be served as the person that he was when the pass was issued."""
    async with running_door() as door:
        door.world.faas.add("survey-web", "acme", replicas=0, start_s=0.1)
        session = await Session(door).begin()
        sent = door.sent_on(await door.judged("GET /function/survey-web", *session.fields))
        await session.end()
        async with door.client() as client:
            await client.send(sent)
            assert (await client.answer()).status == 200
        assert door.subjects() == [None]


async def test_what_was_judged_before_the_drain_may_finish() -> None:
    """As what runs; what would have to be held for its function is told that there is no time for that."""
    async with running_door() as door:
        token = await awake(door)
        door.world.faas.add("geo-map", "acme", replicas=0)
        awake_one = door.sent_on(await door.judged(REPORT, token=token))
        door.world.faas.add("survey-web", "acme", replicas=0)
        asleep_one = door.sent_on(await door.judged("GET /function/survey-web"))
        door.gate.drain()
        door.world.app.parts.activator.drain()
        async with door.client() as client:
            await client.send(awake_one)
            assert (await client.answer()).status == 200
            await client.send(asleep_one)
            assert reason(await client.answer()) == "draining"
        await until(door.is_idle)


async def test_what_waits_when_the_process_stops_is_told_so() -> None:
    async with running_door() as door:
        token = await awake(door)
        sent = [door.sent_on(await door.judged(REPORT, token=token)) for _ in range(2)]
        await door.passes.close()
        assert not len(door.world.app.parts.live)
        async with door.client() as client:
            for one in sent:
                await client.send(one)
                answer = await client.answer()
                assert (answer.status, reason(answer), answer.field("retry-after")) == (503, "draining", "1")
            await client.send(sent[0])
            assert reason(await client.answer()) == "pass-invalid"
        assert not door.world.faas.requests


async def test_a_defect_on_the_way_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of ours is a refusal, and takes no place with it."""
    async with running_door() as door:
        token = await awake(door)
        sent = door.sent_on(await door.judged(REPORT, token=token))

        def breaks(*_arguments: object) -> None:
            raise ValueError("secret")

        monkeypatch.setattr("authproxy.edges.internal._reframe", breaks)
        async with door.client() as client:
            await client.send(sent)
            answer = await client.answer()
        assert (answer.status, reason(answer)) == (500, "internal-error")
        assert b"secret" not in answer.body
        await until(door.is_idle)
        assert not door.world.faas.requests


# -- heads ----------------------------------------------------------------------------------------------------------


async def test_a_full_head_may_have_grown_on_the_way() -> None:
    """Kong adds its own fields to a head that had as many as may be."""
    async with running_door() as door:
        token = await awake(door)
        many = tuple((f"X-Own-{number}", "x" * 200) for number in range(100))
        verdict = await door.judged(REPORT, *many, token=token)
        async with door.client() as client:
            added = tuple((f"X-Added-{number}", "x" * 100) for number in range(60))
            await client.send(door.sent_on(verdict, *many, *added))
            assert (await client.answer()).status == 200


async def test_a_head_that_cannot_be_read_uses_no_pass_up() -> None:
    """What is doubtful about where the request ends is refused before anything is looked up."""
    async with running_door() as door:
        token = await awake(door)
        sent = door.sent_on(await door.judged(REPORT, token=token))
        async with door.client() as client:
            await client.send(sent.replace(b"\r\n\r\n", b"\r\nExpect: 200-maybe\r\n\r\n"))
            answer = await client.answer()
            assert (reason(answer), answer.field("connection")) == ("bad-request", "close")
        assert len(door.passes) == 1
        async with door.client() as client:
            await client.send(sent)
            assert (await client.answer()).status == 200
