"""
Passes: each opens what waits under it once, for one request, in time; and what waits ends exactly once.

Longer than other modules: each way in which a pass can end has its own rule.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from authproxy.gate.live import GOING_AWAY, POLICY_VIOLATION, LiveRegistry
from authproxy.gate.passes import Passes, target_of
from authproxy.gate.verdict import Case, Deferred, PageCall, Passed, Refused, Undecided
from authproxy.upstream.departure import Address, Destination
from policies.decision import Allow, Deny, Page, Reason, Refusal
from policies.pipeline import Identify, Ready
from policies.principal import Principal
from policies.problem import problem
from policies.request import AccessRequest, Head
from policies.tables import Place
from tests.fakes.steady_loop import SteadyLoop
from tests.fakes.tenancy import a_function, a_request, a_tenant

LOOP = SteadyLoop
"""Of the one test in which a pass ends by itself, in time."""
KINDS = ("undecided", "passed", "page", "deferred")


@dataclass
class EndsGate:
    """Records how each judged request ended: (request id, reason)."""

    ends: list[tuple[str, Reason | None]] = field(default_factory=list)
    live: LiveRegistry = field(default_factory=LiveRegistry)
    is_gone: bool = False
    """The login behind every request has ended; ``breaks``: asking raises."""
    breaks: bool = False

    def fail(self, passed: Passed, refusal: Refusal) -> Refused:
        return Refused(problem(refusal, passed.request_id), passed.request_id)

    def finish(self, passed: Passed, *, status: int, bytes_in: int, bytes_out: int, failure: Reason | None) -> None:
        assert (bytes_in, bytes_out) == (0, 0)
        assert failure is not Reason.CLIENT_GONE or status == 499
        self.live.discard(passed)
        self.ends.append((passed.request_id, failure))

    def page_refused(self, call: PageCall, refusal: Refusal) -> Refused:
        return self._ended(call.case, refusal)

    def deferred_refused(self, deferred: Deferred, refusal: Refusal) -> Refused:
        assert deferred.allow.place.tenant.name
        return self._ended(deferred.case, refusal)

    def refuse_undecided(self, undecided: Undecided, refusal: Refusal) -> Refused:
        return self._ended(undecided.case, refusal)

    def _ended(self, case: Case, refusal: Refusal) -> Refused:
        self.ends.append((case.request_id, refusal.reason))
        return Refused(problem(refusal, case.request_id), case.request_id)

    def is_revoked(self, *_arguments: object) -> bool:
        if self.breaks:
            raise ValueError("no")
        return self.is_gone

    def judge_again_now(self, *_arguments: object) -> float | None:
        return None

    async def judge_again(self, *_arguments: object) -> float:
        return 0.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Passes over a recording gate and a clock that a test moves."""

    def __init__(self, **options: Any) -> None:
        self.gate = EndsGate()
        self.clock = Clock()
        self.passes = Passes(self.gate, clock=self.clock, **options)
        self.count = 0

    def verdict(self, kind: str, *, tenant: str = "acme", target: bytes = b"/reports/es?a=b", **head: Any) -> Any:
        self.count += 1
        request = a_request(target, *head.pop("fields", ()), **head)
        nothing: Any = None
        case = Case(Head("", b"", (), (1, 1), "", "http"), request, nothing, f"r-{self.count}", 0.0)
        place = Place(a_tenant(tenant), "report", a_function("report"), None, (), has_trailing_slash=False, path="/")
        principal = Principal("login", "ana")
        allow = Allow(place, principal, None)
        if kind == "undecided":
            return Undecided(case, request, nothing, Ready(place, principal, request))
        if kind == "page":
            return PageCall(case, Page(place.tenant, "whoami"))
        if kind == "deferred":
            return Deferred(case, allow, None)
        gate: Any = self.gate
        destination = Destination(Address("127.0.0.1", 1), b"/", b"function")
        passed = Passed(case, request, allow, destination, b"", b"", None, gate)
        self.gate.live.enter(passed)
        return passed

    def issue(self, verdict: Any) -> bytes:
        token = self.passes.issue(verdict)
        assert token is not None
        return token.encode("ascii")

    def redeem(self, token: bytes, verdict: Any, **changes: Any) -> Any:
        return self.passes.redeem(token, head_of(verdict.request, **changes))


