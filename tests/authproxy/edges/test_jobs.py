"""Requests accepted now and answered later: what is promised, and that each ends exactly once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from authproxy.edges import job as job_module
from authproxy.edges import jobs as jobs_module
from authproxy.edges.job import run_job, with_call_id
from authproxy.edges.jobs import Jobs
from authproxy.gate.live import GOING_AWAY, POLICY_VIOLATION
from authproxy.gate.verdict import Deferred, PageAnswer, Refused
from authproxy.results.memory import MemoryResults
from authproxy.results.result import Result
from authproxy.upstream.exchange import BodyMalformed, BodyStalled, ClientGone
from authproxy.upstream.pool import Pool
from policies.decision import Deny, Reason
from policies.errors import StoreUnavailable
from tests.fakes.jobs import Account, Deliveries, JobGate, Told, Uploading, a_deferred, until
from tests.fakes.upstream import Peer, Script, ScriptedUpstream, answer_ok

ASYNC = (b"Prefer", b"respond-async")
HOOK = (b"X-Callback-Url", b"https://hooks.example/x?token=secret")
HOSTS = frozenset({"hooks.example"})


@dataclass
class Bench:
    """Jobs over real results and a real pool, between a gate, an upstream and a client that tests hold."""

    jobs: Jobs
    gate: JobGate
    results: MemoryResults
    upstream: ScriptedUpstream
    sent: Deliveries = field(default_factory=Deliveries)
    told: Told = field(default_factory=Told)
    accounts: list[Account] = field(default_factory=list)

    async def send(self, deferred: Deferred, client: Uploading | None = None) -> PageAnswer | Refused:
        """As an edge does it: a body that was not handed over ends with its exchange."""
        client = client or Uploading()
        try:
            return await self.jobs.accept(deferred, client)
        finally:
            if client.body is not None and not client.is_handed_over:
                client.body.close()

    async def accept(self, deferred: Deferred, *pieces: bytes | Exception) -> PageAnswer:
        answer = await self.send(deferred, Uploading(*pieces))
        assert isinstance(answer, PageAnswer), answer
        return answer

    async def refused(self, deferred: Deferred, *pieces: bytes | Exception) -> Deny:
        """The refusal of a request that is not accepted; nothing is left of it."""
        answer = await self.send(deferred, Uploading(*pieces))
        assert isinstance(answer, Refused)
        assert not self.gate.accepted
        await until(lambda: not self.results.sizes().pending)
        refusal = self.gate.refused[-1]
        assert isinstance(refusal, Deny)
        return refusal

    async def over(self) -> None:
        await until(lambda: not len(self.jobs))

    async def result(self, answer: PageAnswer, tenant: str = "acme") -> Result:
        await self.over()
        found = await self.results.read(tenant, id_of(answer))
        assert found is not None
        assert found[1] is not None
        return found[1]


def id_of(answer: PageAnswer) -> str:
    return dict(answer.fields)["Location"].removeprefix("/.portero/result/")


@pytest.fixture
def script() -> Script:
    return answer_ok


@pytest.fixture
async def bench(script: Script) -> AsyncIterator[Bench]:
    async with ScriptedUpstream(script) as upstream:
        pool = Pool()
        gate, results, sent, told = JobGate(upstream.address), MemoryResults(), Deliveries(), Told()
        accounts: list[Account] = []

        def open_account(*_of: object) -> Account:
            accounts.append(Account())
            return accounts[-1]

        jobs = Jobs(gate, pool, results, sent, told.count, open_account=open_account)
        yield Bench(jobs, gate, results, upstream, sent, told, accounts)
        await jobs.stop(0)
        await pool.close()
        await results.close()
        assert not len(jobs)
        assert not jobs._tasks
        assert jobs._answers.total == 0
        assert all(account.closed for account in accounts)
        assert not len(gate.live)
        assert len(gate.finished) == len(gate.passed)
        assert told["accepted"] == sum(told[outcome] for outcome in ("done", "failed", "lost", "deleted"))


def hold(gate: JobGate) -> asyncio.Event:
    """Requests wait for their function until the event is set."""
    event = asyncio.Event()

    async def wait() -> None:
        await event.wait()

    gate.hold = wait
    return event


# -- accepting --------------------------------------------------------------------------------------------------------


async def test_a_202_says_where_for_how_long_and_what_would_lose_it(bench: Bench) -> None:
    """RFC 9110 section 15.3.3, RFC 7240 section 3."""
    answer = await bench.accept(a_deferred(ASYNC, keep_s=600), b"body")
    fields = dict(answer.fields)
    assert answer.status == 202
    assert re.fullmatch(r"/\.portero/result/[A-Za-z0-9_-]{22}", fields["Location"])
    assert fields["Preference-Applied"] == "respond-async"
    assert fields["Cache-Control"] == "no-store"
    assert int(fields["Retry-After"]) >= 1
    assert "X-Call-Id" not in fields
    said = json.loads(answer.body)
    assert said["result"] == fields["Location"]
    assert (said["expires_in"], said["kept_in"], said["survives_restart"]) == (600, "memory", False)
    assert "restart" in said["detail"]


async def test_a_browser_is_led_to_its_result(bench: Bench) -> None:
    """What overflows is answered later for people, too: 202, and a page that goes on to the result by itself."""
    navigation = ((b"Accept", b"text/html"), (b"Sec-Fetch-Mode", b"navigate"))
    spared = Deny(Reason.QUEUE_FULL, retry_after_s=7)
    answer = await bench.accept(a_deferred(*navigation, method="GET", instead_of=spared))
    fields = dict(answer.fields)
    assert (answer.status, fields["Retry-After"], fields["Cache-Control"]) == (202, "7", "no-store")
    assert fields["Content-Type"] == "text/html; charset=utf-8"
    place = fields["Location"]
    text = answer.body.decode()
    assert f'<meta http-equiv="refresh" content="7; url={place}">' in text
    assert f'href="{place}"' in text
    assert "A restart of this server loses the result." in text


async def test_what_was_not_preferred_is_not_said_to_be(bench: Bench) -> None:
    """Overflow: the caller did not ask; the refusal that it was spared says when to look."""
    spared = Deny(Reason.QUEUE_FULL, retry_after_s=7)
    fields = dict((await bench.accept(a_deferred(instead_of=spared))).fields)
    assert "Preference-Applied" not in fields
    assert fields["Retry-After"] == "7"


async def test_a_202_says_when_the_function_is_likely_to_serve(bench: Bench) -> None:
    """From its measured cold starts, and not before those who wait already."""
    bench.jobs._retry_after_s = lambda _place: 5
    for spared_s, expected in ((None, "5"), (9, "9"), (1, "5")):
        spared = Deny(Reason.QUEUE_FULL, retry_after_s=spared_s)
        assert dict((await bench.accept(a_deferred(instead_of=spared))).fields)["Retry-After"] == expected


async def test_who_was_spared_a_refusal_is_not_refused_for_its_callback(bench: Bench) -> None:
    """It asked to be answered at once; a callback that policy takes is made all the same."""
    spared = Deny(Reason.QUEUE_FULL)
    await bench.accept(a_deferred((b"X-Callback-Url", b"https://evil.example/"), instead_of=spared))
    await bench.over()
    assert not bench.sent
    await bench.accept(a_deferred(HOOK, instead_of=spared, callback_hosts=HOSTS))
    await bench.over()
    assert len(bench.sent) == 1


async def test_openfaas_callers_find_their_call_id(bench: Bench) -> None:
    """In the answer, at the function, and never a caller's own beside it."""
    deferred = a_deferred((b"X-Call-Id", b"mine"), (b"x_call_id", b"mine too"), is_async_function=True)
    answer = await bench.accept(deferred, b"body")
    call_id = dict(answer.fields)["X-Call-Id"]
    assert call_id == id_of(answer)
    await bench.over()
    head = bench.upstream.heads[0].lower()
    assert head.count(b"call-id") == head.count(b"call") == 1
    assert b"x-call-id: " + call_id.lower().encode() in head


