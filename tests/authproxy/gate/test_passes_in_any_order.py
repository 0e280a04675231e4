"""
Passes on a real gate, in any order of all that can happen to them: what was taken is given back once, told of once.

A place in flight, a ``concurrent`` limit and an entry among the living belong to each request that may leave, from its
judgement to its end, whoever ends it: its pass's time, a cut, a logout, who fetches it, or the end of the process.

Longer than other modules: one machine, with all that may happen to a pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from authproxy.edges.internal import InternalJudge
from authproxy.gate.passes import Passable, Passes, target_of
from authproxy.gate.verdict import Deferred, PageAnswer, PageCall, Passed, Refused, Undecided
from policies.decision import Deny, Reason
from policies.request import Head
from tests.fakes.internal import Door, running_door

TTL_S = 10.0
KINDS = (
    ("GET", b"/function/survey-web", ()),  # has ``concurrency``
    ("GET", b"/function/parallel", ()),  # has a ``concurrent`` limit
    ("GET", b"/function/sleeper", ()),  # is not awake
    ("GET", b"/.portero/whoami", ()),
    ("POST", b"/function/survey-submit", ((b"Prefer", b"respond-async"), (b"Content-Length", b"5"))),
)
AWAKE = ("survey-web", "parallel")
CHANGES = (
    ("survey-web: {access: public}", "survey-web: {access: public, concurrency: 3}\n  parallel: {access: public}"),
    ("  files:", "  sleeper: {access: public}\n  files:"),
    ("max_body: 1KiB}", "max_body: 1KiB, async: {allow: true}}"),
    ("  - {id: once,", "  - {id: par, per: tenant, concurrent: 3, functions: [parallel]}\n  - {id: once,"),
)


class Machine:
    """One Portero, and what a test believes of it."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._seen = len(door.audit())
        self.now = 1000.0
        self._passes = Passes(door.gate, ttl_s=TTL_S, max_waiting=8, clock=lambda: self.now)
        self._judge = InternalJudge(door.gate, self._passes)
        self._judged: list[str] = []
        self._unissued: list[Passable] = []
        self._waiting: dict[str, Passable] = {}
        self._until: dict[str, float] = {}
        self._used: list[tuple[str, Passable]] = []
        """Passes that are of no use any more, with what waited there."""
        self._fetched: list[Passable] = []
        self._ended: set[str] = set()
        """Passes whose request was ended before it was fetched."""
        self._is_revoked = False

    # -- what can happen ---------------------------------------------------------------------------------------------

    def judge(self, which: int) -> None:
        method, target, fields = KINDS[which % len(KINDS)]
        head = Head(method, target, ((b"Host", b"acme.test"), *fields), (1, 1), "198.51.100.7", "http")
        verdict = self._door.gate.decide_now(head)
        if isinstance(verdict, Passed | Undecided | PageCall | Deferred):
            self._judged.append(verdict.case.request_id)
            self._unissued.append(verdict)
        else:
            assert isinstance(verdict, Refused)
            assert verdict.problem.reason is Reason.CONCURRENCY_LIMITED
            self._judged.append(verdict.request_id)

    def issue(self, which: int) -> None:
        if (verdict := _take(self._unissued, which)) is None:
            return
        token = self._passes.issue(verdict)
        if token is None:
            self._passes.refuse(verdict, Deny(Reason.OVERLOADED))
        else:
            self._waiting[token] = verdict
            self._until[token] = self.now + TTL_S

    def cut_before_its_pass(self, which: int) -> None:
        if self._unissued and isinstance(verdict := self._unissued[which % len(self._unissued)], Passed):
            verdict.cut(1008)

    def cut(self, which: int) -> None:
        if (token := self._any_waiting(which)) and isinstance(verdict := self._waiting[token], Passed):
            was_cut = verdict.is_cut
            verdict.cut(1008)
            if not was_cut:
                self._ended.add(token)

    def cut_what_was_fetched(self, which: int) -> None:
        if self._fetched and isinstance(verdict := self._fetched[which % len(self._fetched)], Passed):
            verdict.cut(1001)

    def fetch(self, which: int) -> None:
        if not (token := self._any_waiting(which)):
            return
        verdict = self._waiting.pop(token)
        self._used.append((token, verdict))
        got = self._bring(token, verdict, b"acme.test")
        if isinstance(got, Refused):
            self._answered(got)
        else:
            if got is not verdict:  # its function was full when it was judged, and is not any more
                assert isinstance(verdict, Undecided)
                assert isinstance(got, Passed)
                assert got.case is verdict.case
            assert self.now < self._until[token]
            if isinstance(got, Passed):
                assert not got.is_cut
                assert not self._is_revoked
            self._fetched.append(got)

    def fetch_for_another(self, which: int) -> None:
        if not (token := self._any_waiting(which)):
            return
        verdict = self._waiting.pop(token)
        self._used.append((token, verdict))
        self._answered(self._bring(token, verdict, b"other.test"))

    def fetch_again(self, which: int) -> None:
        if self._used:
            self._answered(self._bring(*self._used[which % len(self._used)], b"acme.test"))

    def take_back(self, which: int) -> None:
        if token := self._any_waiting(which):
            self._used.append((token, self._waiting.pop(token)))
            self._passes.take_back(token)

    def take_back_what_is_used(self, which: int) -> None:
        if self._used:
            self._passes.take_back(self._used[which % len(self._used)][0])

    def time(self, which: int) -> None:
        self.now += (0.5, 3.0, TTL_S, 25.0)[which % 4]
        if which % 2:
            self._passes.sweep()

    def log_out(self, _which: int) -> None:
        self._is_revoked = not self._is_revoked

    def swap(self, _which: int) -> None:
        self._door.world.app.parts.live.recheck_all()

    def end(self, which: int) -> None:
        if (verdict := _take(self._fetched, which)) is None:
            return
        gate = self._door.gate
        if isinstance(verdict, Passed):
            gate.finish(verdict, status=200)
        elif isinstance(verdict, Undecided):
            gate.abandon(verdict)
        elif isinstance(verdict, PageCall):
            gate.page_answered(verdict, PageAnswer(200, ()))
        else:
            gate.deferred_refused(verdict, Deny(Reason.OVERLOADED))

    async def close(self, _which: int) -> None:
        await self._passes.close()

    # -- what is to be so --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Nothing is held but by what has not ended."""
        unfetched = [verdict for token, verdict in self._waiting.items() if self._is_still_waiting(token)]
        holding = [one for one in (*self._unissued, *unfetched, *self._fetched) if isinstance(one, Passed)]
        parts = self._door.world.app.parts
        taken = Counter(one.allow.place.function for one in holding)
        rooms = {key[2]: driver.room.in_flight for key, driver in parts.activator._drivers.items()}
        assert {name: count for name, count in rooms.items() if count} == taken
        assert sum(parts.gate._concurrency._counts.values()) == taken["parallel"]
        assert set(parts.live) == set(holding)
        assert len(self._passes) <= len(self._waiting)
        assert sum(self._passes._of.values()) == len(self._passes)
        assert bool(self._passes._bytes) == bool(self._passes._bytes_of) == bool(len(self._passes))

    async def finish(self) -> None:
        """All of it ends; each request was told of once."""
        self._is_revoked = False
        while self._unissued:
            self._passes.refuse(self._unissued.pop(), Deny(Reason.INTERNAL_ERROR))
        while self._fetched:
            self.end(0)
        await self._passes.close()
        self._waiting.clear()
        self._passes.sweep()
        self.now += 2 * TTL_S
        self._passes.sweep()
        assert len(self._passes) == 0
        self.check()
        lines = self._door.audit()[self._seen :].splitlines()
        told = Counter(json.loads(line)["request_id"] for line in lines)
        assert told == Counter(self._judged)

    async def abandon(self) -> None:
        """Where it failed the next example, perhaps the same once more, begins with nothing held all the same."""
        await self._passes.close()
        for verdict in tuple(self._door.world.app.parts.live):
            assert isinstance(verdict, Passed)
            self._door.gate.finish(verdict, status=200)

    @contextlib.contextmanager
    def revocations(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """``log_out`` ends the logins of all callers, or gives them back."""
        with patch.context() as patched:
            identifier = self._door.world.app.parts.identifier
            patched.setattr(identifier, "is_revoked", lambda _tenant, _principal: self._is_revoked)
            yield

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _any_waiting(self, which: int) -> str | None:
        return list(self._waiting)[which % len(self._waiting)] if self._waiting else None

    def _is_still_waiting(self, token: str) -> bool:
        """Whether it holds what it was given: it has neither been swept nor ended early."""
        verdict = self._waiting[token]
        return token not in self._ended and any(one.verdict is verdict for one in self._passes._waiting.values())

    def _bring(self, token: str, verdict: Passable, host: bytes) -> Any:
        request = verdict.request
        framing = ((b"Content-Length", b"5"),) if request.method == "POST" else ()
        fields = ((b"Host", host), (b"X-Portero-Pass", token.encode()), *framing)
        return self._judge.decide_now(Head(request.method, target_of(request), fields, (1, 1), "127.0.0.1", "http"))

    def _answered(self, refused: Any) -> None:
        """A request that brought a pass is one of its own, unless it is the one that was judged."""
        assert isinstance(refused, Refused)
        if refused.request_id not in self._judged:
            self._judged.append(refused.request_id)


def _take(found: list[Passable], which: int) -> Passable | None:
    return found.pop(which % len(found)) if found else None


STEPS: tuple[Callable[[Machine, int], Awaitable[None] | None], ...] = (
    *[Machine.judge] * 4,
    *[Machine.issue] * 4,
    *[Machine.fetch] * 2,
    *[Machine.end] * 2,
    Machine.fetch_again,
    Machine.fetch_for_another,
    Machine.cut,
    Machine.cut_before_its_pass,
    Machine.cut_what_was_fetched,
    Machine.take_back,
    Machine.take_back_what_is_used,
    Machine.time,
    Machine.log_out,
    Machine.swap,
)
LAST: Callable[[Machine, int], Awaitable[None] | None] = Machine.close


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def door(runner: asyncio.Runner) -> Iterator[Door]:
    """Its functions but one are awake."""
    stack = contextlib.AsyncExitStack()

    async def start() -> Door:
        door = await stack.enter_async_context(running_door())
        file = door.world.policies / "acme.yaml"
        text = file.read_text()
        for old, new in CHANGES:
            assert old in text
            text = text.replace(old, new, 1)
        file.write_text(text)
        assert await door.world.app.parts.folder.reload(), door.world.app.parts.folder.status.mistakes
        door.world.stop_readiness()
        for name in AWAKE:
            door.world.faas.add(name, "acme", replicas=1)
            assert (await door.world.get(f"/function/{name}")).status == 200
        return door

    try:
        yield runner.run(start())
    finally:
        runner.run(stack.aclose())


@settings(
    max_examples=100,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink one takes longer than a test may
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 11)), min_size=40, max_size=80),
    closes=st.booleans(),
)
def test_what_was_taken_is_given_back_once(
    runner: asyncio.Runner,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[Callable[[Machine, int], Awaitable[None] | None], int]],
    closes: bool,
) -> None:
    """After each step nothing is held but by what has not ended; at the end each request has one line in the audit."""

    async def play() -> None:
        machine = Machine(door)
        try:
            with machine.revocations(monkeypatch):
                for step, which in [*steps, *([(LAST, 0), *steps[:10]] if closes else [])]:
                    done = step(machine, which)
                    if done is not None:
                        await done
                    machine.check()
                await machine.finish()
        finally:
            await machine.abandon()

    runner.run(play())