def head_of(request: AccessRequest, **changes: Any) -> Head:
    """As it arrives."""
    values: dict[str, Any] = {
        "method": request.method,
        "target": target_of(request),
        "fields": ((b"Host", request.authority.encode()), (b"X-Other", b"1")),
    }
    return Head(**{**values, "version": (1, 1), "peer": "127.0.0.1", "scheme": "http", **changes})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.passes.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pass_opens_what_waits_under_it_once(bench: Bench, kind: str) -> None:
    """The very object that was judged; the second time nothing."""
    verdict = bench.verdict(kind)
    token = bench.issue(verdict)
    assert len(bench.passes) == 1
    assert bench.redeem(token, verdict) is verdict
    assert bench.redeem(token, verdict) is None
    assert not bench.gate.ends
    assert not len(bench.passes)


@pytest.mark.parametrize("part", ["tenant", "function", "subject"])
async def test_a_pass_is_bound_to_who_and_what_was_judged(bench: Bench, part: str) -> None:
    """Even where two requests say the same and the book has mixed them up: another's pass opens nothing."""
    mine = bench.verdict("passed")
    principal = Principal("login", "eve") if part == "subject" else mine.allow.principal
    place = mine.allow.place
    if part == "tenant":
        place = replace(place, tenant=a_tenant("globex"))
    elif part == "function":
        place = replace(place, function="other")
    theirs = bench.verdict("passed")
    theirs.allow = Allow(place, principal, None)
    tokens = bench.issue(mine), bench.issue(theirs)
    book = bench.passes._waiting
    first, second = book
    book[first], book[second] = book[second], book[first]
    assert [bench.redeem(token, mine) for token in tokens] == [None, None]
    assert sorted(bench.gate.ends) == [("r-1", Reason.PASS_INVALID), ("r-2", Reason.PASS_INVALID)]


@pytest.mark.parametrize("at", ["method", "host"])
async def test_what_a_pass_is_bound_to_is_told_apart(bench: Bench, at: str) -> None:
    """The same bytes with another end of the method, or of the host, are another request."""
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    method, host, target = "GET", verdict.request.authority, target_of(verdict.request)
    if at == "method":
        method, host = "GE", f"T{host}"
    else:
        host, target = host[:-1], host[-1:].encode() + target
    changes: dict[str, Any] = {"method": method, "target": target, "fields": ((b"host", host.encode()),)}
    assert bench.redeem(token, verdict, **changes) is None


async def test_a_pass_is_72_characters_that_any_field_may_hold(bench: Bench) -> None:
    """base64url, without padding and without bits to spare; no two are alike."""
    tokens = {bench.issue(bench.verdict("page")) for _ in range(200)}
    assert len(tokens) == 200
    assert {len(token) for token in tokens} == {72}
    assert all(token.replace(b"-", b"").replace(b"_", b"").isalnum() for token in tokens)


async def test_a_pass_has_one_spelling(bench: Bench) -> None:
    """The other alphabet of base64 says the same bytes, and is no pass."""
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    while not {45, 95} & set(token):
        verdict = bench.verdict("passed")
        token = bench.issue(verdict)
    assert bench.redeem(token.translate(bytes.maketrans(b"-_", b"+/")), verdict) is None
    assert bench.redeem(token, verdict) is verdict


async def test_the_request_is_sent_with_its_canonical_path_and_its_own_query(bench: Bench) -> None:
    verdict = bench.verdict("passed", target=b"/a%2db/%c3%a9?x=%2D&y", host=b"ACME.localhost:8080")
    assert target_of(verdict.request) == b"/a-b/%C3%A9?x=%2D&y"
    assert verdict.request.authority == "acme.localhost:8080"
    assert bench.redeem(bench.issue(verdict), verdict) is verdict


async def test_an_empty_query_is_a_query(bench: Bench) -> None:
    verdict = bench.verdict("page", target=b"/x?")
    assert target_of(verdict.request) == b"/x?"
    assert bench.redeem(bench.issue(verdict), verdict, target=b"/x") is None


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_fetched_in_time_has_left(bench: Bench, kind: str) -> None:
    """To the gate it is a client that has gone; the pass is worth nothing from then on, swept or not."""
    first, second = bench.verdict(kind), bench.verdict(kind)
    token, _ = bench.issue(first), bench.issue(second)
    bench.clock.now += 10.0
    assert bench.redeem(token, first) is None
    assert bench.gate.ends == [("r-1", Reason.CLIENT_GONE)]
    bench.passes.sweep()
    bench.passes.sweep()
    assert bench.gate.ends == [("r-1", Reason.CLIENT_GONE), ("r-2", Reason.CLIENT_GONE)]
    assert not len(bench.passes)
    assert not len(bench.gate.live)