async def test_the_function_gets_what_was_sent(bench: Bench) -> None:
    """The body of whatever length, though nobody is connected any more."""
    for size in (0, 5, 300_000):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        length = (b"Content-Length", b"%d" % size)
        answer = await bench.accept(a_deferred(ASYNC, length), *([body[:100], body[100:]] if size else []))
        assert (await bench.result(answer)).body == b"ok"
    assert [b"content-length: %d" % size in bench.upstream.heads[n].lower() for n, size in ((1, 5), (2, 300_000))] == [
        True,
        True,
    ]
    assert bench.told == {"accepted": 3, "done": 3}


@pytest.mark.parametrize(
    ("deferred", "pieces", "reason"),
    [
        (lambda: a_deferred(HOOK), (), Reason.BAD_REQUEST),
        (
            lambda: a_deferred((b"X-Callback-Url", b"http://hooks.example/"), callback_hosts=HOSTS),
            (),
            Reason.BAD_REQUEST,
        ),
        (
            lambda: a_deferred((b"X-Callback-Url", b"https://u@hooks.example/"), callback_hosts=HOSTS),
            (),
            Reason.BAD_REQUEST,
        ),
        (lambda: a_deferred((b"Content-Length", b"11"), max_body_bytes=10), (b"x",), Reason.BODY_TOO_LARGE),
        (
            lambda: a_deferred((b"Transfer-Encoding", b"chunked"), max_body_bytes=10),
            (b"x" * 11,),
            Reason.BODY_TOO_LARGE,
        ),
        (a_deferred, (b"x", BodyMalformed()), Reason.BODY_MALFORMED),
        (a_deferred, (b"x", BodyStalled()), Reason.REQUEST_TIMEOUT),
        (lambda: a_deferred(max_async=0), (), Reason.QUEUE_FULL),
        (lambda: a_deferred(results=0), (), Reason.QUEUE_FULL),
    ],
    ids=["unlisted", "http", "userinfo", "declared", "chunked", "malformed", "stalled", "max_async", "results"],
)
async def test_what_cannot_be_promised_is_refused_at_once(
    bench: Bench, deferred: Any, pieces: tuple[bytes | Exception, ...], reason: Reason
) -> None:
    """Nothing reaches the function, nothing is left behind."""
    assert (await bench.refused(deferred(), *pieces)).reason is reason
    assert not bench.gate.passed
    assert not bench.told