async def test_a_sweep_ends_nothing_early(bench: Bench) -> None:
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    bench.clock.now += 9.9
    bench.passes.sweep()
    assert bench.redeem(token, verdict) is verdict


async def test_a_timer_runs_only_while_something_waits() -> None:
    """What nobody fetches ends by itself, in its time."""
    gate = EndsGate()
    passes = Passes(gate, ttl_s=0.05, clock=asyncio.get_running_loop().time)
    bench = Bench()
    assert passes._timer is None
    verdict = bench.verdict("page")
    token = passes.issue(verdict)
    assert token is not None
    assert passes._timer is not None
    assert passes.redeem(token.encode(), head_of(verdict.request)) is verdict
    assert passes._timer is None
    for kind in KINDS:
        assert passes.issue(bench.verdict(kind)) is not None
        await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while len(passes):  # noqa: ASYNC110  # the timer tells nobody
            await asyncio.sleep(0.01)
    assert gate.ends == [(f"r-{number}", Reason.CLIENT_GONE) for number in (2, 3, 4, 5)]
    assert passes._timer is None


async def test_what_waits_is_bounded() -> None:
    """Beyond it there is no pass; a tenant that has many leaves half of the rest to the others."""
    bench = Bench(max_waiting=8)
    mine = [bench.passes.issue(bench.verdict("page", tenant="acme")) for _ in range(6)]
    others = [bench.passes.issue(bench.verdict("page", tenant="globex")) for _ in range(6)]
    late = bench.passes.issue(bench.verdict("page", tenant="initech"))
    assert [token is not None for token in mine] == [True] * 4 + [False] * 2
    assert [token is not None for token in others] == [True] * 2 + [False] * 4
    assert late is not None
    bench.clock.now += 10
    bench.passes.sweep()
    assert (len(bench.passes), bench.passes._bytes) == (0, 0)
    assert not bench.passes._of
    assert not bench.passes._bytes_of
    assert bench.passes.issue(bench.verdict("page")) is not None
    await bench.passes.close()


async def test_the_heads_that_wait_are_bounded() -> None:
    """Whoever sends heads of 30 KiB fills nobody's memory."""
    bench = Bench(max_bytes=1024 * 1024)
    large = ((b"X-Large", b"x" * 30_000),)
    assert len([1 for _ in range(100) if bench.passes.issue(bench.verdict("page", fields=large))]) == 5
    assert bench.passes.issue(bench.verdict("page", tenant="globex", fields=large)) is not None
    await bench.passes.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_got_no_pass_is_refused(bench: Bench, kind: str) -> None:
    """Once, with the reason given; what to write comes back."""
    verdict = bench.verdict(kind)
    refused = bench.passes.refuse(verdict, Deny(Reason.OVERLOADED, retry_after_s=1))
    assert refused.problem.status == 503
    assert bench.gate.ends == [("r-1", Reason.OVERLOADED)]
    assert not len(bench.gate.live)


async def test_who_was_not_identified_yet_can_be_refused(bench: Bench) -> None:
    """An undecided request whose caller is still asked about."""
    verdict = bench.verdict("undecided")
    verdict.need = Identify(verdict.need.place, verdict.request)
    token = bench.issue(verdict)
    assert bench.redeem(token, verdict) is verdict
    assert bench.passes.refuse(verdict, Deny(Reason.BODY_TOO_LARGE)).problem.status == 413


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_not_sent_after_all_ends_at_once(bench: Bench, kind: str) -> None:
    """And only once, whatever is taken back."""
    token = bench.issue(bench.verdict(kind)).decode()
    for value in (token, token, "", "\ud800", "x" * 72):
        bench.passes.take_back(value)
    assert bench.gate.ends == [("r-1", Reason.CLIENT_GONE)]


# -- what happens meanwhile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "is_gone", "reason", "status"),
    [
        (POLICY_VIOLATION, False, Reason.POLICY_UNAVAILABLE, 503),
        (POLICY_VIOLATION, True, Reason.CREDENTIAL_INVALID, 401),
        (GOING_AWAY, False, Reason.DRAINING, 503),
    ],
    ids=["policy", "logout", "process"],
)
async def test_what_is_cut_while_it_waits_ends_at_once(
    bench: Bench, code: int, is_gone: bool, reason: Reason, status: int
) -> None:
    """Its place is free from that moment; its request is told why when it comes, and nothing else ends it again."""
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    bench.gate.is_gone = is_gone
    verdict.cut(code)
    assert bench.gate.ends == [("r-1", reason)]
    assert not len(bench.gate.live)
    refused = bench.redeem(token, verdict)
    assert isinstance(refused, Refused)
    assert (refused.problem.status, refused.request_id) == (status, "r-1")
    assert bench.redeem(token, verdict) is None
    assert len(bench.gate.ends) == 1


async def test_why_it_was_cut_is_told_to_its_own_request_only(bench: Bench) -> None:
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    verdict.cut(POLICY_VIOLATION)
    assert bench.redeem(token, verdict, target=b"/other") is None
    assert len(bench.gate.ends) == 1


@pytest.mark.parametrize("breaks", [False, True], ids=["revoked", "unknowable"])
async def test_who_was_logged_out_meanwhile_gets_nothing(bench: Bench, breaks: bool) -> None:
    """Asked when the pass is shown; what cannot be known is a refusal."""
    verdict = bench.verdict("passed")
    token = bench.issue(verdict)
    bench.gate.is_gone, bench.gate.breaks = True, breaks
    refused = bench.redeem(token, verdict)
    assert isinstance(refused, Refused)
    assert refused.problem.status == 401
    assert bench.gate.ends == [("r-1", Reason.CREDENTIAL_INVALID)]


async def test_what_was_cut_before_it_got_a_pass_gets_nothing(bench: Bench) -> None:
    verdict = bench.verdict("passed")
    verdict.cut(POLICY_VIOLATION)
    assert isinstance(bench.redeem(bench.issue(verdict), verdict), Refused)
    assert bench.gate.ends == [("r-1", Reason.POLICY_UNAVAILABLE)]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_waits_at_the_end_of_the_process_is_refused(bench: Bench, kind: str) -> None:
    """Once, at the close; who still comes for it is told, and no pass is given any more."""
    verdict = bench.verdict(kind)
    token = bench.issue(verdict)
    await bench.passes.close()
    await bench.passes.close()
    assert bench.gate.ends == [("r-1", Reason.DRAINING)]
    assert bench.passes._timer is None
    refused = bench.redeem(token, verdict)
    assert isinstance(refused, Refused)
    assert refused.problem.reason is Reason.DRAINING
    assert bench.passes.issue(bench.verdict(kind)) is None


async def test_an_end_that_fails_keeps_no_other_from_ending(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a sweep, a cut and the close alike; what failed is not handed out either."""
    verdicts = [bench.verdict(kind) for kind in ("page", "passed", "deferred")]
    tokens = [(bench.issue(verdict), verdict) for verdict in verdicts]
    monkeypatch.setattr(bench.gate, "page_refused", None)
    monkeypatch.setattr(bench.gate, "finish", None)
    tokens[1][1].cut(POLICY_VIOLATION)
    assert bench.redeem(tokens[1][0], tokens[1][1]) is None
    await bench.passes.close()
    assert bench.gate.ends == [("r-3", Reason.DRAINING)]
    assert bench.redeem(tokens[0][0], tokens[0][1]) is None


class Kept:
    """What a test waits to see the end of."""


async def test_nothing_is_kept_of_what_was_fetched(bench: Bench) -> None:
    """No cycle holds it either, which would fill the memory until the collector comes."""
    verdict = bench.verdict("passed")
    verdict.case.policies = Kept()
    known = weakref.ref(verdict.case.policies)
    gc.collect()
    gc.disable()
    try:
        token = bench.issue(verdict)
        bench.gate.live.discard(verdict)
        assert bench.redeem(token, verdict) is verdict
        assert verdict.on_cut is None
        del verdict
        assert known() is None
    finally:
        gc.enable()


async def test_a_pass_says_nothing_of_itself(bench: Bench) -> None:
    """Neither the key nor a pass stands in what may come into a log."""
    token = bench.issue(bench.verdict("passed"))
    shown = repr(bench.passes) + repr(list(bench.passes._waiting.values()))
    assert token.decode() not in shown
    assert bench.passes._key.hex() not in shown