async def test_a_body_too_long_is_not_asked_for(bench: Bench) -> None:
    """``Expect: 100-continue``: the refusal comes before the body, and before a place is taken."""
    client = Uploading(b"x" * 11)
    await bench.send(a_deferred((b"Content-Length", b"11"), max_body_bytes=10), client)
    assert client.continues == 0
    assert client.body is None


async def test_a_body_without_room_is_refused(bench: Bench) -> None:
    """It counts as any held body does."""
    bench.jobs._open_account = lambda *_of: Account(10)
    assert (await bench.refused(a_deferred(), b"x" * 11)).reason is Reason.QUEUE_FULL


async def test_a_client_that_leaves_while_sending_leaves_nothing(bench: Bench) -> None:
    """Its place is free at once."""
    with pytest.raises(ClientGone):
        await bench.send(a_deferred(), Uploading(b"x", ClientGone()))
    client = Uploading(b"x")
    client.before = asyncio.Event().wait
    sending = asyncio.create_task(bench.send(a_deferred(), client))
    await until(lambda: bench.results.sizes().pending == 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await until(lambda: not bench.results.sizes().pending)
    assert not bench.gate.accepted
    assert not len(bench.jobs)


async def test_a_subject_has_so_many_under_way(bench: Bench) -> None:
    """max_async counts those under way, of a subject or an address; others are not touched."""
    event = hold(bench.gate)
    for _ in range(2):
        await bench.accept(a_deferred(max_async=2))
    answer = await bench.send(a_deferred(max_async=2))
    assert isinstance(answer, Refused)
    assert answer.problem.status == 429
    await bench.accept(a_deferred(max_async=2, is_anonymous=True))
    await bench.accept(a_deferred(max_async=1, is_anonymous=True, peer="198.51.100.8"))
    event.set()
    await bench.over()
    await bench.accept(a_deferred(max_async=2))


async def test_jobs_are_bounded_in_all(bench: Bench) -> None:
    """Those whose id is being opened included."""
    event = hold(bench.gate)
    bench.jobs._max_jobs = 6
    answers = await asyncio.gather(*(bench.send(a_deferred(max_async=9)) for _ in range(5)))
    assert sum(isinstance(answer, PageAnswer) for answer in answers) == 3
    refused = [answer.problem.status for answer in answers if isinstance(answer, Refused)]
    assert refused == [503, 503]
    event.set()


async def test_no_tenant_takes_the_places_of_all(bench: Bench) -> None:
    """Half of what the others leave: who floods one tenant refuses nothing of another's."""
    event = hold(bench.gate)
    bench.jobs._max_jobs = 8
    for tenant, share in (("acme", 4), ("globex", 2), ("initech", 1), ("hooli", 1)):
        for number in range(share + 1):
            answer = await bench.send(a_deferred(tenant=tenant, max_async=99))
            assert isinstance(answer, PageAnswer) is (number < share), tenant
    event.set()
    await bench.over()
    assert not bench.jobs._of


# -- results ----------------------------------------------------------------------------------------------------------


async def test_a_result_is_the_functions_answer(bench: Bench) -> None:
    """Status, fields and body; not what was said to the caller's connection, browser or origin."""
    bench.gate.answer_block = (
        b"X-Request-Id: r-1\r\nRateLimit: x\r\nSet-Cookie: __Host-portero=s3cret\r\n"
        b"Access-Control-Allow-Origin: https://a.example\r\nVary: Origin\r\n"
    )

    async def created(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"made", b"201 Created", b"X-Mine: 1\r\nSet-Cookie: a=b\r\nRetry-After: 9\r\nEmpty:\r\n")

    bench.upstream.script = created
    result = await bench.result(await bench.accept(a_deferred(ASYNC), b"x"))
    assert (result.status, result.body) == (201, b"made")
    assert result.fields == ((b"X-Mine", b"1"), (b"Empty", b""), (b"Vary", b"Origin"))
    assert bench.gate.finished == [(201, None)]


async def test_a_streamed_answer_is_kept_whole(bench: Bench) -> None:
    """Chunked, and longer than any buffer on the way."""

    async def streams(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            await peer.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        await peer.send(b"0\r\n\r\n")

    bench.upstream.script = streams
    result = await bench.result(await bench.accept(a_deferred(max_result_bytes=500_000)))
    assert result.body == b"x" * 500_000


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1001 + b"\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["declared", "chunked", "to the end", "at once", "fields"],
)
async def test_an_answer_too_large_is_not_kept(bench: Bench, head: bytes) -> None:
    """Nor read to its end; the result says so."""

    async def large(peer: Peer) -> None:
        await peer.request()
        await peer.send(head)
        while True:
            await peer.send(b"x" * 10_000)

    bench.upstream.script = large
    result = await bench.result(await bench.accept(a_deferred(max_result_bytes=1000)))
    assert result.status == 502
    assert json.loads(result.body)["reason"] == "upstream-garbled"
    assert bench.gate.finished == [(502, Reason.UPSTREAM_GARBLED)]
    assert bench.told["failed"] == 1


async def test_answers_under_way_are_bounded_in_bytes(bench: Bench) -> None:
    """Of a tenant and of all: what has no room is not kept."""
    for result_bytes, total in ((10, 1 << 20), (1 << 20, 10)):
        bench.jobs._answers.max_total = total

        async def answers(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"x" * 100)

        bench.upstream.script = answers
        result = await bench.result(await bench.accept(a_deferred(result_bytes=result_bytes)))
        assert result.status == 503


async def test_answers_under_way_of_one_tenant_leave_room_for_the_others(bench: Bench) -> None:
    """Functions that write slowly keep what they have written in memory; those of others are answered all the same."""
    bench.jobs._answers.max_total = 4000

    async def slowly(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 900)
        await peer.until_end()

    bench.upstream.script = slowly
    slow = [await bench.accept(a_deferred(max_async=99)) for _ in range(5)]
    await until(lambda: bench.told["failed"] == 3)
    assert bench.jobs._answers.held("acme") <= 2000
    bench.upstream.script = answer_ok
    other = await bench.accept(a_deferred(tenant="globex"))
    await until(lambda: bench.told["done"] == 1)
    found = await bench.results.read("globex", id_of(other))
    assert found is not None
    assert found[1] is not None
    assert found[1].status == 200
    for answer in slow:
        bench.jobs.forget("acme", id_of(answer))


async def test_a_refusal_becomes_the_result(bench: Bench) -> None:
    """Of the function that never woke, or of who may no longer when it has: with its reason."""

    async def too_late() -> Deny:
        return Deny(Reason.COLD_START_TIMEOUT, retry_after_s=3)

    bench.gate.hold = too_late
    result = await bench.result(await bench.accept(a_deferred()))
    assert result.status == 504
    assert json.loads(result.body)["reason"] == "cold-start-timeout"
    assert not {name.lower() for name, _ in result.fields} & {b"retry-after", b"x-request-id", b"set-cookie"}
    assert bench.told == {"accepted": 1, "failed": 1}


async def test_a_function_that_breaks_off_is_a_502(bench: Bench) -> None:
    """Half an answer is never completed by us."""

    async def breaks(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    bench.upstream.script = breaks
    result = await bench.result(await bench.accept(a_deferred()))
    assert result.status == 502
    assert b"half" not in result.body
    assert bench.gate.failures == 1


async def test_a_platform_without_a_replica_is_asked_again(bench: Bench) -> None:
    """What may be repeated is held once more and sent with its whole body; what may not is told what was said."""

    async def once(peer: Peer) -> None:
        while True:
            _, body = await peer.request()
            if bench.gate.held_again:
                await peer.answer(b"got " + body)
            else:
                await peer.answer(b"none", b"503 Unavailable")

    bench.upstream.script = once
    for fields, expected in (((), (503, b"none")), (((b"Idempotency-Key", b"k"),), (200, b"got again"))):
        bench.gate.not_reached = 1
        length = (b"Content-Length", b"5")
        result = await bench.result(await bench.accept(a_deferred(length, *fields), b"again"))
        assert (result.status, result.body) == expected
    bench.gate.held_again, bench.gate.not_reached, bench.gate.retries_left = 0, 1, 0
    result = await bench.result(await bench.accept(a_deferred(method="GET")))
    assert result.status == 503, "the budget of retries is used up"


async def test_a_function_that_was_not_reached_is_asked_again(bench: Bench) -> None:
    """Nothing of the head was written: any method; who may not wait once more is refused."""
    bench.gate.address = bench.gate.address._replace(port=1)
    bench.gate.hold_again_with = Deny(Reason.QUEUE_FULL)
    result = await bench.result(await bench.accept(a_deferred(), b"x"))
    assert result.status == 429
    assert (bench.gate.held_again, bench.gate.failures) == (1, 1)
    bench.gate.retries_left = 0
    assert (await bench.result(await bench.accept(a_deferred(), b"x"))).status == 502
    assert bench.gate.held_again == 1


async def test_nobody_waits_for_ever(bench: Bench) -> None:
    """A function that drips without end is left after an hour, which no client could do for it."""

    async def drips(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    bench.upstream.script = drips
    monkey = pytest.MonkeyPatch()
    monkey.setattr(jobs_module, "run_job", lambda *given: run_job(*given, max_run_s=0.1))
    try:
        result = await bench.result(await bench.accept(a_deferred()))
    finally:
        monkey.undo()
    assert result.status == 504


async def test_a_defect_is_a_500_and_tells_nothing(bench: Bench) -> None:
    """Of gate and data path alike; its text stays in the log (AP-R52)."""

    async def broken() -> None:
        raise RuntimeError("s3cret")

    bench.gate.hold = broken
    result = await bench.result(await bench.accept(a_deferred()))
    assert result.status == 500
    assert b"s3cret" not in result.body
    bench.gate.hold, bench.gate.answer_block = None, None  # type: ignore[assignment]  # the defect
    assert (await bench.result(await bench.accept(a_deferred()))).status == 500
    assert bench.gate.finished == [(500, Reason.INTERNAL_ERROR)]


# -- ending -----------------------------------------------------------------------------------------------------------


async def never(peer: Peer) -> None:
    """Takes a request and does not answer."""
    await peer.request()
    await peer.until_end()


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [(POLICY_VIOLATION, 403, "no-rule-allows"), (GOING_AWAY, 503, "draining")],
    ids=["may no longer", "process ends"],
)
async def test_what_runs_is_cut_as_any_exchange(bench: Bench, code: int, status: int, reason: str) -> None:
    """A logout, a policy or the end of the process reaches it; the result says so, the function is left."""
    bench.upstream.script = never
    answer = await bench.accept(a_deferred())
    await until(lambda: bench.upstream.heads)
    assert bench.gate.live.cut_all(code) == 1
    result = await bench.result(answer)
    assert (result.status, json.loads(result.body)["reason"]) == (status, reason)
    await until(bench.upstream.peers[0].saw_end.is_set)


async def test_nothing_is_promised_once_the_process_has_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that comes too late, of a store that was slow: refused, because nobody waits any more for what runs."""
    opened, may_open = bench.results.open, asyncio.Event()

    async def slow(*args: Any) -> Any:
        await may_open.wait()
        return await opened(*args)

    monkeypatch.setattr(bench.results, "open", slow)
    accepting = asyncio.create_task(bench.send(a_deferred()))
    await asyncio.sleep(0)
    await bench.jobs.stop(0)
    may_open.set()
    answer = await accepting
    assert isinstance(answer, Refused)
    assert answer.problem.reason is Reason.DRAINING
    assert not bench.gate.passed
    await until(lambda: not bench.jobs._tasks)
    assert not bench.results.sizes().pending


@pytest.mark.parametrize("where", ["held", "running", "body"])
async def test_a_deleted_result_stops_its_job(bench: Bench, where: str) -> None:
    """Wherever it is; nobody keeps an answer that nobody wants."""
    if where == "held":
        hold(bench.gate)
    bench.upstream.script = never
    answer = await bench.accept(a_deferred(HOOK, callback_hosts=HOSTS), *([b"x"] if where == "body" else []))
    await until(lambda: bench.upstream.heads or where == "held")
    assert await bench.results.delete("acme", id_of(answer))
    bench.jobs.forget("globex", id_of(answer))
    bench.jobs.forget("acme", "unknown")
    await asyncio.sleep(0)
    assert len(bench.jobs) == 1
    bench.jobs.forget("acme", id_of(answer))
    await bench.over()
    assert bench.told == {"accepted": 1, "deleted": 1}
    assert not bench.sent
    assert await bench.results.read("acme", id_of(answer)) is None


async def test_a_deletion_elsewhere_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the next renewal; without any a pending result would be gone, too."""
    monkeypatch.setattr(jobs_module, "RENEW_S", 0.02)
    hold(bench.gate)
    kept, deleted = await bench.accept(a_deferred()), await bench.accept(a_deferred())
    await bench.results.delete("acme", id_of(deleted))
    await until(lambda: len(bench.jobs) == 1)
    assert await bench.results.renew("acme", id_of(kept))


async def test_pending_results_are_renewed_while_the_store_falters(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away for a moment loses no job; a defect of one renewal keeps no other from being made."""
    monkeypatch.setattr(jobs_module, "RENEW_S", 0.01)
    event, renewed, failures = hold(bench.gate), bench.results.renew, [StoreUnavailable(), RuntimeError("defect")]
    count = 0

    async def renew(tenant: str, result_id: str) -> bool:
        nonlocal count
        count += 1
        if failures:
            raise failures.pop()
        return await renewed(tenant, result_id)

    monkeypatch.setattr(bench.results, "renew", renew)
    answer = await bench.accept(a_deferred())
    await until(lambda: count > 4)
    event.set()
    assert (await bench.result(answer)).status == 200


async def test_a_result_is_kept_when_the_store_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function has run; that is not thrown away for a moment's outage."""
    monkeypatch.setattr(jobs_module, "STORE_PAUSES_S", (0.01, 0.01, 0.01))
    finish, failures = bench.results.finish, [StoreUnavailable(), StoreUnavailable()]

    async def faltering(tenant: str, result_id: str, result: Result) -> bool:
        if failures:
            raise failures.pop()
        return await finish(tenant, result_id, result)

    monkeypatch.setattr(bench.results, "finish", faltering)
    assert (await bench.result(await bench.accept(a_deferred()))).status == 200
    failures += [StoreUnavailable()] * 4
    await bench.accept(a_deferred(HOOK, callback_hosts=HOSTS))
    await bench.over()
    assert bench.told == {"accepted": 2, "done": 1, "lost": 1}
    assert len(bench.sent) == 1, "it is delivered all the same"


async def test_a_store_that_cannot_be_asked_accepts_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """503, before the body is read."""

    async def away(*_given: object) -> str:
        raise StoreUnavailable

    monkeypatch.setattr(bench.results, "open", away)
    assert (await bench.refused(a_deferred(), b"x")).reason is Reason.OVERLOADED


@pytest.mark.parametrize("where", ["held", "running"])
async def test_at_the_drain_deadline_results_say_draining(bench: Bench, where: str) -> None:
    """Those who are done by then are kept as they are; nothing new is accepted meanwhile."""
    if where == "held":
        hold(bench.gate)
    bench.upstream.script = never
    answer = await bench.accept(a_deferred())
    await until(lambda: bench.upstream.heads or where == "held")
    stopping = asyncio.create_task(bench.jobs.stop(0.1))
    await asyncio.sleep(0)
    refused = await bench.send(a_deferred())
    assert isinstance(refused, Refused)
    assert refused.problem.reason is Reason.DRAINING
    await stopping
    result = await bench.result(answer)
    assert (result.status, json.loads(result.body)["reason"]) == (503, "draining")


async def test_what_ends_in_time_is_not_cut(bench: Bench) -> None:
    """The drain deadline is a bound, not a pause."""
    event = hold(bench.gate)
    answer = await bench.accept(a_deferred())
    asyncio.get_running_loop().call_later(0.05, event.set)
    await bench.jobs.stop(5)
    assert (await bench.result(answer)).status == 200


async def test_a_stop_right_behind_a_202_loses_nothing(bench: Bench) -> None:
    """A job that has not made its first step ends as any other."""
    answer = await bench.accept(a_deferred(), b"x")
    await bench.jobs.stop(0)
    assert (await bench.result(answer)).status == 503
    assert not bench.gate.passed


async def test_a_store_that_hangs_does_not_keep_the_process(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be kept in time is lost, and told so."""
    monkeypatch.setattr(jobs_module, "END_S", 0.05)

    async def hangs(*_given: object) -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(bench.results, "finish", hangs)
    await bench.accept(a_deferred())
    await bench.jobs.stop(0.05)
    assert bench.told == {"accepted": 1, "lost": 1}


# -- callbacks --------------------------------------------------------------------------------------------------------


async def test_a_result_is_delivered_where_its_caller_asked(bench: Bench) -> None:
    """With OpenFaaS' field names, once, and kept to be fetched besides."""

    async def answers(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"made", b"201 Created", b"Content-Type: image/png\r\nAuthorization: s3cret\r\n")

    bench.upstream.script = answers
    answer = await bench.accept(a_deferred(HOOK, callback_hosts=HOSTS), b"x")
    assert (await bench.result(answer)).body == b"made"
    (callback,) = bench.sent
    assert callback.target.url == "https://hooks.example/x?token=secret"
    fields = dict(callback.fields)
    assert (fields["X-Call-Id"], fields["X-Function-Name"], fields["X-Function-Status"]) == (id_of(answer), "f", "201")
    assert 0 <= float(fields["X-Duration-Seconds"]) < 5
    assert (fields["Content-Type"], callback.body) == ("image/png", b"made")
    assert "s3cret" not in str(callback.fields)
    head = bench.upstream.heads[0].lower()
    assert b"callback" not in head, "the function does not learn where"


async def test_a_refusal_is_delivered_as_well(bench: Bench) -> None:
    """Whoever waits for a callback would wait for ever."""
    bench.gate.address = bench.gate.address._replace(port=1)
    bench.gate.retries_left = 0
    await bench.accept(a_deferred(HOOK, callback_hosts=HOSTS))
    await bench.over()
    (callback,) = bench.sent
    assert dict(callback.fields)["X-Function-Status"] == "502"
    assert json.loads(callback.body)["reason"] == "upstream-unreachable"


# -- small things -----------------------------------------------------------------------------------------------------


def test_a_call_id_is_said_once() -> None:
    """Whatever the caller sends of that name, and however it is spelled."""
    block = b"POST /x-call-id:1 HTTP/1.1\r\nX-Call-Id: a\r\nHost: f\r\nx_CALL-id:b\r\nY-X-Call-Id: c\r\n"
    assert with_call_id(block, "id") == b"POST /x-call-id:1 HTTP/1.1\r\nHost: f\r\nY-X-Call-Id: c\r\nX-Call-Id: id\r\n"


def test_an_hour_is_the_longest() -> None:
    """Longer than any function platform lets one run."""
    assert job_module.MAX_RUN_S == 3600
